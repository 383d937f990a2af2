"""What many tests share: a tiny, randomly initialized Qwen3-VL checkpoint, and a browser."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from tests.browser import Watcher, launched

# No test is timed. In CI examples are the same at every run; new ones are found by those who work on the code.
settings.register_profile("pxr", settings.get_profile("ci" if os.environ.get("CI") else "default"), deadline=None)
settings.load_profile("pxr")

# What starts in the background of a script ignores Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test loads torch: threads that spin while they wait starve the Ray processes of other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

#: Files that take longest: where files run side by side, one that starts last would be left running alone.
LONGEST = ("test_faults.py", "test_adapters.py", "test_context.py", "test_ppo_options.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


TEXTS = [
    "What letter is in the red box?",
    "What letter is in the blue box?",
    '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [28, 0, 56, 28], "target_image": 1}}\n</tool_call>',
    '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0, 56, 28, 84], "target_image": 1}}\n</tool_call>',
    "\\boxed{A}",
    "\\boxed{T}",
]
ATOM = r"red|green|blue|\b\d+\b|(?<=\{)[A-Z](?=\})"


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint directory; nobody may write into it."""
    tiny = pytest.importorskip("pxr_agents.tiny")
    path = tmp_path_factory.mktemp("tiny") / "model"
    tiny.build(path, TEXTS, ATOM, seed=0)
    return path


@pytest.fixture
def tiny_vlm(tiny_path: Path):
    from pxr_agents.vlm import VLM

    return VLM.from_pretrained(tiny_path)


@pytest.fixture
def noise_image():
    """A function that makes an image of noise of a width and height."""
    rng = np.random.default_rng(0)

    def make(width: int = 84, height: int = 84) -> np.ndarray:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser for the tests of a module."""
    with launched() as browser:
        yield browser


@pytest.fixture
def watcher(chromium: Any) -> Iterator[Watcher]:
    """Opens pages; the test fails if one of them did what it should never do."""
    watcher = Watcher(chromium)
    yield watcher
    watcher.close()
    assert watcher.mistakes == []
