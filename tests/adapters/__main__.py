"""Tests of our adapters, each with the real package in a virtual environment of its own: `make adapters`.

    python -m tests.adapters [NAME ...]

Prints a table made from the tests. Ends with 1 if one fails, or if a package cannot be installed and none said so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.adapters.venvs import PACKAGES, ROOT, VENVS, environment, facts, version

_HEAD = ("package", "version", "our lines", "lines of the example", "tested", "result", "installed")
_TESTS = ROOT / "tests" / "adapters"


def code_lines(path: Path) -> str:
    """How many lines of a file are neither blank nor a comment, "" if there is none."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return str(sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines) or "")


def checked(name: str) -> tuple[bool, list[str]]:
    """Whether a package's tests passed, or are declared not to run, and its row of the table."""
    declaration, test = PACKAGES[name], _TESTS / f"test_{name}.py"
    lines = [code_lines(ROOT / declaration.get("adapter", f"pxr_env/adapters/{name}.py"))]
    # An example that has its package's own name would import itself.
    lines.append(code_lines(next((ROOT / "examples" / "adapters").glob(f"*{name}*"), ROOT / "none")))
    if reason := declaration.get("absent"):
        return True, [name, "", *lines, "", f"not installed: {reason}", ""]
    if not test.is_file():
        return True, [name, "", *lines, "", "no test", ""]
    try:
        python = environment(name)
    except RuntimeError as error:
        print(error, flush=True)
        return False, [name, "", *lines, "", "CANNOT BE INSTALLED", ""]
    report = VENVS / name / "report.xml"
    report.unlink(missing_ok=True)
    # Nothing of a conftest.py above: the packages for it are not there.
    command = [python, "-m", "pytest", "-q", f"--confcutdir={_TESTS}", f"--junitxml={report}", test]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    names, results = outcome(report)
    if done.returncode:
        print(done.stdout, flush=True)
        results = f"FAILED: {results}"
    took = facts(name)
    row = [name, version(name), *lines, names, results, f"{took['seconds']} s, {took['mb']} MB"]
    return not done.returncode, row


def outcome(report: Path) -> tuple[str, str]:
    """The tests of a report of pytest, by name, and how many of them passed, failed or were skipped."""
    if not report.is_file():
        return "", "no report"
    cases = xml.parse(report).findall(".//testcase")
    kinds = Counter(next((part.tag for part in case if part.tag != "properties"), "passed") for case in cases)
    names = dict.fromkeys(case.get("name", "").partition("[")[0].removeprefix("test_") for case in cases)
    counts = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    return "; ".join(name.replace("_", " ") for name in names), counts or "no test"


def main(names: list[str]) -> int:
    """Runs two packages at a time; returns the exit status."""
    if unknown := set(names) - PACKAGES.keys():
        print(f"got {', '.join(sorted(unknown))}; expected some of {', '.join(PACKAGES)}")
        return 2
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(checked, names or PACKAGES))
    for row in (_HEAD, ["---"] * len(_HEAD), *(row for _, row in results)):
        print(f"| {' | '.join(row)} |")
    return 0 if all(good for good, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
