"""The report as its readers meet it, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page

from browser.conftest import Tab
from fedseal.report import html
from fedseal.types import RouteNote
from report.records import Shot, on_disk

Open = Callable[..., Tab]
NASTY = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
SEARCH = {"status": "budget", "route": "matching", "residual": 0.02, "attack": "dlg"}


def shots() -> list[Shot]:
    exact = [Shot((90.0 + i,), first=i, seconds=0.1 * (i + 1)) for i in range(9)]
    found = [Shot((30.0 - i,), first=i, frames=6, seconds=9.0 + i, **SEARCH) for i in range(3)]  # type: ignore[arg-type]
    return [
        *exact,
        *found,
        Shot((None,), first=9, status="diverged", attack="dlg", frames=4, seconds=100.0),
        Shot((8.0, 50.0), first=20, status="budget", frames=5, defense="gaussian:0.01"),
        Shot((None,), first=1, status="refused", threat="eavesdropper", note="it needs the weights; grant them"),
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return html(on_disk(shots(), folder / "run"), folder / "report.html")


def column(page: Page, name: str) -> list[str]:
    names = [text.strip() for text in page.locator("#table thead th").all_inner_texts()]
    return page.locator(f"#table tbody tr:visible td:nth-child({names.index(name) + 1})").all_inner_texts()


SERVER = "Honest-but-curious server"


def group(page: Page, name: str, attacker: str) -> list[str]:
    """A column of one attacker's lines."""
    names = [text.strip() for text in page.locator("#table thead th").all_inner_texts()]
    body = page.locator("#table tbody", has=page.get_by_text(attacker, exact=True))
    return body.locator(f"tr:visible td:nth-child({names.index(name) + 1})").all_inner_texts()


def heading(page: Page, name: str) -> Locator:
    return page.locator("#table thead th", has_text=name)


def brightness(page: Page) -> float:
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in color.strip("rgb()").split(",")) / 3


def all_seen(page: Page, texts: int) -> bool:
    """Whether so many texts come by; asked from here, as the page forbids to evaluate strings."""
    for _ in range(200):
        if page.evaluate("window.seen.size") == texts:
            return True
        page.wait_for_timeout(50)
    return False


def test_the_report_opens_without_a_complaint_and_asks_for_nothing_else(report: Path, open_tab: Open) -> None:
    tab = open_tab(report)
    assert tab.page.title() == "Leakage report: lenet on photos"
    assert "recovered 9 of 10 private pictures" in tab.page.locator("h1").inner_text()
    broken = tab.page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).length")
    assert broken == 0
    assert tab.requests == [f"file://{report}"]


def test_a_click_sorts_by_number_and_a_second_one_turns_it_around(report: Path, open_tab: Open) -> None:
    page = open_tab(report).page
    time = heading(page, "Time")
    time.locator("button").click()
    ascending = column(page, "Time")
    assert time.get_attribute("aria-sort") == "ascending"
    assert (
        ascending.index("0.10 s") < ascending.index("9.0 s") < ascending.index("11.0 s") < ascending.index("1 min 40 s")
    )
    time.locator("button").click()
    assert time.get_attribute("aria-sort") == "descending"
    assert group(page, "Time", SERVER)[0] == "1 min 40 s"
    assert page.locator("#table [aria-sort=ascending], #table [aria-sort=descending]").count() == 1


def test_the_keyboard_sorts_and_what_was_not_measured_stays_last(report: Path, open_tab: Open) -> None:
    page = open_tab(report).page
    button = heading(page, "PSNR").locator("button")
    for _ in range(2):
        button.focus()
        page.keyboard.press("Enter")
        assert group(page, "PSNR", SERVER)[-1] == "–"
    assert group(page, "PSNR", SERVER)[0] == "98.0 dB"


