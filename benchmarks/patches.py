"""Vision transformers with learned positions, one picture: one linear solve, without weights, label or search."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedseal as fs
from benchmarks.measure import client, share, spread
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.patch_equations import PatchEquations, patch_equations
from fedseal.attack.layers.patches import Patches

LARGE, SMALL = 10, 24  # pictures of 224 and of 32 pixels
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT-B/16": ("ViT", {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}),
    "ViT-S/16": ("ViT", {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}),
    "DINOv2 small with registers, patch 14": (
        "Dinov2WithRegisters",
        {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14},
    ),
}
EAVESDROPPER = fs.ThreatModel.eavesdropper()


class Backbone(nn.Module):
    """The class token's scores behind a backbone of `transformers`, which is built here with random weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import transformers

        kind, facts = SHAPES[name]
        config = getattr(transformers, f"{kind}Config")(image_size=224, num_hidden_layers=12, **facts)
        self.backbone: nn.Module = getattr(transformers, f"{kind}Model")(config)
        self.head = nn.Linear(facts["hidden_size"], 100)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, 224, 224)` to `(N, 100)`."""
        scores: Tensor = self.head(self.backbone(pixel_values=x).last_hidden_state[:, 0])
        return scores


def large(name: str, seed: int) -> nn.Module:
    """A transformer as it is built, in evaluation mode."""
    torch.manual_seed(seed)
    return Backbone(name).eval()


def run(scale: float = 1.0) -> dict[str, object]:
    """All figures."""
    figures: dict[str, object] = {}
    for name in SHAPES:
        figures |= _large(name, max(2, round(LARGE * scale)))
    figures["ViT-B/16: peak memory of the attack beside the update, over the update's"] = _memory("ViT-B/16")
    count = max(4, round(SMALL * scale))
    for width, heads in ((63, 1), (64, 4), (65, 1), (66, 1), (128, 4)):
        figures |= _small(f"zoo:vit, 64 patches, width {width}", width, heads, count)
    figures |= _trained(count)
    figures |= _changed(count)
    return figures


def _large(name: str, pictures: int) -> dict[str, object]:
    photos = fs.zoo.photos(size=224)
    values, certain, ratios = [], 0, []
    for index in range(pictures):
        model, batch = large(name, index), photos[index : index + 1]
        seen = client(model, batch, threat=EAVESDROPPER)
        began = time.perf_counter()
        torch.autograd.grad(
            F.cross_entropy(model(batch.inputs), batch.labels), list(model.parameters()), allow_unused=True
        )
        step = time.perf_counter() - began
        found, seconds = _read(seen)
        values.append(_psnr(found, batch))
        certain += int(found.certain.all())
        ratios.append(seconds / step)
    equations = _equations(seen)
    return {
        f"{name}, 224x224 ({equations.layer.places} patches, width {equations.layer.width}), eavesdropper: dB": spread(
            values, 0
        ),
        f"{name}: at 100 dB or better; certain": f"{share(sum(v >= 100 for v in values), pictures)}; {certain}",
        f"{name}: time of the attack over one forward and backward pass": spread(ratios, 2),
    }


def _small(name: str, width: int, heads: int, pictures: int) -> dict[str, object]:
    photos = fs.zoo.photos(size=32)
    values, certain, false = [], 0, 0
    for index in range(pictures):
        batch = photos[index : index + 1]
        found, _ = _read(
            client(fs.zoo.vit(width=width, heads=heads, num_classes=100, seed=index), batch, threat=EAVESDROPPER)
        )
        values.append(_psnr(found, batch))
        certain += int(found.certain.all())
        false += int(bool(found.certain.all()) and values[-1] < 40)
    return {
        f"{name}: dB; least; certain; of these wrong": f"{spread(values, 0)}; {min(values):.1f}; {certain}; {false}"
    }


def _trained(pictures: int) -> dict[str, object]:
    """On the bundled Fashion-MNIST, until nine of ten are right."""
    data = fs.zoo.fashion_mnist()
    model, accuracy = _fitted(data[:400])
    values, certain = [], 0
    for index in range(pictures):
        batch = data[400 + index : 401 + index]
        found, _ = _read(client(model, batch, threat=EAVESDROPPER))
        values.append(_psnr(found, batch))
        certain += int(found.certain.all())
    what = f"zoo:vit, 28x28, 49 patches, width 128, trained to {100 * accuracy:.0f} % of its pictures"
    return {f"{what}: dB; least; certain": (f"{spread(values, 0)}; {min(values):.1f}; {certain} of {pictures}")}


def _fitted(data: fs.Batch) -> tuple[nn.Module, float]:
    model = fs.zoo.vit(width=128, size=28, channels=1)
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=1e-3), torch.Generator().manual_seed(0)
    accuracy = 0.0
    for _ in range(60):
        for rows in torch.randperm(len(data), generator=generator).view(-1, 40):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(data.inputs[rows]), data.labels[rows]))
            optimizer.step()
        accuracy = float((model(data.inputs).argmax(1) == data.labels).double().mean())
        if accuracy >= 0.95:
            break
    return model, accuracy


def _changed(pictures: int) -> dict[str, object]:
    """Ten local steps; noise on the update."""
    photos = fs.zoo.photos(size=32)
    steps, gains, read = [], [], []
    for index in range(pictures):
        batch, model = photos[index : index + 1], fs.zoo.vit(width=128, num_classes=100, seed=index)
        training = fs.LocalTraining.fedavg(lr=0.1, epochs=10)
        steps.append(_psnr(_read(client(model, batch, threat=EAVESDROPPER, training=training))[0], batch))
        update, generator = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd()), torch.Generator()
        generator.manual_seed(index)
        moved = {n: t + 1e-4 * torch.randn(t.shape, generator=generator) for n, t in update.tensors.items()}
        seen = EAVESDROPPER.observe(model, replace(update, tensors=moved), modality=fs.Image(shape=(3, 32, 32)))
        read.append(_psnr(_read(seen)[0], batch))
        equations = _equations(seen)
        plain = equations.picture(torch.linalg.lstsq(equations.delta, equations.gradient).solution).clamp(0, 1)
        off = float((plain.reshape(batch.inputs.shape) - batch.inputs).square().mean())
        gains.append(read[-1] + 10 * torch.log10(torch.tensor(off)).item())
    return {
        "zoo:vit, width 128, ten local steps: dB; least": f"{spread(steps, 0)}; {min(steps):.1f}",
        "zoo:vit, width 128, Gaussian noise 1e-4: dB; above the plain solve, cut to the valid range": (
            f"{spread(read, 1)}; {spread(gains, 1)}"
        ),
    }


def _read(seen: fs.Observation) -> tuple[fs.Reconstruction, float]:
    began = time.perf_counter()
    found = Patches()(seen, generator=torch.Generator().manual_seed(0))
    return found, time.perf_counter() - began


def _equations(seen: fs.Observation) -> PatchEquations:
    found = patch_equations(Evidence.of(seen))
    assert isinstance(found, PatchEquations)
    return found


def _psnr(found: fs.Reconstruction, batch: fs.Batch) -> float:
    assert found.inputs is not None
    return -10 * float(torch.log10((found.inputs - batch.inputs).double().square().mean()))


def _memory(name: str) -> str:
    """In a process of its own, which holds the architecture and the update alone."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.patches", name], capture_output=True, text=True, check=True
    )
    peak, size = map(float, done.stdout.split())
    return f"{peak / size:.2f} ({peak / 1e6:.0f} MB beside {size / 1e6:.0f} MB)"


def measure_memory(name: str) -> None:
    """Print the attack's peak above what was there before it, and the update's size, in bytes."""
    model, batch = large(name, 0), fs.zoo.photos(size=224)[:1]
    seen = client(model, batch, threat=EAVESDROPPER)
    del model
    size = sum(tensor.numel() * tensor.element_size() for tensor in seen.update.tensors.values())
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak("VmRSS")
    _read(seen)
    print(_peak("VmHWM") - before, size)


def _peak(line: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (found,) = (words for words in status.read_text().splitlines() if words.startswith(line))
    return 1024 * int(found.split()[1])


if __name__ == "__main__":
    measure_memory(sys.argv[1])
