"""What a model does to its input before its first layer is undone, however it is written; what cannot be is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.cases import initialized, pictures, psnr, seeded
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, attack, local_update
from fedseal.attack.batch.cocktail_party import CocktailParty
from fedseal.attack.batch.separate import Separation
from fedseal.attack.batch.spear import Spear
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.layers.layerwise import Layerwise
from fedseal.attack.layers.linear import LinearFirstLayer
from fedseal.attack.proof.certificate import certify
from fedseal.modality.tabular import Continuous, Tabular
from fedseal.types import Modality, Outcome, Reconstruction

SERVER, EAVESDROPPER = ThreatModel.honest_but_curious(), ThreatModel.eavesdropper()
BLIND = ThreatModel("message_alone", frozenset({"num_examples", "single_updates"}))
EVALUATED = LocalTraining.fedsgd(mode="eval")
SHAPE = (3, 8, 8)


class Prepared(nn.Module):
    """A network behind a function of its input; a buffer and an attribute to build constants of."""

    def __init__(self, prepare: Callable[[Prepared, Tensor], Tensor], network: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.prepare, self.norm, self.network = prepare, norm, network
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor([0.3, 0.5, 0.6]).view(3, 1, 1))
        self.std = torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(self.prepare(self, x))
        return out


def _batch_norm(kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], features: int) -> nn.Module:
    norm = kind(features)
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(0.2, 0.6, generator=seeded(1))
        norm.running_var.uniform_(0.05, 0.2, generator=seeded(2))
        norm.weight.uniform_(0.5, 1.5, generator=seeded(3))
        norm.bias.uniform_(-0.3, 0.3, generator=seeded(4))
    return norm


Prepare = Callable[[Prepared, Tensor], Tensor]
PUBLIC: dict[str, Prepare] = {
    "numbers": lambda model, x: (x - 0.1307) / 0.3081,
    "twice, less one": lambda model, x: 2 * x - 1,
    "constants built in forward": lambda model, x: (
        (x - torch.tensor([0.4, 0.5, 0.3]).view(3, 1, 1)) / torch.tensor(0.2)
    ),
    "an attribute": lambda model, x: x / model.std,
    "another order": lambda model, x: 3 * x.permute(0, 3, 1, 2).contiguous(),
    "flipped, flat and unsqueezed": lambda model, x: x.flip(-1).flatten(1).unsqueeze(1) - 0.5,
    "single precision in between": lambda model, x: (255 * x).float().to(x.dtype) / 255,
    "cut to the valid range": lambda model, x: x.clamp(0, 1),
    "grown by a border": lambda model, x: F.pad(x, (1, 1, 1, 1)) - 0.5,
    "each twice": lambda model, x: torch.cat([x, 1 - x], 1),
}
STATE: dict[str, Prepare] = {
    "a buffer": lambda model, x: (x - model.mean) / 0.3,
    "batch norm of channels": lambda model, x: model.norm(x),
}
NO_MAP: dict[str, tuple[Prepare, str]] = {
    "layer norm": (lambda model, x: F.layer_norm(x, SHAPE), "native_layer_norm"),
    "instance norm": (lambda model, x: F.instance_norm(x), "normalizes by what the batch or the input holds"),
    "less its own mean": (lambda model, x: x - x.mean((1, 2, 3), keepdim=True), r"\(mean, sub, view\)"),
    "bent": (lambda model, x: x + torch.tanh(x), r"\(tanh, add, view\)"),
    "cut within the valid range": (lambda model, x: x.clamp(0.2, 0.8), r"\(clamp, view\)"),
    "neighbors averaged": (lambda model, x: F.avg_pool2d(x, 2), "avg_pool2d"),
    "noisy": (lambda model, x: x + 0.1 * torch.rand_like(x), "rand_like"),
}


def _model(prepare: Prepare, *, width: int = 16, activation: nn.Module | None = None, seed: int = 0) -> Prepared:
    flat = nn.Flatten()
    with torch.no_grad():
        inputs = flat(prepare(Prepared(prepare, flat, _batch_norm(nn.BatchNorm2d, 3)), torch.rand(2, *SHAPE))).shape[1]
    layers = nn.Sequential(flat, nn.Linear(inputs, width), activation or nn.Tanh(), nn.Linear(width, 5))
    network = initialized(layers, seed, torch.float32)
    return Prepared(prepare, network, _batch_norm(nn.BatchNorm2d, 3)).eval()


def _observed(
    model: nn.Module, batch: Batch, threat: ThreatModel = SERVER, *, modality: Modality | None = None
) -> Observation:
    update = local_update(model, batch, training=EVALUATED)
    return threat.observe(model, update, modality=modality or Image(shape=SHAPE))


def _picture(count: int = 1, seed: int = 0) -> Batch:
    return pictures(count, SHAPE, seed=seed, dtype=torch.float32)


@pytest.mark.parametrize("threat", [SERVER, EAVESDROPPER, BLIND], ids=lambda threat: threat.name)
@pytest.mark.parametrize("name", PUBLIC)
def test_public_constants_are_undone_for_everybody(name: str, threat: ThreatModel) -> None:
    batch = _picture()
    found = LinearFirstLayer()(_observed(_model(PUBLIC[name]), batch, threat), generator=seeded())
    assert psnr(found, batch) > 120  # 1e-6
    assert found.outcome.status == "exact"
    assert found.outcome.note == ""


@pytest.mark.parametrize("name", STATE)
def test_buffers_are_undone_by_who_has_them(name: str) -> None:
    batch, model = _picture(), _model(STATE[name])
    found = LinearFirstLayer()(_observed(model, batch), generator=seeded())
    assert psnr(found, batch) > 120
    assert found.outcome.status == "exact"


def test_buffers_that_are_sent_beside_the_update_are_undone_without_the_weights() -> None:
    batch = _picture()
    found = LinearFirstLayer()(_observed(_model(STATE["a buffer"]), batch, EAVESDROPPER), generator=seeded())
    assert psnr(found, batch) > 120
    assert found.outcome.status == "exact"


@pytest.mark.parametrize("name", STATE)
def test_what_is_withheld_leaves_the_input_exact_up_to_scale_and_shift_of_each_channel(name: str) -> None:
    batch, observation = _picture(), _observed(_model(STATE[name]), _picture(), BLIND)
    found = LinearFirstLayer()(observation, generator=seeded())
    assert found.inputs is not None
    assert found.certificate is None
    assert "is withheld" in Evidence(observation).doubt
    assert found.outcome.status == "budget"
    assert not bool(found.certain.any())
    assert "exact up to the normalization" in found.outcome.note
    for read, true in zip(found.inputs[0].double(), batch.inputs[0].double(), strict=True):
        assert abs(float(torch.corrcoef(torch.stack([read.flatten(), true.flatten()]))[0, 1])) > 1 - 1e-9


@pytest.mark.parametrize("name", NO_MAP)
def test_what_is_no_map_of_single_values_is_an_obstacle_with_its_reason(name: str) -> None:
    prepare, words = NO_MAP[name]
    observation = _observed(_model(prepare), _picture())
    for route in (LinearFirstLayer(), Spear(), Layerwise(), CocktailParty(steps=2)):
        found = route(observation, generator=seeded())
        assert found.outcome.status == "not_applicable"
        assert found.inputs is None
    obstacle = Evidence(observation).no_first_linear
    assert obstacle is not None
    assert re.search(words, obstacle)


def test_batch_norm_in_training_is_an_obstacle() -> None:
    model = _model(STATE["batch norm of channels"]).train()
    update = local_update(model, _picture(2), training=LocalTraining.fedsgd())
    evidence = Evidence(SERVER.observe(model, update, modality=Image(shape=SHAPE)))
    assert evidence.first_linear is None
    assert "batch_norm" in (evidence.no_first_linear or "")


def test_whether_batch_norm_was_in_training_is_doubted_where_nobody_says() -> None:
    observation = _observed(_model(STATE["batch norm of channels"]), _picture(), ThreatModel.unknown_training())
    found = LinearFirstLayer()(observation, generator=seeded())
    assert not bool(found.certain.any())
    assert "is withheld" in Evidence(observation).doubt


def test_values_that_do_not_reach_the_first_layer_are_filled_in_and_nothing_is_certain() -> None:
    batch = _picture()
    for threat in (SERVER, EAVESDROPPER):
        found = LinearFirstLayer()(_observed(_model(lambda _, x: x[..., 1:-1]), batch, threat), generator=seeded())
        assert found.inputs is not None
        assert float((found.inputs - batch.inputs)[..., 1:-1].abs().max()) < 1e-6
        assert "48 of 192 values do not reach the first layer" in found.outcome.note
        assert not bool(found.certain.any())


def test_a_batch_is_taken_apart_behind_a_normalization() -> None:
    batch = _picture(4)
    model = _model(PUBLIC["constants built in forward"], width=96, activation=nn.ReLU())
    for threat in (SERVER, EAVESDROPPER):
        found = Spear()(_observed(model, batch, threat), generator=seeded())
        assert found.inputs is not None
        assert float(torch.cdist(batch.inputs.flatten(1), found.inputs.flatten(1)).amin(1).max()) < 1e-3


def test_pictures_are_unmixed_behind_another_order_of_their_values() -> None:
    batch = _picture(1)
    found = CocktailParty(steps=20)(_observed(_model(PUBLIC["another order"]), batch, EAVESDROPPER), generator=seeded())
    assert psnr(found, batch) > 60


def _convolutional(prepare: Prepare) -> Prepared:
    layers = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(192, 5))
    return Prepared(prepare, initialized(layers, 0, torch.float32), _batch_norm(nn.BatchNorm2d, 3)).eval()


@pytest.mark.parametrize("name", ["constants built in forward", "batch norm of channels"])
def test_the_recursion_ends_at_the_input_not_at_the_first_convolution(name: str) -> None:
    batch = _picture()
    found = Layerwise()(_observed(_convolutional((PUBLIC | STATE)[name]), batch), generator=seeded())
    assert psnr(found, batch) > 100
    assert found.outcome.status == "exact"


def test_a_separated_batch_ends_there_too() -> None:
    batch = Batch(_picture(2).inputs, torch.tensor([1, 3]))
    found = Separation(steps=4)(_observed(_convolutional(PUBLIC["numbers"]), batch), generator=seeded())
    assert found.inputs is not None
    assert float((found.inputs - batch.inputs).square().mean().sqrt()) < 1e-3


def test_rows_of_a_table_are_read_behind_batch_norm() -> None:
    columns = tuple(Continuous(f"c{place}", 0, 10, mean=5, std=3) for place in range(6))
    table = Tabular(columns)
    rows = table.encode([{column.name: 1.5 * place for place, column in enumerate(columns)}])
    network = initialized(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5)), 0, torch.float32)
    model = nn.Sequential(_batch_norm(nn.BatchNorm1d, 6), *network.children()).eval()
    batch = Batch(rows, torch.tensor([2]))
    found = attack.parse("auto:steps=8")(_observed(model, batch, modality=table), generator=seeded())
    assert found.inputs is not None
    assert float((found.inputs - rows).abs().max()) < 1e-5
    assert found.outcome.status == "exact"


def test_looking_for_the_map_leaves_the_world_and_the_model_alone() -> None:
    observation = _observed(_model(NO_MAP["noisy"][0]), _picture())
    world, modes = torch.get_rng_state(), [module.training for module in observation.model.modules()]
    hooks = [len(module._forward_hooks) for module in observation.model.modules()]
    assert Evidence(observation).first_linear is None
    assert torch.equal(torch.get_rng_state(), world)
    assert [module.training for module in observation.model.modules()] == modes
    assert [len(module._forward_hooks) for module in observation.model.modules()] == hooks


def test_half_precision_is_undone_to_its_own_rounding() -> None:
    model = _model(PUBLIC["numbers"]).bfloat16()
    batch = _picture()
    batch = Batch(batch.inputs.bfloat16(), batch.labels)
    observation = _observed(model, batch, EAVESDROPPER)
    found = LinearFirstLayer()(replace(observation), generator=seeded())
    assert found.inputs is not None
    assert psnr(found, batch) > 40


@pytest.mark.parametrize(
    ("before", "low", "high", "row"),
    [
        (nn.Hardtanh(0.0, 1000.0), 0.0, 1900.0, [1800.0, 900.0, 400.0, 41.0]),  # incomes, cut
        (nn.Threshold(0.06, 0.0), 0.0, 1.0, [0.05, 0.04, 0.5, 0.7]),
        (nn.Hardtanh(0.0, 1e6), 0.0, 1e7, [2e6, 9e5, 4e5, 41.0]),
    ],
)
def test_a_clip_or_a_threshold_before_the_first_layer_makes_nothing_certain(
    before: nn.Module, low: float, high: float, row: list[float]
) -> None:
    """Values on its flat side leave the update as it is, wherever in the range it begins."""
    torch.manual_seed(0)
    net = nn.Sequential(before, nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    with torch.no_grad():
        net.get_parameter("1.weight").div_(high)
    table = Tabular(tuple(Continuous(f"t{column}", low, high) for column in range(4)))
    batch = Batch(torch.tensor([row]), torch.tensor([1]))
    update = local_update(net, batch, training=LocalTraining.fedsgd())
    seen = ThreatModel.honest_but_curious().observe(net, update, modality=table)
    clipped = Batch(before(batch.inputs), batch.labels)
    for inputs in (batch.inputs, clipped.inputs):
        claim = Reconstruction(inputs, batch.labels, Outcome("exact", "by hand", 0.0, 0, 0.0))
        assert not certify(seen, claim).certain.any()
    found = LinearFirstLayer()(seen, generator=torch.Generator().manual_seed(0))
    assert not found.certain.any()


def test_a_map_is_asked_again_near_what_was_found() -> None:
    """A step between the levels at which the whole range is looked at."""

    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where((x - 0.503).abs() < 0.004, torch.full_like(x, 0.503), x)

    net = nn.Sequential(nn.Flatten(), Step(), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    table = Tabular(tuple(Continuous(f"t{column}", 0.0, 1.0) for column in range(8)))
    inputs = torch.tensor([[0.506, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8]])
    update = local_update(net, Batch(inputs, torch.tensor([1])), training=LocalTraining.fedsgd())
    seen = ThreatModel.honest_but_curious().observe(net, update, modality=table)
    before = Evidence.of(seen).preprocessing
    if before is not None:
        assert not before.holds_at(torch.where(inputs == 0.506, 0.503, inputs), table, 0.01)
        assert before.holds_at(torch.full((1, 8), 0.3), table, 0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_map_computed_in_half_precision_only_holds_to_its_rounding(dtype: torch.dtype) -> None:
    """A convolution with a bias takes nothing but its own format; a clip near an input is found there too."""

    class Scaled(nn.Module):
        def __init__(self, end: float) -> None:
            super().__init__()
            self.end = end

        def forward(self, x: Tensor) -> Tensor:
            return (2 * x + 1).clamp(max=2 * self.end + 1)

    inputs = torch.tensor([[[[0.53, 0.1, 0.2, 0.3, 0.4, 0.45]]]]).to(dtype)
    for end, holds in ((1.0, True), (0.53, False)):
        net = nn.Sequential(Scaled(end), nn.Conv2d(1, 4, (1, 3)), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).to(dtype)
        update = local_update(net, Batch(inputs, torch.tensor([1])), training=LocalTraining.fedsgd())
        seen = ThreatModel.honest_but_curious().observe(net, update, modality=Image(shape=(1, 1, 6)))
        before = Evidence.of(seen).preprocessing
        assert (before is not None and before.holds_at(inputs, Image(shape=(1, 1, 6)), 0.01)) == holds


OVER = (1, 2, 3)
Clip = Callable[[Tensor, float], Tensor]


def _norm(x: Tensor, over: tuple[int, ...] = OVER) -> Tensor:
    return x.square().mean(over, keepdim=True).sqrt()


def _within(x: Tensor, center: Tensor, size: Tensor, most: float) -> Tensor:
    return center + (x - center) * (most / size.clamp_min(1e-9)).clamp_max(1.0)


def _by_mean(x: Tensor, size: Callable[[Tensor], Tensor], most: float, over: tuple[int, ...] = OVER) -> Tensor:
    center = x.mean(over, keepdim=True)
    return _within(x, center, size(x - center), most)


def _patches(x: Tensor, most: float) -> Tensor:
    parts = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2)
    center = parts.mean((3, 5), keepdim=True)
    return _within(parts, center, _norm(parts - center, (3, 5)), most).reshape(x.shape)


def _largest(x: Tensor, share: float) -> Tensor:
    flat = x.flatten(1)
    least = flat.kthvalue(int((1 - share) * flat.shape[1]), 1).values[:, None]
    return torch.where(flat > least, flat, 0.0).view_as(x)


TOGETHER: dict[str, tuple[Clip, float]] = {
    "contrast": (lambda x, most: _by_mean(x, _norm, most), 0.2),
    "contrast of channels": (lambda x, most: _by_mean(x, lambda d: _norm(d, (2, 3)), most, (2, 3)), 0.2),
    "contrast of patches": (_patches, 0.15),
    "low contrast": (
        lambda x, most: torch.where(
            _norm(x - x.mean(OVER, keepdim=True)) < most, x.mean(OVER, keepdim=True).expand_as(x), x
        ),
        0.35,
    ),
    "length": (lambda x, most: _within(x, 0 * x, _norm(x), most), 0.45),
    "length of rows": (lambda x, most: _within(x, 0 * x, _norm(x, (3,)), most), 0.45),
    "absolute values about the middle": (
        lambda x, most: _within(x, 0 * x + 0.5, (x - 0.5).abs().mean(OVER, keepdim=True), most),
        0.2,
    ),
    "largest": (lambda x, most: _within(x, 0 * x, x.amax(OVER, keepdim=True), most), 0.8),
    "range": (lambda x, most: _by_mean(x, lambda d: d.abs().amax(OVER, keepdim=True), most), 0.4),
    "neighbors": (
        lambda x, most: _by_mean(x, lambda d: (d[..., 1:] - d[..., :-1]).abs().mean(OVER, keepdim=True), most),
        0.2,
    ),
    "sum": (lambda x, most: x - (x.mean(OVER, keepdim=True) - most).clamp_min(0), 0.4),
    "sums of rows": (lambda x, most: x - (x.mean(3, keepdim=True) - most).clamp_min(0), 0.4),
    "sums of columns": (lambda x, most: x + (most - x.mean(2, keepdim=True)).clamp_min(0), 0.55),
    "the largest ones": (_largest, 0.3),
}


SELDOM = {  # where uniform noise and values that are all alike stay within
    "contrast": 0.38,
    "contrast of channels": 0.4,
    "contrast of patches": 0.498,
    "range": 0.6,
    "neighbors": 0.5,
}


@pytest.mark.parametrize(("name", "most"), [*((n, most) for n, (_, most) in TOGETHER.items()), *SELDOM.items()])
def test_a_clip_of_what_values_are_together_is_found_in_the_valid_range(name: str, most: float) -> None:
    clip, batch = TOGETHER[name][0], _picture()
    for threat in (SERVER, EAVESDROPPER):
        found = LinearFirstLayer()(_observed(_model(lambda _, x: clip(x, most)), batch, threat), generator=seeded())
        assert found.outcome.status == "not_applicable"


@pytest.mark.parametrize("name", TOGETHER)
def test_a_clip_of_what_values_are_together_is_found_where_the_reconstruction_stands_on_its_edge(name: str) -> None:
    clip, most = TOGETHER[name]
    inputs = ((torch.rand(1, *SHAPE, generator=seeded(1), dtype=torch.float64) - 0.5) * 1.2 + 0.5).clamp(0, 1)
    before = Evidence.of(_observed(_model(PUBLIC["twice, less one"]), _picture())).preprocessing
    assert before is not None
    edge, image = clip(inputs, most), Image(shape=SHAPE)
    assert not torch.allclose(edge, inputs)
    assert before.holds_at(edge, image, 0.01)
    clipped = replace(before, entering=lambda x: 2 * clip(x.view(-1, *SHAPE), most).flatten(1) - 1)
    assert not clipped.holds_at(edge, image, 0.01)


def test_a_picture_on_the_edge_of_a_clip_of_its_contrast_is_not_certain() -> None:
    picture = ((torch.rand(1, *SHAPE, generator=seeded(2)) > 0.5) * 0.9 + 0.05).float()
    batch, model = Batch(picture, torch.tensor([2])), _model(lambda _, x: _by_mean(x, _norm, 0.38))
    for threat in (SERVER, EAVESDROPPER):
        seen = _observed(model, batch, threat)
        edge = Reconstruction(_by_mean(picture, _norm, 0.38), batch.labels, Outcome("exact", "by hand", 0.0, 0, 0.0))
        assert not certify(seen, edge).certain.any()