def test_sorting_and_filtering_leave_every_line_with_its_attacker(report: Path, open_tab: Open) -> None:
    page = open_tab(report).page
    attackers = page.locator("#table tr.who > th bdi:visible")
    assert attackers.all_inner_texts() == ["Eavesdropper", SERVER]
    for name in ("PSNR", "Cell", "Attack"):
        heading(page, name).locator("button").click()
        assert attackers.all_inner_texts() == ["Eavesdropper", SERVER]
        assert group(page, "Status", "Eavesdropper") == ["Refused"]
        assert len(group(page, "Status", SERVER)) == len(shots()) - 1
    page.get_by_label("Filter").fill("eavesdropper")
    assert column(page, "Status") == ["Refused"]
    assert attackers.all_inner_texts() == ["Eavesdropper"]


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_eight_examples_of_a_batch_with_long_names_fit_their_card(tmp_path: Path, open_tab: Open, width: int) -> None:
    name = "inverting_gradients:steps=4800,labels=geng_bias,restarts=16,tv=0.01" + "x" * 60
    shots = [
        Shot(tuple(90.0 - 9 * i for i in range(examples)), first=12345 + 100 * examples, attack=name, status="budget")
        for examples in (8, 2, 40)
    ]
    page = open_tab(
        html(on_disk(shots, tmp_path / "run"), tmp_path / "batch.html"), viewport={"width": width, "height": 900}
    ).page
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOW) == []
    assert page.locator(".card.batch").count() == 3
    assert page.locator(f"#cell-{shots[0].key.id} .panel").count() == 8
    assert "32 more examples of this batch" in page.locator(f"#cell-{shots[2].key.id}").inner_text()


def test_the_filter_keeps_lines_that_hold_every_word(report: Path, open_tab: Open) -> None:
    page = open_tab(report).page
    page.get_by_label("Filter").fill("DLG  diverg")
    assert set(column(page, "Attack")) == {"dlg"}
    assert len(column(page, "Attack")) == 1
    assert page.locator("#shown").inner_text() == f"1 of {len(shots())} cells"
    page.get_by_label("Filter").fill("")
    assert len(column(page, "Attack")) == len(shots())


def test_the_scrubber_walks_through_the_iterations_by_keyboard(report: Path, open_tab: Open) -> None:
    page = open_tab(report).page
    card = page.locator(f"#cell-{shots()[9].key.id}")
    picture, slider = card.locator("img[data-guess]"), card.get_by_role("slider")
    result = picture.get_attribute("src")
    assert card.locator("output").inner_text() == "result"
    slider.focus()
    page.keyboard.press("Home")
    assert card.locator("output").inner_text() == "step 0 of 300"
    first = picture.get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "step 10 of 300"
    second = picture.get_attribute("src")
    page.keyboard.press("End")
    assert len({result, first, second}) == 3
    assert picture.get_attribute("src") == result


def test_one_scrubber_moves_every_picture_of_a_batch(report: Path, open_tab: Open) -> None:
    page = open_tab(report).page
    card = page.locator(f"#cell-{shots()[13].key.id}")
    pictures = card.locator("img[data-guess]")
    before = [pictures.nth(i).get_attribute("src") for i in range(pictures.count())]
    card.get_by_role("slider").focus()
    page.keyboard.press("Home")
    after = [pictures.nth(i).get_attribute("src") for i in range(pictures.count())]
    assert len(before) == 2
    assert not set(before) & set(after)


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_the_page_stays_on_the_final_picture_until_the_iterations_are_asked_for(
    report: Path, open_tab: Open, motion: str
) -> None:
    page = open_tab(report, reduced_motion=motion).page
    card = page.locator(f"#cell-{shots()[9].key.id}")
    picture, caption = card.locator("img[data-guess]"), card.locator("figcaption").nth(1)
    final = picture.get_attribute("src")
    page.evaluate(
        """id => { window.seen = new Set(); const out = document.querySelector(`#cell-${id} output`);
        new MutationObserver(() => window.seen.add(out.textContent)).observe(out, {childList: true}); }""",
        shots()[9].key.id,
    )
    card.locator(".scrubber").scroll_into_view_if_needed()
    page.wait_for_timeout(600)  # a strip that plays by itself would have begun
    assert page.evaluate("window.seen.size") == 0
    assert (picture.get_attribute("src"), caption.inner_text()) == (final, "Reconstruction")
    card.locator(".scrubber button").click()
    assert all_seen(page, 7)
    assert (picture.get_attribute("src"), caption.inner_text()) == (final, "Reconstruction")


