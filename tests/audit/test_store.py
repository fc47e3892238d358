from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.fakes import Divide, Guess, small_case, timeless
from fedseal import audit
from fedseal.audit import Record, store
from fedseal.errors import BadConfig, FedsealError, StorageFailure


def run(out: Path) -> Record:
    return audit.run(small_case(2), attacks=[Divide(), Guess()], out=out)


def failing(monkeypatch: pytest.MonkeyPatch, name: str, at: int, code: int) -> None:
    """Let the n-th call of an os function fail."""
    real: Callable[..., object] = getattr(os, name)
    calls = 0

    def call(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("at", range(1, 10))
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_at_any_write_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, name, 2 * at - 1 if name == "fsync" else at, errno.ENOSPC)  # every second fsync is the folder's
        with pytest.raises(StorageFailure, match=r"No space left.*free some space and run the same command again"):
            run(tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    finished = (at - 2) // 2  # one write of the header, then two for each cell
    if at == 1:
        assert not (tmp_path / "record.json").exists()
    else:
        assert len(audit.load(tmp_path).cells) == finished
    assert run(tmp_path).complete


def test_a_real_short_write_is_noticed_and_cleared_away(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    size = (tmp_path / "whole" / "cells" / f"{whole.cells[0].key.id}.safetensors").stat().st_size
    run(tmp_path / "cut")
    for path in (tmp_path / "cut" / "cells").iterdir():
        path.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, hard))
    try:
        with pytest.raises(StorageFailure, match=r"File too large.*free some space"):
            run(tmp_path / "cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cut" / "cells").iterdir()) == []
    assert timeless(run(tmp_path / "cut")) == timeless(whole)


def test_a_place_where_one_may_not_write_asks_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "replace", 1, errno.EROFS)
    with pytest.raises(StorageFailure, match=r"Read-only file system.*choose a folder that you may write to"):
        run(tmp_path)


def test_an_interruption_while_writing_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def folder(finished: Record, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "run"
    (copy / "cells").mkdir(parents=True)
    for path in Path(finished.folder).rglob("*.*"):
        (copy / path.relative_to(finished.folder)).write_bytes(path.read_bytes())
    return copy


def _change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda f: (f / "record.json").unlink(), StorageFailure, "holds no record.json"),
        (lambda f: (f / "record.json").write_text('{"version": 1, "cre'), StorageFailure, "no whole JSON"),
        (lambda f: (f / "record.json").write_bytes(b"\xff\xfe\x00"), StorageFailure, "no whole JSON"),
        (lambda f: (f / "record.json").write_text("[]"), StorageFailure, "not as fedseal wrote it"),
        (lambda f: _change(f / "record.json", keys=[{"attack": 3}]), StorageFailure, r"keys\.0\.attack"),
        (
            lambda f: _change(f / "record.json", version=6),
            BadConfig,
            r"is of version 6 of the record, and this fedseal reads 1, 2, 3, 4 and 5",
        ),
    ],
)
def test_a_damaged_record_says_what_is_wrong(
    folder: Path, damage: Callable[[Path], object], error: type[FedsealError], said: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=said):
        audit.load(folder)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match="there is no run folder"):
        audit.load(tmp_path / "nothing")


def test_a_damaged_cell_can_be_deleted_and_computed_again(folder: Path, finished: Record) -> None:
    one, other = (folder / "cells" / f"{cell.key.id}.json" for cell in finished.cells[:2])
    one.write_bytes(other.read_bytes())
    with pytest.raises(StorageFailure, match="the file of another cell"):
        audit.load(folder)
    one.write_text("")
    with pytest.raises(StorageFailure, match="the other cells are kept"):
        audit.load(folder)
    one.unlink()
    assert len(audit.load(folder).cells) == 3
    assert timeless(run(folder)) == timeless(finished)


def test_missing_or_damaged_pictures_are_said(folder: Path) -> None:
    record = audit.load(folder)
    path = folder / "cells" / f"{record.cells[0].key.id}.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(StorageFailure, match="cannot read the pictures"):
        audit.pictures(record, record.cells[0])
    path.unlink()
    with pytest.raises(StorageFailure, match="No such file"):
        audit.pictures(record, record.cells[0])


def test_a_moved_folder_keeps_its_pictures(folder: Path) -> None:
    moved = folder.rename(folder.with_name("moved"))
    record = audit.load(moved)
    assert record.folder == str(moved)
    assert audit.pictures(record, record.cells[0]).truth.shape[0] == 1


