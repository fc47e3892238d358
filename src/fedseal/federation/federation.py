"""`Federation(model_owner, data_owners).fit(rounds)`: federated training of which nobody can read a client's update.

A round: the model goes to every data owner, each trains, their steps are added up by the protocol, the model owner
opens the sum and moves the model. What is random in training follows from the seed, so that every engine gives the same
model, bit for bit; what is secret in the protocols is drawn anew each time and cancels exactly.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from fedseal.client import state_of
from fedseal.errors import BadConfig, EngineFailure, UnknownName
from fedseal.federation import checkpoint as kept
from fedseal.federation.keys import Keys, StoredKeys
from fedseal.federation.ledger import new_ledger, stored_ledger
from fedseal.federation.members import Members
from fedseal.federation.owners import DataOwner, Local, ModelOwner, common_defense, common_training
from fedseal.federation.packing import Packing, statistics_of
from fedseal.federation.privacy import Spent
from fedseal.federation.protocol import PROTOCOLS, Ask, Link, Member, Reply
from fedseal.federation.report import RoundReport
from fedseal.federation.run import TrainingRun, put_model
from fedseal.federation.secure import RINGS, Keyring, Pact, Secure
from fedseal.federation.traffic import Watcher
from fedseal.secagg import Ledger, LedgerEntry, SumRelease, trusting_itself

ENGINES = ("local", "flower")


class FederationEngine(Protocol):
    """Where parties are, and how they are reached."""

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        """Bring the parties up, let the model owner serve through a link to them, and end them."""


@dataclass(frozen=True)
class InThisProcess:
    """All parties in this process, one after the other: the reference."""

    def run(self, members: Members, serve: Callable[[Link], None]) -> None:
        """Serve."""
        with trusting_itself():
            serve(Calls({number: members.party(number) for number in (*members.clients, *members.aggregators)}))


@dataclass(frozen=True)
class Calls:
    """A link that calls the parties."""

    parties: Mapping[int, Member]

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        """One after the other, so that one client's answer is in memory at a time."""
        for ask in asks:
            yield ask, self.parties[ask.to].answer(ask)


@dataclass(frozen=True)
class Trained:
    """A trained model, and what was seen of every round.

    Args:
        privacy: what all rounds spent, those of runs that this one went on from included.
        ended: why there are fewer rounds than were asked for; empty where there are not.
    """

    model: nn.Module
    history: tuple[RoundReport, ...]
    privacy: Spent
    ended: str = ""

    def save(self, path: str | Path) -> None:
        """Write the model's tensors by name, as safetensors.

        Raises:
            StorageFailure: the file cannot be written.
        """
        kept.write_checkpoint(Path(path), state_of(self.model), {})


