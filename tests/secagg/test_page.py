"""The page about secure sums: its code runs and prints what it shows."""

from __future__ import annotations

from docs.pages import ROOT, follow
from fedseal.secagg.masking.server import PHASES


def test_the_page_runs() -> None:
    def no_command(words: list[str]) -> tuple[int, str]:
        raise AssertionError(words)

    follow(ROOT / "docs/secagg.md", no_command)


def test_the_page_says_how_often_a_client_of_masking_sends() -> None:
    page = (ROOT / "docs/secagg.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith("| how often a client sends |"))
    assert len(PHASES) == 5  # each ends with what clients sent
    assert "five times" in row
