"""Files of ours in JSON: what a file must hold is a model, and what is wrong with one is said in a sentence."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from fedseal.errors import StorageFailure

Model = TypeVar("Model", bound=BaseModel)


class JsonFile(BaseModel):
    """The content of a file. An error never quotes it: it may be a secret."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    def text(self) -> str:
        """The content of the file, as JSON."""
        return self.model_dump_json(indent=1)


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("is no text")
    return bytes.fromhex(value)


Hex = Annotated[bytes, BeforeValidator(_bytes), PlainSerializer(bytes.hex)]


def no_more_than(kind: type[Any]) -> BeforeValidator:
    """Refuse a name that a dataclass does not have: pydantic would pass over it, and the default stand in its place."""
    names = {field.name for field in fields(kind)}

    def check(value: Any) -> Any:
        if isinstance(value, dict) and (foreign := sorted(set(value) - names)):
            raise ValueError(f"there is no '{foreign[0]}'")
        return value

    return BeforeValidator(check)


def read_model(path: Path, model: type[Model], fact: str, remedy: str) -> Model:
    """A file's content.

    Args:
        fact: what a file is not that does not hold such a content; the reason follows in parentheses.
        remedy: what to do about it.

    Raises:
        StorageFailure: it does not, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageFailure(f"{fact} ({error.strerror or type(error).__name__})", remedy) from None
    return parsed_model(content, model, fact, remedy)


def parsed_model(content: bytes | str, model: type[Model], fact: str, remedy: str) -> Model:
    """The same of a content that was read already.

    Raises:
        StorageFailure: it is none.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
    raise StorageFailure(f"{fact} ({reason})", remedy)
