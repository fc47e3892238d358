"""The page about secure sums: its code runs and prints what it shows."""

from __future__ import annotations

from docs.pages import ROOT, follow


def test_the_page_runs() -> None:
    def no_command(words: list[str]) -> tuple[int, str]:
        raise AssertionError(words)

    follow(ROOT / "docs/secagg.md", no_command)
