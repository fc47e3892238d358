"""Tables: rows read off an MLP 100-100, float32, by the exact routes, by `auto`, and by TabLeak alone.

A cell is right if its category is equal, or its number within .319 standard deviations of unrelated rows. Each trial is
another batch and another seed of the weights; labels are inferred. Blind guesses are scored on the same rows.
"""

from __future__ import annotations

import statistics

import torch

import fedseal as fs
from benchmarks.measure import share, spread
from fedseal.attack.tabular.tableak import TabLeak
from fedseal.metric.tabular import TableScores, pooled, score_table
from fedseal.types import Attack, Reconstruction
from fedseal.zoo.tables import TABLES

ONE, EIGHT, SEARCHES = 20, 20, 4  # trials
FEDSGD, FEDAVG = fs.LocalTraining.fedsgd(), fs.LocalTraining.fedavg(lr=0.01, epochs=4)


def run(scale: float = 1.0) -> dict[str, object]:
    """Batches of 1 and 8 of every table by `auto`; TabLeak where it applies alone: smooth, local steps, noise."""
    figures: dict[str, object] = {}
    auto, tableak = fs.attack.auto(), TabLeak()
    for name in TABLES:
        figures |= _cell(f"{name}, batch 1: auto", auto, name, 1, _trials(ONE, scale))
        figures |= _cell(f"{name}, batch 8: auto", auto, name, 8, _trials(EIGHT, scale))
        figures |= _cell(f"{name}, batch 8: TabLeak alone", tableak, name, 8, _trials(SEARCHES, scale))
    few = _trials(SEARCHES, scale)
    for name in ("fair", "wine"):
        figures |= _cell(f"{name}, batch 8, tanh: TabLeak", tableak, name, 8, few, activation="tanh")
        figures |= _cell(f"{name}, batch 8, 4 local steps: TabLeak", tableak, name, 8, few, training=FEDAVG)
        figures |= _cell(f"{name}, batch 8, noise 1e-3: TabLeak", tableak, name, 8, few, noise=1e-3)
        figures |= _cell(f"{name}, batch 32: TabLeak", tableak, name, 32, max(2, few // 2))
    return figures


def _trials(number: int, scale: float) -> int:
    return max(2, round(number * scale))


def _cell(
    name: str,
    method: Attack,
    table: str,
    count: int,
    trials: int,
    *,
    activation: str = "relu",
    training: fs.LocalTraining = FEDSGD,
    noise: float = 0.0,
) -> dict[str, object]:
    found: list[Reconstruction] = []
    scores: list[TableScores] = []
    labels = 0
    rows, modality = TABLES[table]()
    for seed in range(trials):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        batch = fs.Batch(rows.inputs[order[:count]], rows.labels[order[:count]])
        classes = int(rows.labels.max()) + 1
        model = fs.zoo.mlp(
            inputs=modality.shape[0], widths=(100, 100), num_classes=classes, activation=activation, seed=seed
        )
        defense = fs.defense.gaussian(noise) if noise else None
        generator = torch.Generator().manual_seed(seed)
        update = fs.local_update(model, batch, training=training, defense=defense, generator=generator)
        observation = fs.ThreatModel.honest_but_curious().observe(model, update, modality=modality, defense=defense)
        found.append(method(observation, generator=torch.Generator().manual_seed(seed)))
        scores.append(score_table(found[-1], batch, modality=modality, unrelated=rows.inputs[order[count:]]))
        named = found[-1].labels
        labels += named is not None and sorted(named.tolist()) == sorted(batch.labels.tolist())
    return {f"{name}: mean column accuracy": _words(found, pooled(scores), labels)}


def _words(found: list[Reconstruction], scores: TableScores, labels: int) -> str:
    seconds = [one.outcome.seconds for one in found]
    certified = sum(one.outcome.status in ("exact", "converged") for one in found)
    low, high = scores.interval or (0.0, 0.0)
    worst = min(scores.columns, key=lambda column: column.value)
    blind = ", ".join(f"{guess.name} {guess.value:.2f}" for guess in scores.baselines if guess.value is not None)
    parts = [
        f"{scores.accuracy or 0.0:.3f} ({low:.3f} to {high:.3f})",
        f"whole rows {share(scores.whole_rows, len(scores.rows))}",
        f"worst column '{worst.name}' {worst.value:.2f}",
        f"certified {certified} and labels right {labels} of {len(found)}",
        f"blind: {blind}",
        f"seconds {spread(seconds, 1)}, at most {max(seconds):.1f}",
        f"median residual {statistics.median(one.outcome.residual or 0.0 for one in found):.1e}",
    ]
    return "; ".join(parts)
