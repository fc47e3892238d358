"""The closed form elsewhere: other activations, kernels, sizes; and where the picture is not determined."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

import fedseal as fs
from benchmarks.measure import attack, client, share, spread
from fedseal.attack.equations.rank import rank_analysis
from fedseal.attack.evidence.evidence import Evidence

Build = Callable[[int], nn.Module]


def _settings() -> dict[str, tuple[Build, bool, int]]:
    """Name -> model by seed, whether on Fashion-MNIST, and number of pairs."""

    def lenet(**options: object) -> Build:
        return lambda seed: fs.zoo.build("lenet", seed=seed, **options)

    grey = {"channels": 1, "size": 28}
    return {
        "tanh, 5x5, width 12": (lenet(activation="tanh"), False, 100),
        "leaky ReLU, 5x5, width 12": (lenet(activation="leaky_relu"), False, 100),
        "sigmoid, 3x3, width 32": (lenet(kernel=3, width=32), False, 100),
        "leaky ReLU, 3x3, width 32": (lenet(activation="leaky_relu", kernel=3, width=32), False, 10),
        "tanh, 3x3, width 32": (lenet(activation="tanh", kernel=3, width=32), False, 10),
        "sigmoid, 5x5, Fashion-MNIST": (lenet(**grey), True, 100),
        "tanh, 5x5, Fashion-MNIST": (lenet(activation="tanh", **grey), True, 30),
        "leaky ReLU, 5x5, Fashion-MNIST": (lenet(activation="leaky_relu", **grey), True, 30),
    }


def run(scale: float = 1.0) -> dict[str, object]:
    """Each determined setting at 40 dB; then the undetermined one beside Inverting Gradients."""
    photos, fashion = fs.zoo.photos(size=32), fs.zoo.fashion_mnist()
    results: dict[str, object] = {}
    for name, (build, is_fashion, pairs) in _settings().items():
        data = fashion if is_fashion else photos
        runs = []
        for index in range(max(2, round(pairs * scale))):
            batch = data[index : index + 1]
            observation = client(build(index), batch)
            assert all(count.determined for count in rank_analysis(Evidence(observation).structure.layers))
            runs.append(attack(observation, batch, fs.attack.auto()))
        good = share(sum(r.psnr >= 40 and r.label_right for r in runs), len(runs))
        results[f"{name}: at 40 dB or better with the right label"] = good
        results[f"{name}: PSNR in dB, median; worst"] = (
            f"{spread([r.psnr for r in runs], 1)}; {min(r.psnr for r in runs):.1f}"
        )
        results[f"{name}: seconds, median"] = spread([r.seconds for r in runs])
        print(f"  ... {name}: {good}, {min(r.psnr for r in runs):.1f} dB worst", flush=True)  # it takes a while
    return results | _undetermined(photos, max(2, round(8 * scale)))


def _undetermined(photos: fs.Batch, pairs: int) -> dict[str, object]:
    name = "not determined (sigmoid, 3x3, width 12: 2064 equations for 3072 unknowns in layer 2)"
    auto, published = [], []
    for index in range(pairs):
        batch = photos[index : index + 1]
        observation = client(fs.zoo.lenet(kernel=3, seed=index), batch)
        assert not all(count.determined for count in rank_analysis(Evidence(observation).structure.layers))
        auto.append(attack(observation, batch, fs.attack.auto()))
        published.append(attack(observation, batch, fs.attack.inverting_gradients()))
    return {
        f"{name}: auto, PSNR in dB, median": spread([r.psnr for r in auto], 1),
        f"{name}: auto, seconds, median": spread([r.seconds for r in auto]),
        f"{name}: inverting_gradients (4800 steps), PSNR in dB, median": spread([r.psnr for r in published], 1),
        f"{name}: inverting_gradients, seconds, median": spread([r.seconds for r in published]),
        f"{name}: auto is better in": share(sum(a.psnr > p.psnr for a, p in zip(auto, published, strict=True)), pairs),
    }
