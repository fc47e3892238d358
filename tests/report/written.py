"""Records of sentences and of rows made by hand, for the tests of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedseal.audit.record import Cell, CellCertificate, CellKey, Record, Row, Rows, Sentence, Texts
from fedseal.metric.scores import Baseline, SampleScores, Score, Scores
from fedseal.threat import preset
from report.records import record

SPECIAL = ("[CLS]", "[SEP]")
BLIND = 0.25


@dataclass(frozen=True)
class Read:
    """A cell of one example in short: what was private, and what the attack made of it; None where it made nothing."""

    truth: str | dict[str, str | int | float | bool | None]
    guess: str | dict[str, str | int | float | bool | None] | None
    value: float = 1.0
    confidence: float | None = None
    attack: str = "auto"
    status: Literal["exact", "budget", "refused", "not_applicable"] = "exact"
    first: int = 0

    @property
    def key(self) -> CellKey:
        return CellKey(
            attack=self.attack,
            defense="none",
            threat="honest_but_curious",
            first=self.first,
            batch_size=1,
            seed=0,
        )


def cell(read: Read) -> Cell:
    names = ("columns", "row") if isinstance(read.truth, dict) else ("rouge1", "rouge2", "rougeL", "tokens", "sentence")
    scores = tuple(
        Score(name, "", None if read.guess is None else read.value, True, (Baseline("best of many", BLIND),))
        for name in names
    )
    return Cell(
        key=read.key,
        status=read.status,
        route="" if read.status == "refused" else "told",
        residual=None if read.guess is None else 3e-7,
        steps=0,
        seconds=0.5,
        note="it needs the weights; grant them" if read.status == "refused" else "",
        explanation=(),
        certificate=None
        if read.guess is None or read.status != "exact"
        else CellCertificate(
            kind="replay",
            residual=3e-7,
            tolerance=1e-5,
            sensitivity=(2e-3,),
            certain=(True,),
            assumption="the client's word that 1 example made the update",
        ),
        knows=tuple(sorted(preset("honest_but_curious").grants)),
        true_labels=(0,),
        labels=None if read.guess is None else (0,),
        scores=None if read.guess is None else Scores((SampleScores(0, 0, scores, None, True),)),
        frame_steps=(),
        content=row(read) if isinstance(read.truth, dict) else sentence(read),
    )


def sentence(read: Read) -> Texts:
    assert isinstance(read.truth, str)
    guess = None
    if isinstance(read.guess, str):
        confidence = None if read.confidence is None else (read.confidence,) * (len(read.guess.split()) + 2)
        guess = Sentence(text=read.guess, tokens=("[CLS]", *read.guess.split(), "[SEP]"), confidence=confidence)
    truth = Sentence(text=read.truth, tokens=("[CLS]", *read.truth.split(), "[SEP]"))
    return Texts(special=SPECIAL, truth=(truth,), found=None if read.guess is None else (guess,))


def row(read: Read) -> Rows:
    assert isinstance(read.truth, dict)
    if not isinstance(read.guess, dict):
        return Rows(truth=(Row(values=read.truth),), found=None)
    right = {name: read.guess[name] == value for name, value in read.truth.items()}
    confidence = None if read.confidence is None else dict.fromkeys(read.truth, read.confidence)
    return Rows(truth=(Row(values=read.truth),), found=(Row(values=read.guess, right=right, confidence=confidence),))


def written(reads: Sequence[Read], *, case: str = "minilm on sentences", folder: str = "runs/text") -> Record:
    """A record of these cells; of rows if the first is one."""
    cells = tuple(cell(read) for read in reads)
    kind = {"kind": "tabular", "columns": []} if isinstance(reads[0].truth, dict) else {"kind": "text", "length": 32}
    empty = record([], folder, case=case)
    header = empty.header.model_copy(
        update={
            "keys": tuple(c.key for c in cells),
            "config": empty.header.config.model_copy(
                update={"modality": kind, "attacks": tuple(dict.fromkeys(read.attack for read in reads))}
            ),
        }
    )
    return empty.model_copy(update={"header": header, "cells": cells})
