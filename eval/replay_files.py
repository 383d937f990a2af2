"""Whether the manifest and the metrics of a run are those of its episodes."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from eval.data_hash import data_digest
from eval.differences import find_differences
from eval.manifest import facts_of_environment, sample_ids_digest, score_name
from eval.metrics import INTERVAL_METHOD, evaluation_metrics
from eval.records import Record, RunDirectory
from pxr_env.errors import show


@dataclass(frozen=True, kw_only=True, slots=True)
class FileMismatch:
    """A field of a file of a run that does not fit its episodes.

    Args:
        file: "manifest.json", "metrics.json" or "episodes.jsonl".
        field: its path, such as "statistics.accuracy".
        difference: in words: what is on record, and what came.
    """

    file: str
    field: str
    difference: str


def check_files(
    run: RunDirectory,
    manifest: Mapping[str, Any],
    records: Sequence[Record],
    env: gymnasium.Env,
    unrecorded: Counter[str],
) -> list[FileMismatch]:
    """What does not fit.

    Args:
        run: the run; without `metrics.json` it is unfinished, and only what its environment says is compared.
        manifest: what it wrote.
        records: its episodes.
        env: the environment, rebuilt from the manifest.
        unrecorded: is told what a run of an earlier version did not record.
    """
    found = _of_environment(manifest, env)
    if not run.metrics_file.exists():
        return found
    metrics = run.metrics()
    return found + _of_samples(manifest, records) + _of_metrics(run, manifest, metrics, records, unrecorded)


def _of_environment(manifest: Mapping[str, Any], env: gymnasium.Env) -> list[FileMismatch]:
    """Only what is on record is compared: earlier versions had fewer fields, and other words for a source."""
    now = json.loads(json.dumps(facts_of_environment(env)))
    return [
        _mismatch("manifest.json", one.field, *one.values)
        for one in find_differences([{name: manifest.get(name) for name in now}, now])
        if one.values[0] is not None and one.field != "scorer.source" and not one.field.startswith("data.samples")
    ]


def _of_samples(manifest: Mapping[str, Any], records: Sequence[Record]) -> list[FileMismatch]:
    # An arm of an audit has the episodes that used an operation: how many depends on the run.
    if "samples_sha256" not in manifest:
        return []
    repeats = int(manifest.get("repeats", 1))
    counts = Counter(record.key for record in records)
    sample_ids = list(dict.fromkeys(record.episode.sample_id for record in records))
    digests = [record.sample_sha256 or "none" for record in records if record.repeat == 0]
    recorded = manifest.get("data") or {}
    expected = {
        "n_samples": len(sample_ids),
        "samples_sha256": sample_ids_digest(sample_ids),
        "data.samples_sha256": data_digest(digests),
    }
    found = [
        _mismatch("manifest.json", name, was, now)
        for name, now in expected.items()
        if (was := recorded.get("samples_sha256") if name.startswith("data.") else manifest.get(name)) != now
    ]
    missing = [(name, k) for name in sample_ids for k in range(repeats) if counts[name, k] != 1]
    if missing or len(counts) != len(sample_ids) * repeats:
        odd = f"such as {missing[0][0]!r}, repeat {missing[0][1]}" if missing else f"{len(counts)} came"
        text = f"{len(sample_ids)} samples with {repeats} repeats each have one episode each; not all do, {odd}"
        found.append(FileMismatch(file="episodes.jsonl", field="run.repeat", difference=text))
    return found


def _of_metrics(
    run: RunDirectory,
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Any],
    records: Sequence[Record],
    unrecorded: Counter[str],
) -> list[FileMismatch]:
    found = []
    digest, now = metrics.get("episodes_sha256"), hashlib.sha256(run.episodes_file.read_bytes()).hexdigest()
    if digest is None:
        unrecorded["digest of episodes.jsonl"] += 1
    elif digest != now:
        found.append(_mismatch("episodes.jsonl", "SHA-256", digest, now))
    try:
        again = json.loads(json.dumps(evaluation_metrics(records, score_name=score_name(manifest))))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
        # Records that contradict themselves; the replay of their episodes names them.
        text = f"they cannot be computed from the episodes on record: {type(error).__name__}: {error}"
        return [*found, FileMismatch(file="metrics.json", field="statistics", difference=text)]
    recorded = {name: value for name, value in metrics.items() if name != "episodes_sha256"}
    is_earlier = recorded.get("interval_method") != INTERVAL_METHOD
    if is_earlier:
        unrecorded["metrics by the present method"] += 1
    for one in find_differences([recorded, again]):
        was, came = one.values
        # Other versions had other intervals, and fewer numbers.
        if is_earlier and (was is None or "interval" in one.field):
            continue
        if not _alike(was, came):
            found.append(_mismatch("metrics.json", one.field, was, came))
    return found


def _alike(first: Any, second: Any) -> bool:
    """Whether two values are equal but for the rounding of another machine."""
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, int | float) and isinstance(second, int | float):
        return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)
    return bool(first == second)


def _mismatch(file: str, field: str, was: object, came: object) -> FileMismatch:
    return FileMismatch(file=file, field=field, difference=f"{show(was, 100)} is on record; {show(came, 100)} came")
