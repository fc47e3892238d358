"""Scores of an earlier run computed anew, by today's metrics, from what its folder keeps; nothing is attacked again.

The reconstructions come from the run folder. The truth comes from the case, built again, whose fingerprint must be the
record's: of that the folder keeps neither the tokenizer, nor unrelated examples, nor the number of classes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from fedseal.audit import store
from fedseal.audit.case import Case
from fedseal.audit.cell import NOTHING, Worker, arranged, matches
from fedseal.audit.environment import environment
from fedseal.audit.record import Cell, CellCertificate, Content, Kept, Record, Rescoring, Rows
from fedseal.audit.restore import Lost, Restorer
from fedseal.errors import BadConfig, StorageFailure
from fedseal.metric import Grader, LabelScore, SampleScores, Scores
from fedseal.metric.rows import RowJudge as RowJudge
from fedseal.types import Batch, Outcome, Reconstruction

BY_FINGERPRINT = 5  # the first version of the record whose fingerprint knows losses by what they compute
COUNTED = {"num_examples", "single_updates"}  # who knows both names as many labels as there are
MORE = "labels stayed as they were, since more may have been named than the run folder keeps"
SOFT = "labels stayed as they were, since the run folder does not keep those that were named"
FINE = 120.0  # dB above which rounding pictures to float32 moves a PSNR by 0.01 dB and more
BESIDE = ("costs", "bounds")  # what belongs to a run beside its cells
FINER = "; scores above 120 dB, of {examples} examples, are finer than that and stayed as they were"
Order = Sequence[int | None]


def rescored_run(record: Record, case: Case, out: str | Path) -> Record:
    """Score every reconstruction of a run anew and write the run with its new scores into another folder.

    Reconstructions are matched to the truth anew too. What cannot be scored again stays as it was, and
    `record.header.rescored` says of how many cells, and why. What was proved of a cell stays as it is.

    Args:
        record: of the earlier run, finished or not, with its folder.
        case: that was attacked.
        out: the new folder; the earlier run's own is not touched.

    Raises:
        BadConfig: the case is another, no cell can be scored again, or there is something in the new folder.
        StorageFailure: it cannot be written; nothing half written stays.
    """
    header, out = record.header, Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadConfig(f"there is something in '{out}' already", "choose another folder with --out")
    if Path(record.folder).resolve() in out.resolve().parents:
        raise BadConfig(f"'{out}' lies in the folder of the run itself", "choose another folder with --out")
    if case.fingerprint(loss_by_name=header.version < BY_FINGERPRINT) != header.config.fingerprint:
        raise BadConfig(
            f"the run in '{record.folder}' attacked another case: another model, weights or data than are built now",
            "name what builds the same: --case package.module:function, or a .yaml file",
        )
    judged = _Rescorer(
        record, Restorer(record, case.inputs_as, case.batch.inputs.dtype), Worker(case.to("cpu"), {}, {}, {})
    )
    with _whole(out) as part:
        done = [_written(part, judged, cell) for cell in record.cells]
        finer = sum(one.finer for one in done)
        count, reasons = sum(one.new for one in done), Counter(one.reason for one in done if one.reason)
        if not count:
            why = next(iter(reasons), "no attack answered")
            raise BadConfig(f"no cell of '{record.folder}' can be scored again: {why}", "run the audit anew instead")
        note = Rescoring(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=environment("cpu", torch.get_num_threads()),
            cells=count,
            basis=judged.restorer.basis + (FINER.format(examples=finer) if finer else ""),
            kept=tuple(Kept(cells=cells, reason=reason) for reason, cells in reasons.items()),
        )
        for path in (path for kind in BESIDE for path in sorted((Path(record.folder) / kind).glob("*.json"))):
            (part / path.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(path, part / path.parent.name / path.name)
        store.write_header(part, header.model_copy(update={"rescored": note}))
    return store.load(out)


@dataclass(frozen=True, eq=False)
class _Rescored:
    """A cell, its pictures if they have to be put in another order, and what was not scored again, and why.

    Args:
        finer: examples whose scores are finer than what the folder keeps of their pictures, and stayed.
    """

    cell: Cell
    images: dict[str, Tensor] | None = None
    new: bool = False
    reason: str = ""
    finer: int = 0


@dataclass(frozen=True, eq=False)
class _Rescorer:
    record: Record
    restorer: Restorer
    worker: Worker

    def again(self, cell: Cell) -> _Rescored:
        truth = self.worker.case.part(cell.key.first, cell.key.batch_size)
        grader = self.worker.grader(cell.key.first, truth)
        before = matches(cell.scores)
        if cell.scores is None or before is None:  # no inputs: of these all labels are kept, in the attack's order
            named = _named(cell, None)
            if cell.label_score is None or named is None:
                return _Rescored(cell, reason="" if cell.label_score is None else SOFT)
            return _Rescored(cell.model_copy(update={"label_score": _label_score(grader, named)}), new=True)
        places = [place for place, match in enumerate(before) if match is not None]
        try:
            inputs = self.restorer.inputs(cell, truth, places) if places else None
        except Lost as lost:
            return _Rescored(cell, reason=str(lost))
        named = _named(cell, places)
        fresh = grader.score(Reconstruction(inputs, named, _UNASKED))
        order = [None if match is None else places[match] for match in matches(fresh) or ()]
        placed = [self._placed(cell, sample, order, named) for sample in fresh.samples]
        scores = Scores(tuple(self._told(cell, sample, order) for sample in placed))
        finer = sum(told is not sample for told, sample in zip(scores.samples, placed, strict=True))
        label_score, reason = _labels(cell, grader, before, named)
        changes = {
            "scores": scores,
            "label_score": label_score,
            "content": _content(cell, grader, truth, inputs, order),
        }
        if order == [None if match is None else place for place, match in enumerate(before)]:
            return _Rescored(cell.model_copy(update=changes), None, True, reason, finer)
        moved, images = self._moved(cell, order)
        return _Rescored(moved.model_copy(update=changes), images, True, reason, finer)

    def _placed(self, cell: Cell, fresh: SampleScores, order: Order, named: Tensor | None) -> SampleScores:
        """The new scores of an example with the place and the proof of the guess that is now matched to it."""
        assert cell.scores is not None
        before = {sample.index: sample for sample in cell.scores.samples}
        source = order[fresh.index]
        old = None if source is None else before[source]
        # Labels that are not kept can be told only of who is matched as before.
        label = before[fresh.index].label_correct if named is None and source == fresh.index else fresh.label_correct
        certain = None if before[fresh.index].certain is None else source is not None and cell.certain[source]
        return replace(fresh, matched=None if old is None else old.matched, label_correct=label, certain=certain)

    def _told(self, cell: Cell, fresh: SampleScores, order: Order) -> SampleScores:
        """The same with the old values where both are finer than the stored pictures; blind guesses are new."""
        assert cell.scores is not None
        if self.restorer.exact or order[fresh.index] != fresh.index:
            return fresh
        (old,) = (sample for sample in cell.scores.samples if sample.index == fresh.index)
        if any((one := sample.score("psnr")) is None or (one.value or 0) <= FINE for sample in (old, fresh)):
            return fresh
        values = {score.name: score.value for score in old.scores}
        return replace(fresh, scores=tuple(replace(s, value=values.get(s.name, s.value)) for s in fresh.scores))

    def _moved(self, cell: Cell, order: Order) -> tuple[Cell, dict[str, Tensor] | None]:
        """All that stands in the order of the true examples, in the new one."""
        changes = {
            "labels": None if cell.labels is None else _sorted(cell.labels, order, NOTHING),
            "targets": None if cell.targets is None else _sorted(cell.targets, order, (NOTHING,) * _width(cell)),
            "certificate": None if cell.certificate is None else _proof(cell.certificate, order),
        }
        if cell.content is not None:
            return cell.model_copy(update=changes), None
        held = store.pictures(self.record, cell)
        images = {"truth": held.truth}
        if held.reconstruction is not None:
            images["reconstruction"] = arranged(held.reconstruction, order)
        if held.frames is not None:
            frames = held.frames.mul(255).round().to(torch.uint8)
            images["frames"] = arranged(frames.transpose(0, 1), order).transpose(0, 1)
        return cell.model_copy(update=changes), images


_UNASKED = Outcome("budget", "", None, 0, 0.0)  # nothing of it is scored


def _named(cell: Cell, places: Sequence[int] | None) -> Tensor | None:
    """The labels or targets that were named for these true examples; None for all that are kept, as they stand."""
    kept: Sequence[object] | None = cell.labels if cell.labels is not None else cell.targets
    if kept is None or (places is not None and len(kept) != cell.key.batch_size):
        return None
    return torch.tensor([kept[place] for place in (range(len(kept)) if places is None else places)])


def _labels(cell: Cell, grader: Grader, before: Order, named: Tensor | None) -> tuple[LabelScore | None, str]:
    """The labels' score, and why it is the old one if so."""
    if cell.label_score is None:
        return None, ""
    if named is None:
        return cell.label_score, SOFT
    if not set(cell.knows) >= COUNTED or sorted(-1 if p is None else p for p in before) != list(range(len(before))):
        return cell.label_score, MORE
    return _label_score(grader, named), ""


