"""`python -m eval run` and `python -m eval rerun`: from a command line, or a manifest, to `evaluate`, and the table of
what came out."""

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
from rich.table import Table
from rich.text import Text

from pxr_agents.chat_client import Server
from pxr_agents.judge import PROMPT
from pxr_agents.types import Sampling
from .agents import NAMES_WITH_MODEL, AgentChoice
from .differences import describe, find_differences
from .judge import JudgeChoice
from .manifest import changed_facts, commit, hash_model, library_versions, sample_ids_digest
from .options import add_engine, add_server, add_settings, key_value, say, server_of
from .preflight import PreflightChoice
from .records import RunFiles
from .report import write_report
from .runner import evaluate
from .suites import SUITES, Choice, Recipe, Suite, choice_of, get_suite, read_recipe, read_sample_ids, suite_of
from .tables import category_rows, cell, headline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to ask, whom, and where the results go."""
    parser.add_argument("env_id", nargs="?", metavar="ENV_ID", help="the id of an environment, instead of --suite")
    parser.add_argument("--suite", help=f"{', '.join(SUITES)}, or the id of an environment")
    parser.add_argument(
        "--recipe", metavar="NAME",
        help="how a released model wants to be asked: a name, or a TOML file (docs/reproduce.md)",
    )  # fmt: skip
    parser.add_argument("--data", metavar="DIR", help="directory of the suite's data")
    add_settings(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="N samples, alike from all categories (default: all)")
    parser.add_argument("--first", type=int, metavar="N", help="the first N samples of the data")
    parser.add_argument(
        "--sample-ids", type=read_sample_ids, metavar="FILE|ID,ID",
        help="these samples: a file with one id a line, or ids with commas between",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="directory for the results (default: runs/eval/SUITE-AGENT)")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling noise (default: 0)")
    parser.add_argument("--retry-errors", action="store_true", help="ask again what a finished run could not score")
    parser.add_argument("--no-report", action="store_true", help="write no report.html")
    parser.add_argument("--agent", required=True, help="oracle, random, transformers, vllm, openai, or module:factory")
    parser.add_argument("--model", help="checkpoint directory or hub name; for openai the name of the model")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: 0)")
    parser.add_argument("--max-tokens", type=int, help="longest turn in tokens (default: 512)")
    parser.add_argument("--stop", action="append", help="string that ends a turn, too; may be repeated")
    parser.add_argument("--k", type=int, default=1, help="episodes per sample, for pass@k and the majority's vote")
    add_engine(parser, "8 for openai, 64 for others")
    group = parser.add_argument_group("models behind a server (--agent openai)")
    add_server(group)
    group.add_argument("--no-preflight", action="store_true", help="do not ask first what the server can do")
    group.add_argument("--allow-blind", action="store_true", help="run though the model is not shown the images")
    group.add_argument(
        "--body", action="append", default=[], type=key_value, metavar="KEY=VALUE",
        help="field of every request, VALUE as JSON or plain text, null to leave one out; may be repeated",
    )  # fmt: skip
    judge = parser.add_argument_group("an LLM as judge, instead of the environment's scorer")
    judge.add_argument("--judge-model", metavar="NAME")
    judge.add_argument("--judge-base-url", metavar="URL")
    judge.add_argument("--judge-api-key-env", default="OPENAI_API_KEY", metavar="NAME")
    judge.add_argument("--judge-cache", type=Path, metavar="FILE", help="default: DIR/judgments.jsonl")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write the report; 1 if nothing could be scored."""
    suite = _suite(arguments)
    recipe = None if arguments.recipe is None else read_recipe(arguments.recipe)
    agent = _agent(arguments, recipe)
    out = arguments.out or Path("runs", "eval", f"{_file_name(suite.name)}-{_file_name(arguments.agent)}")
    data = {} if arguments.data is None else {"data": arguments.data}
    metrics = evaluate(
        suite,
        out=out,
        agent=agent,
        env_args=(recipe.environment(suite) if recipe else {}) | dict(arguments.env_args) | data,
        choice=Choice(limit=arguments.limit, first=arguments.first, sample_ids=arguments.sample_ids),
        seed=arguments.seed,
        repeats=arguments.k,
        n_envs=(8 if agent.name == "openai" else 64) if arguments.concurrency is None else arguments.concurrency,
        judge=_judge(arguments),
        retry_errors=arguments.retry_errors,
        recipe=recipe,
        preflight="none" if arguments.no_preflight else "blind" if arguments.allow_blind else "refuse",
    )
    console = Console()
    print_metrics(RunFiles(out).manifest(), metrics, suite, console)
    if arguments.no_report:
        console.print(f"Written to {out}. Pictures of the episodes: pxr eval report {out}", soft_wrap=True)
    else:
        _report(out, console)
    if metrics["statistics"]["n_episodes"]:
        return 0
    n_errors = metrics["statistics"]["n_errors"]
    print(
        f"error: nothing was scored: {n_errors:.0f} of {n_errors:.0f} episodes have no score, for the reasons above. "
        "Mend their cause; the same command with --retry-errors asks again.",
        file=sys.stderr,
    )
    return 1


