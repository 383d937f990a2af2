"""The browser of this machine, for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def launched() -> Iterator[Any]:
    """Chromium without a window, driven by playwright, or a skipped test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are tested with playwright: install it")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser was found; expected one of {', '.join(NAMES)} on the PATH")
    with playwright.sync_playwright() as driver:
        # Containers often run as root and have little shared memory.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()
