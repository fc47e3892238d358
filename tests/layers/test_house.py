"""The rooms of each folder: no circle among them, and few arrows where there were many."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedseal
from layers.house import floor

SOURCE = Path(fedseal.__file__).parent
FOLDERS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
MOST = {"attack": 62}  # arrows between its rooms
# names that say that something was done, and not what is there
PARTICIPLES = {"said", "asked", "seen", "told", "recorded", "refused", "found", "known", "kept", "made"}


@pytest.mark.parametrize("name", ["", *FOLDERS])
def test_no_rooms_import_each_other_in_a_circle(name: str) -> None:
    assert floor(SOURCE, name).circle == []


@pytest.mark.parametrize("name", MOST)
def test_arrows_stay_few(name: str) -> None:
    assert len(floor(SOURCE, name).arrows) <= MOST[name]


def test_no_module_is_named_after_a_participle() -> None:
    assert {path.stem for path in SOURCE.rglob("*.py")} & PARTICIPLES == set()


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
