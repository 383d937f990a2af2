"""Checking from the command line, by pytest itself, and the checks that start processes."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tomllib
from pathlib import Path

import gymnasium
import pytest

from pxr_env.__main__ import main
from pxr_env.tasks import TASKS
from pxr_env.testing import check_task, plugin

MODULE = '''
import multiprocessing
import os
from dataclasses import replace

from pxr_env import Task, register_task
from pxr_env.synthetic import SyntheticSearch


class Plain(SyntheticSearch):
    """Nothing is wrong with it."""


class Hashing(SyntheticSearch):
    """Depends on the order in which this process hashes text."""

    def get(self, sample_id):
        return replace(super().get(sample_id), question=f"What letter? {os.environ.get('PYTHONHASHSEED')}")


class AtHome(SyntheticSearch):
    """Can only be made where it was written."""

    def __init__(self, *, num_samples: int = 100):
        if multiprocessing.parent_process() is not None:
            raise RuntimeError("not here")
        super().__init__(num_samples=num_samples)


for name in ("Plain", "Hashing", "AtHome"):
    register_task(Task(id=f"own/{name}-v0", summary=name, data=f"own_tasks:{name}"))
'''


@pytest.fixture
def own_tasks(tmp_path, monkeypatch):
    """A module of tasks that another process can import, and that is gone after the test."""
    (tmp_path / "own_tasks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(TASKS)
    yield
    # The table itself: other modules hold it by name.
    TASKS.clear()
    TASKS.update(before)
    sys.modules.pop("own_tasks", None)
    for task_id in [name for name in gymnasium.registry if name.startswith("own/")]:
        del gymnasium.registry[task_id]


def check(*words):
    """Runs `python -m pxr_env check` with these words."""
    return main(["check", *words])


def test_a_task_of_the_user_passes(own_tasks, capsys):
    assert check("own_tasks:own/Plain-v0", "--set", "hard_fraction=1.0", "--samples", "1") == 0
    out = capsys.readouterr().out
    assert re.search(r"^4\d passed in ", out.splitlines()[-1])
    assert "slowest 5 durations" in out
    assert "test_vector_environments_in_processes_work" in out


@pytest.mark.parametrize(
    ("name", "name_of_check", "messages"),
    [
        (
            "Hashing",
            "another_process_gives_the_same_episode",
            ("in another process", "At index 0 diff: ['after reset, text'"),
        ),
        ("AtHome", "vector_environments_in_processes_work", ("a process ended before it answered",)),
    ],
)
def test_what_goes_wrong_in_other_processes_only(own_tasks, name, name_of_check, messages):
    check_task(f"own_tasks:own/{name}-v0", samples=1).raise_if_failed()
    report = check_task(f"own_tasks:own/{name}-v0", samples=1, processes=True)
    assert list(report.failed) == [name_of_check], str(report)
    assert all(message in str(report) for message in messages)
    assert any(name.endswith(name_of_check) for name in plugin.PROCESS_CHECKS)


def test_a_task_that_fails(own_tasks, capsys):
    """All checks run whatever the others find, and say what for every sample."""
    assert check("own_tasks:own/Plain-v0", "--quick", "--samples", "2", "--set", "operations=") == 1
    out = capsys.readouterr().out
    assert "the oracle executed none" in out
    assert "zoom_in is no operation of this task." in out
    assert re.search(r"^1 failed, \d\d passed, \d+ skipped, 2 deselected in ", out.splitlines()[-1])


def test_a_report(own_tasks):
    report = check_task("own_tasks:own/Plain-v0", samples=2, arguments={"operations": []})
    assert not report.passed
    assert list(report.failed) == ["needed_operations_show_the_evidence"]
    assert report.skipped["boxes_reach_the_edges"] == "zoom_in is no operation of this task."
    assert str(report).startswith("own_tasks:own/Plain-v0: ")
    with pytest.raises(AssertionError, match="the oracle executed none"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--task", "own_tasks:own/Plain-v0", "--task-samples=1", "--task-set", "grid=3", "dialect=tags"], 0, "passed"),
        (["--operation", "rotate"], 0, "18 passed"),
        (["--task", "pxr/NoSuchTask-v0"], 4, "expected a registered id"),
        (["--operation", "zoom"], 4, 'Did you mean "zoom_in"'),
        ([], 2, "expected --task my_module:my/Task-v0 or --operation"),
    ],
)
def test_pytest_itself(own_tasks, words, code, message, capsys):
    alone = ["-c", os.devnull, "-p", "no:cacheprovider", "-p", plugin.__name__]
    deselected = [f"--deselect={plugin.HERE}/{name}" for name in plugin.PROCESS_CHECKS]
    assert pytest.main([*alone, *deselected, "-q", "--pyargs", "pxr_env.testing", *words]) == code
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


def test_every_pytest_finds_the_plugin():
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    [(name, module)] = declared["entry-points"]["pytest11"].items()
    # The same name: whoever gives it with -p as well gets one plugin.
    assert name == module == "pxr_env.testing.plugin"
    assert callable(importlib.import_module(module).pytest_addoption)


def test_without_pytest(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pytest", None)
    assert check("pxr/SyntheticSearch-v0") == 2
    assert 'Install "pxr-gym[testing]"' in capsys.readouterr().err
    with pytest.raises(ImportError, match="the checks are pytest tests"):
        check_task("pxr_env:pxr/SyntheticSearch-v0")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("pxr_env:pxr/SyntheticSerch-v0", 'Did you mean "pxr/SyntheticSearch-v0"'),
        ("pxr/NoSuchTask-v0", "expected a registered id, such as one of pxr/SyntheticSearch-v0"),
        ("no_such_module:own/Task-v0", 'the module "no_such_module" cannot be imported'),
    ],
)
def test_a_task_that_is_none(target, message, capsys):
    assert check(target) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_arguments_that_are_none(capsys):
    assert check("pxr/SyntheticSearch-v0", "--quick", "--set", "gird=3") == 1
    assert 'Did you mean "grid"' in capsys.readouterr().out
    assert check("pxr/SyntheticSearch-v0", "--set", "grid") == 2
    assert "expected key=value" in capsys.readouterr().err


def test_subjects_of_other_kinds():
    env = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", max_turns=2, dialect="tags")
    assert env.unwrapped.limits.max_turns == 2
    report = check_task(env, samples=1)
    assert report.passed, str(report)
    assert report.subject == "pxr/SyntheticSearch-v0"
    with pytest.raises(ValueError, match="got an environment with no spec"):
        check_task(env.unwrapped.__class__(env.unwrapped.data))
    with pytest.raises(ValueError, match="arguments beside it"):
        check_task(env, arguments={"grid": 3})
    with pytest.raises(ValueError, match="got a task of type int; expected an id"):
        check_task(3)
