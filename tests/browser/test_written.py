"""Sentences and rows as readers meet them, alone and on a page with pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from browser.conftest import Tab
from browser.test_report import NASTY, brightness
from fedseal.report import html
from report.records import Shot, on_disk
from report.written import Read, written

Open = Callable[..., Tab]
PERSON: dict[str, str | int | float | bool | None] = {f"column{i}": i for i in range(30)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    reads = [
        Read("the cat sat on the mat", "the sat cat on a mat", 0.9, confidence=0.5, status="budget"),
        Read(NASTY, f"{NASTY} <b>bold</b>", 0.5, first=1),
        Read("never found", None, first=2, status="not_applicable"),
        Read("a " * 300, "a " * 300, first=3),
    ]
    rows = [
        Read(PERSON, {**PERSON, "column1": -1}, 0.97, confidence=0.8),
        Read({NASTY: NASTY}, {NASTY: f"{NASTY}!"}, 0.0, first=1, status="budget"),
    ]
    text, table = written(reads), written(rows, case=NASTY, folder="runs/table")
    pictures = on_disk([Shot((90.0,), frames=4), Shot((30.0,), first=1, status="budget")], folder / "pictures")
    html(text, folder / "text.html")
    html(table, folder / "table.html")
    html([pictures, text, table], folder / "mixed.html")
    return folder


@pytest.mark.parametrize("name", ["text", "table", "mixed"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_runs_users_text_or_scrolls_sideways(folder: Path, open_tab: Open, name: str, width: int) -> None:
    page = open_tab(folder / f"{name}.html", viewport={"width": width, "height": 800}).page
    assert page.title().startswith("Leakage report")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("b", has_text="bold").count() == 0


def test_marks_differ_by_their_line_and_name_themselves(folder: Path, open_tab: Open) -> None:
    page = open_tab(folder / "text.html").page
    card = page.locator("article.card").filter(has_text="Sentence 0")
    guess = card.locator(".guess .t")
    assert [token.inner_text() for token in guess.all()] == ["[CLS]", "the", "sat", "cat", "on", "a", "mat", "[SEP]"]
    lines = [
        token.evaluate("e => getComputedStyle(e).textDecorationLine + ' ' + getComputedStyle(e).textDecorationStyle")
        for token in guess.all()
    ]
    assert lines[1:6] == [
        "underline solid", "underline dashed", "underline dashed", "underline solid", "line-through solid"
    ]  # fmt: skip
    assert guess.nth(2).get_attribute("title") == "token of the sentence, at another place, confidence 50 %"
    assert card.locator(".badge.status").inner_text() == "Not certain"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_can_be_read_in_both_schemes(folder: Path, open_tab: Open, scheme: str) -> None:
    page = open_tab(folder / "text.html", color_scheme=scheme).page
    assert (brightness(page) > 128) == (scheme == "light")
    for mark in ("right", "moved", "wrong"):
        ratio = page.locator(f"article .t.{mark}").first.evaluate(
            """e => {
                const light = (color) => {
                    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
                        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
                };
                const clear = (color) => color === "rgba(0, 0, 0, 0)";
                let ground = e;
                while (clear(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
                const [a, b] = [getComputedStyle(e).color, getComputedStyle(ground).backgroundColor].map(light);
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            }"""
        )
        assert ratio >= 4.5, mark


def test_a_wide_row_scrolls_in_its_own_box_and_keeps_its_heads(folder: Path, open_tab: Open) -> None:
    page = open_tab(folder / "table.html", viewport={"width": 800, "height": 800}).page
    box = page.locator("article .scroller").first
    box.evaluate("e => { e.scrollLeft = 400; }")
    assert box.evaluate("e => e.scrollLeft") == 400
    head = box.locator("tbody th").first
    assert (
        abs(head.evaluate("e => e.getBoundingClientRect().left - e.closest('.scroller').getBoundingClientRect().left"))
        < 3
    )
    assert box.locator(".t.wrong").inner_text() == "-1"
    assert box.locator(".confidence td").first.inner_text() == "80 %"


def test_on_a_mixed_page_each_audit_sorts_and_filters_alone(folder: Path, open_tab: Open) -> None:
    page = open_tab(folder / "mixed.html").page
    assert page.locator("h1").count() == 1
    text, table = page.locator("#r2-table"), page.locator("#r3-table")
    before = table.inner_text()
    text.locator("thead th", has_text="ROUGE-2").locator("button").click()
    assert text.locator("thead th", has_text="ROUGE-2").get_attribute("aria-sort") == "ascending"
    page.locator("#r2-filter").fill("not certain")
    assert page.locator("#r2-shown").inner_text() == "1 of 4 cells"
    assert page.locator("#r2-table tbody tr:visible").count() == 2  # and who attacks
    assert table.inner_text() == before
    assert page.locator("#r1-shown").inner_text() == "2 cells"


def test_links_of_a_mixed_page_lead_to_their_own_audit(folder: Path, open_tab: Open) -> None:
    page = open_tab(folder / "mixed.html").page
    page.locator(".overview a").nth(1).click()
    assert page.url.endswith("#r2-verdict")
    page.locator("#r2-table tbody a").first.click()
    assert "#cell-r2-" in page.url
    assert page.locator(":target").count() == 1
    assert page.locator("article .scrubber:visible").count() == 1  # of the pictures