@dataclass(frozen=True)
class Federation:
    """Owners, and how their steps are added up.

    Args:
        model_owner: whose model is trained.
        data_owners: whose examples train it; all are asked every round.
        protocol: "sharing", "masking", "plain", or a `Secure` with its figures.
        seed: of all that is random in training, where this process plays all parties; see `Members`.
        threads: of each client's training; sums of many threads differ in their last bits.
        schema: a digest of what the owners' examples are read as, such as columns and classes in their order; a
            checkpoint of another one is not gone on from. Empty where nobody keeps account of it.

    Raises:
        BadConfig: no data owner, owners that measure different things, or figures that do not fit together.

    >>> import fedseal as fs
    >>> data, model = fs.zoo.fashion_mnist()[:40], fs.zoo.mlp(widths=(20,))
    >>> owners = [DataOwner.holding(data[slice(first, None, 4)]) for first in range(4)]
    >>> trained = Federation(ModelOwner(model, validation=data), owners).fit(rounds=2)
    >>> trained.history[-1].clients, sorted(trained.history[-1].validation)
    (4, ['accuracy', 'loss'])
    """

    model_owner: ModelOwner
    data_owners: Sequence[DataOwner]
    protocol: str | Secure = "sharing"
    seed: int | None = 0
    threads: int = 1
    schema: str = ""

    def __post_init__(self) -> None:
        if not self.data_owners:
            raise BadConfig("a federation without data owners", "give at least one, and two or more for a secure sum")
        if len({tuple(sorted(owner.bounds.items())) for owner in self.data_owners}) > 1:
            raise BadConfig("data owners measure different things", "give all the same bounds")

    @property
    def topology(self) -> str:
        """Who sends to whom: "star" or "ring"."""
        return "ring" if self.secure.protocol in RINGS else "star"

    @cached_property
    def secure(self) -> Secure:
        """The protocol, with everything settled."""
        asked = Secure(self.protocol) if isinstance(self.protocol, str) else self.protocol
        most = 1
        if asked.max_weight is None and asked.noise is None:
            most = max(_weight(owner, self.model_owner.model, place) for place, owner in enumerate(self.data_owners))
        statistics = bool(statistics_of(self.model_owner.model))
        return asked.settled(len(self.data_owners), most, self.data_owners[0].bounds, statistics=statistics)

    def members(self, rounds: int | None = None) -> Members:
        """All parties with fresh keys, in a session of their own, whose owners answer so many rounds."""
        secure = self.secure if rounds is None else replace(self.secure, rounds=self.secure.rounds or rounds)
        keys = Keyring.fresh(secure, len(self.data_owners))
        return self._members(keys, keys.pact(secure))

    def members_of(self, keys: StoredKeys) -> Members:
        """All parties with the keys of a folder."""
        return self._members(keys, keys.pact)

    def _members(self, keys: Keys, pact: Pact) -> Members:
        if PROTOCOLS[self.secure.protocol].secure:
            pact.terms(0, Packing.of(self.model_owner.model, pact.secure).size)  # complain before anything starts
        return Members(tuple(self.data_owners), self.model_owner.model, pact, keys, self.seed, self.threads)

    def fit(
        self,
        rounds: int,
        *,
        evaluate_every: int = 1,
        engine: str | FederationEngine = "local",
        checkpoint: str | Path | None = None,
        resume: bool = False,
        record: str | Path | None = None,
        begins: Callable[[], None] | None = None,
        members: Members | None = None,
        ledger: Ledger | None = None,
        account: Callable[[Sequence[RoundReport], Ledger], None] | None = None,
        progress: Callable[[RoundReport], None] | None = None,
    ) -> Trained:
        """Train.

        Args:
            rounds: in all, those before a resumed checkpoint included.
            evaluate_every: rounds between two evaluations; the last round is always evaluated.
            engine: "local" in this process, "flower" for Flower's simulation, or one of your own.
            checkpoint: a file that is rewritten after every round.
            resume: go on from that file.
            record: a folder in which everything that each party could read is kept; see `federation.view`.
            begins: called when all was found to fit, before the first round.
            members: the parties, where they have keys already; None for new keys.
            ledger: of the model owner; None for one in a file beside the checkpoint, or in memory if there is none.
            account: handed, before the first round, the history and the ledger that grow with the rounds, so that what
                was sent and spent is known however the training ends.
            progress: called after every round.

        Raises:
            BadConfig: no round, or a checkpoint of another federation.
            StorageFailure: a file that cannot be read or written.
            EngineFailure: three rounds in a row failed, or all of fewer; the last one's reason.
            Diverged: a model or a loss that is no number any more.
        """
        if rounds < 1 or evaluate_every < 1:
            raise BadConfig(f"{rounds} rounds, evaluated every {evaluate_every}", "give at least 1 of both")
        chosen = engine_of(engine)
        state, history = state_of(self.model_owner.model), list[RoundReport]()
        if resume:
            state, history = kept.load_checkpoint(_file(checkpoint), *self._marks())
        members = members or self.members(rounds)
        agreed = members.pact.secure.rounds
        if agreed is not None and rounds > agreed:
            raise BadConfig(f"{rounds} rounds are asked for, and owners agreed to {agreed}", "agree on more with them")
        if ledger is None:
            ledger = Ledger() if checkpoint is None else _beside(Path(checkpoint), history, resume=resume)
        watchers = [] if record is None else [_recorder(record, members, self, len(history))]
        if begins is not None:
            begins()
        if account is not None:
            account(history, ledger)
        model = copy.deepcopy(self.model_owner.model)
        put_model(model, state)
        if checkpoint is not None and not resume:  # so that a run that is killed in its first round is resumed as well
            kept.save_checkpoint(Path(checkpoint), self._marks()[0], state, history)
        run = TrainingRun(
            owner=self.model_owner,
            members=members,
            model=model,
            history=history,
            rounds=rounds,
            evaluate_every=evaluate_every,
            ledger=ledger,
            watchers=watchers,
            mark=self._marks()[0],
            checkpoint=None if checkpoint is None else Path(checkpoint),
            progress=progress,
        )
        if len(history) < rounds:
            chosen.run(members, run.serve)
        if history and all(report.failure for report in history):
            raise EngineFailure(
                f"nothing was trained: no sum was opened in {len(history)} rounds, in the last since "
                f"{history[-1].failure}",
                "see the owners' logs" + (", and resume from the checkpoint with more rounds" if checkpoint else ""),
            )
        return Trained(
            self.model_owner.usable(model, self.secure.statistics),
            tuple(history),
            Spent(tuple(entry.release for entry in ledger.entries)),
            run.ended,
        )

    def apps(self, keys: str | Path, **options: Any) -> tuple[Any, Any]:
        """A ServerApp and a ClientApp for `flwr run`; see `federation.flower.apps`."""
        from fedseal.federation import flower

        return flower.flower_apps(self, keys, **options)

    def _marks(self) -> tuple[str, ...]:
        """What tells checkpoints of different federations apart; last without a schema, as in earlier versions."""
        packing = Packing.of(self.model_owner.model, self.secure)
        facts = (self.secure.protocol, self.seed, len(self.data_owners), packing)
        rules = [repr(owner.model_fn) for owner in self.data_owners]
        whole = [(facts, rules, self.schema)] if self.schema else []
        return tuple(hashlib.sha256(repr(known).encode()).hexdigest() for known in (*whole, (facts, rules)))


