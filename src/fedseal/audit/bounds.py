"""Bound beside attack for an audit's own model and data, where a defense clips and then adds Gaussian noise.

One game for each such defense and batch size: the client's first example is one of a few of the case's, which the
attacker knows, as it knows all else but the noise. How often it names the right one is counted, and stands beside the
most that any attack can reach. The results lie in the run folder as `bounds/ID.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import torch

from fedseal import defense as defenses_module
from fedseal.attack.inference.candidates import Hypotheses, KnownCandidates
from fedseal.audit.bound_record import FOLDER, Game, bounds_of
from fedseal.audit.case import Case, stream
from fedseal.audit.store import write_beside
from fedseal.errors import BadConfig, UnfitBatch, UnfitModel, UnfitUpdate
from fedseal.mechanism import Mechanism
from fedseal.threat import ThreatModel
from fedseal.types import Batch, Defense

CANDIDATES, TRIALS = 10, 20_000
LARGEST = 50_000_000  # numbers that the candidates' updates may hold together


def noise_multiplier(public: Sequence[Mechanism]) -> float | None:
    """Noise over the clip norm, where these steps are clipping and Gaussian noise behind it and nothing else.

    >>> from fedseal import defense
    >>> [noise_multiplier(defense.parse(name).public) for name in ("dpsgd:2,clip=4", "clip:4+gaussian:2", "gaussian:2")]
    [2.0, 0.5, None]
    """
    kinds = tuple(step.kind for step in public)
    if kinds not in (("clip_examples", "gaussian_sum"), ("clip", "gaussian")) or any(step.where for step in public):
        return None  # tensors that only one of the two touches are bounded by nothing
    return public[1].figures["sigma"] / public[0].figures["norm"]


def measure_bounds(
    case: Case, folder: str | Path, *, defenses: Iterable[str | Defense], batch_sizes: Sequence[int]
) -> tuple[Game, ...]:
    """Play the game for each defense that has a bound; games that lie in the folder are not played again.

    A defense that the case's updates do not fit is left out, as are models too large for two candidates.

    Raises:
        StorageFailure: a file cannot be read or written.
    """
    known = {game.setting: game for game in bounds_of(folder)}
    found: list[Game] = []
    for one in defenses:
        shield = defenses_module.parse(one) if isinstance(one, str) else one
        noise = noise_multiplier(shield.public)
        for size in batch_sizes if noise is not None else ():
            count = _candidates(case, size)
            setting = _setting(case, shield.name, size, count)
            if noise is None or count < 2:
                continue
            if setting not in known:
                try:
                    hits = _hits(case, shield, size, count, stream("bound", setting))
                except (UnfitUpdate, UnfitBatch, UnfitModel, BadConfig):  # as its cells say, each with its reason
                    break
                known[setting] = Game(
                    defense=shield.name,
                    batch_size=size,
                    noise=noise,
                    candidates=count,
                    hits=hits,
                    trials=TRIALS,
                    setting=setting,
                )
                write_beside(folder, FOLDER, known[setting].id, known[setting])
            found.append(known[setting])
    return tuple(found)


def _candidates(case: Case, size: int) -> int:
    """How many examples can be candidates beside the batch's others."""
    entries = sum(parameter.numel() for parameter in case.model.parameters() if parameter.requires_grad)
    return min(CANDIDATES, len(case.batch) - (size - 1), LARGEST // max(entries, 1))


def _hits(case: Case, shield: Defense, size: int, count: int, generator: torch.Generator) -> int:
    """How often the target was named, in `TRIALS` draws.

    Normal noise stays normal in the coordinates of the candidates' span, and what lies outside of it tells nothing:
    a draw there costs a number for each candidate in place of one for each parameter.
    """
    threat = ThreatModel.honest_but_curious()
    seen, _ = case.observe(first=0, batch_size=size, defense=shield, threat=threat, seed=0)
    others = case.batch[count : count + size - 1] if size > 1 else None
    judge = KnownCandidates(_distinct(case.batch[:count]), others).fit(seen)
    added = (judge.added * judge.per_noise[:, None])[0]
    shifts = added @ torch.linalg.qr(added.T).Q
    judge = Hypotheses(torch.zeros_like(shifts[:1]), shifts[None], torch.ones_like(shifts[:1]), judge.log_prior)
    target = torch.randint(count, (TRIALS,), generator=generator)
    noise = torch.randn(TRIALS, 1, shifts.shape[1], generator=generator, dtype=torch.float64).to(shifts)
    named = judge.log_posterior(noise + shifts[target, None]).argmax(-1).cpu()
    return int((named == target).sum())


def _distinct(batch: Batch) -> Batch:
    """The candidates; equal examples would count as wrong answers.

    Raises:
        UnfitBatch: two of them are the same.
    """
    x, y = batch.inputs, batch.labels
    if any(torch.equal(x[i], x[j]) and torch.equal(y[i], y[j]) for i, j in combinations(range(len(batch)), 2)):
        raise UnfitBatch("two of the case's first examples are the same", "leave one out")
    return batch


def _setting(case: Case, defense: str, size: int, count: int) -> str:
    parts = [case.fingerprint(), defense, size, count, TRIALS]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
