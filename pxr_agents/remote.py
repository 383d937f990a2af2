"""An agent whose model is behind an OpenAI-compatible server. Needs no torch."""

from __future__ import annotations

import base64
import hashlib
import io
import queue
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from pxr_agents.chat_client import ChatClient, RemoteError, Reply, Unanswered
from pxr_agents.types import Action, Observation, Sampling, Tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteAction(Action):
    """A turn that a server wrote, with what it counted (None where it did not) and how often it was asked."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1
    served: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedAction(Action):
    """No turn: the agent could not write one, for the `reason` it gives. The episode has no score."""

    text: str = ""
    reason: str


@dataclass(kw_only=True, slots=True)
class _Talk:
    """One conversation: its messages so far, and what its random numbers depend on."""

    identity: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    n_turns: int = 0


class OpenAIAgent:
    """Sends each conversation as chat messages, images as PNG data URIs with exactly the pixels that were shown.

    Roles are those of `pxr_agents.chat`: the system prompt, the question as user, the model's turns as assistant, the
    environment's replies as user, images before text. Requests of different episodes run side by side in threads.

    Args:
        client: of the server.
        sampling: temperature and token limit of a turn; with a temperature, a seed goes along that depends on `seed`,
            the sample, its repeat and the turn, and not on the order of requests. Servers cut stop strings off; they
            are put back where that is known.
        concurrency: most requests at once.
        seed: of the sampling noise.
        extra: further fields of the request body, such as {"top_p": 0.9}.
        most_failures: this many turns in a row that could not be had mean that the server is down.
    """

    def __init__(
        self,
        client: ChatClient,
        sampling: Sampling,
        *,
        concurrency: int = 8,
        seed: int = 0,
        extra: Mapping[str, Any] | None = None,
        most_failures: int = 20,
    ) -> None:
        self.client, self.sampling, self.seed = client, sampling, seed
        self._extra, self._most_failures = dict(extra or {}), most_failures
        self._talks: dict[int, _Talk] = {}
        self._waiting: queue.SimpleQueue[tuple[int, Observation, str]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, Action | Exception]] = queue.SimpleQueue()
        self._n_failures_in_a_row = 0
        self._error: Exception | None = None
        # Daemons: after Ctrl-C nobody waits for requests under way.
        for number in range(concurrency):
            threading.Thread(target=self._work, name=f"openai-{number}", daemon=True).start()

    def start(self, key: int, env: gymnasium.Env) -> None:
        base: Any = env.unwrapped
        repeat = env.get_wrapper_attr("repeat") if env.has_wrapper_attr("repeat") else 0
        self._talks[key] = _Talk(identity=f"{base.sample.sample_id}:{repeat}")

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        self._waiting.put((key, observation, info.get("system_prompt", "")))

    def recall(self, key: int, observation: Observation, info: dict[str, Any], turn: str) -> None:
        """See `RecallingAgent`. Costs no request."""
        talk = self._talks[key]
        self._hear(talk, observation, info.get("system_prompt", ""))
        talk.messages.append({"role": "assistant", "content": turn})
        talk.n_turns += 1

    def collect(self) -> list[tuple[int, Action]]:
        """The turns that are finished, after waiting for one at least; `FailedAction` for those that failed.

        Raises:
            ServerRefused: no request would be answered.
            RemoteError: `most_failures` turns in a row failed.
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
            failed = isinstance(result, FailedAction)
            self._n_failures_in_a_row = self._n_failures_in_a_row + 1 if failed else 0
            if self._n_failures_in_a_row >= self._most_failures and isinstance(result, FailedAction):
                self._error = RemoteError(
                    f"{self._n_failures_in_a_row} turns in a row could not be had, the last one because of: "
                    f"{result.reason}. The same command continues when the server is back."
                )
            actions.append((key, result))
        # What arrived beside an error has been paid for: it goes first.
        if not actions and self._error is not None:
            raise self._error
        return actions

    def finish(self, key: int) -> Tokens | None:
        del self._talks[key]
        return None

    def close(self) -> None:
        """Stop asking."""
        self.client.close()

    def _work(self) -> None:
        while True:
            key, observation, system_prompt = self._waiting.get()
            try:
                result: Action | Exception = self._turn(self._talks[key], observation, system_prompt)
            except Unanswered as error:
                result = FailedAction(reason=str(error))
            except Exception as error:
                result = error
            self._done.put((key, result))

    def _turn(self, talk: _Talk, observation: Observation, system_prompt: str) -> Action:
        self._hear(talk, observation, system_prompt)
        reply = self.client.complete(self._body(talk))
        content = with_stop_string(reply, self.sampling.stop)
        talk.messages.append({"role": "assistant", "content": content})
        talk.n_turns += 1
        # Thoughts that a server keeps apart are on record, and not sent back: templates drop them, too.
        thought = f"<think>\n{reply.reasoning}\n</think>\n\n" if reply.reasoning else ""
        return RemoteAction(
            text=thought + content,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            attempts=reply.attempts,
            served=reply.served,
        )

    def _hear(self, talk: _Talk, observation: Observation, system_prompt: str) -> None:
        if not talk.messages:
            talk.messages.append({"role": "system", "content": system_prompt})
        talk.messages.append(user_message(observation))

    def _body(self, talk: _Talk) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": talk.messages,
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_tokens,
        }
        if self.sampling.stop:
            body["stop"] = list(self.sampling.stop)
        if self.sampling.temperature > 0:
            digest = hashlib.sha256(f"{self.seed}:{talk.identity}:{talk.n_turns}".encode("utf-8", "surrogatepass"))
            body["seed"] = int.from_bytes(digest.digest()[:4], "big") >> 1
        body |= self._extra
        # A field that is given as null is left out: newer models of OpenAI refuse some.
        return {name: value for name, value in body.items() if value is not None}


def user_message(observation: Observation) -> dict[str, Any]:
    """An observation as a chat message: its images, then its text."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_uri(image)}} for image in observation["images"]
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": observation["text"]}]}


def data_uri(image: np.ndarray) -> str:
    """An image (HxWx3 uint8) as a PNG data URI: the same pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


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
