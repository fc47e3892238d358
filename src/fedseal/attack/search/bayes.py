"""The most probable input, given the update, what is known of the defense, and what pictures look like.

The likelihood alone is a narrow, bent valley. So the search first trusts the model of the client a little, while the
prior holds the picture smooth, and then more and more, by stages, until only the defense's own error is left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.base import conclude, order_is_secret
from fedseal.attack.evidence.belief import belief
from fedseal.attack.evidence.draw import drawn
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.release import Release
from fedseal.attack.search.init import grey
from fedseal.attack.search.label_source import LabelSource, given_or
from fedseal.attack.search.likelihood import TRUST, Likelihood
from fedseal.attack.search.matching import LBFGS, Adam, GradientMatching, Search
from fedseal.attack.search.prior import Bindable, OutOfRange, Prior, Scene, color_variation
from fedseal.attack.search.schedule import cosine_decay
from fedseal.attack.search.update_model import Simulate, number_of_steps
from fedseal.norm import length
from fedseal.types import Candidate, Modality, Observation, ProgressCallback, Reconstruction

Coordinates = Callable[[Tensor], Tensor]

# Mean of `color_variation` over natural pictures of 32x32; of a prior whose energy grows in proportion to contrast, the
# most likely weight, for each value, is one over its mean. Measured on crops of the two photographs that scikit-learn
# brings along, which are in no benchmark here.
NATURAL = 0.1
FIRST = 3e-3  # softness of the first stage
FINER = 0.3  # each stage trusts the model of the client that much more
COARSE = 10  # local steps up to which the client's own are differentiated
ROUGH = 3e-2  # softness where the client is modeled by fewer steps than it takes, or its order is guessed
STALL = 1e-5  # a stage ends once a step gains less than this share; a nat of thousands may be worth a decibel
DROWNED = 0.25  # share of noise in an update from which edges cannot be placed, and total variation only flattens
PER_STEP = 20  # steps of Adam for one of L-BFGS
COVERED = 0.3  # share of the defense's error below which trusting the arithmetic more changes nothing


@dataclass(frozen=True)
class Spectrum(Bindable):
    """Negative log-density, for each value, of a normal field with the spectrum of natural pictures; see `belief`."""

    def bind(self, scene: Scene) -> Prior:
        """The prior of the modality's inputs."""
        coordinates = belief(scene.observation.modality).coordinates

        def prior(inputs: Tensor) -> Tensor:
            units = [coordinates(one.double().cpu().flatten()) for one in inputs]  # the belief lives on the CPU
            return 0.5 * torch.stack(units).square().mean().to(inputs)

        return prior


