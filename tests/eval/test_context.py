"""Conversations that outgrow the model's context: episodes without an answer, on every agent."""

from __future__ import annotations

from pathlib import Path

from eval.records import RunDirectory
from eval.replay_check import check_replay
from pxr_agents.agents import EachEpisode
from pxr_agents.types import Action, Agent, ContextFull, Observation
from tests.eval.conftest import run_evaluation

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
    run = RunDirectory(tmp_path / "run")
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
