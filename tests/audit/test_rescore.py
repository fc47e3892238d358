"""Scores computed anew from a run folder: what changes with a mended measure, what stays, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedseal import Batch, Image, LocalTraining, zoo
from fedseal.audit import Case, Record, compare, load, pictures, rescore, run, store
from fedseal.errors import BadConfig, StorageFailure
from fedseal.metric import picture
from fedseal.metric.image import METRICS


def case(seed: int = 1) -> Case:
    batch = zoo.photos(size=8, num_classes=4)[:4]
    return Case(zoo.mlp(inputs=192, widths=(16,), num_classes=4, seed=seed), batch, LocalTraining.fedsgd(), name="own")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two batches of two pictures, read through noise, so that scores differ, and one cell that is refused."""
    folder = tmp_path_factory.mktemp("audited")
    run(case(), attacks=["dlg:steps=3", "dager"], defenses=["gaussian:0.001"], batch_size=2, out=folder)
    return folder


@pytest.fixture
def old(audited: Path, tmp_path: Path) -> Record:
    """That run in a folder of the test's own."""
    return load(shutil.copytree(audited, tmp_path / "old"))


PROOF = {"kind": "replay", "residual": 0, "tolerance": 1, "sensitivity": [2, None], "assumption": "a word"}


def answered(record: Record) -> list[int]:
    """The places of cells with scores."""
    return [place for place, cell in enumerate(record.cells) if cell.scores is not None]


def test_a_mended_measure_changes_the_scores_and_nothing_else(
    old: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halved(guesses: Tensor, truth: Tensor) -> list[float] | None:
        return [float((guess - truth).square().mean()) / 2 for guess in guesses]

    monkeypatch.setitem(METRICS, "mse", (halved, "", False))
    new = rescore.rescored_run(old, case(), tmp_path / "new")
    assert load(tmp_path / "new") == new
    assert new.header.rescored is not None
    assert new.header.rescored.cells == len(answered(old)) > 0
    assert "float32" in new.header.rescored.summary
    for was, now in zip(old.cells, new.cells, strict=True):
        assert was.model_copy(update={"scores": None}) == now.model_copy(update={"scores": None})
        if was.scores is not None and now.scores is not None:
            for one, other in zip(was.scores.samples, now.scores.samples, strict=True):
                assert other.mse.value == pytest.approx((one.mse.value or 0) / 2, rel=1e-4)
                assert other.psnr.value == pytest.approx(one.psnr.value, rel=1e-4)
                assert (one.matched, one.certain, one.label_correct) == (
                    other.matched,
                    other.certain,
                    other.label_correct,
                )


def test_what_is_matched_otherwise_is_put_in_the_new_order(
    old: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crossed(truths: Tensor, guesses: Tensor) -> tuple[int | None, ...]:
        return tuple(reversed(range(len(truths))))

    proof = {**PROOF, "certain": [True, False]}
    for place in answered(old):
        path = Path(old.folder, "cells", f"{old.cells[place].key.id}.json")
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "certificate": proof}))
    old = load(old.folder)
    monkeypatch.setattr(picture, "match", crossed)
    new = rescore.rescored_run(old, case(), tmp_path / "new")
    for place in answered(old):
        was, now = old.cells[place], new.cells[place]
        assert was.scores is not None
        assert now.scores is not None
        assert was.labels is not None
        before = [sample.matched for sample in was.scores.samples]
        assert [sample.matched for sample in now.scores.samples] == before[::-1]
        assert now.labels == was.labels[::-1]
        assert now.label_score == was.label_score
        assert now.certain == (False, True)
        assert now.certificate is not None
        assert now.certificate.sensitivity == (None, 2)
        assert [sample.certain for sample in now.scores.samples] == [False, True]
        one, other = pictures(old, was), pictures(new, now)
        assert one.reconstruction is not None
        assert other.reconstruction is not None
        assert torch.equal(other.truth, one.truth)
        assert torch.equal(other.reconstruction, one.reconstruction.flip(0))
        if one.frames is not None and other.frames is not None:
            assert torch.equal(other.frames, one.frames.flip(1))


