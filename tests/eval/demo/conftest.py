"""The demo's server as its command starts it, on a free port."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from eval.demo import add_arguments, open_demo
from tests.browser import Watcher


@pytest.fixture
def demo() -> Iterator[Callable[..., str]]:
    """A function that starts the demo with a command line; gives its address."""
    pytest.importorskip("gradio", reason="the demo needs gradio: install it")
    with ExitStack() as stack:

        def start(*command: str) -> str:
            parser = argparse.ArgumentParser()
            add_arguments(parser)
            server, _ = stack.enter_context(open_demo(parser.parse_args([*command, "--port", "0"])))
            stack.enter_context(server.running())
            return str(server.url)

        yield start


@pytest.fixture
def visit(watcher: Watcher) -> Callable[..., Any]:
    """Opens the demo in a browser of its own."""
    return lambda url, **options: watcher.open(url, "#ask", **options)
