"""Layers are read off the operators, however the model is written; where the row breaks, the reason is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedseal import zoo
from fedseal.attack.evidence.structure import Activation, Conv, Linear, Reshape, Structure, structure_of
from fedseal.client import architecture
from fedseal.errors import UnfitModel

SHAPE = (3, 8, 8)


def _read(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> Structure:
    return structure_of(architecture(model), shape)


class Functional(nn.Module):
    """A convolution, an activation given as a function, and a head."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(64, 5)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.activation(self.conv(x)).reshape(len(x), -1))
        return out


class WithModule(Functional):
    """The same through modules and `flatten`."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.flatten(self.activation(self.conv(x)), 1))
        return out


Function = Callable[[Tensor], Tensor]
WRITINGS: dict[str, tuple[nn.Module, list[Function], Activation]] = {
    "sigmoid": (nn.Sigmoid(), [torch.sigmoid, F.sigmoid, lambda x: x.sigmoid()], Activation("sigmoid")),
    "tanh": (nn.Tanh(), [torch.tanh, F.tanh, lambda x: x.tanh()], Activation("tanh")),
    "relu": (nn.ReLU(), [torch.relu, F.relu, lambda x: x.relu()], Activation("relu")),
    "leaky": (nn.LeakyReLU(0.3), [lambda x: F.leaky_relu(x, 0.3)], Activation("leaky_relu", 0.3)),
    "leaky default": (nn.LeakyReLU(), [F.leaky_relu], Activation("leaky_relu", 0.01)),
}


@pytest.mark.parametrize("name", WRITINGS)
def test_functions_methods_and_modules_are_one_layer(name: str) -> None:
    module, functions, activation = WRITINGS[name]
    expected = (
        Conv("conv.weight", "conv.bias", (3, 8, 8), (4, 4, 4), (3, 3), (2, 2), (1, 1), (1, 1), 1),
        activation,
        Reshape((4, 4, 4), (64,)),
        Linear("head.weight", "head.bias", (64,), (5,)),
    )
    for model in (WithModule(module), *[Functional(function) for function in functions]):
        structure = _read(model)
        assert structure.layers == expected
        assert structure.obstacle is None
        assert structure.head == expected[-1]
        assert structure.num_classes == 5
        assert structure.nonsmooth == (name == "relu" or name.startswith("leaky"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_model_of_any_dtype_is_read(dtype: torch.dtype) -> None:
    assert _read(WithModule(nn.Tanh()).to(dtype)).obstacle is None


def test_every_number_of_a_convolution_is_read() -> None:
    conv = nn.Conv2d(6, 4, (2, 3), (1, 2), (2, 0), (3, 1), 2, bias=False)
    layer = _read(nn.Sequential(conv, nn.Flatten(), nn.Linear(4 * 9 * 3, 2)), (6, 8, 8)).layers[0]
    assert layer == Conv("0.weight", None, (6, 8, 8), (4, 9, 3), (2, 3), (1, 2), (2, 0), (3, 1), 2)


def _behind(*layers: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 5))


class Skip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(x)


class Shared(nn.Module):
    """A linear layer shared by the rows of one picture, as tokens share theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Linear(24, 4), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.each(x.reshape(len(x), 8, 24)).flatten(1))
        return out


OBSTACLES = {
    "residual block": (
        _behind(nn.Conv2d(3, 3, 3, padding=1), Skip(), features=192),
        1,
        "after layer 1 the data takes 2 ways",
    ),
    "max pooling": (_behind(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), features=36), 1, "max_pool2d"),
    "average pooling": (_behind(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), features=36), 1, "avg_pool2d"),
    "batch norm": (_behind(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), features=144), 1, "batch_norm"),
    "transposed": (_behind(nn.ConvTranspose2d(3, 4, 3), features=400), 0, "transposed"),
    "shared by positions": (Shared(), 1, "shared by the positions of one example"),
    "vision transformer": (zoo.vit(size=8, width=8, depth=1, heads=2), 2, "cannot be inverted"),
    "resnet": (zoo.resnet(width=4, blocks=(1,)), 1, "batch_norm"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_where_the_row_breaks_the_operator_is_named(name: str) -> None:
    model, count, words = OBSTACLES[name]
    structure = _read(model)
    assert structure.obstacle is not None
    assert words in structure.obstacle
    assert len(structure.layers) == count
    assert structure.head is not None


class Ended(nn.Module):
    """A body, a head, and something behind it."""

    def __init__(self, bias: bool, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.end = nn.Linear(192, 8), nn.Linear(8, 5, bias=bias), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(torch.tanh(self.body(x.flatten(1)))))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("end", [lambda z: z, lambda z: F.log_softmax(z, 1), lambda z: F.log_softmax(z, -1)])
def test_the_head_is_found_with_and_without_bias_and_before_a_log_softmax(
    bias: bool, end: Callable[[Tensor], Tensor]
) -> None:
    assert _read(Ended(bias, end)).head == Linear("head.weight", "head.bias" if bias else None, (8,), (5,))


@pytest.mark.parametrize("end", [lambda z: 2 * z, torch.tanh, lambda z: torch.softmax(z, 1)])
def test_scores_that_no_linear_layer_makes_have_no_head(end: Callable[[Tensor], Tensor]) -> None:
    assert _read(Ended(True, end)).head is None


OUTPUTS: dict[str, Callable[[Tensor], object]] = {
    "a map": lambda z: z[:, :, None],
    "a number": lambda z: z.sum(),
    "a pair": lambda z: (z, z),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_model_without_a_row_of_scores_is_refused(name: str) -> None:
    with pytest.raises(UnfitModel, match="does not give one row of class scores"):
        _read(Ended(True, OUTPUTS[name]))  # type: ignore[arg-type]


def test_one_score_an_example_is_a_row() -> None:
    assert _read(Ended(True, lambda z: z[:, 0])).num_classes == 1


def test_inputs_of_another_shape_are_refused_with_the_shape() -> None:
    with pytest.raises(UnfitModel, match=r"does not accept inputs of shape \(2, 1, 8, 8\)"):
        _read(WithModule(nn.Tanh()), (1, 8, 8))
