"""The run without operations: the same samples, agent and sampling, with nothing to call and no word about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from eval.audit.agent import Whereabouts, agent_of
from eval.choice import Choice
from eval.differences import find_differences
from eval.manifest import sample_ids_digest
from eval.records import Record, RunDirectory
from eval.runner import evaluate
from eval.suites import suite_of

#: What differs between the two runs because operations do.
_OPERATIONS = (
    "prompt.operations",
    "prompt.system_prompt",
    "prompt.system_prompt_sha256",
    "env.kwargs.operations",
    "agent",
    "engine",
    "judge",
)


def records_without_operations(
    run: RunDirectory,
    where: Whereabouts,
    *,
    limit: int | None = None,
    data: str | None = None,
    console: Console | None = None,
) -> list[Record]:
    """The episodes without operations, in `audit/without` of the run: those that are missing there are played.

    Args:
        run: a finished run with operations.
        where: how to get its agent.
        limit: only its first samples.
        data: where the data lie now, if they were moved.
        console: for the progress bar.

    Raises:
        ValueError: the run had no operations, or the two cannot be compared.
    """
    manifest = run.manifest()
    if not manifest["prompt"]["operations"]:
        raise ValueError(f"{run.path} had no operations; expected a run whose agent could call some")
    of_run = list(dict.fromkeys(record.episode.sample_id for record in run.records()))
    sample_ids = of_run[:limit]
    directory = RunDirectory(run.path / "audit" / "without")
    if not _is_complete(directory, sample_ids, manifest["repeats"]):
        played = of_run[: _continue_with(directory, sample_ids)]
        evaluate(
            suite_of(manifest),
            out=directory.path,
            agent=(agent := agent_of(manifest, where)),
            env_args={"operations": [], **({} if data is None else {"data": data})},
            choice=Choice(sample_ids=tuple(played)),
            seed=manifest["seed"],
            repeats=manifest["repeats"],
            n_envs=where.n_envs(agent.name),
            retry_errors=True,
            console=console,
        )
    _check(manifest, directory.manifest())
    wanted = set(sample_ids)
    return [record for record in directory.records() if record.episode.sample_id in wanted]


def _is_complete(directory: RunDirectory, sample_ids: list[str], repeats: int) -> bool:
    """Whether every episode is there. Those without a score are played again as long as a run is not finished."""
    if not directory.metrics_file.exists():
        return False
    keys = {record.key for record in directory.records()}
    return all((sample_id, repeat) in keys for sample_id in sample_ids for repeat in range(repeats))


def _continue_with(directory: RunDirectory, sample_ids: list[str]) -> int:
    """How many samples to play.

    Runs begin with the same samples: an earlier audit of fewer is continued, an interrupted one of more is finished.
    """
    if not directory.manifest_file.exists():
        return len(sample_ids)
    manifest = directory.manifest()
    if manifest["n_samples"] < len(sample_ids):
        more = {
            "n_samples": len(sample_ids),
            "samples_sha256": sample_ids_digest(sample_ids),
            "samples": Choice(sample_ids=tuple(sample_ids)).as_manifest(sample_ids),
        }
        directory.write_manifest(manifest | more)
    return max(len(sample_ids), int(manifest["n_samples"]))


def _check(with_operations: Mapping[str, Any], without: Mapping[str, Any]) -> None:
    found = find_differences([with_operations, without], compared=_OPERATIONS)
    matter = [difference.field for difference in found if difference.matters == "yes" and difference.field != "model"]
    if matter:
        raise ValueError(
            f"the runs with and without operations differ in {', '.join(matter)}, too, so their gap says nothing about "
            "operations. Delete audit/without, and audit again with the agent of the run."
        )
