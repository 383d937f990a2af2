"""A handful of requests before a run: does the server do what the task needs of it?

A server may drop images without a word, take calls out of the text, or refuse the longest conversation that the task
allows. A score would hide the first and the second, and the third costs exactly the episodes that look most closely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import gymnasium
import numpy as np

from pxr_agents.chat_client import ChatClient, ContextExceeded, Unanswered
from pxr_agents.chat_reply import Reply
from pxr_agents.remote import request_body, with_calls
from pxr_agents.types import Sampling
from pxr_env.errors import DataError, MediaError
from pxr_env.media import fit_size
from pxr_env.messages import user_message
from pxr_env.types import OperationCall

#: Whether a server is asked before a run: not at all; yes; yes, and the model is not meant to see.
PreflightChoice = Literal["none", "refuse", "blind"]

_RED, _BLUE = (200, 20, 20), (20, 20, 200)
#: A picture that costs this many tokens was seen, whatever the model makes of it. Words in its place cost fewer.
_SEEN = 32
_COLOUR = "What is the colour of this picture? Answer with one word."


@dataclass(kw_only=True, slots=True)
class Preflight:
    """What a server was found to do; None where that could not be told.

    Args:
        sees_images: whether what it answers, or counts, depends on an image.
        image_tokens: prompt tokens of one picture of `image_size`.
        calls: "text" if they arrive as the model wrote them, "parsed" if the server takes them out of the text.
        images, turns: of the longest conversation that the task allows, with one image for each operation.
        accepts_longest: whether it was answered, with small pictures.
        usage, logprobs: whether it returns them.
        requests: how many it took.
        problems: why there should be no run, with what to do.
    """

    sees_images: bool | None = None
    image_tokens: int | None = None
    image_size: tuple[int, int] = (0, 0)
    calls: str | None = None
    images: int = 0
    turns: int = 0
    accepts_longest: bool | None = None
    usage: bool | None = None
    logprobs: bool | None = None
    requests: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_manifest(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return asdict(self) | {"image_size": list(self.image_size)}

    def summary(self) -> str:
        """One line for people."""
        words = {True: "yes", False: "no", None: "not known"}
        size = "x".join(map(str, self.image_size))
        cost = "" if self.image_tokens is None else f" ({self.image_tokens} tokens for {size})"
        return (
            f"preflight, {self.requests} requests: sees images: {words[self.sees_images]}{cost}; calls: "
            f"{self.calls or 'not known'}; {self.images} images in {self.turns} turns: {words[self.accepts_longest]}; "
            f"usage: {words[self.usage]}; log-probabilities: {words[self.logprobs]}"
        )


def find_out(
    client: ChatClient, env: gymnasium.Env, sampling: Sampling, extra: Mapping[str, Any], *, may_be_blind: bool = False
) -> Preflight:
    """Ask a server a handful of questions.

    Args:
        env: one of the environments of the run; it is reset.
        sampling, extra: of the run's requests.
        may_be_blind: a model that is not shown the images is wanted.

    Raises:
        ServerRefused: no request would be answered.
    """
    return _Asking(client, env, sampling, extra, may_be_blind).run()


class _Asking:
    """Asks, and keeps what it found."""

    def __init__(
        self, client: ChatClient, env: gymnasium.Env, sampling: Sampling, extra: Mapping[str, Any], may_be_blind: bool
    ) -> None:
        self._client, self._sampling, self._extra = client, sampling, extra
        self._env, self._may_be_blind = env, may_be_blind
        self._base: Any = env.unwrapped
        self._found = Preflight()

    def run(self) -> Preflight:
        found, call, n_tokens = self._found, self._call(), None
        task = f"Write these lines again, and nothing else:\n{call}" if call else "Say yes."
        alone = self._ask(task)
        if isinstance(alone, ContextExceeded):
            found.problems.append(
                f"no question fits: {alone}. Lower --max-tokens, now {self._sampling.max_tokens}, or start the server "
                "with a longer context."
            )
        elif isinstance(alone, Unanswered):
            found.notes.append(f"a first question, without an image, was not answered: {alone}")
            # Servers that parse calls may break on a wrong one.
            task, n_tokens = "Say yes.", 1
            alone = self._ask(task, n_tokens=n_tokens)
        if isinstance(alone, Unanswered):
            return found
        found.usage = alone.prompt_tokens is not None
        self._images(alone, task, n_tokens)
        if found.sees_images is not False or self._may_be_blind:
            self._longest(task, call)
        more = self._ask(task, n_tokens=1, logprobs=True)
        found.logprobs = more.has_logprobs if isinstance(more, Reply) else False
        return found

    def _images(self, alone: Reply, task: str, n_tokens: int | None) -> None:
        """Whether an image makes a difference: in tokens, or else in what is answered."""
        found = self._found
        size = found.image_size = self._size(448)
        seen = self._ask(_picture(size, _RED), task, n_tokens=n_tokens)
        if isinstance(seen, Unanswered):
            found.sees_images = None if seen.is_down else False
            told = found.notes if seen.is_down else found.problems
            told.append(f"the server answers a question without an image, and not one with a picture: {seen}")
            return
        self._calls(seen, alone)
        if alone.prompt_tokens is not None and seen.prompt_tokens is not None:
            found.image_tokens = seen.prompt_tokens - alone.prompt_tokens
            if found.image_tokens >= max(1, min(_SEEN, size[0] * size[1] // self._base.limits.size_multiple**2)):
                found.sees_images = True
                return
        red, blue = (
            self._ask(_picture(size, colour), _COLOUR, n_tokens=16, temperature=0.0) for colour in (_RED, _BLUE)
        )
        if isinstance(red, Reply) and isinstance(blue, Reply) and (red.text, red.calls) != (blue.text, blue.calls):
            found.sees_images = True
        elif found.image_tokens is None:
            found.notes.append("whether the server shows images to the model is not known: it counts no tokens")
        else:
            found.sees_images = False
            if not self._may_be_blind:
                found.problems.append(
                    f"the server drops images: a picture of {size[0]}x{size[1]} adds {found.image_tokens} tokens to "
                    "the prompt, and a red one is answered like a blue one. Serve a model that sees; --allow-blind "
                    "runs all the same."
                )

    def _calls(self, *replies: Reply) -> None:
        for reply in replies:
            if reply.calls:
                self._found.calls = "parsed"
                try:
                    with_calls(reply, self._base.dialect)
                except Unanswered as error:
                    self._found.problems.append(str(error))
                return
            if self._base.dialect.parse(reply.text).calls:
                self._found.calls = "text"
                return

    def _longest(self, task: str, call: str) -> None:
        """The longest conversation that the task allows: with as many images, and as small ones as it shows."""
        found, limits = self._found, self._base.limits
        try:
            n_first = len(self._env.reset()[0]["images"])
        except (MediaError, DataError, OSError):
            n_first = 1
        most = n_first + limits.max_operations
        found.images = most if limits.max_images is None else min(most, limits.max_images)
        found.turns = limits.max_turns
        small, left = _picture(self._size(28), _BLUE), found.images - n_first
        messages = []
        for turn in range(1, found.turns):
            n_now = left if turn == found.turns - 1 else min(left, 1)
            left -= n_now
            messages += [{"role": "assistant", "content": call or "Yes."}, _user(*[small] * n_now, "Go on.")]
        reply = self._ask(*[small] * n_first, task, then=messages, n_tokens=1)
        found.accepts_longest = isinstance(reply, Reply)
        if isinstance(reply, ContextExceeded) or (isinstance(reply, Unanswered) and reply.is_down):
            found.notes.append(
                f"the longest conversation that the task allows ({found.images} images, {found.turns} turns) was not "
                f"answered: {reply}. Episodes that outgrow the context end without an answer."
            )
        elif isinstance(reply, Unanswered):
            found.problems.append(
                f"the server refuses a conversation with {found.images} images, which the task allows: {reply}. Start "
                f"""it with room for them (vLLM: --limit-mm-per-prompt '{{"image": {found.images}}}'), or lower """
                "--set max_operations=N or --set max_images=N."
            )

    def _size(self, side: int) -> tuple[int, int]:
        """The size at which the environment shows a square picture."""
        return fit_size(side, side, **self._base.rules.image_budget)

    def _call(self) -> str:
        """A call in the task's dialect; "" if it has no zoom."""
        if "zoom_in" not in self._base.operations:
            return ""
        width, height = self._base.frame.extent((100, 100))
        box = [0.1 * width, 0.2 * height, 0.4 * width, 0.5 * height]
        numbers = box if self._base.frame.decimals else [round(number) for number in box]
        call = OperationCall(name="zoom_in", arguments={"bbox_2d": numbers, "target_image": 1})
        return str(self._base.dialect.render_call(call))

    def _ask(
        self,
        *parts: str | np.ndarray,
        then: Sequence[Mapping[str, Any]] = (),
        n_tokens: int | None = None,
        **fields: Any,
    ) -> Reply | Unanswered:
        """The reply to a question of `parts` and what comes `then`, or why there is none.

        `n_tokens` is the limit, by the name that the run gives it.
        """
        messages = [{"role": "system", "content": self._base.system_prompt}, _user(*parts), *then]
        if n_tokens is not None:
            fields["max_completion_tokens" if "max_completion_tokens" in self._extra else "max_tokens"] = n_tokens
        self._found.requests += 1
        try:
            return self._client.complete(request_body(messages, self._sampling, {**self._extra, **fields}))
        except Unanswered as error:
            return error


def _user(*parts: str | np.ndarray) -> dict[str, Any]:
    """Pictures and then one text, as a run sends them."""
    images = tuple(part for part in parts if not isinstance(part, str))
    return user_message({"text": "".join(part for part in parts if isinstance(part, str)), "images": images})


def _picture(size: tuple[int, int], colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((size[1], size[0], 3), colour, dtype=np.uint8)
