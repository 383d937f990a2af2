"""Environments that never come back: those that can be interrupted are, and processes of the others end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import gymnasium
import pytest

from tests.training import faulty
from training.watchdog import STUCK_STATUS, StuckEnvironmentError, Watchdog

ROOT = Path(__file__).resolve().parents[2]


def started(folder, what, watchdog, times=faulty.ALWAYS):
    env = watchdog.watch(gymnasium.make(faulty.ID, folder=str(folder), faults={"train-3": [what, times]}))
    env.reset(options={"sample_id": "train-3"})
    return env


def test_a_call_that_waits_is_interrupted_and_named(tmp_path):
    watchdog = Watchdog(1.0)
    env = started(tmp_path / "faults", "sleep", watchdog, times=1)
    with watchdog, pytest.raises(StuckEnvironmentError) as caught:
        env.step("\\boxed{A}")
    assert caught.value.sample_id == "train-3"
    text = str(caught.value)
    assert text.startswith(
        "step of faulty/Search-v0 has not come back for env_timeout=1 s with sample train-3. It waits in"
    )
    assert "faulty.py:" in text
    # What comes back is left alone, and so is what happens outside of calls.
    with watchdog:
        env.step("\\boxed{A}")
        threading.Event().wait(1.5)
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog" and not thread.daemon]


def test_a_sample_that_cannot_be_shown_is_named(tmp_path):
    watchdog = Watchdog(5.0)
    env = started(tmp_path / "faults", "unreadable", watchdog, times=1)
    with (
        watchdog,
        pytest.raises(StuckEnvironmentError, match=r"step of faulty/Search-v0 .*faulty\.py.*decoded") as caught,
    ):
        env.step("\\boxed{A}")
    assert caught.value.sample_id == "train-3"
    with watchdog:
        env.step("\\boxed{A}")


HANGS = """
import sys
from tests.training.test_watchdog import started
from training.watchdog import Watchdog

watchdog = Watchdog(1.0, grace=1.0)
env = started(sys.argv[1], sys.argv[2], watchdog)
with watchdog:
    env.step("A")
"""


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("stubborn", STUCK_STATUS, "with sample train-3. It waits in"),
        # Nothing runs in Python any more; the stacks of all threads are all there is.
        ("native", 1, "Timeout ("),
    ],
)
def test_a_process_that_cannot_be_interrupted_ends(tmp_path, what, status, said):
    command = [sys.executable, "-c", HANGS, str(tmp_path / "faults"), what]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "faulty.py" in done.stderr
