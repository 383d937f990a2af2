"""What the pages say about environments: their code runs, their names are the environment's, none is out of date."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from PIL import Image

from pxr_env.__main__ import HEADINGS, described_arguments, main, page, sections
from pxr_env.operations import registry
from pxr_env.tasks import TASKS

DOCS = Path(__file__).parents[2] / "docs"
TASK = "pxr_env:pxr/SyntheticSearch-v0"


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a page registers is forgotten after its test."""
    monkeypatch.setattr(registry, "_OPERATIONS", dict(registry._OPERATIONS))


@pytest.mark.parametrize(
    ("name", "printed"),
    [("environments.md", "What letter"), ("write_an_operation.md", "Image 2 (112x56). (0.0, 0.0, 336.0, 168.0)\n")],
)
def test_the_code_of_a_page_runs(name, printed, capsys):
    names = {}
    for block in blocks(name):
        exec(block, names)
    assert printed in capsys.readouterr().out


def test_the_page_about_tasks_of_your_own_runs(tmp_path, monkeypatch):
    module, use = blocks("write_a_task.md")
    (tmp_path / "my_module.py").write_text(module, encoding="utf-8")
    (tmp_path / "photographs").mkdir()
    for name in ("hall.jpg", "yard.jpg"):
        Image.new("RGB", (300, 200)).save(tmp_path / "photographs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {}
    try:
        exec(use, names)
        env = names["env"]
        env.reset(options={"sample_id": "hall.jpg"})
        assert env.step(r"\boxed{3}")[1] == 1.0
        text = page(TASKS["my/Doors-v0"])
        assert text.startswith("# my/Doors-v0\n\nCounting doors.")
        assert "| `data` | required |" in text
    finally:
        TASKS.pop("my/Doors-v0", None)
        gymnasium.registry.pop("my/Doors-v0", None)
        sys.modules.pop("my_module", None)


OWN = '''
from pxr_env import Sample, Task, register_task


class Doors:
    def __init__(self, place, *, n_doors: int = 3, kinds=("a", "b")):
        self.n_doors = n_doors

    def __len__(self):
        return 1


class Described(Doors):
    """Counting doors.

    Args:
        n_doors: how many | there are.
    """


register_task(Task(id="my/Doors-v0", summary="counting doors", data="my.tasks:Doors"))
register_task(Task(id="my/Described-v0", summary="", data="my.tasks:Described"))
'''


def test_the_pages_of_tasks_of_your_own_are_written(tmp_path):
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "tasks.py").write_text(OWN, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pxr_env",
        "docs",
        "my.tasks:my/Doors-v0",
        "my.tasks:my/Described-v0",
        "--out",
        "it",
    ]
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["it/Doors-v0.md", "it/Described-v0.md"]
    text = (tmp_path / "it" / "Doors-v0.md").read_text(encoding="utf-8")
    assert 'gymnasium.make("my.tasks:my/Doors-v0", data="DIR")' in text
    assert "| `data` | required | where the data is. |\n| `n_doors` | `3` |  |\n| `kinds` | `['a', 'b']` |  |\n" in text
    text = (tmp_path / "it" / "Described-v0.md").read_text(encoding="utf-8")
    assert "## Description\nCounting doors.\n" in text
    assert "| `n_doors` | `3` | how many \\| there are. |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pxr/Doors-v0"], 'got the task "pxr/Doors-v0"; expected one of pxr/SyntheticSearch-v0'),
        (["no_such:my/Doors-v0"], 'the module "no_such" cannot be imported (No module named'),
        (["pxr_env:my/Doors-v0"], 'got the task "my/Doors-v0"; expected one of'),
        ([":my/Doors-v0"], 'got the task "my/Doors-v0"; expected one of'),
        (["pxr/VStar-v0", "--out", "file"], "file"),
    ],
)
def test_pages_that_cannot_be_written_are_explained(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["docs", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err


def test_the_table_of_info_is_complete():
    text = (DOCS / "environments.md").read_text(encoding="utf-8")
    table = text.partition("| `info` key |")[2].partition("\n\n")[0]
    documented = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    env = gymnasium.make(TASK, max_turns=1)
    seen = set(env.reset(seed=0)[1]) | set(env.step("hm")[-1])
    film = gymnasium.make("pxr_env:pxr/SyntheticVideo-v0")
    assert documented == seen | set(film.reset(seed=0)[1])


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.id)
def test_the_page_of_every_task_is_up_to_date(task):
    path = DOCS / "environments" / f"{task.id.rpartition('/')[2]}.md"
    assert path.read_text(encoding="utf-8") == page(task), "run: python -m pxr_env docs"
    assert f"environments/{path.name}" in (DOCS / "environments.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (.+)", page(task), re.MULTILINE)
    assert found == [heading for heading in HEADINGS if heading in found]
    assert {"Description", "Observation", "Action", "Reward", "End", "Info", "Arguments"} <= set(found)


def test_docstrings_are_read():
    text = "One line.\n\nMore.\n\n## Reward\nAll of it.\n\nArgs:\n"
    text += (
        "    a: the first,\n        on two lines.\n    b: the second: with a colon.\n\nRaises:\n    ValueError: never."
    )
    assert sections(text) == {"": "One line.\n\nMore.", "Reward": "All of it."}
    assert described_arguments(text) == {"a": "the first, on two lines.", "b": "the second: with a colon."}


@pytest.mark.parametrize(
    "module", ["pxr_env", "pxr_env.types", "pxr_env.curiosity.formulas", "pxr_env.curiosity.group_rewards"]
)
def test_examples_in_docstrings_are_true(module):
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried > 0
    assert failed == 0


def test_links_between_pages_lead_somewhere():
    broken = []
    for path in [*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            file = target.partition("#")[0]
            if file and "://" not in target and not (path.parent / file).exists():
                broken.append(f"{path.name}: {target}")
    assert not broken
