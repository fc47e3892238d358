"""A small world: a model, a batch, a local training and an adversary, drawn at random, and the script that makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import fedseal as fs
from benchmarks.worlds.draw import Draw, Seeded, one_in
from benchmarks.worlds.models import Model, model
from fedseal.types import Modality

HEAD = """import torch
import torch.nn.functional as F
from torch import nn

import fedseal as fs
from fedseal.modality.tabular import Continuous, Tabular
"""
THREATS = ("honest_but_curious", "eavesdropper", "unknown_training")
CROSS_ENTROPY = (
    ("by name", '"cross_entropy"'),
    ("by name", '"cross_entropy"'),
    ("by name", '"cross_entropy"'),
    ("by name", '"cross_entropy"'),
    ("function", "F.cross_entropy"),
    ("module", "nn.CrossEntropyLoss()"),
    ("sum", 'nn.CrossEntropyLoss(reduction="sum")'),
    ("smoothing", "nn.CrossEntropyLoss(label_smoothing=0.1)"),
    ("weights", "nn.CrossEntropyLoss(weight=torch.rand({outputs}).to({dtype}) + 0.5)"),
    ("lambda", 'lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="sum") / 7'),
    ("nll", "lambda outputs, labels: F.nll_loss(outputs.log_softmax(1), labels)"),
)
BINARY = (
    ("module", "nn.BCEWithLogitsLoss()"),
    ("function", "F.binary_cross_entropy_with_logits"),
    ("sum", 'nn.BCEWithLogitsLoss(reduction="sum")'),
)
SQUARED = (("function", "F.mse_loss"), ("module", "nn.MSELoss()"), ("sum", 'nn.MSELoss(reduction="sum")'))


@dataclass(frozen=True)
class Built:
    """What a world's script leaves behind."""

    model: nn.Module
    batch: fs.Batch
    training: fs.LocalTraining
    threat: fs.ThreatModel
    modality: Modality


@dataclass(frozen=True)
class World:
    """One world.

    Args:
        lines: the script that makes model, batch, training, threat and modality.
        tags: the kinds that it is counted under.
        seed: of the client's own draws: dropout and order.
    """

    lines: tuple[str, ...]
    tags: frozenset[str]
    seed: int

    @property
    def source(self) -> str:
        """The script up to the threat model."""
        return "\n".join((HEAD, *self.lines))

    def build(self) -> Built:
        """Run the script; torch's global generator is left as it was."""
        made: dict[str, Any] = {"__name__": "world"}
        with torch.random.fork_rng(devices=[]):
            exec(compile(self.source, "<world>", "exec"), made)
        return Built(made["model"], made["batch"], made["training"], made["threat"], made["modality"])

    def __repr__(self) -> str:
        return f"World of {len(self.lines)} lines:\n{self.source}"

    def tagged(self, start: str) -> str:
        """What follows a kind such as "dtype" among the tags."""
        return next((tag.partition(": ")[2] for tag in sorted(self.tags) if tag.startswith(f"{start}: ")), "none")


def from_seed(seed: int) -> World:
    """The world of a seed.

    >>> from_seed(3) == from_seed(3), from_seed(3) == from_seed(4)
    (True, False)
    """
    return world(Seeded(seed))


def world(draw: Draw) -> World:
    """Draw a world."""
    count = draw.pick([1, 1, 2, 2, 3, 4, 5, 8])
    kind, shape = _shape(draw)
    task, outputs, loss = _task(draw)
    dtype = draw.pick(["float32"] * 12 + ["float64"] * 5 + ["float16", "bfloat16", "bfloat16"])
    made = model(draw, shape, outputs, count)
    seed = draw.whole(0, 9999)
    lines = [f"torch.manual_seed({seed})", *made.lines(), f"model = model.to(torch.{dtype})"]
    lines += _batch(draw, made, kind, shape, count, task, outputs, dtype)
    lines.append(f"training = {_training(draw, made, loss[1].format(outputs=outputs, dtype=f'torch.{dtype}'))}")
    threat = draw.pick([THREATS[0]] * 6 + list(THREATS[1:]))
    lines += [f"threat = fs.ThreatModel.{threat}()", f"modality = {_modality(kind, shape)}"]
    tags = {
        f"data: {kind}",
        f"loss: {task} {loss[0]}",
        f"dtype: {dtype}",
        f"threat: {threat}",
        f"examples: {count if count < 3 else '3 to 8'}",
        f"outputs: {outputs}",
    }
    return World(tuple(lines), frozenset(tags | made.tags), seed)


