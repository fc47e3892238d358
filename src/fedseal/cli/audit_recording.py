"""`fedseal audit RECORD`: what each party of a federation could read is attacked, and scored where there is a truth."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text
from torch import nn

from fedseal import attack as attacks
from fedseal import defense as defenses
from fedseal.audit import CellProgress, Engine, Record, recording
from fedseal.audit.case import stream
from fedseal.audit.frames import Frames
from fedseal.audit.verification import DOOR, verified
from fedseal.cli import attack_result, terminal
from fedseal.errors import BadConfig
from fedseal.federation.view import Entry, View
from fedseal.files import make_folder, write_whole
from fedseal.modality import Image
from fedseal.report import words
from fedseal.setup import models
from fedseal.setup.attack import AttackSpec, Target
from fedseal.setup.data.images import shape_of
from fedseal.setup.manifest import Known, known_federation
from fedseal.setup.training import training
from fedseal.threat import ThreatModel
from fedseal.types import Attack, LocalTraining, Modality

NOBODY = "there is nothing to compare with: nobody said whose examples these were"


@dataclass(frozen=True)
class Wanted:
    """What was typed about a record; None for what was not.

    Args:
        federation: a function that returns the `Federation` whose record it is.
    """

    folder: Path
    attacks: tuple[str, ...] = ("auto",)
    samples: int | None = None
    device: str = "cpu"
    federation: str | None = None
    model: str | None = None
    shape: tuple[int, ...] | None = None
    training: str | None = None


@dataclass(frozen=True)
class Recorded:
    """A record, and what is known of it."""

    wanted: Wanted
    view: View
    known: Known | None

    @property
    def note(self) -> str | None:
        """What is left out; None if nothing is."""
        chosen, there = len(recording.chosen(self.view, self._samples)), len(self.view.entries)
        if chosen == there:
            return None
        return f"attacking {chosen} of {there} recorded messages, the first of each kind; --samples N for more"

    @property
    def _samples(self) -> int:
        return self.wanted.samples or recording.FEW

    @property
    def model(self) -> nn.Module:
        """The architecture.

        Raises:
            BadConfig: nobody names it.
        """
        if self.wanted.model is not None:
            return _named_model(self.wanted.model, self.view, self._shape)
        if self.known is None:
            raise BadConfig(
                f"'{self.view.folder}' does not say which model was trained",
                "name it: --model zoo:NAME or package.module:function, with --shape of one input",
            )
        return self.known.model

    @property
    def _shape(self) -> tuple[int, ...]:
        if self.wanted.shape is not None:
            return self.wanted.shape
        return (3, 32, 32) if self.known is None else tuple(self.known.owners[0].build_data().inputs.shape[1:])

    def scored(self, out: Path, engine: Engine | None, on_progress: Callable[[CellProgress], None]) -> Record:
        """The audit, where the truth is known."""
        assert self.known is not None
        return recording.audit_recording(
            self.view,
            self.model,
            self.known.truth,
            out=out,
            attacks=self.wanted.attacks,
            samples=self._samples,
            modality=self.known.modality,
            name=f"what was recorded in {self.view.folder.name}",
            device=self.wanted.device,
            engine=engine,
            on_progress=on_progress,
        )

    def guessed(self, out: Path, tell: Callable[[str], None]) -> list[Guess]:
        """What comes out where nobody knows the truth."""
        modality = self._pictures()
        entries = recording.chosen(self.view, self._samples)
        pairs = [(spec, attacks.parse(spec), entry) for spec in self.wanted.attacks for entry in entries]
        found = []
        for place, (spec, attack, entry) in enumerate(pairs, 1):
            found.append(self._guess(spec, attack, entry, modality, out))
            tell(f"[{place}/{len(pairs)}] {spec}, {found[-1].title}: {found[-1].sentence}")
        return found

    def _guess(self, spec: str, attack: Attack, entry: Entry, modality: Modality, out: Path) -> Guess:
        folder, state, ran = out / _name(spec, entry), self.view.start(entry), self._training()
        threat = recording.adversary(entry, whole=recording.sent_whole(self.model, state))
        if ran is None:
            threat = ThreatModel(threat.name, threat.grants - {"training"})
        update = self.view.update(entry, training=ran)
        model = recording.as_answered(recording.at(self.model, state), update).to(self.wanted.device)
        defense = None if self.view.defense == "none" else defenses.parse(self.view.defense)
        try:
            observation = threat.observe(model, update.to(self.wanted.device), modality=modality, defense=defense)
            frames = Frames(modality)
            found = verified(attack, observation, generator=stream("attack", _name(spec, entry)), progress=frames.add)
        except DOOR as error:
            return Guess(spec, entry, None, str(error))
        except Exception as error:  # noqa: BLE001 - a crash is kept as one, with its traceback, and the others go on
            return _crashed(spec, entry, error, folder)
        request = AttackSpec(update=self.view.folder / entry.file, model=self.wanted.model or "", threat=threat.name)
        result = attack_result.grade(spec, request, Target(observation, modality, None, _name(spec, entry)), found)
        make_folder(folder)
        attack_result.write_result(folder, result, frames)
        return Guess(spec, entry, result, "", str(folder))

    def _training(self) -> LocalTraining | None:
        if self.wanted.training is not None:
            return training(self.wanted.training)
        return self.view.training

    def _pictures(self) -> Image:
        return Image(shape=shape_of("photos", self._shape))


@dataclass(frozen=True, eq=False)
class Guess:
    """One attack on one message whose truth nobody knows; without a result, the reason: a refusal, or a crash."""

    attack: str
    entry: Entry
    result: attack_result.Result | None
    reason: str
    folder: str = ""
    crashed: bool = False

    @property
    def title(self) -> str:
        """Which message."""
        return f"{self.entry.party}, round {self.entry.round}, {self.entry.kind} of {self.entry.sender}"

    @property
    def sentence(self) -> str:
        """The attack's status, as far as the attacker itself can know it."""
        if self.result is None:
            return f"{self.nothing}: {self.reason}"
        end = self.result.found.outcome
        left = "" if end.residual is None else f", {words.unexplained(end.residual)} of the update is unexplained"
        return f"{end.status}{left}, {words.seconds(end.seconds)}"

    @property
    def nothing(self) -> str:
        """Why there is no result, in a word."""
        return "failed" if self.crashed else "refused"

    def plain(self) -> dict[str, object]:
        """The guess as plain values, for JSON."""
        entry = {"party": self.entry.party, "round": self.entry.round, "sender": self.entry.sender}
        result = {"status": self.nothing, "note": self.reason} if self.result is None else self.result.plain()
        return {**entry, "kind": self.entry.kind, "attack": self.attack, "folder": self.folder, **result}


