"""The code on the page about environments runs, and its names are those of the environment."""

import re
from pathlib import Path

import gymnasium
import pytest

from pxr_env import operations

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
TASK = "pxr_env:pxr/SyntheticSearch-v0"


def test_the_python_blocks_run(monkeypatch, capsys):
    monkeypatch.setattr(operations, "_OPERATIONS", dict(operations._OPERATIONS))
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(first, names)
    assert names["terminated"]
    assert names["info"]["usage"] == {"zoom_in": 1}
    assert "What letter" in capsys.readouterr().out
    exec(second, names)
    names["env"].reset(seed=0)
    call = '<tool_call>{"name": "upper_half", "arguments": {"target_image": 1}}</tool_call>'
    assert names["env"].step(call)[-1]["views"][1]["box"] == (0, 0, 336, 168)


def test_the_table_of_info_is_complete():
    table = PAGE.partition("| `info` key |")[2].partition("\n\n")[0]
    documented = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    env = gymnasium.make(TASK, max_turns=1)
    seen = set(env.reset(seed=0)[1]) | set(env.step("hm")[-1])
    assert documented == seen


@pytest.mark.parametrize("task", ["synthetic_search", "rl_data"])
def test_every_argument_is_documented(task):
    from pxr_env import tasks

    for name in getattr(tasks, task).__kwdefaults__:
        assert f"`{name}`" in PAGE or f"`{name}=" in PAGE, name