def engine_of(engine: str | FederationEngine) -> FederationEngine:
    """The engine of that name.

    Raises:
        UnknownName: there is none.
        MissingExtra: Flower is not installed.
    """
    if not isinstance(engine, str):
        return engine
    if engine == "local":
        return InThisProcess()
    if engine == "flower":
        from fedseal.federation.flower import Simulation

        return Simulation()
    raise UnknownName("engine", engine, ENGINES)


def _weight(owner: DataOwner, model: nn.Module, place: int) -> int:
    count = len(owner.examples(model, where=f" of data owner {place}"))
    rule = owner.model_fn
    return min(count, rule.draw) if isinstance(rule, Local) and rule.draw is not None else count


def _file(checkpoint: str | Path | None) -> Path:
    if checkpoint is None:
        raise BadConfig("there is nothing to resume from", "name the checkpoint")
    return Path(checkpoint)


def _beside(checkpoint: Path, history: Sequence[RoundReport], *, resume: bool) -> Ledger:
    """The model owner's ledger, in a file beside its checkpoint.

    Raises:
        BadConfig: a training begins anew over the account of one that spent privacy.
    """
    path = checkpoint.with_name(f"{checkpoint.name}.ledger.json")
    if not resume and path.exists() and any(entry.release.deviation > 0 for entry in stored_ledger(path).entries):
        raise BadConfig(
            f"'{path}' is the account of a training with noise, which a new one would replace",
            "go on with it, or name another checkpoint: on the same data what both spend adds up",
        )
    if resume and path.exists():
        ledger = stored_ledger(path)
        # of a round in which this process was killed: parties that ended with it answer anew, with other noise
        begun = [replace(entry, session="") if entry.round >= len(history) else entry for entry in ledger.entries]
        ledger.entries = tuple(begun)
        return ledger
    ledger = new_ledger(path)
    for report in history if resume else ():  # of which nobody knows any more how much noise they had
        ledger.note(LedgerEntry("", report.round, "", "", SumRelease(0.0, 0.0, report.clients, 0)))
    return ledger


def _recorder(folder: str | Path, members: Members, federation: Federation, done: int) -> Watcher:
    from fedseal.federation.recorder import PartyRecorder

    rules = [owner.model_fn for owner in federation.data_owners]
    packing = Packing.of(members.model, members.pact.secure)
    return PartyRecorder(Path(folder), members.keys, packing, common_training(rules), common_defense(rules), done)
