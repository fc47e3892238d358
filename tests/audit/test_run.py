from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from audit.fakes import CLASSES, SHAPE, Divide, Guess, Told, ended, pictures, raising, refusing, small_case, timeless
from fedseal import audit
from fedseal.audit import Case, CellProgress, Record
from fedseal.audit.store import traceback_path
from fedseal.defense.base import Hooks
from fedseal.errors import (
    BadConfig,
    FedsealError,
    Misfit,
    MissingExtra,
    NotTwiceDifferentiable,
    StorageFailure,
    UnfitBatch,
    UnfitModel,
    UnfitUpdate,
    UnknownName,
    UnknownToAdversary,
)
from fedseal.metric.baseline import baselines
from fedseal.metric.scores import Baseline
from fedseal.report import html
from fedseal.threat import ThreatModel
from fedseal.types import Attack, Batch, LocalTraining, Reconstruction


def run(case: Case, out: Path, *attacks: Attack | str, **arguments: object) -> Record:
    return audit.run(case, attacks=attacks, out=out, **arguments)  # type: ignore[arg-type]


def test_attacks_come_first_and_every_combination_once(tmp_path: Path) -> None:
    record = run(
        small_case(2),
        tmp_path,
        Divide(),
        Guess(),
        defenses=["none", "prune:0.20"],
        threats=["eavesdropper"],
        seeds=[3, 4],
    )
    order = [(c.key.attack, c.key.first, c.key.defense, c.key.seed) for c in record.cells]
    assert order == [
        (attack, first, shield, seed)
        for attack in ("divide", "guess")
        for first in (0, 1)
        for shield in ("none", "prune:0.2")
        for seed in (3, 4)
    ]
    assert record.complete
    assert len({key.id for key in record.header.keys}) == 16


def test_an_exact_attack_scores_as_one_and_its_pictures_are_kept(tmp_path: Path) -> None:
    case = small_case(2)
    record = run(case, tmp_path, Divide())
    for index, cell in enumerate(record.cells):
        assert cell.scores is not None
        assert cell.scores.psnr is not None
        assert cell.scores.psnr > 60
        assert cell.labels == cell.true_labels == (index % CLASSES,)
        kept = audit.pictures(record, cell)
        assert torch.equal(kept.truth, case.batch.inputs[index : index + 1])
        assert kept.reconstruction is not None
        torch.testing.assert_close(kept.reconstruction, kept.truth, atol=1e-4, rtol=0)
        assert kept.frames is None


def test_what_load_reads_is_what_run_returned(tmp_path: Path) -> None:
    record = run(small_case(2), tmp_path, Divide(), Guess(), refusing(), threats=["honest_but_curious", "oracle"])
    assert audit.load(tmp_path) == record


