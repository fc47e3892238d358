"""The reference models: shapes, seeds, and the published LeNet."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedseal.errors import BadConfig, FedsealError, UnknownName
from fedseal.zoo import MODELS, build, convnet, lenet, mlp, resnet, vit

SMALL: dict[str, dict[str, object]] = {
    "lenet": {},
    "mlp": {"inputs": 3 * 32 * 32},
    "convnet": {"width": 4},
    "resnet": {"width": 4},
    "vit": {"width": 16, "depth": 2},
}


def test_every_model_of_the_table_has_a_small_variant_here() -> None:
    assert SMALL.keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_maps_pictures_to_one_row_of_class_scores_each(name: str) -> None:
    assert build(name, num_classes=7, **SMALL[name])(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones(name: str) -> None:
    one, same, other = (build(name, seed=seed, **SMALL[name]).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", MODELS)
def test_building_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    build(name, **SMALL[name])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_can_be_differentiated_by_the_input(name: str) -> None:
    model = build(name, **SMALL[name]).eval()
    inputs = torch.rand(2, 3, 32, 32, requires_grad=True)
    loss = nn.functional.cross_entropy(model(inputs), torch.tensor([0, 1]))
    grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    (second,) = torch.autograd.grad(torch.stack([grad.square().sum() for grad in grads]).sum(), inputs)
    assert bool(torch.isfinite(second).all())
    assert bool(second.any())


def test_lenet_has_the_published_architecture() -> None:
    convolutions = [m for m in lenet() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding) for m in convolutions] == [
        (3, 12, (5, 5), (2, 2), (2, 2)),
        (12, 12, (5, 5), (2, 2), (2, 2)),
        (12, 12, (5, 5), (1, 1), (2, 2)),
    ]
    assert sum(isinstance(m, nn.Sigmoid) for m in lenet()) == 3


def test_lenet_draws_its_parameters_in_order_from_a_freshly_seeded_generator() -> None:
    """As DLG's `manual_seed(1234)` followed by `uniform_(-0.5, 0.5)` on each layer's weight and bias does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        for parameter in lenet(seed=1234).parameters():
            assert torch.equal(parameter, torch.empty_like(parameter).uniform_(-0.5, 0.5))


@pytest.mark.parametrize("size", [28, 31, 32, 64])
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_lenet_fits_its_linear_layer_to_any_size_and_kernel(size: int, kernel: int) -> None:
    assert lenet(size=size, kernel=kernel, width=3)(torch.rand(1, 3, size, size)).shape == (1, 100)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "leaky_relu", "identity", "relu"])
def test_lenet_takes_every_activation(activation: str) -> None:
    assert bool(torch.isfinite(lenet(activation=activation)(torch.rand(1, 3, 32, 32))).all())


def test_resnet_of_default_width_is_resnet18() -> None:
    """11.17 million parameters: the published 11.69 million less the 1000-class head and the 7x7 stem, by hand."""
    expected = 0
    for before, after, stages in ((64, 64, 0), (64, 128, 1), (128, 256, 1), (256, 512, 1)):
        expected += 9 * before * after + 3 * 9 * after * after + 4 * 2 * after + stages * (before * after + 2 * after)
    expected += 9 * 3 * 64 + 2 * 64 + 512 * 10 + 10
    assert sum(p.numel() for p in resnet().parameters()) == expected


def test_vit_attends_as_the_library_attention_does() -> None:
    """Against torch's own scaled dot product, at the same projections."""
    model = vit(width=16, depth=1, heads=4).double()
    block = next(m for m in model.modules() if type(m).__name__ == "_Attention")
    x = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    qkv = nn.functional.linear(x, block.qkv.weight, block.qkv.bias)  # type: ignore[union-attr,arg-type]
    query, key, value = (part.view(2, 5, 4, 4).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    mixed = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(2, 5, 16)
    expected = nn.functional.linear(mixed, block.out.weight, block.out.bias)  # type: ignore[union-attr,arg-type]
    torch.testing.assert_close(block(x), expected)


def test_vit_tells_the_places_of_patches_apart() -> None:
    model = vit(width=16, depth=1).eval()
    inputs = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(model(inputs), model(inputs.flip(-1)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("lenett", {}, UnknownName),
        ("lenet", {"activation": "gelu"}, UnknownName),
        ("lenet", {"classes": 10}, UnknownName),
        ("lenet", {"size": "32"}, BadConfig),
        ("lenet", {"num_classes": 0}, BadConfig),
        ("convnet", {"size": 3}, BadConfig),
        ("resnet", {"blocks": ()}, BadConfig),
        ("vit", {"patch": 5}, BadConfig),
        ("vit", {"heads": 3}, BadConfig),
    ],
)
def test_says_what_cannot_be_built(name: str, options: dict[str, object], error: type[FedsealError]) -> None:
    with pytest.raises(error, match="; "):
        build(name, **options)


def test_default_initialization_is_torchs_own() -> None:
    """Uniform within 1 / sqrt(fan in) for linear layers and convolutions."""
    for model in (mlp(), convnet()):
        for layer in model:
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound


def test_a_model_of_more_memory_than_there_is_is_refused_in_a_sentence() -> None:
    with pytest.raises(BadConfig, match=r"cannot be built with widths=.* \(.*memory.*; check the options") as caught:
        build("mlp", widths=(10**9, 10**9))
    assert "\n" not in str(caught.value)
