"""The private examples as sentences, and a language model that learns them."""

from __future__ import annotations

from fedseal.audit.text_data import language_model, read_sentences, sentence_batch
from fedseal.cli.request import Aim, Request, Source, captured, simulated
from fedseal.errors import BadConfig
from fedseal.modality import LanguageModel, Text


def aim(request: Request) -> Aim:
    """Read the sentences and build the language model that the request names.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    model, text = language_model(request.model)
    model = model.to(request.device)
    if request.update is not None:
        return captured(request, request.update, model, text)
    return simulated(request, model, text, _source(request, model, text))


def _source(request: Request, model: LanguageModel, text: Text) -> Source:
    if request.text and request.batch is not None:
        raise BadConfig("--batch is of a file or of pictures", "give --text once for every sentence of the batch")
    if isinstance(request.label, str):
        raise BadConfig(f"--label is '{request.label}', and the class of a sentence is a number", "give a whole number")
    lines, title = _lines(request)
    batch, notes = sentence_batch(model, text, lines, label=request.label, seed=request.seed)
    tokens = int((batch.inputs != text.pad).sum())
    if tokens >= model.width:
        wide = f"{tokens} tokens in all, and the model is {model.width} wide"
        notes += (f"{wide}: the exact route needs fewer tokens than that",)
    return Source(batch, 0, len(lines), title, notes)


def _lines(request: Request) -> tuple[list[str], str]:
    """The attacked sentences, and a name for them."""
    if request.text:
        return list(request.text), "text"
    if request.text_file is None:
        raise BadConfig(f"the model '{request.model}' reads sentences, and none is given", "give --text or --text-file")
    lines = read_sentences(request.text_file)
    first, count = request.index or 0, request.batch or 1
    if first + count > len(lines):
        raise BadConfig(
            f"'{request.text_file}' holds {len(lines)} sentences, and {first} to {first + count - 1} are asked for",
            "give a smaller --index or --batch; sentences stand on lines of their own",
        )
    return lines[first : first + count], request.text_file.stem
