"""The draw of PRECODE's random bottleneck, read off a single example's update; see `layers/bottleneck.py`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from fedseal.attack.evidence.evidence import Evidence
from fedseal.client import RandomLayer
from fedseal.types import Observation

PARTS = tuple(f"{part}.{kind}" for part in ("mean", "spread", "out") for kind in ("weight", "bias"))


def drawn(observation: Observation) -> Observation:
    """`with_draw`, worked out once for each observation."""
    return Evidence.of(observation).once("draw", lambda: with_draw(observation))


def with_draw(observation: Observation) -> Observation:
    """The same observation of a model without a secret, where the update gives the bottleneck's draw away.

    Else it is returned as it is: no such defense is known, several examples, several local steps, weights withheld, or
    what else the defense did to the update.

    >>> import torch, fedseal as fs
    >>> shield, photo = fs.defense.parse("precode:8"), fs.zoo.photos(size=8)[:1]
    >>> model, draws = shield.on_model(fs.zoo.lenet(size=8, width=4)), torch.Generator().manual_seed(0)
    >>> update = fs.local_update(model, photo, training=fs.LocalTraining.fedsgd(), defense=shield, generator=draws)
    >>> threat = fs.ThreatModel.honest_but_curious()
    >>> known = with_draw(threat.observe(model, update, modality=fs.Image(shape=(3, 8, 8)), defense=shield))
    >>> fs.attack.base.residual(known, fs.types.Candidate(photo.inputs, photo.labels)) < 1e-5
    True
    """
    evidence = Evidence(observation)
    place = bottleneck_of(observation)
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


def bottleneck_of(observation: Observation) -> str | None:
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