def _shape(draw: Draw) -> tuple[str, tuple[int, ...]]:
    kind = draw.pick(["picture", "picture", "picture", "table", "signal"])
    if kind == "picture":
        side = draw.pick([4, 4, 5, 6, 8])
        return kind, (draw.pick([1, 3]), side, side)
    if kind == "table":
        return kind, (draw.pick([4, 2, 3, 6, 8, 12]),)
    return kind, (1, 1, draw.pick([8, 12, 16, 32]))


def _task(draw: Draw) -> tuple[str, int, tuple[str, str]]:
    task = draw.pick(["classes"] * 7 + ["binary", "findings", "regression"])
    if task == "classes":
        return task, draw.pick([3, 2, 10, 10]), draw.pick(CROSS_ENTROPY)
    if task == "binary":
        return task, 1, draw.pick(BINARY)
    if task == "findings":
        return task, draw.pick([3, 2, 10]), draw.pick(BINARY)
    return task, draw.pick([1, 1, 2, 3]), draw.pick(SQUARED)


def _modality(kind: str, shape: tuple[int, ...]) -> str:
    if kind == "table":
        return f'Tabular(columns=tuple(Continuous(f"c{{n}}", -8, 8) for n in range({shape[0]})))'
    return f"fs.Image(shape={shape})"


def _batch(
    draw: Draw, made: Model, kind: str, shape: tuple[int, ...], count: int, task: str, outputs: int, dtype: str
) -> list[str]:
    """The lines that make inputs and labels, with what is odd about them."""
    drawn = "randn" if kind == "table" else "rand"
    lines = [f"inputs = torch.{drawn}{(count, *shape)}.to(torch.{dtype})"]
    labels = {
        "classes": f"torch.randint({outputs}, ({count},))",
        "binary": f"torch.randint(2, ({count}, 1)).to(torch.{dtype})",
        "findings": f"torch.randint(2, ({count}, {outputs})).to(torch.{dtype})",
        "regression": f"torch.randn({count}, {outputs}).to(torch.{dtype})",
    }[task]
    lines.append(f"labels = {labels}")
    odd = "plain"
    if count == 1:
        odd = draw.pick(["plain"] * 9 + ["black"])
    else:
        odd = draw.pick(["plain"] * 9 + ["duplicate", "black", "all equal", "two labels", "equal labels", "one hard"])
    if odd == "black":
        lines.append("inputs[0] = 0.0")
    elif odd == "duplicate":
        lines += ["inputs[1] = inputs[0]", "labels[1] = labels[0]"]
    elif odd == "two labels":
        lines.append("inputs[1] = inputs[0]")
    elif odd == "all equal":
        lines.append("inputs[:] = inputs[0]")
    elif odd == "equal labels":
        lines.append("labels[:] = labels[0]")
    elif odd == "one hard" and task == "classes" and outputs > 1:
        head = made.linear[-1]
        lines = [lines[0], f"model[{head}].weight.data.mul_({draw.pick([10.0, 40.0])})"]
        lines += ["with torch.no_grad():", "    labels = model.eval()(inputs).argmax(1)", "model.train()"]
        lines.append(f"labels[0] = (labels[0] + 1) % {outputs}")
    else:
        odd = "plain"
    made.tags.add(f"batch: {odd}")
    return [*lines, "batch = fs.Batch(inputs, labels)"]


def _training(draw: Draw, made: Model, loss: str) -> str:
    mode = draw.pick(["train", "train", "eval"])
    made.tags.add(f"mode: {mode}")
    if mode == "eval":
        for tag in [tag for tag in made.tags if tag.startswith("dropout")]:
            made.tags.remove(tag)
    if not one_in(draw, 5):
        made.tags.add("training: fedsgd")
        return f'fs.LocalTraining.fedsgd(mode="{mode}", loss={loss})'
    options = [f"lr={draw.pick([0.01, 0.1])}", f"epochs={draw.whole(1, 3)}"]
    if one_in(draw, 3):
        options.append(f"batch_size={draw.pick([1, 2])}")
        if one_in(draw, 2):
            options.append("shuffle=True")
    optimizer = draw.pick(["plain", "plain", "momentum", "decay", "adam"])
    words = {"plain": [], "momentum": ["momentum=0.9"], "decay": ["weight_decay=0.01"], "adam": ['optimizer="adam"']}
    options += words[optimizer]
    made.tags.add(f"training: fedavg {optimizer}")
    return f'fs.LocalTraining.fedavg({", ".join(options)}, mode="{mode}", loss={loss})'
