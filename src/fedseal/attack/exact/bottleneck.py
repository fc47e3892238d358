"""PRECODE's random bottleneck, taken out of a single example's update: the draw that was to be the client's secret.

The bottleneck makes code = mean(h) + softplus(spread(h)) * draw of the features h, and hands on out(code). All three
are linear layers with a bias, and each gives its input away as any such layer does for one example: `mean` the
features, `out` the code. Their difference, divided by the public spread, is the draw. With it the model is like any
other: it replays, and everything that attacks models attacks this one. Before the bottleneck stands the gradient by
the features, W_mean^T dL/db_mean + W_spread^T dL/db_spread, without any draw in it, from where the closed form goes on.

That PRECODE falls where its own gradients are left out is known (Scheliga et al., arXiv:2208.04767; Balunovic et al.,
ICLR 2022, arXiv:2111.04706); that its own gradients give the draw is ours.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedseal.attack.base import better, conclude, precision, refused
from fedseal.attack.evidence import Evidence
from fedseal.attack.exact.layerwise import Layerwise, invertible
from fedseal.attack.exact.recursion import closed_form, head_signal
from fedseal.attack.route import Route
from fedseal.attack.structure import Linear, Structure
from fedseal.client import RandomLayer
from fedseal.types import Candidate, Observation, ProgressCallback, Reconstruction

PARTS = tuple(f"{part}.{kind}" for part in ("mean", "spread", "out") for kind in ("weight", "bias"))
STACKED = ("bottleneck.weight", "bottleneck.bias")  # of mean and spread as one layer


def with_draw(observation: Observation) -> Observation:
    """The same observation of a model without a secret, where the update gives the bottleneck's draw away.

    Else it is returned as it is: no such defense is known, several examples, several local steps, weights withheld, or
    what else the defense did to the update.

    >>> import fedseal as fs
    >>> shield, photo = fs.defense.parse("precode:8"), fs.zoo.photos(size=8)[:1]
    >>> model, draws = shield.on_model(fs.zoo.lenet(size=8, width=4)), torch.Generator().manual_seed(0)
    >>> update = fs.local_update(model, photo, training=fs.LocalTraining.fedsgd(), defense=shield, generator=draws)
    >>> threat = fs.ThreatModel.honest_but_curious()
    >>> known = with_draw(threat.observe(model, update, modality=fs.Image(shape=(3, 8, 8)), defense=shield))
    >>> fs.attack.base.residual(known, fs.types.Candidate(photo.inputs, photo.labels)) < 1e-5
    True
    """
    evidence = Evidence(observation)
    place = _bottleneck(observation)
    if place is None or observation.state is None or not evidence.release.of_kind("bottleneck"):
        return observation
    if len(observation.rounds) != 1 or evidence.batch_size != 1 or evidence.gradient_scale is None or evidence.altered:
        return observation
    state, sent = observation.state, observation.update.tensors
    if not all(f"{place}{part}" in sent for part in PARTS):
        return observation
    features, code = (_input(sent, f"{place}{part}") for part in ("mean", "out"))
    mean, spread = (
        state[f"{place}{part}.weight"].double() @ features + state[f"{place}{part}.bias"].double()
        for part in ("mean", "spread")
    )
    model = copy.deepcopy(observation.model)
    layer = model.get_submodule(place.removesuffix("."))
    assert isinstance(layer, RandomLayer)
    layer.drawn = (code - mean) / F.softplus(spread)
    rest = tuple(step for step in observation.defense or () if step.kind != "bottleneck")
    return replace(observation, model=model, defense=rest)


@dataclass(frozen=True)
class Bottleneck(Route):
    """Read one example off the gradient before a random bottleneck: layer by layer, as `Layerwise` does."""

    name: str = "bottleneck"

    def obstacle(self, evidence: Evidence) -> str | None:
        """Why this route does not apply, None if it does."""
        if _bottleneck(evidence.observation) is None:
            return "the model holds no random bottleneck"
        known = _known(evidence)
        if known is None:
            return "the bottleneck's draw does not follow: it takes a single gradient of one example, and the weights"
        row = _Before(known)
        if row.structure.obstacle is not None:
            return row.structure.obstacle
        if Evidence(known).label is None:
            return "the label cannot be read off the head: it needs cross-entropy and a linear head"
        return invertible(row)

    def read(
        self, evidence: Evidence, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        """Closed form, then matching of the model with its draw known where that falls short of precision."""
        started = time.perf_counter()
        obstacle = self.obstacle(evidence)
        known = _known(evidence)
        if obstacle is not None or known is None:
            return refused(self.name, obstacle or "", started)
        row, label = _Before(known), Evidence(known).label
        closed = closed_form(row, head_signal(row), generator, progress)
        inputs = closed.inputs.reshape(1, *known.modality.shape).to(known.like)
        candidate = Candidate(inputs, torch.tensor([label], device=inputs.device))
        found = conclude(known, candidate, route=self.name, steps=0, started=started, status="budget")
        sure = found.outcome.residual is not None and found.outcome.residual <= precision(known)
        determined = not closed.open and Layerwise().determined(row)
        if sure and determined:
            return replace(found, outcome=replace(found.outcome, status="exact"))
        if not sure:
            found = better(found, Layerwise().match(known, closed, determined, generator, progress))
        status = "budget" if not determined and found.outcome.status != "diverged" else found.outcome.status
        seconds = time.perf_counter() - started
        return replace(found, outcome=replace(found.outcome, status=status, route=self.name, seconds=seconds))


class _Before(Evidence):
    """The evidence of the layers before the bottleneck, with its mean and spread as one linear layer for a head."""

    def __init__(self, known: Observation) -> None:
        state, update = known.state, known.update
        place = _bottleneck(known)
        assert state is not None
        assert place is not None
        stacked = replace(update, tensors={**update.tensors, **_stacked(update.tensors, place)})
        super().__init__(
            replace(
                known, rounds=(replace(known.rounds[0], state={**state, **_stacked(state, place)}, update=stacked),)
            )
        )
        before = Evidence(known).structure
        weight = stacked.tensors[STACKED[0]]
        last = before.layers[-1] if before.layers else None
        head = Linear(*STACKED, (weight.shape[1],), (weight.shape[0],))
        shape = getattr(last, "out_shape", None)
        fits = last is None or shape in (None, head.in_shape)
        obstacle = None if fits else f"the data is not known on its way to the bottleneck: {before.obstacle}"
        self.__dict__["structure"] = Structure(
            (*before.layers, head), obstacle, head, before.layers, weight.shape[0], before.nonsmooth
        )


def _known(evidence: Evidence) -> Observation | None:
    """The observation with the draw, read once."""
    known = evidence.once("draw", lambda: with_draw(evidence.observation))
    place = _bottleneck(known)
    layer = None if place is None else known.model.get_submodule(place.removesuffix("."))
    return known if isinstance(layer, RandomLayer) and layer.drawn is not None else None


def _bottleneck(observation: Observation) -> str | None:
    """What the names of the bottleneck's parameters begin with; None if there is none, or several."""
    places = [
        f"{name}." if name else ""
        for name, module in observation.model.named_modules()
        if isinstance(module, RandomLayer) and _parts_of(module)
    ]
    return places[0] if len(places) == 1 else None


def _parts_of(module: nn.Module) -> bool:
    return {name for name, _ in module.named_parameters()} == set(PARTS)


def _input(sent: Mapping[str, Tensor], layer: str) -> Tensor:
    """The input of a linear layer from its gradient, an outer product of which the bias's is one factor; float64."""
    weight, bias = sent[f"{layer}.weight"].double(), sent[f"{layer}.bias"].double()
    return weight.T @ bias / bias.square().sum().clamp_min(1e-300)


def _stacked(tensors: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    both = [[tensors[f"{place}{part}.{kind}"] for part in ("mean", "spread")] for kind in ("weight", "bias")]
    return {name: torch.cat(pair) for name, pair in zip(STACKED, both, strict=True)}
