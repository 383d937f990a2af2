"""How one episode is watched: what it took, and why it has no score if it has none.

The rollout loop knows environments and agents. Here both get a thin cover: `WatchedEnv` around an environment turns
data that cannot be shown, and an agent that gave up, into the end of the episode instead of the end of the run; `Watch`
around the agent counts tokens and seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium

from eval.data_hash import image_digest, sample_digest
from eval.records import RunRecord
from pxr_agents.agents import FailedAction, RemoteAction
from pxr_agents.types import Action, Agent, Episode, Observation, Tokens
from pxr_env.errors import DataError, MediaError
from pxr_env.types import NoTurn

#: `info["truncated_by"]` of an episode that has no score. The last reply is the reason.
UNANSWERED = "unanswered"


class CannotBeAsked(Exception):
    """Raised by a wrapper inside a `WatchedEnv`: the episode cannot go on, and has no score for the reason given."""


class WatchedEnv(gymnasium.Wrapper):
    """An environment whose episodes end with a reason where the data, or the agent, fail.

    Attributes:
        reason: why the running episode has no score; None as long as nothing failed.
        digest: of the sample, see `eval.data_hash`.
        cluster: what the sample belongs to, None if it stands alone.
        shown: digests of the images of every observation of the episode so far.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.reason: str | None = None
        self.info: dict[str, Any] = {}
        self.digest: str | None = None
        self.cluster: str | None = None
        self.shown: list[list[str]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.reason, self.digest, self.cluster, self.shown = None, None, None, []
        try:
            observation, self.info = self.env.reset(seed=seed, options=options)
            self.digest = sample_digest(self.env.unwrapped)
            self.cluster = self.env.unwrapped.sample.cluster  # type: ignore[attr-defined]
        except (MediaError, DataError, OSError) as error:
            self.reason = f"data: {error}"
            nothing: dict[str, Any] = {"views": [], "usage": {}, "failures": {}, "reward_terms": {}, "vision_tokens": 0}
            sample_id = (options or {}).get("sample_id")
            self.info = nothing | {"sample_id": sample_id} | self._facts(sample_id)
            return {"text": "", "images": ()}, self.info
        self.shown.append([image_digest(image) for image in observation["images"]])
        return observation, self.info

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.reason is None:
            try:
                observation, reward, terminated, truncated, self.info = self.env.step(action)
            except (MediaError, OSError) as error:
                self.reason = f"data: {error}"
            except CannotBeAsked as error:
                self.reason = str(error)
            else:
                if not isinstance(action, NoTurn):
                    self.shown.append([image_digest(image) for image in observation["images"]])
                return observation, float(reward), terminated, truncated, self.info
        facts = self._facts(self.info["sample_id"])
        self.info = {**self.info, **facts, "reward_terms": {}, "truncated_by": UNANSWERED}
        return {"text": self.reason, "images": ()}, 0.0, False, True, self.info

    def _facts(self, sample_id: Any) -> dict[str, Any]:
        """What the record keeps of a sample that has no score."""
        data = getattr(self.env.unwrapped, "data", None)
        try:
            sample = None if data is None else data.get(sample_id)
        except (MediaError, DataError, OSError):
            # The row itself is broken.
            sample = None
        return {} if sample is None else {"target": sample.answers[0], "category": sample.category}


class Watch:
    """An agent that is watched. The finished `Episode` of a key is made a `RunRecord` right after `finish`.

    Args:
        agent: who plays; it never sees an episode whose data cannot be shown.
        repeats: for every job of the rollout, which repeat of its sample it is.
    """

    def __init__(self, agent: Agent, repeats: Sequence[int]) -> None:
        self._agent, self._repeats = agent, repeats
        self._attempts: dict[int, WatchedEnv] = {}
        self._spent: dict[int, dict[str, Any]] = {}
        self._given_up: list[int] = []
        self._asked_at: dict[int, float] = {}
        self._started_at: dict[int, float] = {}
        self._last: dict[str, Any] = {}

    def start(self, key: int, env: gymnasium.Env) -> None:
        assert isinstance(env, WatchedEnv)
        self._attempts[key] = env
        self._spent[key] = {"repeat": self._repeats[key], "model_seconds": 0.0}
        self._started_at[key] = time.perf_counter()
        if env.reason is None:
            self._agent.start(key, env)

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        self._asked_at[key] = time.perf_counter()
        if self._attempts[key].reason is not None:
            self._given_up.append(key)
        else:
            self._agent.submit(key, observation, info)

    def collect(self) -> list[tuple[int, Action]]:
        if self._given_up:
            given_up, self._given_up = self._given_up, []
            return [(key, Action(text="")) for key in given_up]
        actions = self._agent.collect()
        for key, action in actions:
            self._count(key, action)
        return actions

    def finish(self, key: int) -> Tokens | None:
        attempt, spent = self._attempts.pop(key), self._spent.pop(key)
        self._last = spent | {
            "seconds": time.perf_counter() - self._started_at.pop(key),
            "score": attempt.info.get("score"),
            "vision_tokens": attempt.info["vision_tokens"],
            "duplicates": attempt.info.get("duplicates", 0),
            "clipped": attempt.info.get("clipped", 0),
            "sample_sha256": attempt.digest,
            "cluster": attempt.cluster,
            "image_sha256": attempt.shown,
            "reason": attempt.reason,
        }
        # An episode that never began is unknown to the agent.
        return self._agent.finish(key) if attempt.digest is not None else None

    def record(self, episode: Episode) -> RunRecord:
        """The record of the episode that was finished last."""
        facts, self._last = self._last, {}
        reason = facts.pop("reason")
        if reason is not None:
            # The turn that ended it is none, and the reply to it is the reason.
            episode.steps.pop()
            episode.error, episode.truncated_by = reason, None
        return RunRecord(episode=episode, **facts)

    def _count(self, key: int, action: Action) -> None:
        spent = self._spent[key]
        spent["model_seconds"] += time.perf_counter() - self._asked_at[key]
        if isinstance(action, FailedAction):
            self._attempts[key].reason = f"model: {action.reason}"
        elif isinstance(action, RemoteAction):
            _add(spent, "prompt_tokens", action.prompt_tokens)
            _add(spent, "completion_tokens", action.completion_tokens)
            spent["n_retries"] = spent.get("n_retries", 0) + action.attempts - 1
            spent["served"] = action.served
        elif action.completion is not None:
            _add(spent, "completion_tokens", len(action.completion.token_ids))


def _add(spent: dict[str, Any], name: str, value: int | None) -> None:
    if value is not None:
        spent[name] = (spent.get(name) or 0) + value
