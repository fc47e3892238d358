"""TabLeak: rows of a table from an update, by many relaxed searches at once and what they agree on.

Vero, Balunovic, Dimitrov and Vechev, ICML 2023, arXiv:2210.01785. A candidate is unconstrained: a number is a sigmoid
within its column's range, a category a softmax whose temperature falls step by step. That map stands in the update
model, which the search settles after every step; the table itself stays what it is, so that hard rows are replayed as
a client would feed them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedseal.attack.base import better, conclude, refused
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.labels.ways import BEST, way_to_labels
from fedseal.attack.route import Route
from fedseal.attack.search.label_source import Given, LabelSource
from fedseal.attack.search.matching import LBFGS, Adam, GradientMatching, Search
from fedseal.attack.search.objective import balanced_distance, cosine_distance
from fedseal.attack.search.schedule import cosine_decay
from fedseal.attack.search.update_model import Prediction, Simulate, assign, cast
from fedseal.client import forward, local_training, step_indices
from fedseal.criterion import loss_function
from fedseal.errors import BadConfig
from fedseal.modality.tabular import Categorical, Tabular
from fedseal.types import Candidate, Observation, Progress, ProgressCallback, Reconstruction

EDGE = 1e-3  # how near to the end of its range a number may start, as a share of the range
LOOKS = (0.4, 0.7, 1.0)  # shares of the steps after which the members' rows are read off, to stop at a certificate
STALL = 1e-2  # share by which a step of the polish must lower its objective
PROVED = 0.1  # share of the residual below which a polish is believed: a smaller gain only bends numbers to categories


@dataclass(frozen=True)
class TabLeak(Route):
    """Search with many members at once, pool what they agree on, then polish the numbers.

    Vero et al., ICML 2023, arXiv:2210.01785. Ours: the temperature's course (the paper's, from 1000 by .98 a step, as
    we understood it, read fewer cells here), the falling rate, and the polish: categories are held at the pool's, and
    the numbers follow the update by L-BFGS in float64. Of pool and best member, polished or not, the smallest residual
    is kept. The reconstruction's confidence is the members' agreement on each cell.

    Args:
        members: searches in the ensemble.
        steps: of each.
        lr: of Adam on the gradient's sign, at the start.
        warm, cold: temperature of the softmax at the first and at the last step.
        labels: as of `GradientMatching`.
        polish: L-BFGS steps; 0 for none.
    """

    members: int = 30
    steps: int = 1500
    lr: float = 0.06
    warm: float = 3.0
    cold: float = 0.3
    labels: LabelSource = BEST
    polish: int = 40
    name: str = "tableak"

    def __post_init__(self) -> None:
        if self.members < 1 or self.steps < 1 or self.polish < 0 or min(self.warm, self.cold, self.lr) <= 0:
            raise BadConfig(
                f"tableak with {self.members} members, {self.steps} steps, {self.polish} steps of polish, rate "
                f"{self.lr} and temperatures {self.warm} to {self.cold}",
                "give positive numbers; polish may be 0",
            )

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this attack does not apply, None if it may."""
        if not isinstance(evidence.observation.modality, Tabular):
            return "the inputs are no rows of a table whose columns are known"
        return None

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack.

        Raises:
            UnknownToAdversary: weights, local training, batch size or labels are withheld and needed.
        """
        started = time.perf_counter()
        observation = evidence.observation
        observation.require_state(self.name)
        observation.require_training(self.name)
        reason, table = self.obstacle(evidence), observation.modality
        if reason is not None:
            return refused(self.name, reason, started)
        assert isinstance(table, Tabular)
        relaxed = RelaxedRows(table, self.members, self.warm, (self.cold / self.warm) ** (1 / self.steps))
        search = Search(self._matching(relaxed), observation, generator)
        watch = None if progress is None else _seen(progress, search, relaxed)
        done = 0
        for share in LOOKS:
            search.advance(math.ceil(share * self.steps) - done, watch)
            done = search.done
            chosen, pool = self._read_off(search, relaxed, generator, started, last=share == LOOKS[-1])
            if chosen.outcome.status == "converged":
                break
        agreed = f"{self.members} members agree on cells to {float(pool.confidence.mean()):.2f} of 1"
        note = "; ".join(filter(None, [chosen.outcome.note, agreed]))
        outcome = replace(chosen.outcome, steps=search.done, seconds=time.perf_counter() - started, note=note)
        return replace(chosen, outcome=outcome, confidence=None if chosen.inputs is None else pool.confidence)

    def _read_off(
        self, search: Search, relaxed: RelaxedRows, generator: torch.Generator, started: float, *, last: bool
    ) -> tuple[Reconstruction, Pool]:
        """What the members say at present: the pool's rows or, at the last look, the best member's, whichever explain
        the update.
        """
        observation, table, candidate = search.observation, relaxed.table, search.candidate()
        labels = candidate.labels.detach()
        with torch.no_grad():
            soft = relaxed(candidate.inputs.detach()).view(self.members, -1, *table.shape)
        pool = pooled_rows(table, soft, labels, _losses(search, candidate))
        ends: list[Reconstruction] = []
        for rows in (pool.rows, table.nearest(pool.best))[: 1 + last]:
            if ends and (ends[0].outcome.status == "converged" or torch.equal(rows, pool.rows)):
                continue
            guess = Candidate(rows, labels)
            end = conclude(observation, guess, route=self.name, steps=search.done, started=started)
            if self.polish and end.outcome.status == "budget":
                end = _believed(end, self._polished(observation, table, guess, generator, started))
            ends.append(end)
        return reduce(better, ends), pool

    def _matching(self, relaxed: RelaxedRows) -> GradientMatching:
        return GradientMatching(
            self.name,
            labels=self.labels,
            init=lambda modality, count, generator: relaxed.inverse(
                modality.start(torch.randn(count, *modality.shape, generator=generator)),
            ),
            objective=cosine_of_members,
            optimizer=Adam(lr=self.lr, signed=True, schedule=cosine_decay),
            steps=self.steps,
            update_model=relaxed,
        )

    def _polished(
        self,
        observation: Observation,
        table: Tabular,
        guess: Candidate,
        generator: torch.Generator,
        started: float,
    ) -> Reconstruction:
        """The rows with their numbers fitted to the update and then put on their columns' grid."""
        rows, labels = guess.inputs, guess.labels
        numbers = torch.cat([torch.full((c.width,), float(not isinstance(c, Categorical))) for c in table.columns])
        moves = numbers.to(rows.device, torch.float64).expand_as(rows).reshape(-1, 1)
        if not bool(moves.any()):
            return conclude(observation, guess, route=self.name, steps=0, started=started)
        fit = GradientMatching(
            self.name,
            objective=balanced_distance,
            optimizer=LBFGS(line_search=True),
            steps=self.polish,
            dtype=torch.float64,
            start=rows,
            coordinates=lambda errors: errors * moves,
            labels=Given(labels),
            target=1e-24,
            stall=STALL,
        )
        found = fit(observation, generator=generator)
        if found.inputs is None or not bool(torch.isfinite(found.inputs).all()):
            return found
        gridded = Candidate(table.nearest(found.inputs), labels)
        return better(found, conclude(observation, gridded, route=self.name, steps=0, started=started))