def _label_score(grader: Grader, named: Tensor) -> LabelScore | None:
    return grader.score_labels(Reconstruction(None, named, _UNASKED))


def _content(cell: Cell, grader: Grader, truth: Batch, inputs: Tensor | None, order: Order) -> Content | None:
    """Sentences or rows in the new order, and which cells of a row agree."""
    content = cell.content
    if content is None or content.found is None:
        return content
    if not isinstance(content, Rows) or inputs is None:
        return content.model_copy(update={"found": _sorted(content.found, order, None)})
    judge = cast("RowJudge", grader.judge)
    sources = [source for source, row in enumerate(content.found) if row is not None]
    guesses = dict(zip(sources, judge.read(inputs)[1], strict=True))
    truths = judge.read(truth.inputs)[1]
    rows = []
    for true, source in zip(truths, order, strict=True):
        row = None if source is None else content.found[source]
        right = None if row is None or source is None else judge.agrees(true, guesses[source])
        rows.append(None if row is None else row.model_copy(update={"right": right}))
    return content.model_copy(update={"found": tuple(rows)})


def _proof(certificate: CellCertificate, order: Order) -> CellCertificate:
    return certificate.model_copy(
        update={
            "sensitivity": _sorted(certificate.sensitivity, order, None),
            "certain": _sorted(certificate.certain, order, False),
        }
    )


