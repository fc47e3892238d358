"""LAMP: gradient matching over embeddings that alternates with discrete moves of tokens, judged by a language prior.

Balunovic et al., "LAMP: Extracting text from gradients with language model priors", NeurIPS 2022, arXiv:2202.08827.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedseal.attack.base import replay
from fedseal.attack.labels.ways import BEST, way_to_labels
from fedseal.attack.search.label_source import LabelSource
from fedseal.attack.search.matching import Adam, GradientMatching, Search
from fedseal.attack.search.schedule import cosine_decay
from fedseal.attack.text.embedding import RelaxedSentences
from fedseal.attack.text.search import DenoisedCosine, finished, in_tokens, placed, posed
from fedseal.types import Candidate, Observation, ProgressCallback, Reconstruction

Fluency = Callable[[Tensor], Tensor]  # token ids (N, L) -> mean negative log-likelihood of a token, (N,)


@dataclass(frozen=True)
class Lamp:
    """The best of many starts, then steps of gradient matching in turns with the best of many moves of tokens.

    A move swaps two tokens of a sentence, or moves one, a span, or the beginning to the end. It is kept where it lowers
    distance + fluency * mean negative log-likelihood under the prior; without a prior, the distance alone.

    Args:
        search: the steps; its labels, start, coordinates and the length of embeddings are set here.
        prior: a language model; token ids `(N, L)` -> mean negative log-likelihood of a token `(N,)`. It must know
            nothing of the client's sentences.
        labels: as of `TextSearch`.
        starts: random starts, and as many permutations of the best.
        proposals: moves tried for each sentence in every turn.
        every: steps from one turn to the next.
        begin: share of the steps before the first turn.
        fluency: weight of the prior.
        length: weight of the squared relative error of the embeddings' mean length.
    """

    search: GradientMatching
    prior: Fluency | None = None
    labels: LabelSource = BEST
    starts: int = 50
    proposals: int = 50
    every: int = 50
    begin: float = 0.1
    fluency: float = 0.02
    length: float = 0.1

    @property
    def name(self) -> str:
        """The search's."""
        return self.search.name

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack; refuses as `text.posed` does."""
        started = time.perf_counter()
        problem, attack = posed(self.search, self.labels, observation, generator)
        attack = replace(attack, priors=(*attack.priors, (self.length, MeanLength.of(problem))))
        search = Search(placed(attack, problem, problem.random(generator)), problem.observation, generator)
        put(search, problem, self._best_start(search, problem, generator))
        told, moved = in_tokens(problem.ids, progress), 0
        search.advance(max(1, round(self.begin * attack.steps)), told)
        while search.done < attack.steps and search.finite and not search.stopped:
            moved += self._turn(search, problem, generator)
            search.advance(self.every, told)
        if search.finite:
            moved += self._turn(search, problem, generator)
        ids = problem.ids(search.found().inputs)
        return finished(problem, search, ids, started, f"{moved} moves of tokens were kept")

    def _best_start(self, search: Search, problem: RelaxedSentences, generator: torch.Generator) -> Tensor:
        """The best of random starts, then of its permutations."""
        tried = [search.start, *[problem.random(generator) for _ in range(self.starts - 1)]]
        best = min(tried, key=lambda inputs: embedding_distance(search, problem, inputs))
        shuffled = [best]
        for _ in range(self.starts):
            inputs = best.clone()
            for row, free in zip(inputs, problem.free, strict=True):
                places = free.nonzero().flatten()
                row[places] = row[places[torch.randperm(len(places), generator=generator).to(places.device)]]
            shuffled.append(inputs)
        return min(shuffled, key=lambda inputs: embedding_distance(search, problem, inputs))

    def _turn(self, search: Search, problem: RelaxedSentences, generator: torch.Generator) -> int:
        """Try moves in every sentence and keep the best that is better; how many were kept."""
        inputs, kept = search.found().inputs, 0
        for number in range(len(inputs)):
            places = problem.free[number].nonzero().flatten()
            if len(places) < 2:
                continue
            tried = [inputs]
            for _ in range(self.proposals):
                other = inputs.clone()
                other[number, places] = inputs[number, places[new_order(len(places), generator).to(places.device)]]
                tried.append(other)
            costs = self._costs(search, problem, tried, number)
            best = int(costs.argmin())
            if best > 0:
                inputs, kept = tried[best], kept + 1
        if kept:
            put(search, problem, inputs)
        return kept

    def _costs(self, search: Search, problem: RelaxedSentences, tried: list[Tensor], number: int) -> Tensor:
        """The cost of each of the tried inputs, which differ in sentence `number`, `(len(tried),)`."""
        costs = torch.tensor([embedding_distance(search, problem, inputs) for inputs in tried], dtype=torch.float64)
        if self.prior is not None:
            ids = problem.ids(torch.stack(tried))[:, number]
            costs = costs + self.fluency * self.prior(ids).double().cpu()
        return costs


@dataclass(frozen=True)
class MeanLength:
    """Squared relative error of the mean length of embeddings `(N, P, d)` against that of the tokens'."""

    expected: float

    @classmethod
    def of(cls, problem: RelaxedSentences) -> MeanLength:
        """Against the tokens that the update leaks."""
        return cls(float(problem.table[problem.allowed].square().sum(1).sqrt().mean()))

    def __call__(self, inputs: Tensor) -> Tensor:
        """The error, a scalar."""
        length: Tensor = torch.linalg.vector_norm(inputs, dim=-1).mean()
        return (length / self.expected - 1).square()


