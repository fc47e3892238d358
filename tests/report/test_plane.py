from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from fedseal.audit.cost import Cost, write_cost
from fedseal.audit.record import Record
from fedseal.report import html
from fedseal.report.frontier import panels
from fedseal.report.kind import PICTURE
from fedseal.report.plane import AREA, plane
from report.costs import cost
from report.records import Shot, on_disk, record
from report.test_frontier import OPEN, SHUT, TRACES, shots

TABLE = {
    "none": [90.0] * 7,
    "prune:0.2": [OPEN] * 7,
    "prune:0.5": [TRACES] * 6 + [SHUT],
    "prune:0.9": [SHUT] * 7,
    "sign": [SHUT] * 7,
}
PRICES = (
    cost("none"),
    cost("prune:0.2", 0.2),
    cost("prune:0.5", 1.0),
    cost("prune:0.9", 9.0, None),
    cost("sign", 30.0),
)


def drawn(made: Record, *costs: Cost) -> ElementTree.Element:
    (panel,) = panels(made, costs)
    return ElementTree.fromstring(str(plane(panel, PICTURE, "p")))


def groups(svg: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The points by the name that their own title begins with."""
    return {(g.findtext("title") or "").partition(": ")[0]: g for g in svg.iter("g")}


def spot(group: ElementTree.Element) -> tuple[float, float]:
    (mark,) = [path for path in group.iter("path") if path.get("class") == "mark"]
    x, y = re.findall(r"-?[\d.]+", mark.get("transform") or "")[:2]
    return float(x), float(y)


def test_points_stand_by_cost_and_leak_and_in_the_color_of_their_finding() -> None:
    found = groups(drawn(record(shots(TABLE)), *PRICES))
    places = {name: spot(group) for name, group in found.items()}
    across = [places[name][0] for name in ("No defense", "prune:0.2", "prune:0.5", "prune:0.9", "sign")]
    assert across == sorted(set(across))
    assert places["No defense"][1] < places["prune:0.2"][1] < places["prune:0.5"][1] < places["prune:0.9"][1]
    colors = {name: (group.get("class") or "").split()[1] for name, group in found.items()}
    assert colors["prune:0.2"] == "recovered"
    assert colors["prune:0.5"] == "traces"
    assert colors["prune:0.9"] == colors["sign"] == "none"
    assert all(0 < x < AREA.width and 0 < y < AREA.height for x, y in places.values())


def test_one_line_joins_a_family_in_the_order_of_strength() -> None:
    svg = drawn(record(shots({**TABLE, "prune:0.99": [SHUT] * 7})), *PRICES)
    (line,) = [path for path in svg.iter("path") if path.get("class") == "family"]
    ends = [tuple(map(float, pair.split())) for pair in (line.get("d") or "")[1:].split("L")]
    found = groups(svg)
    assert "prune:0.99" not in found  # its cost is not known, so it has no place
    assert ends == [spot(found[name]) for name in ("prune:0.2", "prune:0.5", "prune:0.9")]


def test_bars_are_there_where_an_interval_is_and_the_worst_is_marked() -> None:
    found = groups(drawn(record(shots(TABLE)), *PRICES))

    def bars(name: str) -> list[str]:
        return [path.get("d") or "" for path in found[name].iter("path") if path.get("class") == "bar"]

    assert [("V" in d, "H" in d) for d in bars("prune:0.5")] == [(True, False), (False, True)]
    assert [("V" in d, "H" in d) for d in bars("prune:0.9")] == [(True, False)]
    (worst,) = [path for path in found["prune:0.5"].iter("path") if path.get("class") == "worst"]
    (x, y) = spot(found["prune:0.5"])
    assert worst.get("d") == f"M{x - 5:g} {y:g}H{x + 5:g}"


def test_the_picture_speaks() -> None:
    svg = drawn(record(shots(TABLE)), *PRICES)
    assert (svg.get("role"), svg.get("aria-labelledby"), svg.get("aria-describedby")) == ("img", "p-title", "p-desc")
    assert (
        svg.findtext("title") == "Median PSNR of the best attacker's reconstructions against points of accuracy lost."
    )
    said = svg.findtext("desc") or ""
    assert "prune:0.5: 17.0 dB, 0 of 7 recovered, 1.0 points of accuracy lost." in said
    assert "No defense: 90.0 dB, 7 of 7 recovered." in said
    texts = [text.text for text in svg.iter("text")]
    assert "best blind guess" in texts


def test_without_costs_defenses_stand_side_by_side() -> None:
    svg = drawn(record(shots(TABLE)))
    places = {name: spot(group)[0] for name, group in groups(svg).items()}
    assert places["No defense"] < places["prune:0.2"] < places["prune:0.5"] < places["prune:0.9"] < places["sign"]
    assert "Cost in accuracy: not known" in [text.text for text in svg.iter("text")]


def test_names_are_text_and_labels_do_not_cover_each_other() -> None:
    table = {f"gaussian:{n}e-3": [SHUT] * 6 for n in range(1, 30)} | {"<b>&:1": [OPEN]}
    svg = drawn(record(shots(table)), *(cost(name, 1.0) for name in table))
    labels = [text for text in svg.iter("text") if text.get("class") == "strength"]
    boxes = [(float(t.get("x") or 0), float(t.get("y") or 0), len(t.text or "")) for t in labels]
    assert len(boxes) == len({(x, y) for x, y, _ in boxes})
    for place, (x, y, _) in enumerate(boxes):
        for left, top, wide in boxes[:place]:
            assert abs(y - top) >= 12 or x >= left + 6 * wide or x < left
    assert "<b>&:1" in [(g.findtext("title") or "")[:6] for g in svg.iter("g")]


def test_the_page_has_the_section_only_where_a_defense_was_tried(tmp_path: Path) -> None:
    bare = html(on_disk([Shot((90.0,))], tmp_path / "bare"), tmp_path / "bare.html").read_text()
    assert "What protects" not in bare
    made = on_disk(shots(TABLE), tmp_path / "run")
    free = html(made, tmp_path / "free.html").read_text()
    assert "What these defenses cost in accuracy is not known here" in free
    for one in PRICES[:-1]:
        write_cost(tmp_path / "run", one)
    priced = html(made, tmp_path / "priced.html").read_text()
    assert "Of the 4 strengths of 2 defenses tried, prune:0.9 is the only one that protects at a known cost" in priced
    assert "Not in the picture, as their cost was not measured: <bdi>sign</bdi>." in priced
    assert "<bdi>prune protects from 0.9 on, at 9.0 points of accuracy.</bdi>" in priced
    assert priced.index('<svg class="plane"') < priced.index("plain dense frontier") < priced.index('id="settings"')


def test_several_batch_sizes_have_a_picture_each() -> None:
    made = record([*shots({"prune:0.5": [SHUT] * 4}), Shot((OPEN, OPEN), defense="prune:0.5", first=4)])
    small, large = panels(made)
    assert (small.setting, large.setting) == ("batches of 1", "batches of 2")
    assert [panel.frontiers[0].points[0].protects for panel in (small, large)] == [True, False]
