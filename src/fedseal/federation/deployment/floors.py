"""What an owner asks of a training itself: `owner.yaml` in its folder, below which it takes no part.

    minimum: 5              # owners at least in a sum that is opened
    noise: 1.0              # standard deviation at least, in units of the norm to which an owner clips
    clip: 1.0               # the norm to which it clips at most
    rounds: 20              # answered at most
    protocols: [sharing]    # that may add updates up
    aggregators: 3          # at least
    models: [1f0c7a5d52b3e690]   # digests of architectures that may be trained, as `fedseal join` prints them

Each is left out where the owner asks nothing. The file is the owner's own: no other party writes it or sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import ConfigDict, Field, ValidationError
from torch import nn

from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation.packing import architecture_digest
from fedseal.federation.protocol import LOG, Ask, Member, Reply, refusal_kind
from fedseal.federation.secure import READABLE, Secure
from fedseal.files import reason
from fedseal.json_file import JsonFile

FLOORS = "owner.yaml"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]


class Floors(JsonFile):
    """An owner's floors; None for what it does not ask."""

    model_config = ConfigDict(extra="forbid", strict=True)

    minimum: Annotated[int, Field(ge=2)] | None = None
    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    rounds: Annotated[int, Field(ge=1)] | None = None
    protocols: list[str] | None = None
    aggregators: Annotated[int, Field(ge=2)] | None = None
    models: list[Digest] | None = None

    @classmethod
    def of(cls, folder: Path) -> Floors:
        """Those in a party's folder; none where there is no file.

        Raises:
            StorageFailure: it cannot be read.
            BadConfig: it holds something else.
        """
        path = folder / FLOORS
        if not path.exists():
            return cls()
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StorageFailure(f"'{path}' cannot be read ({reason(error)})", "correct it, or delete it") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            where = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadConfig(f"'{path}' is no YAML ({where})", "correct it") from None
        try:
            return cls.model_validate({} if content is None else content)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise BadConfig(f"'{path}': {place}: {first['msg']}", "see the options in docs/training.md") from None

    def check(self, secure: Secure, model: nn.Module, rounds: int) -> None:
        """Refuse terms that fall short, all of them at once.

        Args:
            secure: settled.
            rounds: of the training.

        Raises:
            BadConfig: they do.
        """
        digest, short = architecture_digest(model), list[str]()
        hidden = secure.protocol not in READABLE
        summed = secure.minimum if hidden else 1  # where it can be read, an update is seen alone, whatever is added up
        for name, asked, agreed, fits in (
            ("minimum", self.minimum, summed, (summed or 1) >= (self.minimum or 1)),
            ("noise", self.noise, secure.noise, (secure.noise or 0.0) >= (self.noise or 0.0)),
            ("clip", self.clip, secure.clip, self.clip is None or (secure.clip or float("inf")) <= self.clip),
            ("rounds", self.rounds, rounds, self.rounds is None or rounds <= self.rounds),
            ("protocols", self.protocols, secure.protocol, _among(secure.protocol, self.protocols)),
            (
                "aggregators",
                self.aggregators,
                secure.parties_who_add,
                (hidden and secure.protocol != "sharing") or secure.parties_who_add >= (self.aggregators or 0),
            ),
            ("models", self.models, digest, _among(digest, self.models)),
        ):
            if not fits:
                short.append(f"{name} {_written(asked)} where {'none' if agreed is None else agreed} was agreed on")
        if short:
            raise BadConfig(f"{FLOORS} asks for {', and '.join(short)}", "agree on other terms, or take no part")

    def check_question(self, ask: Ask) -> None:
        """Refuse a round beyond those allowed.

        Raises:
            BadConfig: it is one.
        """
        if self.rounds is not None and ask.round >= self.rounds:
            raise BadConfig(f"round {ask.round + 1} is asked for, and {FLOORS} allows {self.rounds}", "end here")


@dataclass(frozen=True)
class Guarded:
    """A party that is asked only what its owner allows."""

    inner: Member
    floors: Floors

    def answer(self, ask: Ask) -> Reply:
        """As the party, or a refusal that it never hears of."""
        try:
            self.floors.check_question(ask)
        except BadConfig as error:
            LOG.warning("refused: %s", error)
            return Reply(refused=refusal_kind(error))
        return self.inner.answer(ask)

    def dump(self) -> dict[str, list[bytes]]:
        """As the party."""
        return self.inner.dump()

    def load(self, memory: dict[str, list[bytes]]) -> None:
        """As the party."""
        self.inner.load(memory)


def _among(value: str, allowed: list[str] | None) -> bool:
    """Digests may be written by their beginning."""
    return allowed is None or any(value == one or (len(one) >= 16 and value.startswith(one)) for one in allowed)


def _written(value: object) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)
