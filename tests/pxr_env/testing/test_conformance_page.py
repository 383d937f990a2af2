"""The page about the suite: its code runs, and its tables say what the checks say."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from pxr_env.testing import check_operation, check_task, test_contract, test_determinism, test_operation, test_turns

PAGE = (Path(__file__).parents[3] / "docs" / "conformance.md").read_text(encoding="utf-8")
CHECKS = {
    name.removeprefix("test_"): " ".join((inspect.getdoc(check) or "").split())
    for module in (test_contract, test_determinism, test_turns, test_operation)
    for name, check in vars(module).items()
    if name.startswith("test_") and callable(check)
}


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


def test_the_tables_say_what_every_check_says_and_why():
    rows = re.findall(r"^\| `(\w+)` \| (\S.*\.) \| (\S.*\.) \|$", PAGE, re.MULTILINE)
    assert [row[:2] for row in rows] == list(CHECKS.items())


def test_every_argument_is_described():
    arguments = inspect.signature(check_task).parameters.keys() - {"task"}
    assert set(re.findall(r"^\| `(\w+)` \| [^|]* \|$", PAGE, re.MULTILINE)) == arguments
    assert "data" in inspect.signature(check_operation).parameters
