"""Conversations that outgrow the model's context: episodes without an answer, on every agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.agents import AgentChoice
from eval.records import RunFiles, RunRecord
from eval.replay_check import check_replay
from pxr_agents.agents import EachEpisode
from pxr_agents.types import Action, Agent, ContextFull, Observation, Sampling
from tests.eval.conftest import ENV_ARGS, run_evaluation
from tests.vllm_support import ARGUMENTS, VARIABLES, needs_vllm

ZOOM = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}</tool_call>'


class _Zooming:
    """Zooms once, with a turn that says why it ended, and has no room for another."""

    def __init__(self, env: object) -> None:
        self._n_turns = 0

    def act(self, observation: Observation) -> Action:
        self._n_turns += 1
        return ContextFull() if self._n_turns == 2 else Action(text=ZOOM, finish_reason="stop")


def zooming() -> Agent:
    return EachEpisode(_Zooming)


def test_an_agent_of_ones_own_may_say_that_the_context_is_full(tmp_path: Path) -> None:
    metrics = run_evaluation(tmp_path / "run", agent="tests.eval.test_context:zooming", limit=4)
    run = RunFiles(tmp_path / "run")
    assert len(run.records()) == 4
    for record in run.records():
        episode = record.episode
        assert (episode.truncated_by, episode.error, episode.answer, episode.correct) == ("context", None, None, False)
        assert record.score == 0.0
        assert episode.target is not None
        # What could not be said is no turn.
        assert [step.finish_reason for step in episode.steps] == ["stop"]
        assert record.image_sha256 is not None
        assert [len(shown) for shown in record.image_sha256] == [1, 1]
    statistics = metrics["statistics"]
    assert (statistics["accuracy"], statistics["truncated_rate"], statistics["n_errors"]) == (0.0, 1.0, 0.0)
    assert check_replay(run.path).identical


@pytest.mark.parametrize("name", ["transformers", pytest.param("vllm", marks=needs_vllm)])
def test_an_engine_ends_what_outgrows_its_context_and_takes_a_larger_one(
    name: str, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untrained, the model writes what cannot be read until the turns run out or the context is full."""
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    fixed = ARGUMENTS if name == "vllm" else {}

    def run(out: Path, max_model_len: int, **changes: Any) -> dict[str, Any]:
        engine = {**fixed, "max_model_len": max_model_len, **changes}
        choice = AgentChoice(name=name, model=str(tiny_path), sampling=Sampling(max_tokens=8), engine=engine)
        env_args = ENV_ARGS | {"max_turns": 3}
        return run_evaluation(out, agent=choice, env_args=env_args, limit=4, retry_errors=True)["statistics"]

    wide = run(tmp_path / "wide", 1024)
    assert "truncated/context" not in wide
    lengths = [sum(n for _, n in spans_of(record)) for record in RunFiles(tmp_path / "wide").records()]
    narrow = run(tmp_path / "run", min(lengths) - 1)
    directory = RunFiles(tmp_path / "run")
    full = [record.episode for record in directory.records() if record.episode.truncated_by == "context"]
    assert full
    assert narrow["truncated/context"] == len(full) / 4
    for episode in full:
        assert (episode.error, episode.correct, len(episode.steps) < 3) == (None, False, True)
        assert [step.finish_reason in ("stop", "length") for step in episode.steps] == [True] * len(episode.steps)
    # With more room what fitted stays, and the others are run again, as if there had been room from the start.
    if name == "transformers":
        with pytest.raises(FileExistsError, match=r"engine\.dtype was null and is 'bfloat16'"):
            run(tmp_path / "run", 1024, dtype="bfloat16")
    with pytest.raises(FileExistsError, match=r"engine\.max_model_len was"):
        run(tmp_path / "run", min(lengths) - 2)
    assert run(tmp_path / "run", 1024)["truncated_rate"] == wide["truncated_rate"]
    assert [r.episode for r in directory.records()] == [r.episode for r in RunFiles(tmp_path / "wide").records()]
    assert directory.manifest()["engine"]["max_model_len"] == 1024


def spans_of(record: RunRecord) -> tuple[tuple[str, int], ...]:
    assert record.episode.token_spans is not None
    return record.episode.token_spans