def test_a_refusal_is_a_cell(tmp_path: Path) -> None:
    cell = run(small_case(1), tmp_path, refusing()).cells[0]
    assert (cell.status, cell.scores, cell.labels) == ("refused", None, None)
    assert cell.note == "this attack needs the moon; grant it"


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("by nothing"),
        TypeError("of our own code"),
        RuntimeError("shapes cannot be multiplied"),
        LinAlgError("singular"),
        StorageFailure("a cache cannot be read", "delete it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_crash_is_a_failed_cell_and_the_others_go_on(tmp_path: Path, error: Exception) -> None:
    record = run(small_case(2), tmp_path, raising(error), Divide())
    assert [cell.status for cell in record.cells[:2]] == ["failed", "failed"]
    assert all(cell.scores is not None for cell in record.cells[2:])
    assert record.failed == record.cells[:2]
    assert not record.complete
    first = record.cells[0]
    assert str(error) in first.note
    assert (first.residual, first.labels, first.scores, first.certificate) == (None, None, None, None)
    trace = traceback_path(tmp_path, first.key).read_text()
    assert "Traceback (most recent call last)" in trace
    assert "in answer" in trace  # the line of the attack that raised
    assert audit.pictures(record, first).reconstruction is None
    assert audit.load(tmp_path) == record
    (told,) = [group for group in audit.summarize(record) if group.attack == "raising"]
    assert (told.cells, told.failed, told.refused, told.samples, told.certified) == (2, 2, 0, 0, 0)


def test_what_attacks_say_at_their_door_is_no_crash_and_a_misfit_of_their_own_guess_is(tmp_path: Path) -> None:
    doors = [UnfitBatch, UnfitModel, UnfitUpdate, UnknownToAdversary, NotTwiceDifferentiable, BadConfig, MissingExtra]
    attacks = [replace(raising(kind("it does not fit", "take another")), name=kind.__name__) for kind in doors]  # type: ignore[type-var]
    misfit = raising(Misfit("the model does not take the guess", "guess better"))
    record = run(small_case(1), tmp_path, *attacks, misfit)
    assert [cell.status for cell in record.cells] == ["refused"] * len(doors) + ["failed"]


def test_failed_cells_are_tried_again_and_leave_no_traceback_once_they_are_done(tmp_path: Path) -> None:
    broken = [True]

    def answer() -> Reconstruction:
        if broken[0]:
            raise ZeroDivisionError
        return ended(pictures(1, 3), torch.tensor([0]))

    first = run(small_case(1), tmp_path, Divide(), Told(answer))
    assert [cell.status for cell in first.cells][1] == "failed"
    assert traceback_path(tmp_path, first.cells[1].key).is_file()
    broken[0] = False
    again = run(small_case(1), tmp_path, Divide(), Told(answer))
    assert again.complete
    assert again.cells[0] == first.cells[0]
    assert again.cells[1].status != "failed"
    assert not list(tmp_path.rglob("*.traceback.txt"))
    assert audit.load(tmp_path) == again


def _fault(*_: object) -> Any:
    raise TypeError("a fault of the hook")


def test_a_defense_that_crashes_fails_its_own_cells(tmp_path: Path) -> None:
    record = run(small_case(1), tmp_path, Divide(), defenses=["none", Hooks("broken", gradient=_fault)])
    assert [cell.status == "failed" for cell in record.cells] == [False, True]
    assert record.cells[1].note == "TypeError: a fault of the hook"


def test_a_defense_that_does_not_fit_the_model_is_refused_in_its_own_cells(tmp_path: Path) -> None:
    case = small_case(2)
    normed = replace(case, model=nn.Sequential(*case.model.children(), nn.BatchNorm1d(CLASSES)))
    record = run(normed, tmp_path, Divide(), defenses=["dpsgd:1.1,clip=0.5", "none"], batch_size=2)
    assert [cell.status == "refused" for cell in record.cells] == [True, False]
    assert "no example has a gradient of its own" in record.cells[0].note
    assert record.complete


def test_a_crash_of_scoring_fails_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, reconstruction: object) -> None:
        raise KeyError("a fault of the score")

    monkeypatch.setattr("fedseal.metric.grade.Grader.score", broken)
    assert [cell.status for cell in run(small_case(1), tmp_path, Divide()).cells] == ["failed"]


def test_what_looks_on_may_end_the_audit(tmp_path: Path) -> None:
    def tired(event: CellProgress) -> None:
        if event.progress is not None:
            raise ZeroDivisionError("enough")

    with pytest.raises(ZeroDivisionError, match="enough"):
        run(small_case(1), tmp_path, Guess(), on_progress=tired)
    assert audit.load(tmp_path).cells == ()


def test_an_update_with_nothing_in_it_ends_its_own_cell_only(tmp_path: Path) -> None:
    case = small_case(2)
    layer = torch.nn.Linear(SHAPE[1] * SHAPE[2], CLASSES)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([200.0, 0.0, 0.0]))  # certain of class 0, so its example has no gradient
    record = run(replace(case, model=torch.nn.Sequential(torch.nn.Flatten(), layer)), tmp_path, Divide())
    assert [cell.status for cell in record.cells] == ["refused", "converged"]
    assert "zero everywhere" in record.cells[0].note


def test_an_attack_without_inputs_has_no_scores(tmp_path: Path) -> None:
    record = run(small_case(1), tmp_path, Told(lambda: ended(None, torch.tensor([2]))))
    assert record.cells[0].scores is None
    assert record.cells[0].labels == (2,)
    assert audit.pictures(record, record.cells[0]).reconstruction is None


def test_pictures_labels_and_frames_stand_in_the_order_of_the_truth(tmp_path: Path) -> None:
    case = small_case(3)
    found = ended(case.batch.inputs.roll(1, 0), case.batch.labels.roll(1, 0))
    record = run(case, tmp_path, Told(lambda: found), batch_size=3)
    kept = audit.pictures(record, record.cells[0])
    assert kept.reconstruction is not None
    assert kept.frames is not None
    assert torch.equal(kept.reconstruction, kept.truth)
    assert torch.allclose(kept.frames[0], kept.truth, atol=0.6 / 255)
    assert record.cells[0].labels == record.cells[0].true_labels


