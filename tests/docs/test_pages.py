"""What the documents say agrees with the code, and leads somewhere."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import typer

import fedseal
from docs.pages import PAGES, ROOT, anchors, links, prose
from fedseal import defense, zoo
from fedseal.attack import RECIPES
from fedseal.attack.labels import METHODS
from fedseal.attack.planner import Auto
from fedseal.attack.recipes import INFERENCES
from fedseal.cli.app import app
from fedseal.modality import Image
from fedseal.threat import GRANTS, PRESETS
from layers.imports import ARROWS

MARKER = "<!-- figures -->"
PLACEHOLDERS = re.compile(r"\b(TODO|FIXME|TBD|XXX)\b|\{\{|<!--(?! figures -->)|\?\?\?")
MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|opt|var|mnt|srv)/\w", re.MULTILINE)
ALL = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
# what a user reads to choose; that the changelog names a thing helps nobody
GUIDES = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/how-to-choose.md"))


def _table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its head."""
    after = page.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1]
    rows = [line for line in after.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in [rows[0], *rows[2:]]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_internal_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if target == ROOT / "docs/benchmarks.md":
            continue  # `make bench` writes it
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in target.parents
        if anchor:
            assert anchor in anchors(target), f"{link} names no heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_nothing_is_left_to_fill_in_and_no_machine_is_named(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not PLACEHOLDERS.search(text)
    assert not MACHINE.search(text)


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, open_ = set(), [ROOT / "README.md"]
    while open_:
        page = open_.pop()
        reached.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        open_ += [target for target in targets if target in PAGES and target not in reached]
    assert set(PAGES) - reached <= {ROOT / "docs/benchmarks.md"}


def test_every_verb_recipe_defense_and_grant_is_mentioned() -> None:
    verbs = [command.name for command in typer.main.get_group(app).commands.values()]
    assert len(verbs) >= 5
    for verb in verbs:
        assert f"fedseal {verb}" in ALL
        assert f"fedseal {verb}" in (ROOT / "README.md").read_text(encoding="utf-8")
    for name in [*RECIPES, *INFERENCES, *METHODS]:
        assert f"`{name}`" in GUIDES
    for name in GRANTS:
        assert f"`{name}`" in ALL
    for name in defense.DEFENSES:
        assert f"`{name}" in ALL
    assert "zoo:lenet" in ALL
    assert "lenet" in zoo.MODELS


def test_the_choosing_page_names_every_route_of_the_planner() -> None:
    page = (ROOT / "docs/how-to-choose.md").read_text(encoding="utf-8")
    order = page.split("## What `auto` does, in order\n", 1)[1].split("\n## ")[0]
    image, table = Image(shape=(3, 8, 8)), zoo.wine().modality
    routes = [route.name for modality in (image, table) for route in Auto().routes(modality)]
    for name in [*routes, "bayes", "coarse", "sme", "dager", "mixture", "tokens", "tableak"]:
        assert f"`{name}`" in order
    places = [order.index(f"**`{route.name}`**") for route in Auto().routes(image)]
    assert places == sorted(places)


def test_options_named_on_the_pages_exist() -> None:
    known = {"--help", "--version"}
    for command in typer.main.get_group(app).commands.values():
        known |= {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    foreign = {"--check", "--strict"}  # of ruff and mypy
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ALL))
    assert found - known - foreign == set()
    for name, option in re.findall(r"\b(\w+):(\w+)=[\d.]", ALL):
        if name in RECIPES:
            assert option in inspect.signature(RECIPES[name].build).parameters


def test_the_table_of_threat_models_is_the_codes() -> None:
    page = ROOT / "docs/threat-models.md"
    assert {row[0]: row[1] for row in _table(page, "The facts")[1:]} == GRANTS
    head, *rows = _table(page, "The presets")
    assert head[1:] == list(GRANTS)
    assert [row[0] for row in rows] == list(PRESETS)
    for row in rows:
        granted = {grant for grant, mark in zip(head[1:], row[1:], strict=True) if mark == "yes"}
        assert granted == PRESETS[row[0]]().grants
        assert set(row[1:]) <= {"yes", "–"}
        assert f"**`{row[0]}`**" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_names_on_the_pages_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # earlier versions had other names
    for name in re.findall(r"`(?:fs|fedseal)\.([A-Za-z_][\w.]*)", prose(page)):
        assert name.startswith("nvflare.") or _is_there(name), name  # NVFlare has an environment of its own


def test_the_flow_for_contributors_names_what_exists() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    flow = page.split("## The flow\n", 1)[1].split("\n## ")[0]
    named = re.findall(r"`((?:attack|client)\.[\w.]+)`", flow)
    assert named
    for name in named:
        assert _is_there(name), name


def test_a_python_name_that_does_not_exist_is_found() -> None:
    assert _is_there("audit.recording.audit_recording")
    assert _is_there("metric.bound.gaussian_bound")
    for gone in ("audit.recording.run", "metric.bound.gaussian", "client.train", "attack.certificate"):
        assert not _is_there(gone)


def _is_there(name: str) -> bool:
    """Whether `fedseal` has something of that dotted name, a module or what stands in one."""
    found: object = fedseal
    for place, part in enumerate(parts := name.split("."), start=1):
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(".".join(["fedseal", *parts[:place]]))
        except ModuleNotFoundError:
            return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_bracket_of_a_paragraph_is_closed(page: Path) -> None:
    for paragraph in prose(page).split("\n\n"):
        written = re.sub(r"`[^`]*`", "", paragraph)
        assert written.count("(") == written.count(")"), paragraph


def test_the_layout_for_contributors_names_every_module_and_draws_the_arrows_of_captured() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    layout = page.split("## Layout\n", 1)[1].split("\n## ")[0]
    for path in (ROOT / "src" / "fedseal").glob("*.py"):
        assert path.stem == "__init__" or path.name in layout, f"{path.name} stands nowhere in the layout"
    drawn = re.search(r"captured -> \{([\w, ]+)\}", layout)
    assert drawn is not None
    assert set(drawn[1].split(", ")) == ARROWS["captured"]


def test_files_named_in_the_prose_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`((?:src|tests|docs|examples)/[\w./-]+)`", prose(page)):
            if name != "docs/benchmarks.md":
                assert (ROOT / name).exists(), f"{page.name} names {name}"
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make (\w+)", ALL, re.MULTILINE)) <= set(targets)


def test_the_readme_has_its_place_for_figures() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert MARKER in text
    assert "docs/benchmarks.md" in text
