"""Noise follows from seed, sample, repeat and turn: an interrupted run is the uninterrupted one, at any concurrency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.agents import AgentChoice
from eval.records import RunDirectory
from pxr_agents.types import Sampling
from tests.eval.conftest import ENV_ARGS, run_evaluation
from tests.vllm_support import ARGUMENTS, VARIABLES, needs_vllm

REPEATS = 4


def turns(run: Path) -> dict[tuple[str, int], list[str]]:
    return {record.key: [step.turn for step in record.episode.steps] for record in RunDirectory(run).records()}


def choose(name: str, path: Path) -> AgentChoice | str:
    if name == "random":
        return name
    sampling = Sampling(temperature=1.0, max_tokens=8)
    return AgentChoice(name=name, model=str(path), sampling=sampling, engine=ARGUMENTS if name == "vllm" else {})


@pytest.mark.parametrize("name", ["random", "transformers", pytest.param("vllm", marks=needs_vllm)])
def test_neither_interruption_nor_concurrency_changes_an_answer(
    name: str, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    arguments = {
        "agent": choose(name, tiny_path),
        "env_args": ENV_ARGS | {"max_turns": 2},
        "limit": 4,
        "repeats": REPEATS,
    }
    run_evaluation(tmp_path / "whole", n_envs=16, **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append", stops_after(5))
        with pytest.raises(KeyboardInterrupt):
            run_evaluation(tmp_path / "cut", n_envs=3, **arguments)
    assert len(turns(tmp_path / "cut")) == 5
    run_evaluation(tmp_path / "cut", n_envs=2, **arguments)
    whole = turns(tmp_path / "whole")
    assert len(whole) == 4 * REPEATS
    assert turns(tmp_path / "cut") == whole
    # Repeats of a sample are not copies of each other.
    assert len({tuple(texts) for (sample_id, _), texts in whole.items() if sample_id == "test-0"}) == REPEATS
    assert RunDirectory(tmp_path / "cut").manifest()["concurrency"] == 2


def stops_after(count: int) -> Callable[..., None]:
    append, n_written = RunDirectory.append, 0

    def limited(self: RunDirectory, record: Any) -> None:
        nonlocal n_written
        if n_written == count:
            raise KeyboardInterrupt
        n_written += 1
        append(self, record)

    return limited
