"""The success of an attacker who knows the candidates, beside the most that any attack can reach, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from fedseal.errors import BadConfig
from fedseal.metric.bound import BoundPoint, gaussian_bound
from fedseal.report.svg import NONE, Area, Attributes, curve, svg_line, svg_tag, svg_text

AREA = Area(width=520, height=320, left=46, right=506, top=30, bottom=276)
ROW = 18  # pixels of a line of the legend, below that
TONES = ("var(--leak, #a5301c)", "var(--calm, #34566f)", "var(--trace, #7d5200)")
INK, MUTED, LINE = "var(--ink, #191b20)", "var(--muted, #5c616b)", "var(--line, #e0ddd4)"
NAMED_BELOW = 0.85  # the line's name keeps clear of the title
NAME = 50  # pixels that the line's name takes, with its distance
APART = 7  # pixels between marks of the same noise


def bound_plot(cells: Sequence[BoundPoint], at: Attributes = NONE) -> Markup:
    """One picture of all cells with the same prior, number of steps and sampling rate: success by noise multiplier.

    The line is the bound, the dashes the blind guess, the marks the measured success with its 95 % interval; marks of
    several games stand beside each other where their noise is the same. Colors are the report's.

    Args:
        at: the attributes that give it a place in another picture.

    Raises:
        BadConfig: no cell, cells that do not share a bound, or more than three games.

    >>> from fedseal.metric.bound import Estimate
    >>> bound_plot([BoundPoint("labels", 1.0, 1, 1.0, 0.1, 350, 1000, Estimate(0.389, 0.389, 0.389))])[:4]
    Markup('<svg')
    """
    if len({(cell.kappa, cell.steps, cell.sample_rate) for cell in cells}) != 1:
        raise BadConfig(
            f"{len(cells)} cells do not make one picture", "give one or more of one prior, number of steps and rate"
        )
    names = list(dict.fromkeys(cell.game for cell in cells))
    if len(names) > len(TONES):
        raise BadConfig(f"{len(names)} games are too many for one picture", f"give at most {len(TONES)}")
    frame = _Frame([cell.noise for cell in cells])
    one, parts = cells[0], [*frame.axes(), frame.level(cells[0].kappa, "blind guess")]
    parts.append(frame.bound(_bound_points(cells, frame)))
    for place, name in enumerate(names):
        shift = APART * (place - (len(names) - 1) / 2)
        parts += [frame.mark(cell, TONES[place], shift) for cell in cells if cell.game == name]
        parts.append(frame.legend(place, name, TONES[place]))
    steps = "1 step" if one.steps == 1 else f"{one.steps} steps"
    title = f"{steps}, sampling rate {one.sample_rate:g}, blind guess {one.kappa:.3g}"
    said = "; ".join(f"{c.game}, noise {c.noise:g}: {c.success:.3f} measured, bound {c.bound.value:.3f}" for c in cells)
    box = {"class": "bound-plot", "viewBox": f"0 0 {AREA.width} {_height(cells)}", "role": "img", "font-size": "12"}
    head = [
        svg_tag("title", content=title),
        svg_tag("desc", content=said),
        svg_text(AREA.left, 16, title, attributes={"fill": INK}),
    ]
    return svg_tag("svg", {**at, **box}, Markup("").join([*head, *parts]))


def _height(cells: Sequence[BoundPoint]) -> int:
    return AREA.height + ROW * len({cell.game for cell in cells})


def bound_sheet(pictures: Sequence[Sequence[BoundPoint]], columns: int = 2) -> str:
    """Several of these pictures as one SVG file of its own, on white paper, row by row.

    Raises:
        BadConfig: as `bound_plot`, or no picture.
    """
    if not pictures:
        raise BadConfig("there is no picture to draw", "give the cells of one or more")
    high, wide = max(_height(cells) for cells in pictures) + 16, AREA.width + 16
    rows = math.ceil(len(pictures) / columns)
    placed = []
    for place, cells in enumerate(pictures):
        down, across = divmod(place, columns)
        at = {"x": 16 + wide * across, "y": 12 + high * down, "width": AREA.width, "height": high - 16}
        placed.append(bound_plot(cells, at))
    width, height = wide * min(columns, len(pictures)) + 16, high * rows + 8
    box = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {width} {height}",
        "width": width,
        "font-family": "Helvetica, Arial, sans-serif",
    }
    paper = svg_tag("rect", {"width": width, "height": height, "fill": "#fff"})
    return str(svg_tag("svg", box, Markup("").join([paper, *placed])) + "\n")


def _bound_points(cells: Sequence[BoundPoint], frame: _Frame) -> list[tuple[float, float]]:
    """Points of the bound: a smooth line where it is in closed form, else those of the cells."""
    one = cells[0]
    if one.steps > 1 and one.sample_rate < 1:
        return sorted({(cell.noise, cell.bound.value) for cell in cells})
    noises = [frame.x.low * (frame.x.high / frame.x.low) ** (k / 60) for k in range(61)]
    rate, kappa = one.sample_rate, one.kappa
    return [(noise, (1 - rate) * kappa + rate * gaussian_bound(kappa, noise, one.steps)) for noise in noises]


class _Frame:
    """Where a noise multiplier (logarithmic) and a probability lie on the picture."""

    def __init__(self, noises: Sequence[float]) -> None:
        self.noises = sorted(set(noises))
        self.x = AREA.x(self.noises[0] / 1.3, self.noises[-1] * 1.3, math.log)
        self.y = AREA.y(0.0, 1.0)

    def axes(self) -> Iterator[Markup]:
        """Grid lines with their numbers, and what the axes mean."""
        for probability in self.y.ticks(4):
            y = self.y(probability)
            yield AREA.across(y, {"stroke": LINE})
            yield svg_text(AREA.left - 6, y + 4, f"{100 * probability:.0f} %", "end", {"fill": MUTED})
        for noise in self.noises:
            yield svg_text(self.x(noise), AREA.bottom + 16, f"{noise:g}", "middle", {"fill": MUTED})
        yield AREA.below_middle("noise multiplier", {"fill": MUTED})

    def level(self, probability: float, name: str) -> Markup:
        """A dashed line."""
        y = self.y(probability)
        dashes = AREA.across(y, {"stroke": MUTED, "stroke-dasharray": "4 4"})
        return dashes + svg_text(AREA.left + 4, y + 14, name, attributes={"fill": MUTED})

    def bound(self, points: Sequence[tuple[float, float]]) -> Markup:
        """The bound's line, named where there is room."""
        drawn = [(self.x(noise), self.y(value)) for noise, value in points]
        free = [point for point in points[len(points) // 3 :] if point[1] < NAMED_BELOW]
        noise, value = (free or points[-1:])[0]
        x, y = self.x(noise), self.y(value)
        if x + NAME < AREA.right:
            name = svg_text(x + 10, y - 6, "bound", attributes={"fill": INK})
        else:  # a bound that stays near 1: below the line, where neither the title nor the picture's edge is
            name = svg_text(x, y + 16, "bound", "end", {"fill": INK})
        return curve(drawn, {"class": "bound", "fill": "none", "stroke": INK, "stroke-width": "1.6"}) + name

    def mark(self, cell: BoundPoint, tone: str, shift: float) -> Markup:
        """A point with its interval."""
        x, (low, high) = self.x(cell.noise) + shift, cell.interval
        dot = svg_tag("circle", {"cx": x, "cy": self.y(cell.success), "r": 3, "fill": tone})
        return svg_line(x, self.y(low), x, self.y(high), {"stroke": tone}) + dot

    def legend(self, place: int, name: str, tone: str) -> Markup:
        """A line below the picture."""
        y = AREA.height + 8 + ROW * place
        dot = svg_tag("circle", {"cx": AREA.left + 4, "cy": y - 4, "r": 4, "fill": tone})
        return dot + svg_text(AREA.left + 16, y, name, attributes={"fill": INK})