def new_order(count: int, generator: torch.Generator) -> Tensor:
    """A new order `(count,)` of two or more tokens: two swapped, or one, a span, or the beginning moved elsewhere.

    >>> sorted(new_order(5, torch.Generator().manual_seed(0)).tolist())
    [0, 1, 2, 3, 4]
    """

    def below(bound: int) -> int:
        return int(torch.randint(bound, (), generator=generator))

    order, kind = list(range(count)), below(4)
    if kind == 0:
        one, two = below(count), below(count - 1)
        two += two >= one
        order[one], order[two] = order[two], order[one]
    elif kind == 3:
        cut = 1 + below(count - 1)
        order = order[cut:] + order[:cut]
    else:
        width = 1 if kind == 1 else 1 + below(count - 1)
        first = below(count - width + 1)
        span, rest = order[first : first + width], order[:first] + order[first + width :]
        place = below(len(rest) + 1)
        order = rest[:place] + span + rest[place:]
    return torch.tensor(order)


def embedding_distance(search: Search, problem: RelaxedSentences, inputs: Tensor) -> float:
    """The search's distance of updates for these embeddings `(N, P, d)`, summed over the rounds; priors apart."""
    observation = problem.observation
    candidate, training = Candidate(inputs, search.found().labels), observation.require_training(search.attack.name)
    total = 0.0
    for number, round in enumerate(observation.rounds):
        guess = replay(observation, round, candidate, training)
        total += float(search.objectives[number](list(guess.values()), list(round.update.tensors.values())))
    return total


def put(search: Search, problem: RelaxedSentences, inputs: Tensor) -> None:
    """Let the search go on from these embeddings `(N, P, d)`."""
    with torch.no_grad():
        moves = (inputs - search.start) / problem.scale * problem.free[..., None]
        search.pieces[0].copy_(moves.reshape(-1, 1))


def lamp(
    *,
    steps: int = 600,
    lr: float = 0.03,
    starts: int = 50,
    proposals: int = 50,
    fluency: float = 0.02,
    length: float = 0.1,
    labels: str = "best",
) -> Lamp:
    """LAMP with the mean cosine distance of layers; give it a language model by `dataclasses.replace(.., prior=..)`.

    Balunovic et al., NeurIPS 2022, arXiv:2202.08827. `lr` is in standard deviations of an embedding's entries, and
    weights are ours.
    """
    search = GradientMatching(
        "lamp",
        objective=DenoisedCosine(),
        optimizer=Adam(lr=lr, signed=False, schedule=cosine_decay),
        steps=steps,
    )
    return Lamp(search, None, way_to_labels(labels), starts, proposals, fluency=fluency, length=length)
