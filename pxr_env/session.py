"""An episode as a conversation: for agents, trainers and evaluators with a loop of their own.

>>> session = ToolSession("pxr_env:pxr/SyntheticSearch-v0")
>>> question = session.reset(seed=0)
>>> session.call("zoom_in", {"bbox_2d": [0.0, 0.0, 0.5, 0.5], "target_image": 1}).text
'Image 2 (896x896).'
>>> session.answer("T").reward
1.0
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec

from pxr_env import messages
from pxr_env.dialects.base import native_prompt
from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import choose
from pxr_env.messages import CallResult, Content
from pxr_env.tasks import siblings
from pxr_env.types import NoTurn


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an episode ended. Nothing in it is for the agent.

    Example:
        >>> session = ToolSession("pxr_env:pxr/SyntheticSearch-v0")
        >>> _ = session.reset(seed=0)
        >>> session.end("I do not know.").reward_terms
        {'correct': 0.0}
    """

    reward: float
    """Of the whole episode."""
    reward_terms: dict[str, float]
    """Term -> value; they add up to the reward."""
    info: dict[str, Any]
    """The last one of the environment: `answer`, `correct`, `target`, `usage`, `truncated_by`, ..."""


class ToolSession:
    """Plays episodes of an environment by tool calls, or by whole messages; one at a time.

    Everything goes through `step`: limits, refusals, counts and rewards are those of the environment and its wrappers,
    and `turns`, played again, give the same episode. What the agent may see comes back from the methods and stands in
    `info`; targets, evidence and rewards are in `outcome` alone. A session belongs to one thread at a time.

    Args:
        env: the id of a task, its spec, or an environment, with wrappers or without; or another session, whose data are
            not opened again.
        images: how pictures stand in messages: "pil" or "array" as transformers take them, "png" or "jpeg" as OpenAI's
            API does (see `pxr_env.messages`). All but "jpeg" keep every pixel.
        kwargs: of the environment, for an id or a spec.

    Raises:
        TypeError: the environment is not one of visual reasoning, or it comes with arguments although it is made.
        ValueError: unknown `images`.
    """

    def __init__(self, env: str | EnvSpec | gymnasium.Env | ToolSession, *, images: str = "pil", **kwargs: Any) -> None:
        choose(messages.IMAGES, images, "images=", "")
        if isinstance(env, ToolSession):
            env = siblings(env.env, 2)[1]
        if isinstance(env, gymnasium.Env):
            if kwargs:
                raise TypeError(
                    f"got an environment with {', '.join(kwargs)}; expected those only with an id. Make it with them."
                )
        else:
            # Gymnasium's checker of 1.4 fails at the first step where the first reset was refused.
            env = gymnasium.make(env, **{"disable_env_checker": True, **kwargs})
        if not isinstance(env.unwrapped, VisualReasoningEnv):
            raise TypeError(f"got {type(env.unwrapped).__name__}; expected a VisualReasoningEnv, or the id of one.")
        self.env: gymnasium.Env = env
        self.images = images
        self.info: dict[str, Any] = {}
        self.turns: list[str] = []
        self.outcome: Outcome | None = None
        self._terms: dict[str, float] = {}
        self._reward = 0.0

    @property
    def base(self) -> VisualReasoningEnv:
        """The environment below its wrappers."""
        return cast(VisualReasoningEnv, self.env.unwrapped)

    @property
    def is_over(self) -> bool:
        """Whether the episode has ended: then `outcome` says how."""
        return self.outcome is not None

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tool schemas, as OpenAI's API and chat templates take them."""
        return self.base.dialect.tools(list(self.base.operations.values()))

    @property
    def functions(self) -> list[Callable[..., Content]]:
        """The tools as functions with types and docstrings, for libraries that make schemas of such. They return the
        content of the result; an argument that is None counts as left out."""
        return [typed_function(tool, lambda name, given: self.call(name, given).content) for tool in self.tools]

    @property
    def system_prompt(self) -> str:
        """What the model is told first where its calls stand in its text (`say`)."""
        return self.base.system_prompt

    @property
    def native_prompt(self) -> str:
        """The same without schemas and the syntax of calls, where they come as tool calls (`call`). An environment's
        own `system_prompt` stays as it is."""
        base = self.base
        given = {"max_turns": base.limits.max_turns, "max_operations": base.limits.max_operations}
        offered = list(base.operations.values())
        if base.system_prompt != base.dialect.system_prompt(offered, **given):
            return base.system_prompt
        return native_prompt(base.dialect, base.frame, offered, **given)

    def reset(self, *, sample_id: str | None = None, seed: int | None = None) -> Content:
        """Begins an episode with that sample, or one that is drawn; returns the question. Errors are those of the
        environment's `reset`."""
        options = None if sample_id is None else {"sample_id": sample_id}
        observation, info = self.env.reset(seed=seed, options=options)
        self.info, self.turns, self.outcome = messages.for_agent(info), [], None
        self._terms, self._reward = {}, 0.0
        return messages.content(observation, info.get("image_places"), images=self.images)

    def say(self, message: str) -> Content:
        """Plays a whole message of the model in the environment's dialect; returns the reply, which is empty after a
        final answer. ResetNeeded if the episode is over."""
        observation = self._step(message)
        if self.is_over and not observation["text"]:
            return []
        return messages.content(observation, self.info.get("image_places"), images=self.images)

    def respond(self, message: Mapping[str, Any], *, images_apart: bool = False) -> list[dict[str, Any]]:
        """Plays an assistant's chat message with its tool calls, or with none; returns the messages that follow it.

        Args:
            message: {"role": "assistant", "content": ..., "tool_calls": [...]}, as OpenAI's API and chat templates have
                it. Without calls its text is played, see `say`.
            images_apart: whether images come in a message of the user after those of the tools, for servers and
                templates that take none in messages of tools (OpenAI's own API).
        """
        text, calls = messages.read_assistant(message)
        if not calls:
            reply = self.say(text)
            return [{"role": "user", "content": reply}] if reply else []
        results = self.calls([(name, arguments) for _, name, arguments in calls], text=text)
        return messages.tool_messages([identity for identity, _, _ in calls], results, images_apart=images_apart)

    def call(self, name: str, arguments: Mapping[str, Any] | str) -> CallResult:
        """Plays one tool call, see `calls`."""
        return self.calls([(name, arguments)])[0]

    def calls(self, calls: Sequence[tuple[str, Mapping[str, Any] | str]], *, text: str = "") -> list[CallResult]:
        """Plays the tool calls of one message, in their order; returns a result for each.

        Args:
            calls: the name of a tool, and its arguments as a dict or as the JSON text that a server passed on.
            text: what the model wrote before them.

        Returns:
            One result per call. What is wrong with a call, JSON that cannot be read or an unknown name included, is
            told in its `text`, and so is that the episode is over.

        Raises:
            ResetNeeded: no episode was begun.
        """
        if not calls:
            return []
        if self.is_over:
            return [self._unplayed(name, "The episode is over.") for name, _ in calls]
        written = [messages.native_call(self.base.dialect, name, arguments) for name, arguments in calls]
        observation = self._step("\n".join([text.rstrip(), *written] if text.strip() else written))
        shown, results = iter(observation["images"]), []
        for (name, _), result in zip(calls, self.info["results"], strict=False):
            seen = {"text": result["text"], "images": [next(shown) for _ in result["views"]]}
            content = messages.content(seen, images=self.images)
            results.append(
                CallResult(
                    name=name, ok=result["ok"], text=result["text"], views=tuple(result["views"]), content=content
                )
            )
        # Calls beyond the most of one message, and what no dialect reads as a call, are answered together.
        rest = "\n".join(observation["text"].split("\n")[sum(r.text.count("\n") + 1 for r in results) :])
        return results + [self._unplayed(name, rest or "The episode is over.") for name, _ in calls[len(results) :]]

    def answer(self, text: str) -> Outcome:
        """Gives a bare final answer ("STOP", not a sentence about it) and ends the episode. What the dialect reads as
        an answer is said as it is, and so is what it cannot write, which is no answer."""
        dialect = self.base.dialect
        try:
            return self.end(text if dialect.parse(text).answers else dialect.render_answer(text.strip()))
        except ValueError:
            return self.end(text)

    def end(self, message: str = "", *, limit: str = "length") -> Outcome:
        """Ends the episode with the model's last message, whatever it is: with a final answer in it, it is scored.

        Otherwise there is no answer, and `truncated_by` is `limit`. Ending what is over already returns its outcome.
        """
        if not self.is_over and message:
            self._step(message)
        if not self.is_over:
            self._step(NoTurn(limit))
        return cast(Outcome, self.outcome)

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def _step(self, turn: str) -> dict[str, Any]:
        observation, reward, terminated, truncated, info = self.env.step(turn)
        self.turns.append(turn)
        self.info = messages.for_agent(info)
        self._reward += float(reward)
        for name, value in info["reward_terms"].items():
            self._terms[name] = self._terms.get(name, 0.0) + value
        if terminated or truncated:
            self.outcome = Outcome(reward=self._reward, reward_terms=dict(self._terms), info=info)
        return observation

    def _unplayed(self, name: str, text: str) -> CallResult:
        parts = messages.content({"text": text, "images": ()}, images=self.images)
        return CallResult(name=name, ok=False, text=text, views=(), content=parts)


