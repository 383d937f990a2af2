"""Agents by the name given to `--agent`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pxr_agents.agents import EachEpisode, Oracle, Random
from pxr_agents.chat_client import ChatClient, Server
from pxr_agents.checkpoint import find_checkpoint
from pxr_agents.types import Agent, Engine, Sampling
from pxr_env.errors import did_you_mean
from pxr_env.tasks import import_function

#: Names that are known besides `module:factory`.
AGENT_NAMES = ("oracle", "random", "transformers", "vllm", "openai")
#: Those of them that a model plays.
NAMES_WITH_MODEL = ("transformers", "vllm", "openai")
_AGENT_METHODS = ("start", "submit", "collect", "finish")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentChoice:
    """Who plays.

    Args:
        name: one of `AGENT_NAMES`, or "module:factory" for an agent of one's own.
        model: checkpoint directory or hub name, or the name that the `server` of "openai" knows the model by.
        sampling: how a model's tokens are drawn, greedily by default.
        engine: start arguments of "vllm" (`StartArguments`) and "transformers" (dtype, device,
            attn_implementation, max_model_len).
        body: further fields of every request, for "openai".

    Raises:
        ValueError: the name is unknown, something is missing, or came for an agent that does not take it.
        FileNotFoundError: there is no such checkpoint.
    """

    name: str
    model: str | None = None
    server: Server | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    engine: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in AGENT_NAMES and ":" not in self.name:
            raise ValueError(
                f"--agent {self.name} is unknown.{did_you_mean(self.name, AGENT_NAMES)} Expected one of "
                f"{', '.join(AGENT_NAMES)}, or module:factory for your own."
            )
        if not self.has_model and self.model is not None:
            raise ValueError(
                f"got --model {self.model} with --agent {self.name}, which takes no model. Use --agent transformers, "
                "vllm or openai."
            )
        if self.name == "openai" and (self.model is None or self.server is None):
            raise ValueError("got --agent openai without --model NAME and --base-url URL, expected both")
        if self.has_model and self.name != "openai":
            if self.server is not None:
                raise ValueError(f"got a base URL with --agent {self.name}, expected one with --agent openai only")
            if self.model is None:
                raise ValueError(
                    f"got --agent {self.name} without a model, expected --model DIRECTORY, a checkpoint, or its hub "
                    "name."
                )
            find_checkpoint(self.model)
        if self.engine and self.name not in ("transformers", "vllm"):
            raise ValueError(f"got engine arguments with --agent {self.name}; only transformers and vllm take some")
        if self.body and self.name != "openai":
            raise ValueError(f"got body fields with --agent {self.name}; only openai takes some")
        if self.sampling.stop and not self.has_model:
            raise ValueError(f"got stop strings with --agent {self.name}; only agents with a model take some")

    @property
    def has_model(self) -> bool:
        """Whether a model writes the turns, with these sampling parameters."""
        return self.name in NAMES_WITH_MODEL

    @property
    def checkpoint(self) -> Path | None:
        """The directory of the model's checkpoint, with its weights; None for a model behind a server, and without one.

        Raises:
            FileNotFoundError: as `find_checkpoint`.
        """
        return _checkpoint(self.model) if self.model is not None and self.name != "openai" else None


# What a hub name stands for is looked up once in the life of a process.
_checkpoint = functools.cache(functools.partial(find_checkpoint, weights=True))


@contextmanager
def open_agent(choice: AgentChoice, *, concurrency: int = 8) -> Iterator[Agent]:
    """The agent, until the end of the `with` block. Only the libraries it needs are imported.

    Args:
        concurrency: most requests to a server at once.

    Raises:
        ImportError: its libraries, or the module of an own agent, are missing.
        TypeError: a factory did not return an agent.
    """
    if choice.name == "openai":
        from pxr_agents.remote import OpenAIAgent

        assert choice.server is not None
        client = ChatClient(choice.server)
        with closing(OpenAIAgent(client, choice.sampling, concurrency=concurrency, extra=choice.body)) as remote:
            yield remote
    elif choice.name == "vllm":
        from pxr_agents.agents import VLMAgent
        from pxr_agents.engines.vllm import VLLMEngine

        assert choice.checkpoint is not None
        with VLLMEngine.from_pretrained(choice.checkpoint, **choice.engine) as engine:
            yield VLMAgent(engine.chat, cast(Engine, engine), choice.sampling)
    elif choice.name == "transformers":
        yield _transformers_agent(choice)
    elif choice.name == "oracle":
        yield EachEpisode(Oracle)
    elif choice.name == "random":
        # Turns follow from the episode's seed, so an interrupted run continues as if it had not been.
        yield EachEpisode(lambda env: Random(env, seed=env.unwrapped.np_random_seed))
    else:
        yield _custom_agent(choice.name)


def _transformers_agent(choice: AgentChoice) -> Agent:
    import torch

    from pxr_agents.agents import VLMAgent
    from pxr_agents.engines.transformers import TransformersEngine
    from pxr_agents.vlm import VLM

    arguments = dict(choice.engine)
    known = ("dtype", "device", "attn_implementation", "max_model_len")
    for name in arguments:
        if name not in known:
            raise ValueError(f"got --engine {name}, expected {', '.join(known)}.{did_you_mean(name, known)}")
    if "dtype" in arguments:
        arguments["dtype"] = getattr(torch, str(arguments["dtype"]))
    max_model_len = int(arguments.pop("max_model_len", 0))
    assert choice.checkpoint is not None
    vlm = VLM.from_pretrained(choice.checkpoint, **arguments)
    return VLMAgent(vlm.chat, TransformersEngine(vlm, max_model_len=max_model_len), choice.sampling)


def _custom_agent(name: str) -> Agent:
    factory = import_function(name)
    if _wants_environment(factory):
        return EachEpisode(factory)
    agent = factory()
    if callable(getattr(agent, "act", None)):
        # It plays one episode; every episode gets its own.
        return EachEpisode(lambda env: factory())
    lacking = [method for method in _AGENT_METHODS if not callable(getattr(agent, method, None))]
    if lacking:
        raise TypeError(
            f"--agent {name} returned a {type(agent).__name__} without {', '.join(lacking)}. Expected an Agent "
            "(pxr_agents/types.py), or an object with act(observation) -> str that plays one episode."
        )
    return cast(Agent, agent)


def _wants_environment(factory: Callable[..., Any]) -> bool:
    """Whether a factory has a parameter without default: it is called once per episode, with the environment."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(one.kind in kinds and one.default is one.empty for one in inspect.signature(factory).parameters.values())
