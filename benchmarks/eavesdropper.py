"""Without the weights: the input of a fully connected first layer, from the update alone."""

from __future__ import annotations

import fedseal as fs
from benchmarks.measure import attack, client, share, spread


def run(scale: float = 1.0) -> dict[str, object]:
    """An MLP on 28x28 pictures, batch 1, float32."""
    fashion = fs.zoo.fashion_mnist()
    runs = []
    for index in range(max(2, round(100 * scale))):
        batch = fashion[index : index + 1]
        observation = client(fs.zoo.mlp(seed=index), batch, threat=fs.ThreatModel.eavesdropper())
        assert observation.state is None
        runs.append(attack(observation, batch, fs.attack.auto()))
    return {
        "exact (certified, 60 dB or better, right label)": share(
            sum(r.status == "exact" and r.psnr >= 60 and r.label_right for r in runs), len(runs)
        ),
        "PSNR in dB, median; worst": f"{spread([r.psnr for r in runs], 1)}; {min(r.psnr for r in runs):.1f}",
        "seconds, median": spread([r.seconds for r in runs], 4),
    }
