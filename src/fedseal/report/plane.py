"""The privacy-utility plane as an inline picture: what leaks to the best attacker against what the defense costs.

Colors are the page's and mean what they mean everywhere on it: recovered, traces, neither. Shapes tell defenses apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from markupsafe import Markup

from fedseal.report import words
from fedseal.report.frontier import Frontier, Panel, Point
from fedseal.report.kind import ExampleKind
from fedseal.report.svg import Area, Scale, curve, logarithmic, svg_line, svg_number, svg_tag, svg_text

AREA = Area(width=860, height=430, left=62, right=710, top=18, bottom=378)
MARK = 5.5
GRID, BAR = {"class": "grid"}, {"class": "bar"}
# around a mark of radius 1; the legend and the lines use the same
SHAPES = (
    "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0-1 0Z",
    "M-.9-.9H.9V.9H-.9Z",
    "M0-1.15L1.1.85H-1.1Z",
    "M0-1.2L1.2 0L0 1.2L-1.2 0Z",
    "M0 1.15L-1.1-.85H1.1Z",
    "M-.4-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
)


@dataclass(frozen=True)
class _Frame:
    """Where everything of one panel stands; without costs each defense has a column of its own."""

    panel: Panel
    kind: ExampleKind
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    @property
    def y(self) -> Scale:
        return AREA.y(0.0, self.kind.measure.full)

    @property
    def x(self) -> Scale:
        if not self.panel.priced:
            return AREA.x(-0.5, len(self.columns) - 0.5)
        known = [value for p in self.drawn for value in (p.lost, *(p.lost_interval or ())) if value is not None]
        low, high = min(-0.5, *known), max(1.0, *known)
        return AREA.x(1.1 * low, min(1.2 * high, 100.0), logarithmic)

    @property
    def drawn(self) -> list[Point]:
        """Points with a place in the picture; the bare one costs nothing by definition."""
        points = [p for p in self.panel.points if p.value is not None]
        return points if not self.panel.priced else [p for p in points if p.lost is not None or p.defense == "none"]

    @property
    def columns(self) -> list[str]:
        return [*(["no defense"] if self.panel.bare else []), *(one.family for one in self.panel.frontiers)]

    def place(self, point: Point) -> tuple[float, float]:
        assert point.value is not None
        if self.panel.priced:
            return self.x(0.0 if point.lost is None else point.lost), self.y(point.value)
        family = next((one for one in self.panel.frontiers if point in one.points), None)
        if family is None:
            return self.x(0), self.y(point.value)
        column = self.columns.index(family.family)
        share = (family.points.index(point) + 1) / (len(family.points) + 1) - 0.5
        return self.x(column + 0.8 * share), self.y(point.value)

    def label(self, x: float, y: float, name: str) -> Markup:
        """A text beside a mark where none stands yet; nothing where there is no room, as the table says it too."""
        wide = 6.2 * len(name) + 2
        for left, base in (
            (x + 8, y - 6),
            (x + 8, y + 15),
            (x - 8 - wide, y - 6),
            (x - 8 - wide, y + 15),
            (x + 16, y + 4),
        ):
            box = (left, base - 10, left + wide, base + 2)
            inside = left > AREA.left and left + wide < AREA.width and AREA.top - 2 < base < AREA.bottom - 2
            if inside and not any(_meet(box, other) for other in self.taken):
                self.taken.append(box)
                return svg_tag("text", {"x": left, "y": base, "class": "strength"}, name)
        return Markup()


def plane(panel: Panel, kind: ExampleKind, name: str) -> Markup:
    """One panel as SVG.

    Args:
        name: an identifier on the page, for the picture's title and description.
    """
    frame = _Frame(panel, kind)
    for point in frame.drawn:
        x, y = frame.place(point)
        frame.taken.append((x - 7, y - 7, x + 7, y + 7))
    parts = [
        svg_tag("title", {"id": f"{name}-title"}, title(panel, kind)),
        svg_tag("desc", {"id": f"{name}-desc"}, " ".join(_spoken(point, kind) for point in frame.drawn)),
        *_axes(frame),
        *_blind(frame),
    ]
    shapes = {one.family: SHAPES[place % len(SHAPES)] for place, one in enumerate(panel.frontiers)}
    for one in panel.frontiers:
        parts.append(_family(frame, one))
    for one in panel.frontiers:
        parts += [_mark(frame, p, shapes[one.family], p.strength.text) for p in one.points if p in frame.drawn]
    if panel.bare is not None and panel.bare in frame.drawn:
        parts.append(_mark(frame, panel.bare, SHAPES[0], "no defense"))
    parts += _legend(shapes)
    box = {
        "class": "plane",
        "viewBox": f"0 0 {AREA.width} {AREA.height}",
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-desc",
    }
    return svg_tag("svg", box, Markup("").join(parts))


def title(panel: Panel, kind: ExampleKind) -> str:
    """What the picture shows, in a sentence."""
    across = "points of accuracy lost" if panel.priced else "defenses side by side, as costs are not known,"
    where = f" ({panel.setting})" if panel.setting else ""
    return f"Median {kind.measure.phrase} of the best attacker's reconstructions against {across}{where}."


def _spoken(point: Point, kind: ExampleKind) -> str:
    name = "No defense" if point.defense == "none" else point.defense
    lost = "" if point.lost is None or point.defense == "none" else f", {words.points(point.lost)} of accuracy lost"
    found = f"{point.rate.hits} of {point.rate.trials} recovered"
    return f"{name}: {kind.measure.written(point.value)}, {found}{lost}."


def _axes(frame: _Frame) -> Iterator[Markup]:
    x, y, measure = frame.x, frame.y, frame.kind.measure
    for value in y.ticks(6):
        yield AREA.across(y(value), GRID)
        most = "≥ " if value == y.high and measure.full > 1 else ""
        yield svg_text(AREA.left - 8, y(value) + 4, most + _short(value), "end")
    unit = measure.written(1.0).partition(" ")[2]
    head = f"Leak: median {measure.phrase}{f', {unit}' if unit else ''}"
    middle = (AREA.top + AREA.bottom) / 2
    yield svg_tag("text", {"transform": f"translate(14 {middle}) rotate(-90)", "text-anchor": "middle"}, head)
    if not frame.panel.priced:
        for place, name in enumerate(frame.columns):
            room = int((AREA.right - AREA.left) / len(frame.columns) / 6.4)
            shown = name if len(name) <= room else name[: max(room - 1, 1)] + "…"
            yield svg_text(x(place), AREA.bottom + 18, shown, "middle")
        yield AREA.below_middle("Cost in accuracy: not known")
        return
    for value in x.ticks(8):
        yield AREA.upright(x(value), GRID)
        yield svg_text(x(value), AREA.bottom + 18, _short(value), "middle")
    yield AREA.below_middle("Cost: points of accuracy lost (the axis is logarithmic beyond 1)")


def _blind(frame: _Frame) -> Iterator[Markup]:
    guesses = [point.blind for point in frame.drawn if point.blind is not None]
    if guesses:
        level = frame.y(median(guesses))
        yield AREA.across(level, {"class": "blind-line"})
        yield svg_text(AREA.right + 8, level + 4, "best blind guess")
        frame.taken.append((AREA.left, level - 2, AREA.left + 1, level + 2))


def _family(frame: _Frame, one: Frontier) -> Markup:
    places = [frame.place(point) for point in one.points if point in frame.drawn]
    return curve(places, {"class": "family"}) if len(places) > 1 else Markup()


def _mark(frame: _Frame, point: Point, shape: str, name: str) -> Markup:
    x, y = frame.place(point)
    parts = [svg_tag("title", {}, _spoken(point, frame.kind))]
    if point.interval is not None:
        low, high = (frame.y(value) for value in point.interval)
        parts.append(svg_line(x, low, x, high, BAR))
    if frame.panel.priced and point.defense != "none" and point.lost_interval is not None:
        low, high = (frame.x(value) for value in point.lost_interval)
        parts.append(svg_line(low, y, high, y, BAR))
    worst = point.worst.scores.headline.value if point.worst is not None and point.worst.scores is not None else None
    if worst is not None and not math.isnan(worst):
        level = frame.y(worst)
        parts.append(svg_line(x - 5, level, x + 5, level, {"class": "worst"}))
    turned = f"translate({svg_number(x)} {svg_number(y)}) scale({MARK})"
    parts.append(svg_tag("path", {"class": "mark", "d": shape, "transform": turned}))
    bare = " bare" if point.defense == "none" else ""
    return svg_tag("g", {"class": f"point {finding(point)}{bare}"}, Markup("").join([*parts, frame.label(x, y, name)]))


def finding(point: Point) -> str:
    """The name of the point's color: recovered, traces or none; unmeasured where nothing could be attacked."""
    if not point.leaks.trials:
        return "unmeasured"
    return "recovered" if point.rate.hits else "traces" if point.traces else "none"


def _legend(shapes: Mapping[str, str]) -> Iterator[Markup]:
    left, top = AREA.right + 16, AREA.top + 8
    for place, (family, shape) in enumerate(shapes.items()):
        y = top + 20 * place
        turned = f"translate({left} {y}) scale(5)"
        yield svg_tag("path", {"class": "key", "d": shape, "transform": turned})
        yield svg_text(left + 12, y + 4, family if len(family) <= 19 else family[:18] + "…")


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _short(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")
