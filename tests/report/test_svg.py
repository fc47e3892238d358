"""The kit that the report's pictures are drawn with: markup is safe, places are to scale, ticks are round."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup

from fedseal.report.svg import Area, Scale, curve, logarithmic, svg_line, svg_tag, svg_text

AREA = Area(width=100, height=50, left=10, right=90, top=5, bottom=45)


def test_words_and_attributes_are_escaped_and_elements_are_not() -> None:
    assert svg_tag("g", {"class": '"><script>'}, "<b>") == '<g class="&#34;&gt;&lt;script&gt;">&lt;b&gt;</g>'
    assert svg_tag("g", {}, svg_tag("circle", {"r": 2})) == Markup('<g><circle r="2"/></g>')
    assert (
        svg_text(1, 2.0, "&", "end", {"fill": "red"}) == '<text x="1" y="2" text-anchor="end" fill="red">&amp;</text>'
    )


def test_lines_go_from_place_to_place() -> None:
    assert svg_line(1, 2, 3, 4.25) == '<path d="M1 2L3 4.2"/>'
    assert curve([(0, 1), (2.5, 3), (4, 4)], {"class": "a"}) == '<path class="a" d="M0 1L2.5 3L4 4"/>'
    assert (AREA.across(7), AREA.upright(11)) == ('<path d="M10 7H90"/>', '<path d="M11 5V45"/>')


def test_an_area_holds_its_scales_and_what_lies_beyond_is_drawn_at_the_end() -> None:
    x, y = AREA.x(0, 4), AREA.y(0, 1)
    assert [x(value) for value in (-1, 0, 1, 4, 9)] == [10, 10, 30, 90, 90]
    assert [y(value) for value in (0, 0.25, 1)] == [45, 35, 5]
    assert AREA.x(0.5, 8, math.log)(2) == pytest.approx(50)
    assert AREA.x(-3, 3, logarithmic)(0) == 50


@given(low=st.floats(-1e6, 1e6), length=st.floats(1e-3, 1e6), wanted=st.integers(2, 10))
@example(low=524288.09375, length=0.00390625, wanted=4)  # where a difference of two ticks is off by 1e-7 of itself
def test_ticks_are_round_even_and_about_as_many_as_wanted(low: float, length: float, wanted: int) -> None:
    ticks = Scale(low, low + length, 0, 100).ticks(wanted)
    assert wanted / 2.5 - 1 <= len(ticks) <= wanted + 1
    steps = [after - before for before, after in pairwise(ticks)]
    assert steps == pytest.approx(steps[:1] * len(steps))
    for step in steps[:1]:
        leading = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(leading - round_one) for round_one in (1, 2, 2.5, 5)) < 1e-3