def test_examples_that_were_not_found_are_black(tmp_path: Path) -> None:
    case = small_case(2)
    found = ended(case.batch.inputs[1:], case.batch.labels[1:])
    record = run(case, tmp_path, Told(lambda: found), batch_size=2)
    kept = audit.pictures(record, record.cells[0]).reconstruction
    assert kept is not None
    assert torch.equal(kept[1], case.batch.inputs[1])
    assert not kept[0].any()
    assert record.cells[0].labels == (-1, 1)


def test_the_truth_is_not_in_its_own_gallery(tmp_path: Path) -> None:
    case = small_case(1)
    crowded = replace(case, gallery=torch.cat([case.batch.inputs, pictures(5, 7)]))
    with_truth = run(crowded, tmp_path / "a", Divide()).cells[0].scores
    without = run(case, tmp_path / "b", Divide()).cells[0].scores
    assert with_truth == without
    assert without is not None
    assert without.samples[0].identification is not None
    assert without.samples[0].identification.gallery == 6


def test_the_zoo_lends_its_gallery(tmp_path: Path) -> None:
    scores = run(replace(small_case(1), gallery=None), tmp_path, Divide()).cells[0].scores
    assert scores is not None
    assert scores.samples[0].identification is not None
    assert scores.samples[0].identification.gallery == 100
    assert "200" in scores.samples[0].psnr.baselines[-1].name


def test_frames_of_a_long_attack_are_kept_thinned(tmp_path: Path) -> None:
    record = run(small_case(1), tmp_path, Guess(steps=60))
    frames = audit.pictures(record, record.cells[0]).frames
    assert record.cells[0].frame_steps == tuple(range(1, 61, 4))
    assert frames is not None
    assert frames.shape == (15, 1, *SHAPE)
    assert 0 <= frames.min() <= frames.max() <= 1


def test_finished_cells_are_not_computed_again(tmp_path: Path) -> None:
    attack = Divide()
    first = run(small_case(2), tmp_path, attack)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    again = run(small_case(2), tmp_path, attack)
    assert len(attack.calls) == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == written
    assert again == first


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = run(small_case(3), tmp_path / "whole", Divide(), Guess())
    attacked: list[CellProgress] = []

    def stop_in_the_fifth(event: CellProgress) -> None:
        attacked.append(event)
        if event.done == 4 and event.progress is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_case(3), tmp_path / "cut", Divide(), Guess(), on_progress=stop_in_the_fifth)
    partial = audit.load(tmp_path / "cut")
    assert len(partial.cells) == 4
    resumed = run(small_case(3), tmp_path / "cut", Divide(), Guess())
    assert timeless(resumed) == timeless(whole)
    assert resumed.header == partial.header
    assert resumed.cells[:4] == partial.cells


def test_a_cell_depends_on_its_key_alone(tmp_path: Path) -> None:
    one = run(small_case(3), tmp_path / "a", Guess(), Guess("other"), defenses=["gaussian:0.1"], seeds=[0, 5])
    two = run(small_case(3), tmp_path / "b", Guess("other"), defenses=["none", "gaussian:0.1"], seeds=[5], samples=2)
    cells = {cell.key: cell for cell in one.cells}
    shared = [cell for cell in two.cells if cell.key in cells]
    assert len(shared) == 2
    for cell in shared:
        assert cell.scores == cells[cell.key].scores
        assert torch.equal(_guessed(two, cell), _guessed(one, cell))
    assert len({_guessed(one, cell).sum().item() for cell in one.cells}) == len(one.cells)


def _guessed(record: Record, cell: audit.Cell) -> torch.Tensor:
    guessed = audit.pictures(record, cell).reconstruction
    assert guessed is not None
    return guessed


