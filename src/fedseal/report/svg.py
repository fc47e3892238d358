"""Elements, scales and ticks of the report's inline pictures.

A drawing library's pictures would take no colors from the page's style sheet and say nothing to screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Attributes = Mapping[str, object]
Bend = Callable[[float], float]
NONE: Attributes = {}
BENT = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # ticks on either side of 0 of an axis that is not linear


def svg_tag(name: str, attributes: Attributes = NONE, content: str = "") -> Markup:
    """An element; plain text in it is escaped, markup is not.

    >>> svg_tag("text", {"x": 1.25, "class": "a"}, "1 < 2"), svg_tag("circle", {"r": 3})
    (Markup('<text x="1.2" class="a">1 &lt; 2</text>'), Markup('<circle r="3"/>'))
    """
    said = Markup("").join(
        Markup(' {}="{}"').format(key, svg_number(value) if isinstance(value, float) else value)
        for key, value in attributes.items()
    )
    if not content:
        return Markup("<{}{}/>").format(name, said)
    return Markup("<{0}{1}>{2}</{0}>").format(name, said, escape(content))


def svg_text(x: float, y: float, words: str, anchor: str = "start", attributes: Attributes = NONE) -> Markup:
    """Words whose start, middle or end stands at a place."""
    return svg_tag("text", {"x": x, "y": y, "text-anchor": anchor, **attributes}, words)


def svg_line(x: float, y: float, to_x: float, to_y: float, attributes: Attributes = NONE) -> Markup:
    """A straight line.

    >>> svg_line(0, 1, 0, 2.5), svg_line(0, 1, 3, 1, {"class": "grid"})
    (Markup('<path d="M0 1V2.5"/>'), Markup('<path class="grid" d="M0 1H3"/>'))
    """
    end = (
        f"V{svg_number(to_y)}"
        if x == to_x
        else f"H{svg_number(to_x)}"
        if y == to_y
        else f"L{svg_number(to_x)} {svg_number(to_y)}"
    )
    return svg_tag("path", {**attributes, "d": f"M{svg_number(x)} {svg_number(y)}{end}"})


def curve(points: Sequence[tuple[float, float]], attributes: Attributes = NONE) -> Markup:
    """A line from point to point."""
    return svg_tag("path", {**attributes, "d": "M" + "L".join(f"{svg_number(x)} {svg_number(y)}" for x, y in points)})


def svg_number(value: float) -> str:
    """A coordinate as text, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def linear(value: float) -> float:
    """Equal differences are equally far apart."""
    return value


def logarithmic(value: float) -> float:
    """Equal factors are equally far apart, from about 1 on, on either side of 0."""
    return math.copysign(math.log1p(abs(value)), value)


@dataclass(frozen=True)
class Scale:
    """From a range of values to a range of pixels; what lies beyond is drawn at the end.

    Args:
        bend: which differences are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    bend: Bend = linear

    def __call__(self, value: float) -> float:
        """Position in pixels."""
        low, high, here = (self.bend(v) for v in (self.low, self.high, min(max(value, self.low), self.high)))
        return self.start + (here - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int) -> list[float]:
        """Round values: of a linear scale about as many as wanted, of any other 0 and some on either side.

        >>> Scale(0, 1, 0, 100).ticks(4), Scale(-3, 6, 0, 100, logarithmic).ticks(4)
        ([0.0, 0.25, 0.5, 0.75, 1.0], [-2.0, -1.0, 0.0, 1.0, 2.0, 5.0])
        """
        if self.bend is not linear:
            return [mark for mark in (*(-mark for mark in BENT[::-1]), 0.0, *BENT) if self.low <= mark <= self.high]
        rough = (self.high - self.low) / wanted
        base = 10.0 ** math.floor(math.log10(rough))
        step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Area:
    """Where the values stand within a picture, in pixels: the rest is for names and numbers."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    def x(self, low: float, high: float, bend: Bend = linear) -> Scale:
        """The scale from left to right."""
        return Scale(low, high, self.left, self.right, bend)

    def y(self, low: float, high: float) -> Scale:
        """The scale from the bottom up."""
        return Scale(low, high, self.bottom, self.top)

    def across(self, y: float, attributes: Attributes = NONE) -> Markup:
        """A level line from left to right."""
        return svg_line(self.left, y, self.right, y, attributes)

    def upright(self, x: float, attributes: Attributes = NONE) -> Markup:
        """A line from the top to the bottom."""
        return svg_line(x, self.top, x, self.bottom, attributes)

    def below_middle(self, words: str, attributes: Attributes = NONE) -> Markup:
        """What the lower axis means, at the picture's lower end."""
        return svg_text((self.left + self.right) / 2, self.height - 10, words, "middle", attributes)
