"""`python -m eval run`: from the command line to `evaluate`, and the table of what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.agents import NAMES_WITH_MODEL, AgentChoice
from eval.choice import Choice, read_sample_ids
from eval.judge import JudgeChoice
from eval.options import add_engine, add_server, add_settings, key_value, say, server_of
from eval.preflight import PreflightChoice
from eval.recipe import Recipe, read_recipe
from eval.records import RunFiles
from eval.report import write_report
from eval.runner import evaluate
from eval.suites import SUITES, Suite, get_suite
from eval.tables import category_rows, cell, headline
from pxr_agents.types import Sampling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to ask, whom, and where the results go."""
    parser.add_argument("env_id", nargs="?", metavar="ENV_ID", help="the id of an environment, instead of --suite")
    parser.add_argument("--suite", help=f"{', '.join(SUITES)}, or the id of an environment")
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="how a released model wants to be asked: a name, or a TOML file (docs/reproduce.md)",
    )
    parser.add_argument("--data", metavar="DIR", help="directory of the suite's data")
    add_settings(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="N samples, alike from all categories (default: all)")
    parser.add_argument("--first", type=int, metavar="N", help="the first N samples of the data")
    parser.add_argument(
        "--sample-ids",
        type=read_sample_ids,
        metavar="FILE|ID,ID",
        help="these samples: a file with one id a line, or ids with commas between",
    )
    parser.add_argument("--out", type=Path, help="directory for the results (default: runs/eval/SUITE-AGENT)")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling noise (default: 0)")
    parser.add_argument("--retry-errors", action="store_true", help="ask again what a finished run could not score")
    parser.add_argument("--no-report", action="store_true", help="write no report.html")
    _add_agent(parser)
    _add_requests(parser.add_argument_group("models behind a server (--agent openai)"))
    judge = parser.add_argument_group("an LLM as judge, instead of the environment's scorer")
    judge.add_argument("--judge-model", metavar="NAME")
    judge.add_argument("--judge-base-url", metavar="URL")
    judge.add_argument("--judge-api-key-env", default="OPENAI_API_KEY", metavar="NAME")
    judge.add_argument("--judge-cache", type=Path, metavar="FILE", help="default: DIR/judgments.jsonl")


def _add_agent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", required=True, help="oracle, random, transformers, vllm, openai, or module:factory")
    parser.add_argument("--model", help="checkpoint directory or hub name; for openai the name of the model")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: 0)")
    parser.add_argument("--max-tokens", type=int, help="longest turn in tokens (default: 512)")
    parser.add_argument("--stop", action="append", help="string that ends a turn, too; may be repeated")
    parser.add_argument("--k", type=int, default=1, help="episodes per sample, for pass@k and the majority's vote")
    add_engine(parser)