def test_what_was_half_written_is_cleared_away(tmp_path: Path) -> None:
    record = run(small_case(1), tmp_path, Divide())
    json = tmp_path / "cells" / f"{record.cells[0].key.id}.json"
    json.unlink()
    torn = [tmp_path / "cells" / f".{json.name}.part", tmp_path / ".record.json.part"]
    for path in torn:
        path.write_text('{"key": {"attack": "div')
    assert audit.load(tmp_path).cells == ()
    assert timeless(run(small_case(1), tmp_path, Divide())) == timeless(record)
    assert not any(path.exists() for path in torn)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attacks": ["dlg"]}, "attacks"),
        ({"attacks": [Guess(steps=4)]}, "recipes"),
        ({"defenses": ["prune:0.1"]}, "defenses"),
        ({"threats": [ThreatModel("honest_but_curious", frozenset({"single_updates"}))]}, "knows"),
        ({"samples": 1}, "samples was 2, now 1"),
        ({"seeds": [1]}, "seeds"),
        ({"case": small_case(2, LocalTraining.fedavg(lr=0.1))}, "training"),
        ({"case": replace(small_case(2), batch=Batch(pictures(2, 5), torch.tensor([0, 1])))}, "the data are others"),
    ],
    ids=["attacks", "options", "defenses", "grants", "samples", "seeds", "training", "data"],
)
def test_another_audit_in_the_folder_is_named_and_kept(tmp_path: Path, change: dict[str, object], named: str) -> None:
    arguments = {"case": small_case(2), "attacks": [Guess()], "out": tmp_path}
    record = audit.run(**arguments)  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match=rf"holds another audit: .*{named}.*choose another --out"):
        audit.run(**{**arguments, **change})  # type: ignore[arg-type]
    assert audit.load(tmp_path) == record


def test_another_version_of_a_package_is_another_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(small_case(1), tmp_path, Guess())
    monkeypatch.setattr("importlib.metadata.version", lambda package: "99.0")
    with pytest.raises(BadConfig, match=r"torch was .*, now 99\.0"):
        run(small_case(1), tmp_path, Guess())


def test_without_resume_a_record_is_left_alone(tmp_path: Path) -> None:
    run(small_case(1), tmp_path, Guess(), resume=False)
    with pytest.raises(BadConfig, match="--resume"):
        run(small_case(1), tmp_path, Guess(), resume=False)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"attacks": []}, BadConfig, "no attack"),
        ({"attacks": [Guess(), Guess(steps=9)]}, BadConfig, "'guess' is there twice"),
        ({"attacks": ["dgl"]}, UnknownName, "did you mean 'dlg'"),
        ({"defenses": ["prun:0.1"]}, UnknownName, "did you mean 'prune'"),
        ({"threats": ["oracel"]}, UnknownName, "did you mean 'oracle'"),
        ({"seeds": []}, BadConfig, "no seed"),
        ({"samples": 3}, BadConfig, "it holds 2 such samples"),
        ({"samples": 0}, BadConfig, "0 samples"),
        ({"batch_size": 3}, BadConfig, "case of 2 examples"),
        ({"batch_size": 0}, BadConfig, "batch_size"),
        ({"device": "gpu"}, BadConfig, "use one of: cpu"),
        ({"threats": ["aggregate_only"], "batch_size": 2}, UnfitBatch, "needs 4 examples"),
        ({"case": replace(small_case(2), model=torch.nn.Linear(5, 2))}, UnfitBatch, "cannot train"),
    ],
)
def test_what_means_nothing_is_refused(
    tmp_path: Path, arguments: dict[str, object], error: type[FedsealError], said: str
) -> None:
    with pytest.raises(error, match=said):
        audit.run(**{"case": small_case(2), "attacks": [Guess()], "out": tmp_path, **arguments})  # type: ignore[arg-type]


def test_every_start_step_and_end_is_told(tmp_path: Path) -> None:
    events: list[CellProgress] = []
    record = run(small_case(2), tmp_path, Guess(steps=2), on_progress=events.append)
    told = [(e.done, e.total, e.key.first, e.progress and e.progress.step, e.cell is not None) for e in events]
    assert told == [
        (0, 2, 0, None, False),
        (0, 2, 0, 1, False),
        (0, 2, 0, 2, False),
        (1, 2, 0, None, True),
        (1, 2, 1, None, False),
        (1, 2, 1, 1, False),
        (1, 2, 1, 2, False),
        (2, 2, 1, None, True),
    ]
    assert events[-1].cell == record.cells[1]


def test_the_record_says_what_was_asked_resolved_and_where(tmp_path: Path) -> None:
    header = run(small_case(1), tmp_path, "dlg:steps=1", given={"attacks": "dlg:steps=1"}).header
    assert header.given == {"attacks": "dlg:steps=1"}
    assert header.config.attacks == ("dlg:steps=1",)
    assert "steps=1" in header.config.recipes["dlg:steps=1"]
    assert " at 0x" not in header.config.recipes["dlg:steps=1"]
    assert header.config.knows["honest_but_curious"] == tuple(sorted(ThreatModel.honest_but_curious().grants))
    assert {"torch", "numpy", "safetensors"} <= header.environment.packages.keys()
    assert header.created.endswith("+00:00")


def test_a_folder_without_git_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(small_case(1), tmp_path / "out", Guess()).header.environment.git is None


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailure, match="a file is in the way"):
        run(small_case(1), tmp_path / "file" / "out", Guess())


