"""DLG's own setting: sigmoid LeNet, natural 32x32 pictures, batch 1, float32; `auto` against `dlg`, pair by pair."""

from __future__ import annotations

import statistics

import fedseal as fs
from benchmarks.measure import Run, attack, client, share, spread

PAIRS, DLG_PAIRS = 100, 24


def run(scale: float = 1.0) -> dict[str, object]:
    """`auto` on all pairs of picture and weight seed, `dlg` on the first of them."""
    photos = fs.zoo.photos(size=32)
    auto: list[Run] = []
    dlg: list[Run] = []
    for index in range(max(2, round(PAIRS * scale))):
        batch = photos[index : index + 1]
        observation = client(fs.zoo.lenet(seed=index), batch)
        auto.append(attack(observation, batch, fs.attack.auto()))
        if index < max(2, round(DLG_PAIRS * scale)):
            dlg.append(attack(observation, batch, fs.attack.dlg()))
    passed = [run.seconds_to_30_db for run in dlg if run.seconds_to_30_db is not None]
    auto_median = statistics.median(run.seconds for run in auto)
    return {
        "auto: at 60 dB or better with the right label": share(
            sum(r.psnr >= 60 and r.label_right for r in auto), len(auto)
        ),
        "auto: certified exact": share(sum(r.status == "exact" for r in auto), len(auto)),
        "auto: PSNR in dB, median": spread([r.psnr for r in auto], 1),
        "auto: PSNR in dB, worst": f"{min(r.psnr for r in auto):.1f}",
        "auto: seconds, median": spread([r.seconds for r in auto]),
        "dlg: passes 30 dB": share(len(passed), len(dlg)),
        "dlg: PSNR in dB, median of all runs": spread([r.psnr for r in dlg], 1),
        "dlg: seconds to pass 30 dB in successful runs, median": spread(passed) if passed else "none passed",
        "dlg: seconds for all 300 steps, median": spread([r.seconds for r in dlg]),
        "ratio: auto's seconds to dlg's seconds to 30 dB, medians": (
            f"{auto_median / statistics.median(passed):.3f}" if passed else "not measured"
        ),
    }
