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
from fedseal.attack.evidence.own_backward import derives
from fedseal.attack.evidence.patch_equations import PatchEquations, patch_equations
from fedseal.attack.evidence.structure import Linear
from fedseal.attack.labels import Labels, best
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


# the head


class Scored(nn.Module):
    """Two layers, and something done to the scores."""

    def __init__(
        self,
        change: Callable[[Tensor], Tensor] = lambda scores: scores,
        *,
        classes: int = 4,
        bias: bool = True,
        before: Callable[[Tensor], Tensor] = lambda features: features,
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.head = nn.Linear(12, 20), nn.Linear(20, classes, bias=bias)
        self.drop = nn.Dropout(0.5)
        self.change, self.before = change, before

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.head(self.drop(self.before(torch.relu(self.first(x))))))


def with_hook(hook: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def change(scores: Tensor) -> Tensor:
        if scores.requires_grad:
            scores.register_hook(hook)  # type: ignore[no-untyped-call]
        return scores

    return change


HOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "turned": lambda back: -back,
    "permuted": lambda back: back.roll(1, 1),
    "small ones turned": lambda back: torch.where(back.abs() < 1e-2, -back, back),
}


def labels_of(
    model: nn.Module, threat: fs.ThreatModel, count: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[Labels, Tensor]:
    torch.manual_seed(7)
    model = model.eval().to(dtype)
    inputs, labels = torch.randn(count, 12).clamp(-2.9, 2.9).to(dtype), torch.arange(1, 1 + count)
    training = fs.LocalTraining.fedsgd(mode="eval")
    update = fs.local_update(model, fs.Batch(inputs, labels), training=training)
    modality = Tabular(columns=tuple(Continuous(f"c{k}", -3.0, 3.0) for k in range(12)))
    observation = threat.observe(model, update, modality=modality)
    return best(observation, generator=torch.Generator().manual_seed(0)), labels


@pytest.mark.parametrize("threat", [LISTENER, SERVER], ids=["eavesdropper", "server"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("hook", HOOKS)
def test_labels_read_off_a_backward_of_the_head_s_own_are_not_certified(
    hook: str, classes: int, bias: bool, threat: fs.ThreatModel
) -> None:
    found, _ = labels_of(Scored(with_hook(HOOKS[hook]), classes=classes, bias=bias), threat)
    assert not found.certified
    assert "own backward" in found.note or (hook, classes) == ("turned", 4)  # of which no sign tells a label


def test_two_labels_read_off_a_backward_of_the_head_s_own_are_not_certified() -> None:
    """The equations hold, for the other one's gradient is large."""
    found, _ = labels_of(Scored(with_hook(HOOKS["small ones turned"])), SERVER, count=2)
    assert not found.certified
    assert "own backward" in found.note


@pytest.mark.parametrize("threat", [LISTENER, SERVER], ids=["eavesdropper", "server"])
@pytest.mark.parametrize(
    "model",
    [
        lambda: Scored(),
        lambda: Scored(bias=False),
        lambda: Scored(lambda scores: scores.log_softmax(1)),
        lambda: Scored(lambda scores: scores.log_softmax(1), bias=False),
        lambda: Scored(lambda scores: scores.float()),
        lambda: Scored(before=lambda features: features.to(torch.bfloat16).to(features.dtype)),
        lambda: Scored(classes=1000),
        lambda: nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.LayerNorm(20), nn.Linear(20, 5)),
        lambda: nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 5, bias=False)),
        lambda: nn.Sequential(
            *[layer for _ in range(12) for layer in (nn.Linear(12, 12), nn.ReLU())], nn.Linear(12, 5)
        ),
    ],
    ids=["plain", "no bias", "link", "link, no bias", "float", "cast", "wide", "tanh", "batchnorm", "deep"],
)
def test_a_plain_head_s_label_stays_certified(model: Callable[[], nn.Module], threat: fs.ThreatModel) -> None:
    found, labels = labels_of(model(), threat)
    assert torch.equal(found.labels, labels)
    assert found.certified, found.note


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_plain_head_s_label_stays_certified_in_other_formats(bias: bool, dtype: torch.dtype) -> None:
    found, labels = labels_of(Scored(bias=bias), LISTENER, dtype=dtype)
    assert torch.equal(found.labels, labels)
    assert found.certified, found.note


class OwnFormat(Scored):
    """Computes in one format, whatever the weights come in."""

    def __init__(self, dtype: torch.dtype, change: Callable[[Tensor], Tensor] = lambda scores: scores) -> None:
        super().__init__(change)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.first(x)).to(self.dtype)
        weight, bias = self.head.weight.to(self.dtype), self.head.bias.to(self.dtype)
        return self.change(nn.functional.linear(features, weight, bias))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_format_within_the_model_is_no_backward_of_its_own(dtype: torch.dtype) -> None:
    assert own(OwnFormat(dtype))
    assert not own(OwnFormat(dtype, with_hook(HOOKS["permuted"])))


def test_gradients_that_go_to_other_examples_are_seen() -> None:
    assert own(Scored(), 2)
    assert not own(Scored(with_hook(lambda back: back.roll(1, 0))), 2)


def own(model: nn.Module, count: int = 1) -> bool:
    """Whether the head's gradient is found to be the derivative, of a batch of so many."""
    inputs = torch.rand(count, 12, generator=torch.Generator().manual_seed(5))
    batch = fs.Batch(inputs, torch.arange(count))
    update = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd(mode="eval"))
    modality = Tabular(columns=tuple(Continuous(f"c{k}", -3.0, 3.0) for k in range(12)))
    evidence = Evidence(LISTENER.observe(model, update, modality=modality))
    return derives(evidence, Linear("head.weight", "head.bias", (20,), (4,)))


def test_two_labels_of_a_plain_model_stay_certified() -> None:
    found, labels = labels_of(Scored(), SERVER, count=2)
    assert torch.equal(found.labels, labels)
    assert found.certified, found.note


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
