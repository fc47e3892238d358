"""The attacker of the reconstruction bounds: it knows a few candidates for the target and all else, and picks one.

It follows Bayes' rule with the exact likelihood, so that no attack with the same knowledge names the target more often,
and none with less. It shows what noise leaves to find; `metric.bound` says what it can leave at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedseal.attack.base import replay
from fedseal.attack.evidence.release import Release
from fedseal.errors import BadConfig, UnknownToAdversary
from fedseal.types import Batch, Candidate, LocalTraining, Observation, Round, Tensors

ARITHMETIC = 2.5  # units in the last place by which a client's gradient is off without any noise


@dataclass(frozen=True)
class CandidateFinding:
    """Which candidate the updates speak for.

    Args:
        choice: its place among the candidates.
        posterior: probability of each candidate, `(K,)`, given the updates and the prior.
    """

    choice: int
    posterior: tuple[float, ...]


@dataclass(frozen=True)
class Hypotheses:
    """What would be sent for each candidate, entry by entry in units of the noise; R rounds, D entries, K candidates.

    Args:
        without: the update without the target, `(R, D)`.
        added: what each candidate adds to it, `(R, K, D)`.
        per_noise: one over the noise's standard deviation, `(R, D)`; 0 for entries that were not sent.
        log_prior: `(K,)`.
        sample_rate: the probability that the target is in a round's batch.
    """

    without: Tensor = field(repr=False)
    added: Tensor = field(repr=False)
    per_noise: Tensor = field(repr=False)
    log_prior: Tensor
    sample_rate: float = 1.0

    def __call__(self, observation: Observation) -> CandidateFinding:
        """Judge an observed update, or several of one target."""
        names = list(observation.update.tensors)
        seen = torch.stack([_flat(round.update.tensors, names) for round in observation.rounds])
        posterior = self.log_posterior(seen).exp()
        return CandidateFinding(int(posterior.argmax()), tuple(posterior.tolist()))

    def log_posterior(self, updates: Tensor) -> Tensor:
        """Log probability of each candidate, `(..., K)`, given updates `(..., R, D)` in float64.

        The log likelihood ratio of a round with the target to one without is the matched filter <r, a> - |a|^2 / 2 of
        what remains, r, and what the candidate adds, a; where the target may be absent, both cases count.
        """
        remains = (updates - self.without) * self.per_noise
        added = self.added * self.per_noise.unsqueeze(1)
        ratio = torch.einsum("...rd,rkd->...rk", remains, added) - added.square().sum(-1) / 2
        if self.sample_rate < 1:
            ratio = torch.logaddexp(ratio + math.log(self.sample_rate), ratio.new_tensor(math.log1p(-self.sample_rate)))
        return (ratio.sum(-2) + self.log_prior).log_softmax(-1)


@dataclass(frozen=True)
class KnownCandidates:
    """Names the target among public candidates, by the likelihood of the observed updates under the known defense.

    The prior-aware attacker of Hayes, Mahloujifar and Balle, NeurIPS 2023, arXiv:2302.07225, with the exact Gaussian
    likelihood in place of their inner product. Noise of another form is taken for normal noise of the same variance.

    Args:
        candidates: K examples, one of which is the target: it is the last example of the client's batch.
        known: the other examples of the batch, in its order; None if there are none.
        prior: probability of each candidate; None for equally likely ones.
        sample_rate: the probability that the target is in a round's batch; the known examples are in every one, and
            the sum over the batch is divided by their number and one.

    Raises:
        BadConfig: fewer than two candidates, a prior that is none, or a rate not in (0, 1].
    """

    candidates: Batch = field(repr=False)
    known: Batch | None = field(default=None, repr=False)
    prior: tuple[float, ...] | None = None
    sample_rate: float = 1.0
    name: str = "candidates"

    def __post_init__(self) -> None:
        if len(self.candidates) < 2:
            raise BadConfig("a single candidate leaves nothing to find out", "give at least 2")
        if self.prior is not None and (
            len(self.prior) != len(self.candidates)
            or not all(p > 0 for p in self.prior)
            or abs(sum(self.prior) - 1) > 1e-9
        ):
            raise BadConfig(
                f"the prior over {len(self.candidates)} candidates is {self.prior}",
                "give one positive probability for each, with sum 1",
            )
        if not 0 < self.sample_rate <= 1:
            raise BadConfig(f"the sampling rate is {self.sample_rate}", "give a number above 0 and at most 1")

    @property
    def kappa(self) -> float:
        """The success of a guess without any update."""
        return max(self.prior) if self.prior is not None else 1 / len(self.candidates)

    def __call__(self, observation: Observation) -> CandidateFinding:
        """Pick a candidate; nothing is drawn.

        Raises:
            UnknownToAdversary: the weights, the local training or the defense is withheld.
            BadConfig: a target that may be absent, without a defense that clips single examples' gradients.
        """
        return self.fit(observation)(observation)

    def fit(self, observation: Observation) -> Hypotheses:
        """What would be sent for each candidate at the observed weights; of the updates only their precision is read.

        Raises:
            UnknownToAdversary: the weights, the local training or the defense is withheld.
            BadConfig: a target that may be absent, without a defense that clips single examples' gradients.
        """
        observation.require_state(self.name)
        training = observation.require_training(self.name)
        if observation.defense is None:
            raise UnknownToAdversary(
                f"{self.name} weighs updates by the defense's noise, which the threat model '{observation.threat}' "
                "withholds",
                "grant 'defense'",
            )
        rounds = [self._round(observation, number, training) for number in range(len(observation.rounds))]
        without, added, per_noise = (torch.stack(parts) for parts in zip(*rounds, strict=True))
        prior = self.prior or (self.kappa,) * len(self.candidates)
        return Hypotheses(without, added, per_noise, without.new_tensor(prior).log(), self.sample_rate)

    def _round(self, observation: Observation, number: int, training: LocalTraining) -> tuple[Tensor, Tensor, Tensor]:
        """`without`, `added` and `per_noise` of one round."""
        release = Release(observation, number)
        norms = [step.figures["norm"] for step in release.of_kind("clip_examples")]
        candidates = self.candidates.to(observation.like.device)
        known = None if self.known is None else self.known.to(observation.like.device)
        if norms:
            count = 1 + (0 if known is None else len(known))
            grads = _clipped(observation, release.round, candidates, training, min(norms))
            rest = torch.zeros_like(grads[0])
            if known is not None:
                rest = _clipped(observation, release.round, known, training, min(norms)).sum(0)
            without, present = rest / count, (rest + grads) / count
        elif self.sample_rate < 1:
            raise BadConfig(
                "the target may be absent from a batch, and no step of the defense clips single examples' gradients",
                "observe a client that runs DP-SGD, or leave sample_rate at 1",
            )
        else:
            present = _whole(observation, release.round, candidates, known, training)
            without = torch.zeros_like(present[0])
        for step in release.of_kind("clip"):
            without, present = _shrunk(without, step.figures["norm"]), _shrunk(present, step.figures["norm"])
        return without, present - without, _per_noise(release)


def _clipped(observation: Observation, round: Round, batch: Batch, training: LocalTraining, norm: float) -> Tensor:
    """Gradients of single examples, `(N, D)` in float64, each shrunk to the norm if longer."""
    rows = [_sent(observation, round, batch[i : i + 1], training) for i in range(len(batch))]
    return _shrunk(torch.stack(rows), norm)


def _whole(
    observation: Observation, round: Round, candidates: Batch, known: Batch | None, training: LocalTraining
) -> Tensor:
    """Updates of the whole batch with each candidate in the target's place, `(K, D)` in float64."""
    rows = []
    for place in range(len(candidates)):
        batch = candidates[place : place + 1]
        if known is not None:
            batch = Batch(torch.cat([known.inputs, batch.inputs]), torch.cat([known.labels, batch.labels]))
        rows.append(_sent(observation, round, batch, training))
    return torch.stack(rows)


