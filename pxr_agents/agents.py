"""Agents: what turns observations into turns. The one behind an OpenAI-compatible server needs no torch."""

from __future__ import annotations

import base64
import io
import json
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import gymnasium
import numpy as np
from PIL import Image

from pxr_agents.chat import ChatFormat, Conversation
from pxr_agents.chat_client import ChatClient, ContextExceeded, RemoteError, Unanswered
from pxr_agents.chat_reply import Reply
from pxr_agents.types import (
    CONTEXT,
    Action,
    ContextFull,
    Engine,
    Observation,
    Request,
    Sampling,
    Tokens,
    split_observation,
    turn_seed,
)
from pxr_env.dialects import Dialect
from pxr_env.env import oracle_turns
from pxr_env.errors import show

#: This many turns in a row for which a server failed mean that it is down. A request that it calls wrong (too many
#: images, a filter) is the question's own trouble, and does not count.
_MOST_FAILURES = 20


class VLMAgent:
    """A vision-language model: keeps one token-exact conversation per episode and lets an engine complete it.

    A probe (`info["probe"]`, see `pxr_env.curiosity.ProbeOperations`) is made to begin with its opening.

    Args:
        chat: the model's `pxr_agents.chat.ChatFormat`.
        engine: what generates tokens.
        sampling: temperature and token limit of a turn.
        opening: text that the first turn of every other episode is made to begin with.
    """

    def __init__(self, chat: ChatFormat, engine: Engine, sampling: Sampling, *, opening: str = "") -> None:
        self.chat, self.engine, self.sampling = chat, engine, sampling
        self._opening = opening
        self._conversations: dict[int, Conversation] = {}
        # Ids that the turn under way is made to begin with.
        self._n_forced: dict[int, int] = {}

    def with_sampling(self, sampling: Sampling) -> VLMAgent:
        """The same model with other sampling, and no conversations."""
        return VLMAgent(self.chat, self.engine, sampling)

    def start(self, key: int, env: gymnasium.Env) -> None:
        self._conversations[key] = Conversation()

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
        self.engine.submit(request, replace(self.sampling, forced=forced))

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


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteAction(Action):
    """A turn that a server wrote, with what it counted (None where it did not) and how often it was asked."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1
    served: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedAction(Action):
    """No turn, for the `reason` it gives; `is_down` if other requests would have met the same. No score comes of it."""

    text: str = ""
    reason: str
    is_down: bool = False


@dataclass(kw_only=True, slots=True)
class _Talk:
    """One conversation: its messages so far, and how its turns are written."""

    dialect: Dialect | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    n_turns: int = 0

    def hear(self, observation: Observation, info: dict[str, Any]) -> None:
        if not self.messages:
            self.messages.append({"role": "system", "content": info.get("system_prompt", "")})
        self.messages.append(user_message(observation, info.get("image_places")))

    def say(self, turn: str) -> None:
        self.messages.append({"role": "assistant", "content": turn})
        self.n_turns += 1


class OpenAIAgent:
    """Sends each conversation as chat messages, images as PNG data URIs with exactly the pixels that were shown.

    Roles are those of `pxr_agents.chat`: the system prompt, the question as user, the model's turns as assistant, the
    environment's replies as user, images before text. Requests of different episodes run side by side in threads.

    Args:
        client: of the server.
        sampling: temperature and token limit of a turn; with a temperature, a seed goes along that depends on the
            episode's seed and the turn, and not on the order of requests. Servers cut stop strings off; they are put
            back where that is known.
        concurrency: most requests at once.
        extra: further fields of the request body, such as {"top_p": 0.9}.
    """

    def __init__(
        self, client: ChatClient, sampling: Sampling, *, concurrency: int = 8, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.client, self.sampling, self._extra = client, sampling, dict(extra or {})
        self._talks: dict[int, _Talk] = {}
        self._waiting: queue.SimpleQueue[tuple[int, Observation, dict[str, Any]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, Action | Exception]] = queue.SimpleQueue()
        self._n_failures_in_a_row = 0
        self._error: Exception | None = None
        self._n_threads = concurrency
        # Daemons: after Ctrl-C nobody waits for requests under way.
        for number in range(concurrency):
            threading.Thread(target=self._work, name=f"openai-{number}", daemon=True).start()

    def start(self, key: int, env: gymnasium.Env) -> None:
        self._talks[key] = _Talk(dialect=getattr(env.unwrapped, "dialect", None))

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        self._waiting.put((key, observation, info))

    def recall(self, key: int, observation: Observation, info: dict[str, Any], turn: str) -> None:
        """See `RecallingAgent`. Costs no request."""
        self._talks[key].hear(observation, info)
        self._talks[key].say(turn)

    def collect(self) -> list[tuple[int, Action]]:
        """The turns that are finished, after waiting for one at least; `FailedAction` for those that failed, and
        `ContextFull` where the conversation does not fit the model's context.

        Raises:
            ServerRefused: no request would be answered.
            RemoteError: so many turns in a row failed that the server must be down.
        """
        if self._error is not None:
            raise self._error
        results = [self._done.get()]
        while not self._done.empty():
            results.append(self._done.get())
        actions = []
        for key, result in results:
            if isinstance(result, Exception):
                self._error = result
                continue
            actions.append((key, result))
            if not isinstance(result, FailedAction):
                self._n_failures_in_a_row = 0
            elif result.is_down:
                self._n_failures_in_a_row += 1
                if self._n_failures_in_a_row >= _MOST_FAILURES:
                    self._error = RemoteError(
                        f"{self._n_failures_in_a_row} turns in a row could not be had, the last one because of: "
                        f"{result.reason}. The same command continues when the server is back."
                    )
        # What arrived beside an error has been paid for: it goes first.
        if not actions and self._error is not None:
            raise self._error
        return actions

    def finish(self, key: int) -> Tokens | None:
        del self._talks[key]
        return None

    def close(self) -> None:
        """Stop asking: threads end when their requests under way do."""
        self.client.close()
        for _ in range(self._n_threads):
            self._waiting.put(None)

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            key, observation, info = waiting
            try:
                result: Action | Exception = self._turn(self._talks[key], observation, info)
            except ContextExceeded:
                result = ContextFull()
            except Unanswered as error:
                result = FailedAction(reason=str(error), is_down=error.is_down)
            except Exception as error:
                result = error
            self._done.put((key, result))

    def _turn(self, talk: _Talk, observation: Observation, info: dict[str, Any]) -> Action:
        talk.hear(observation, info)
        seed = turn_seed(info.get("episode_seed", 0), talk.n_turns)
        reply = self.client.complete(request_body(talk.messages, self.sampling, self._extra, seed))
        content = with_calls(reply, talk.dialect) if reply.calls else with_stop_string(reply, self.sampling.stop)
        talk.say(content)
        # Thoughts that a server keeps apart are on record, and not sent back: templates drop them, too.
        thought = f"<think>\n{reply.reasoning}\n</think>\n\n" if reply.reasoning else ""
        return RemoteAction(
            text=thought + content,
            finish_reason=reply.finish_reason,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            attempts=reply.attempts,
            served=reply.served,
        )


def request_body(
    messages: Sequence[Mapping[str, Any]], sampling: Sampling, extra: Mapping[str, Any], seed: int = 0
) -> dict[str, Any]:
    """The body of a request, with `extra` fields. The seed goes along where there is noise."""
    body: dict[str, Any] = {
        "messages": messages,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop) or None,
        "seed": seed if sampling.temperature > 0 else None,
        **extra,
    }
    # A field that is given as null is left out: newer models of OpenAI refuse some.
    return {name: value for name, value in body.items() if value is not None}


def user_message(observation: Observation, image_places: Sequence[int] | None = None) -> dict[str, Any]:
    """An observation as a chat message: its images (PNG, the same pixels), then its text, or as `image_places` says."""
    parts: list[dict[str, Any]] = []
    for part in split_observation(observation, image_places):
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
            continue
        file = io.BytesIO()
        # Packed quickly rather than tightly.
        Image.fromarray(np.ascontiguousarray(part)).save(file, format="PNG", compress_level=1)
        data = base64.b64encode(file.getvalue()).decode("ascii")
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    return {"role": "user", "content": parts}


def with_stop_string(reply: Reply, stop: Sequence[str]) -> str:
    """The text of a reply with the stop string that ended it, which servers cut off.

    vLLM names it. From others it is inferred: a closing tag whose opening tag stands in the text, unclosed.
    """
    if reply.finish_reason != "stop" or reply.text.endswith(tuple(stop)):
        return reply.text
    if reply.stop_reason in stop:
        return f"{reply.text}{reply.stop_reason}"
    for closing in stop:
        tag = re.fullmatch(r"</(\w+)>", closing)
        if tag and reply.text.count(f"<{tag[1]}>") > reply.text.count(closing):
            return reply.text + closing
    return reply.text


def with_calls(reply: Reply, dialect: Dialect | None) -> str:
    """The text of a reply whose calls the server took out of it, with the calls where they stood.

    Servers that parse calls do so whether tools were asked for or not. What they take for one is a <tool_call> of JSON;
    so it is put back, if that is how calls are written in this dialect, and Unanswered otherwise.
    """
    text = reply.text
    # Some leave the calls in the text as well.
    if dialect is not None and len(dialect.parse(text).calls) >= len(reply.calls):
        return text
    for call in reply.calls:
        # The arguments stay as the server gave them: what is no JSON is the model's mistake, and read as one.
        arguments = call.arguments.replace("</", "<\\/")
        name = json.dumps(call.name, ensure_ascii=False)
        block = f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
        if dialect is None or len(dialect.parse(block).calls) != 1:
            raise Unanswered(
                f"the server took a call out of the text ({show(call.name)} with {show(call.arguments)}), and it "
                "cannot be put back in this dialect. Start the server without a parser of tool calls (vLLM: no "
                "--enable-auto-tool-choice; SGLang: no --tool-call-parser), or use dialect=hermes."
            )
        text = f"{text.rstrip()}\n{block}" if text.strip() else block
    return text
