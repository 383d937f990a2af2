"""The agent of a run, as its manifest describes it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.agents import AgentChoice
from eval.manifest import hash_model
from eval.run_command import key_value
from pxr_agents.chat_client import Retries, Server
from pxr_agents.types import Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class Whereabouts:
    """What a manifest does not say of its agent, or what moved since.

    Args:
        agent: another program for the same model, such as "transformers" for "vllm"; that of the run if None.
        model: where the checkpoint is now, or what the server calls the model now; that of the run if None.
        base_url: of the server. It is never taken from a manifest: the key would go wherever a file says.
        api_key_env: environment variable that holds the key.
        timeout: seconds for one attempt.
        retries: of a request.
        concurrency: episodes at once; 8 behind a server and 64 otherwise if None.
        engine: start arguments that differ from those of the run.
    """

    agent: str | None = None
    model: str | None = None
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    timeout: float = 300.0
    retries: Retries = field(default_factory=Retries)
    concurrency: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)

    def n_envs(self, agent: str) -> int:
        """How many episodes run at once."""
        return self.concurrency if self.concurrency is not None else 8 if agent == "openai" else 64


def add_whereabouts(group: Any) -> None:
    """The arguments of a command line that plays an agent of an earlier run."""
    group.add_argument("--agent", help="another program for the same model, such as transformers for vllm")
    group.add_argument("--model", help="where the checkpoint is now, or what the server calls it now")
    group.add_argument("--base-url", metavar="URL", help="of the server (--agent openai)")
    group.add_argument("--api-key-env", default="OPENAI_API_KEY", metavar="NAME")
    group.add_argument("--timeout", type=float, default=300.0, help="seconds for one attempt (default: 300)")
    group.add_argument("--attempts", type=int, default=8, help="most attempts of one request (default: 8)")
    group.add_argument("--concurrency", type=int, help="episodes at once (default: 8 for openai, 64 for others)")
    group.add_argument("--engine", action="append", default=[], type=key_value, metavar="KEY=VALUE")


def whereabouts(arguments: argparse.Namespace) -> Whereabouts:
    """What `add_whereabouts` was given."""
    return Whereabouts(
        agent=arguments.agent,
        model=arguments.model,
        base_url=arguments.base_url,
        api_key_env=arguments.api_key_env,
        timeout=arguments.timeout,
        retries=Retries(attempts=arguments.attempts),
        concurrency=arguments.concurrency,
        engine=dict(arguments.engine),
    )


def agent_of(manifest: Mapping[str, Any], where: Whereabouts) -> AgentChoice:
    """The agent that made a run.

    Raises:
        ValueError: it cannot be had with what is given, or the checkpoint is another one now.
        FileNotFoundError: its checkpoint is gone.
    """
    name = where.agent or manifest["agent"]
    model = where.model or manifest["model"]
    sampling = dict(manifest["sampling"] or {"temperature": 0.0, "max_tokens": 512})
    server = None
    if name == "openai":
        if where.base_url is None:
            server_then = manifest.get("server") or {}
            place = server_then.get("base_url") or server_then.get("host", "a server")
            raise ValueError(f"the run asked a model at {place}; expected --base-url URL, where it is now")
        server = Server(
            base_url=where.base_url,
            model=model or "",
            api_key_env=where.api_key_env,
            timeout=where.timeout,
            retries=where.retries,
        )
    choice = AgentChoice(
        name=name,
        model=model,
        server=server,
        sampling=Sampling(
            temperature=sampling["temperature"], max_tokens=sampling["max_tokens"], stop=tuple(sampling.get("stop", ()))
        ),
        seed=manifest["seed"],
        concurrency=where.concurrency or manifest.get("concurrency") or where.n_envs(name),
        engine={**(manifest["engine"] if name == manifest["agent"] else {}), **where.engine},
        body=sampling.get("body", {}) if name == "openai" else {},
    )
    _check_weights(manifest, choice)
    return choice


def _check_weights(manifest: Mapping[str, Any], choice: AgentChoice) -> None:
    """Before anything is played: a checkpoint directory may have been written over since."""
    recorded = manifest["model_sha256"]
    if choice.server is not None or choice.model is None or not recorded:
        return
    now = hash_model(Path(choice.model))
    changed = sorted(name for name in recorded.keys() | now.keys() if recorded.get(name) != now.get(name))
    if changed:
        raise ValueError(
            f"{choice.model} is not the checkpoint of the run: {', '.join(changed[:4])} differ. Expected the same "
            "files; say with --model where it is now, or evaluate again."
        )
