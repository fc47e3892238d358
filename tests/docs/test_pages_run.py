"""Readers copy from these pages, so every line of code on them runs and prints what the page shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from docs.pages import ROOT, agrees, blocks, follow
from fedseal import types
from fedseal.modality import picture
from fedseal.setup.audit import AuditFile, load_config

Command = Callable[[list[str]], tuple[int, str]]


@pytest.mark.slow
def test_the_readme_runs(desk: Path, fedseal: Command) -> None:
    names = follow(ROOT / "README.md", fedseal)
    reconstruction = names["reconstruction"]
    assert isinstance(reconstruction, types.Reconstruction)
    assert reconstruction.outcome.status == "exact"
    assert (desk / "runs/readme/report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_it_shows(desk: Path, fedseal: Command) -> None:
    follow(ROOT / "docs/tutorial.md", fedseal)
    assert (desk / "runs/tutorial/report.html").is_file()
    assert (desk / "runs/mine/report.html").is_file()


@pytest.mark.slow
def test_the_readmes_pictures_are_what_the_command_makes(desk: Path, fedseal: Command) -> None:
    code, _ = fedseal(["attack", "--index", "0", "--out", "cat", "--quiet"])
    assert code == 0
    for made, shown in (("original", "original"), ("reconstruction", "auto")):
        one = picture.load_picture(Path(f"cat/{made}.png")).pixels
        other = picture.load_picture(ROOT / f"docs/images/{shown}.png").pixels
        assert (one - other).abs().max() <= 2 / 255


def test_the_worked_attack_runs_and_obeys_the_laws(desk: Path, fedseal: Command) -> None:
    names = follow(ROOT / "docs/adding-an-attack.md", fedseal)
    assert "Suspects" in names


def test_the_labels_on_the_choosing_page_are_certified() -> None:
    (shown,) = (block for block in blocks(ROOT / "docs/how-to-choose.md") if block.language == "python")
    names: dict[str, object] = {}
    exec(shown.content, names)  # it asserts
    assert "found" in names


def test_the_tutorials_yaml_has_every_key_and_loads(desk: Path) -> None:
    files = {block.title: block.content for block in blocks(ROOT / "docs/tutorial.md") if block.title}
    for name, content in files.items():
        Path(name).write_text(content)
    setup = load_config("audit.yaml")
    assert setup.given is not None
    others = {"case", "text", "table", "label", "missing", "range"}  # of other data than pictures in a folder
    assert set(setup.given) - {"config"} == set(AuditFile.model_fields) - others
    assert (
        setup.case.training.describe()
        == types.LocalTraining.fedavg(lr=0.01, epochs=2, batch_size=8, mode="eval").describe()
    )


def test_a_page_that_shows_what_is_not_printed_is_caught(desk: Path) -> None:
    page = Path("page.md")
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match="shows"):
        follow(page, lambda _: (0, ""))
    page.write_text("```console\n$ fedseal recipes\nnothing\n```\n")
    with pytest.raises(AssertionError, match="prints"):
        follow(page, lambda _: (0, "dlg"))
    page.write_text("```console\n$ fedseal recipes\n$ echo $?\n0\n```\n")
    with pytest.raises(AssertionError, match="exit code is 1"):
        follow(page, lambda _: (1, ""))
    assert agrees("a ... c", "a  b  c")
