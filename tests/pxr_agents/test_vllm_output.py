"""What vLLM says goes to standard error: standard output is a command's result."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = "import os, pxr_agents.engines.vllm; print(os.environ['VLLM_LOGGING_STREAM'])"


@pytest.mark.parametrize("given", [None, "ext://sys.stdout"])
def test_vllm_logs_to_standard_error_unless_told_otherwise(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_LOGGING_STREAM", raising=False)
    if given is not None:
        monkeypatch.setenv("VLLM_LOGGING_STREAM", given)
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [given or "ext://sys.stderr"]
