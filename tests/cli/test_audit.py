from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Command
from fedseal.audit import load


def test_case_gives_record_report_and_verdict(fedseal: Command, own: str, tmp_path: Path) -> None:
    answer = fedseal("audit", f"{own}:case", "--out", "run")
    assert answer.code == 0
    assert "Verdict" in answer.out
    assert "Report: run/report.html" in answer.out
    lines = answer.err.splitlines()
    assert [line.split("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert "exact" in lines[0]
    record = load(tmp_path / "run")
    assert record.complete
    assert record.header.given["case"] == f"{own}:case"
    assert "<html" in (tmp_path / "run" / "report.html").read_text()[:200].lower()


def test_options_reach_the_audit(fedseal: Command, own: str, tmp_path: Path) -> None:
    arguments = ["--attacks", "linear,auto", "--defenses", "none,gaussian:0.1", "--threats", "eavesdropper,oracle"]
    arguments += ["--samples", "1", "--batch-size", "2", "--seeds", "3,4", "--device", "cpu", "--quiet"]
    answer = fedseal("audit", f"{own}:case", "--out", "run", *arguments, "--attacks", "linear")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    config = load(tmp_path / "run").header.config
    assert config.attacks == ("linear",)  # of an option given twice the last counts
    assert config.defenses == ("none", "gaussian:0.1")
    assert config.threats == ("eavesdropper", "oracle")
    assert (config.samples, config.batch_sizes, config.seeds) == (1, (2,), (3, 4))


def test_axes_are_multiplied_out(fedseal: Command, own: str, tmp_path: Path) -> None:
    arguments = ["--attacks", "linear", "--samples", "1", "--batch-size", "1,2", "--epochs", "0,2", "--lr", "0.1"]
    arguments += ["--defenses", "none,prune:[0.2,0.5]", "--workers", "2", "--fail-above", "psnr=50"]
    answer = fedseal("audit", f"{own}:case", "--out", "run", *arguments)
    assert answer.code == 1
    record = load(tmp_path / "run")
    config = record.header.config
    assert config.defenses == ("none", "prune:0.2", "prune:0.5")
    assert (config.batch_sizes, config.epochs, config.lr) == ((1, 2), (0, 2), 0.1)
    assert len(record.cells) == 12
    assert "prune:0.2, batches of 2, 2 epochs" in answer.out
    assert "defense 'none, batches of 1, one gradient', threat" in answer.err
    again = fedseal("audit", f"{own}:case", "--out", "run", *arguments, "--workers", "1", "-q")
    assert again.code == 1
    assert load(tmp_path / "run") == record


def test_folder_is_named_after_the_case(fedseal: Command, own: str) -> None:
    assert f"Report: runs/{own}/report.html" in fedseal("audit", f"{own}:case", "--samples", "1").out


def test_default_target_is_the_bundled_one(fedseal: Command, tmp_path: Path) -> None:
    answer = fedseal("audit", "--attacks", "linear", "--samples", "1", "--json")
    record = json.loads(answer.out)
    assert answer.code == 0
    assert record["report"] == "runs/default/report.html"
    assert record["header"]["config"]["training"]["epochs"] == 0
    assert record["header"]["given"]["model"] == "zoo:lenet"
    assert record["header"]["given"]["config"] == "built in"


def test_yaml_is_read_and_options_win_over_it(fedseal: Command, own: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"case: {own}:case\nsamples: 3\nattacks: linear\nout: there\n")
    answer = fedseal("audit", "mine.yaml", "--samples", "2", "--json")
    assert answer.code == 0
    record = json.loads(answer.out)  # standard output is JSON alone
    assert record["complete"] is True
    assert record["header"]["config"]["attacks"] == ["linear"]
    assert record["header"]["config"]["samples"] == 2
    assert (tmp_path / "there" / "report.html").is_file()


def test_finding_above_the_threshold_names_the_cell_and_exits_with_1(fedseal: Command, own: str) -> None:
    arguments = ["audit", f"{own}:case", "--samples", "1", "--quiet", "--fail-above"]
    answer = fedseal(*arguments, "identification=0.05,psnr=20")
    assert answer.code == 1
    found, more = answer.err.splitlines()
    assert found == (
        "finding: identification is 1, above 0.05: attack 'auto', defense 'none', threat model 'honest_but_curious'"
    )
    assert more.startswith("finding: psnr is")
    assert fedseal(*arguments, "psnr=1000").code == 0
    assert fedseal(*arguments, "psnr=20", "--json").code == 1


def test_threshold_on_what_nobody_measured_does_not_pass(fedseal: Command, own: str) -> None:
    answer = fedseal(
        "audit", f"{own}:case", "--samples", "1", "--attacks", "dlg", "--threats", "eavesdropper", "--quiet",
        "--fail-above", "psnr=20",
    )  # fmt: skip
    assert "'psnr' was measured nowhere" in answer.complaint


def test_second_run_recomputes_nothing_and_fresh_does(fedseal: Command, own: str, tmp_path: Path) -> None:
    arguments = ["audit", f"{own}:case", "--out", "run", "--samples", "2"]
    fedseal(*arguments)
    (tmp_path / "run" / "mine.txt").write_text("keep")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").iterdir()}
    again = fedseal(*arguments)
    assert again.err.splitlines() == ["run holds 2 of 2 cells already"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    fresh = fedseal(*arguments, "--fresh")
    assert fresh.err.startswith("[1/2]")
    assert {path: path.stat().st_mtime_ns for path in before} != before
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep"


def test_folder_with_another_audit_is_left_alone(fedseal: Command, own: str) -> None:
    fedseal("audit", f"{own}:case", "--out", "run", "--samples", "1")
    assert "another audit" in fedseal("audit", f"{own}:other", "--out", "run", "--samples", "1", "-q").complaint


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["nothing"], "is no configuration file"),
        (["missing.yaml"], "missing.yaml"),
        (["no_such_module_here:case"], "no module 'no_such_module_here'"),
        (["OWN:cases"], "did you mean"),
        (["OWN:build"], "Case is needed"),
        (["OWN:case", "--attacks", "dgl"], "did you mean 'dlg'?"),
        (["OWN:case", "--attacks", ","], "is empty"),
        (["OWN:case", "--attacks", "dlg:stops=3"], "did you mean 'steps'?"),
        (["OWN:case", "--defenses", "prun:0.2"], "did you mean 'prune'?"),
        (["OWN:case", "--threats", "eavesdroper"], "did you mean 'eavesdropper'?"),
        (["OWN:case", "--seeds", "one"], "--seeds is 'one'"),
        (["OWN:case", "--samples", "7"], "it holds 6 such samples"),
        (["OWN:case", "--batch-size", "7"], "6 examples"),
        (["OWN:case", "--batch-size", "0"], "between 1 and the number of examples"),
        (["OWN:case", "--batch-size", "1,7"], "6 examples"),
        (["OWN:case", "--batch-size", "1,1"], "the batch size '1' is there twice"),
        (["OWN:case", "--epochs", "-1"], "--epochs is '-1'"),
        (["OWN:case", "--epochs", "0,2"], "no learning rate"),
        (["OWN:case", "--epochs", "1", "--lr", "-1"], "learning rate is -1"),
        (["OWN:case", "--lr", "0.1"], "no local epochs"),
        (["OWN:case", "--defenses", "prune:[0.2"], "the strengths of 'prune:[0.2' cannot be read"),
        (["OWN:case", "--workers", "0"], "--workers"),
        (["OWN:case", "--engine", "spark"], "no engine 'spark'"),
        (["OWN:case", "--address", "here:1"], "add --engine ray"),
        (["OWN:case", "--engine", "ray", "--address", "here"], "write HOST:PORT"),
        (["OWN:case", "--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster answers at '127.0.0.1:1'"),
        (["OWN:case", "--fail-above", "leak=1"], "no measure 'leak'"),
        (["OWN:case", "--device", "gpu"], "the device 'gpu' cannot be used"),
        (["OWN:case", "--out", "file"], "cannot write to the folder 'file'"),
        (["OWN:case", "--out", "file/below"], "cannot write to the folder 'file/below'"),
        (["OWN:case", "--out", "/proc/fedseal"], "cannot write to the folder '/proc/fedseal'"),
    ],
)
def test_bad_input_is_one_line(fedseal: Command, own: str, tmp_path: Path, arguments: list[str], fact: str) -> None:
    (tmp_path / "file").write_text("")
    assert fact in fedseal("audit", "-q", *[argument.replace("OWN", own) for argument in arguments]).complaint


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_interrupted_audit_keeps_what_is_finished_and_goes_on(
    fedseal: Command, own: str, tmp_path: Path, seed: int
) -> None:
    arguments = ["audit", f"{own}:case", "--out", "run", "--attacks", "auto,dlg:steps=60", "--samples", "6"]
    # whoever starts the tests in the background has the interrupt ignored, and children inherit that
    restored = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{restored}; import fedseal.cli; fedseal.cli.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, cwd=tmp_path, text=True
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        try:
            process.wait(random.Random(seed).uniform(0.0, 0.5))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130, first + rest
    assert "Traceback" not in rest
    last = rest.splitlines()[-1]
    assert last == "interrupted; what was finished is kept in run; run the same command again to go on"
    partial = load(tmp_path / "run")
    assert 1 <= len(partial.cells) < 12
    cells = {path: path.read_bytes() for path in (tmp_path / "run" / "cells").glob("*.json")}
    again = fedseal(*arguments)
    assert again.code == 0
    assert again.err.startswith(f"run holds {len(partial.cells)} of 12 cells already")
    assert load(tmp_path / "run").complete
    assert {path: path.read_bytes() for path in cells} == cells


def test_a_crash_is_one_line_a_traceback_in_the_folder_and_exit_code_1(
    fedseal: Command, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise TypeError("a fault of our own")

    arguments = ["audit", f"{own}:case", "--out", "run", "--attacks", "linear,dlg:steps=3", "--samples", "2"]
    with monkeypatch.context() as patch:
        patch.setattr("fedseal.attack.layers.linear.LinearFirstLayer.__call__", crash)
        answer = fedseal(*arguments, "--workers", "1")
    assert answer.code == 1
    assert "Traceback" not in answer.out + answer.err
    (line,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: 2 cells of 4 crashed, such as 'linear' on 'none' from example 0 (TypeError: a fault")
    record = load(tmp_path / "run")
    assert [cell.status == "failed" for cell in record.cells] == [True, True, False, False]
    (trace,) = re.findall(r"run/cells/\w+\.traceback\.txt", line)
    assert "TypeError: a fault of our own" in (tmp_path / trace).read_text()
    assert (tmp_path / "run" / "report.html").is_file()
    again = fedseal(*arguments)
    assert again.code == 0
    assert load(tmp_path / "run").complete
    assert not list((tmp_path / "run").rglob("*.traceback.txt"))


def test_fresh_deletes_tracebacks_too(fedseal: Command, own: str, tmp_path: Path) -> None:
    fedseal("audit", f"{own}:case", "--out", "run", "--samples", "1")
    left = tmp_path / "run" / "cells" / "0123456789abcdef.traceback.txt"
    left.write_text("Traceback")
    assert fedseal("audit", f"{own}:case", "--out", "run", "--samples", "1", "--fresh").code == 0
    assert not left.exists()


def test_costs_that_cannot_be_measured_are_refused_before_work_starts(
    fedseal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numbers_case.py").write_text(NUMBERS)
    monkeypatch.syspath_prepend(tmp_path)
    complaint = fedseal("audit", "numbers_case:case", "--out", "run", "--cost").complaint
    assert "the labels are numbers, of which no prediction is right or wrong" in complaint
    assert not (tmp_path / "run" / "record.json").exists()


NUMBERS = """
import fedseal as fs
import torch
from torch import nn

def case():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    labels = torch.linspace(0, 3, 6)[:, None]
    batch = fs.Batch(fs.zoo.photos(size=8)[:6].inputs, labels)
    return fs.Case(model, batch, fs.LocalTraining.fedsgd(loss=nn.MSELoss()), name="numbers")
"""
