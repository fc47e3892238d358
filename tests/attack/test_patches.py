"""Vision transformers with learned positions: what they give away, on whatever way they are written, and what not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.attack.equations.patch_solution import errors_of
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.patch_equations import PatchEquations, patch_equations
from fedseal.attack.layers.patches import Patches
from fedseal.attack.planner import auto
from marks import slowly

SIDE, PATCH, PLACES = 16, 4, 16
MODALITY = fs.Image(shape=(3, SIDE, SIDE))
ONE = fs.LocalTraining.fedsgd()


def picture(index: int = 0) -> fs.Batch:
    photo = fs.zoo.photos(size=SIDE)[index : index + 1]
    return fs.Batch(photo.inputs, torch.tensor([index % 10]))


def observed(
    model: nn.Module,
    batch: fs.Batch,
    training: fs.LocalTraining = ONE,
    threat: str = "eavesdropper",
    change: Callable[[fs.Update], fs.Update] = lambda update: update,
) -> fs.Observation:
    generator = torch.Generator().manual_seed(0)
    update = change(fs.local_update(model, batch, training=training, generator=generator))
    sees: Callable[[], fs.ThreatModel] = getattr(fs.ThreatModel, threat)
    return sees().observe(model, update, modality=MODALITY)


def read(seen: fs.Observation) -> fs.Reconstruction:
    return Patches()(seen, generator=torch.Generator().manual_seed(0))


def psnr(found: fs.Reconstruction, batch: fs.Batch) -> float:
    assert found.inputs is not None
    return -10 * math.log10(float((found.inputs - batch.inputs).double().square().mean()))


def equations_of(seen: fs.Observation) -> PatchEquations:
    found = patch_equations(Evidence.of(seen))
    assert isinstance(found, PatchEquations)
    return found


def vit(width: int = 48, **options: Any) -> nn.Module:
    return fs.zoo.vit(size=SIDE, patch=PATCH, width=width, depth=2, **{"heads": 1, **options})


# other hands' vision transformers


class Classifier(nn.Module):
    """A class token's or the mean's scores behind a backbone of `transformers`."""

    def __init__(self, backbone: nn.Module, width: int, mean: bool = False) -> None:
        super().__init__()
        self.backbone, self.head, self.mean = backbone, nn.Linear(width, 10), mean

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.backbone(pixel_values=x).last_hidden_state
        out: Tensor = self.head(hidden.mean(1) if self.mean else hidden[:, 0])
        return out


def theirs(family: str, **options: Any) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    facts: dict[str, Any] = {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 64,
        "image_size": SIDE, "patch_size": PATCH, "attn_implementation": "eager", **options,
    }  # fmt: skip
    kind, config = {
        "vit": ("ViTModel", "ViTConfig"),
        "deit": ("DeiTModel", "DeiTConfig"),
        "dinov2": ("Dinov2Model", "Dinov2Config"),
        "registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
        "clip": ("CLIPVisionModel", "CLIPVisionConfig"),
        "siglip": ("SiglipVisionModel", "SiglipVisionConfig"),
        "beit": ("BeitModel", "BeitConfig"),
    }[family]
    if family in ("dinov2", "registers"):
        facts.pop("intermediate_size")
    backbone = getattr(transformers, kind)(getattr(transformers, config)(**facts))
    return Classifier(backbone.eval(), 48, mean=family == "siglip")


class Rearranged(nn.Module):
    """Patches cut by hand in a normalized picture, a linear layer on each, positions before the token, mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.head = nn.Linear(3 * PATCH**2, 48), nn.Linear(48, 10)
        self.places = nn.Parameter(0.02 * torch.randn(PLACES, 48))
        self.token = nn.Parameter(torch.randn(1, 1, 48))
        self.block = nn.TransformerEncoderLayer(48, 3, 64, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        count, side = len(x), SIDE // PATCH
        cut = ((x - 0.5) / 0.25).reshape(count, 3, side, PATCH, side, PATCH).permute(0, 2, 4, 3, 5, 1)
        tokens = self.embed(cut.reshape(count, PLACES, -1)) + self.places
        out: Tensor = self.head(self.block(torch.cat([tokens, self.token.expand(count, -1, -1)], 1)).mean(1))
        return out


MODELS: dict[str, Callable[[], nn.Module]] = {
    "zoo": vit,
    "rearranged": Rearranged,
    "vit": lambda: theirs("vit"),
    "deit": lambda: theirs("deit"),
    "dinov2": lambda: theirs("dinov2"),
    "registers": lambda: theirs("registers"),
    "clip": lambda: theirs("clip"),
    "siglip": lambda: theirs("siglip"),
    "beit": lambda: theirs("beit", use_absolute_position_embeddings=True),
    "resized positions": lambda: theirs("dinov2", image_size=28),
}


@pytest.mark.parametrize("name", slowly(MODELS, ("deit", "dinov2", "clip", "beit")))
def test_one_solve_reads_the_picture_without_weights_and_is_certain(name: str) -> None:
    batch = picture(3)
    found = read(observed(MODELS[name](), batch))
    assert found.outcome.status == "exact", found.outcome.note
    assert found.certain.tolist() == [True]
    assert psnr(found, batch) > 60
    assert "16 patches through a width of 48: 16 directions" in found.outcome.note


@pytest.mark.parametrize("name", slowly(MODELS, ("vit", "deit", "dinov2", "registers", "clip", "beit")))
def test_the_table_s_gradient_is_that_by_what_the_layer_gives(name: str) -> None:
    """An oracle by autograd: a perturbation is added where the layer ends, in the model's own code."""
    model, batch = MODELS[name]().eval(), picture(1)
    equations = equations_of(observed(model, batch, fs.LocalTraining.fedsgd(mode="eval")))
    layer = model.get_submodule(equations.layer.weight.rpartition(".")[0])
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    loss = nn.functional.cross_entropy(model(batch.inputs), batch.labels)
    handle.remove()
    (own,) = torch.autograd.grad(loss, kept)
    expected = own[0].flatten(1) if isinstance(layer, nn.Conv2d) else own.reshape(PLACES, -1).T
    assert torch.allclose(equations.delta.float(), expected, atol=1e-6 * float(expected.abs().max()) + 1e-9)
    assert equations.beside < 1e-5
    assert equations.misfit(equations.rows(batch.inputs)) < 1e-6


@pytest.mark.parametrize(
    ("width", "certain"), [(PLACES - 1, False), (PLACES, False), (PLACES + 1, True), (PLACES + 2, True)]
)
def test_certain_where_the_width_is_above_the_number_of_patches(width: int, certain: bool) -> None:
    """Blocks that normalize first make every gradient orthogonal to the vector of ones."""
    batch = picture(2)
    found = read(observed(vit(width, seed=5), batch))
    assert found.certain.tolist() == [certain], found.outcome.note
    if certain:
        assert psnr(found, batch) > 45
    else:
        assert f"{width - 1} directions are determined" in found.outcome.note
        assert psnr(found, batch) > 20  # the rest is what pictures look like


@pytest.mark.parametrize("seed", slowly(range(12), range(4, 12)))
def test_no_certain_picture_is_wrong_and_errors_are_as_foretold(seed: int) -> None:
    """Over widths, depths, heads and pictures; what is uncertain may be anything."""
    for width in (17, 20, 32):
        batch = picture(seed % 8)
        model = fs.zoo.vit(
            size=SIDE, patch=PATCH, width=width, depth=1 + seed % 3, heads=1 + seed % 2 * (width % 2 == 0), seed=seed
        )
        found = read(observed(model, batch))
        off = 10 ** (-psnr(found, batch) / 20)
        assert found.certificate is not None
        foretold = 0.01 * found.certificate.tolerance / max(found.certificate.sensitivity[0], 1e-300)
        assert off < foretold, (seed, width)
        if found.certain.all():
            assert off < 0.01


def test_a_server_reads_no_less_and_gets_the_label() -> None:
    model, batch = vit(), picture(4)
    found = auto()(observed(model, batch, threat="honest_but_curious"), generator=torch.Generator().manual_seed(0))
    assert (found.outcome.route, found.outcome.status) == ("patches", "exact")
    assert found.labels is not None
    assert found.labels.tolist() == batch.labels.tolist()
    assert psnr(found, batch) > 70


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_local_steps_on_one_picture_add_up(momentum: float) -> None:
    training = fs.LocalTraining.fedavg(lr=0.1, epochs=10, momentum=momentum)
    batch = picture(5)
    found = read(observed(vit(), batch, training))
    assert psnr(found, batch) > 45


def noisy(sigma: float) -> Callable[[fs.Update], fs.Update]:
    generator = torch.Generator().manual_seed(3)

    def changed(update: fs.Update) -> fs.Update:
        moved = {n: t + sigma * torch.randn(t.shape, generator=generator).to(t) for n, t in update.tensors.items()}
        return replace(update, tensors=moved)

    return changed


def test_noise_is_weighed_against_what_pictures_look_like_and_nothing_is_certain() -> None:
    photo = fs.zoo.photos(size=32)[1:2]
    batch = fs.Batch(photo.inputs, torch.tensor([1]))
    update = noisy(1e-4)(fs.local_update(fs.zoo.vit(width=128, depth=2), batch, training=ONE))
    seen = fs.ThreatModel.eavesdropper().observe(
        fs.zoo.vit(width=128, depth=2), update, modality=fs.Image(shape=(3, 32, 32))
    )
    found, equations = read(seen), equations_of(seen)
    assert not found.certain.any()
    plain = torch.linalg.lstsq(equations.delta, equations.gradient).solution
    away = equations.picture(plain).clamp(0, 1).reshape(batch.inputs.shape) - batch.inputs
    assert psnr(found, batch) > -10 * math.log10(float(away.square().mean())) + 8
    assert errors_of(equations).delta == pytest.approx(1e-4, rel=0.5)  # told by the equations, not by anybody


class Mixed(nn.Module):
    """A model that computes in bfloat16 though its weights are not."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out: Tensor = self.inner(x).float()
        return out


def test_mixed_precision_hides_no_picture_and_makes_none_certain() -> None:
    batch = picture(8)
    found = read(observed(Mixed(vit()), batch))
    assert psnr(found, batch) > 24
    assert not found.certain.any()


def test_a_black_picture_leaves_no_gradient_and_is_certain() -> None:
    batch = fs.Batch(torch.zeros(1, 3, SIDE, SIDE), torch.tensor([1]))
    found = read(observed(vit(), batch))
    assert found.inputs is not None
    assert found.certain.tolist() == [True]
    assert torch.equal(found.inputs, batch.inputs)


FORMATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
UNTOLD = [(dtype, sigma) for sigma in (0.0, 1e-8, 1e-6) for dtype in FORMATS]
# every format, and every noise
UNTOLD_QUICK = [(FORMATS[0], 1e-8), (FORMATS[1], 0.0), (FORMATS[2], 0.0), (FORMATS[2], 1e-6), (FORMATS[3], 1e-8)]


@pytest.mark.parametrize(
    ("dtype", "sigma"),
    [pytest.param(*case, marks=() if case in UNTOLD_QUICK else pytest.mark.slow) for case in UNTOLD],
)
def test_what_is_certain_is_right_in_every_format_and_under_noise_that_nobody_told(
    dtype: torch.dtype, sigma: float
) -> None:
    for seed, width in enumerate((17, 24, 48)):
        whole = picture(seed + 9)
        batch = fs.Batch(whole.inputs.to(dtype), whole.labels)
        found = read(observed(vit(width, seed=seed).to(dtype), batch, change=noisy(sigma)))
        if found.certain.any():
            assert psnr(found, batch) > 40


# what it does not read


def test_several_pictures_are_told_apart_from_one_whatever_the_message_says() -> None:
    photos = fs.zoo.photos(size=SIDE)[:2]
    batch = fs.Batch(photos.inputs, torch.tensor([1, 2]))
    assert "of 2 examples" in read(observed(vit(), batch)).outcome.note
    lie = observed(vit(), batch, change=lambda update: replace(update, num_examples=1))
    assert "more than one example" in read(lie).outcome.note


class Varied(nn.Module):
    """A vision transformer with one thing otherwise."""

    def __init__(self, what: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        stride = 2 if what == "overlapping" else PATCH
        self.what, self.embed = what, nn.Conv2d(3, 32, PATCH, stride=stride)
        count = ((SIDE - PATCH) // stride + 1) ** 2
        table = 0.02 * torch.randn(1, count, 32)
        self.places = table if what == "fixed" else nn.Parameter(table)
        self.doubled = nn.Parameter(0.02 * torch.randn(1, 2 * count, 32))
        self.shared = nn.Parameter(0.02 * torch.randn(1, 4, 32))
        self.drop = nn.Dropout(0.1)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)
        self.block = nn.TransformerEncoderLayer(32, 2, 48, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x).flatten(2).transpose(1, 2)
        if self.what == "dropped":
            z = self.drop(z)
        if self.what == "normalized":
            z = self.norm(z)
        if self.what == "used twice":
            z = z + self.places + 0.1 * torch.tanh(self.places)
        elif self.what == "beside itself":
            z = torch.cat([z, z], 1) + self.doubled
        elif self.what == "shared rows":
            z = z + self.shared.repeat(1, PLACES // 4, 1)
        else:
            z = z + (self.places.to(z) if self.what == "fixed" else self.places)
        mean = self.block(z).mean(1)
        if self.what == "layer used twice":
            mean = mean + self.embed(x.flip(-1)).mean((2, 3))
        out: Tensor = self.head(mean)
        return out


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("overlapping", "its windows of 4 x 4 move by 2 x 2"),
        ("fixed", "no learned positions"),
        ("dropped", "draws between the patches' layer and the positions"),
        ("normalized", "no learned positions are added"),
        ("used twice", "no learned positions are added"),
        ("shared rows", "does not show the gradient"),
        ("beside itself", "does not show the gradient"),
        ("layer used twice", "is used a second time"),
    ],
)
def test_what_shows_no_patches_is_refused_with_the_reason(what: str, why: str) -> None:
    found = read(observed(Varied(what).train(), picture()))
    assert found.outcome.status == "not_applicable"
    assert why in found.outcome.note


@pytest.mark.parametrize("name", ["patches.weight", "position"])
def test_a_tensor_that_is_held_back_is_named(name: str) -> None:
    model = vit()
    model.get_parameter(name).requires_grad_(False)
    assert f"'{name}' (frozen or held back)" in read(observed(model, picture())).outcome.note


def test_an_optimizer_that_moves_the_two_otherwise_makes_nothing_certain() -> None:
    for training in (
        fs.LocalTraining.fedavg(lr=0.1, epochs=3, weight_decay=0.1),
        fs.LocalTraining.fedavg(lr=0.01, epochs=3, optimizer="adam"),
    ):
        assert not read(observed(vit(), picture(), training, threat="honest_but_curious")).certain.any()


def test_a_lie_is_not_certified() -> None:
    from fedseal.attack.proof.certificate import certify

    batch = picture(6)
    seen = observed(vit(), batch)
    found = read(seen)
    assert found.inputs is not None
    for other in (found.inputs.flip(-1), 1 - found.inputs, found.inputs + 0.02, picture(7).inputs):
        claim = replace(found, inputs=other)
        assert not certify(seen, claim).certain.any()
