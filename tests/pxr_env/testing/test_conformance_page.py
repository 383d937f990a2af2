"""The page about the suite: its code runs, and its tables are the docstrings of the checks."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from pxr_env.testing import check_operation, check_task
from pxr_env.testing import test_contract as contract
from pxr_env.testing import test_coordinates as coordinates
from pxr_env.testing import test_determinism as determinism
from pxr_env.testing import test_gymnasium_api as gymnasium_api
from pxr_env.testing import test_operation as operation
from pxr_env.testing import test_scoring as scoring
from pxr_env.testing import test_turns as turns

PAGE = (Path(__file__).parents[3] / "docs" / "conformance.md").read_text(encoding="utf-8")
MODULES = (contract, coordinates, determinism, gymnasium_api, scoring, turns, operation)
CHECKS = {
    name.removeprefix("test_"): inspect.getdoc(check)
    for module in MODULES
    for name, check in vars(module).items()
    if name.startswith("test_") and callable(check)
}
ARGUMENTS = {"samples", "seed", "arguments", "processes"}


def test_the_code_runs():
    test_file, function, by_itself = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(
        test_file.replace("my_module:my/Doors-v0", "pxr/SyntheticSearch-v0").replace('"data": "photographs"', ""), names
    )
    names["test_task"]()
    exec(function, names)
    assert names["report"].n_passed > len(CHECKS)
    exec(by_itself, names)


def test_the_tables_are_the_docstrings():
    rows = re.findall(r"^\| `(\w+)` \| (.* \| .*) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (name, " | ".join(" ".join(part.split()) for part in text.split("\n\n"))) for name, text in CHECKS.items()
    ]


@pytest.mark.parametrize("text", CHECKS.values(), ids=CHECKS)
def test_every_check_says_what_and_why(text):
    claim, why = text.split("\n\n")
    assert claim.endswith(".")
    assert why.endswith(".")


def test_every_argument_is_described():
    assert inspect.signature(check_task).parameters.keys() - {"task"} == ARGUMENTS
    for name in ARGUMENTS:
        assert f"| `{name}` |" in PAGE
    assert "data" in inspect.signature(check_operation).parameters
