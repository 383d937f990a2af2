"""Small evaluation runs that several tests look at."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.records import RunFiles
from eval.runner import evaluate
from eval.suites import Choice
from pxr_agents.types import Episode

ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"
#: Views of 84x84 pixels, as the quick start uses them.
ENV_ARGS = {"split": "test", "min_pixels": 784, "max_pixels": 7056}


def run_evaluation(out: Path, *, limit: int = 12, **arguments: Any) -> dict[str, Any]:
    """Evaluate on a few small scenes, without a progress bar."""
    fixed = {"env_args": ENV_ARGS, "choice": Choice(limit=limit), "console": Console(file=io.StringIO())}
    return evaluate(ENV_ID, out=out, **(fixed | arguments))


def episodes_of(run: Path) -> list[Episode]:
    return [record.episode for record in RunFiles(run).records()]


@pytest.fixture(scope="session")
def oracle_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the oracle on 12 scenes."""
    out = tmp_path_factory.mktemp("runs") / "oracle"
    run_evaluation(out, agent="oracle")
    return out


@pytest.fixture(scope="session")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the random agent on the same scenes."""
    out = tmp_path_factory.mktemp("runs") / "random"
    run_evaluation(out, agent="random")
    return out
