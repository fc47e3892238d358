from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from fedseal.audit import Pictures
from fedseal.audit.record import Cell, Step
from fedseal.errors import StorageFailure
from fedseal.report import html
from fedseal.report.html import page
from fedseal.report.picture import png
from fedseal.types import RouteNote
from report.records import Shot, cell, images, on_disk, record

NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)> \"quoted\" 'single' & \u202eüñî→🦊 </style></title>"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
VOID = {"meta", "img", "input", "br", "link"}


class Reader(HTMLParser):
    """Collects what a browser would: elements with their attributes, text, and how deep they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def default_audit(cells: int = 40) -> list[Shot]:
    return [
        Shot((95.0,), first=i // 4, attack=("auto", "dlg")[i % 2], defense=("none", "prune:0.2")[i // 2 % 2], frames=24)
        for i in range(cells)
    ]


def in_memory(shots: list[Shot], loaded: list[str] | None = None, **facts: object) -> str:
    """The page of these cells; `loaded` takes the name of every cell whose pictures are asked for."""
    made = record(shots, **facts)  # type: ignore[arg-type]
    by_key = {shot.key: shot for shot in shots}

    def load(cell: Cell) -> Pictures[torch.Tensor]:
        if loaded is not None:
            loaded.append(cell.key.id)
        found = images(by_key[cell.key], 32, 1.0)
        frames = found.get("frames")
        return Pictures(found["truth"], found.get("reconstruction"), None if frames is None else frames / 255)

    return page(made, load)


def test_a_default_audit_of_incompressible_pictures_stays_under_5_mb(tmp_path: Path) -> None:
    path = html(on_disk(default_audit(), tmp_path / "run"), tmp_path / "deep" / "report.html")
    assert path == tmp_path / "deep" / "report.html"
    assert 1_000_000 < path.stat().st_size < 5_000_000
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_two_hundred_cells_read_each_picture_at_most_once_and_keep_to_the_budget() -> None:
    shots = [Shot((90.0,), first=i, frames=24) for i in range(200)]
    loaded: list[str] = []
    text = in_memory(shots, loaded=loaded)
    assert len(loaded) == len(set(loaded))
    assert 100 < len(loaded) < 200
    assert len(text) < 5_000_000
    assert "those of the leakiest cells only" in text
    assert f"shows the pictures of {len(loaded)} of the 200 attacked examples" in text


def test_the_page_is_well_formed_and_refers_to_nothing_outside() -> None:
    text = in_memory(default_audit(8), missing=2)
    read = Reader(text)
    assert read.open == []
    policy = next(m["content"] for m in read.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith(POLICY)
    assert not read.all("link") + read.all("iframe") + read.all("form") + read.all("object")
    assert all("src" not in script for script in read.all("script"))
    assert all(img["src"].startswith("data:image/png;base64,") and img["alt"] for img in read.all("img"))
    assert all(a["href"].startswith("#") for a in read.all("a"))
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttp|WebSocket|sendBeacon", text, re.IGNORECASE)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in read.all("a")} <= set(ids)
    assert {a.get("aria-labelledby", ids[0]) for _, a in read.elements} <= set(ids)


def test_what_users_name_stays_text_everywhere() -> None:
    note = RouteNote(NASTY, True, NASTY)
    shots = [
        Shot(
            (90.0,), attack=NASTY, defense=NASTY, threat=NASTY, route=NASTY, note=NASTY, explanation=(note,), frames=3
        ),
        Shot((None,), attack="other", status="refused", note=NASTY),
    ]
    clean = Reader(in_memory([Shot((90.0,), note="n", explanation=(RouteNote("r", True, "x"),), frames=3), shots[1]]))
    read = Reader(in_memory(shots, case=NASTY, model=NASTY, given={"case": NASTY, NASTY: NASTY}))
    assert len(read.all("script")) == len(clean.all("script")) == 2
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert all(img["src"].startswith("data:") for img in read.all("img"))
    assert read.open == []
    assert sum(NASTY in text for text in read.texts) >= 8


def test_the_data_island_is_json_that_cannot_close_its_element() -> None:
    shots = [Shot((90.0, 40.0), frames=5, status="budget"), Shot((80.0,), first=7)]
    text = in_memory(shots)
    island = re.search(r'<script type="application/json" id="frames">(.*?)</script>', text, re.DOTALL)
    assert island is not None
    assert "<" not in island[1]
    data = json.loads(island[1])
    assert set(data) == {shots[0].key.id}
    cell = data[shots[0].key.id]
    assert cell["steps"] == [0, 10, 20, 30, 40, -1]
    assert [len(frame) for frame in cell["frames"]] == [2] * 6


def test_a_strip_ends_with_the_result_also_where_the_last_iteration_shows_the_same() -> None:
    shot = Shot((90.0,), status="budget", frames=4)
    shown = images(shot, 32, 1.0)
    shown["frames"][-1] = (shown["reconstruction"] * 255).round().to(torch.uint8)
    stored = Pictures(shown["truth"], shown["frames"][-1] / 255, shown["frames"] / 255)
    island = re.search(r'id="frames">(.*?)</script>', page(record([shot]), lambda _: stored), re.DOTALL)
    assert island is not None
    assert json.loads(island[1])[shot.key.id]["steps"] == [0, 10, 20, -1]


def test_every_cell_has_a_card_and_a_row_whatever_its_status() -> None:
    statuses = ["exact", "converged", "budget", "diverged", "not_applicable", "refused", "failed"]
    shots = [
        Shot((90.0,) if s in ("exact", "converged", "budget") else (None,), first=i, status=s, frames=4)
        for i, s in enumerate(statuses)
    ]
    read = Reader(in_memory(shots))
    assert {a["data-cell"] for a in read.all("article")} == {shot.key.id for shot in shots}
    text = " ".join(read.texts)
    for word in ("Exact", "Converged", "Not certain", "Diverged", "No route", "Refused", "Failed"):
        assert word in text


def test_no_cells_and_no_modality_still_make_a_page() -> None:
    text = in_memory([], missing=2)
    assert "No attack has finished yet" in text
    assert "0 of 2 finished (incomplete" in text


def test_an_infinite_score_is_shown_and_sorts_as_the_largest() -> None:
    read = Reader(in_memory([Shot((float("inf"),))]))
    assert "∞ dB" in read.texts
    assert "Infinity" in [cell.get("data-key") for cell in read.all("td")]


def test_missing_pictures_and_unwritable_places_are_storage_failures(tmp_path: Path) -> None:
    made = on_disk([Shot()], tmp_path / "run")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageFailure, match=r"cannot write to the folder '.*file'.*a file is in the way"):
        html(made, tmp_path / "file" / "report.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(StorageFailure, match=r"folder\.html.*a folder is in the way"):
        html(made, tmp_path / "folder.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.html", "run"]
    with pytest.raises(StorageFailure, match=r"cannot read the pictures"):
        html(record([Shot()], tmp_path / "nowhere"), tmp_path / "report.html")


def test_a_record_gives_the_same_page_every_time() -> None:
    assert in_memory(default_audit(4)) == in_memory(default_audit(4))


def test_many_large_batches_stay_under_5_mb_and_say_what_is_not_shown() -> None:
    shots = [Shot((90.0,) * 64, first=64 * i, attack=f"attack{i % 3}", frames=16, status="budget") for i in range(6)]
    text = in_memory(shots)
    assert 1_000_000 < len(text) < 5_000_000
    read = Reader(text)
    panels = [a for _, a in read.elements if a.get("class", "").startswith("panel ")]
    assert 6 <= len(panels) <= 48
    assert f"{64 - len(panels) // 6} more examples of this batch, none leakier, not shown here." in text
    assert f"shows the pictures of {len(panels)} of the 384 attacked examples" in text


def test_a_batch_shows_its_leakiest_examples_beside_their_own_reconstructions() -> None:
    shot = Shot(tuple(float(place) for place in range(10, 30)), status="budget", frames=3)
    made = record([shot])
    found = images(shot, 32, 1.0)
    text = page(made, lambda _: Pictures(found["truth"], found["reconstruction"], found["frames"] / 255))
    titles = re.findall(r'<section class="panel [^>]*aria-label="([^"]*)"', text)
    assert titles == [f"Picture {place}" for place in range(19, 11, -1)]
    shown = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="Original, Picture (\d+)"', text)
    assert len(shown) == 8
    assert all(data == png(found["truth"][int(place)], 256) for data, place in shown)
    read_out = re.findall(r'base64,([^"]*)" alt="Reconstruction of Picture (\d+) by auto" data-guess', text)
    assert all(data == png(found["reconstruction"][int(place)], 256) for data, place in read_out)
    assert len(read_out) == 8


def test_every_card_of_a_batch_says_of_each_example_whether_it_is_certain_and_why_not() -> None:
    shots = [Shot((90.0, 90.0, 9.0), status="budget", certain=(True, False, False)), Shot((90.0,), first=9)]
    read = Reader(in_memory(shots))
    assert read.texts.count("explains the update, does not determine the picture") == 2
    assert read.texts.count("yes") == 3  # certain beside its picture; certain and identified in the table
    assert "1 of 3" in read.texts
    assert any(text.startswith("2 of 3 recovered, 1 certain") for text in read.texts)


def test_a_crash_is_shown_as_one_with_the_path_of_its_traceback_and_never_as_a_finding() -> None:
    crashed = Shot((None,), status="failed", note="KeyError: 'weight'")
    text = " ".join(Reader(in_memory([Shot((9.0,), first=1, status="budget"), crashed])).texts)
    assert f"cells/{crashed.key.id}.traceback.txt" in text
    assert "failed at 1 of 2 updates" in text.lower()
    assert "crashed" in text
    assert "not attacked" not in text


def test_labels_stand_beside_pictures_with_the_blind_guess() -> None:
    shots = [
        Shot((90.0,) * 4, labels=(0, 3, 2, 9)),
        Shot((90.0,) * 4, attack="sure", labels=(0, 1, 2, 3)),
        Shot((90.0,) * 4, attack="told", threat="oracle"),
        Shot((None,) * 4, attack="names", status="budget", labels=(3, 2, 0, 0)),
    ]
    read = Reader(in_memory(shots))
    cells = dict(zip(("auto", "sure", "told", "names"), ("3 of 4", "4 of 4", "given", "3 of 4"), strict=True))
    rows = " ".join(read.texts)
    for attack, labels in cells.items():
        assert attack in rows
        assert labels in read.texts
    assert "given to the attack" in read.texts
    assert read.texts.count("blind guess 40 %") == 3
    assert any("4 of the 4 labels in updates without a defense, in whatever order, where" in t for t in read.texts)


@pytest.mark.parametrize(
    ("true", "read", "told"),
    [
        ((1.0, 0.0, 1.0), (0.9, 0.2, 0.1), "2 of 3 findings right"),
        ((1.0,), (0.9,), "1 of 1 finding right"),
        ((0.25, 1.5), (0.25, 1.5), "0.25, 1.5, recovered as 0.25, 1.5"),
        ((0.25, 1.5), None, "0.25, 1.5, not recovered"),
        ((0.5,) * 6, None, "0.5, 0.5, 0.5, 0.5, …, not recovered"),
    ],
)
def test_findings_and_numbers_stand_beside_what_was_read(
    true: tuple[float, ...], read: tuple[float, ...] | None, told: str
) -> None:
    shot = Shot((90.0,))
    found = None if read is None else (read,)
    facts = {"true_labels": None, "labels": None, "true_targets": (true,), "targets": found}
    given = cell(shot).model_copy(update=facts)
    made = record([shot]).model_copy(update={"cells": (given,)})
    assert told in [text.strip() for text in Reader(page(made, lambda _: None)).texts]


def test_attackers_are_groups_from_the_least_knowledge_to_the_most() -> None:
    threats = ["oracle", "honest_but_curious", "eavesdropper", "malicious_server", "unknown_training"]
    text = in_memory([Shot((90.0,), threat=threat) for threat in threats])
    titles = re.findall(r"<h3><bdi>(.*?)</bdi></h3>", text)
    assert titles == [
        "Eavesdropper",
        "Server without the training settings",
        "Honest-but-curious server",
        "Malicious server",
        "Oracle (no real attacker)",
    ]
    assert [re.findall(r'<tr class="who">.*?<bdi>(.*?)</bdi>', text)] == [titles * 2]
    lacks = re.findall(r"<dt>Lacks</dt><dd>(.*?)</dd>", text)
    assert lacks == lacks[:5] * 3
    assert lacks[0].startswith("the model&#39;s weights, the training settings")
    assert lacks[4] == "any say in the model&#39;s weights"


def test_a_record_of_version_1_has_no_labels_and_is_shown() -> None:
    made = record([Shot((90.0, 80.0))])
    old = made.model_copy(update={"cells": tuple(c.model_copy(update={"label_score": None}) for c in made.cells)})
    read = Reader(page(old, lambda _: None))
    assert "blind guess 13.0 dB" in read.texts
    assert "Labels" in read.texts


def test_the_page_says_what_the_attacker_knew_of_each_defense() -> None:
    steps = {
        "none": (),
        "mine": (Step(kind="prune", figures={"fraction": 0.5}), Step(kind="masked_layer", where=("7.weight",))),
        "mute": (),
    }
    made = [Shot(defense=name, threat=who) for name in steps for who in ("honest_but_curious", "unaware")]
    text = page(record(made, public=steps), lambda _: None)
    said = re.findall(r"Known of the defense: [^<]*", text)
    assert said == [
        "Known of the defense: prune (fraction 0.5), then masked_layer (on 7.weight).",
        "Known of the defense: its name, and none of its steps.",
    ]
    assert "Known of the defense" not in page(record(made), lambda _: None)


def test_a_secure_sum_is_no_bound_on_attacks() -> None:
    """Of a sum of ten owners examples/prove_it tells eight pictures from others."""
    (line,) = (
        text for text in Reader(in_memory(default_audit(1))).texts if "attacks that nobody has tried yet" in text
    )
    assert "differential privacy" in line
    assert "not what their sum says" in line
