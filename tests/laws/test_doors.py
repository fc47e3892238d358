"""Whatever comes in from outside lies in one memory order: by rows, as torch makes tensors by default.

In another order torch runs other kernels, of which some of torch 2.13's for AVX2 damage memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import save_file
from torch import Tensor, nn

from federation.small import federation
from fedseal import Batch, Image, LocalTraining, ThreatModel, Update, aggregate, local_update, zoo
from fedseal.attack.search.init import INITS
from fedseal.attack.search.matching import GradientMatching, Search
from fedseal.audit import store
from fedseal.client import architecture, local_training, state_of
from fedseal.federation import checkpoint
from fedseal.federation.owners import gradient_step
from fedseal.federation.view import View
from fedseal.layout import canonical
from fedseal.modality.picture import load_picture
from fedseal.modality.table import read_table
from fedseal.setup.data.arrays import read_npz
from fedseal.setup.data.images import picture_batch
from fedseal.setup.data.tfrecord import masked, read_tfrecord

FEDSGD = LocalTraining.fedsgd()
SHAPES = [(3, 6, 5), (1, 6, 5)]


def strange(*shape: int) -> Tensor:
    """Random numbers with the second dimension last in memory: pictures by height, width, channel, columns by row."""
    plain = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return torch.empty_strided(shape, _last(shape)).copy_(plain) if len(shape) == 4 else plain.mT.contiguous().mT


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of channels last, in dimensions of size 1 too, where torch's own converter leaves them out."""
    _, channels, height, width = shape
    return (channels * height * width, 1, channels * width, channels)


