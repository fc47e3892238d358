"""Sentences of the user's own, as a language model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fedseal import zoo
from fedseal.errors import BadConfig, StorageFailure, UnfitBatch
from fedseal.modality import LanguageModel, Text
from fedseal.setup.data.dataset import Dataset
from fedseal.types import Batch

LONGEST = 100_000_000  # bytes of the largest file of sentences accepted


def sentence_lines(path: str | Path) -> list[str]:
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


def sentence_data(
    model: LanguageModel,
    text: Text,
    lines: Sequence[str],
    *,
    label: int | str | None = None,
    seed: int = 0,
    title: str = "text",
) -> Dataset:
    """Sentences for the model's task, and a note for each that was cut.

    Args:
        label: the class of all sentences; None to draw what labels the task needs from the seed.

    Raises:
        UnfitBatch: a sentence without a token.
        BadConfig: a class that the model does not have, or one where the task has none.
    """
    if isinstance(label, str):
        raise BadConfig(f"the label is '{label}', and the class of a sentence is a number", "give a whole number")
    classes = _classes(model, text)
    batch = zoo.text_batch(text, list(lines), task=model.task, num_classes=classes, seed=seed, truncate=True)
    notes = tuple(note for line in lines for note in _cut(line, text))
    if label is not None:
        if model.task != "sequence":
            raise BadConfig(
                f"the label is a class of sentences, and the model's task is '{model.task}'", "leave it out"
            )
        if not 0 <= label < classes:
            raise BadConfig(f"the label is {label}", f"the model has the classes 0 to {classes - 1}")
        batch = Batch(batch.inputs, torch.full_like(batch.labels, label))
    return Dataset(batch, text, title, classes, notes)


def _classes(model: LanguageModel, text: Text) -> int:
    device = next(model.parameters()).device
    with torch.no_grad():
        return int(model(torch.full((1, *text.shape), text.size - 1, device=device)).shape[1])


def _cut(line: str, text: Text) -> list[str]:
    length = len(text.tokenizer(line)["input_ids"])
    if length <= text.length:
        return []
    return [f"'{line[:40]}...' has {length} tokens and was cut to {text.length}, as the client does"]
