"""Strengths of defenses one by one, in the setting of `defenses`: where the attacker who knows them ends, and whether
DLG's thresholds hold against that attacker.
"""

from __future__ import annotations

import statistics

from benchmarks.defenses import Measured, measured, scaled
from benchmarks.measure import share

TRIALS, RIVALS = 4, 1
BLIND_MARGIN = 1.0  # dB above the blind guess below which an attack shows nothing
SEEN = 20.0  # dB from which a picture of 32x32 is plain to see
SWEEP = (
    *("prune:0.2", "prune:0.7", "prune:0.9", "prune:0.99", "prune:0.999"),
    *("gaussian:0.001", "gaussian:0.01", "gaussian:0.1", "gaussian:1"),
    *("laplace:0.001", "laplace:0.01", "laplace:0.1"),
    *("float16", "bfloat16", "int8", "sign", "soteria:0.5", "clip:0.1"),
)
THRESHOLDS = {  # as Zhu, Liu and Han (NeurIPS 2019) close
    "gaussian:0.01": "Gaussian noise of 1e-2 defends",
    "laplace:0.01": "Laplacian noise of 1e-2 defends",
    "gaussian:0.001": "Gaussian noise of 1e-3 does not defend",
    "float16": "half precision does not defend",
    "prune:0.2": "pruning of 20 % and more defends",
}


def run(scale: float = 1.0) -> dict[str, object]:
    """Each strength, then the strength at which each kind leaves no more than a blind guess, then the thresholds."""
    found = {name: measured(name, scaled(TRIALS, scale), RIVALS) for name in SWEEP}
    figures = {key: value for one in found.values() for key, value in one.figures.items()}
    return figures | _falls(found) | _verdicts(found)


def _median(one: Measured) -> float:
    return statistics.median(trial.psnr for trial in one.knows)


def _falls(found: dict[str, Measured]) -> dict[str, object]:
    """For each kind the least strength at which the best attacker shows no more than a blind guess."""
    said: dict[str, object] = {}
    for kind in ("prune", "gaussian", "laplace"):
        rows = sorted(
            (float(name.partition(":")[2]), one) for name, one in found.items() if name.startswith(f"{kind}:")
        )
        fallen = [s for s, one in rows if _median(one) < statistics.median(one.guesses) + BLIND_MARGIN]
        figure = f"{fallen[0]:g}" if fallen else f"not up to {rows[-1][0]:g}"
        said[f"{kind}: strength at which auto that knows it is within {BLIND_MARGIN:g} dB of the blind guess"] = figure
    return said


def _verdicts(found: dict[str, Measured]) -> dict[str, object]:
    """Each of DLG's thresholds as a sentence."""
    said: dict[str, object] = {}
    for name, claim in THRESHOLDS.items():
        values, blind = [trial.psnr for trial in found[name].knows], statistics.median(found[name].guesses)
        seen = share(sum(value >= SEEN for value in values), len(values))
        holds = (statistics.median(values) >= SEEN) == ("does not" in claim)
        said[f"DLG's threshold: {claim}"] = (
            f"{'holds' if holds else 'does not hold'} against who knows it: {SEEN:g} dB or better in {seen}, "
            f"median {statistics.median(values):.1f} dB, blind guess {blind:.1f} dB"
        )
    return said
