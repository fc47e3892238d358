"""One published figure of each method beside ours, from the sections before; what settings do not share is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"


class Published(NamedTuple):
    """A figure from a paper or a re-run of its code, and where ours of the nearest setting stands."""

    method: str
    figure: str
    differs: str
    section: str
    ours: str


ROWS = (
    Published(
        "dlg (NeurIPS 2019)",
        "16 of 20 runs pass 30 dB (the official code, run again on natural 32x32 pictures)",
        "other pictures and seeds",
        "dlg_setting",
        "dlg: passes 30 dB",
    ),
    Published(
        "idlg (2020)",
        "100 % of labels of one example on MNIST",
        "Fashion-MNIST",
        "labels",
        "one example, 10 classes, untrained MLP: sign",
    ),
    Published(
        "inverting_gradients (NeurIPS 2020)",
        "24.76 dB for one 32x32 picture at 4800 steps (the official code, run again)",
        "another untrained ReLU net, labels inferred",
        "relu",
        "untrained, photographs 32x32: inverting_gradients (4800 steps), PSNR in dB, median",
    ),
    Published(
        "gradinversion's rule for labels (CVPR 2021)",
        "49.39 % of labels at batch 16 with repeats (Geng et al.; how repeats were drawn is not known)",
        "1000 classes, photographs, an untrained conv net in place of ImageNet and a ResNet",
        "labels",
        "1000 classes, batch 16, up to 8 repeats, untrained ReLU conv net: gradinversion",
    ),
    Published(
        "geng's labels (2021)",
        "99.60 % of labels at batch 16 with up to 8 repeats",
        "1000 classes, photographs, an untrained conv net; by the bias's gradient",
        "labels",
        "1000 classes, batch 16, up to 8 repeats, untrained ReLU conv net: geng_bias",
    ),
    Published(
        "ilrg (ICLR 2023)",
        "95.7 % of labels, untrained 3-layer MLP, MNIST, batch 64 (its instance recall)",
        "Fashion-MNIST",
        "labels",
        "Fashion-MNIST, batch 64, untrained 3-layer MLP: ilrg",
    ),
    Published(
        "spear (NeurIPS 2024)",
        "exact for batches up to about 25 in a ReLU net's first layer",
        "Fashion-MNIST",
        "spear",
        "width 200, batch 16: every picture above 80 dB",
    ),
    Published(
        "dimitrov (TMLR 2022)",
        "more than 45 % of pictures above 20 dB, FEMNIST, 10 epochs of 10 batches of 5",
        "Fashion-MNIST, a narrower net, 100 steps",
        "fedavg",
        "FEMNIST's shape, 1 clients of 50 pictures, dimitrov: above 20 dB",
    ),
    Published(
        "one mean gradient (Geng et al., as Dimitrov et al. ran it)",
        "less than 10 % of pictures above 20 dB in that setting",
        "Fashion-MNIST, a narrower net",
        "fedavg",
        "FEMNIST's shape, 3 clients of 50 pictures, mean gradient (geng): above 20 dB",
    ),
    Published(
        "dager (NeurIPS 2024)",
        "ROUGE-1 and ROUGE-2 above .99 at batch 8",
        "MiniLM in place of BERT; sentences of the founding documents",
        "text",
        "MiniLM classification, 8 sentences: ROUGE-2",
    ),
    Published(
        "tableak (ICML 2023)",
        "95.2 % of cells on Adult at batch 8",
        "statsmodels' `fair`",
        "tables",
        "fair, batch 8: TabLeak alone: mean column accuracy",
    ),
)


def run(scale: float = 1.0) -> dict[str, object]:
    """Read the results on disk; sections that have not been measured are named as such."""
    figures: dict[str, object] = {}
    for row in ROWS:
        name = f"{row.method}: {row.figure}. Here ({row.differs}; section `{row.section}`)"
        path = RESULTS / f"{row.section}.json"
        if not path.exists():
            figures[name] = "not measured yet"
            continue
        figures[name] = json.loads(path.read_text())["figures"][row.ours]
    return figures
