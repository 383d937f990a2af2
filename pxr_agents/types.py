"""What agents, engines and the rollout loop hand to each other, and where sampling noise comes from.

The way of one turn: the environment answers with an observation, the rollout loop *submits* it to the
agent, the agent asks its engine for a `Completion`, and the loop *collects* an `Action` whose text goes
back into the environment. The finished record of a run is an `Episode`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypedDict

import gymnasium
import numpy as np


class Observation(TypedDict):
    """What an environment shows: text, and the images that precede it (HxWx3 uint8)."""

    text: str
    images: tuple[np.ndarray, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What an engine returned for one request.

    `logprobs` are natural logarithms under the distribution that an id was drawn from (over the allowed ids, at the
    sampling temperature; at temperature 1 if the choice was greedy). `finish_reason` is "stop" if the stop id was
    sampled or a stop string completed, "length" if the token limit cut the turn, "context" if there is no room for one.
    """

    token_ids: tuple[int, ...]  # the stop id included if one was sampled
    logprobs: tuple[float, ...]  # of each id
    finish_reason: Literal["stop", "length", "context"]
    weights_version: int = 0  # of the weights that sampled every one of the ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One turn as it goes to the environment."""

    text: str
    completion: Completion | None = None  # what it was decoded from, None if there are no ids
    finish_reason: str | None = None  # in the words of its engine or server ("stop", "length"); None if nobody says


#: `truncated_by` of an episode whose conversation no longer fits the model's context.
CONTEXT: Final = "context"


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextFull(Action):
    """No turn: with another one the conversation would not fit the model's context.

    Every agent may answer with it. The rollout loop ends the episode without an answer (`truncated_by` is "context").
    """

    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """One episode as the model saw it, token for token (L ids, n images)."""

    ids: np.ndarray  # (L,) int32, image placeholders expanded: one id per merged vision token
    action: np.ndarray  # (L,) bool, True where the id was sampled by the model (and may be trained on)
    logprobs: np.ndarray  # (L,) float32, the sampling log-probability where `action`, else 0
    positions: np.ndarray  # (3, L) int32, the M-RoPE positions (time, height, width)
    images: tuple[np.ndarray, ...]  # in the order of their placeholders, HxWx3 uint8
    turn_ends: tuple[int, ...]  # index of the last action id of every turn; turn k earned `Episode.steps[k].reward`
    forced: np.ndarray | None = None  # (L,) bool, True where an action id was forced on the model; None if none was

    def spans(self) -> tuple[tuple[str, int], ...]:
        """Runs of tokens of one kind, in order: ("read", 412), ("written", 57), ...

        "read" is what the model was shown (masked in training), "written" what it sampled, "forced" what was forced
        on it.
        """
        kinds = self.action.astype(np.int8) if self.forced is None else self.action + self.forced.astype(np.int8)
        edges = np.flatnonzero(np.diff(kinds)) + 1
        starts = [0, *edges.tolist()] if len(kinds) else []
        ends = [*starts[1:], len(kinds)]
        names = ("read", "written", "forced")
        return tuple((names[int(kinds[start])], end - start) for start, end in zip(starts, ends, strict=False))


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One turn and the environment's answer to it (`reply` is the text of the observation that followed).

    `finish_reason`: see `Action`; "length" for a turn that the token limit cut.
    """

    turn: str
    reply: str
    reward: float
    reward_terms: dict[str, float]
    weights_version: int | None = None
    finish_reason: str | None = None


@dataclass(kw_only=True, slots=True)
class Episode:
    """The finished record of one run of one sample. Holds no pixels of its own: `tokens.images` are the
    environment's arrays, and everything else can be rebuilt from the environment, the sample and the turns.

    `views`, `usage`, `failures` are the last `info` of the environment (see docs/environments.md); `unrepaired`
    tells that the last operation failed and no later one succeeded; `probe` is the operation that the episode was
    made to begin with, or "answer" (None for all others; see docs/curiosity.md); `withdrawn` tells that operations
    were withdrawn in it;
    `error` is set when the run itself broke (an engine died, a judge was away): such an episode has no
    score and is counted apart, never as 0. `token_spans` (see `Tokens.spans`) stay when the tokens go; None for
    agents that have none.
    """

    task: str
    sample_id: str
    group: Hashable = None
    prompt: str = ""
    steps: list[Step] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    unrepaired: bool = False
    needs_operation: bool | None = None
    evidence_box: tuple[float, float, float, float] | None = None
    evidence_time: tuple[float, float] | None = None
    category: str | None = None
    answer: str | None = None
    target: str | None = None
    correct: bool = False
    truncated_by: str | None = None
    error: str | None = None
    probe: str | None = None
    withdrawn: bool = False
    tokens: Tokens | None = None
    token_spans: tuple[tuple[str, int], ...] | None = None

    @property
    def n_operations(self) -> int:
        """Operations that were executed (failed ones are in `failures`)."""
        return sum(self.usage.values())

    @property
    def reward(self) -> float:
        return sum(step.reward for step in self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One episode to be run: which sample (or a seed that picks one), and the group it belongs to.

    `seed` (see `episode_seed`) is what all randomness of the episode follows from: that of the
    environment, and as `info["episode_seed"]` that of the agent; None: its place among the jobs stands in for it.
    `options` go to the environment's `reset` as they are, for its wrappers (`{"probe": "zoom_in"}`).
    """

    sample_id: str | None = None
    seed: int | None = None
    group: Hashable = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Agent(Protocol):
    """Turns observations into turns, for many episodes at once. Keys name the episodes that are running."""

    def start(self, key: int, env: gymnasium.Env) -> None:
        """A new episode begins under `key`; `env` is for agents that need more than observations (oracle)."""

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        """Episode `key` waits for its next turn. Noise is to follow from `info["episode_seed"]` and the turn alone."""

    def collect(self) -> list[tuple[int, Action]]:
        """At least one finished turn of those submitted (all of them for an engine that works in lock-step)."""

    def finish(self, key: int) -> Tokens | None:
        """Episode `key` is over: forget it and return its tokens (None for agents that have none)."""