def _crashed(spec: str, entry: Entry, error: Exception, folder: Path) -> Guess:
    """A crash, with its traceback in the folder."""
    make_folder(folder)
    path = folder / "traceback.txt"
    write_whole(path, "".join(traceback.format_exception(error)).encode())
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return Guess(spec, entry, None, f"{words}; {path} says where", str(folder), crashed=True)


def recorded_target(wanted: Wanted) -> Recorded:
    """Read the record, and find out what is known of it.

    Raises:
        FedsealError: whatever of it does not exist or does not fit.
    """
    view = View.load(wanted.folder)
    found = Recorded(wanted, view, known_federation(wanted.folder, wanted.federation))
    first, *_ = recording.chosen(view, 1)
    recording.at(found.model, view.start(first))  # complain before anything is written
    return found


def conclude_guesses(guesses: Sequence[Guess], folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Write what came out as `guesses.json`, and say it.

    Raises:
        StorageFailure: it cannot be written.
    """
    plain = terminal.finite([guess.plain() for guess in guesses])
    write_whole(folder / "guesses.json", (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())
    if as_json:
        terminal.machine(plain)
    elif not quiet:
        _tell(guesses)
        terminal.say(f"Files: {folder}/")


def _tell(guesses: Sequence[Guess]) -> None:
    """A line for every message, and that there is nothing to compare with."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("Who", "What", "Of", "Round", "Attack", "Ended", "Unexplained"):
        table.add_column(column, overflow="fold")
    for guess in guesses:
        entry, result = guess.entry, guess.result
        end = (guess.nothing, "–") if result is None else (result.found.outcome.status, _left(result))
        row = (entry.party, recording.HELD[entry.kind], entry.sender, str(entry.round), guess.attack, *end)
        table.add_row(*(Text(text) for text in row))
    terminal.show(table)
    terminal.say(NOBODY)


def _left(result: attack_result.Result) -> str:
    value = result.found.outcome.residual
    return "–" if value is None else words.unexplained(value)


def _name(spec: str, entry: Entry) -> str:
    parts = (spec, f"round{entry.round}", entry.party.removeprefix("the "), entry.sender)
    return "-".join("".join(c if c.isalnum() or c in "=." else "_" for c in part) for part in parts)


def _named_model(name: str, view: View, shape: tuple[int, ...]) -> nn.Module:
    """The model that was named; one of the zoo with as many classes as the record's last layer has."""
    last = [shape for _, shape in view.packing.weights][-1]
    return models.build_model(name, shape=shape, classes=last[0])
