"""Sentences by the exact routes: `dager` on one client, the number of sentences withheld, and `tokens` on ten.

ROUGE is taken sentence by sentence, after matching, and its mean over a batch is one draw.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import NamedTuple

import torch

import fedseal as fs
from benchmarks.measure import share, spread
from fedseal.attack.text.dager import Dager
from fedseal.attack.text.tokens import token_set
from fedseal.metric.text import Sentences, rouge
from fedseal.modality.language import LanguageModel, Task
from fedseal.types import Attack

DRAWS = 6
FRESH = 10  # seeds below served to build and to mend the assembly
CURIOUS = fs.ThreatModel("curious, number of sentences withheld", frozenset({"state", "training", "single_updates"}))
FEDSGD = fs.LocalTraining.fedsgd()
FEDAVG = fs.LocalTraining.fedavg(lr=0.01, epochs=4)
NOISE = (1e-5, 1e-4, 1e-3)
DROPOUT = 0.1  # of a BERT as it comes


class Read(NamedTuple):
    """One batch: mean scores of its sentences, and what the attacker saw."""

    rouge1: float
    rouge2: float
    whole: float
    number_right: bool
    labels_right: bool
    seconds: float
    status: str
    note: str


def read(
    model: LanguageModel,
    text: fs.Text,
    count: int,
    *,
    seed: int,
    training: fs.LocalTraining = FEDSGD,
    defense: str | None = None,
    method: Attack = Dager(),  # noqa: B008
    threat: fs.ThreatModel = CURIOUS,
) -> Read:
    """Attack one batch of sentences drawn from the seed."""
    batch = fs.zoo.text_batch(text, fs.zoo.sentences(count, seed=seed), task=model.task, seed=seed)
    guard = None if defense is None else fs.defense.parse(defense)
    generator = torch.Generator().manual_seed(seed)
    update = fs.local_update(model, batch, training=training, defense=guard, generator=generator)
    found = method(threat.observe(model, update, modality=text), generator=torch.Generator().manual_seed(seed))
    outcome, judge = found.outcome, Sentences(text, None)
    guesses = [] if found.inputs is None else list(found.inputs)
    pairs = list(zip(batch.inputs, judge.match(list(batch.inputs), guesses), strict=True))
    scores = [rouge(text.sentence(guesses[i]), text.sentence(t)) if i is not None else {} for t, i in pairs]
    known = [] if found.labels is None else list(found.labels)
    return Read(
        rouge1=statistics.mean(score.get("rouge1") or 0.0 for score in scores),
        rouge2=statistics.mean(score.get("rouge2") or 0.0 for score in scores),
        whole=statistics.mean(float(i is not None and torch.equal(guesses[i], t)) for t, i in pairs),
        number_right=len(guesses) == count,
        labels_right=bool(known)
        and all(i is not None and torch.equal(known[i], y) for (_, i), y in zip(pairs, batch.labels, strict=True)),
        seconds=outcome.seconds,
        status=outcome.status,
        note=outcome.note,
    )


def figures(name: str, runs: list[Read]) -> dict[str, object]:
    """Rows of the table for one setting."""
    return {
        f"{name}: ROUGE-1": spread([r.rouge1 for r in runs], 3),
        f"{name}: ROUGE-2": spread([r.rouge2 for r in runs], 3),
        f"{name}: whole sentences, mean share": f"{statistics.mean(r.whole for r in runs):.3f}",
        f"{name}: certified exact": share(sum(r.status == "exact" for r in runs), len(runs)),
        f"{name}: number of sentences right": share(sum(r.number_right for r in runs), len(runs)),
        f"{name}: all labels right": share(sum(r.labels_right for r in runs), len(runs)),
        f"{name}: seconds": spread([r.seconds for r in runs], 1),
    }


def token_figures(draws: int, clients: int = 10) -> dict[str, object]:
    """The token set from the mean over several clients' updates."""
    model, text = fs.zoo.minilm()
    recall, precision = [], []
    for seed in range(draws):
        lines = fs.zoo.sentences(4 * clients, seed=seed)
        batches = [fs.zoo.text_batch(text, lines[4 * i : 4 * i + 4], seed=i) for i in range(clients)]
        total = fs.aggregate([fs.local_update(model, batch, training=FEDSGD) for batch in batches])
        found = set(token_set(fs.ThreatModel.aggregate_only().observe(model, total, modality=text)).ids)
        truth = {token for batch in batches for row in batch.inputs for token in text.ids(row)}
        recall.append(len(found & truth) / len(truth))
        precision.append(len(found & truth) / len(found))
    return {
        "tokens, sum of 10 clients: recall": spread(recall),
        "tokens, sum of 10 clients: precision": spread(precision),
    }