def print_metrics(manifest: dict[str, Any], metrics: dict[str, Any], suite: Suite, console: Console) -> None:
    """The table of what came out, the same by category, and why episodes have no score."""
    own = headline(manifest, metrics)
    table = Table("metric", "value", "95% interval", box=None)
    for name in dict.fromkeys([own, *suite.metrics, *metrics["statistics"]]):
        if found := cell(metrics, name):
            table.add_row(name, f"{found.value:.0f}" if name.startswith("n_") else found.text, found.interval)
    console.print(table)
    if metrics["by_category"]:
        table = Table("category", own, "95% interval", "usage_rate", "not scored", box=None)
        for category, found, usage, n_unscored in category_rows(manifest, metrics):
            texts = (found.text, found.interval) if found else ("", "")
            table.add_row(Text(category), *texts, usage.text if usage else "", str(n_unscored))
        console.print(table)
    for reason, count in metrics["errors"].items():
        say(console, f"{count} not scored: {reason}")


def _suite(arguments: argparse.Namespace) -> Suite:
    if (arguments.env_id is None) == (arguments.suite is None):
        raise ValueError("expected one of --suite NAME and the id of an environment, not both and not neither")
    suite = get_suite(arguments.suite or arguments.env_id)
    if arguments.data is not None and not suite.needs_data:
        raise ValueError(f"got --data {arguments.data} with {suite.name}, which reads no data; leave it out")
    return suite


def _agent(arguments: argparse.Namespace, recipe: Recipe | None) -> AgentChoice:
    """What the command line says goes before the recipe, the recipe before the defaults."""
    model, body = arguments.model, dict(arguments.body)
    sampling: dict[str, Any] = {"temperature": 0.0, "max_tokens": 512, "stop": ()}
    if recipe is not None and arguments.agent in NAMES_WITH_MODEL:
        model = recipe.model if model is None else model
        sampling |= recipe.sampling
        if arguments.agent == "openai":
            body = {**recipe.body, **body}
    sampling |= {name: value for name in sampling if (value := getattr(arguments, name)) is not None}
    return AgentChoice(
        name=arguments.agent,
        model=model,
        server=None if arguments.base_url is None else server_of(arguments, model or ""),
        sampling=_sampling(sampling),
        engine=dict(arguments.engine),
        body=body,
    )


def _sampling(said: Mapping[str, Any]) -> Sampling:
    return Sampling(
        temperature=float(said["temperature"]),
        max_tokens=int(said["max_tokens"]),
        stop=tuple(said.get("stop", ())),
    )