def test_labels_count_in_whatever_order_also_without_pictures(tmp_path: Path) -> None:
    case = small_case(4)  # labels 0, 1, 2, 0
    record = run(case, tmp_path, Told(lambda: ended(None, torch.tensor([0, 0, 2, 2]))), Guess(), batch_size=4)
    named, guessed = (cell.label_score for cell in record.cells)
    assert named is not None
    assert guessed is not None
    assert (named.right, named.of, guessed.right) == (3, 4, 1)
    assert named.chance == pytest.approx(5 / 6)  # each class once, and class 0 again one time in three
    assert audit.load(tmp_path) == record


def test_a_refused_attack_named_no_labels(tmp_path: Path) -> None:
    assert run(small_case(1), tmp_path, refusing()).cells[0].label_score is None


def test_blind_guesses_are_scored_once_for_all_attacks_on_a_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []

    def counted(name: str, truth: torch.Tensor, gallery: torch.Tensor | None) -> tuple[Baseline, ...]:
        scored.append(name)
        return baselines(name, truth, gallery)

    monkeypatch.setattr("fedseal.metric.picture.baselines", counted)
    attacks = [Guess(examples=2), Guess("again", examples=2), Guess("third")]
    run(small_case(4), tmp_path, *attacks, batch_size=2, seeds=[0, 1])
    assert sorted(scored) == sorted(["psnr", "ssim", "mse"] * 4)


@pytest.mark.parametrize(
    "training",
    [
        LocalTraining.fedsgd(),
        LocalTraining.fedavg(lr=0.05, epochs=2, batch_size=2, momentum=0.9, weight_decay=1e-3, shuffle=True),
        LocalTraining.fedavg(lr=0.01, epochs=3, batch_size=3, optimizer="adam"),
    ],
    ids=["fedsgd", "sgd", "adam"],
)
def test_batches_and_local_training_go_from_end_to_end(tmp_path: Path, training: LocalTraining) -> None:
    attacks = ["inverting_gradients:steps=2,labels=geng_bias", "dimitrov:steps=2", "dlg_batch:steps=2"]
    record = run(
        small_case(8, training), tmp_path, *attacks, batch_size=4, threats=["honest_but_curious", "unknown_training"]
    )
    assert record.complete
    assert audit.load(tmp_path) == record
    assert record.header.config.training == training.describe()
    started = [cell for cell in record.cells if cell.status != "refused"]
    assert {cell.key.threat for cell in started} == {"honest_but_curious"}
    assert len(started) >= 2
    for cell in started:
        assert cell.true_labels is not None
        assert len(cell.true_labels) == 4
        assert cell.label_score is not None
        assert audit.pictures(record, cell).truth.shape == (4, *SHAPE)
    text = html(record, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Server without the training settings" in text


ROWS = {
    "findings": (torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), nn.BCEWithLogitsLoss(), (6, 6)),
    "one answer": (torch.tensor([[1.0], [0.0]]), nn.BCEWithLogitsLoss(), (2, 2)),
    "numbers": (torch.tensor([[1.5], [-0.25]]), nn.MSELoss(), None),
}


@pytest.mark.parametrize("kind", ROWS)
def test_targets_that_are_not_one_class_are_recorded_and_scored(tmp_path: Path, kind: str) -> None:
    rows, loss, right = ROWS[kind]
    model = nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[1] * SHAPE[2], rows.shape[1]))
    batch = Batch(pictures(2, 0), rows)
    case = Case(model, batch, LocalTraining.fedsgd(loss=loss), gallery=pictures(5, 7))
    flipped = Told(lambda: ended(batch.inputs.flip(0), rows.flip(0)))
    nothing = replace(flipped, name="nothing", answer=lambda: ended(batch.inputs, None))
    record = run(case, tmp_path, flipped, nothing, batch_size=2)
    cell = record.cells[0]
    assert (cell.true_labels, cell.labels) == (None, None)
    assert cell.true_targets == cell.targets == tuple(tuple(row) for row in rows.tolist())  # in the order of the truth
    counted = cell.label_score
    assert (None if counted is None else (counted.right, counted.of)) == right
    assert cell.scores is not None
    assert {sample.label_correct for sample in cell.scores.samples} == ({None} if right is None else {True})
    assert (record.cells[1].targets, record.cells[1].label_score) == (None, None)
    assert audit.load(tmp_path) == record
    assert html(record, tmp_path / "report.html").is_file()
