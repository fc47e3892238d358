"""The house as rooms and arrows, who imports whom; `python tests/layers/house.py` prints it."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

LONG = 300  # lines


@dataclass(frozen=True)
class Floor:
    """One folder of the package.

    Args:
        rooms: its files and folders, without `__init__`.
        arrows: pairs of rooms of which the first imports the second, however deep, late or for types alone.
    """

    name: str
    rooms: frozenset[str]
    arrows: frozenset[tuple[str, str]]

    @property
    def circle(self) -> list[str]:
        """Rooms that import each other in a circle; empty if there is none, and then every arrow goes one way."""
        below = {room: {low for high, low in self.arrows if high == room} for room in self.rooms}
        try:
            TopologicalSorter(below).prepare()
        except CycleError as error:
            return list(error.args[1])
        return []


def floor(package: Path, name: str = "") -> Floor:
    """Read a folder of a package off the syntax trees.

    Args:
        package: the folder `fedseal`.
        name: of a folder in it, such as "attack".
    """
    folder = package / name
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    rooms = files | {path.name for path in folder.iterdir() if any(path.glob("*.py"))}
    dotted = ".".join(filter(None, (package.name, name)))
    arrows = {
        (here, there)
        for path in sorted(folder.rglob("*.py"))
        if (here := path.relative_to(folder).with_suffix("").parts[0]) in rooms
        for module in imported_by(path.read_text())
        if module.startswith(f"{dotted}.") and (there := module.removeprefix(f"{dotted}.").split(".")[0]) in rooms
        if there != here
    }
    return Floor(name or package.name, frozenset(rooms), frozenset(arrows))


@functools.cache
def imported_by(code: str) -> tuple[str, ...]:
    """The same of a file's code, which is part of several floors."""
    return tuple(imported(ast.parse(code)))


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules, or of the names in them, that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def long_files(package: Path) -> list[tuple[int, str]]:
    """Files of more than `LONG` lines, the longest first."""
    sizes = [(len(path.read_text().splitlines()), str(path.relative_to(package))) for path in package.rglob("*.py")]
    return sorted((pair for pair in sizes if pair[0] > LONG), reverse=True)


def main() -> None:
    """Print every folder's rooms and arrows, and the long files."""
    package = Path(__file__).parents[2] / "src" / "fedseal"
    for name in ("", *sorted(path.parent.name for path in package.glob("*/__init__.py"))):
        one = floor(package, name)
        circle = f"circle {' -> '.join(one.circle)}" if one.circle else "no circle"
        sys.stdout.write(f"{one.name}: {len(one.rooms)} rooms, {len(one.arrows)} arrows, {circle}\n")
    long = ", ".join(f"{name} {lines}" for lines, name in long_files(package))
    sys.stdout.write(f"files over {LONG} lines: {long}\n")


if __name__ == "__main__":
    main()
