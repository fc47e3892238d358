"""One sentence of 8 to 12 tokens, classified by a small BERT: published searches, ours, and the exact route."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch

import fedseal as fs
from benchmarks.measure import share
from fedseal.attack.text.dager import Dager
from fedseal.attack.text.lamp import Fluency, lamp
from fedseal.attack.text.search import dlg_text, mixture, tag
from fedseal.metric.text import rouge
from fedseal.types import Attack
from fedseal.zoo.prior import held_out_sentences, language_prior

SENTENCES, TOKENS = 8, (8, 12)
NOISE = (1e-5, 1e-4, 1e-3)


class Row(NamedTuple):
    """What one attack read of one sentence, scored after the fact."""

    rouge1: float
    rouge2: float
    tokens: float
    certified: bool
    seconds: float


def run(scale: float = 1.0) -> dict[str, object]:
    """Every attack on the same updates: a new sentence and new weights each time; then what noise and steps leave."""
    text, count = fs.Text(fs.zoo.bpe(), length=16), max(2, round(SENTENCES * scale))
    lines = _lines(text, count)
    attacks = _attacks(text, scale)
    found: dict[str, list[Row]] = {name: [] for name in attacks}
    for seed, line in enumerate(lines):
        batch, observation = _client(text, line, seed, fs.LocalTraining.fedsgd())
        for name, attack in attacks.items():
            found[name].append(_row(text, batch, observation, attack))
    results = {name: _line(rows) for name, rows in found.items()}
    return results | _fallback(text, lines, attacks)


def _fallback(text: fs.Text, lines: list[str], attacks: Mapping[str, Attack]) -> dict[str, object]:
    """What the exact route and our search get under local steps and noise."""
    chosen = {name: attack for name, attack in attacks.items() if name.startswith(("mixture", "dager"))}
    results: dict[str, object] = {}
    steps = fs.LocalTraining.fedavg(lr=0.01, epochs=4)
    for what, training, deviation in (
        ("4 local steps", steps, 0.0),
        *((f"noise {deviation:g}", fs.LocalTraining.fedsgd(), deviation) for deviation in NOISE),
    ):
        found: dict[str, list[Row]] = {name: [] for name in chosen}
        for seed, line in enumerate(lines[: max(2, len(lines) // 2)]):
            batch, observation = _client(text, line, seed, training, deviation)
            for name, attack in chosen.items():
                found[name].append(_row(text, batch, observation, attack))
        results |= {f"{what}: {name}": _line(rows) for name, rows in found.items()}
    return results


def _attacks(text: fs.Text, scale: float) -> dict[str, Attack]:
    def steps(most: int) -> int:
        return max(10, round(most * min(1.0, 2 * scale)))

    published = lamp(steps=steps(600))
    return {
        "dlg_text (squared distance, L-BFGS)": dlg_text(steps=steps(40)),
        "tag (squared and absolute distance)": tag(steps=steps(1000)),
        "lamp (no prior)": published,
        "lamp (small language model as prior)": replace(published, prior=_prior(text)),
        "mixture (ours)": mixture(),
        "dager (exact)": Dager(),
    }


@cache
def _prior(text: fs.Text) -> Fluency:
    """Trained on clauses that share no five words in a row with any sentence attacked here."""
    return language_prior(text, steps=150)


def _lines(text: fs.Text, count: int) -> list[str]:
    def fits(line: str) -> bool:
        return TOKENS[0] <= len(text.tokenizer(line)["input_ids"]) <= TOKENS[1]

    return [line for line in held_out_sentences(80, words=(6, 10)) if fits(line)][:count]


def _client(
    text: fs.Text, line: str, seed: int, training: fs.LocalTraining, deviation: float = 0.0
) -> tuple[fs.Batch, fs.Observation]:
    model, batch = fs.zoo.tiny_bert(width=64, seed=seed), fs.zoo.text_batch(text, [line], seed=seed)
    defense = fs.defense.gaussian(deviation) if deviation else None
    generator = torch.Generator().manual_seed(seed)
    update = fs.local_update(model, batch, training=training, defense=defense, generator=generator)
    return batch, fs.ThreatModel.honest_but_curious().observe(model, update, modality=text, defense=defense)


def _row(text: fs.Text, batch: fs.Batch, observation: fs.Observation, attack: Attack) -> Row:
    found = attack(observation, generator=torch.Generator().manual_seed(0))
    guess, truth = torch.full_like(batch.inputs[0], text.pad), batch.inputs[0]
    if found.inputs is not None and len(found.inputs):
        guess = found.inputs[0]
    marks, places = rouge(text.sentence(guess), text.sentence(truth)), truth != text.pad
    right = float((guess[places] == truth[places]).double().mean())
    certified = found.outcome.status in ("exact", "converged")
    return Row(marks["rouge1"] or 0.0, marks["rouge2"] or 0.0, right, certified, found.outcome.seconds)


def _line(rows: list[Row]) -> str:
    one, two, tokens = (statistics.mean(values) for values in list(zip(*rows, strict=True))[:3])
    seconds = statistics.median(row.seconds for row in rows)
    certified = share(sum(row.certified for row in rows), len(rows))
    return f"ROUGE-1 {one:.3f}, ROUGE-2 {two:.3f}, tokens in place {tokens:.3f}, {seconds:.1f} s; certified {certified}"
