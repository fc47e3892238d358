"""How likely the observed update is, had the client held the candidate: the objective of an attacker who knows the
defense.

A maximum a posteriori estimate lowers this objective plus that of a prior (Balunovic et al., "Bayesian framework for
gradient leakage", ICLR 2022, arXiv:2111.04706: the attack that no other beats is the one that models the defense). What
the client does without chance, such as clipping, is done to the candidate's update too; what chance adds is the error
by which the difference is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedseal.attack.evidence.release import Release
from fedseal.attack.search.objective import Measured, Objective
from fedseal.mechanism import Mechanism
from fedseal.types import Observation

ROUNDED = 0.1  # how far from its peak, in scales, a Laplacian density is rounded off, so that it has a slope
WIDER = 300.0  # by how much more a sign is doubted than a value: softness 3e-3 doubts those of entries below the RMS
TRUST = 1e-6  # standard error of the client's and our arithmetic, as a share of a tensor's norm


@dataclass(frozen=True)
class Likelihood(Measured):
    """Negative log-likelihood of an observed update, in nats for each value of the candidate.

    Of each entry by what `Release` says of it: normal or Laplacian noise by its density; rounding as an error uniform
    over its interval, by the normal density of that variance; an entry that pruning dropped by how far it stands above
    the smallest that was kept; a sign by whether it agrees; noise of unknown strength with the strength profiled out.
    A layer that is tampered with counts as far as it was sent. Clipping, and pruning that later noise covers, are done
    to the candidate's update. Constants are left out.

    Args:
        softness: standard error added to every tensor, as a share of its norm: how far the model of the client is
            trusted. A search that lowers it by stages finds its way.
    """

    softness: float = TRUST

    def bind(self, observation: Observation, number: int, observed: Sequence[Tensor], values: int) -> Objective:
        """The objective of one round."""
        release = Release(observation, number)
        names = list(release.round.update.tensors)
        entries = [_Entries.of(release, n, o, self.softness) for n, o in zip(names, observed, strict=True)]
        links = [_link(release, step, names, observed) for step in release.steps]

        def objective(guess: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
            passed = _Passing.through(links, guess, observed)
            parts = zip(entries, passed.values, observed, passed.variances, strict=True)
            return torch.stack([entry.nats(g, o, v) for entry, g, o, v in parts]).sum() / values

        return objective


def objective_for(observation: Observation, number: int = 0, *, softness: float = TRUST) -> Objective:
    """The negative log-likelihood of one round's update in nats, up to a constant; see `Likelihood`.

    >>> import fedseal as fs
    >>> batch, model, noise = fs.zoo.photos(size=8)[:1], fs.zoo.lenet(size=8, width=4), fs.defense.parse("gaussian:0.5")
    >>> training, draws = fs.LocalTraining.fedsgd(), torch.Generator().manual_seed(0)
    >>> update = fs.local_update(model, batch, training=training, defense=noise, generator=draws)
    >>> threat = fs.ThreatModel.honest_but_curious()
    >>> seen = threat.observe(model, update, modality=fs.Image(shape=(3, 8, 8)), defense=noise)
    >>> truth = list(fs.local_update(model, batch, training=training).tensors.values())
    >>> nats = objective_for(seen)(truth, list(update.tensors.values()))
    >>> round(float(nats) / sum(tensor.numel() for tensor in truth), 1)
    0.5
    """
    observed = list(observation.rounds[number].update.tensors.values())
    return Likelihood(softness).bind(observation, number, observed, 1)


@dataclass(frozen=True)
class _Entries:
    """What was observed of one tensor's entries.

    Args:
        sent: whether an entry carries a value; None where all do.
        bound: how large the others were at most, None where nobody knows.
        trust: standard error of arithmetic and model.
    """

    form: Literal["normal", "laplace", "sign", "profile"]
    sent: Tensor | None
    bound: float | None
    softness: float
    trust: Tensor

    @classmethod
    def of(cls, release: Release, name: str, observed: Tensor, softness: float) -> _Entries:
        """What a release says of this parameter."""
        left = {step.facts.error for step in release.steps if step.touches(name)}

        form: Literal["normal", "laplace", "sign", "profile"] = "normal"
        if "sign" in left:
            form = "sign"
        elif "unknown" in left:
            form = "profile"
        elif "laplace" in left and release.family == "laplace":
            form = "laplace"
        sent = release.sent(name)
        norm = observed.norm().clamp_min(torch.finfo(observed.dtype).tiny)
        return cls(
            form,
            None if sent is None else sent.to(observed.device),
            release.bound(name),
            softness,
            softness * norm,
        )

    def nats(self, guess: Tensor, observed: Tensor, variance: Tensor) -> Tensor:
        """Negative log-likelihood of the tensor, a scalar; `variance`: of the errors of known spread."""
        if self.sent is not None and self.bound is None and not bool(self.sent.any()):
            return guess.new_zeros(())
        error = variance + self.trust.square()
        if self.form == "normal":
            return 0.5 * (self._missed(guess, observed).square() / error).sum()
        kept = self._of_sent(guess, observed, error)
        if self.sent is None or self.bound is None:
            return kept
        over = F.softshrink(guess, self.bound) * ~self.sent
        return kept + 0.5 * (over.square() / error).sum()

    def _missed(self, guess: Tensor, observed: Tensor) -> Tensor:
        """Residual of transmitted entries, and excess of dropped entries over their bound."""
        if self.sent is None:
            return guess - observed
        if self.bound is None:
            return (guess - observed) * self.sent
        return torch.where(self.sent, guess - observed, F.softshrink(guess, self.bound))

    def _of_sent(self, guess: Tensor, observed: Tensor, error: Tensor) -> Tensor:
        if self.form == "sign":
            width = WIDER * self.softness * guess.square().mean().sqrt().clamp_min(torch.finfo(guess.dtype).tiny)
            return 0.5 * (-observed.sign() * guess / width).relu().square().sum()
        difference = guess - observed if self.sent is None else (guess - observed) * self.sent
        square = difference.square()
        if self.form == "profile":
            return 0.5 * square.numel() * (square.mean() + error.mean()).log()
        scale = (error / 2).sqrt()  # of Laplacian noise
        return (((square + (ROUNDED * scale).square()).sqrt() - ROUNDED * scale) / scale).sum()


@dataclass(frozen=True)
class _Link:
    """A public step at work on a candidate's update.

    Args:
        kind: "clip": shrinks to `norm` if longer; "shrink": by a factor that the single examples decide; "error": adds
            one, of the variances in `parts`; "mask": lets pass the entries in `parts`; "cover": drops the shares in
            `parts`, and later noise hides which.
        parts: one for each tensor, None where it is not touched.
    """

    kind: Literal["clip", "shrink", "error", "mask", "cover", "none"]
    parts: Sequence[Tensor | None]
    norm: float = 0.0


def _link(release: Release, step: Mechanism, names: Sequence[str], observed: Sequence[Tensor]) -> _Link:
    pairs = list(zip(names, observed, strict=True))
    nothing: list[Tensor | None] = [None] * len(pairs)
    facts = step.facts
    if facts.effect == "clip" and facts.stage == "examples" and release.round.update.num_examples != 1:
        return _Link("shrink", nothing)
    if facts.effect == "clip":
        return _Link("clip", nothing, step.figures["norm"])
    if facts.error in ("gaussian", "laplace", "interval"):  # of known spread
        update = replace(release.round.update, rounding=())
        single = replace(release.observation, defense=(step,), rounds=(replace(release.round, update=update),))
        alone = Release(single)
        return _Link("error", [alone.spread(n).square().to(o) if step.touches(n) else None for n, o in pairs])
    if facts.effect != "mask":
        return _Link("none", nothing)
    masks = [release.sent(n) if step.touches(n) else None for n, _ in pairs]
    if step.kind == "prune" and all(mask is None for mask in masks):
        return _Link("cover", [o.new_tensor(step.figures["fraction"]) if step.touches(n) else None for n, o in pairs])
    return _Link("mask", [None if m is None else m.to(o) for m, (_, o) in zip(masks, pairs, strict=True)])


@dataclass(frozen=True)
class _Passing:
    """A candidate's update on its way through the steps: values, which of them are left, variances of their errors."""

    values: list[Tensor]
    left: list[Tensor | None]
    variances: list[Tensor]

    @classmethod
    def through(cls, links: Sequence[_Link], guess: Sequence[Tensor], observed: Sequence[Tensor]) -> _Passing:
        """All links, one after another."""
        passing = cls(list(guess), [None] * len(guess), [g.new_zeros(()) for g in guess])
        for link in links:
            passing = passing._past(link, observed)
        return passing

    def _past(self, link: _Link, observed: Sequence[Tensor]) -> _Passing:
        if link.kind == "error":
            added = [v if p is None else v + p for v, p in zip(self.variances, link.parts, strict=True)]
            return replace(self, variances=added)
        if link.kind == "mask":
            left = [p if m is None else m if p is None else m * p for m, p in zip(self.left, link.parts, strict=True)]
            return replace(self, left=left)
        if link.kind == "cover":
            return replace(self, values=[_largest(g, p) for g, p in zip(self.values, link.parts, strict=True)])
        if link.kind in ("clip", "shrink"):
            factor = self._factor(link, observed)
            return replace(
                self,
                values=[factor * value for value in self.values],
                variances=[factor.detach().square() * variance for variance in self.variances],
            )
        return self

    def _factor(self, link: _Link, observed: Sequence[Tensor]) -> Tensor:
        """By how much the update is shrunk, noise that it already carries counted in."""
        seen = [g if m is None else g * m for g, m in zip(self.values, self.left, strict=True)]
        square = torch.stack([g.square().sum() for g in seen]).sum().clamp_min(torch.finfo(seen[0].dtype).tiny)
        if link.kind == "shrink":
            product = torch.stack([(g * o).sum() for g, o in zip(seen, observed, strict=True)]).sum()
            return (product / square).clamp_min(0)
        power = sum(
            float(v.detach().sum()) * (1 if v.ndim else g.numel()) for v, g in zip(self.variances, seen, strict=True)
        )
        return (link.norm / (square + power).sqrt()).clamp_max(1)


def _largest(values: Tensor, share: Tensor | None) -> Tensor:
    """All but the share of the values that is smallest in magnitude."""
    drop = 0 if share is None else int(float(share) * values.numel())
    if drop == 0:
        return values
    threshold = values.detach().abs().flatten().kthvalue(drop).values
    return values * (values.detach().abs() > threshold)