@functools.lru_cache(16)
def _opened(env: str, arguments: str) -> ToolSession:
    return ToolSession(env, **json.loads(arguments))


def shared_session(env: str, *, images: str = "pil", **kwargs: Any) -> ToolSession:
    """`ToolSession(env, images=images, **kwargs)`, whose data are opened once for all that ask with equal arguments in
    this process: for packages that make an object per episode. The arguments have to be JSON."""
    return ToolSession(_opened(env, json.dumps(kwargs, sort_keys=True)), images=images)


class AsyncToolSession:
    """`ToolSession` for asynchronous code: its methods run in threads, one after another in the order of the awaits.

    Attributes:
        session: what they are done with; everything that is no method here is read there.
    """

    def __init__(self, env: str | EnvSpec | gymnasium.Env | ToolSession, *, images: str = "pil", **kwargs: Any) -> None:
        self.session = ToolSession(env, images=images, **kwargs)
        self._turn = asyncio.Lock()

    async def reset(self, *, sample_id: str | None = None, seed: int | None = None) -> Content:
        """See `ToolSession.reset`."""
        return cast(Content, await self._run(self.session.reset, sample_id=sample_id, seed=seed))

    async def say(self, message: str) -> Content:
        """See `ToolSession.say`."""
        return cast(Content, await self._run(self.session.say, message))

    async def call(self, name: str, arguments: Mapping[str, Any] | str) -> CallResult:
        """See `ToolSession.call`."""
        return cast(CallResult, await self._run(self.session.call, name, arguments))

    async def calls(self, calls: Sequence[tuple[str, Mapping[str, Any] | str]]) -> list[CallResult]:
        """See `ToolSession.calls`."""
        return cast(list[CallResult], await self._run(self.session.calls, calls))

    async def answer(self, text: str) -> Outcome:
        """See `ToolSession.answer`."""
        return cast(Outcome, await self._run(self.session.answer, text))

    async def end(self, message: str = "", *, limit: str = "length") -> Outcome:
        """See `ToolSession.end`."""
        return cast(Outcome, await self._run(self.session.end, message, limit=limit))

    async def _run(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async with self._turn:
            return await asyncio.to_thread(method, *args, **kwargs)


_TYPES = {"integer": int, "number": float, "string": str, "boolean": bool, "object": dict}


def typed_function(tool: Mapping[str, Any], run: Callable[[str, dict[str, Any]], Any]) -> Callable[..., Any]:
    """A tool schema as a function with annotations and a docstring of Google's form, which calls `run(name, arguments)`
    with the arguments that are not None. Names that it does not have, and missing ones, are for `run` to refuse."""
    schema = tool["function"]
    properties, required = schema["parameters"]["properties"], schema["parameters"].get("required", ())
    # Those without a default come first.
    names = sorted(properties, key=lambda name: name not in required)
    empty = inspect.Parameter.empty
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=empty if name in required else None,
            annotation=_annotation(properties[name]) if name in required else _annotation(properties[name]) | None,
        )
        for name in names
    ]
    signature = inspect.Signature(parameters, return_annotation=list)

    def function(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind_partial(*args).arguments | kwargs
        return run(schema["name"], {name: value for name, value in given.items() if value is not None})

    described = "\n".join(f"    {name}: {properties[name].get('description', name)}" for name in names)
    function.__name__ = function.__qualname__ = schema["name"]
    function.__doc__ = f"{schema['description']}\n\nArgs:\n{described}\n"
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {item.name: item.annotation for item in parameters} | {"return": list}
    return function


def _annotation(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    if schema["type"] == "array":
        return list[_annotation(schema["items"])] if "items" in schema else list  # type: ignore[misc]
    return _TYPES[schema["type"]]
