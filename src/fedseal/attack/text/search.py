"""Searches for sentences: gradient matching over embeddings or mixtures of tokens, then a token for every place.

Each is a `GradientMatching` on the derived observation of `embedding.relaxed`; what it finds is judged by a replay of
the original observation. They find sentences that are classified as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedseal.attack.base import better, conclude
from fedseal.attack.labels.ways import BEST, way_to_labels
from fedseal.attack.search.label_source import LabelSource
from fedseal.attack.search.matching import LBFGS, Adam, GradientMatching, Search
from fedseal.attack.search.objective import cosine_distance, squared_distance
from fedseal.attack.search.schedule import cosine_decay
from fedseal.attack.text.embedding import RelaxedSentences, relaxed_sentences
from fedseal.types import Candidate, Observation, ProgressCallback, Reconstruction

CHECK = 25  # steps from one replay of the likeliest tokens to the next
SILENT = 1e-8  # a tensor's size among the largest's below which it is rounding


@dataclass(frozen=True)
class TextSearch:
    """Gradient matching over embeddings, then the nearest token of every place; or over mixtures of the tokens that
    the update leaks, then the likeliest.

    Args:
        search: the search; its labels, start and coordinates are set here.
        labels: where they come from; a method is asked on the original observation.
        mixtures: search among mixtures of tokens.
    """

    search: GradientMatching
    labels: LabelSource = BEST
    mixtures: bool = False

    @property
    def name(self) -> str:
        """The search's."""
        return self.search.name

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack; refuses as `posed` does."""
        started = time.perf_counter()
        problem, attack = posed(self.search, self.labels, observation, generator)
        if self.mixtures:
            return self._mix(problem, attack, generator, progress, started)
        search = Search(placed(attack, problem, problem.random(generator)), problem.observation, generator)
        search.advance(attack.steps, in_tokens(problem.ids, progress))
        return finished(problem, search, problem.ids(search.found().inputs), started)

    def _mix(
        self,
        problem: RelaxedSentences,
        attack: GradientMatching,
        generator: torch.Generator,
        progress: ProgressCallback | None,
        started: float,
    ) -> Reconstruction:
        """Search among mixtures until the likeliest tokens replay the update; the start counts as a guess."""
        search = Search(replace(attack, start=problem.undecided(generator)), problem.mixtures, generator)
        told, best = in_tokens(lambda logits: problem.likeliest(logits)[0], progress), None
        while True:
            ids, share = problem.likeliest(search.found().inputs)
            found = replace(finished(problem, search, ids, started), confidence=share)
            best = found if best is None else better(best, found)
            if best.outcome.status == "converged" or search.stopped or search.done >= attack.steps or not search.finite:
                outcome = replace(best.outcome, steps=search.done, seconds=time.perf_counter() - started)
                return replace(best, outcome=outcome)
            search.advance(CHECK, told)


def placed(search: GradientMatching, problem: RelaxedSentences, start: Tensor) -> GradientMatching:
    """The search from embeddings `(N, P, d)`, with the known tokens held in their places."""
    return replace(search, coordinates=problem.coordinates, start=start)


def posed(
    search: GradientMatching, labels: LabelSource, observation: Observation, generator: torch.Generator
) -> tuple[RelaxedSentences, GradientMatching]:
    """The continuous problem behind an observation of sentences, and the search that knows its labels and its noise.

    Raises:
        UnfitBatch: the inputs are no text.
        UnfitModel: the model does not classify sentences.
        UnknownToAdversary: weights, local training, batch size or labels are withheld and needed.
    """
    problem = relaxed_sentences(observation, search.name)
    observation.require_training(search.name)
    return problem, replace(informed(search, problem), labels=labels.beforehand(observation, generator))


def informed(search: GradientMatching, problem: RelaxedSentences) -> GradientMatching:
    """The search with the noise that the update shows told to an objective that can use it."""
    if not isinstance(search.objective, DenoisedCosine):
        return search
    return replace(search, objective=DenoisedCosine(problem.noise))


def in_tokens(read: Callable[[Tensor], Tensor], progress: ProgressCallback | None) -> ProgressCallback | None:
    """A callback that is told token ids where the search tells its own inputs."""
    if progress is None:
        return None
    told = progress
    return lambda step: told(step if step.inputs is None else replace(step, inputs=read(step.inputs)))


def finished(problem: RelaxedSentences, search: Search, ids: Tensor, started: float, note: str = "") -> Reconstruction:
    """The reconstruction of token ids `(N, L)`, with the certificate of the original observation."""
    labels = search.found().labels
    candidate = Candidate(ids, labels.argmax(-1) if labels.is_floating_point() else labels)
    ended = conclude(
        problem.original,
        candidate,
        route=search.attack.name,
        steps=search.done,
        started=started,
        status="budget" if search.finite else "diverged",
        note="; ".join(filter(None, [problem.note, note])),
    )
    return ended if search.finite else replace(ended, inputs=None, certificate=None)


def relative_square(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """Squared distance as a share of the observed update's square, so that steps and tolerances know its size.

    >>> relative_square([torch.tensor([0.0])], [torch.tensor([2.0])]).item()
    1.0
    """
    size = torch.stack([o.square().sum() for o in observed]).sum()
    return squared_distance(guess, observed) / size.clamp_min(torch.finfo(size.dtype).tiny)


@dataclass(frozen=True)
class DenoisedCosine:
    """Mean cosine distance of tensors (Balunovic et al., NeurIPS 2022, arXiv:2202.08827), each weighted by the share of
    its square that is no noise; the weighting is ours.

    The bias of attention's keys moves every score of a softmax alike: its gradient is rounding alone, and its direction
    would drown what small true gradients tell.

    Args:
        noise: standard deviation of noise on every entry.

    >>> one = torch.tensor([1.0, 0.0])
    >>> DenoisedCosine()([one, one], [one, -1e-9 * one]).item()
    0.0
    """

    noise: float = 0.0

    def __call__(self, guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """The distance, a scalar."""
        squares = torch.stack([o.square().sum() for o in observed])
        expected = self.noise**2 * squares.new_tensor([o.numel() for o in observed])
        shares = (1 - expected / squares.clamp_min(torch.finfo(squares.dtype).tiny)).clamp_min(0)
        told = shares * (squares > SILENT**2 * squares.max())
        told = told * (told > 0.1)
        pairs = zip(guess, observed, told.tolist(), strict=True)
        terms = [weight * cosine_distance([g], [o]) for g, o, weight in pairs if weight > 0]
        if not terms:
            return cosine_distance(guess, observed)
        return torch.stack(terms).sum() / told.sum()


@dataclass(frozen=True)
class TagDistance:
    """Squared distance plus tau times the absolute distance of each tensor, with weights that fall from 1 at the
    input to 0 behind the head; both as shares of the observed update's.

    Deng et al., "TAG: Gradient attack on transformer-based language models", Findings of EMNLP 2021, arXiv:2103.06819.

    >>> TagDistance(tau=0.5)([torch.tensor([0.0])], [torch.tensor([2.0])]).item()
    1.5
    """

    tau: float = 0.05

    def __call__(self, guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
        """The distance, a scalar."""
        weights = [1 - number / len(observed) for number in range(len(observed))]
        terms = zip(weights, guess, observed, strict=True)
        absolute = torch.stack([w * (g - o).abs().sum() for w, g, o in terms]).sum()
        size = torch.stack([w * o.abs().sum() for w, o in zip(weights, observed, strict=True)]).sum()
        return relative_square(guess, observed) + self.tau * absolute / size.clamp_min(torch.finfo(size.dtype).tiny)


def dlg_text(*, steps: int = 40, labels: str = "best") -> TextSearch:
    """DLG over embeddings: squared distance from a normal start, L-BFGS with a line search.

    Zhu, Liu and Han, NeurIPS 2019, arXiv:1906.08935, section 4.2; labels are read off the head first.
    """
    search = GradientMatching("dlg_text", objective=relative_square, optimizer=LBFGS(line_search=True), steps=steps)
    return TextSearch(search, way_to_labels(labels))


def tag(*, steps: int = 1000, lr: float = 0.05, tau: float = 0.05, labels: str = "best") -> TextSearch:
    """TAG: squared and weighted absolute distance, Adam (Deng et al., Findings of EMNLP 2021, arXiv:2103.06819).

    `lr` is in standard deviations of an embedding's entries, `tau` the weight of the absolute distance.
    """
    optimizer = Adam(lr=lr, signed=False, schedule=cosine_decay)
    search = GradientMatching("tag", objective=TagDistance(tau), optimizer=optimizer, steps=steps)
    return TextSearch(search, way_to_labels(labels))


def mixture(*, steps: int = 300, lr: float = 0.1, labels: str = "best") -> TextSearch:
    """Search among mixtures of the tokens that the update leaks, by the mean cosine distance of layers; own form.

    Every place holds softmax shares of those few tokens, as columns do in TabLeak (Vero et al., ICML 2023,
    arXiv:2210.01785), where published searches let embeddings go anywhere; the shares are its confidence. A single
    sentence starts from its incidence, which without noise is the sentence: see `embedding.incidence`.
    """
    optimizer = Adam(lr=lr, signed=False, schedule=cosine_decay)
    search = GradientMatching("mixture", objective=DenoisedCosine(), optimizer=optimizer, steps=steps)
    return TextSearch(search, way_to_labels(labels), mixtures=True)
