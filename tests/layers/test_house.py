"""The rooms of each folder: no circle among them, and few arrows where there were many."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedseal
from fedseal.attack.evidence.input_traits import INPUT_TRAITS
from fedseal.audit.kinds import INPUT_KINDS
from fedseal.metric.grade import JUDGES
from fedseal.report.kind import KINDS
from layers.house import floor, imported

SOURCE = Path(fedseal.__file__).parent
FOLDERS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
MOST = {"attack": 62, "cli": 36, "federation": 73}  # arrows between its rooms; nine of `gossip`, a training of its own
INSIDE_SECAGG = ("fedseal.secagg.hazmat", "fedseal.secagg.wire")
ASK_FOR_A_CLASS = {"attack/text/tokens.py", "attack/text/embedding.py", "attack/tabular/tableak.py"}
# names that say that something was done, and not what is there
PARTICIPLES = {"said", "asked", "seen", "told", "recorded", "refused", "found", "known", "kept", "made"}

# names that only who wrote them understands
RIDDLES = {"said", "told", "seen", "surely", "gave", "meant", "heard"}


@pytest.mark.parametrize("name", ["", *FOLDERS])
def test_no_rooms_import_each_other_in_a_circle(name: str) -> None:
    assert floor(SOURCE, name).circle == []


@pytest.mark.parametrize("name", MOST)
def test_arrows_stay_few(name: str) -> None:
    assert len(floor(SOURCE, name).arrows) <= MOST[name]


def test_no_module_is_named_after_a_participle() -> None:
    assert {path.stem for path in SOURCE.rglob("*.py")} & PARTICIPLES == set()


def test_no_public_name_is_a_riddle() -> None:
    """Classes, functions, fields and arguments name things as the field does: a reader sees them without their code."""
    found = [
        f"{path.relative_to(SOURCE)}: {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        for name in _public_names(ast.parse(path.read_text()).body)
        if name.lower() in RIDDLES
    ]
    assert found == []


@pytest.mark.parametrize(
    "code", ["class Said: ...", "def told(): ...", "def f(*, surely=True): ...", "class A:\n    gave: int"]
)
def test_a_riddle_is_found(code: str) -> None:
    assert RIDDLES & {name.lower() for name in _public_names(ast.parse(code).body)}
    assert not RIDDLES & set(_public_names(ast.parse("def _told(said):\n    seen = said").body))


def _public_names(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from _public_names(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
            not node.name.startswith("_") or node.name == "__init__"
        ):
            yield from (one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg))


def test_attacks_tell_kinds_of_inputs_apart_in_one_table() -> None:
    """`input_traits` is the table; only who goes on with a class's own methods asks for the class."""
    found = {
        str(path.relative_to(SOURCE))
        for path in (SOURCE / "attack").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        if {"Image", "Text", "Tabular"} & {one.id for one in ast.walk(node.args[1]) if isinstance(one, ast.Name)}
    }
    assert found <= ASK_FOR_A_CLASS


def test_every_table_of_kinds_has_all_of_them() -> None:
    kinds = {"image", "text", "tabular"}
    assert INPUT_TRAITS.keys() == INPUT_KINDS.keys() == JUDGES.keys() == KINDS.keys() == kinds


def test_a_federation_uses_the_protocols_and_not_their_primitives() -> None:
    """The layout of messages and vectors is known in one room, so that it can change there."""
    assert {path.name: _inside_secagg(path.read_text()) for path in (SOURCE / "federation").rglob("*.py")} == {
        path.name: [] for path in (SOURCE / "federation").rglob("*.py")
    }


@pytest.mark.parametrize(
    "code",
    [
        "from fedseal.secagg import wire",
        "def f():\n    import fedseal.secagg.hazmat.prg",
        "from fedseal.secagg.wire import Kind",
        "from fedseal.secagg.hazmat.keys import KEY",
    ],
)
def test_a_federation_that_uses_a_primitive_is_found(code: str) -> None:
    assert len(_inside_secagg(code)) == 1
    assert _inside_secagg("from fedseal.secagg import Transcript, masking") == []


def _inside_secagg(code: str) -> list[str]:
    names = [f"{name}." for name in imported(ast.parse(code))]
    return [name for name in names if name.startswith(tuple(f"{inside}." for inside in INSIDE_SECAGG))]


def test_arrows_and_circles_are_found(tmp_path: Path) -> None:
    """Late imports and those for types count as well."""
    package = tmp_path / "fedseal"
    for path, code in {
        "room/__init__.py": "from fedseal.room.low import x",
        "room/low.py": "",
        "room/high.py": "def f():\n    from fedseal.room import low",
        "room/deep/one.py": "if TYPE_CHECKING:\n    import fedseal.room.high",
    }.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(code)
    one = floor(package, "room")
    assert one.rooms == frozenset({"low", "high", "deep"})
    assert one.arrows == frozenset({("high", "low"), ("deep", "high")})
    assert not one.circle
    (package / "room/low.py").write_text("from fedseal.room.deep import one")
    assert set(floor(package, "room").circle) == {"low", "high", "deep"}


# `fedseal.attack.parse` and `fedseal.defense.parse` are public, and each reads what its package names.
TWICE = {"parse"}


def test_no_public_name_stands_twice() -> None:
    """A name that is searched for leads to one place."""
    places: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                places.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert twice.keys() <= TWICE, {name: found for name, found in twice.items() if name not in TWICE}
