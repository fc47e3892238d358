from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from cli.conftest import Command
from fedseal import zoo
from fedseal.audit import CellKey, CellProgress
from fedseal.cli import progress
from fedseal.setup import machine
from fedseal.types import Progress


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person at a terminal sees of the work."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, color_system=None)
    monkeypatch.setattr("fedseal.cli.terminal.notices", lambda: console)
    return stream


def test_audit_on_a_terminal_shows_cells_steps_and_objective(fedseal: Command, own: str, screen: io.StringIO) -> None:
    answer = fedseal("audit", f"{own}:case", "--samples", 2, "--attacks", "auto,dlg:steps=20", "--workers", 1)
    assert answer.code == 0
    shown = screen.getvalue()
    assert "[4/4] dlg:steps=20, none, honest_but_curious, example 1, seed 0" in shown
    assert "audit" in shown
    assert re.search(r"4/4 +cells", shown)
    assert re.search(r"20/20 +steps, objective \d", shown)
    assert "left" in shown


def test_several_workers_share_the_screen(fedseal: Command, own: str, screen: io.StringIO) -> None:
    assert fedseal("audit", f"{own}:case", "--samples", 4, "--attacks", "dlg:steps=20", "--workers", 3).code == 0
    shown = screen.getvalue()
    assert all(f"example {first}, seed 0: " in shown for first in range(4))
    assert "[4/4] dlg" in shown
    assert re.search(r"20/20 +steps, objective \d", shown)


def test_attack_on_a_terminal_shows_steps_and_objective(fedseal: Command, screen: io.StringIO) -> None:
    assert fedseal("attack", "--model", "zoo:mlp", "--size", 8, "--recipe", "dlg", "--steps", 20).code == 0
    assert "dlg" in screen.getvalue()
    assert re.search(r"20/20 +steps, objective \d", screen.getvalue())


def test_resumed_audit_starts_its_bar_where_it_stood(
    fedseal: Command, own: str, screen: io.StringIO, tmp_path: Path
) -> None:
    arguments = ["audit", f"{own}:case", "--samples", 3, "--out", "run"]
    fedseal(*arguments)
    screen.truncate(0)
    next((tmp_path / "run" / "cells").glob("*.json")).unlink()
    fedseal(*arguments)
    assert re.search(r"2/3 +cells", screen.getvalue())
    assert not re.search(r"[01]/3 +cells", screen.getvalue())


def test_nobody_watching_means_no_control_characters(fedseal: Command, own: str) -> None:
    answer = fedseal("audit", f"{own}:case", "--samples", 1, "--attacks", "dlg:steps=3")
    assert "\x1b" not in answer.out + answer.err
    assert len(answer.err.splitlines()) == 1


def test_small_models_get_one_thread_unless_told_and_nothing_stays_changed() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for asked, model, expected in ((None, zoo.lenet(), 1), (None, nn.Linear(600, 600), 3), (2, zoo.lenet(), 2)):
            with machine.computing_threads(asked, model):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_where_nobody_watches_it_is_said_from_the_start_what_runs_and_for_how_long(
    fedseal: Command, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedseal.cli.progress.EVERY", 0.05)
    answer = fedseal("audit", f"{own}:case", "--samples", 2, "--attacks", "dlg:steps=150", "--workers", 1)
    lines = answer.err.splitlines()
    first = next(place for place, line in enumerate(lines) if "[1/2]" in line)
    before = [line for line in lines[:first] if line.startswith("[0/2] running: dlg:steps=150, none")]
    assert before
    assert any(re.search(r"step \d+ of 150 of dlg, since .*; at this pace about .+ left$", line) for line in before)
    assert any(line.startswith("[1/2] running: ") and "example 1" in line for line in lines)
    assert "\x1b" not in answer.err


def test_quiet_audits_say_nothing_of_their_work(fedseal: Command, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedseal.cli.progress.EVERY", 0.01)
    assert fedseal("audit", f"{own}:case", "--samples", 1, "--attacks", "dlg:steps=20", "-q").err == ""


class _Clock:
    """Time as a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("fedseal.cli.progress.time.monotonic", lambda: self.now)


def _key(first: int) -> CellKey:
    return CellKey(attack="dlg", defense="none", threat="oracle", first=first, batch_size=1, seed=0)


def test_the_estimate_is_the_pace_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = _Clock(monkeypatch), list[str]()
    monkeypatch.setattr("fedseal.cli.terminal.note", said.append)
    beat = progress._Beat()
    clock.now = 60.0
    beat.tell()
    assert said[-1] == "starting since 1 min 0 s: no cell has begun yet"
    beat.show(CellProgress(2, 6, _key(2)))  # two were there before
    clock.now = 120.0
    beat.tell()
    assert said[-1].startswith("[2/6] running: dlg, none, oracle, example 2, seed 0, since 1 min 0 s; ")
    assert said[-1].endswith("how long the rest takes is known once the first cell is finished")
    beat.show(CellProgress(2, 6, _key(2), Progress("dlg", 25, 100, 0.5, None)))
    beat.tell()
    assert "step 25 of 100 of dlg, since 1 min 0 s" in said[-1]
    assert said[-1].endswith("at this pace about 15 min 0 s left")  # a quarter in a minute, 3.75 remain
    for first in (3, 4, 5):
        beat.show(CellProgress(2, 6, _key(first)))
    beat.tell()
    assert "; and 1 more; " in said[-1]