@dataclass(frozen=True)
class Bayes:
    """Maximum a posteriori: `Likelihood`, natural spectrum and edges, the valid range, by stages.

    Balunovic et al., "Bayesian framework for gradient leakage", ICLR 2022, arXiv:2111.04706. Weights, stages and
    likelihoods other than of noise are ours.

    Args:
        labels: where they come from.
        steps: of L-BFGS, of up to 20 evaluations each, over all stages; of Adam, for networks with kinks, 20 times as
            many come first.
        tv: weight of total variation beside the spectrum; 1 is what natural pictures alone would make most likely.
        starts: inputs `(N, *shape)` to start from, each with all steps; grey too, where no start is more probable.
        coordinates: of searches from `starts`, as in `GradientMatching`; None for those of natural pictures.
    """

    labels: LabelSource
    steps: int = 40
    tv: float = 0.3
    starts: tuple[Tensor, ...] = ()
    coordinates: Coordinates | None = None
    name: str = "bayes"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Attack.

        Raises:
            UnknownToAdversary: weights, local training, batch size or labels are withheld and needed.
            NotTwiceDifferentiable: an operator of the model has no second derivative.
        """
        started = time.perf_counter()
        observation = drawn(observation)
        evidence = Evidence.of(observation)
        searches = [self._searched(evidence, search, progress) for search in self._begun(evidence, generator)]
        best = searches[0] if len(searches) == 1 else min(searches, key=lambda ended: self._value(evidence, ended))
        return conclude(
            observation,
            replace(best.found, inputs=self._valid(observation, best.found.inputs)),
            route=self.name,
            steps=sum(ended.steps for ended in searches),
            started=started,
        )

    def _begun(self, evidence: Evidence, generator: torch.Generator) -> list[Search]:
        """Searches from the starts that are more probable than grey, else from grey; of networks with kinks one."""
        observation, kinked = evidence.observation, _kinked(evidence)
        adam = Adam(lr=0.05, signed=True, schedule=cosine_decay)
        attack = self._stage(observation, FIRST, adam, PER_STEP * self.steps)
        attack = replace(attack, update_model=_client(evidence))
        smooth = None if kinked else _smooth_first(observation.modality)
        grey_one = Search(replace(attack, coordinates=smooth), observation, generator)
        known = given_or(grey_one.labels, self.labels)  # inferred once
        attack = replace(attack, labels=known, coordinates=None if kinked else self.coordinates or smooth)
        others = [Search(replace(attack, start=start), observation, generator) for start in self.starts]
        least = grey_one.value()
        better = sorted((s for s in others if s.value() < least), key=Search.value)
        return (better[:1] if kinked else better) or [grey_one]

    def _searched(self, evidence: Evidence, search: Search, progress: ProgressCallback | None) -> _Ended:
        """One search through all its stages."""
        stages = self._stages(evidence, search)
        each = max(1, self.steps // len(stages))
        found, finished = search.found(), 0
        if _kinked(evidence):
            search.advance(search.attack.steps, progress)
            found, finished = search.found(), search.done
        for softness in stages:
            if not search.finite:
                break
            self._go_on(search, softness, LBFGS(line_search=True), each)
            search.advance(each, progress)
            if search.finite:
                found, finished = search.found(), search.done
        return _Ended(found, finished, search)

    def _value(self, evidence: Evidence, ended: _Ended) -> float:
        """How improbable an end is, by the last stage that any search comes to."""
        if not ended.search.finite:
            return math.inf
        self._go_on(ended.search, self._last(evidence, ended.search), LBFGS(), 1)
        return ended.search.value()

    def _go_on(self, search: Search, softness: float, optimizer: LBFGS, steps: int) -> None:
        stage = self._stage(search.observation, softness, optimizer, steps)
        search.go_on(replace(stage, coordinates=search.attack.coordinates))

    def _stage(
        self, observation: Observation, softness: float, optimizer: LBFGS | Adam, steps: int
    ) -> GradientMatching:
        return GradientMatching(
            self.name,
            labels=self.labels,
            init=grey,
            objective=Likelihood(softness),
            priors=self._priors(observation),
            optimizer=optimizer,
            steps=steps,
            dtype=torch.float32 if observation.like.device.type == "mps" else torch.float64,
            stall=STALL if isinstance(optimizer, LBFGS) else -math.inf,
        )

    def _priors(self, observation: Observation) -> tuple[tuple[float, Prior | Bindable], ...]:
        """What inputs look like; a picture times random signs looks like nothing, and is out of range."""
        if Evidence.of(observation).release.of_kind("flipped"):
            return ()
        picture = self.tv > 0 and len(observation.modality.shape) == 3 and _noise_share(observation) < DROWNED
        return ((1.0, OutOfRange()), (1.0, Spectrum()), *(((self.tv / NATURAL, color_variation),) if picture else ()))

    def _valid(self, observation: Observation, inputs: Tensor) -> Tensor:
        return inputs if Evidence.of(observation).release.of_kind("flipped") else observation.modality.project(inputs)

    def _stages(self, evidence: Evidence, search: Search) -> list[float]:
        """Softness by stages, from what the start explains down to what the defense's own error covers."""
        release = evidence.release
        if release.of_error("sign"):
            return [FIRST, 0.3 * FIRST, 0.1 * FIRST, 0.03 * FIRST]
        last = self._last(evidence, search)
        if search.attack.start is not None:  # trusted as far as it bears out, so that it can only become more probable
            return [max(last, min(FIRST, _misfit(release, search)))]
        stages = [max(last, FIRST)]
        while stages[-1] > last:
            stages.append(max(last, FINER * stages[-1]))
        return stages

    def _last(self, evidence: Evidence, search: Search) -> float:
        """The softness from which on trusting the client's model more would change nothing, or be too much."""
        release, last = evidence.release, TRUST
        if search.prediction.copies > 1 or _client(evidence).coarse is not None or _guessed(evidence):
            last = ROUGH
        covers = []
        for name, tensor in release.round.update.tensors.items():
            norm = float(tensor.double().norm())
            if norm > 0 and release.sent(name) is None:
                covers.append(COVERED * float(release.spread(name).min()) / norm)
        return max(last, min(covers, default=0.0))


class _Ended(NamedTuple):
    """Where a search ended, and after how many steps."""

    found: Candidate
    steps: int
    search: Search


def _smooth_first(modality: Modality) -> Coordinates:
    """Coordinates `(numel, 1)` in which coarse parts of inputs move as easily as natural pictures vary in them."""
    spread = belief(modality).spread

    def moved(unit: Tensor) -> Tensor:
        ones = unit.double().cpu().reshape(-1, math.prod(modality.shape))
        return torch.cat([spread(one) for one in ones])[:, None].to(unit)

    return moved


def _noise_share(observation: Observation) -> float:
    """Which share of the update's power is the defense's noise."""
    release, tensors = Evidence.of(observation).release, observation.update.tensors
    noise = sum(float(release.spread(n).square().expand(t.shape).sum()) for n, t in tensors.items())
    return noise / max(length(tensors.values()) ** 2, 1e-300)


def _misfit(release: Release, search: Search) -> float:
    """The softness at which the candidate's update is as far off as expected, of the weight that is furthest off."""
    shares, names = [0.0], list(release.round.update.tensors)
    for name, guess, observed in zip(
        names, search.predicted(release.number), search.prediction.targets[0], strict=True
    ):
        sent, norm = release.sent(name), float(observed.norm())
        difference = guess - observed if sent is None else (guess - observed) * sent
        entries = observed.numel() if sent is None else int(sent.sum())
        if norm > 0 and entries and observed.ndim > 1:
            shares.append(float(difference.norm()) / (norm * math.sqrt(entries)))
    return max(shares)


def _kinked(evidence: Evidence) -> bool:
    """Whether the network has kinks, over which L-BFGS stumbles."""
    return evidence.structure.nonsmooth


def _guessed(evidence: Evidence) -> bool:
    training, count = evidence.observation.training, evidence.batch_size
    return training is not None and count is not None and order_is_secret(training, count)


def _client(evidence: Evidence) -> Simulate:
    """The client's own steps where they are few, else few steps in their place."""
    training, count = evidence.observation.training, evidence.batch_size
    many = training is not None and count is not None and number_of_steps(training, count) > COARSE
    return Simulate(coarse=COARSE if many else None)
