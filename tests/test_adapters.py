"""What `make adapters` makes of packages that can and cannot be installed, and of tests that pass and fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.adapters import __main__ as adapters
from tests.adapters import venvs

ROOT = Path(__file__).parents[1]


def test_every_adapter_is_declared_and_tested() -> None:
    """What is declared has a test, or the reason why not, once there is an adapter."""
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "pxr_env" / "adapters").glob("[!_]*.py")}
    covers = {declared.get("adapter", f"pxr_env/adapters/{name}.py") for name, declared in venvs.PACKAGES.items()}
    assert files <= covers
    for name, declared in venvs.PACKAGES.items():
        assert declared.get("absent") or (ROOT / "tests" / "adapters" / f"test_{name}.py").is_file(), name


def test_the_table_of_the_page_is_that_of_the_command() -> None:
    page = (ROOT / "docs" / "sessions.md").read_text("utf-8")
    told = [[cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines() if row.startswith("| [")]
    computed = []
    for name, declared in venvs.PACKAGES.items():
        pinned = [*declared.get("forced", ()), *declared["requires"]][0].partition("==")[2]
        example = next((ROOT / "examples" / "adapters").glob(f"with_{name}.*"))
        adapter = ROOT / declared.get("adapter", f"pxr_env/adapters/{name}.py")
        computed.append([pinned, adapters.code_lines(adapter), adapters.code_lines(example)])
    assert sorted(row[1:4] for row in told) == sorted(computed)


@pytest.mark.slow
def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    packages = {
        "good": {"requires": ["pytest"]},
        "wrong": {"requires": ["pytest"]},
        "unknown": {"requires": ["pytest==0.0.0"]},
        "absent": {"requires": ["pytest"], "absent": "no wheel"},
    }
    for module in (adapters, venvs):
        monkeypatch.setattr(module, "PACKAGES", packages)
        monkeypatch.setattr(module, "VENVS", tmp_path / "adapters")
    monkeypatch.setattr(adapters, "_TESTS", tmp_path)
    for name, number in (("good", 1), ("wrong", 2), ("unknown", 1)):
        seen = "import sys, numpy, pxr_env\n"
        (tmp_path / f"test_{name}.py").write_text(
            f"{seen}def test_of_sums():\n    assert sys.prefix.endswith({name!r}) and 1 + {number} == 2\n"
        )
    assert adapters.main([]) == 1
    told = capsys.readouterr().out
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in told.splitlines() if " | " in line}
    assert rows["good"][4:6] == ["of sums", "1 passed"]
    assert rows["good"][1] == pytest.__version__
    assert rows["wrong"][5] == "FAILED: 1 failure"
    assert "assert" in told
    assert rows["unknown"][5] == "CANNOT BE INSTALLED"
    assert "pytest==0.0.0" in told
    assert rows["absent"][5] == "not installed: no wheel"
    # Nothing is made twice, unless it is declared otherwise.
    made = venvs.facts("good")
    assert made["mb"] < 20
    made_at = os.stat(tmp_path / "adapters" / "good" / "facts.json").st_mtime_ns
    assert adapters.main(["good", "absent"]) == 0
    assert os.stat(tmp_path / "adapters" / "good" / "facts.json").st_mtime_ns == made_at
    packages["good"]["requires"] = ["pytest>=8"]
    assert adapters.main(["good"]) == 0
    assert venvs.facts("good")["stamp"] != made["stamp"]


@pytest.mark.slow
@pytest.mark.parametrize("name", venvs.PACKAGES)
def test_a_package(name: str) -> None:
    """Its tests, where it is installed."""
    good, row = adapters.checked(name)
    assert good, row


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert adapters.main(["trll"]) == 2
    assert "got trll; expected some of trl, verifiers" in capsys.readouterr().out