def test_numbers_that_are_not_finite_survive_in_strict_json(folder: Path, finished: Record) -> None:
    cell = finished.cells[0].model_copy(update={"residual": float("inf")})
    store.write_cell(folder, cell, b"")
    text = (folder / "cells" / f"{cell.key.id}.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    again = audit.load(folder)
    assert again.cells[0] == cell
    json.loads(again.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_whole_record_as_json_reads_back(finished: Record) -> None:
    document = json.loads(finished.to_json())
    assert document.pop("complete") is True
    assert Record.model_validate(document) == finished


def as_version_1(folder: Path) -> None:
    """The folder as an older fedseal wrote it: nothing of labels in whatever order."""
    as_version_2(folder)
    _change(folder / "record.json", version=1)
    for path in folder.glob("cells/*.json"):
        content = json.loads(path.read_text())
        del content["label_score"]
        path.write_text(json.dumps(content))


def as_version_2(folder: Path) -> None:
    """The folder as an older fedseal wrote it: pictures only, and their scores by field."""
    as_version_3(folder)
    _change(folder / "record.json", version=2)
    for path in folder.glob("cells/*.json"):
        content = json.loads(path.read_text())
        del content["content"]
        for sample in (content["scores"] or {"samples": []})["samples"]:
            sample |= {score["name"]: score for score in sample.pop("scores")}
        path.write_text(json.dumps(content))


def as_version_4(folder: Path) -> None:
    """The folder as an older fedseal wrote it: what attacks said of themselves, unchecked."""
    _change(folder / "record.json", version=4)
    for path in folder.glob("cells/*.json"):
        content = json.loads(path.read_text())
        for name in ("certificate", "check_seconds", "true_targets", "targets"):
            del content[name]
        for sample in (content["scores"] or {"samples": []})["samples"]:
            del sample["certain"]
        path.write_text(json.dumps({**content, "status": "exact"}))


def as_version_3(folder: Path) -> None:
    """The folder as an older fedseal wrote it: one batch size, and the case's own training."""
    as_version_4(folder)
    header = json.loads((folder / "record.json").read_text())
    config = header["config"]
    (config["batch_size"],) = config.pop("batch_sizes")
    del config["epochs"], config["lr"]
    for key in header["keys"]:
        del key["epochs"]
    _change(folder / "record.json", version=3, config=config, keys=header["keys"])
    for path in folder.glob("cells/*.json"):
        key = json.loads(path.read_text())["key"]
        del key["epochs"]
        _change(path, key=key)


def test_the_names_of_files_are_those_of_version_3(finished: Record) -> None:
    key = finished.header.keys[0]
    content = json.dumps(key.model_dump(exclude={"epochs"}), separators=(",", ":"))
    assert key.id == hashlib.sha256(content.encode()).hexdigest()[:16]
    assert key.model_copy(update={"epochs": 0}).id != key.id


def test_nothing_in_a_record_of_version_4_is_certain(folder: Path, finished: Record) -> None:
    as_version_4(folder)
    old = audit.load(folder)
    assert old.header.version == 4
    assert [cell.status for cell in old.cells] == ["exact"] * len(finished.cells)
    assert [cell.certain for cell in old.cells] == [(False,)] * len(finished.cells)
    assert any(any(cell.certain) for cell in finished.cells)
    assert [group.certified for group in audit.summarize(old)] == [0] * len(old.header.config.attacks)


@pytest.mark.parametrize("older", [as_version_1, as_version_2, as_version_3, as_version_4])
def test_a_record_of_an_earlier_version_is_read_and_not_continued(
    folder: Path, finished: Record, older: Callable[[Path], None]
) -> None:
    older(folder)
    (folder / "cells" / f"{finished.cells[-1].key.id}.json").unlink()
    with pytest.raises(BadConfig, match=r"an earlier fedseal.*can be read, and not be continued"):
        run(folder)
    assert len(audit.load(folder).cells) == len(finished.cells) - 1


def test_a_record_of_version_3_still_loads(folder: Path, finished: Record) -> None:
    as_version_3(folder)
    old = audit.load(folder)
    assert old.header.version == 3
    assert old.header.config == finished.header.config
    assert [_measured(cell) for cell in old.cells] == [_measured(cell) for cell in finished.cells]


def test_a_record_of_version_2_still_loads(folder: Path, finished: Record) -> None:
    as_version_2(folder)
    old = audit.load(folder)
    assert old.header.version == 2
    assert [_measured(cell) for cell in old.cells] == [_measured(cell) for cell in finished.cells]


def _measured(cell: audit.Cell) -> list[list[float | None]]:
    return [] if cell.scores is None else [[s.value for s in sample.scores] for sample in cell.scores.samples]


def test_a_record_of_version_1_still_loads(folder: Path, finished: Record) -> None:
    as_version_1(folder)
    old = audit.load(folder)
    assert old.header.version == 1
    assert [cell.label_score for cell in old.cells] == [None] * len(finished.cells)
    assert all(cell.label_score is not None for cell in finished.cells)
    assert [_measured(cell) for cell in old.cells] == [_measured(cell) for cell in finished.cells]
