"""PRECODE: the model keeps its outputs' shape, the client's generator decides the draw, and others get the mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedseal import Image, LocalTraining, ThreatModel, Update, local_update, zoo
from fedseal.defense.precode import VariationalBottleneck, precode
from fedseal.errors import BadConfig, UnfitModel

LENET = zoo.lenet(size=8, width=4, num_classes=5)
GUARDED = precode(6).on_model(LENET)
PICTURES = zoo.photos(size=8, num_classes=5)[:2]
FEDSGD = LocalTraining.fedsgd(mode="eval")  # the draw is not bound to train mode


def _update(seed: int, training: LocalTraining = FEDSGD) -> Update:
    generator = torch.Generator().manual_seed(seed)
    return local_update(GUARDED, PICTURES, training=training, defense=precode(6), generator=generator)


def _bottleneck() -> VariationalBottleneck:
    (found,) = (module for module in GUARDED.modules() if isinstance(module, VariationalBottleneck))
    return found


@pytest.mark.parametrize(
    "model",
    [
        LENET, zoo.resnet(width=4, blocks=(1,), num_classes=5),
        zoo.vit(size=8, width=8, depth=1, heads=2, num_classes=5),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double(),
    ],
    ids=["lenet", "resnet", "vit", "linear"],
)  # fmt: skip
def test_a_guarded_model_gives_outputs_of_the_same_shape_and_the_given_one_stays(model: nn.Module) -> None:
    before, world = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    guarded, inputs = precode(6).on_model(model), PICTURES.inputs.to(next(model.parameters()).dtype)
    assert guarded(inputs).shape == model(inputs).shape
    added = sum(p.numel() for p in guarded.parameters()) - sum(p.numel() for p in model.parameters())
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert added == (3 * head.in_features + 2) * 6 + head.in_features
    assert all(
        torch.equal(before[n], t) for n, t in model.state_dict().items() if "running" not in n and "num" not in n
    )
    assert torch.equal(torch.get_rng_state(), world)


def test_a_linear_model_itself_may_be_guarded() -> None:
    assert precode(2).on_model(nn.Linear(4, 3))(torch.zeros(5, 4)).shape == (5, 3)


def test_who_evaluates_gets_the_mean_of_the_draw() -> None:
    layer, features = _bottleneck(), LENET[:-1](PICTURES.inputs)
    expected = LENET[-1](layer.out(layer.mean(features)))
    assert torch.equal(GUARDED(PICTURES.inputs), expected)
    assert torch.equal(GUARDED(PICTURES.inputs), GUARDED(PICTURES.inputs))


def test_the_draw_is_normal_with_the_mean_and_spread_that_the_layer_tells() -> None:
    layer = VariationalBottleneck(4, 3)
    layer.out = nn.Identity()  # type: ignore[assignment]
    features = torch.tensor([[0.3, -1.0, 2.0, 0.5]])
    layer.draws = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = layer(features.expand(20000, 4)).detach()
    assert torch.allclose(draws.mean(0), layer.mean(features)[0], atol=0.05)
    assert torch.allclose(draws.std(0), F.softplus(layer.spread(features))[0], rtol=0.05)


@pytest.mark.parametrize("training", [FEDSGD, LocalTraining.fedavg(lr=0.1, epochs=2)], ids=["one step", "two steps"])
def test_the_draw_follows_the_generator_and_the_world_is_left_alone(training: LocalTraining) -> None:
    world = torch.get_rng_state()
    one, again, other = _update(1, training), _update(1, training), _update(2, training)
    assert all(torch.equal(one.tensors[n], again.tensors[n]) for n in one.tensors)
    assert all(not torch.equal(one.tensors[n], other.tensors[n]) for n in one.tensors)
    assert torch.equal(torch.get_rng_state(), world)
    with pytest.raises(BadConfig, match="random layer"):
        local_update(GUARDED, PICTURES, training=training)


def test_the_attackers_copy_does_not_draw_and_its_public_part_names_the_random_gradients() -> None:
    modality = Image(shape=(3, 8, 8))
    observation = ThreatModel.honest_but_curious().observe(GUARDED, _update(0), modality=modality, defense=precode(6))
    assert not any(module.draws for module in observation.model.modules() if isinstance(module, VariationalBottleneck))
    assert observation.defense is not None
    (step,) = observation.defense
    behind = {"7.1.weight", "7.1.bias"} | {f"7.0.{n}" for n, _ in _bottleneck().named_parameters()}
    assert (step.kind, set(step.where)) == ("bottleneck", behind)


def test_one_example_leaks_its_features_exactly_at_the_bottleneck() -> None:
    one, generator = PICTURES[:1], torch.Generator().manual_seed(0)
    tensors = local_update(GUARDED, one, training=FEDSGD, defense=precode(6), generator=generator).tensors
    read = tensors["7.0.mean.weight"][0] / tensors["7.0.mean.bias"][0]
    assert torch.allclose(read, LENET[:-1](one.inputs)[0], rtol=1e-4)


@pytest.mark.parametrize("width", [0, -1, 1.5, float("nan")])
def test_a_width_that_is_none(width: float) -> None:
    with pytest.raises(BadConfig, match="wide"):
        precode(width)  # type: ignore[arg-type]


def test_models_that_cannot_be_guarded_and_one_that_was_not() -> None:
    with pytest.raises(UnfitModel, match=r"no torch\.nn\.Linear"):
        precode(4).on_model(nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()))
    with pytest.raises(UnfitModel, match="no bottleneck"):
        local_update(LENET, PICTURES, training=FEDSGD, defense=precode(4), generator=torch.Generator())
