from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.fakes import raising, small_case, timeless
from fedseal.audit import load, ray_engine
from fedseal.audit.executor import Done
from fedseal.audit.grid import Job
from fedseal.audit.ray_engine import Ray
from fedseal.audit.record import CellKey
from fedseal.errors import BadConfig, EngineFailure, MissingExtra

OWN = """
import fedseal as fs

def case():
    model = fs.zoo.mlp(inputs=192, widths=(16,), num_classes=4, seed=1)
    return fs.Case(model, fs.zoo.photos(size=8, num_classes=4)[:6], fs.LocalTraining.fedsgd(), name="own")
"""
CLI = "import fedseal.cli; fedseal.cli.main()"
# no thread of its own for every process of the cluster, on every core
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def cluster() -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("cluster.py")
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def address_of(cluster: subprocess.Popen[str]) -> str:
    assert cluster.stdout is not None
    for line in cluster.stdout:
        if line.startswith("address "):
            return line.split()[1]
    raise AssertionError("the cluster did not start")


def audited(folder: Path, *options: str) -> subprocess.Popen[str]:
    arguments = ["audit", "own_ray:case", "--attacks", "auto,inverting_gradients:steps=800", "--samples", "4", *options]
    return subprocess.Popen(
        [sys.executable, "-c", CLI, *arguments],
        cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_lost_machine_costs_its_cells_only_and_the_record_is_the_same(
    tmp_path: Path, cluster: subprocess.Popen[str]
) -> None:
    (tmp_path / "own_ray.py").write_text(OWN)
    address = address_of(cluster)
    with audited(tmp_path, "--engine", "ray", "--address", address, "--out", "ray") as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("[5/8]"):
                assert cluster.stdin is not None
                print("kill", file=cluster.stdin, flush=True)
    assert process.returncode == 0, "".join(lines)
    assert sum(re.match(r"\[\d+/8\]", line) is not None for line in lines) == 8
    with audited(tmp_path, "--workers", "1", "--out", "here") as process:
        process.communicate()
    assert timeless(load(tmp_path / "ray")) == timeless(load(tmp_path / "here"))

    cells = sorted((tmp_path / "ray" / "cells").glob("*.json"))
    for path in cells[:2]:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in cells[2:]}
    with audited(tmp_path, "--engine", "ray", "--address", address, "--out", "ray") as process:
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert "ray holds 6 of 8 cells already" in err
    assert {path: path.stat().st_mtime_ns for path in cells[2:]} == kept
    assert timeless(load(tmp_path / "ray")) == timeless(load(tmp_path / "here"))


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_said(scheme: str) -> None:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    with pytest.raises(EngineFailure, match=rf"no Ray cluster answers at '{scheme}127.*{port}'.*all cores of this"):
        Ray(f"{scheme}127.0.0.1:{port}")


def test_an_address_where_something_else_listens_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(EngineFailure, match="no Ray cluster answers"):
        Ray(f"127.0.0.1:{mute.getsockname()[1]}")


@pytest.mark.parametrize("address", ["somewhere", "127.0.0.1", "127.0.0.1:many", "127.0.0.1:99999", "http://a:1", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadConfig, match="write HOST:PORT"):
        Ray(address)


def test_no_worker_is_refused() -> None:
    with pytest.raises(BadConfig, match="give at least 1"):
        Ray(workers=0)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fedseal\[scale\]'"):
        Ray()


def test_a_crash_on_a_cluster_fails_its_cell_with_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(small_case(1), [raising(ZeroDivisionError("by moon"))], ["none"], ["honest_but_curious"])
    monkeypatch.setitem(ray_engine._KNOWN, "job", job.worker())
    key = CellKey(attack="raising", defense="none", threat="honest_but_curious", first=0, batch_size=1, seed=0)
    sent = ray_engine._compute([None], "job", 1, {}, key)
    assert isinstance(sent, Done)
    cell, _, trace = sent.finished()
    assert (cell.status, cell.note) == ("failed", "ZeroDivisionError: by moon")
    assert "in answer" in trace