def _add_requests(group: Any) -> None:
    add_server(group)
    group.add_argument("--no-preflight", action="store_true", help="do not ask first what the server can do")
    group.add_argument("--allow-blind", action="store_true", help="run though the model is not shown the images")
    group.add_argument(
        "--body",
        action="append",
        default=[],
        type=key_value,
        metavar="KEY=VALUE",
        help="field of every request, VALUE as JSON or plain text, null to leave one out; may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write the report; 1 if nothing could be scored."""
    suite = _suite(arguments)
    recipe = None if arguments.recipe is None else read_recipe(arguments.recipe)
    agent = _agent(arguments, recipe)
    out = arguments.out or Path("runs", "eval", f"{_file_name(suite.name)}-{_file_name(arguments.agent)}")
    metrics = evaluate(
        suite,
        out=out,
        agent=agent,
        env_args=(recipe.environment(suite) if recipe else {}) | _environment_arguments(arguments, suite),
        choice=Choice(limit=arguments.limit, first=arguments.first, sample_ids=arguments.sample_ids),
        seed=arguments.seed,
        repeats=arguments.k,
        n_envs=_concurrency(arguments),
        judge=_judge(arguments),
        retry_errors=arguments.retry_errors,
        recipe=recipe,
        preflight=_preflight(arguments),
    )
    console = Console()
    print_metrics(RunFiles(out).manifest(), metrics, suite, console)
    if arguments.no_report:
        console.print(f"Written to {out}. Pictures of the episodes: python -m eval report {out}", soft_wrap=True)
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
    console.print(_table(metrics, [headline(manifest, metrics), *suite.metrics]))
    if metrics["by_category"]:
        console.print(_category_table(manifest, metrics))
    for reason, count in metrics["errors"].items():
        say(console, f"{count} not scored: {reason}")


def _suite(arguments: argparse.Namespace) -> Suite:
    if (arguments.env_id is None) == (arguments.suite is None):
        raise ValueError("expected one of --suite NAME and the id of an environment, not both and not neither")
    return get_suite(arguments.suite or arguments.env_id)


def _environment_arguments(arguments: argparse.Namespace, suite: Suite) -> dict[str, Any]:
    given = dict(arguments.env_args)
    if arguments.data is not None:
        if not suite.needs_data:
            raise ValueError(f"got --data {arguments.data} with {suite.name}, which reads no data; leave it out")
        given["data"] = arguments.data
    return given


def _preflight(arguments: argparse.Namespace) -> PreflightChoice:
    if arguments.no_preflight:
        return "none"
    return "blind" if arguments.allow_blind else "refuse"


def _concurrency(arguments: argparse.Namespace) -> int:
    default = 8 if arguments.agent == "openai" else 64
    return default if arguments.concurrency is None else int(arguments.concurrency)


def _agent(arguments: argparse.Namespace, recipe: Recipe | None) -> AgentChoice:
    """What the command line says goes before the recipe, the recipe before the defaults."""
    has_model = arguments.agent in NAMES_WITH_MODEL
    model, body = arguments.model, dict(arguments.body)
    sampling: dict[str, Any] = {"temperature": 0.0, "max_tokens": 512, "stop": ()}
    if recipe is not None and has_model:
        model = recipe.model if model is None else model
        sampling |= recipe.sampling
        if arguments.agent == "openai":
            body = {**recipe.body, **body}
    sampling |= {name: value for name in sampling if (value := getattr(arguments, name)) is not None}
    server = None
    if arguments.base_url is not None:
        server = server_of(arguments, model or "")
    return AgentChoice(
        name=arguments.agent,
        model=model,
        server=server,
        sampling=Sampling(
            temperature=float(sampling["temperature"]),
            max_tokens=int(sampling["max_tokens"]),
            stop=tuple(sampling["stop"]),
        ),
        seed=arguments.seed,
        concurrency=_concurrency(arguments),
        engine=dict(arguments.engine),
        body=body,
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
        print(f"The report was not written: {reason}. To write it: python -m eval report {out}", file=sys.stderr)
        console.print(f"Written to {out}.", soft_wrap=True)
        return
    console.print(f"Written to {out}. Pictures of the episodes: {out / 'report.html'}", soft_wrap=True)


def _file_name(name: str) -> str:
    return name.rpartition("/")[2].replace(":", "-")


def _category_table(manifest: dict[str, Any], metrics: dict[str, Any]) -> Table:
    table = Table("category", headline(manifest, metrics), "95% interval", "usage_rate", "not scored", box=None)
    for category, found, usage, n_unscored in category_rows(manifest, metrics):
        texts = (found.text, found.interval) if found else ("", "")
        table.add_row(Text(category), *texts, usage.text if usage else "", str(n_unscored))
    return table


def _table(metrics: dict[str, Any], first: Sequence[str]) -> Table:
    table = Table("metric", "value", "95% interval", box=None)
    for name in dict.fromkeys([*first, *metrics["statistics"]]):
        if found := cell(metrics, name):
            table.add_row(name, f"{found.value:.0f}" if name.startswith("n_") else found.text, found.interval)
    return table
