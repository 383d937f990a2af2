"""Agents by the name given to `--agent`."""

from __future__ import annotations

import difflib
import importlib
import zlib
from pathlib import Path
from typing import cast

import gymnasium

from pxr_agents.agents import EachEpisode, Oracle, Random
from pxr_agents.types import Agent, Sampling

#: Names that `build_agent` knows besides `module:factory`.
AGENT_NAMES = ("oracle", "random", "transformers")

_AGENT_METHODS = ("start", "submit", "collect", "finish")


def build_agent(name: str, *, model: str | None, sampling: Sampling, seed: int) -> Agent:
    """Build the agent called `name`.

    Args:
        name: "oracle" (looks into the sample), "random", "transformers" (a Qwen2.5-VL or Qwen3-VL checkpoint in this
            process), or "module:factory", a function without parameters that returns an
            `Agent`, or an object whose `act(observation) -> str` plays one episode.
        model: the checkpoint directory, for "transformers" only.
        sampling: how a model's tokens are drawn.
        seed: seed of sampling noise and random turns.

    Raises:
        ValueError: the name is unknown, or `model` is missing or given to an agent that has none.
        TypeError: a factory did not return an agent.
    """
    if name == "transformers":
        return _transformers_agent(model, sampling, seed)
    if model is not None:
        raise ValueError(f"--model {model} came with --agent {name}, which takes no model. Use --agent transformers.")
    if name == "oracle":
        return EachEpisode(Oracle)
    if name == "random":
        return EachEpisode(lambda env: _random_player(env, seed))
    if ":" in name:
        return _custom_agent(name)
    near = difflib.get_close_matches(name, AGENT_NAMES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"--agent {name} is unknown.{hint} Expected one of {', '.join(AGENT_NAMES)}, or module:factory for your own."
    )


def _random_player(env: gymnasium.Env, seed: int) -> Random:
    """Turns depend on the seed and the sample only, so an interrupted run continues as if it had not been."""
    sample_id: str = env.unwrapped.sample.sample_id  # type: ignore[attr-defined]
    return Random(env, seed=zlib.crc32(f"{seed}:{sample_id}".encode("utf-8", "surrogatepass")))


def _transformers_agent(model: str | None, sampling: Sampling, seed: int) -> Agent:
    if model is None:
        raise ValueError("--agent transformers came without a model. Expected --model DIRECTORY, a saved checkpoint.")
    if not Path(model).is_dir():
        raise FileNotFoundError(
            f"--model {model} is not a directory. Expected a checkpoint written by save_pretrained; download it first, "
            "or check the path."
        )
    # Imported here, so that scripted agents are evaluated without torch.
    from pxr_agents.agents import VLMAgent
    from pxr_agents.engines.transformers import TransformersEngine
    from pxr_agents.vlm import VLM

    vlm = VLM.from_pretrained(model)
    return VLMAgent(vlm.chat, TransformersEngine(vlm, seed=seed), sampling)


def _custom_agent(name: str) -> Agent:
    module_name, _, factory_name = name.partition(":")
    module = importlib.import_module(module_name)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        near = difflib.get_close_matches(factory_name, dir(module), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"--agent {name}: {module_name} has no function {factory_name!r}.{hint}")
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
