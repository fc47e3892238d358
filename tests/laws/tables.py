"""The tables that the laws walk: a new attack or defense adds a row and inherits every law."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack.cases import initialized
from fedseal import (
    Batch,
    Image,
    LocalTraining,
    Observation,
    Reconstruction,
    ThreatModel,
    Update,
    attack,
    defense,
    local_update,
    zoo,
)
from fedseal.errors import UnfitBatch, UnknownToAdversary
from fedseal.modality.tabular import Categorical, Continuous, Tabular
from fedseal.modality.text import Text
from fedseal.types import Attack, Defense, Modality

# Cheap options of every recipe; a recipe without a row fails a test.
CHEAP = {
    "auto": "auto:steps=4",
    "linear": "linear",
    "patches": "patches",
    "spear": "spear:starts=256",
    "layerwise": "layerwise:matching_steps=3",
    "separation": "separation:steps=8",
    "cocktail_party": "cocktail_party:steps=20",
    "dlg": "dlg:steps=2",
    "idlg": "idlg:steps=2",
    "inverting_gradients": "inverting_gradients:steps=4",
    "bayes": "bayes:steps=1",
    "dlg_batch": "dlg_batch:steps=3",
    "gradinversion": "gradinversion:steps=4,seeds=1",
    "geng": "geng:steps=4",
    "dimitrov": "dimitrov:steps=3",
    "coarse": "coarse:steps=3",
    "sme": "sme:steps=4",
    "dager": "dager",
    "tokens": "tokens",
    "dlg_text": "dlg_text:steps=1",
    "tag": "tag:steps=2",
    "mixture": "mixture:steps=2",
    "lamp": "lamp:steps=2,starts=2,proposals=2",
    "tableak": "tableak:members=2,steps=4,polish=1",
}
RECIPES = {name: attack.parse(specification) for name, specification in CHEAP.items()}
COMBINED: dict[str, Attack] = {
    "best_of": attack.best_of(2, attack.dlg(steps=1)),
    "restarts": attack.restarts(2, attack.dlg(steps=1)),
    "cascade": attack.cascade(RECIPES["linear"], attack.inverting_gradients(steps=2)),
    "group": attack.parse("geng:steps=4,seeds=2"),
}
ATTACKS: dict[str, Attack] = {**RECIPES, **COMBINED}

# A specification of every defense, strong enough to show on the laws' model; a defense without a row fails a test.
STRENGTHS = {
    "gaussian": "gaussian:0.01",
    "laplace": "laplace:0.01",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "sign": "sign",
    "prune": "prune:0.3",
    "random_mask": "random_mask:0.3",
    "topk": "topk:0.1",
    "clip": "clip:0.01",
    "dpsgd": "dpsgd:1.1,clip=0.5",
    "mixup": "mixup:1",
    "instahide": "instahide:2",
    "soteria": "soteria:0.5",
    "precode": "precode:8",
    "ats": "ats:3-1-7/43-18-18",
    "outpost": "outpost:0.4",
}
DEFENSES: dict[str, Defense] = {
    "none": defense.none(),
    **{name: defense.parse(specification) for name, specification in STRENGTHS.items()},
    "global pruning": defense.prune(0.3, scope="global"),
    "ternary": defense.int8(levels=1),
    "private, then sparse": defense.chain(defense.dpsgd(0.7, clip=0.1, sample_rate=0.25), defense.prune(0.5)),
    "private client": defense.chain(defense.clip(0.1), defense.gaussian(0.05)),
    "chain": defense.chain(defense.prune(0.5), defense.gaussian(1e-3)),
    "noise first": defense.chain(defense.gaussian(1e-3), defense.prune(0.5)),
}


@dataclass(frozen=True)
class Setting:
    """A model and how many pictures of 3x8x8 its client trains on; `label`: of all of them, None for their own.

    `rows`: of a table or sentences, with their `modality`, in place of the pictures.
    """

    model: nn.Module
    count: int = 1
    training: LocalTraining = LocalTraining.fedsgd()  # noqa: RUF009
    label: int | None = None
    rows: Batch | None = None
    modality: Modality = Image(shape=(3, 8, 8))  # noqa: RUF009

    def batch(self, first: int = 0) -> Batch:
        own = (self.rows or PICTURES)[first : first + self.count]
        return own if self.label is None else Batch(own.inputs, torch.full_like(own.labels, self.label))

    def observation(self, first: int = 0, threat: ThreatModel | None = None) -> Observation:
        batch = self.batch(first)
        update = local_update(self.model, batch, training=self.training)
        threat = threat or ThreatModel.honest_but_curious()
        return threat.observe(self.model, update, modality=self.modality, labels=batch.labels)


PICTURES = zoo.photos(size=8, num_classes=5)
WIDE = initialized(nn.Sequential(nn.Flatten(), nn.Linear(192, 96), nn.ReLU(), nn.Linear(96, 5)), dtype=torch.float32)
MLP = initialized(nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 5)), dtype=torch.float32)
TABLE = Tabular((Continuous("age", 0, 100, mean=40, std=15), Categorical("job", ("farmer", "nurse", "smith"))))
ROWS = Batch(
    TABLE.encode([{"age": 20 + 3 * place, "job": ("nurse", "smith", "farmer")[place % 3]} for place in range(20)]),
    torch.arange(20) % 5,
)
NARROW = initialized(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5)), dtype=torch.float32)
TEXT = Text(zoo.bpe(), length=10)
SENTENCES = zoo.text_batch(TEXT, zoo.sentences(20), num_classes=3, truncate=True)
SETTINGS = {
    "a sentence": Setting(zoo.tiny_bert(num_classes=3), rows=SENTENCES, modality=TEXT),
    "table, two rows": Setting(NARROW, 2, rows=ROWS, modality=TABLE),
    "perceptron": Setting(MLP),
    "lenet": Setting(zoo.lenet(size=8, width=6, num_classes=5)),
    "vision transformer": Setting(zoo.vit(size=8, width=16, depth=1, num_classes=5)),
    "relu and pooling": Setting(zoo.convnet(size=8, width=4, num_classes=5)),
    "relu perceptron, two": Setting(WIDE, 2),
    "lenet, three of one class": Setting(zoo.lenet(size=8, width=6, num_classes=5), 3, label=2),
    "batch norm, local steps": Setting(
        zoo.resnet(width=4, blocks=(1,), num_classes=5), 2, LocalTraining.fedavg(lr=0.1, epochs=2)
    ),
}


def run(name: str, observation: Observation, seed: int = 0) -> Reconstruction | None:
    """None where the attack refuses at the door, which the laws allow."""
    try:
        return ATTACKS[name](observation, generator=torch.Generator().manual_seed(seed))
    except (UnknownToAdversary, UnfitBatch):
        return None


def snapshot(value: object) -> object:
    """A deep copy of everything that a value reaches, to compare with afterwards."""
    return copy.deepcopy(value)


def same(one: object, other: object) -> bool:
    """Whether two nested values are equal, tensors bit by bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.is_meta or other.is_meta:
            return one.is_meta == other.is_meta and one.shape == other.shape
        return one.dtype == other.dtype and one.requires_grad == other.requires_grad and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def facts(observation: Observation) -> dict[str, object]:
    """An observation as nested plain values and tensors, the model's modes and tensors included."""
    model = observation.model
    return {
        "rounds": [(round.state, parts(round.update)) for round in observation.rounds],
        "modes": [module.training for module in model.modules()],
        "tensors": dict([*model.named_parameters(), *model.named_buffers()]),
        "rest": [observation.loss, observation.threat, observation.training, observation.labels, observation.defense],
    }


def parts(update: Update) -> dict[str, object]:
    """An update as nested plain values and tensors."""
    names = ("kind", "tensors", "buffers", "num_examples", "num_clients", "training")
    return {name: getattr(update, name) for name in names}
