"""The success of an attacker who knows the candidates, beside the most that any attack can reach, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from fedseal.errors import BadConfig
from fedseal.metric.bound import Cell, gaussian

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 320, 46, 14, 30, 44
TONES = ("var(--leak, #a5301c)", "var(--calm, #34566f)", "var(--trace, #7d5200)")
INK, MUTED, LINE = "var(--ink, #191b20)", "var(--muted, #5c616b)", "var(--line, #e0ddd4)"
NAMED_BELOW = 0.85  # the line's name keeps clear of the title
APART = 7  # pixels between marks of the same noise


def bound_plot(cells: Sequence[Cell]) -> Markup:
    """One picture of all cells with the same prior, number of steps and sampling rate: success by noise multiplier.

    The line is the bound, the dashes the blind guess, the marks the measured success with its 95 % interval; marks of
    several games stand beside each other where their noise is the same. Colors are the report's.

    Raises:
        BadConfig: no cell, cells that do not share a bound, or more than three games.

    >>> from fedseal.metric.bound import Estimate
    >>> bound_plot([Cell("labels", 1.0, 1, 1.0, 0.1, 350, 1000, Estimate(0.389, 0.389, 0.389))])[:4]
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
    one, parts = cells[0], [frame.axes(), frame.level(cells[0].kappa, "blind guess")]
    parts.append(frame.path(_bound_points(cells, frame)))
    for place, name in enumerate(names):
        shift = APART * (place - (len(names) - 1) / 2)
        parts += [frame.mark(cell, TONES[place], shift) for cell in cells if cell.game == name]
        parts.append(frame.legend(place, name, TONES[place]))
    steps = "1 step" if one.steps == 1 else f"{one.steps} steps"
    title = f"{steps}, sampling rate {one.sample_rate:g}, blind guess {one.kappa:.3g}"
    said = "; ".join(f"{c.game}, noise {c.noise:g}: {c.success:.3f} measured, bound {c.bound.value:.3f}" for c in cells)
    height = HEIGHT + 18 * len(names)
    head = Markup(
        '<svg class="bound-plot" viewBox="0 0 {} {}" role="img" font-size="12"><title>{}</title><desc>{}</desc>'
    )
    label = _text(LEFT, 16, title, INK)
    return head.format(WIDTH, height, title, said) + label + Markup("").join(parts) + Markup("</svg>")


def bound_sheet(pictures: Sequence[Sequence[Cell]], columns: int = 2) -> str:
    """Several of these pictures as one SVG file of its own, on white paper, row by row.

    Raises:
        BadConfig: as `bound_plot`, or no picture.
    """
    if not pictures:
        raise BadConfig("there is no picture to draw", "give the cells of one or more")
    high = max(HEIGHT + 18 * len({cell.game for cell in cells}) for cells in pictures) + 16
    wide = WIDTH + 16
    rows = math.ceil(len(pictures) / columns)
    placed = [
        Markup('<svg x="{}" y="{}" width="{}" height="{}"').format(
            16 + wide * (place % columns), 12 + high * (place // columns), WIDTH, high - 16
        )
        + Markup(str(bound_plot(cells)).removeprefix("<svg"))
        for place, cells in enumerate(pictures)
    ]
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" font-family="{2}">'
        '<rect width="{0}" height="{1}" fill="#fff"/>'
    ).format(wide * min(columns, len(pictures)) + 16, high * rows + 8, "Helvetica, Arial, sans-serif")
    return str(head + Markup("").join(placed) + Markup("</svg>\n"))


def _bound_points(cells: Sequence[Cell], frame: _Frame) -> list[tuple[float, float]]:
    """Points of the bound: a smooth line where it is in closed form, else those of the cells."""
    one = cells[0]
    if one.steps > 1 and one.sample_rate < 1:
        return sorted({(cell.noise, cell.bound.value) for cell in cells})
    noises = [frame.low * (frame.high / frame.low) ** (k / 60) for k in range(61)]
    rate, kappa = one.sample_rate, one.kappa
    return [(noise, (1 - rate) * kappa + rate * gaussian(kappa, noise, one.steps)) for noise in noises]


class _Frame:
    """Where a noise multiplier (logarithmic) and a probability lie on the picture."""

    def __init__(self, noises: Sequence[float]) -> None:
        self.ticks = sorted(set(noises))
        self.low, self.high = self.ticks[0] / 1.3, self.ticks[-1] * 1.3

    def x(self, noise: float) -> float:
        share = math.log(noise / self.low) / math.log(self.high / self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, probability: float) -> float:
        return TOP + (1 - probability) * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> Markup:
        """Grid lines with their numbers, and what the axes mean."""
        parts = []
        for percent in (0, 25, 50, 75, 100):
            y = self.y(percent / 100)
            parts.append(_line(LEFT, y, WIDTH - RIGHT, y, LINE))
            parts.append(_text(LEFT - 6, y + 4, f"{percent} %", MUTED, "end"))
        for noise in self.ticks:
            parts.append(_text(self.x(noise), HEIGHT - BOTTOM + 16, f"{noise:g}", MUTED, "middle"))
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(_text(middle, HEIGHT - 10, "noise multiplier", MUTED, "middle"))
        return Markup("").join(parts)

    def level(self, probability: float, name: str) -> Markup:
        """A dashed line."""
        y = self.y(probability)
        dashes = _line(LEFT, y, WIDTH - RIGHT, y, MUTED, ' stroke-dasharray="4 4"')
        return dashes + _text(LEFT + 4, y + 14, name, MUTED)

    def path(self, points: Sequence[tuple[float, float]]) -> Markup:
        """The bound's line, named above it, where there is room."""
        drawn = " ".join(f"{self.x(noise):.1f},{self.y(value):.1f}" for noise, value in points)
        line = Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="1.6"/>').format(drawn, INK)
        free = [point for point in points[len(points) // 3 :] if point[1] < NAMED_BELOW]
        noise, value = (free or points[-1:])[0]
        return line + _text(self.x(noise) + 10, self.y(value) - 6, "bound", INK)

    def mark(self, cell: Cell, tone: str, shift: float) -> Markup:
        """A point with its interval."""
        x, (low, high) = self.x(cell.noise) + shift, cell.interval
        dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>').format(x, self.y(cell.success), tone)
        return _line(x, self.y(low), x, self.y(high), tone) + dot

    def legend(self, place: int, name: str, tone: str) -> Markup:
        """A line below the picture."""
        y = HEIGHT + 8 + 18 * place
        dot = Markup('<circle cx="{}" cy="{}" r="4" fill="{}"/>').format(LEFT + 4, y - 4, tone)
        return dot + _text(LEFT + 16, y, name, INK)


def _line(x: float, y: float, to_x: float, to_y: float, tone: str, rest: str = "") -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}"{}/>').format(
        x, y, to_x, to_y, tone, Markup(rest)
    )


def _text(x: float, y: float, words: str, tone: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" fill="{}" text-anchor="{}">{}</text>').format(x, y, tone, anchor, words)
