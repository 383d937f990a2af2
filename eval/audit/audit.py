"""An audit of one run, and of several checkpoints: what was measured, written to `audit.json` and `audit.html`."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pxr_env.scoring import get_scorer
from ..manifest import commit
from ..options import open_console, say
from ..records import RunFiles, RunRecord
from ..run_command import Whereabouts, add_whereabouts, whereabouts
from .adaptive import adaptive_use, solvable_samples
from .arms import CHANGES, PROTOCOLS, Arm, AuditPlan, first_samples, operations_of, records_without_operations, rerun
from .measures import IsCorrect, analyse, decompose, drift
from .page import print_audit, print_checkpoints, write_audit

#: Above this share of questions without an answer the reader is warned.
UNANSWERED = 0.02


def audit_run(directory: Path, where: Whereabouts, plan: AuditPlan, console: Console | None = None) -> dict[str, Any]:
    """Audit one finished run; what is measured already is taken from its `audit` directory.

    Returns:
        `run`; `n_samples`, `n_episodes`, `n_errors`; `med` (see `decompose`) and `counterfactual` (`operations`: name
        or "all" -> see `analyse`), None where not asked for; `adaptive` (see `adaptive_use`); `notes`: sentences the
        reader has to know; `plan`, `agent`, `model`, `sampling`, `episodes_sha256` (of the run), `commit`.

    Raises:
        FileNotFoundError: the run is not finished.
        ValueError: it cannot be audited; the message says why.
    """
    run = RunFiles(directory)
    digest = run.metrics().get("episodes_sha256")  # Raises for a run that is not finished.
    manifest, records = run.manifest(), first_samples(run.records(), plan.limit)
    is_correct = _judge_of(manifest)
    result: dict[str, Any] = {
        "run": str(directory),
        "agent": manifest["agent"],
        "model": manifest["model"],
        "sampling": manifest["sampling"],
        "n_samples": len({record.episode.sample_id for record in records}),
        "n_episodes": len(records),
        "n_errors": sum(record.episode.error is not None for record in records),
        "med": None,
        "counterfactual": None,
        "plan": {
            "limit": plan.limit, "seed": plan.seed, "solve_k": plan.solve_k, "protocols": list(plan.protocols),
        },
        "episodes_sha256": digest,
        "commit": commit(),
    }  # fmt: skip
    solvable: dict[str, bool] = {}
    if "med" in plan.protocols:
        answers = records_without_operations(run, where, plan, console)
        result["med"] = decompose(records, answers, is_correct, seed=plan.seed)
        if plan.solve_k:
            answers = records_without_operations(run, where, plan, console, solve=True)
        solvable = solvable_samples(records, answers, is_correct)
    if "counterfactual" in plan.protocols:
        result["counterfactual"] = _counterfactual(run, records, where, plan, is_correct, solvable, console)
    result["adaptive"] = adaptive_use(records, solvable, result["counterfactual"], is_correct)
    return result | {"notes": _notes(manifest, where, result)}


def audit_checkpoints(results: Sequence[Mapping[str, Any]], steps: Sequence[float]) -> dict[str, Any]:
    """Several audits in the order of training: `steps`, `runs` (the audits), and `drift` (see `measures.drift`; one
    for each, empty without MED)."""
    has_med = all(result["med"] is not None for result in results)
    drifts = [drift(results[0]["med"], result["med"]) for result in results] if has_med else []
    return {"steps": list(steps), "runs": list(results), "drift": drifts}


def _counterfactual(
    run: RunFiles,
    records: Sequence[RunRecord],
    where: Whereabouts,
    plan: AuditPlan,
    is_correct: IsCorrect,
    solvable: Mapping[str, bool],
    console: Console | None,
) -> dict[str, Any]:
    used = [record for record in records if operations_of(record)]
    names = sorted({name for record in used for name in operations_of(record)})
    # Where an operation was the only one, the arm that changes all does the same.
    apart = (None, *names) if any(len(operations_of(record)) > 1 for record in used) else (None,)
    control = Arm(kind="control")
    arms = [control, *(Arm(kind=kind, operation=name) for name in apart for kind in plan.changes)]
    played = rerun(run, where, plan, arms, console)
    of_arm = {arm: {record.key: record for record in ends} for arm, ends in played.items()}
    unsolvable = {name for name, is_solvable in solvable.items() if not is_solvable}
    operations = {}
    for name in ("all", *names):
        chosen = used if name == "all" else [record for record in used if name in operations_of(record)]
        others = {}
        for kind in plan.changes:
            found = of_arm[Arm(kind=kind)] | of_arm.get(Arm(kind=kind, operation=name), {})
            others[kind] = [found[record.key] for record in chosen]
        operations[name] = analyse(chosen, played[control], others, is_correct, unsolvable=unsolvable, seed=plan.seed)
    turns = [{view["turn"] for view in record.episode.views if view["turn"] > 0} for record in used]
    return {
        "changes": list(plan.changes),
        "n_used": len(used),
        "n_several_turns": sum(len(of_record) > 1 for of_record in turns),
        "operations": operations,
    }


def _judge_of(manifest: Mapping[str, Any]) -> IsCorrect:
    """What counts as right. An audit asks no LLM judge: there the scorer decides, in the run as well."""
    if manifest["judge"] is None:
        return lambda record: record.episode.correct
    scorer = get_scorer(manifest["scorer"]["name"])
    return lambda record: (
        record.score is not None and record.episode.answer is not None and scorer.is_correct(record.score)
    )


def _notes(manifest: Mapping[str, Any], where: Whereabouts, result: Mapping[str, Any]) -> list[str]:
    """Sentences the reader has to know."""
    notes = []
    if where.agent not in (None, manifest["agent"]):
        notes.append(
            f"The run was played by {manifest['agent']}, the audit by {where.agent}: what their arithmetic makes "
            "different counts as an effect in the decomposition, and as noise of the control elsewhere."
        )
    sampling = manifest["sampling"]
    if sampling is not None and sampling["temperature"] > 0:
        notes.append(
            f"The run was sampled at temperature {sampling['temperature']:g}. Chance alone makes answers differ "
            "between two runs: it adds to gains and harms alike, and only their difference is free of it."
        )
    if manifest["judge"] is not None:
        notes.append("The run was judged by a model; here its environment's scorer decides, in all runs.")
    unanswered = 0.0 if result["med"] is None else result["med"]["values"]["unanswered_without"]
    if unanswered > UNANSWERED:
        notes.append(
            f"Without operations {unanswered:.1%} of the questions got no answer, which counts as wrong: the model "
            "may only be used to calling. Call gain is too high by up to that."
        )
    counterfactual = result["counterfactual"]
    if counterfactual is not None:
        if not counterfactual["n_used"]:
            notes.append("No episode used an operation, so there is nothing to change.")
        if counterfactual["n_several_turns"]:
            notes.append(
                f"{counterfactual['n_several_turns']} episodes used operations in several turns. Recorded turns in "
                "between may say in words what an earlier view showed, which hides its effect."
            )
        reproduced = counterfactual["operations"]["all"].get("reproduced", [1.0])[0]
        if reproduced < 1:
            notes.append(
                f"With the true pixels {1 - reproduced:.1%} of the answers changed, too. Read what is beyond the "
                "control; the share of causal uses is too high by chance."
            )
    return notes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, what to measure, and how to get the agent."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished runs; several in order of training")
    parser.add_argument("--protocol", choices=(*PROTOCOLS, "both"), default="both")
    parser.add_argument("--limit", type=int, help="only the first samples of each run (default: all)")
    parser.add_argument(
        "--change",
        action="append",
        choices=CHANGES,
        help="intervention of the counterfactual protocol; may be repeated (default: all)",
    )
    parser.add_argument(
        "--solve-k",
        type=int,
        default=0,
        metavar="K",
        help="sample K answers without operations to say which questions are solvable, at temperature 1 where the run "
        "was greedy (default: the answers of the MED protocol)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of paired tests and shifted boxes (default: 0)")
    parser.add_argument(
        "--steps", help="training steps of the runs, such as 0,100,200 (default: numbers in their names)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="for several runs (default: audit beside them)")
    add_whereabouts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Audit every run, print tables, write `audit.json` and `audit.html`."""
    if len(arguments.runs) > 1 and (arguments.model or arguments.agent):
        raise ValueError("got --model or --agent with several runs, expected one run, or runs that know their own")
    where = whereabouts(arguments)
    plan = AuditPlan(
        protocols=PROTOCOLS if arguments.protocol == "both" else (arguments.protocol,),
        changes=tuple(arguments.change or CHANGES),
        limit=arguments.limit,
        data=arguments.data,
        seed=arguments.seed,
        solve_k=arguments.solve_k,
    )
    steps = steps_of(arguments.runs, arguments.steps)
    console = open_console(160)
    results = []
    for directory in arguments.runs:
        result = audit_run(directory, where, plan)
        _write(directory / "audit", [result], [0], console)
        print_audit(result, console)
        results.append(result)
    if len(results) > 1:
        out = arguments.out or Path(os.path.commonpath([run.resolve().parent for run in arguments.runs])) / "audit"
        _write(out, results, steps, console)
        print_checkpoints(audit_checkpoints(results, steps), console)
    return 0


