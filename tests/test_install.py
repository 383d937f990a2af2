"""`pip install .`, also `--editable`, hides nothing of a project that has a `training` and an `eval` of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {name: name for name in ("pxr_env", "pxr_agents", "pxr_verifiers")}
PACKAGES |= {"training": "pxr_training", "eval": "pxr_eval"}
NO_CACHE = shutil.ignore_patterns("__pycache__")
# As a script of the user's: his own folders, ours, and every module that a command names.
MINE = """
from importlib import import_module
from eval.scores import best
from training.loop import main
from pxr_eval.__main__ import COMMANDS
from pxr_training.config import OWN_REWARDS
from pxr_env.tasks import import_function
assert (main(), best) == ("mine", 1)
print(*(import_module(command.module, "pxr_eval").__name__ for command in COMMANDS.values()))
print(*map(import_function, OWN_REWARDS.values()))
"""
# In a checkout both names may be written, in either order.
BOTH = """
import {0}, {1}, {0}.config, {1}.config, {1}.recipe_reader, {0}.recipe_reader
assert {0} is {1} and {0}.config.PPORecipe is {1}.config.PPORecipe and {0}.recipe_reader is {1}.recipe_reader
assert {1}.__spec__.name == {1}.__name__ == "{0}" and {1}.config.__spec__.name == "{0}.config"
"""


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture(scope="module", params=["", "--editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The checkout, and site-packages and bin of an environment where it is installed, beside what the tests have."""
    home = tmp_path_factory.mktemp("home")
    checkout, environment = home / "checkout", home / "venv"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, checkout / name, ignore=NO_CACHE)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    venv.create(environment, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)}))
    (site / "beside.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    python = environment / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--no-index", "--quiet", *request.param.split(), str(checkout)], check=True)
    return checkout, site, python.parent


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_stands_beside_a_project_with_the_same_folders(installed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    checkout, site, bin = installed
    if (site / "pxr_env").exists():
        folders = {path.name for path in site.iterdir() if path.is_dir() and path.suffix != ".dist-info"}
        assert folders == set(PACKAGES.values())
        assert all(files(site / name) == files(ROOT / folder) for folder, name in PACKAGES.items())
    else:
        code = "import training.config; print(training.config.__file__)"
        assert run(bin / "python", "-c", code, cwd=checkout).strip() == str(checkout / "training" / "config.py")
        for names in (("training", "pxr_training"), ("pxr_training", "training")):
            run(bin / "python", "-c", BOTH.format(*names), cwd=checkout)
        assert "usage: python -m eval" in run(bin / "python", "-m", "eval", "--help", cwd=checkout)

    for name, text in (("training/loop.py", 'def main():\n    return "mine"\n'), ("eval/scores.py", "best = 1\n")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    assert "pxr_eval.audit.audit" in run(bin / "python", "-c", MINE, cwd=tmp_path)
    assert "pxr_env|pxr_training|pxr_eval" in run(bin / "pxr", "--help", cwd=tmp_path)
    assert "usage: python -m pxr_training" in run(bin / "pxr", "train", "--help", cwd=tmp_path)
    keys = run(bin / "python", "-m", "pxr_training", "quickstart", "--keys", cwd=tmp_path)
    assert keys == run(sys.executable, "-m", "training", "quickstart", "--keys", cwd=ROOT)
    environment = "pxr_env:pxr/SyntheticSearch-v0"
    run(bin / "pxr", "eval", "run", environment, "--agent", "oracle", "--limit", "2", "--out", "run", cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