def test_what_is_finer_than_the_stored_pictures_stays(tmp_path: Path) -> None:
    """Normalized pictures are stored decoded, in float32, which tells no 175 from 169 dB."""
    plain, image = case(), Image(shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    scaled = replace(plain, batch=Batch(image.encode(plain.batch.inputs), plain.batch.labels), modality=image)
    old = run(scaled, attacks=["linear"], defenses=["none", "gaussian:0.001"], out=tmp_path / "old")
    new = rescore.rescored_run(old, scaled, tmp_path / "new")
    fine = [s for cell in old.cells if cell.scores for s in cell.scores.samples if (s.psnr.value or 0) > rescore.FINE]
    assert new.header.rescored is not None
    assert 0 < len(fine) < len(old.cells)
    assert f"above 120 dB, of {len(fine)} examples, are finer" in new.header.rescored.summary
    for was, now in zip(old.cells, new.cells, strict=True):
        assert was.scores is not None
        assert now.scores is not None
        sharp = was.scores.samples[0].psnr in [sample.psnr for sample in fine]
        pairs = zip(was.scores.samples[0].scores, now.scores.samples[0].scores, strict=True)
        assert all(other.value == pytest.approx(one.value, rel=0 if sharp else 1e-3) for one, other in pairs)
    assert {change.verdict for change in compare(old, new)} == {"same"}


def test_a_run_scored_anew_twice_is_the_same(old: Record, tmp_path: Path) -> None:
    once = rescore.rescored_run(old, case(), tmp_path / "once")
    twice = rescore.rescored_run(once, case(), tmp_path / "twice")
    assert twice.cells == once.cells


def test_an_unfinished_run_keeps_what_it_has(old: Record, tmp_path: Path) -> None:
    first = old.cells[answered(old)[0]]
    Path(old.folder, "cells", f"{first.key.id}.json").unlink()
    new = rescore.rescored_run(load(old.folder), case(), tmp_path / "new")
    assert not new.complete
    assert len(new.cells) == len(old.cells) - 1


def test_a_cell_whose_pictures_are_lost_stays_as_it_was(old: Record, tmp_path: Path) -> None:
    first = old.cells[answered(old)[0]]
    Path(old.folder, "cells", f"{first.key.id}.safetensors").write_bytes(b"torn")
    new = rescore.rescored_run(old, case(), tmp_path / "new")
    assert new.header.rescored is not None
    (kept,) = new.header.rescored.kept
    assert kept.cells == 1
    assert "cannot read the pictures" in kept.reason
    assert first in new.cells


def test_labels_stay_where_more_may_have_been_named(old: Record, tmp_path: Path) -> None:
    """The attacker of a sum names the labels of the whole cohort, and the folder keeps those that were matched."""
    for path in Path(old.folder, "cells").glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "knows": ["num_examples", "state", "training"]}))
    changed = load(old.folder)
    new = rescore.rescored_run(changed, case(), tmp_path / "new")
    assert new.header.rescored is not None
    assert [kept.reason for kept in new.header.rescored.kept] == [rescore.MORE]
    assert [cell.label_score for cell in new.cells] == [cell.label_score for cell in old.cells]


def test_another_case_is_refused(old: Record, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"attacked another case: .*; name what builds the same"):
        rescore.rescored_run(old, case(seed=2), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_run_of_which_nothing_can_be_scored_is_refused(old: Record, tmp_path: Path) -> None:
    for path in Path(old.folder, "cells").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(BadConfig, match=r"no cell of .* can be scored again: cannot read the pictures"):
        rescore.rescored_run(old, case(), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_with_something_in_it_is_left_alone(old: Record, tmp_path: Path) -> None:
    before = load_file(next(Path(old.folder, "cells").glob("*.safetensors")))
    with pytest.raises(BadConfig, match="there is something in"):
        rescore.rescored_run(old, case(), old.folder)
    assert load_file(next(Path(old.folder, "cells").glob("*.safetensors"))).keys() == before.keys()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": {"samples": []}}, "scores are not of 2 examples"),
        ({"targets": [[0.1, 0.2], [0.3]]}, "unlike length"),
        ({"certificate": {**PROOF, "certain": [True]}}, "a proof of 1 examples"),
    ],
)
def test_a_cell_that_contradicts_itself_is_named(
    old: Record, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    path = Path(old.folder, "cells", f"{old.cells[answered(old)[0]].key.id}.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(StorageFailure, match="is not as fedseal wrote it") as caught:
        load(old.folder)
    assert path.name in caught.value.fact
    assert reason in caught.value.fact


@pytest.mark.parametrize("odd", ["shape", "integers", "frames", "truth"])
def test_pictures_that_fit_no_cell_leave_its_scores_as_they_were(old: Record, tmp_path: Path, odd: str) -> None:
    first = old.cells[answered(old)[0]]
    path = Path(old.folder, "cells", f"{first.key.id}.safetensors")
    held = load_file(path)
    found = held["reconstruction"]
    changed = {
        "shape": {"reconstruction": found[..., :4].contiguous()},
        "integers": {"reconstruction": found.mul(255).to(torch.uint8)},
        "frames": {"frames": torch.zeros(3, dtype=torch.uint8)},
        "truth": {"truth": torch.full_like(held["truth"], torch.nan)},
    }
    path.write_bytes(store.packed({**held, **changed[odd]}))
    new = rescore.rescored_run(old, case(), tmp_path / "new")
    assert new.header.rescored is not None
    assert [
        kept.cells for kept in new.header.rescored.kept if "pictures" in kept.reason or "originals" in kept.reason
    ] == [1]
    assert new.cells[old.cells.index(first)] == first


def test_a_run_is_not_written_into_itself_and_only_its_own_files_go_along(old: Record, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="lies in the folder of the run itself"):
        rescore.rescored_run(old, case(), Path(old.folder) / "again")
    costs = Path(old.folder, "costs")
    costs.mkdir(exist_ok=True)
    (costs / "up").symlink_to("..")
    (costs / "one.json").write_text("{}")
    rescore.rescored_run(old, case(), tmp_path / "new")
    assert [path.name for path in (tmp_path / "new" / "costs").iterdir()] == ["one.json"]


def test_nothing_half_written_stays(old: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, header: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_header", full)
    with pytest.raises(StorageFailure, match=r"cannot write .* \(No space left on device\); free some space"):
        rescore.rescored_run(old, case(), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_an_audits_own_record_says_nothing_of_scoring_anew(old: Record) -> None:
    """So that readers of version 5 that know nothing of it take the record."""
    assert "rescored" not in json.loads(Path(old.folder, "record.json").read_text())
    assert "rescored" not in json.loads(old.to_json())["header"]


@pytest.mark.parametrize("order", [[1, 0], [None, 0], [0, None]])
def test_what_nothing_is_matched_to_is_blank(order: Sequence[int | None]) -> None:
    assert rescore._sorted((5, 7), order, -1) == tuple(-1 if place is None else (5, 7)[place] for place in order)
