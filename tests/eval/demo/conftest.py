"""The demo's server as its command starts it, on a free port."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.browser import launched


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A function that starts the demo with a command line; gives its address."""
    pytest.importorskip("gradio", reason="the demo needs gradio: install it")
    from eval.demo.command import add_arguments, choose, player
    from eval.demo.serve import launch

    with ExitStack() as stack:

        def start(*command: str, at_once: int | None = None) -> str:
            parser = argparse.ArgumentParser()
            add_arguments(parser)
            arguments = parser.parse_args(command)
            choice, defaults = choose(arguments)
            open_player = stack.enter_context(player(choice))
            page, url = launch(
                open_player,
                title=str(choice.model),
                defaults=defaults,
                task=arguments.env,
                at_once=at_once or (1 if choice.server is None else 8),
                host="127.0.0.1",
                port=0,
                folder=tmp_path / "uploads",
            )
            stack.callback(page.close, verbose=False)
            return url

        yield start


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens the demo in a browser of its own; no request may leave for another machine."""
    contexts, elsewhere, mistakes = [], [], []

    def opened(url: str, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        allowed = (url, "data:", "blob:", url.replace("http", "ws", 1))
        page.on("request", lambda asked: None if asked.url.startswith(allowed) else elsewhere.append(asked.url))
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        # What the policy kept from leaving is an error in the console.
        page.on("console", lambda told: mistakes.append(told.text) if "Content Security" in told.text else None)
        page.goto(url)
        page.wait_for_selector("#ask")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert mistakes == []
