"""Debian's Chromium for the tests that look at a page."""

import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright


@contextmanager
def opened_browser() -> Generator[Browser, None, None]:
    """Start a browser.

    Fails the test where there is none: what nobody looks at in a browser has not been tested.
    """
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("there is no chromium; expected Debian's: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def go(page: Page, file: Path, place: str = "") -> None:
    """Open a place of a page from disk, and wait until it is drawn."""
    page.goto("about:blank")
    page.goto(f"{file.as_uri()}#/{place}")
    page.wait_for_selector("main[data-ready]")


def wait_until(page: Page, expression: str, seconds: float = 30.0) -> None:
    """Wait until JavaScript says true. Not playwright's own wait, which the pages' content security policy refuses."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression} is not true after {seconds:g} s"
        page.wait_for_timeout(50)