def _judge(arguments: argparse.Namespace) -> JudgeChoice | None:
    if (arguments.judge_model is None) != (arguments.judge_base_url is None):
        raise ValueError("--judge-model NAME and --judge-base-url URL belong together; expected both or neither")
    if arguments.judge_model is None:
        return None
    server = server_of(arguments, arguments.judge_model, arguments.judge_base_url, arguments.judge_api_key_env)
    return JudgeChoice(server=server, cache=arguments.judge_cache)


def _report(out: Path, console: Console) -> None:
    """The scores are written already: what keeps the page from being written is said and does not undo them."""
    try:
        write_report(out, out / "report.html")
    except (ValueError, RuntimeError, OSError, KeyboardInterrupt) as error:
        reason = str(error) or "interrupted"
        print(f"The report was not written: {reason}. To write it: pxr eval report {out}", file=sys.stderr)
        console.print(f"Written to {out}.", soft_wrap=True)
        return
    console.print(f"Written to {out}. Pictures of the episodes: {out / 'report.html'}", soft_wrap=True)


def _file_name(name: str) -> str:
    return name.rpartition("/")[2].replace(":", "-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Whereabouts:
    """What a manifest does not say of its agent, or what moved since; None: as in the run.

    Args:
        agent: another program for the same model, such as "transformers" for "vllm".
        model: where the checkpoint is now, or what the server calls the model now.
        server: never taken from a manifest: the key would go wherever a file says.
        concurrency: episodes at once.
        engine: start arguments that differ from those of the run.
    """

    agent: str | None = None
    model: str | None = None
    server: Server | None = None
    concurrency: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)


def add_whereabouts(parser: argparse.ArgumentParser) -> None:
    """The arguments of a command line that plays an agent of an earlier run."""
    parser.add_argument("--data", metavar="DIR", help="where the data lie now, if they were moved")
    group = parser.add_argument_group("the agent of the run, where its manifest does not say enough")
    group.add_argument("--agent", help="another program for the same model, such as transformers for vllm")
    group.add_argument("--model", help="where the checkpoint is now, or what the server calls it now")
    add_server(group)
    add_engine(group, "as in the run")


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
    sampling = manifest["sampling"] or {"temperature": 0.0, "max_tokens": 512}
    if name == "openai" and where.server is None:
        place = (manifest["server"] or {}).get("base_url", "a server")
        raise ValueError(f"the run asked a model at {place}; expected --base-url URL, where it is now")
    choice = AgentChoice(
        name=name,
        model=model,
        server=replace(where.server, model=model or "") if name == "openai" and where.server else None,
        sampling=_sampling(sampling),
        engine={**(manifest["engine"] if name == manifest["agent"] else {}), **where.engine},
        body=sampling.get("body", {}) if name == "openai" else {},
    )
    recorded, folder = manifest["model_sha256"], choice.checkpoint
    if recorded and folder is not None:
        # A checkpoint directory may have been written over since.
        now = hash_model(folder)
        changed = sorted(name for name in recorded.keys() | now.keys() if recorded.get(name) != now.get(name))
        if changed:
            raise ValueError(
                f"{choice.model} is not the checkpoint of the run: {', '.join(changed[:4])} differ. Expected the same "
                "files; say with --model where it is now, or evaluate again."
            )
    return choice


def add_rerun_arguments(parser: argparse.ArgumentParser) -> None:
    """Which manifest, where what it names is now, and where the results go."""
    parser.add_argument("manifest", type=Path, metavar="RUN", help="directory of a run, or its manifest.json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory for the results")
    parser.add_argument("--judge-base-url", metavar="URL", help="of the judge's server")
    add_whereabouts(parser)


