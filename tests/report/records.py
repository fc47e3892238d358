"""Records made by hand, with pictures on disk, for the tests of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fedseal.audit.record import Cell, CellCertificate, CellKey, Config, Environment, Header, Record, Step
from fedseal.metric import LabelScore, score_labels
from fedseal.metric.scores import Baseline, Identification, SampleScores, Score, Scores
from fedseal.threat import preset
from fedseal.types import RouteNote

BLIND = 13.0


@dataclass(frozen=True)
class Shot:
    """A cell in short: what came out for each example of its batch, in dB; None where the attack gave nothing.

    `certain`: of which examples; None for all of an exact or converged cell, and no certificate for others.
    """

    psnr: Sequence[float | None] = (90.0,)
    attack: str = "auto"
    defense: str = "none"
    threat: str = "honest_but_curious"
    first: int = 0
    seed: int = 0
    status: str = "exact"
    seconds: float = 0.5
    residual: float | None = 3e-7
    note: str = ""
    route: str = "layer_by_layer"
    hit: bool | None = None
    frames: int = 0
    labels: Sequence[int] | None = None
    explanation: tuple[RouteNote, ...] = field(default=())
    certain: Sequence[bool] | None = None
    moved: float = 2e-3
    proof: str = ""

    @property
    def key(self) -> CellKey:
        return CellKey(
            attack=self.attack,
            defense=self.defense,
            threat=self.threat,
            first=self.first,
            batch_size=len(self.psnr),
            seed=self.seed,
        )


def cell(shot: Shot) -> Cell:
    refused = shot.status in ("refused", "failed")
    nothing = refused or all(value is None for value in shot.psnr)
    return Cell.model_validate(
        {
            "key": shot.key,
            "status": shot.status,
            "route": "" if refused else shot.route,
            "residual": None if nothing else shot.residual,
            "steps": 0 if shot.status == "exact" else 300,
            "seconds": shot.seconds,
            "note": shot.note,
            "explanation": shot.explanation,
            "certificate": None if nothing else certificate(shot),
            "knows": tuple(sorted(preset(shot.threat).grants)) if shot.threat in KNOWN else ("state", "training"),
            "true_labels": tuple(range(len(shot.psnr))),
            "labels": shot.labels if shot.labels is not None else None if nothing else tuple(range(len(shot.psnr))),
            "scores": None if nothing else Scores(tuple(scores(i, v, shot.hit) for i, v in enumerate(shot.psnr))),
            "label_score": None if nothing and shot.labels is None else label_score(shot),
            "frame_steps": tuple(range(0, 10 * shot.frames, 10)),
        }
    )


def certificate(shot: Shot) -> CellCertificate | None:
    """As a runner proves it: an uncertain example moves the update by no more than the tolerance."""
    certain = shot.certain
    if certain is None and shot.status in ("exact", "converged"):
        certain = [True] * len(shot.psnr)
    if certain is None or shot.residual is None:
        return None
    short = f"{len(certain) - sum(certain)} of {len(certain)}"
    open_ = f"explains the update, does not determine {short} examples" if not all(certain) else ""
    return CellCertificate(
        kind="layer" if shot.threat == "eavesdropper" else "replay",
        residual=shot.residual,
        tolerance=1e-5,
        sensitivity=tuple(shot.moved if sure or shot.proof else 1e-6 for sure in certain),
        certain=tuple(certain),
        assumption=f"the client's word that {len(certain)} examples made the update",
        note=shot.proof or open_,
    )


def label_score(shot: Shot) -> LabelScore:
    """As measured on a model of ten classes."""
    true = tuple(range(len(shot.psnr)))
    found = score_labels(true, true if shot.labels is None else shot.labels, classes=10)
    assert found is not None
    return found


KNOWN = (
    "honest_but_curious",
    "eavesdropper",
    "aggregate_only",
    "unknown_training",
    "unaware",
    "malicious_server",
    "neighbor",
    "oracle",
)


def scores(index: int, psnr: float | None, hit: bool | None = None, blind: float | None = BLIND) -> SampleScores:
    """One example; identified if its PSNR is above 20 dB, unless told; no blind guess at all if `blind` is None."""
    found = psnr is not None and (psnr > 20 if hit is None else hit)
    ssim = None if psnr is None else min(max(psnr, 0.0) / 50, 1.0)
    return SampleScores(
        index=index,
        matched=None if psnr is None else index,
        scores=(
            Score(
                "psnr",
                "dB",
                psnr,
                True,
                (Baseline("grey", None if blind is None else 9.0), Baseline("best of 1000 unrelated pictures", blind)),
            ),
            Score("ssim", "", ssim, True, (Baseline("best of 1000 unrelated pictures", 0.2),)),
            Score("mse", "", None if psnr is None else 10 ** (-psnr / 10), False, (Baseline("grey", 0.1),)),
        ),
        identification=None if psnr is None else Identification(found, 1 if found else 17, 100),
        label_correct=None if psnr is None else True,
    )


def record(
    shots: Sequence[Shot],
    folder: str | Path = "runs/first",
    *,
    missing: int = 0,
    case: str = "lenet on photos",
    model: str = "Sequential (15,826 parameters)",
    given: dict[str, object] | None = None,
    side: int = 32,
    public: dict[str, tuple[Step, ...]] | None = None,
) -> Record:
    """A record of these cells; `missing` more are planned and not finished."""
    cells = tuple(cell(shot) for shot in shots)
    more = tuple(
        CellKey(attack="dlg", defense="none", threat="oracle", first=900 + i, batch_size=1, seed=9)
        for i in range(missing)
    )
    config = Config(
        case=case,
        model=model,
        training={"epochs": 0, "lr": None, "batch_size": None, "mode": "train", "loss": "cross_entropy"},
        modality={"kind": "image", "shape": [3, side, side], "mean": None, "std": None},
        attacks=tuple(dict.fromkeys(shot.attack for shot in shots)),
        defenses=tuple(dict.fromkeys(shot.defense for shot in shots)),
        threats=tuple(dict.fromkeys(shot.threat for shot in shots)),
        samples=len({shot.first for shot in shots}),
        batch_sizes=tuple(sorted({len(shot.psnr) for shot in shots} or {1})),
        seeds=tuple(dict.fromkeys(shot.seed for shot in shots)),
        cohort=2,
        recipes={shot.attack: f"recipe of {shot.attack}" for shot in shots},
        knows={},
        public=public,
        fingerprint="ab" * 32,
    )
    header = Header(
        created="2026-01-02T03:04:05+00:00",
        given={"model": "zoo:lenet", "data": "photos"} if given is None else given,
        config=config,
        environment=Environment(
            python="3.11.2",
            platform="Linux",
            packages={"fedseal": "0.1.0", "torch": "2.13.0"},
            git="0123abc",
            device="cpu",
            threads=2,
        ),
        keys=(*(c.key for c in cells), *more),
    )
    return Record(header=header, cells=cells, folder=str(folder))


def on_disk(shots: Sequence[Shot], folder: Path, *, side: int = 32, noise: float = 1.0, **facts: object) -> Record:
    """The same with pictures; `noise` of 1 makes iterations that no compression shortens."""
    made = record(shots, folder, side=side, **facts)  # type: ignore[arg-type]
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    for shot in shots:
        save_file(images(shot, side, noise), str(folder / "cells" / f"{shot.key.id}.safetensors"))
    return made


def images(shot: Shot, side: int, noise: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * shot.first + len(shot.attack))
    truth = torch.stack([scene(shot.first + i, side) for i in range(len(shot.psnr))])
    tensors = {"truth": truth}
    levels = [0.0 if v is None else 10 ** (-v / 20) for v in shot.psnr]
    spread = torch.tensor(levels).view(-1, 1, 1, 1)
    if shot.status not in ("refused", "failed") and any(v is not None for v in shot.psnr):
        tensors["reconstruction"] = (truth + spread * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    if shot.frames:
        shares = torch.linspace(1, 0, shot.frames).view(-1, 1, 1, 1, 1)
        random = torch.rand((shot.frames, *truth.shape), generator=generator)
        mixed = (1 - noise) * (shares * random + (1 - shares) * truth) + noise * random
        tensors["frames"] = (mixed * 255).round().to(torch.uint8)
    return tensors


def scene(index: int, side: int) -> Tensor:
    """A smooth picture `(3, side, side)` in [0, 1], another one for each index."""
    axis = torch.linspace(0, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    waves = [torch.sin((3 + index % 5) * x * (c + 1) + index) * torch.cos((2 + index % 3) * y + c) for c in range(3)]
    disk = ((x - 0.3 - 0.1 * (index % 4)) ** 2 + (y - 0.5) ** 2 < 0.05).float()
    return (0.5 + 0.35 * torch.stack(waves) + 0.3 * disk).clamp(0, 1)
