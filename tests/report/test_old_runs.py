"""Runs that an earlier fedseal wrote, at commit a13fdd6 with version 4 of the record, are read and scored today.

`fixtures/NAME` is the run folder, `fixtures/NAME.txt` what that commit's own `fedseal report` printed of it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fedseal.audit import load, rescore
from fedseal.audit.record import Record, Rows
from fedseal.audit.summary import compare
from fedseal.metric import rows
from fedseal.report import terminal
from fedseal.setup.audit import case_of

HERE = Path(__file__).parent / "fixtures"
RUNS = ("pictures", "table", "text")
EARLIER = (
    "This record is of an earlier version, whose certificates proved less, so that nothing in it counts as certain."
)
CERTAIN = re.compile(r"it was certain of (?:all of them|its finding) without")
UNCERTAIN = re.compile(r"it was certain of none of them without|it could not be certain of its finding without")
WHOSE = re.compile(r", in (?:a median of )?[\d.]+ s per update, at a PSNR of [\d.]+ dB")


def sentences(printed: str) -> list[str]:
    """The verdict as sentences, whatever the lines it was broken into."""
    box = printed.split("Verdict", 1)[1].split("╰", 1)[0].splitlines()[1:]
    words = " ".join(line.strip("│ ") for line in box)
    return re.split(r"(?<=\.) (?=[A-Z])", words.strip())


def printed(record: Record) -> str:
    stream = StringIO()
    Console(file=stream, width=120).print(terminal(record))
    return stream.getvalue()


def figures(text: str) -> list[list[str]]:
    """The rows of the tables without the column of what is certain."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if re.search(r"\d/\d", line)]
    return [[*row[:3], *row[4:]] for row in rows if len(row) > 4 and "/" in row[2]]


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an old run in the current folder."""
    shutil.copytree(HERE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return str(request.param)


def test_the_verdict_is_the_old_one_but_nothing_counts_as_certain(run: str) -> None:
    """Of what is certain the old record has the attack's word only, which decision 013 does not take.

    Attackers, settings and what was recovered are the same. Where two attacks recovered the picture, the headline gave
    time and score of the one that was certain; now that neither is, of the quicker one.
    """
    record, before = load(run), Path(f"{run}.txt").read_text()
    assert record.header.version == 4
    now, old = sentences(printed(record)), sentences(before)
    assert EARLIER in now
    assert CERTAIN.search(old[0])
    assert UNCERTAIN.search(now[0])
    now.remove(EARLIER)
    now, old = [UNCERTAIN.sub("", line) for line in now], [CERTAIN.sub("", line) for line in old]
    if run == "pictures":
        assert [WHOSE.findall(lines[0]) for lines in (old, now)] == [
            [", in 2.7 s per update, at a PSNR of 200.0 dB"],  # of auto
            [", in 0.19 s per update, at a PSNR of 90.9 dB"],  # of dlg
        ]
        now, old = [WHOSE.sub("", line) for line in now], [WHOSE.sub("", line) for line in old]
    assert now == old
    assert len(figures(before)) >= 2
    assert figures(printed(record)) == figures(before)


def test_the_scores_come_out_the_same_from_the_folder_alone(run: str, tmp_path: Path) -> None:
    """Stored pictures are float32 and not 8 bits, so that scores of pixels are the same to the last digit."""
    old = load(run)
    files = {path: path.read_bytes() for path in Path(run).rglob("*") if path.is_file()}
    new = rescore.rescored_run(old, case_of(old.header.given), tmp_path / "new")
    assert {path: path.read_bytes() for path in Path(run).rglob("*") if path.is_file()} == files
    assert new.header.rescored is not None
    assert (new.header.rescored.cells, new.header.rescored.kept) == (len(old.cells), ())
    assert new.header.model_copy(update={"rescored": None}) == old.header
    for was, now in zip(old.cells, new.cells, strict=True):
        assert was.scores is not None
        assert now.scores is not None
        for one, other in zip(was.scores.samples, now.scores.samples, strict=True):
            assert (one.matched, one.label_correct, one.identification) == (
                other.matched,
                other.label_correct,
                other.identification,
            )
            assert [s.value for s in other.scores] == pytest.approx([s.value for s in one.scores], abs=1e-9)
            for score, again in zip(one.scores, other.scores, strict=True):
                blind = [baseline.value for baseline in again.baselines]
                assert blind == pytest.approx([baseline.value for baseline in score.baselines], abs=1e-4)
        assert now.label_score == was.label_score
        assert now.content == was.content
        assert was.model_copy(update={"scores": None}) == now.model_copy(update={"scores": None})
    assert {change.verdict for change in compare(old, new)} == {"same"}
    assert sentences(printed(new)) == sentences(printed(old))
    assert new.header.rescored.summary.split()[0] in printed(new)


def test_rows_that_are_matched_otherwise_are_judged_by_their_new_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crossed(judge: rows.RowJudge, truths: Sequence[object], guesses: Sequence[object]) -> tuple[int | None, ...]:
        return tuple(reversed(range(len(truths))))

    monkeypatch.setattr(rows.RowJudge, "match", crossed)
    monkeypatch.chdir(HERE)
    old = load("table")
    new = rescore.rescored_run(old, case_of(old.header.given), tmp_path / "new")
    right = []
    for was, now in zip(old.cells, new.cells, strict=True):
        assert isinstance(was.content, Rows)
        assert isinstance(now.content, Rows)
        for true, found, before in zip(
            now.content.truth, now.content.found or (), (was.content.found or ())[::-1], strict=True
        ):
            assert found is not None
            assert before is not None
            assert found.values == before.values
            assert found.right is not None
            assert found.right["work"] == (found.values["work"] == true.values["work"])
            right.append(all(found.right.values()))
    assert not all(right)