def _sent(observation: Observation, round: Round, batch: Batch, training: LocalTraining) -> Tensor:
    inputs = batch.inputs.to(observation.like.dtype) if batch.inputs.is_floating_point() else batch.inputs
    tensors = replay(observation, round, Candidate(inputs, batch.labels), training)
    return _flat(tensors, list(round.update.tensors))


def _shrunk(rows: Tensor, norm: float) -> Tensor:
    """Rows `(..., D)` shrunk to this Euclidean norm where they are longer."""
    length = rows.norm(dim=-1, keepdim=True)
    factor: Tensor = (norm / length.clamp_min(1e-300)).clamp_max(1.0)
    return rows * factor


def _per_noise(release: Release) -> Tensor:
    """One over the standard deviation of each entry's error, `(D,)` in float64; 0 where nothing was sent."""
    parts = []
    for name, tensor in release.round.update.tensors.items():
        size = float(tensor.double().square().mean().sqrt())
        least = max(ARITHMETIC * torch.finfo(tensor.dtype).eps * size, 1e-300)
        weight = 1 / release.spread(name).clamp_min(least).expand(tensor.shape)
        sent = release.sent(name)
        parts.append((weight if sent is None else torch.where(sent, weight, 0.0)).flatten())
    return torch.cat(parts)


def _flat(tensors: Tensors, names: list[str]) -> Tensor:
    return torch.cat([tensors[name].detach().double().flatten() for name in names])
