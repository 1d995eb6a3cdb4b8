"""A real headless Chromium (Debian's) for the tests, and what a visitor may not meet: errors, barriers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ("--no-sandbox", "--disable-quic", "--disable-background-networking")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: no page is tried in a browser"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """The page at ``address``; at the end it must have printed nothing to the console."""
    said: list[str] = []
    with browser.new_context(**context) as own:
        page = own.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        yield page
        assert not said, said


def barriers(page: Page) -> list[str]:
    """What axe-core finds in the way of people who cannot see, or see otherwise: WCAG and best practice."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found]


def downloaded(page: Page, button: str) -> tuple[str, list[str]]:
    """Name and lines of the file that a click on ``button`` saves."""
    with page.expect_download() as waiting:
        page.locator(button).click()
    path = waiting.value.path()
    return waiting.value.suggested_filename, Path(path).read_text(encoding="utf-8").splitlines()
