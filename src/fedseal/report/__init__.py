"""Records as text: a page for people, a summary for the terminal, a comparison; nothing is run again."""

from __future__ import annotations

from fedseal.report.compare import comparison
from fedseal.report.html import html
from fedseal.report.terminal import terminal
from fedseal.report.verdict import Verdict, verdict

__all__ = ["Verdict", "comparison", "html", "terminal", "verdict"]
