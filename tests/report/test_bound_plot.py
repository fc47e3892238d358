"""The picture of bound and measurement: well-formed, to scale, readable without colors, and safe in a page."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from fedseal.errors import BadConfig
from fedseal.metric.bound import BoundPoint, Estimate, gaussian_bound
from fedseal.report.bound_plot import bound_plot, bound_sheet

SPACE = "{http://www.w3.org/2000/svg}"


def _cell(noise: float, hits: int, game: str = "labels", steps: int = 1, rate: float = 1.0) -> BoundPoint:
    bound = gaussian_bound(0.1, noise, steps)
    return BoundPoint(game, noise, steps, rate, 0.1, hits, 1000, Estimate(bound, bound, bound))


def _parsed(cells: list[BoundPoint]) -> ElementTree.Element:
    return ElementTree.fromstring(str(bound_plot(cells)).replace("<svg ", f'<svg xmlns="{SPACE[1:-1]}" ', 1))


def _bound(root: ElementTree.Element) -> list[str]:
    """The points that the bound's line goes through."""
    (line,) = [path for path in root.iter(f"{SPACE}path") if path.get("class") == "bound"]
    return line.get("d", "").removeprefix("M").split("L")


def test_the_marks_lie_where_the_numbers_say() -> None:
    root = _parsed([_cell(1.0, 350), _cell(4.0, 150)])
    marks = [c for c in root.iter(f"{SPACE}circle") if c.get("r") == "3"]
    grid = {t.text: float(t.get("y", 0)) - 4 for t in root.iter(f"{SPACE}text") if t.get("text-anchor") == "end"}
    for mark, success in zip(marks, (0.35, 0.15), strict=True):
        height = grid["0 %"] + success * (grid["100 %"] - grid["0 %"])
        assert float(mark.get("cy", 0)) == pytest.approx(height, abs=0.1)
    ticks = {t.text: float(t.get("x", 0)) for t in root.iter(f"{SPACE}text") if t.text in ("1", "4")}
    assert [float(m.get("cx", 0)) for m in marks] == pytest.approx([ticks["1"], ticks["4"]], abs=0.1)


def test_the_bound_is_drawn_through_its_values_and_said_in_words() -> None:
    root = _parsed([_cell(1.0, 350, steps=10, rate=0.1), _cell(2.0, 300, steps=10, rate=0.1)])
    assert len(_bound(root)) == 2
    assert len(_bound(_parsed([_cell(1.0, 350), _cell(2.0, 300)]))) > 20
    said = root.findtext(f"{SPACE}desc") or ""
    assert "noise 1: 0.350 measured, bound" in said
    assert root.findtext(f"{SPACE}title") == "10 steps, sampling rate 0.1, blind guess 0.1"


def test_words_of_users_stay_words() -> None:
    picture = str(bound_plot([_cell(1.0, 350, game="<script>alert(1)</script>")]))
    assert "<script>" not in picture
    assert "&lt;script&gt;" in picture


def test_cells_that_do_not_belong_together_are_refused() -> None:
    for cells in ([], [_cell(1.0, 1), _cell(1.0, 1, steps=2)], [_cell(1.0, 1, game=name) for name in "abcd"]):
        with pytest.raises(BadConfig):
            bound_plot(cells)


def test_several_pictures_are_one_file_that_stands_alone() -> None:
    courses = [[_cell(1.0, 350), _cell(4.0, 150)], [_cell(1.0, 800, steps=10)], [_cell(1.0, 120, rate=0.1)]]
    root = ElementTree.fromstring(bound_sheet(courses))
    inner = root.findall(f"{SPACE}svg")
    assert [one.findtext(f"{SPACE}title") for one in inner] == [
        "1 step, sampling rate 1, blind guess 0.1",
        "10 steps, sampling rate 1, blind guess 0.1",
        "1 step, sampling rate 0.1, blind guess 0.1",
    ]
    assert len({(one.get("x"), one.get("y")) for one in inner}) == 3
    wide, high = (float(part) for part in (root.get("viewBox") or "").split()[2:])
    assert all(float(one.get("x", 0)) + float(one.get("width", 0)) <= wide for one in inner)
    assert all(float(one.get("y", 0)) + float(one.get("height", 0)) <= high for one in inner)
    with pytest.raises(BadConfig):
        bound_sheet([])


@pytest.mark.parametrize("noises", [(0.5, 1.0, 2.0, 4.0, 8.0), (1.0,), (0.1,)])
def test_the_name_of_the_bound_keeps_clear_of_the_title_and_of_the_edge(noises: tuple[float, ...]) -> None:
    for steps in (1, 10, 100):
        root = _parsed([_cell(noise, 100, steps=steps) for noise in noises])
        (name,) = [text for text in root.iter(f"{SPACE}text") if text.text == "bound"]
        assert float(name.get("y", 0)) > (60 if len(noises) > 1 else 40)
        left = float(name.get("x", 0)) - (40 if name.get("text-anchor") == "end" else 0)
        assert 0 < left < left + 40 < 520
