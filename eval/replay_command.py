"""`python -m eval replay RUN`: rebuild every observation and say what is not as it was."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from eval.replay_check import ReplayCheck, check_replay

#: Mismatches that are printed of one run; `--json` has all.
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where their data are."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of runs")
    parser.add_argument("--data", metavar="DIR", help="where the data lie now, if they were moved")
    parser.add_argument(
        "--judgments", type=Path, metavar="FILE", help="what the judge said, if not RUN/judgments.jsonl"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all mismatches there, too")


def run(arguments: argparse.Namespace) -> int:
    """Check the runs; returns 1 if anything differs."""
    checks = [check_replay(directory, arguments.data, arguments.judgments) for directory in arguments.runs]
    console = Console(soft_wrap=True)
    for check in checks:
        _print(check, console)
    if arguments.json is not None:
        content = [asdict(check) | {"identical": check.identical} for check in checks]
        # Texts of models may hold halves of surrogate pairs, which ASCII escapes survive.
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if all(check.identical for check in checks) else 1


def _print(check: ReplayCheck, console: Console) -> None:
    def line(text: str) -> None:
        console.print(text.encode("utf-8", "replace").decode("utf-8"), markup=False, highlight=False)

    line(
        f"{check.run}: {_verdict(check)}. {check.n_episodes} episodes, {check.n_observations} observations and "
        f"{check.n_images} images were rebuilt."
    )
    for what, count in check.unrecorded.items():
        line(f"  Not checked, because the run did not record it: {what} ({count}).")
    if check.n_skipped:
        line(f"  {check.n_skipped} episodes never began, because their data could not be shown.")
    if check.n_unscored:
        line(f"  {check.n_unscored} episodes have no score; that a model or a server failed cannot be seen again.")
    if check.n_judgments:
        line(f"  {check.n_judgments} judgments were read again; what a judge would say now is not asked.")
    for unlike in check.files[:_SHOWN]:
        line(f"  {unlike.file}: {unlike.field}: {unlike.difference}")
    if len(check.files) > _SHOWN:
        line(f"  and {len(check.files) - _SHOWN} more fields; --json FILE writes all.")
    for mismatch in check.mismatches[:_SHOWN]:
        repeat = f", repeat {mismatch.repeat}" if mismatch.repeat else ""
        line(f"  {mismatch.sample_id}{repeat}, turn {mismatch.turn}: {mismatch.what}: {mismatch.difference}")
    if len(check.mismatches) > _SHOWN:
        line(f"  and {len(check.mismatches) - _SHOWN} more; --json FILE writes all.")


def _verdict(check: ReplayCheck) -> str:
    parts = []
    if check.mismatches:
        parts.append(f"{len(check.mismatches)} episodes differ")
    if check.files:
        parts.append(f"{len(check.files)} fields of its files do not fit its episodes")
    verdict = " and ".join(parts) or "byte-identical"
    if check.n_unseen_judgments:
        verdict += f", but {check.n_unseen_judgments} judgments stand in no file of judgments and cannot be checked"
    return verdict
