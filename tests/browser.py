"""The browser of this machine for tests of pages, and what notices what a page should never do."""

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


#: Texts that would like to be scripts. Each sets `window.hacked` where it is taken for HTML, or runs as an address.
ATTACKS = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script><!--",
    "</template></textarea></title></style><script>window.hacked = 3</script>",
    '"><img src=x onerror="window.hacked = 4">',
    "' onfocus='window.hacked = 5' autofocus='",
    "<svg onload=window.hacked=6>",
    "javascript:window.hacked=7",
    '<a href="javascript:window.hacked=8">&amp;</a>',
    "\u202e\u2066gnp.esrever \ud800\udfff\ud800 \u2028 \x00 {{ 7 * 7 }}",
    "<iframe srcdoc='<script>parent.hacked = 9</script>'>" + "long " * 5000,
)

_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


class Watcher:
    """Opens pages and remembers their mistakes: errors, dialogs, violations of their policy, requests elsewhere."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self.mistakes: list[str] = []
        self._contexts: list[Any] = []

    def open(self, url: str, ready: str = "html[data-ready]", **options: Any) -> Any:
        """A page in a context of its own, once there is an element `ready` in it."""
        context = self._browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(_WATCH)
        page.on("pageerror", lambda error: self.mistakes.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.mistakes.append("dialog"), dialog.dismiss()))
        page.on("console", lambda said: self.mistakes.append(said.text) if "Content Security" in said.text else None)
        origin = "/".join(url.split("/")[:3])
        page.on("request", lambda request: self._saw(request.url, origin))
        page.goto(url)
        page.wait_for_selector(ready, state="attached")
        return page

    def go(self, page: Any, url: str) -> None:
        page.goto(url)
        self.ready(page)

    def ready(self, page: Any) -> None:
        page.wait_for_selector("html[data-ready]", state="attached")

    def check(self, page: Any) -> None:
        """Nothing that was written into the page has run, and nothing has tried to."""
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("window.violations") == []

    def _saw(self, url: str, origin: str) -> None:
        if not url.startswith((origin, "data:", "blob:")):
            self.mistakes.append(f"request: {url}")

    def close(self) -> None:
        for context in self._contexts:
            context.close()
