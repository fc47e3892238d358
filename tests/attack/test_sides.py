"""Convolutions of one, two and three sides are one kind: what is read of one is read of the others."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attack.cases import initialized, psnr, seeded
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, attack, local_update
from fedseal.attack.equations.convolution import _taps
from fedseal.attack.evidence.structure import Conv, structure_of
from fedseal.attack.layers.layerwise import Layerwise
from fedseal.attack.search.prior import color_variation, total_variation
from fedseal.client import architecture
from fedseal.types import Modality


@dataclass(frozen=True)
class Signal:
    """Inputs of any shape with values in [0, 1], as a user's own modality may have them."""

    shape: tuple[int, ...]

    def start(self, noise: Tensor) -> Tensor:
        return noise

    @property
    def kind(self) -> str:
        return "signal"

    def forward(self, candidate: Tensor) -> Tensor:
        return candidate

    def project(self, candidate: Tensor) -> Tensor:
        return candidate.clamp(0, 1)

    def decode(self, inputs: Tensor) -> Tensor:
        return inputs

    def describe(self) -> dict[str, object]:
        return {"kind": self.kind, "shape": list(self.shape)}


def _observed(model: nn.Module, batch: Batch, modality: Modality) -> Observation:
    update = local_update(model, batch, training=LocalTraining.fedsgd())
    return ThreatModel.honest_but_curious().observe(model, update, modality=modality)


def _behind(conv: nn.Module, features: int) -> nn.Module:
    return initialized(nn.Sequential(conv, nn.Sigmoid(), nn.Flatten(), nn.Linear(features, 10)), 0, torch.float32)


class Squeezed(nn.Module):
    """A picture of one row as a signal."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x.squeeze(1))
        return out


SERIES = torch.rand(1, 1, 64, generator=seeded())
KINDS: dict[str, tuple[nn.Module, Tensor, Modality]] = {
    "1-D": (_behind(nn.Conv1d(1, 4, 5, padding=2), 256), SERIES, Signal((1, 64))),
    "1-D on a picture": (
        Squeezed(_behind(nn.Conv1d(1, 4, 5, padding=2), 256)),
        SERIES[:, None],
        Image(shape=(1, 1, 64)),
    ),
    "2-D": (_behind(nn.Conv2d(1, 4, (1, 5), padding=(0, 2)), 256), SERIES[:, None], Image(shape=(1, 1, 64))),
    "3-D": (
        _behind(nn.Conv3d(1, 10, 3, stride=2, padding=1), 270 * 2),
        torch.rand(1, 1, 6, 6, 12, generator=seeded()),
        Signal((1, 6, 6, 12)),
    ),
    "1-D, two layers": (
        initialized(
            nn.Sequential(
                nn.Conv1d(2, 12, 5, 2, 2),
                nn.Tanh(),
                nn.Conv1d(12, 16, 3, 2, 1),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(256, 10),
            ),
            0,
            torch.float32,
        ),
        torch.rand(1, 2, 64, generator=seeded()),
        Signal((2, 64)),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_one_example_is_read_layer_by_layer(name: str) -> None:
    model, inputs, modality = KINDS[name]
    batch = Batch(inputs, torch.tensor([3]))
    for route in (Layerwise(), attack.parse("auto:steps=8")):
        found = route(_observed(model, batch, modality), generator=seeded())
        assert psnr(found, batch) > 120
        assert found.outcome.status == "exact"
        assert found.outcome.route == "layerwise"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.booleans())
def test_the_taps_are_those_of_unfold(kernel: int, stride: int, padding: int, dilation: int, wide: bool) -> None:
    kernels, sides = (kernel, max(1, kernel - 1)), (9, 12 if wide else 7)
    strides, paddings, dilations = (stride, 1), (padding, 2 - padding), (dilation, 1)
    after = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, k, s, p, d in zip(sides, kernels, strides, paddings, dilations, strict=True)
    ]
    conv = Conv("w", None, (1, *sides), (1, *after), kernels, strides, paddings, dilations, 1)
    index = torch.arange(1, sides[0] * sides[1] + 1, dtype=torch.float64).reshape(1, 1, *sides)
    assert torch.equal(_taps(conv), nn.functional.unfold(index, kernels, dilations, paddings, strides)[0].long())


def test_a_convolution_of_one_side_is_read_off_the_operators() -> None:
    layer = structure_of(architecture(KINDS["1-D"][0]), (1, 64)).layers[0]
    assert layer == Conv("0.weight", "0.bias", (1, 64), (4, 64), (5,), (1,), (2,), (1,), 1)


@pytest.mark.parametrize("recipe", ["inverting_gradients:steps=3", "dlg:steps=2", "bayes:steps=1"])
def test_searches_take_signals_as_well(recipe: str) -> None:
    model, inputs, modality = KINDS["1-D"]
    found = attack.parse(recipe)(_observed(model, Batch(inputs, torch.tensor([3])), modality), generator=seeded())
    assert found.inputs is None or bool(found.inputs.isfinite().all())


def test_variations_of_signals_are_finite() -> None:
    for prior in (total_variation, color_variation):
        assert bool(prior(SERIES).isfinite())
