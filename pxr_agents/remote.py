"""An agent behind an OpenAI-compatible server. It needs no torch."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from pxr_agents.chat_client import ChatClient, ContextExceeded, RemoteError, Unanswered
from pxr_agents.chat_reply import Reply
from pxr_agents.types import (
    Action,
    ContextFull,
    Observation,
    Sampling,
    Tokens,
    turn_seed,
)
from pxr_env.dialects import Dialect, tool_call
from pxr_env.errors import show
from pxr_env.messages import user_message

#: This many turns in a row for which a server failed mean that it is down. A request that it calls wrong (too many
#: images, a filter) is the question's own trouble, and does not count.
_MOST_FAILURES = 20


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
        block = tool_call(call.name, call.arguments)
        if dialect is None or len(dialect.parse(block).calls) != 1:
            raise Unanswered(
                f"the server took a call out of the text ({show(call.name)} with {show(call.arguments)}), and it "
                "cannot be put back in this dialect. Start the server without a parser of tool calls (vLLM: no "
                "--enable-auto-tool-choice; SGLang: no --tool-call-parser), or use dialect=hermes."
            )
        text = f"{text.rstrip()}\n{block}" if text.strip() else block
    return text
