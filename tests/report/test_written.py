"""The report of sentences and rows: their words, their escaping, and several audits on one page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from fedseal.audit.record import Record
from fedseal.report import html, terminal, verdict
from fedseal.report.examples import laid_out
from fedseal.report.html import page, pages
from fedseal.report.kind import KINDS
from fedseal.report.terminal import beside
from fedseal.report.verdict import mixed_verdict
from report.records import Shot, on_disk
from report.test_html import NASTY, Reader
from report.written import Read, sentence, written

CAT = "the cat sat on the mat"
PERSON: dict[str, str | int | float | bool | None] = {"age": 41, "job": "cook"}


def text_record(*reads: Read) -> Record:
    return written(reads or (Read(CAT, CAT), Read("dogs bark", "cats bark", 0.5, first=1, status="budget")))


def table_record(*reads: Read) -> Record:
    missed = Read(PERSON, {"age": 20, "job": "cook"}, 0.5, first=1, status="budget", confidence=0.7)
    return written(reads or (Read(PERSON, dict(PERSON)), missed), case="people", folder="runs/table")


def shown(record: Record) -> str:
    return page(record, lambda cell: pytest.fail("there are no pictures to load"))


def test_the_verdict_speaks_of_sentences_and_rows() -> None:
    assert verdict(text_record()).headline.endswith(
        "recovered 1 of 2 private sentences from updates without a defense; it was certain of its finding without "
        "seeing the originals, in 0.50 s per update, at a ROUGE-1 of 1.00 where the best blind guess has 0.25."
    )
    assert "1 of 2 private rows" in verdict(table_record()).headline
    assert verdict(table_record()).headline.endswith(
        "at a share of right columns of 100 % where the best blind guess has 25 %."
    )
    nothing = verdict(text_record(Read(CAT, "x y", 0.0, status="budget"))).headline
    assert "did not recover the private sentence" in nothing
    assert "gallery" not in nothing


def test_every_token_is_marked_by_more_than_its_color() -> None:
    read = Reader(shown(text_record(Read(CAT, "the sat cat on a mat", 0.8, status="budget"))))
    tokens = [a for a in read.all("span") if a.get("class", "").startswith("t ") and a.get("title")]
    assert {a["class"] for a in tokens} == {"t right", "t moved", "t wrong"}
    style = shown(text_record())
    for mark, line in (("right", "underline solid"), ("moved", "underline dashed"), ("wrong", "line-through")):
        assert re.search(rf"\.t\.{mark} {{[^}}]*text-decoration: {line}", style)
    assert "another place" in " ".join(read.texts)  # the legend


def test_a_row_stands_beside_its_reconstruction_with_confidence() -> None:
    read = Reader(shown(table_record()))
    headings = [text.strip() for text in read.texts]
    assert headings.count("Confidence") >= 1
    assert "70 %" in headings
    assert {a["title"] for a in read.all("bdi") if a.get("class") == "t wrong"} == {"does not agree"}


@pytest.mark.parametrize(
    "record",
    [
        text_record(Read(NASTY, f"{NASTY} {NASTY}", 0.6)),
        table_record(Read({NASTY: NASTY, "b": "x"}, {NASTY: f"{NASTY}!", "b": NASTY}, 0.6)),
        written([Read(CAT, None, status="refused")], case=NASTY, folder=f"runs/{NASTY}"),
    ],
)
def test_users_text_never_becomes_markup(record: Record) -> None:
    for text in (shown(record), pages((record, lambda _: None), (text_record(), lambda _: None))):
        read = Reader(text)
        assert read.open == []
        assert len(read.all("script")) == 2  # the island and the page's own
        assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
        assert read.all("img") == []
        assert "<script>alert" not in text


def test_nothing_recovered_is_said() -> None:
    for read in (Read(CAT, None, status="refused"), Read(CAT, None, status="not_applicable")):
        assert "nothing recovered" in shown(text_record(read))
    assert "nothing recovered" in shown(table_record(Read(PERSON, None, status="refused")))


def test_the_definitions_stand_on_the_page_and_in_the_glossary_of_their_kind_only() -> None:
    text, table = (" ".join(Reader(shown(record)).texts) for record in (text_record(), table_record()))
    assert text.count(KINDS["text"].definition) == table.count(KINDS["tabular"].definition) == 2
    assert KINDS["image"].definition not in text
    assert "Peak signal-to-noise ratio" not in text + table
    assert "ROUGE-1, ROUGE-2, ROUGE-L" not in table


def test_the_table_of_cells_has_the_columns_of_its_kind() -> None:
    def columns(record: Record) -> list[str]:
        head = shown(record).partition('class="plain dense sortable"')[2].partition("</thead>")[0]
        return re.findall(r'<button type="button">([^<]+)<', head)

    assert columns(text_record())[6:-5] == [
        "ROUGE-1", "Blind guess", "ROUGE-2", "ROUGE-L", "Tokens in place", "Whole sentence"
    ]  # fmt: skip
    assert columns(table_record())[6:-5] == ["Columns right", "Blind guess", "Whole row"]
    assert "Identified" not in columns(text_record())


def test_very_many_sentences_keep_to_a_budget_and_say_so() -> None:
    long = " ".join(f"word{i}" for i in range(400))
    text = shown(text_record(*(Read(long, long, first=i) for i in range(120))))
    assert len(text) < 5_000_000
    assert "of the 120 attacked sentences, the leakiest" in text
    assert "Sentences and rows left out to keep this file small." in text


def test_several_audits_share_a_page_and_keep_apart(tmp_path: Path) -> None:
    pictures = on_disk([Shot((90.0,), frames=4), Shot((9.0,), first=1, status="budget")], tmp_path / "pictures")
    path = html([pictures, text_record(), table_record()], tmp_path / "mixed.html")
    read = Reader(path.read_text("utf-8"))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"r1-verdict", "r2-verdict", "r3-verdict", "verdict", "limits", "glossary"} <= set(ids)
    links = [a["href"][1:] for a in read.all("a") if a.get("href", "").startswith("#")]
    assert set(links) <= set(ids)
    assert len(read.all("h1")) == 1
    assert "In 3 of 3 audits private pictures, sentences and rows were recovered." in read.texts
    for kind in KINDS.values():
        assert kind.limit in read.texts


def test_one_verdict_on_several_audits_claims_no_safety() -> None:
    nothing = text_record(Read(CAT, "x", 0.0, status="budget"))
    found = mixed_verdict([nothing, table_record()])
    assert (found.level, found.headline) == ("partial", "In 1 of 2 audits private rows were recovered.")
    assert "no proof of safety" in found.details[0]
    assert mixed_verdict([nothing, nothing]).level == "none"
    assert "no proof of safety" in mixed_verdict([nothing]).details[0]


def test_the_terminal_shows_sentences_and_rows() -> None:
    def printed(record: Record) -> str:
        console = Console(width=160, force_terminal=False)
        with console.capture() as capture:
            console.print(terminal(record))
        return capture.get()

    text = printed(text_record(Read(CAT, "the [red]cat", 0.5)))
    assert "reconstruction  [CLS] the [red]cat [SEP]" in text
    assert "ROUGE-1" in text
    assert "Identified" not in text
    table = printed(table_record())
    assert "reconstruction  age 20 ≠ (70 %), job cook (70 %)" in table
    assert "The rows that leak most:" in table


def test_marks_on_a_terminal_are_colors_and_lines() -> None:
    read = Read(CAT, "the sat cat on a mat", 0.8)
    (original, guess) = beside(laid_out(sentence(read), 0))
    styles = {guess.plain[span.start : span.end]: str(span.style) for span in guess.spans}
    assert (styles["the"], styles["sat"], styles["a"]) == ("underline red", "italic yellow", "strike blue")
    assert styles["[CLS]"] == styles["reconstruction  "] == "dim"
    assert original.style == guess.style == ""  # nothing dims the whole line
