"""A model may compute otherwise than the algebra of its first layer says: in its backward, in formats, in positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.attack.batch.spear import Spear
from fedseal.attack.equations.patch_solution import errors_of
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.patch_equations import PatchEquations, patch_equations
from fedseal.attack.layers.linear import LinearFirstLayer
from fedseal.attack.layers.patches import Patches
from fedseal.modality.tabular import Continuous, Tabular

SIDE, PATCH, PLACES = 8, 4, 4
PICTURE = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
LISTENER, SERVER = fs.ThreatModel.eavesdropper(), fs.ThreatModel.honest_but_curious()


class Scaled(torch.autograd.Function):
    """The same values, with half of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *back: Tensor) -> Tensor:
        return 0.5 * back[0]


class Added(torch.autograd.Function):
    """A sum, of which one side gets half of the gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, table: Tensor) -> Tensor:
        return z + table

    @staticmethod
    def backward(ctx: Any, *back: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * back[0], back[0].sum(0, keepdim=True)


def hooked(z: Tensor) -> Tensor:
    if z.requires_grad:
        z.register_hook(lambda back: 0.5 * back)  # type: ignore[no-untyped-call]
    return z


class Small(nn.Module):
    """Patches, positions, and a block behind."""

    def __init__(
        self,
        width: int = 12,
        bias: bool = False,
        *,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        between: Callable[[Tensor], Tensor] = lambda z: z,
        positions: Callable[[Tensor], Tensor] = lambda table: table,
        add: Callable[[Tensor, Tensor], Tensor] = torch.add,
        channels: int = 1,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, width, PATCH, PATCH, bias=bias)
        self.table = nn.Parameter(0.3 * torch.randn(1, PLACES, width))
        self.before, self.between, self.positions, self.add = before, between, positions, add
        self.block = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, width))
        self.head = nn.Linear(width * PLACES, 10)

    def forward(self, x: Tensor) -> Tensor:
        z = self.between(self.conv(self.before(x)).flatten(2).transpose(1, 2))
        z = self.add(z, self.positions(self.table))
        out: Tensor = self.head((z + self.block(z)).reshape(len(x), -1))
        return out


def seen(
    model: nn.Module,
    inputs: Tensor = PICTURE,
    *,
    threat: fs.ThreatModel = LISTENER,
    change: Callable[[fs.Update], fs.Update] = lambda update: update,
    modality: fs.Image | None = None,
    **known: Any,
) -> fs.Observation:
    update = fs.local_update(model, fs.Batch(inputs, torch.tensor([3])), training=fs.LocalTraining.fedsgd())
    return threat.observe(
        model, change(update), modality=modality or fs.Image(shape=(inputs.shape[1], SIDE, SIDE)), **known
    )


def read(observation: fs.Observation, route: Any = None) -> fs.Reconstruction:
    return (route or Patches())(observation, generator=torch.Generator().manual_seed(0))


def away(found: fs.Reconstruction, inputs: Tensor = PICTURE) -> float:
    assert found.inputs is not None
    return float((found.inputs - inputs).double().square().mean().sqrt())


@pytest.mark.parametrize("bias", [False, True])
def test_a_plain_model_stays_certain(bias: bool) -> None:
    found = read(seen(Small(bias=bias)))
    assert found.certain.tolist() == [True], found.certificate
    assert away(found) < 1e-4


@pytest.mark.parametrize(
    "change", [{"between": Scaled.apply}, {"between": hooked}, {"add": Added.apply}], ids=["scaled", "hook", "added"]
)
@pytest.mark.parametrize("threat", [LISTENER, SERVER], ids=["eavesdropper", "server"])
def test_a_backward_of_its_own_behind_the_patches_makes_nothing_certain(
    change: dict[str, Any], threat: fs.ThreatModel
) -> None:
    found = read(seen(Small(**change), 0.9 * PICTURE, threat=threat))
    assert not found.certain.any()
    if threat is LISTENER and found.inputs is not None:
        assert found.certificate is not None
        assert "own backward" in found.certificate.note


# the first layer fully connected


class OwnLinear(torch.autograd.Function):
    """A linear layer whose weight's gradient is made in another way than by the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, how: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return torch.addmm(bias, x, weight.t())

    @staticmethod
    def backward(ctx: Any, *back: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        kept = {"halved": 0.5 * x, "coarse": (4 * x).round() / 4, "plain": x}[ctx.how]
        return back[0] @ weight, back[0].t() @ kept, back[0].sum(0), None


class First(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.how = nn.Linear(12, 32), how
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        own: Tensor = OwnLinear.apply(x, self.first.weight, self.first.bias, self.how)  # type: ignore[no-untyped-call]
        out: Tensor = self.rest(own)
        return out


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("how", ["halved", "coarse", "plain"])
def test_a_linear_layer_s_own_backward_makes_nothing_certain(how: str, count: int) -> None:
    torch.manual_seed(7)
    inputs, labels = torch.randn(count, 12).clamp(-2.9, 2.9), torch.tensor([2, 4])[:count]
    update = fs.local_update(First(how), fs.Batch(inputs, labels), training=fs.LocalTraining.fedsgd())
    columns = tuple(Continuous(f"c{k}", -3.0, 3.0) for k in range(12))
    observation = LISTENER.observe(First(how), update, modality=Tabular(columns=columns))
    found = read(observation, LinearFirstLayer() if count == 1 else Spear())
    assert found.certain.tolist() == [how == "plain"] * count
    assert found.certificate is not None
    assert ("own backward" in found.certificate.note) == (how != "plain")


# no equation is left over


def in_format(dtype: torch.dtype) -> Callable[[fs.Update], fs.Update]:
    return lambda update: replace(update, tensors={n: t.to(dtype).to(t.dtype) for n, t in update.tensors.items()})


def noisy(share: float) -> Callable[[fs.Update], fs.Update]:
    def changed(update: fs.Update) -> fs.Update:
        generator = torch.Generator().manual_seed(3)
        tensors = {
            name: t + share * t.square().mean().sqrt() * torch.randn(t.shape, generator=generator)
            for name, t in update.tensors.items()
        }
        return replace(update, tensors=tensors)

    return changed


@pytest.mark.parametrize("change", [in_format(torch.bfloat16), noisy(1e-3), noisy(3e-3), lambda update: update])
def test_nothing_is_certain_where_nothing_measures_the_error(change: Callable[[fs.Update], fs.Update]) -> None:
    found = read(seen(Small(4), change=change))
    assert not found.certain.any()
    assert found.certificate is not None
    assert "no equation is left over" in found.certificate.note


@pytest.mark.parametrize("width", [4, 5, 6, 12])
@pytest.mark.parametrize("bias", [False, True])
def test_no_error_that_nobody_told_passes_for_rounding(width: int, bias: bool) -> None:
    for change in (in_format(torch.bfloat16), in_format(torch.float16), *map(noisy, (1e-4, 1e-3, 3e-3, 1e-2))):
        for picture in (PICTURE, 0.25 + 0.5 * PICTURE, 0.5 + 0.01 * PICTURE):
            found = read(seen(Small(width, bias), picture, change=change))
            assert not found.certain.any() or away(found, picture) < 1e-2


def test_the_noise_of_a_known_defense_counts_whether_it_shows_or_not() -> None:
    defense = fs.defense.gaussian(3e-4)
    picture = 0.25 + 0.5 * PICTURE
    for width, bias in ((4, False), (4, True), (5, False), (12, False)):
        update = fs.local_update(
            Small(width, bias),
            fs.Batch(picture, torch.tensor([3])),
            training=fs.LocalTraining.fedsgd(),
            generator=torch.Generator().manual_seed(0),
            defense=defense,
        )
        modality = fs.Image(shape=(1, SIDE, SIDE))
        observation = SERVER.observe(Small(width, bias), update, modality=modality, defense=defense)
        found = read(observation)
        assert not found.certain.any() or away(found, picture) < 1e-2
        equations = patch_equations(Evidence.of(observation))
        assert isinstance(equations, PatchEquations)
        assert min(errors_of(equations)[:2]) >= 3e-4


# formats and positions


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int32, torch.bfloat16])
def test_a_cast_before_the_first_layer_is_no_change_of_shape(dtype: torch.dtype) -> None:
    def cast(x: Tensor) -> Tensor:
        return x.to(dtype).to(x.dtype)

    found = read(seen(Small(12, True, before=cast)))
    assert not found.certain.any() or away(found) < 1e-2

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rest = nn.Sequential(nn.Linear(SIDE**2, 32), nn.ReLU(), nn.Linear(32, 10))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.rest(cast(x).flatten(1))
            return out

    found = read(seen(Rows()), LinearFirstLayer())
    assert not found.certain.any() or away(found) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_a_cast_behind_the_patches_rounds_gradients(dtype: torch.dtype) -> None:
    found = read(seen(Small(12, True, between=lambda z: z.to(dtype).to(z.dtype))))
    assert not found.certain.any() or away(found) < 1e-2