class RecallingAgent(Agent, Protocol):
    """An agent that can go on with an episode that was begun before."""

    def recall(self, key: int, observation: Observation, info: dict[str, Any], turn: str) -> None:
        """Instead of `submit`: `turn` is what was answered to this observation, nothing is to be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to draw tokens: `temperature=0` is greedy, `max_tokens` is the limit of one turn.

    `forced` ids open the turn whatever the model thinks of them; their log-probabilities are the model's own, so
    a forced turn is off-policy and known to be. `stop` strings end a turn with the sampled token that completes one,
    as the model's own end of turn does; they belong to the turn.
    """

    temperature: float = 1.0
    max_tokens: int = 512
    forced: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A conversation that waits for its next turn: all of its ids (L), M-RoPE positions (3, L) and images so far.

    `key` names the conversation, so that an engine that kept its state only has to process what is new.
    Equal images are the same object (see `chat.intern_image`). The noise of the turn follows from `seed` alone (see
    `turn_seed`).
    """

    key: int
    ids: Sequence[int]
    positions: np.ndarray
    images: Sequence[np.ndarray]
    seed: int = 0


class Engine(Protocol):
    """Generates. Completions come back in any order; a lock-step engine returns all that were submitted.

    A conversation without room for another turn gets an empty completion (see `pxr_agents.engines`).
    """

    weights_version: int

    def submit(self, request: Request, sampling: Sampling) -> None: ...

    def collect(self) -> list[tuple[int, Completion]]: ...

    def forget(self, key: int) -> None:
        """Conversation `key` is over; its state may go."""


class LocalEngine(Engine, Protocol):
    """An engine around weights in this process, which a trainer changes in place."""

    def set_weights_version(self, version: int) -> None:
        """The weights have changed: everything computed with the old ones is dropped."""


# Sampling noise follows from the run's seed, the sample, the repeat and the turn, and from nothing else: it is the same
# on every engine, in whatever order episodes run, however many at once, and after whatever interruption.


def episode_seed(seed: int | tuple[int, ...], sample_id: str, repeat: int = 0) -> int:
    """Seed of one episode, for `Job.seed`.

    Args:
        seed: of the run, or numbers that name a part of it (such as an iteration).
        repeat: which episode of the sample it is, from 0.
    """
    return _seed("episode", seed, repeat, sample_id)


def turn_seed(seed: int, turn: int) -> int:
    """Seed of one turn (from 0) of an episode with this seed."""
    return _seed("turn", seed, turn)


def _seed(*parts: object) -> int:
    """31 bits: servers take no more."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:4], "big") >> 1