def steps_of(runs: Sequence[Path], given: str | None) -> list[float]:
    """Training step of every run: as given, else the last number in each name, else 0, 1, 2, ...

    Raises:
        ValueError: not as many as runs, or not in ascending order.
    """
    if given is not None:
        try:
            steps = [float(step) for step in given.split(",")]
        except ValueError:
            raise ValueError(f"got --steps {given}, expected numbers with commas, such as 0,100,200") from None
    else:
        numbers = [re.findall(r"\d+", directory.resolve().name) for directory in runs]
        steps = [float(found[-1]) for found in numbers if found]
        if len(steps) < len(runs) or steps != sorted(set(steps)):
            steps = [float(number) for number in range(len(runs))]
    if len(steps) != len(runs) or steps != sorted(set(steps)):
        raise ValueError(f"got the steps {steps} for {len(runs)} runs, expected one for each, in ascending order")
    return steps


def _write(out: Path, results: Sequence[Mapping[str, Any]], steps: Sequence[float], console: Console) -> None:
    audit = audit_checkpoints(results, steps)
    numbers = results[0] if len(results) == 1 else audit
    out.mkdir(parents=True, exist_ok=True)
    (out / "audit.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_audit(out / "audit.html", audit)
    say(console, f"Written to {out / 'audit.json'} and {out / 'audit.html'}")