def test_values_that_a_coarse_format_swallows_are_not_certain() -> None:
    class Coarse(Small):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out: Tensor = super().forward(x).float()
            return out

    picture = 255 * PICTURE
    found = read(seen(Coarse(12, True), picture, modality=fs.Image(shape=(1, SIDE, SIDE), mean=(0.0,), std=(1 / 255,))))
    assert not found.certain.any()


@pytest.mark.parametrize(
    ("positions", "certain"),
    [
        (lambda table: 2 * table, True),
        (lambda table: -table, True),
        (lambda table: table + 0.1 * torch.ones(1, PLACES, 1), None),
        (lambda table: table.flip(1), True),
        (lambda table: table + 1, True),
        (lambda table: table + table.flip(1), None),
        (lambda table: table.clamp(-1, 1), None),
        (lambda table: table.tanh(), None),
    ],
    ids=["twice", "negative", "constant", "flipped", "number", "folded", "cut", "tanh"],
)
def test_positions_are_read_rightly_or_refused_with_a_reason(
    positions: Callable[[Tensor], Tensor], certain: bool | None
) -> None:
    found = read(seen(Small(positions=positions)))
    if found.inputs is None:
        assert certain is None
        assert "does not show the gradient" in found.outcome.note
    else:
        assert found.certain.tolist() == [True]
        assert away(found) < 1e-4


def test_channels_that_enter_as_pictures_of_their_own_are_refused() -> None:
    class Grey(Small):
        def forward(self, x: Tensor) -> Tensor:
            grey = self.conv(x.reshape(-1, 1, SIDE, SIDE)).flatten(2).transpose(1, 2) + self.table
            out: Tensor = self.head(grey.reshape(len(x), 3, -1).mean(1))
            return out

    found = read(seen(Grey(), torch.rand(1, 3, SIDE, SIDE)))
    assert found.outcome.status == "not_applicable"
    assert "as several" in found.outcome.note
