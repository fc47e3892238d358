"""What a model computes before any weight that was sent may be the same for data far apart: nothing is certain then."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

import fedseal as fs
from fedseal import Batch, LocalTraining, Observation, Outcome, Reconstruction, ThreatModel, local_update
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.trunk import trunk
from fedseal.attack.proof.certificate import SOLVED_ELSEWHERE, certify
from fedseal.attack.proof.preimages import ALONE
from fedseal.modality.tabular import Continuous, Tabular

Map = Callable[[Tensor], Tensor]


class Behind(nn.Module):
    """A perceptron behind features that a function of the input computes."""

    def __init__(self, features: Map, taken: int, width: int = 24) -> None:
        super().__init__()
        self.features = features
        self.net = nn.Sequential(nn.Linear(taken, width), nn.Tanh(), nn.Linear(width, 5))

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.net(self.features(inputs).flatten(1))
        return scores


def _drawn(build: Callable[[], nn.Module], seed: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _rows(columns: int, count: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed)).clamp(-2.9, 2.9)


def _seen(model: nn.Module, inputs: Tensor, labels: list[int]) -> Observation:
    shape = tuple(inputs.shape[1:])
    rows = Tabular(tuple(Continuous(f"c{n}", -3.0, 3.0) for n in range(shape[0])))
    update = local_update(model, Batch(inputs, torch.tensor(labels)), training=LocalTraining.fedsgd())
    modality = rows if len(shape) == 1 else fs.Image(shape=(shape[0], shape[1], shape[2]))
    return ThreatModel.honest_but_curious().observe(model, update, modality=modality)


def _claimed(seen: Observation, inputs: Tensor, labels: list[int]) -> tuple[list[bool], str]:
    claim = Reconstruction(inputs, torch.tensor(labels), Outcome("exact", "by hand", 0.0, 0, 0.0))
    found = certify(seen, claim)
    assert found.certificate is not None
    return found.certain.tolist(), found.certificate.note


def _mirrored(column: int) -> Map:
    def other(inputs: Tensor) -> Tensor:
        inputs = inputs.clone()
        inputs[:, column] *= -1
        return inputs

    return other


def _around(inputs: Tensor) -> Tensor:
    inputs = inputs.clone()
    inputs[:, 2] += 2.0 if inputs[0, 2] < 0 else -2.0
    return inputs


def _exchanged(inputs: Tensor) -> Tensor:
    inputs = inputs.clone()
    inputs[:, [0, 3]] = inputs[:, [3, 0]]
    return inputs


def _wave(values: Any) -> Any:
    return values + 0.1 * np.sin(30 * values)


def _on_another_wave(inputs: Tensor) -> Tensor:
    """Each value where the wave is as high again, if it is so near by."""

    def other(value: float) -> float:
        grid = np.linspace(value - 0.2, value + 0.2, 4000)
        crossings = np.flatnonzero(np.diff(np.sign(_wave(grid) - _wave(value))))
        far = [k for k in crossings if abs(grid[k] - value) > 0.01]
        if not far:
            return value
        return float(brentq(lambda x: _wave(x) - _wave(value), grid[far[0]], grid[far[0] + 1], xtol=1e-15))

    return torch.tensor([[other(value) for value in inputs[0].double().tolist()]]).to(inputs.dtype)


def _one_pixel(inputs: Tensor) -> Tensor:
    mask = torch.zeros_like(inputs)
    mask[:, 0, 2, 2] = 1  # written in place
    return inputs * (1 - mask) + mask * (inputs - 0.5).abs()


def _other_pixel(inputs: Tensor) -> Tensor:
    inputs = inputs.clone()
    inputs[:, 0, 2, 2] = 1 - inputs[:, 0, 2, 2]
    return inputs


FOLDS: dict[str, tuple[Map, int, Map, Tensor, int]] = {
    "remainder, a wide layer behind": (
        lambda x: torch.cat([x[:, :2], torch.remainder(x[:, 2:3], 2.0), x[:, 3:]], 1), 8, _around, _rows(8), 1000,
    ),
    "angles, a wide layer behind": (
        lambda x: torch.cat([torch.sin(math.pi * x), torch.cos(math.pi * x)], 1), 16, _around, _rows(8), 1000,
    ),
    "one column's size of many": (
        lambda x: torch.cat([x[:, :3], x[:, 3:4].abs(), x[:, 4:]], 1), 70, _mirrored(3), _rows(70), 24,
    ),
    "sets of many columns": (
        lambda x: x.view(len(x), -1, 5).sort(2).values, 70, _exchanged, _rows(70), 24,
    ),
    "small waves": (lambda x: x + 0.1 * torch.sin(30 * x), 6, _on_another_wave, _rows(6, seed=3), 10),
    "one pixel, written in place": (
        _one_pixel, 108, _other_pixel, torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(3)), 24,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_features_that_fold_make_nothing_certain_however_large_the_model(name: str) -> None:
    features, taken, other, inputs, width = FOLDS[name]
    seen = _seen(_drawn(lambda: Behind(features, taken, width)), inputs, [2])
    for those in (inputs, other(inputs)):
        certain, note = _claimed(seen, those, [2])
        assert certain == [False]
        assert SOLVED_ELSEWHERE in note


def _trained(model: nn.Sequential, *names: str) -> nn.Sequential:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in names)
    return model


def test_a_frozen_bottleneck_makes_nothing_certain_however_wide_it_is_behind() -> None:
    """Its six numbers have several preimages in some models, and layers behind only repeat them."""

    def build() -> nn.Sequential:
        layers = [nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 6), nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 5)]
        with torch.no_grad():
            layers[0].get_parameter("weight").mul_(2)
        return _trained(nn.Sequential(*layers), "5")

    inputs = _rows(6, seed=101)
    seen = _seen(_drawn(build), inputs, [2])
    here = trunk(Evidence.of(seen), 1)
    assert here is not None
    assert here.waist == 6
    certain, note = _claimed(seen, inputs, [2])
    assert certain == [False]
    assert ALONE in note


def test_frozen_layers_that_tell_all_data_apart_keep_their_certificates() -> None:
    """A wide ReLU layer, and linear layers that pass on as many numbers as the data has."""
    relu = _drawn(lambda: _trained(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 5)), "2"))
    narrow = [nn.Linear(6, 20), nn.Linear(20, 6), nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 5)]
    for model in (relu, _drawn(lambda: _trained(nn.Sequential(*narrow), "2", "4"))):
        inputs = _rows(6, 2)
        certain, _ = _claimed(_seen(model, inputs, [2, 0]), inputs, [2, 0])
        assert certain == [True, True]


def test_where_weights_were_sent_at_once_there_is_no_trunk() -> None:
    image = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    direct = {
        "a linear layer": (nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)), _rows(8)),
        "its bias alone": (_trained(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5)), "2"), _rows(8)),
        "behind another order": (Behind(lambda x: x.flip(1), 8), _rows(8)),
        "scaled and shifted": (Behind(lambda x: 2 * x + 1, 8), _rows(8)),
        "a convolution": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)), image),
        "data beside the features": (Behind(lambda x: torch.cat([x, x.abs()], 1), 16), _rows(8)),
    }
    direct["its bias alone"][0].get_parameter("0.bias").requires_grad_(True)
    for name, (model, inputs) in direct.items():
        here = trunk(Evidence.of(_seen(model, inputs, [1])), 1)
        assert here is None or name == "data beside the features", name
        if here is not None:  # the data leaves it as a part of its end
            state = dict(model.named_parameters())
            assert here({k: v.detach() for k, v in state.items()}, inputs).numel() == 16


def test_a_trunk_gives_what_the_first_trained_layer_takes_in() -> None:
    model = _drawn(lambda: _trained(nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 5)), "2"))
    inputs = _rows(6, 3).double()
    here = trunk(Evidence.of(_seen(model, inputs.float(), [1, 2, 0])), 3)
    assert here is not None
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    expected = nn.functional.gelu(inputs @ state["0.weight"].double().T + state["0.bias"].double())
    assert torch.allclose(here(state, inputs), expected.flatten())
    assert here.waist == 9


def test_a_trunk_that_is_too_large_to_search_makes_nothing_certain() -> None:
    inputs = _rows(300)
    model = _drawn(lambda: Behind(lambda x: torch.cat([x[:, :1].abs(), x[:, 1:]], 1), 300, 8))
    certain, note = _claimed(_seen(model, inputs, [2]), inputs, [2])
    assert certain == [False]
    assert "too large to look" in note
