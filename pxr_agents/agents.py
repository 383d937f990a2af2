"""Agents: what turns observations into turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import gymnasium

from pxr_agents.chat import ChatFormat, Conversation
from pxr_agents.types import (
    CONTEXT,
    Action,
    ContextFull,
    Engine,
    Observation,
    Request,
    Sampling,
    Tokens,
    turn_seed,
)
from pxr_env.env import oracle_turns


class VLMAgent:
    """A vision-language model: keeps one token-exact conversation per episode and lets an engine complete it.

    A probe (`info["probe"]`, see `pxr_env.curiosity.ProbeOperations`) is made to begin with its opening.

    Args:
        chat: the model's `pxr_agents.chat.ChatFormat`.
        engine: what generates tokens.
        sampling: temperature and token limit of a turn.
        opening: text that the first turn of every other episode is made to begin with.
        stop_strings: end turns where the dialect of their environment says that they may, too.
    """

    def __init__(
        self, chat: ChatFormat, engine: Engine, sampling: Sampling, *, opening: str = "", stop_strings: bool = False
    ) -> None:
        self.chat, self.engine, self.sampling = chat, engine, sampling
        self._opening, self._stop_strings = opening, stop_strings
        self._stop: dict[int, tuple[str, ...]] = {}
        self._conversations: dict[int, Conversation] = {}
        # Ids that the turn under way is made to begin with.
        self._n_forced: dict[int, int] = {}

    def with_sampling(self, sampling: Sampling) -> VLMAgent:
        """The same model with other sampling, and no conversations."""
        return VLMAgent(self.chat, self.engine, sampling)

    def start(self, key: int, env: gymnasium.Env) -> None:
        self._conversations[key] = Conversation()
        pixel_env: Any = env.unwrapped
        self._stop[key] = pixel_env.dialect.stop_strings if self._stop_strings else self.sampling.stop

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        conversation = self._conversations[key]
        forced = () if conversation.ids else self._forced(info)
        self._show(conversation, observation, info)
        self._n_forced[key] = len(forced)
        request = Request(
            key=key,
            ids=conversation.ids,
            positions=conversation.positions(),
            images=conversation.images,
            seed=turn_seed(info.get("episode_seed", key), conversation.n_turns),
        )
        stop = self._stop[key]
        same = not forced and stop == self.sampling.stop
        self.engine.submit(request, self.sampling if same else replace(self.sampling, forced=forced, stop=stop))

    def recall(self, key: int, observation: Observation, info: dict[str, Any], turn: str) -> None:
        """See `RecallingAgent`. The turn is encoded from its text, maybe as other tokens than were sampled."""
        conversation = self._conversations[key]
        self._show(conversation, observation, info)
        conversation.append_turn(self.chat.encode_text(turn), train=False)

    def _show(self, conversation: Conversation, observation: Observation, info: dict[str, Any]) -> None:
        if conversation.ids:
            self.chat.reply(conversation, observation, info.get("image_places"))
        else:
            self.chat.prompt(conversation, info["system_prompt"], observation, info.get("image_places"))

    def collect(self) -> list[tuple[int, Action]]:
        actions: list[tuple[int, Action]] = []
        for key, completion in self.engine.collect():
            conversation = self._conversations[key]
            if completion.finish_reason == CONTEXT:
                conversation.end_with_last_turn()
                actions.append((key, ContextFull()))
                continue
            conversation.append_completion(completion, n_forced=self._n_forced[key])
            text = self.chat.decode(completion.token_ids)
            actions.append((key, Action(text=text, completion=completion, finish_reason=completion.finish_reason)))
        return actions

    def finish(self, key: int) -> Tokens | None:
        self.engine.forget(key)
        self._n_forced.pop(key, None)
        self._stop.pop(key)
        conversation = self._conversations.pop(key)
        return conversation.tokens() if conversation.ids else None

    def _forced(self, info: dict[str, Any]) -> tuple[int, ...]:
        """The ids that the first turn is made to begin with."""
        # A blank at its end belongs to the token that follows.
        opening = info["probe"]["opening"].rstrip() if "probe" in info else self._opening
        forced = self.chat.encode_text(opening)
        if len(forced) >= self.sampling.max_tokens:
            raise ValueError(
                f"A turn is made to begin with {opening!r}, {len(forced)} ids, and may have max_tokens="
                f"{self.sampling.max_tokens}; expected more, so that the model can go on from there"
            )
        return forced


class TurnFunction(Protocol):
    """An agent that plays one episode: all that a user's own agent needs to be (see `EachEpisode`)."""

    def act(self, observation: Observation) -> str | Action:
        """The next turn: its text, or an `Action` for more than that (`finish_reason`, `ContextFull`)."""


class EachEpisode:
    """Runs a fresh `TurnFunction` per episode, made by `factory(env)`: scripted agents, humans, APIs."""

    def __init__(self, factory: Callable[[gymnasium.Env], TurnFunction]) -> None:
        self._factory = factory
        self._players: dict[int, TurnFunction] = {}
        self._ready: list[tuple[int, Action]] = []

    def start(self, key: int, env: gymnasium.Env) -> None:
        self._players[key] = self._factory(env)

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        turn = self._players[key].act(observation)
        self._ready.append((key, turn if isinstance(turn, Action) else Action(text=turn)))

    def recall(self, key: int, observation: Observation, info: dict[str, Any], turn: str) -> None:
        """See `RecallingAgent`. A player with `recall(observation, turn)` is told the turn.

        Others are asked for one, so that they see every observation, and what they write is dropped.
        """
        player = self._players[key]
        told = getattr(player, "recall", None)
        if callable(told):
            told(observation, turn)
        else:
            player.act(observation)

    def collect(self) -> list[tuple[int, Action]]:
        ready, self._ready = self._ready, []
        return ready

    def finish(self, key: int) -> Tokens | None:
        del self._players[key]
        return None


class Oracle:
    """Looks at the evidence if that is needed, then gives the right answer (it looks into the sample)."""

    def __init__(self, env: gymnasium.Env) -> None:
        self._env: Any = env.unwrapped
        self._turns: Iterator[str] | None = None

    def act(self, observation: Observation) -> str:
        if self._turns is None:
            self._turns = oracle_turns(self._env, look=bool(self._env.sample.needs_operation))
        return next(self._turns)


class Random:
    """Draws turns from the action space: valid operations mostly, and answers that know nothing."""

    def __init__(self, env: gymnasium.Env, seed: int = 0) -> None:
        self._space = env.action_space
        self._space.seed(seed)

    def act(self, observation: Observation) -> str:
        return str(self._space.sample())
