"""The registered tasks in Gymnasium's own machinery, and what the package imports."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from pxr_env.__main__ import main
from pxr_env.tasks import TASKS, register_tasks

TASK = "pxr_env:pxr/SyntheticSearch-v0"
LOOK = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}</tool_call>'


@pytest.mark.parametrize(
    ("arguments", "side"),
    [
        ({}, 84),
        ({"size_multiple": 32}, 96),
        ({"grid": 4}, 112),
        # The largest multiple of 3 * 28 whose square is in the budget: 5 * 84 = 420, 420 * 420 = 176400.
        ({"max_pixels": 200_000}, 420),
        ({"max_pixels": 448 * 448, "min_pixels": 3136}, 420),
    ],
    ids=str,
)
def test_any_budget_shows_certified_overviews(arguments, side):
    env = gymnasium.make(TASK, **arguments)
    needs = []
    for k in range(6):
        observation, info = env.reset(options={"sample_id": f"train-{k}"})
        assert observation["images"][0].shape == (side, side, 3)
        assert info["needs_operation"] is (info["category"] == "hard")
        needs.append(info["needs_operation"])
    assert len(set(needs)) == 2


def test_one_environment_of_a_vector_is_reset():
    envs = SyncVectorEnv([lambda: gymnasium.make(TASK)] * 2, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=1)
    *_, terminated, _, _ = envs.step((r"\boxed{A}", "hm"))
    observations, _ = envs.reset(options={"reset_mask": np.array(terminated)})
    assert observations["text"][0].startswith("What letter")
    assert observations["text"][1].startswith("Error: ")


def test_shared_memory_is_refused():
    with pytest.raises(ValueError, match="shared_memory=False"):
        AsyncVectorEnv([lambda: gymnasium.make(TASK)] * 2, shared_memory=True)


def test_every_task_is_registered_and_listed(capsys):
    register_tasks()  # a second time changes nothing
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TASKS)
    for name in TASKS:
        assert name in gymnasium.registry


def test_only_the_light_libraries_are_imported():
    program = (
        "import sys, gymnasium\n"
        f"env = gymnasium.make({TASK!r})\n"
        "env.reset(seed=0); env.step('x'); env.step('<answer>A</answer>')\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'av', 'decord', 'datasets', 'transformers', 'pandas', 'scipy', 'cv2'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert run.stderr == ""
    assert run.stdout == "[]\n"
