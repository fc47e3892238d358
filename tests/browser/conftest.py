"""A headless Chromium that may load nothing but local files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Dialog, Page, Route, sync_playwright

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Tab:
    """A page with everything it complained about and asked for."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        message = "there is no chromium on the PATH; install it (Debian: apt-get install chromium)"
        if os.environ.get("FEDSEAL_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Opens a local file; when the test ends, no tab may have complained or asked for anything from elsewhere."""
    tabs: list[Tab] = []

    def open_one(path: object, **options: object) -> Tab:
        context = browser.new_context(**{"reduced_motion": "reduce", **options})  # type: ignore[arg-type]
        tab = Tab(context.new_page())
        tabs.append(tab)

        def judge(route: Route) -> None:
            tab.requests.append(route.request.url)
            if route.request.url.startswith("file://"):
                route.continue_()
            else:
                route.abort()

        def refuse(dialog: Dialog) -> None:
            tab.problems.append(dialog.message)
            dialog.dismiss()

        context.route("**/*", judge)
        tab.page.on("console", lambda message: tab.problems.append(message.text))
        tab.page.on("pageerror", lambda error: tab.problems.append(str(error)))
        tab.page.on("dialog", refuse)
        tab.page.goto(f"file://{path}")
        return tab

    yield open_one
    for tab in tabs:
        tab.page.context.close()
    assert [url for tab in tabs for url in tab.requests if not url.startswith(("file://", "data:"))] == []
    assert [problem for tab in tabs for problem in tab.problems] == []