def rerun(arguments: argparse.Namespace) -> int:
    """Run again what a manifest says; 1 if nothing could be scored, or the samples' files turned out to be others."""
    manifest = _read_manifest(arguments.manifest)
    where, suite = whereabouts(arguments), suite_of(manifest)
    env_args = {} if arguments.data is None else {"data": arguments.data}
    choice = _check_environment(manifest, gymnasium.make(suite.env_id, **{**suite.arguments, **env_args}))
    agent, judge = agent_of(manifest, where), _judge_of(manifest, arguments)
    for line in _cannot_be_had(manifest, agent.name):
        print(f"not as it was: {line}", file=sys.stderr)
    metrics = evaluate(
        suite,
        out=arguments.out,
        agent=agent,
        env_args=env_args,
        choice=choice,
        seed=manifest["seed"],
        repeats=manifest["repeats"],
        n_envs=where.concurrency or manifest["concurrency"],
        judge=judge,
        preflight=_preflight_of(manifest),
    )
    again = RunFiles(arguments.out).manifest()
    print_metrics(again, metrics, suite, Console())
    print(f"Written to {arguments.out}. Side by side: pxr eval compare {arguments.manifest} {arguments.out}")
    # An interrupted run does not say which files its samples had.
    if manifest["data"].get("samples_sha256") not in (None, again["data"]["samples_sha256"]):
        print("not as it was: files of the samples, see their digests in episodes.jsonl", file=sys.stderr)
        return 1
    return 0 if metrics["statistics"]["n_episodes"] else 1


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is that of an audit's arm, which `audit` plays again, or of something else.
    """
    path = path / "manifest.json" if path.is_dir() else path
    manifest = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in ("env", "suite", "agent", "seed", "repeats") if name not in manifest]
    if missing:
        raise ValueError(f'"{path}" lacks {", ".join(missing)}; expected the manifest of `pxr eval run`')
    if "intervention" in manifest:
        raise ValueError(f'"{path}" is of an arm of an audit; expected a run. Use `pxr eval audit` for arms.')
    return manifest


def _cannot_be_had(manifest: Mapping[str, Any], agent: str) -> list[str]:
    """What is not as it was, or cannot be known to be, and does not keep the run from being made again; in words."""
    now = {"versions": library_versions(agent), "commit": commit(), "agent": agent}
    found = find_differences([{name: manifest[name] for name in now}, now])
    lines = [f"{one.field}: {describe(one)} ({one.why})" for one in found]
    if (manifest["commit"] or {}).get("dirty"):
        lines.append("commit: files differed from it then, and nobody knows how")
    if manifest["server"]:
        lines.append("the server's weights and program: a server does not prove what it runs")
    if ":" in agent:
        lines.append(f"the code of {agent}: no version of it is on record")
    return lines


def _check_environment(manifest: Mapping[str, Any], env: gymnasium.Env) -> Choice:
    """The samples of the run in its environment, which has to say what it said."""
    unlike = [f"{one.field} was {describe(one).replace(' | ', ' and is ')}" for one in changed_facts(manifest, env)]
    choice = choice_of(manifest)
    if not unlike and sample_ids_digest(choice.choose(env)) != manifest["samples_sha256"]:
        unlike = ["the data have other samples, or in another order"]
    env.close()
    if unlike:
        raise ValueError(
            f"the run cannot be had again: {'; '.join(unlike)}. Say with --data where its data are, check out its "
            "commit, or evaluate anew with `pxr eval run`."
        )
    return choice


def _preflight_of(manifest: Mapping[str, Any]) -> PreflightChoice:
    """As the run was begun: without one, or with what it found allowed."""
    found = (manifest["server"] or {}).get("preflight")
    if found is None:
        return "none"
    return "blind" if found["sees_images"] is False else "refuse"


def _judge_of(manifest: Mapping[str, Any], arguments: argparse.Namespace) -> JudgeChoice | None:
    recorded = manifest["judge"]
    if recorded is None:
        return None
    if recorded["prompt"] != PROMPT:
        raise ValueError("the run cannot be had again: this version asks a judge otherwise. Check out its commit.")
    if arguments.judge_base_url is None:
        raise ValueError(f"{recorded['model']} at {recorded['host']} judged; expected --judge-base-url URL")
    return JudgeChoice(server=server_of(arguments, recorded["model"], arguments.judge_base_url))
