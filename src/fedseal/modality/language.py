"""Transformers models as fedseal takes models: one tensor in, what the loss takes out."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fedseal.errors import BadConfig, UnfitBatch, UnfitModel

Task = Literal["sequence", "token", "masked", "causal"]
IGNORED = -100  # the label of a position without a loss, as torch's cross-entropy knows it


class LanguageModel(nn.Module):
    """A transformers model for one task, with mean cross-entropy as its loss.

    It takes token ids `(N, L)`, or embeddings `(N, L, d)` in their place; padding is the padding token, or an embedding
    of zeros. It gives logits `(N, C)` for "sequence" (classes of sentences), `(N, C, L)` for "token" (classes of
    tokens) and "masked" (the vocabulary), `(N, V, L - 1)` for "causal" (the next token of every position but the last).

    Args:
        net: what transformers built, such as `BertForSequenceClassification`.
        task: what it is trained for.
        pad: id of the padding token.

    Raises:
        BadConfig: another task.
        UnfitModel: no transformers model.

    >>> import fedseal as fs
    >>> model = fs.zoo.tiny_bert(num_classes=3)
    >>> tuple(model(torch.tensor([[1, 5, 6, 2]])).shape)
    (1, 3)
    """

    net: Any  # a module whose attributes its own transformers class names

    def __init__(self, net: nn.Module, *, task: Task, pad: int) -> None:
        super().__init__()
        if task not in get_args(Task):
            raise BadConfig(f"the task of the language model is '{task}'", f"use one of {', '.join(get_args(Task))}")
        if not hasattr(net, "get_input_embeddings"):
            raise UnfitModel(f"{type(net).__name__} is no transformers model", "wrap a model that transformers built")
        self.net, self.task, self.pad = net, task, pad

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits.

        Raises:
            UnfitBatch: a token that the embedding does not have, or more tokens than the model has places.
        """
        given: dict[str, Any]
        if inputs.is_floating_point():
            given = {"inputs_embeds": inputs, "attention_mask": (inputs.detach() != 0).any(-1).long()}
        else:
            given = {"input_ids": inputs, "attention_mask": (inputs != self.pad).long()}
        try:
            logits: Tensor = self.net(**given, **({"use_cache": False} if self.task == "causal" else {})).logits
        except IndexError as error:
            raise self._misfit(inputs) from error
        if self.task == "sequence":
            return logits
        return (logits[:, :-1] if self.task == "causal" else logits).transpose(1, 2)

    def _misfit(self, inputs: Tensor) -> UnfitBatch:
        """Why a table has no row for what it was asked."""
        rows = len(self._embedding().weight)
        if not inputs.is_floating_point() and int(inputs.max()) >= rows:
            return UnfitBatch(
                f"the inputs hold the token {int(inputs.max())}, and the model's embedding has {rows} rows",
                "use the tokenizer that the model was trained with",
            )
        return UnfitBatch(
            f"rows of {inputs.shape[1]} tokens are longer than the model has places", "give Text a smaller length"
        )

    @property
    def width(self) -> int:
        """Numbers in one embedding, d."""
        return int(self._embedding().weight.shape[1])

    @property
    def embedding_name(self) -> str:
        """The name of the embedding matrix `(V, d)` among the parameters."""
        weight = self._embedding().weight
        return next(name for name, parameter in self.named_parameters() if parameter is weight)

    def _embedding(self) -> nn.Embedding:
        embedding: nn.Embedding = self.net.get_input_embeddings()
        return embedding


def next_tokens(ids: Tensor, pad: int) -> Tensor:
    """Labels of causal language modelling for token ids `(N, L)`: the tokens that follow, `(N, L - 1)`.

    >>> next_tokens(torch.tensor([[5, 6, 7, 0]]), pad=0).tolist()
    [[6, 7, -100]]
    """
    following = ids[:, 1:]
    return following.masked_fill(following == pad, IGNORED)


def masked_tokens(
    ids: Tensor, *, mask: int, special: frozenset[int], generator: torch.Generator, share: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Inputs and labels of masked language modelling for token ids `(N, L)`, at least one masked token a row.

    Every masked token becomes the mask token (Devlin et al., NAACL 2019, arXiv:1810.04805, without its random and
    unchanged tenths).
    """
    ordinary = ~torch.isin(ids, torch.tensor(sorted(special)))
    chance = torch.rand(ids.shape, generator=generator).masked_fill(~ordinary, 2.0)
    hidden = (chance < share) | ((chance == chance.min(1, keepdim=True).values) & ordinary)
    return ids.masked_fill(hidden, mask), ids.masked_fill(~hidden, IGNORED)
