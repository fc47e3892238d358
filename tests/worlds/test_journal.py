"""Judgements that are kept come back as they were, and only those by the code that asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import worlds
from benchmarks.worlds import journal
from benchmarks.worlds.generate import from_seed
from benchmarks.worlds.judgement import Fault, Judgement, Read


def _judged(seed: int) -> tuple[int, Judgement]:
    read = Read("auto", "eavesdropper", "budget", "linear", (float("inf"), 0.25), (False, True), 17.5, 0.5, None)
    fault = Fault("below", "auto", "eavesdropper", "less")
    return seed, Judgement(from_seed(seed), determined=(True, False), reads=[read], faults=[fault], seconds=1.5)


def test_what_was_judged_comes_back_though_the_run_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "kept.jsonl.gz"
    running = journal.keeping(map(_judged, range(9)), path, "own", together=4)
    given = dict(next(running) for _ in range(7))
    running.close()
    assert journal.kept(path, "own") == given
    assert journal.kept(path, "other") == {}
    assert dict(journal.keeping([_judged(7)], path, "own")) == dict([_judged(7)])
    assert sorted(journal.kept(path, "own")) == [*range(8)]


def test_a_world_is_judged_once_by_one_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []

    def every(seeds: list[int]) -> list[tuple[int, Judgement]]:
        asked.extend(seeds)
        return [_judged(seed) for seed in seeds]

    monkeypatch.setattr(journal, "KEPT", tmp_path / "kept.jsonl.gz")
    monkeypatch.setattr(worlds, "every", every)
    monkeypatch.setattr(worlds.cost, "figures", lambda scale: {})
    first, second, third = (worlds.run(scale) for scale in (6 / 5000, 9 / 5000, 9 / 5000))
    assert asked == [*range(9)]
    assert second == third != first


def test_code_that_judges_otherwise_is_other_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for source in ("src/fedseal/types.py", "src/fedseal/attack/a.py", "src/fedseal/cli/a.py"):
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source).write_text("1")
    monkeypatch.setattr(journal, "ROOT", tmp_path)
    monkeypatch.setattr(journal, "__file__", str(tmp_path / "benchmarks/worlds/journal.py"))
    before = journal.code()
    (tmp_path / "src/fedseal/cli/a.py").write_text("2")
    assert journal.code() == before
    (tmp_path / "src/fedseal/attack/a.py").write_text("2")
    assert journal.code() != before


def test_the_last_code_is_that_of_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "kept.gz"
    for code in ("one", "other"):
        list(journal.keeping(map(_judged, range(3)), path, code))
        assert journal.last_code(path) == code


def test_two_judgements_part_where_anything_but_time_does() -> None:
    _, judged = _judged(3)
    first, *others = judged.reads
    assert journal.differs(judged, replace(judged, reads=[replace(first, seconds=9.0), *others], seconds=9.0)) == ""
    for changed, words in (
        (replace(first, certain=tuple(not held for held in first.certain)), "certain otherwise"),
        (replace(first, psnr=first.psnr + 1e-9), "another result"),
        (replace(first, status="diverged"), "another result"),
    ):
        assert words in journal.differs(judged, replace(judged, reads=[changed, *others]))
    assert journal.differs(judged, replace(judged, reads=[]))
    assert journal.differs(judged, replace(judged, refused="no update"))


def test_what_other_code_judged_is_left_out_of_a_whole_run_s_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.gz"
    given = {code: dict(journal.keeping(map(_judged, range(5)), path, code)) for code in ("one", "other")}
    journal.forget_others(path, "other")
    assert journal.kept(path, "other") == given["other"]
    assert journal.kept(path, "one") == {}
    assert [left.name for left in tmp_path.iterdir()] == ["kept.gz"]
    list(journal.keeping([_judged(7)], path, "other"))  # and it goes on
    assert sorted(journal.kept(path, "other")) == [0, 1, 2, 3, 4, 7]
