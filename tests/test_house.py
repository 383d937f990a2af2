"""Rules that hold for the whole repository: who may import whom, and what importing a part costs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_import_contracts() -> None:
    # In a process of its own: its live display and pytest's capture close each other's files once Ray is imported.
    result = run_python("from importlinter import cli; cli.lint_imports_command(['--no-cache'])")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "without"),
    [
        (
            "pxr_env",
            [
                "torch",
                "transformers",
                "ray",
                "pyarrow",
                "decord",
                "av",
                "datasets",
                "math_verify",
                "rich",
                "jinja2",
                "pandas",
            ],
        ),
        ("pxr_env.testing", ["pytest", "torch", "transformers", "ray", "pyarrow"]),
        ("pxr_agents.rollout", ["torch", "transformers", "ray", "vllm", "pyarrow"]),
        ("pxr_agents.remote", ["torch", "transformers", "ray", "vllm", "pyarrow"]),
        ("pxr_agents.statistics", ["torch", "transformers", "ray", "vllm", "pyarrow"]),
        ("eval.runner", ["torch", "transformers", "ray", "vllm", "pyarrow", "wandb"]),
        ("eval.report", ["torch", "transformers", "ray", "vllm", "pyarrow", "wandb"]),
        ("eval.view.server", ["torch", "transformers", "ray", "vllm", "pyarrow", "wandb"]),
    ],
)
def test_a_part_imports_without_what_it_does_not_need(module: str, without: list[str]) -> None:
    # None in sys.modules makes every import of the name fail, at import time as well as inside functions.
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in without)
    result = run_python(f"import sys\n{blocked}import {module}")
    assert result.returncode == 0, result.stderr


def test_what_is_installed_under_another_name_imports_its_own_parts_relatively() -> None:
    own = re.compile(r"^ *(?:from|import) (?:pxr_)?(?:training|eval)\b.*", re.MULTILINE)
    paths = [path for folder in ("training", "eval") for path in (ROOT / folder).rglob("*.py")]
    assert {str(path): found for path in paths if (found := own.findall(path.read_text()))} == {}


def test_pins_satisfy_the_declared_ranges() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements" / "cpu.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    declared = [*PYPROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    checked = {
        requirement.name
        for requirement in map(Requirement, declared)
        if requirement.name in pins and requirement.specifier.contains(pins[requirement.name])
    }
    assert checked == pins.keys()