@dataclass
class RelaxedRows:
    """The update model that maps unconstrained candidates to soft rows before the client's arithmetic.

    Args:
        members: how many candidates of each row stand side by side; each is held against the update by itself.
    """

    table: Tabular
    members: int
    temperature: float
    decay: float = 1.0

    def __call__(self, candidate: Tensor) -> Tensor:
        """Soft rows `(M, width)` of a candidate `(M, width)`."""
        parts = []
        for column, place in zip(self.table.columns, self.table.places, strict=True):
            part = candidate[:, place]
            if isinstance(column, Categorical):
                parts.append((part / self.temperature).softmax(1))
            else:
                low, high = column.bounds
                parts.append(low + (high - low) * part.sigmoid())
        return torch.cat(parts, 1)

    def inverse(self, rows: Tensor) -> Tensor:
        """A candidate whose numbers are those of `(M, width)`, clamped into their ranges; categories as they stand."""
        parts = []
        for column, place in zip(self.table.columns, self.table.places, strict=True):
            low, high = column.bounds
            share = ((rows[:, place] - low) / (high - low)).clamp(EDGE, 1 - EDGE)
            parts.append(rows[:, place] if isinstance(column, Categorical) else share.logit())
        return torch.cat(parts, 1)

    def cool(self) -> None:
        """One step of the temperature's fall."""
        self.temperature *= self.decay

    def bind(
        self, observation: Observation, who: str, count: int, to: Tensor, generator: torch.Generator
    ) -> Prediction:
        """Get to work: all members go through the client's own arithmetic at once, each with weights of its own.

        Raises:
            UnknownToAdversary: the local training is withheld.
            BadConfig: the graph would outgrow the memory.
        """
        members, rounds = self.members, observation.rounds
        targets = Simulate().bind(observation, who, members * count, to, generator).targets
        training = observation.require_training(who)
        orders = [step_indices(training, count, generator=generator) if training.shuffle else None for _ in rounds]
        side_by_side = _SideBySide(observation.model)
        loss = torch.func.vmap(loss_function(training.loss), in_dims=1)
        own = replace(training, loss=lambda outputs, labels: loss(outputs, labels).sum())
        states = [
            {f"model.{name}": t.expand(members, *t.shape) for name, t in cast(round.state or {}, to).items()}
            for round in rounds
        ]

        def predict(number: int, candidate: Tensor, labels: Tensor) -> list[Tensor]:
            # examples first, for the local steps take slices of them
            rows, kept = (t.view(members, count, *t.shape[1:]).transpose(0, 1) for t in (self(candidate), labels))
            guess = local_training(
                side_by_side, states[number], rows, kept, own, rows=orders[number], differentiable=True
            )
            return [guess.tensors[f"model.{name}"] for name in observation.update.tensors]

        return Prediction(targets, predict, copies=members, settle=self.cool)