def dropped_out(model: LanguageModel) -> LanguageModel:
    """The model with dropout wherever its architecture has it."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = DROPOUT
    return model


def dropout_figures(draws: int) -> dict[str, object]:
    """A client that trains with dropout, its mask unknown: what is left of the tokens, and of one sentence."""
    results: dict[str, object] = {}
    model, text = dropped_out(fs.zoo.tiny_bert(width=64)), fs.Text(fs.zoo.bpe(), length=28)
    seeds = range(FRESH, FRESH + draws)
    recall, precision = [], []
    for seed in seeds:
        batch = fs.zoo.text_batch(text, fs.zoo.sentences(4, seed=seed), seed=seed)
        update = fs.local_update(model, batch, training=FEDSGD, generator=torch.Generator().manual_seed(seed))
        found = set(token_set(CURIOUS.observe(model, update, modality=text)).ids)
        truth = {token for row in batch.inputs for token in text.ids(row)}
        recall.append(len(found & truth) / len(truth))
        precision.append(len(found & truth) / len(found))
    results["dropout .1 on a small BERT, tokens of 4 sentences: recall"] = spread(recall)
    results["dropout .1 on a small BERT, tokens of 4 sentences: precision"] = spread(precision)
    for count in (1, 4):
        runs = [read(model, text, count, seed=s) for s in seeds]
        results |= figures(f"dropout .1 on a small BERT, {count} sentence{'s' * (count > 1)}", runs)
    known = fs.ThreatModel.honest_but_curious()
    planned = [read(model, text, 1, seed=s, method=fs.attack.auto(), threat=known) for s in seeds]
    return results | figures("dropout .1 on a small BERT, 1 sentence, auto that knows the number", planned)


def run(scale: float = 1.0) -> dict[str, object]:
    """All settings; each draw has its own sentences."""
    draws = max(1, round(DRAWS * scale))
    seeds = range(FRESH, FRESH + draws)
    results: dict[str, object] = {}
    model, text = fs.zoo.minilm()
    for count in (1, 4, 8, 16):
        few = seeds if count < 16 else seeds[: max(1, draws // 2)]
        results |= figures(f"MiniLM classification, {count} sentences", [read(model, text, count, seed=s) for s in few])
    causal, pieces = fs.zoo.gpt2(), fs.Text(fs.zoo.bpe(), length=48)
    results |= figures("GPT-2 of width 768, 8 sentences", [read(causal, pieces, 8, seed=s) for s in seeds])
    tasks: tuple[Task, ...] = ("masked", "token")
    for task in tasks:
        other = fs.zoo.minilm(task=task)[0]
        results |= figures(f"MiniLM {task}, 4 sentences", [read(other, text, 4, seed=s) for s in seeds])
    steps = [read(model, text, 4, seed=s, training=FEDAVG) for s in seeds]
    results |= figures("MiniLM classification, 4 local steps, 4 sentences", steps)
    for sigma in NOISE:
        noisy = [read(model, text, 4, seed=s, defense=f"gaussian:{sigma:g}") for s in seeds]
        results |= figures(f"MiniLM classification, noise {sigma:g}, 4 sentences", noisy)
    planned = partial(read, model, text, 1, method=fs.attack.auto(), threat=fs.ThreatModel.honest_but_curious())
    alone = [planned(seed=s, training=FEDAVG) for s in seeds]
    results |= figures("MiniLM classification, 4 local steps, 1 sentence, auto that knows the number", alone)
    for sigma in NOISE:
        noisy = [planned(seed=s, defense=f"gaussian:{sigma:g}") for s in seeds]
        results |= figures(f"MiniLM classification, noise {sigma:g}, 1 sentence, auto that knows the number", noisy)
    return results | dropout_figures(max(1, draws // 2)) | token_figures(max(1, draws // 2))