def test_an_iteration_is_never_called_the_reconstruction(report: Path, open_tab: Open) -> None:
    page = open_tab(report).page
    card = page.locator(f"#cell-{shots()[13].key.id}")
    card.get_by_role("slider").focus()
    page.keyboard.press("Home")
    captions = card.locator("img[data-guess] ~ figcaption").all_inner_texts()
    assert captions == ["Iteration: step 0 of 300"] * 2


def test_paper_shows_the_final_picture_wherever_the_strip_stood(report: Path, open_tab: Open) -> None:
    page = open_tab(report, reduced_motion="no-preference").page
    card = page.locator(f"#cell-{shots()[9].key.id}")
    picture, caption = card.locator("img[data-guess]"), card.locator("figcaption").nth(1)
    final = picture.get_attribute("src")
    card.get_by_role("slider").focus()
    page.keyboard.press("Home")
    assert picture.get_attribute("src") != final
    page.pdf()  # as a reader prints it
    assert (picture.get_attribute("src"), caption.inner_text()) == (final, "Reconstruction")


def test_a_link_from_the_table_unfolds_the_card_it_leads_to(report: Path, open_tab: Open) -> None:
    page = open_tab(report).page
    card = page.locator(f"#cell-{shots()[0].key.id}")
    assert not card.is_visible()
    page.locator(f'#table a[href="#cell-{shots()[0].key.id}"]').click()
    card.wait_for(state="visible")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_badges_contrast_with_their_ground(report: Path, open_tab: Open, scheme: str) -> None:
    page = open_tab(report, color_scheme=scheme).page
    assert (brightness(page) > 200) == (scheme == "light")
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 100
    assert {text: ratio for text, ratio in ratios if ratio < 4.5} == {}


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_shows_it_all_without_scrolling_sideways(report: Path, open_tab: Open, width: int) -> None:
    page = open_tab(report, viewport={"width": width, "height": 844}).page
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_paper_shows_what_is_folded_and_no_controls(report: Path, open_tab: Open) -> None:
    page = open_tab(report).page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(f"#cell-{shots()[0].key.id}").is_visible()
    assert not page.locator("#filter").is_visible()
    assert not page.get_by_role("slider").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator(f"#cell-{shots()[0].key.id}").is_visible()


def test_names_that_try_to_run_are_shown_and_do_nothing(tmp_path: Path, open_tab: Open) -> None:
    note = RouteNote(NASTY, True, NASTY)
    made = on_disk(
        [
            Shot(attack=NASTY, defense=NASTY, threat=NASTY, route=NASTY, note=NASTY, explanation=(note,), frames=3),
            Shot((None,), status="refused", note=NASTY),
        ],
        tmp_path / "run",
        case=NASTY,
        model=NASTY,
        given={NASTY: NASTY, "case": NASTY},
    )
    page = open_tab(html(made, tmp_path / "nasty.html"), viewport={"width": 390, "height": 844}).page
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.title() == f"Leakage report: {NASTY}"
    assert page.locator("img[onerror], [src=x]").count() == 0
    assert page.get_by_text(NASTY).count() > 5
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_unfinished_record_without_cells_works_too(tmp_path: Path, open_tab: Open) -> None:
    page = open_tab(html(on_disk([], tmp_path / "run", missing=3), tmp_path / "empty.html")).page
    assert "No attack has finished yet" in page.locator("h1").inner_text()
    heading(page, "PSNR").locator("button").click()


# WCAG 2 contrast of every element that holds text of its own, against the nearest ground that is not transparent.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((node) => node.checkVisibility() && [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim()))
    .map((node) => {
      const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))];
      return [node.textContent.trim().slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}"""

# What stands out of its card to either side.
OVERFLOW = """() => [...document.querySelectorAll(".card")].flatMap((card) => {
  const box = card.getBoundingClientRect();
  return [...card.querySelectorAll("*")]
    .filter((node) => node.checkVisibility())
    .map((node) => [node, node.getBoundingClientRect()])
    .filter(([, own]) => own.left < box.left - 1 || own.right > box.right + 1)
    .map(([node]) => node.outerHTML.slice(0, 80));
})"""
