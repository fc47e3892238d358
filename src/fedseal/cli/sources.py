"""What one attack is aimed at: pictures, sentences or a row of a table, or an update that was captured."""

from __future__ import annotations

from fedseal import zoo
from fedseal.cli import pictures, sentences, tables
from fedseal.cli.request import ZOO, Aim, Request, training_from
from fedseal.errors import BadConfig

__all__ = ["Aim", "Request", "aim", "training_from"]


def aim(request: Request) -> Aim:
    """Read and build all that the request names.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    _check(request)
    if request.table is not None:
        return tables.aim(request)
    if request.text or request.text_file is not None or request.model.removeprefix(ZOO) in zoo.text_models():
        return sentences.aim(request)
    return pictures.aim(request)


def _check(request: Request) -> None:
    """That the options name one source of private examples."""
    sources = {
        "--image": request.image is not None,
        "--text": bool(request.text),
        "--text-file": request.text_file is not None,
        "--table": request.table is not None,
    }
    given = [name for name, there in sources.items() if there]
    if request.index is not None and given not in (["--text-file"], ["--table"]):
        given.append("--index")
    if request.update is not None and given != ["--table"]:  # which then gives the schema alone
        given.append("--update")
    if len(given) > 1:
        raise BadConfig(f"more than one of {', '.join(given)} is given", "give one of them")
    if request.batch is not None and request.update is not None:
        raise BadConfig("--batch is of a simulated client, and --update was captured", "give --examples, if known")
