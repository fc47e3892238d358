"""Training without a server by gossip: every owner averages its own model with those of its neighbors each round.

Decentralized parallel SGD (Lian et al., NeurIPS 2017, arXiv:1705.09056), as adapt-then-combine: an owner trains, sends
its weights to its neighbors, and goes on from the mean of theirs and its own. All start from one model, so that in the
first round a neighbor reads an owner's step as a server would. Later it does not know where the owner started, since
it sees only some of the weights that were averaged there: it reads a step behind what it had to guess of the rest.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fedseal.client import put_state, state_of
from fedseal.errors import BadConfig, EngineFailure, UnfitUpdate
from fedseal.federation.federation import Federation, FederationEngine, Trained, engine_of
from fedseal.federation.owners import DataOwner, ModelOwner, common_defense, common_training
from fedseal.federation.packing import Packing
from fedseal.federation.privacy import Spent
from fedseal.federation.protocol import Ask, Link
from fedseal.federation.protocol.messages import LOG, known_kind, refusal_kind
from fedseal.federation.protocol.plain import fitting_step
from fedseal.federation.report import RoundReport, check_finite
from fedseal.federation.secure import Secure
from fedseal.federation.view import Shelf
from fedseal.secagg import Party, SumRelease
from fedseal.types import LocalTraining, Tensors

States = Mapping[int, Tensors]


@dataclass(frozen=True)
class Neighbors:
    """Who exchanges weights with whom: owners in a circle, each with so many on either side of it.

    Args:
        owners: how many.
        reach: neighbors on either side.

    Raises:
        BadConfig: none, or an owner alone.

    >>> Neighbors(5, 1).of(0), Neighbors(3, 1).of(0)
    ((1, 4), (1, 2))
    """

    owners: int
    reach: int = 1

    def __post_init__(self) -> None:
        if self.owners < 2 or self.reach < 1:
            raise BadConfig(f"{self.owners} owners, {self.reach} neighbors on either side", "give at least 2, and 1")

    def of(self, owner: int) -> tuple[int, ...]:
        """An owner's neighbors."""
        far = range(1, min(self.reach, self.owners // 2) + 1)
        return tuple(sorted({(owner + side * step) % self.owners for step in far for side in (1, -1)} - {owner}))

    def mixed(self, sent: States, owner: int, among: Sequence[int] | None = None) -> dict[str, Tensor]:
        """The mean of what an owner and its neighbors sent: what that owner goes on from.

        Args:
            sent: by owner; who did not send is left out.
            among: whose weights are known to who works this out; None for all. The others are taken for their mean.
        """
        return _mean([sent[one] for one in (owner, *self.of(owner)) if one in sent and (among is None or one in among)])


@dataclass(frozen=True)
class Gossip:
    """Owners who exchange weights with their neighbors.

    Args:
        model_owner: whose model all start from, who validates the mean of the owners' models, and at whose learning
            rate each goes along its step. It takes part in nothing else.
        data_owners: whose examples train it.
        reach: neighbors on either side of an owner, in a circle.
        seed, threads: as of a `Federation`.
        bound, statistics_bound: as of `Secure` in the clear: an owner sends no entry beyond the larger of both.

    Raises:
        BadConfig: fewer than two owners.

    >>> import fedseal as fs
    >>> data, model = fs.zoo.fashion_mnist()[:40], fs.zoo.mlp(widths=(20,))
    >>> owners = [DataOwner.holding(data[slice(first, None, 4)]) for first in range(4)]
    >>> trained = Gossip(ModelOwner(model, validation=data), owners).fit(rounds=2)
    >>> sorted(trained.history[-1].metrics)
    ['distance', 'loss']
    """

    model_owner: ModelOwner
    data_owners: Sequence[DataOwner]
    reach: int = 1
    seed: int | None = 0
    threads: int = 1
    bound: float = Secure.bound
    statistics_bound: float = Secure.statistics_bound
    topology: str = field(default="gossip", init=False)

    def __post_init__(self) -> None:
        Neighbors(len(self.data_owners), self.reach)

    @property
    def secure(self) -> Secure:
        """Nothing is hidden from a neighbor."""
        return self._star.secure

    @property
    def _star(self) -> Federation:
        """The same owners, as an engine runs them."""
        clear = Secure("plain", minimum=1, bound=self.bound, statistics_bound=self.statistics_bound)
        return Federation(self.model_owner, self.data_owners, clear, self.seed, self.threads)

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
        progress: Callable[[RoundReport], None] | None = None,
    ) -> Trained:
        """Train; the model is the mean of all owners' at the end.

        Args:
            rounds, evaluate_every, engine, begins, progress: as of `Federation.fit`. A round's metrics are the owners'
                figures and "distance", the largest of an owner's weights from the mean of all.
            checkpoint, resume: cannot be given.
            record: a folder in which all is kept that every owner could read of its neighbors.

        Raises:
            BadConfig: no round, or a checkpoint.
            EngineFailure: a round in which nobody answers.
            Diverged: a model or a loss that is no number any more.
        """
        if rounds < 1 or evaluate_every < 1:
            raise BadConfig(f"{rounds} rounds, evaluated every {evaluate_every}", "give at least 1 of both")
        if checkpoint is not None or resume:
            raise BadConfig("owners who gossip have a model each, and a checkpoint holds one", "train without one")
        members = self._star.members(rounds)
        run = _Run(self, Neighbors(len(self.data_owners), self.reach), record)
        history: list[RoundReport] = []
        if begins is not None:
            begins()

        def serve(link: Link) -> None:
            for number in range(rounds):
                report = run.round(link, number)
                if (number + 1) % evaluate_every == 0 or number + 1 == rounds:
                    report = replace(report, validation=self._validated(run.mean()))
                history.append(report)
                check_finite(run.moved(), history, None)
                if progress is not None:
                    progress(report)

        engine_of(engine).run(members, serve)
        model = self.at(run.mean())
        bare = SumRelease(0.0, 0.0, 1, run.size)  # a neighbor reads all of it, without noise
        return Trained(model, tuple(history), Spent((bare,) * len(history)))

    def at(self, state: Tensors) -> nn.Module:
        """A model of these weights."""
        model = copy.deepcopy(self.model_owner.model)
        put_state(model, state)
        return model

    def _validated(self, state: Tensors) -> dict[str, float]:
        owner = self.model_owner
        return {} if owner.validation is None else dict(owner.evaluator_fn(self.at(state), owner.validation))


class _Run:
    """All owners' weights, and what each knows of its neighbors'."""

    def __init__(self, gossip: Gossip, neighbors: Neighbors, record: str | Path | None) -> None:
        self._gossip, self._neighbors = gossip, neighbors
        self._secure, self._moves = gossip.secure, replace(gossip.model_owner, aggregator_fn="mean")
        self._packing = Packing.of(gossip.model_owner.model, self._secure)
        start = state_of(gossip.model_owner.model)
        self._states: dict[int, Tensors] = dict.fromkeys(range(neighbors.owners), start)
        self._before: dict[int, Tensors] = {}  # what was sent in the last round
        self._start = start
        self._shelf = None if record is None else _shelf(Path(record), self._packing, gossip)

    @property
    def size(self) -> int:
        """Entries of a step."""
        return self._packing.size

    def mean(self) -> dict[str, Tensor]:
        """Of all owners' weights."""
        return _mean(list(self._states.values()))

    def moved(self) -> dict[str, Tensor]:
        """Of the mean, what rounds move."""
        mean = self.mean()
        return {name: mean[name] for name in self._packing.names}

    def round(self, link: Link, number: int) -> RoundReport:
        """All train, exchange and mix."""
        started = time.perf_counter()
        asks = [Ask(owner, "train", number, self._packing.size, (), state) for owner, state in self._states.items()]
        sent: dict[int, Tensors] = {}
        weights, figures, refused = 0, dict[str, float](), dict[str, str]()
        for ask, reply in link.ask(asks):
            who = Party.of(ask.to)
            if reply.refused:
                refused[who.role] = known_kind(reply.refused)
            for _, message in reply.messages[:1]:
                try:
                    step, weight, metrics = fitting_step(message, self._packing.size, self._secure)
                except UnfitUpdate as error:
                    LOG.warning("what %s sends is refused: %s", who, error)
                    refused[who.role] = refusal_kind(error)
                    continue
                parts = self._packing.unpack(step)
                sent[ask.to] = self._moved(self._states[ask.to], parts)
                weights += weight
                for name, value in metrics.items():
                    figures[name] = figures.get(name, 0.0) + weight * value
        if not sent:
            raise EngineFailure("no owner answers", "see the owners' logs")
        self._record(number, sent)
        self._states = {
            owner: self._neighbors.mixed(sent, owner) if owner in sent else self._states[owner]
            for owner in self._states
        }
        self._before = sent
        mean = self.mean()
        size = sum(tensor.numel() * tensor.element_size() for tensor in mean.values())
        copies = sum(len(self._neighbors.of(owner)) for owner in sent)
        return RoundReport(
            round=number,
            clients=len(sent),
            weight=weights,
            metrics={name: value / weights for name, value in figures.items()} | {"distance": self._distance(mean)},
            uploaded=copies * size,
            downloaded=copies * size,
            seconds=time.perf_counter() - started,
            refused=refused,
        )

    def _moved(self, state: Tensors, parts: Tensors) -> Tensors:
        """The weights that an owner sends: its own, moved along its step; statistics as training left them.

        Counters count rounds, and no variance is below zero, whoever says so.
        """
        return self._moves.aggregate(parts, 1, self._gossip.at(state))

    def _distance(self, mean: Tensors) -> float:
        far = [
            sum(float((state[name].double() - mean[name].double()).square().sum()) for name, _ in self._packing.weights)
            for state in self._states.values()
        ]
        return float(max(far) ** 0.5)

    def _record(self, number: int, sent: States) -> None:
        if self._shelf is None:
            return
        self._shelf.model(number, self.mean())
        for reader in sorted(self._states):
            for sender in (one for one in self._neighbors.of(reader) if one in sent):
                start = self._guess(reader, sender)
                moved = [(sent[sender][name] - start[name]).flatten() for name, _ in self._packing.weights]
                moved += [(sent[sender][name] - start[name]).flatten() for name, _ in self._packing.buffers]
                step = torch.cat([part.double() for part in moved]).float()
                who = str(Party.of(reader))
                self._shelf.keep(number, who, str(sender), "mixed weights", {"step": step}, start=start)
        self._shelf.close()

    def _guess(self, reader: int, sender: int) -> Tensors:
        """Where a neighbor must think that an owner started: at the mean of what both of them were sent."""
        if sender not in self._before:
            return self._start if not self._before else self._states[reader]
        known = (reader, *self._neighbors.of(reader))
        return self._neighbors.mixed(self._before, sender, known)


def _mean(states: Sequence[Tensors]) -> dict[str, Tensor]:
    """Of every tensor; what all have alike, such as fixed buffers, stays as it is to the last bit."""
    first, *others = states
    return {
        name: tensor
        if all(torch.equal(tensor, other[name]) for other in others)
        else torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        for name, tensor in first.items()
    }


def _shelf(folder: Path, packing: Packing, gossip: Gossip) -> Shelf:
    rules, owner = [one.model_fn for one in gossip.data_owners], gossip.model_owner
    training = common_training(rules)
    if training is not None and training.kind == "gradient":  # what is sent are weights, one step of descent further
        training = LocalTraining.fedavg(lr=owner.learning_rate, mode=training.mode, loss=training.loss)
    shelf = Shelf(folder, packing, training, common_defense(rules))
    shelf.begin(0)
    return shelf
