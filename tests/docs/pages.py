"""Reads the documents: their fenced blocks, links and words; and runs a page as a reader would."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(
    sorted(
        [
            *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
            *(ROOT / "docs").rglob("*.md"),
            *(ROOT / "examples").rglob("*.md"),
        ]
    )
)
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is to be saved as, and its line on the page."""

    language: str
    title: str
    content: str
    line: int


def blocks(page: Path) -> tuple[Block, ...]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return tuple(
        Block(found[1], found[2] or "", found[3], text[: found.start()].count("\n") + 1)
        for found in FENCE.finditer(text)
    )


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[str]:
    """The targets of all links outside of fenced blocks."""
    yield from LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """What a link's part after # may name, as GitHub makes it of headings."""
    headings = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def agrees(expected: str, got: str) -> bool:
    """Whether a printed text is the expected one, in which "..." stands for anything and all space is alike."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected.strip() + "\n", got.strip() + "\n", flags)


def follow(page: Path, command: Callable[[list[str]], tuple[int, str]]) -> dict[str, object]:
    """Do what the page says, in the current folder, and compare what is printed with what the page shows.

    Python blocks run in order in one namespace; a `text` block after one is what it prints. A block with a title is
    saved under it. In `console` blocks, lines that begin with "$ fedseal" are run by `command`, and "$ echo $?" is its
    exit code.

    Returns:
        The namespace at the end.
    """
    namespace: dict[str, object] = {"__name__": "__page__"}
    printed = ""
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.title:
            Path(block.title).write_text(block.content, encoding="utf-8")
        elif block.language == "python":
            stdout = io.StringIO()
            source = "\n" * block.line + block.content  # so that a traceback gives the page's line
            with contextlib.redirect_stdout(stdout):
                exec(compile(source, str(page), "exec", dont_inherit=True), namespace)
            printed = stdout.getvalue()
        elif block.language == "text":
            assert agrees(block.content, printed), f"{where} shows\n{block.content}\nand it prints\n{printed}"
        elif block.language == "console":
            _converse(block, where, command)
    return namespace


def _converse(block: Block, where: str, command: Callable[[list[str]], tuple[int, str]]) -> None:
    code = 0
    for exchange in re.split(r"^\$ ", block.content, flags=re.MULTILINE)[1:]:
        typed, _, expected = exchange.partition("\n")
        words = shlex.split(typed, comments=True)
        if words == ["echo", "$?"]:
            assert expected.strip() == str(code), f"{where}: the exit code is {code}"
            continue
        assert words[0] == "fedseal", f"{where}: '{typed}' is no fedseal command"
        code, printed = command(words[1:])
        assert code in (0, 1), f"{where}: '{typed}' answers {code}:\n{printed}"
        assert agrees(expected, printed), f"{where}: '{typed}' prints\n{printed}\nnot\n{expected}"
