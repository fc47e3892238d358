"""The bound of an audit's own case beside the attacker who knows the candidates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fedseal as fs
from fedseal.attack.inference.candidates import KnownCandidates
from fedseal.audit import Case, bounds, run
from fedseal.audit.bound_record import bounds_of
from fedseal.audit.bounds import TRIALS, measure_bounds
from fedseal.defense import parse
from fedseal.errors import StorageFailure
from fedseal.metric.bound import gaussian_bound
from fedseal.report import html
from fedseal.types import Batch

SGD = fs.LocalTraining.fedsgd()
NOISY = "dpsgd:0.5,clip=0.1"


def case(count: int = 14) -> Case:
    pictures = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return Case(fs.zoo.mlp(inputs=36, widths=(8,)), Batch(pictures, torch.arange(count) % 10), SGD)


def test_the_measured_success_lies_between_guess_and_bound_and_is_that_of_whole_clients(tmp_path: Path) -> None:
    one = case()
    (game,) = measure_bounds(one, tmp_path, defenses=[NOISY], batch_sizes=[3])
    cell = game.cell
    assert (game.noise, game.candidates, cell.kappa, cell.bound.value) == (0.5, 10, 0.1, gaussian_bound(0.1, 0.5))
    assert 0.3 < cell.success < cell.bound.value
    shield, draws, hits, clients = parse(NOISY), torch.Generator().manual_seed(1), 0, 100
    judge = KnownCandidates(one.batch[:10], one.batch[10:12])
    for _ in range(clients):
        target = int(torch.randint(10, (), generator=draws))
        rows = [10, 11, target]
        batch = Batch(one.batch.inputs[rows], one.batch.labels[rows])
        update = fs.local_update(one.model, batch, training=SGD, defense=shield, generator=draws)
        threat = fs.ThreatModel.honest_but_curious()
        seen = threat.observe(one.model, update, modality=one.inputs_as, defense=shield)
        hits += judge(seen).choice == target
    error = (cell.success * (1 - cell.success) / clients) ** 0.5
    assert abs(hits / clients - cell.success) < 4 * error


def test_games_are_kept_and_played_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["none", "dpsgd:4,clip=0.1", NOISY, "clip:0.1+gaussian:0.1"]
    found = measure_bounds(case(), tmp_path, defenses=asked, batch_sizes=[1, 2])
    assert [(g.defense, g.batch_size) for g in bounds_of(tmp_path)] == [
        *((name, 1) for name in (NOISY, "clip:0.1+gaussian:0.1", "dpsgd:4,clip=0.1")),
        *((name, 2) for name in (NOISY, "clip:0.1+gaussian:0.1", "dpsgd:4,clip=0.1")),
    ]
    assert all(game.cell.within for game in found)
    monkeypatch.setattr(bounds, "_hits", lambda *_: pytest.fail("played again"))
    assert measure_bounds(case(), tmp_path, defenses=asked, batch_sizes=[1, 2]) == found


def test_another_case_is_another_game(tmp_path: Path) -> None:
    (first,) = measure_bounds(case(14), tmp_path, defenses=[NOISY], batch_sizes=[1])
    (second,) = measure_bounds(case(15), tmp_path, defenses=[NOISY], batch_sizes=[1])
    assert first.setting != second.setting
    assert bounds_of(tmp_path) == (second,)


@pytest.mark.parametrize("name", ["none", "gaussian:0.1", "prune:0.5", "clip:1", "dpsgd:1,clip=1+prune:0.5"])
def test_what_has_no_plain_bound_is_left_out(name: str, tmp_path: Path) -> None:
    assert measure_bounds(case(), tmp_path, defenses=[name], batch_sizes=[1]) == bounds_of(tmp_path) == ()


def test_where_the_game_cannot_be_played_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = case(3)
    (pair,) = measure_bounds(few, tmp_path, defenses=[NOISY], batch_sizes=[2, 3])  # no second candidate beside two
    assert (pair.batch_size, pair.candidates) == (2, 2)
    twice = Case(few.model, Batch(few.batch.inputs[[0, 0, 1]], torch.tensor([1, 1, 2])), SGD)
    assert measure_bounds(twice, tmp_path, defenses=[NOISY], batch_sizes=[1]) == ()
    steps = Case(few.model, few.batch, fs.LocalTraining.fedavg(lr=0.1))  # single gradients of local steps
    assert measure_bounds(steps, tmp_path, defenses=[NOISY], batch_sizes=[1]) == ()
    monkeypatch.setattr(bounds, "LARGEST", 600)
    assert measure_bounds(few, tmp_path, defenses=[NOISY], batch_sizes=[1]) == ()


def test_an_audit_plays_and_its_page_shows_bound_and_measurement(tmp_path: Path) -> None:
    record = run(case(), attacks=["linear"], defenses=["none", NOISY], out=tmp_path / "run", samples=1)
    (game,) = bounds_of(tmp_path / "run")
    page = html(record, tmp_path / "report.html").read_text()
    assert 'id="bounds"' in page
    assert f"noise 0.5: {game.hits / TRIALS:.3f} measured, bound 0.764" in page
    without = run(case(), attacks=["linear"], defenses=["none"], out=tmp_path / "bare", samples=1)
    assert 'id="bounds"' not in html(without, tmp_path / "bare.html").read_text()


def test_a_damaged_game_is_said_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "bounds").mkdir()
    (tmp_path / "bounds" / "x.json").write_text("{")
    with pytest.raises(
        StorageFailure, match=r"'.*bounds/x\.json' is no whole JSON file.*delete it and run the same audit"
    ):
        bounds_of(tmp_path)