class _SideBySide(nn.Module):
    """A model with weights `(members, *shape)` on inputs `(N, members, width)`, outputs `(N, members, classes)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        one = torch.func.vmap(lambda own, rows: forward(self.model, own, rows), in_dims=(0, 1), out_dims=1)
        outputs: Tensor = one(tensors, inputs)
        return outputs


def member_distances(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """The cosine distance of each member, `(members,)`, from tensors `(members, *shape)` and `(*shape)`."""
    flat = torch.cat([g.flatten(1) for g in guess], 1)
    target = torch.cat([o.flatten() for o in observed])
    return torch.func.vmap(lambda one: cosine_distance([one], [target]))(flat)


def cosine_of_members(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """The members' cosine distances, summed: no member's slope depends on another.

    >>> guess = [torch.tensor([[1.0, 0.0], [0.0, 3.0]])]
    >>> round(cosine_of_members(guess, [torch.tensor([0.0, 2.0])]).item(), 6)
    1.0
    """
    return member_distances(guess, observed).sum()


class Pool(NamedTuple):
    """What members agree on.

    Args:
        rows: hard rows `(N, width)` of the median, in the order of the best member.
        confidence: `(N, columns)` in [0, 1].
        best: the best member's soft rows `(N, width)`.
    """

    rows: Tensor
    confidence: Tensor
    best: Tensor


def pooled_rows(table: Tabular, soft: Tensor, labels: Tensor, losses: Tensor) -> Pool:
    """Match every member's rows to the best member's, and take the median.

    Args:
        soft: rows `(members, N, width)`; rows of each member in any order among equal labels.
        losses: `(members,)`; members that are not finite have no say.
    """
    losses = losses.nan_to_num(math.inf, math.inf)
    best = soft[losses.argmin()]
    reference = Candidate(table.nearest(best), labels)
    alive = [member for member, loss in zip(soft, losses, strict=True) if math.isfinite(loss)] or [best]
    matched = torch.stack([member[assign(reference, Candidate(table.nearest(member), labels))] for member in alive])
    middle = matched.quantile(0.5, 0)
    return Pool(table.nearest(middle), cell_confidence(table, matched), best)


def cell_confidence(table: Tabular, matched: Tensor) -> Tensor:
    """How sure members `(members, N, width)` are of each cell, `(N, columns)` in [0, 1].

    Of a category one minus the entropy of the pooled softmax by its largest; of a number, one minus the deviation of
    the members by the column's. A Gaussian's entropy is the logarithm of its deviation.
    """
    cells = []
    for column, place in zip(table.columns, table.places, strict=True):
        part = matched[:, :, place]
        if isinstance(column, Categorical):
            pool = part.quantile(0.5, 0).clamp_min(1e-12)
            pool = pool / pool.sum(1, keepdim=True)
            cells.append(1 + (pool * pool.log()).sum(1) / math.log(column.width))
        else:
            cells.append(1 - part[..., 0].std(0, correction=0))
    return torch.stack(cells, 1).clamp(0, 1)


def _believed(plain: Reconstruction, polished: Reconstruction) -> Reconstruction:
    """The polished rows where they explain the update, else the plain ones."""
    one, other = plain.outcome.residual, polished.outcome.residual
    return polished if one is not None and other is not None and other < PROVED * one else plain


def _losses(search: Search, candidate: Candidate) -> Tensor:
    labels = candidate.labels.repeat(search.copies, *[1] * (candidate.labels.ndim - 1))
    guess = [search.prediction.predict(k, candidate.inputs, labels) for k in range(len(search.prediction.targets))]
    pairs = zip(guess, search.prediction.targets, strict=True)
    return torch.stack([member_distances(one, target).detach() for one, target in pairs]).sum(0)


def _seen(progress: ProgressCallback, search: Search, relaxed: RelaxedRows) -> ProgressCallback:
    """Show the first member's present rows: the search itself knows unconstrained candidates only."""
    count = len(search.start) // relaxed.members

    def show(at: Progress) -> None:
        with torch.no_grad():
            progress(replace(at, inputs=relaxed(search.candidate().inputs[:count])))

    return show


def tableak(
    *,
    members: int = 30,
    steps: int = 1500,
    lr: float = 0.06,
    warm: float = 3.0,
    cold: float = 0.3,
    labels: str = "best",
    polish: int = 40,
) -> TabLeak:
    """TabLeak as it is typed, with a name for its way to labels (Vero et al., ICML 2023, arXiv:2210.01785)."""
    return TabLeak(members, steps, lr, warm, cold, way_to_labels(labels), polish)
