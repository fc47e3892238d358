"""Sentences of the user's own as private examples, and the language model that learns them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fedseal import zoo
from fedseal.audit.factory import build_object
from fedseal.errors import BadConfig, StorageFailure, UnfitBatch, UnknownName
from fedseal.modality import LanguageModel, Text
from fedseal.types import Batch

ZOO = "zoo:"
LONGEST = 100_000_000  # bytes of the largest file of sentences accepted


def language_model(name: str) -> tuple[LanguageModel, Text]:
    """A language model and the modality of its inputs, by the zoo's name or "package.module:function".

    Raises:
        UnknownName: the zoo has none of that name.
        BadConfig: the function gives something else.
        MissingExtra: transformers, or the model's package, is not installed.
    """
    known = zoo.text_models()
    if name.removeprefix(ZOO) in known:
        return known[name.removeprefix(ZOO)]()
    if name.startswith(ZOO) or ":" not in name:
        raise UnknownName("language model", name.removeprefix(ZOO), [*known, "package.module:function"])
    built = build_object(name, tuple)
    if len(built) != 2 or not isinstance(built[0], LanguageModel) or not isinstance(built[1], Text):
        raise BadConfig(f"'{name}' returned no language model with its text", "return (fs.LanguageModel, fs.Text)")
    model, text = built
    rows = model.state_dict()[model.embedding_name].shape[0]
    if text.size > rows:
        raise BadConfig(
            f"the tokenizer of '{name}' has {text.size} tokens and the model's embedding {rows} rows",
            "return the tokenizer that the model was trained with",
        )
    return model, text


def read_sentences(path: str | Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        StorageFailure: the file cannot be read.
        UnfitBatch: it is no text in UTF-8, too large, or empty.
    """
    try:
        if Path(path).stat().st_size > LONGEST:
            raise UnfitBatch(f"the file '{path}' has more than {LONGEST // 10**6} MB", "give a smaller one")
        content = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise StorageFailure(f"cannot read the sentences in '{path}' ({error.strerror})", "check the path") from None
    except UnicodeDecodeError:
        raise UnfitBatch(f"'{path}' is no text in UTF-8", "save it as UTF-8") from None
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines:
        raise UnfitBatch(f"'{path}' holds no sentence", "write one on each line")
    return lines


def sentence_batch(
    model: LanguageModel, text: Text, lines: Sequence[str], *, label: int | None = None, seed: int = 0
) -> tuple[Batch, tuple[str, ...]]:
    """Sentences as a batch for the model's task, and a note for each that was cut.

    Args:
        label: the class of all sentences; None to draw what labels the task needs from the seed.

    Raises:
        UnfitBatch: a sentence without a token.
        BadConfig: a class that the model does not have, or one where the task has none.
    """
    classes = _classes(model, text)
    batch = zoo.text_batch(text, list(lines), task=model.task, num_classes=classes, seed=seed, truncate=True)
    notes = tuple(note for line in lines for note in _cut(line, text))
    if label is None:
        return batch, notes
    if model.task != "sequence":
        raise BadConfig(f"the label is a class of sentences, and the model's task is '{model.task}'", "leave it out")
    if not 0 <= label < classes:
        raise BadConfig(f"the label is {label}", f"the model has the classes 0 to {classes - 1}")
    return Batch(batch.inputs, torch.full_like(batch.labels, label)), notes


def _classes(model: LanguageModel, text: Text) -> int:
    device = next(model.parameters()).device
    with torch.no_grad():
        return int(model(torch.full((1, *text.shape), text.size - 1, device=device)).shape[1])


def _cut(line: str, text: Text) -> list[str]:
    length = len(text.tokenizer(line)["input_ids"])
    if length <= text.length:
        return []
    return [f"'{line[:40]}...' has {length} tokens and was cut to {text.length}, as the client does"]