def _sorted(values: Sequence[object], order: Order, blank: object) -> tuple[object, ...]:
    """Values that are no tensor in the order that `arranged` gives."""
    if any(place is not None and place >= len(values) for place in order):
        return tuple(values)
    return tuple(blank if place is None else values[place] for place in order)


def _width(cell: Cell) -> int:
    return len(cell.targets[0]) if cell.targets else 0


def _written(part: Path, judged: _Rescorer, cell: Cell) -> _Rescored:
    """Score a cell and write it, with its pictures and its traceback."""
    one, cells = judged.again(cell), Path(judged.record.folder) / "cells"
    (part / "cells").mkdir(exist_ok=True)
    for name in (f"{cell.key.id}.safetensors", f"{cell.key.id}.traceback.txt"):
        if (cells / name).is_file():
            shutil.copyfile(cells / name, part / "cells" / name)
    if one.images is not None:
        (part / "cells" / f"{cell.key.id}.safetensors").write_bytes(store.packed(one.images))
    (part / "cells" / f"{cell.key.id}.json").write_text(one.cell.model_dump_json(indent=2), encoding="utf-8")
    return one


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to; at the end it takes that name, and after an error it is gone.

    Raises:
        StorageFailure: it cannot be written.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir(parents=True)
        yield part
        if out.is_dir():
            out.rmdir()  # it is empty, and not every system moves a folder onto one
        part.replace(out)
    except OSError as error:
        raise StorageFailure(
            f"cannot write '{out}' ({error.strerror or error})", "free some space, or choose another folder with --out"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
