"""`python -m eval rerun RUN --out DIR`: run again exactly what a manifest says, with the agent that it describes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console

from eval.agents import AgentChoice
from eval.choice import Choice
from eval.differences import describe, find_differences
from eval.judge import PROMPT, JudgeChoice
from eval.manifest import commit, facts_of_environment, hash_model, library_versions, sample_ids_digest
from eval.options import add_engine, add_server, server_of
from eval.preflight import PreflightChoice
from eval.records import RunFiles
from eval.run_command import print_metrics
from eval.runner import evaluate
from eval.suites import suite_of
from pxr_agents.chat_client import Server
from pxr_agents.types import Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class Whereabouts:
    """What a manifest does not say of its agent, or what moved since.

    Args:
        agent: another program for the same model, such as "transformers" for "vllm"; that of the run if None.
        model: where the checkpoint is now, or what the server calls the model now; that of the run if None.
        server: where it is served, by whatever model. It is never taken from a manifest: the key would go wherever a
            file says.
        concurrency: episodes at once; 8 behind a server and 64 otherwise if None.
        engine: start arguments that differ from those of the run.
    """

    agent: str | None = None
    model: str | None = None
    server: Server | None = None
    concurrency: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)

    def n_envs(self, agent: str) -> int:
        """How many episodes run at once."""
        return self.concurrency if self.concurrency is not None else 8 if agent == "openai" else 64


def add_whereabouts(parser: argparse.ArgumentParser) -> None:
    """The arguments of a command line that plays an agent of an earlier run."""
    parser.add_argument("--data", metavar="DIR", help="where the data lie now, if they were moved")
    group = parser.add_argument_group("the agent of the run, where its manifest does not say enough")
    group.add_argument("--agent", help="another program for the same model, such as transformers for vllm")
    group.add_argument("--model", help="where the checkpoint is now, or what the server calls it now")
    add_server(group)
    add_engine(group)


def whereabouts(arguments: argparse.Namespace) -> Whereabouts:
    """What `add_whereabouts` was given."""
    return Whereabouts(
        agent=arguments.agent,
        model=arguments.model,
        server=None if arguments.base_url is None else server_of(arguments, arguments.model or ""),
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
        if where.server is None:
            server_then = manifest.get("server") or {}
            place = server_then.get("base_url") or server_then.get("host", "a server")
            raise ValueError(f"the run asked a model at {place}; expected --base-url URL, where it is now")
        server = replace(where.server, model=model or "")
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which manifest, where what it names is now, and where the results go."""
    parser.add_argument("manifest", type=Path, metavar="RUN", help="directory of a run, or its manifest.json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory for the results")
    parser.add_argument("--judge-base-url", metavar="URL", help="of the judge's server")
    add_whereabouts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate again; returns 1 if nothing could be scored, or the files of the samples turned out to be others."""
    manifest = read_manifest(arguments.manifest)
    where, suite = whereabouts(arguments), suite_of(manifest)
    env_args = {} if arguments.data is None else {"data": arguments.data}
    choice = _check_environment(manifest, gymnasium.make(suite.env_id, **{**suite.arguments, **env_args}))
    agent, judge = agent_of(manifest, where), _judge(manifest, arguments)
    for line in cannot_be_had(manifest, where):
        print(f"not as it was: {line}", file=sys.stderr)
    metrics = evaluate(
        suite,
        out=arguments.out,
        agent=agent,
        env_args=env_args,
        choice=choice,
        seed=manifest["seed"],
        repeats=manifest["repeats"],
        n_envs=agent.concurrency,
        judge=judge,
        # As the run was begun: without one, or with what it found allowed.
        preflight=_preflight(manifest),
    )
    print_metrics(RunFiles(arguments.out).manifest(), metrics, suite, Console())
    print(f"Written to {arguments.out}. Side by side: python -m eval compare {arguments.manifest} {arguments.out}")
    was, now = (content["data"].get("samples_sha256") for content in (manifest, RunFiles(arguments.out).manifest()))
    if was is not None and was != now:
        print("not as it was: files of the samples, see their digests in episodes.jsonl", file=sys.stderr)
        return 1
    return 0 if metrics["statistics"]["n_episodes"] else 1


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is that of an audit's arm, which `audit` plays again, or of something else.
    """
    path = path / "manifest.json" if path.is_dir() else path
    manifest = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in ("env", "suite", "agent", "seed", "repeats") if name not in manifest]
    if missing:
        raise ValueError(f'"{path}" lacks {", ".join(missing)}; expected the manifest of `python -m eval run`')
    if manifest.get("intervention") is not None:
        raise ValueError(f'"{path}" is of an arm of an audit; expected a run. Use `python -m eval audit` for arms.')
    return manifest


def choice_of(manifest: Mapping[str, Any]) -> Choice:
    """How the samples of a run were chosen. Earlier versions took the first ones, and did not say so."""
    chosen = manifest.get("samples") or {"chosen": "first", "ids": None}
    if chosen["ids"] is not None:
        return Choice(sample_ids=tuple(chosen["ids"]))
    return Choice(first=manifest["n_samples"]) if chosen["chosen"] != "all" else Choice()


def cannot_be_had(manifest: Mapping[str, Any], where: Whereabouts) -> list[str]:
    """What is not as it was, or cannot be known to be, and does not keep the run from being made again; in words."""
    agent = where.agent or manifest["agent"]
    now = {"versions": library_versions(agent), "commit": commit(), "agent": agent}
    found = find_differences([{name: manifest.get(name) for name in now}, now])
    lines = [f"{one.field}: {describe(one)} ({one.why})" for one in found]
    if (manifest.get("commit") or {}).get("dirty"):
        lines.append("commit: files differed from it then, and nobody knows how")
    if manifest.get("server"):
        lines.append("the server's weights and program: a server does not prove what it runs")
    if ":" in agent:
        lines.append(f"the code of {agent}: no version of it is on record")
    return lines


def _check_environment(manifest: Mapping[str, Any], env: gymnasium.Env) -> Choice:
    """The samples of the run in its environment, which has to say what it said."""
    now = json.loads(json.dumps(facts_of_environment(env)))
    # Earlier versions had fewer fields; sources are words.
    unlike = [
        f"{one.field} was {describe(one).replace(' | ', ' and is ')}"
        for one in find_differences([{name: manifest.get(name) for name in now}, now])
        if one.values[0] is not None and one.field not in ("scorer.source", "data.samples_sha256")
    ]
    choice = choice_of(manifest)
    if not unlike and sample_ids_digest(choice.choose(env)) != manifest["samples_sha256"]:
        unlike = ["the data have other samples, or in another order"]
    env.close()
    if unlike:
        raise ValueError(
            f"the run cannot be had again: {'; '.join(unlike)}. Say with --data where its data are, check out its "
            "commit, or evaluate anew with `python -m eval run`."
        )
    return choice


def _preflight(manifest: Mapping[str, Any]) -> PreflightChoice:
    found = (manifest.get("server") or {}).get("preflight")
    if found is None:
        return "none"
    return "blind" if found.get("sees_images") is False else "refuse"


def _judge(manifest: Mapping[str, Any], arguments: argparse.Namespace) -> JudgeChoice | None:
    recorded = manifest.get("judge")
    if recorded is None:
        return None
    if recorded["prompt"] != PROMPT:
        raise ValueError("the run cannot be had again: this version asks a judge otherwise. Check out its commit.")
    if arguments.judge_base_url is None:
        raise ValueError(f"{recorded['model']} at {recorded['host']} judged; expected --judge-base-url URL")
    return JudgeChoice(server=server_of(arguments, recorded["model"], arguments.judge_base_url))