def net(channels: int = 3) -> nn.Sequential:
    """With weights in the order height, width, channel."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Flatten(), nn.Linear(48, 3)
        )
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = strange(*parameter.shape)
    return model


def batches(folder: Path) -> Iterator[Tensor]:
    for shape in ((2, 3, 6, 5), (1, 3, 6, 5), (2, 1, 6, 5), (1, 1, 6, 5), (4, 3, 1, 1)):
        batch = Batch(strange(*shape), torch.zeros(shape[0], dtype=torch.long))
        yield from (batch.inputs, batch[:1].inputs, batch[1:].inputs if len(batch) > 1 else batch.inputs)
        yield batch.to("cpu").inputs
    wide = Batch(torch.rand(7, 4, generator=torch.Generator().manual_seed(0)).T, torch.zeros(3, 4).T)
    yield from (wide.inputs, wide.labels)
    every_second = Batch(torch.zeros(8, 3)[::2], torch.arange(8)[::2])
    yield from (every_second.inputs, every_second.labels)
    yield Batch(torch.zeros(1, 3).expand(4, 3), torch.zeros(4, dtype=torch.long)).inputs


def bundled(folder: Path) -> Iterator[Tensor]:
    for channels in (1, 3):
        yield from (zoo.photos(8, channels=channels).inputs, zoo.fashion_mnist(size=8, channels=channels).inputs)
        yield zoo.gallery((channels, 8, 8), exclude=torch.zeros(0, channels, 8, 8), count=9)
    yield from (zoo.wine().batch.inputs, zoo.wine().batch.labels)


def pictures(folder: Path) -> Iterator[Tensor]:
    (folder / "own").mkdir()
    for name, mode in (("grey", "L"), ("color", "RGB")):
        path = folder / "own" / f"{name}.png"
        Picture.effect_noise((7, 9), 50).convert(mode).save(path)
        yield load_picture(path).pixels
        for shape in SHAPES:
            pixels = load_picture(path, shape).pixels
            image = Image(shape, mean=(0.5,) * shape[0], std=(0.2,) * shape[0])
            yield from (pixels, image.encode(pixels[None]), image.project(image.encode(pixels[None])))
    yield from (picture_batch(folder / "own", shape).inputs for shape in SHAPES)


def arrays(folder: Path) -> Iterator[Tensor]:
    path = folder / "own.npz"
    for shape in ((4, 6, 5, 3), (4, 3, 6, 5), (4, 6, 5), (1, 6, 5, 1), (4, 7)):
        for order in "CF":
            images = np.asarray(np.random.default_rng(0).random(shape), order=order)  # type: ignore[call-overload]
            np.savez(path, images=images, labels=np.zeros(len(images), int))
            yield read_npz(path).inputs


def records(folder: Path) -> Iterator[Tensor]:
    from setup.test_tfrecord import field

    for channels in (1, 3):
        pixels = bytes(range(4 * 5 * channels))
        parts = {
            "image": field(1, field(1, pixels)),
            "label": field(3, field(1, b"\x02")),
            **{name: field(3, field(1, bytes([n]))) for name, n in (("height", 4), ("width", 5), ("depth", channels))},
        }
        content = field(1, b"".join(field(1, field(1, n.encode()) + field(2, part)) for n, part in parts.items()))
        head = struct.pack("<Q", len(content))
        sums = [struct.pack("<I", masked(part)) for part in (head, content)]
        (folder / "own.tfrecord").write_bytes(head + sums[0] + content + sums[1])
        yield read_tfrecord(folder / "own.tfrecord").inputs


def tables(folder: Path) -> Iterator[Tensor]:
    (folder / "own.csv").write_text("age,sex,sick\n17,f,no\n30,m,yes\n41,f,no\n")
    batch = read_table(folder / "own.csv", label="sick").batch
    yield from (batch.inputs, batch.labels)


def sentences(folder: Path) -> Iterator[Tensor]:
    pytest.importorskip("transformers")
    text = zoo.text_models()["bert_small"]()[1]
    yield zoo.text_batch(text, ["We the People", "in order"]).inputs


def updates(folder: Path) -> Iterator[Tensor]:
    model = net()
    sent = local_update(model, Batch(strange(2, 3, 6, 5), torch.tensor([0, 1])), training=FEDSGD)
    yield from (*sent.tensors.values(), *(sent.buffers or {}).values(), *aggregate([sent, sent]).tensors.values())
    sent.save(folder / "u.safetensors")
    bent = {n: strange(*t.shape).copy_(t) if t.ndim == 4 else t for n, t in sent.tensors.items()}
    torch.save(bent, folder / "u.pt")
    bent_arrays: dict[str, Any] = {n: np.asfortranarray(t.numpy()) for n, t in bent.items()}
    np.savez(folder / "u.npz", **bent_arrays)
    save_file(state_of(model), folder / "before.safetensors")
    save_file({n: t + 0.01 for n, t in state_of(model).items() if t.is_floating_point()}, folder / "w.safetensors")
    for name in ("u.safetensors", "u.pt", "u.npz"):
        yield from Update.load(folder / name).tensors.values()
    yield from Update.load(folder / "w.safetensors", "weights", folder / "before.safetensors").tensors.values()
    yield from Update.load(folder / "w.safetensors", "weights", model.state_dict()).tensors.values()


def observations(folder: Path) -> Iterator[Tensor]:
    for channels in (1, 3):
        model = net(channels)
        sent = local_update(model, Batch(strange(2, channels, 6, 5), torch.tensor([0, 1])), training=FEDSGD)
        bent = {n: strange(*t.shape).copy_(t) if t.ndim == 4 else t for n, t in sent.tensors.items()}
        rounds = [(dict(model.state_dict()), Update("gradient", bent, sent.buffers, 2, training=FEDSGD))]
        seen = ThreatModel.oracle().observe_rounds(
            model, rounds, modality=Image((channels, 6, 5)), labels=torch.arange(4)[::2]
        )
        state, buffers, labels = seen.state, seen.update.buffers, seen.labels
        assert state is not None
        assert buffers is not None
        assert labels is not None
        yield from (
            *state_of(model).values(),
            *state.values(),
            *seen.update.tensors.values(),
            *buffers.values(),
            labels,
        )


def starts(folder: Path) -> Iterator[Tensor]:
    for shape in SHAPES:
        image, draws = Image(shape), torch.Generator().manual_seed(0)
        yield from (init(image, count, draws) for init in INITS.values() for count in (1, 2))
        model = net(shape[0])
        sent = local_update(model, Batch(strange(1, *shape), torch.tensor([1])), training=FEDSGD)
        seen = ThreatModel.oracle().observe(model, sent, modality=image)
        search = Search(GradientMatching("bent", steps=1, start=strange(1, *shape)), seen, draws)
        yield from (search.start, *search.pieces, search.candidate().inputs)
        yield from (Search(GradientMatching("dlg", steps=1), seen, draws).start,)


def kept(folder: Path) -> Iterator[Tensor]:
    """What a federation and an audit left in files."""
    trained = federation("plain", rule=gradient_step()).fit(1, record=folder / "seen")
    view = View.load(folder / "seen")
    yield from view.state(0).values()
    for entry in view.entries:
        yield from view.update(entry).tensors.values()
    checkpoint.save_checkpoint(folder / "c.safetensors", "mark", {"w": strange(2, 3, 6, 5)}, [])
    yield from (
        *checkpoint.load_checkpoint(folder / "c.safetensors", "mark")[0].values(),
        *state_of(trained.model).values(),
    )
    content = store.packed({"truth": strange(1, 1, 6, 5), "reconstruction": strange(2, 3, 6, 5)})
    (folder / "p.safetensors").write_bytes(content)
    yield from Update.load(folder / "p.safetensors").tensors.values()


DOORS: dict[str, Callable[[Path], Iterable[Tensor]]] = {
    door.__name__: door
    for door in (
        batches, bundled, pictures, arrays, records, tables, sentences, updates, observations, starts, kept
    )
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_what_comes_in_lies_in_one_memory_order(door: str, tmp_path: Path) -> None:
    tensors = list(DOORS[door](tmp_path))
    assert tensors
    for place, tensor in enumerate(tensors):
        assert tensor.stride() == torch.empty(tensor.shape).stride(), (place, tuple(tensor.shape))


@pytest.mark.parametrize("shape", [(1, 3, 6, 5), (2, 1, 6, 5), (1, 1, 6, 5), (2, 3, 6, 5), (3, 4)])
def test_putting_in_order_changes_no_value_and_copies_nothing_that_is(shape: tuple[int, ...]) -> None:
    bent = strange(*shape)
    assert bent.stride() != torch.empty(shape).stride()
    assert torch.equal(canonical(bent), bent)
    plain = torch.zeros(shape)
    assert canonical(plain) is plain


@pytest.mark.parametrize("channels", [1, 3])
def test_the_clients_arithmetic_feeds_its_model_in_order(channels: int) -> None:
    """Guesses of an attack too, whatever made them."""
    fed: list[tuple[int, ...]] = []

    class Seeing(nn.Sequential):
        def forward(self, inputs: Any) -> Any:
            fed.append(inputs.stride())
            return super().forward(inputs)  # type: ignore[no-untyped-call]

    model = Seeing(*net(channels))
    local_training(architecture(model, FEDSGD), state_of(model), strange(1, channels, 6, 5), torch.tensor([0]), FEDSGD)
    assert fed == [torch.empty(1, channels, 6, 5).stride()]


def test_a_residual_net_trains_on_bundled_pictures() -> None:
    """In another order this damages memory where torch uses kernels for AVX2: `make avx2` runs it so."""
    batch = zoo.photos(size=8, num_classes=100)[:4]
    sent = local_update(zoo.resnet(width=4, num_classes=100), batch, training=FEDSGD)
    assert all(bool(tensor.isfinite().all()) for tensor in sent.tensors.values())
