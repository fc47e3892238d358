"""Owners whose examples are TFRecord files."""

from __future__ import annotations

from pathlib import Path

from cli.conftest import Command
from setup.test_tfrecord import framed, record

QUICK = ("--rounds", "1", "--model", "zoo:mlp:widths=[4]", "--protocol", "plain")


def write(path: Path, side: int = 4) -> Path:
    path.write_bytes(framed(*(record(image=bytes([n] * side**2), label=[n % 3]) for n in range(4))))
    return path


def test_each_owner_brings_a_file(fedseal: Command, tmp_path: Path) -> None:
    files = [write(tmp_path / name) for name in ("a.tfrecord", "b.tfrecords")]
    answer = fedseal("train", *QUICK, *(part for file in files for part in ("--data", file)))
    assert answer.code == 0, answer.err
    assert "2 owners" in answer.err


def test_a_damaged_file_is_refused(fedseal: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "a.tfrecord")
    file.write_bytes(file.read_bytes()[:-1])
    assert "cut off in record 3" in fedseal("train", *QUICK, "--data", file).complaint
    write(file)
    assert "make no picture" in fedseal("train", *QUICK, "--data", file, "--shape", "1,3,3").complaint
