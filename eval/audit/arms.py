"""The runs that an audit compares: the ends of episodes with other pixels, and the whole without operations.

The turns up to the last executed operation are those on record, word for word, so that its calls and their boxes stay.
The turns after it are written anew by the agent of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium
from rich.console import Console

from pxr_agents.types import Action, Agent, Observation, Tokens
from pxr_env.tasks import siblings
from ..agents import open_agent
from ..differences import changes_that_matter, find_differences
from ..manifest import commit, library_versions, sample_ids_digest, score_name
from ..metrics import evaluation_metrics
from ..records import RunFiles, RunRecord
from ..replay import INTERVENTIONS, Changed, rebuild_environment
from ..run_command import Whereabouts, agent_of
from ..runner import evaluate, play
from ..suites import Choice, suite_of

PROTOCOLS = ("med", "counterfactual")
#: Everything but the control, which is always made.
CHANGES = tuple(kind for kind in INTERVENTIONS if kind != "control")
#: What differs between the two runs because operations do.
_OPERATIONS = (
    *("prompt.operations", "prompt.system_prompt", "prompt.system_prompt_sha256", "env.kwargs.operations"),
    *("agent", "engine", "judge"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditPlan:
    """What to measure: some `PROTOCOLS`, with some `CHANGES`, on the first `limit` samples of a run whose data lie at
    `data` now; `seed` is that of random changes of sign and of the places of shifted boxes. `solve_k` answers without
    operations say whether a question is solvable; 0: those of the run without operations."""

    protocols: Sequence[str] = PROTOCOLS
    changes: Sequence[str] = CHANGES
    limit: int | None = None
    data: str | None = None
    seed: int = 0
    solve_k: int = 0

    def __post_init__(self) -> None:
        if self.solve_k < 0 or (self.solve_k and "med" not in self.protocols):
            raise ValueError(f"got --solve-k {self.solve_k}, expected at least 1, and a protocol with med")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"got --limit {self.limit}, expected at least 1, or no limit for all samples")
        unknown = [name for name in self.changes if name not in CHANGES]
        if unknown or not self.changes:
            raise ValueError(f"got interventions {', '.join(unknown) or 'none'}, expected some of {', '.join(CHANGES)}")


class Arm(NamedTuple):
    """One way to play the ends again; only the views of `operation` are changed, all if None."""

    kind: str
    operation: str | None = None

    @property
    def name(self) -> str:
        """Of its directory in `audit`."""
        return self.kind if self.operation is None else f"{self.kind}-{self.operation}"

    def changes(self, record: RunRecord) -> bool:
        """Whether it is to play an episode. An arm of one operation leaves out the episodes that used no other: there
        the arm that changes all does the same."""
        operations = operations_of(record)
        return self.operation in operations and len(operations) > 1 if self.operation else bool(operations)


class Resumed:
    """An agent whose episodes begin with turns that were written before (one list for every key), and go on with its
    own."""

    def __init__(self, agent: Agent, turns: Sequence[Sequence[str]]) -> None:
        self._agent = agent
        self._recall = getattr(agent, "recall", None)
        self._left = {key: list(of_episode) for key, of_episode in enumerate(turns)}
        self._ready: list[tuple[int, Action]] = []
        self._replaced: dict[int, str] = {}

    def start(self, key: int, env: gymnasium.Env) -> None:
        self._agent.start(key, env)

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        if not self._left[key]:
            self._agent.submit(key, observation, info)
            return
        turn = self._left[key].pop(0)
        if self._recall is not None:
            self._recall(key, observation, info, turn)
            self._ready.append((key, Action(text=turn)))
        else:
            # It has to see every observation; what it writes itself is replaced.
            self._replaced[key] = turn
            self._agent.submit(key, observation, info)

    def collect(self) -> list[tuple[int, Action]]:
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        return [
            (key, Action(text=self._replaced.pop(key)) if key in self._replaced else action)
            for key, action in self._agent.collect()
        ]

    def finish(self, key: int) -> Tokens | None:
        return self._agent.finish(key)


def rerun(
    run: RunFiles, where: Whereabouts, plan: AuditPlan, arms: Sequence[Arm], console: Console | None = None
) -> dict[Arm, list[RunRecord]]:
    """Play the ends of all episodes that used an operation again, in every arm that changes something in them.

    Every arm is a run of its own in `audit/NAME`. What is there is not played again, and an interrupted arm goes on.
    """
    manifest = run.manifest()
    records = first_samples(run.records(), plan.limit)
    found: dict[Arm, list[RunRecord]] = {}
    n_envs = where.concurrency or manifest["concurrency"]
    with ExitStack() as stack:
        # Opened when the first episode is missing: a finished audit needs neither model nor server.
        player: Agent | None = None
        for arm in arms:
            wanted = [record for record in records if arm.changes(record)]
            directory = RunFiles(run.path / "audit" / arm.name)
            begun = _manifest(manifest, where, arm, plan.seed)
            done = _finished(directory, begun)
            if any(record.key not in done for record in wanted):
                player = player or stack.enter_context(open_agent(agent_of(manifest, where), concurrency=n_envs))
                done = {record.key: record for record in directory.start(begun, reopen=True)}
                missing = [record for record in wanted if record.key not in done]
                first = rebuild_environment(begun, plan.data)
                assert isinstance(first, Changed)
                played = play(
                    [Changed(env, **begun["intervention"]) for env in siblings(first.env, min(n_envs, len(missing)))],
                    Resumed(player, [recorded_turns(record) for record in missing]),
                    [record.key for record in missing],
                    directory,
                    seed=manifest["seed"],
                    n_done=len(done),
                    title=arm.name,
                    console=console,
                )
                first.close()
                done |= {record.key: record for record in played}
                finished = list(done.values())
                directory.finish(finished, evaluation_metrics(finished, score_name=score_name(manifest)))
            _check_samples(wanted, done)
            found[arm] = [done[record.key] for record in wanted]
    return found


def first_samples(records: Sequence[RunRecord], limit: int | None) -> list[RunRecord]:
    """The episodes of the first `limit` samples, all of them if None."""
    chosen = set(list(dict.fromkeys(record.episode.sample_id for record in records))[:limit])
    return [record for record in records if record.episode.sample_id in chosen]


def operations_of(record: RunRecord) -> list[str]:
    """The operations that an episode with a score executed; none of one without."""
    if record.episode.error is not None:
        return []
    return [name for name, count in record.episode.usage.items() if count > 0]


def recorded_turns(record: RunRecord) -> list[str]:
    """The turns up to the last one that executed an operation: the last one after which a view was new."""
    last = max(view["turn"] for view in record.episode.views)
    return [step.turn for step in record.episode.steps[:last]]


def _check_samples(recorded: Sequence[RunRecord], played: Mapping[tuple[str, int], RunRecord]) -> None:
    """The same questions and pictures as in the run, or the comparison means nothing."""
    unlike = [
        record.episode.sample_id
        for record in recorded
        if played[record.key].sample_sha256 not in (None, record.sample_sha256)
    ]
    if unlike:
        raise ValueError(
            f"{len(unlike)} samples are not what they were in the run, such as {unlike[0]!r}: the data changed. "
            "Expected the data of the run; `pxr eval replay` says what differs. Delete RUN/audit afterwards."
        )


def _manifest(manifest: Mapping[str, Any], where: Whereabouts, arm: Arm, seed: int) -> dict[str, Any]:
    """That of the run, with what is changed and who plays now. How many episodes there are depends on the run."""
    kept = {name: value for name, value in manifest.items() if name not in ("n_samples", "samples_sha256")}
    agent = where.agent or manifest["agent"]
    return kept | {
        "intervention": {"kind": arm.kind, "operation": arm.operation, "seed": seed},
        "agent": agent,
        "engine": {**(manifest["engine"] if agent == manifest["agent"] else {}), **where.engine},
        "versions": library_versions(agent),
        "commit": commit(),
    }


def _finished(directory: RunFiles, manifest: Mapping[str, Any]) -> dict[tuple[str, int], RunRecord]:
    """What a finished arm holds, episodes without a score included; nothing if it has to go on.

    Another program for the same model may have played it.
    """
    if not directory.metrics_file.exists():
        return {}
    same_program = directory.manifest() | {"agent": manifest["agent"], "engine": manifest["engine"]}
    return {} if changes_that_matter(same_program, manifest) else {record.key: record for record in directory.records()}


def records_without_operations(
    run: RunFiles, where: Whereabouts, plan: AuditPlan, console: Console | None = None, *, solve: bool = False
) -> list[RunRecord]:
    """The run without operations: the same samples, agent and sampling, with nothing to call and no word about it.

    It is a run of its own in `audit/without`; the episodes that are missing there are played. Arguments as for `rerun`.

    Args:
        solve: instead `solve_k` answers to every question, in `audit/solve-K`, drawn at the temperature of the run, or
            at 1 if that is 0.

    Raises:
        ValueError: the run had no operations, or the two cannot be compared.
    """
    manifest = run.manifest()
    if not manifest["prompt"]["operations"]:
        raise ValueError(f"{run.path} had no operations; expected a run whose agent could call some")
    of_run = list(dict.fromkeys(record.episode.sample_id for record in run.records()))
    sample_ids = of_run[: plan.limit]
    directory = RunFiles(run.path / "audit" / (f"solve-{plan.solve_k}" if solve else "without"))
    repeats = plan.solve_k if solve else manifest["repeats"]
    # Episodes without a score are played again as long as a run is not finished.
    done = {record.key for record in directory.records()} if directory.metrics_file.exists() else set()
    if any((sample_id, repeat) not in done for sample_id in sample_ids for repeat in range(repeats)):
        played = of_run[: _continue_with(directory, sample_ids)]
        agent = agent_of(manifest, where)
        if solve and agent.sampling.temperature == 0:
            agent = replace(agent, sampling=replace(agent.sampling, temperature=1.0))
        evaluate(
            suite_of(manifest),
            out=directory.path,
            agent=agent,
            env_args={"operations": [], **({} if plan.data is None else {"data": plan.data})},
            choice=Choice(sample_ids=tuple(played)),
            seed=manifest["seed"],
            repeats=repeats,
            n_envs=where.concurrency or manifest["concurrency"],
            retry_errors=True,
            console=console,
        )
    _check(manifest, directory.manifest(), (*_OPERATIONS, "sampling.temperature") if solve else _OPERATIONS)
    return [record for record in directory.records() if record.episode.sample_id in set(sample_ids)]


def _continue_with(directory: RunFiles, sample_ids: list[str]) -> int:
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


def _check(with_operations: Mapping[str, Any], without: Mapping[str, Any], compared: Sequence[str]) -> None:
    found = find_differences([with_operations, without], compared=compared)
    matter = [difference.field for difference in found if difference.matters == "yes" and difference.field != "model"]
    if matter:
        raise ValueError(
            f"the runs with and without operations differ in {', '.join(matter)}, too, so their gap says nothing about "
            "operations. Delete RUN/audit, and audit again with the agent of the run."
        )
