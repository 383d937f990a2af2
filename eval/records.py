"""The files of an evaluation run: `manifest.json`, `episodes.jsonl`, `metrics.json`.

The manifest is written before the first episode, a line of `episodes.jsonl` as each episode ends, the metrics last: a
directory with metrics is a finished run, one without an interrupted run, whose finished episodes are never repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from pxr_agents.types import CONTEXT, Episode, Step
from .differences import changes_that_matter, limits

#: How the `error` of an episode begins where the judge, and not the model, failed.
JUDGE_FAILED = "judge: "

#: What a run may be continued with (see `changes_that_matter`), so that the manifest has to follow.
_MAY_CHANGE = ("engine", "concurrency", "server")


@dataclass(kw_only=True, slots=True)
class RunRecord:
    """An episode and what it took: one line of `episodes.jsonl`, in which all but the episode stands under "run".

    Args:
        repeat: which repeat of its sample it is, from 0.
        score: of the answer, from 0 to 1; None if the episode has none.
        seconds: from its beginning to its end (with lock-step engines of the whole batch), `model_seconds` of them
            waiting for turns.
        vision_tokens: of all images shown.
        prompt_tokens, completion_tokens: what the model read and wrote, all turns together, None if nobody counted.
        n_retries: requests that had to be repeated.
        duplicates, clipped: calls that had been executed before, and those of which a box or a point was cut off at the
            edge of its image.
        served: model and system fingerprint as a server named them.
        sample_sha256: see `eval.manifest.sample_digest`; None if its data cannot be shown.
        cluster: what the sample belongs to (`Sample.cluster`), None if it stands alone.
        judgment: what an LLM judge said.
        image_sha256: the digests of the images of every observation; None in the episodes of a training.
    """

    episode: Episode
    repeat: int = 0
    score: float | None = None
    seconds: float = 0.0
    model_seconds: float = 0.0
    vision_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    n_retries: int = 0
    duplicates: int = 0
    clipped: int = 0
    served: str = ""
    sample_sha256: str | None = None
    cluster: str | None = None
    judgment: dict[str, Any] | None = None
    image_sha256: list[list[str]] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Sample and repeat: what identifies it within a run."""
        return self.episode.sample_id, self.repeat

    @property
    def belongs_to(self) -> str:
        """The cluster of the sample; one that stands alone belongs to itself."""
        return self.episode.sample_id if self.cluster is None else self.cluster


_EPISODE_FIELDS = tuple(sorted({field.name for field in fields(Episode)} - {"tokens", "steps"}))
_STEP_FIELDS = tuple(field.name for field in fields(Step))
_RUN_FIELDS = tuple(field.name for field in fields(RunRecord) if field.name != "episode")


# Fields of an episode that came later, and what they were before: older files stay readable.
_BEFORE: dict[str, Any] = {"withdrawn": False}


def record_to_json(record: RunRecord) -> dict[str, Any]:
    """A record as plain JSON values, without the tokens of its episode."""
    line = {name: getattr(record.episode, name) for name in _EPISODE_FIELDS}
    line["steps"] = [{name: getattr(step, name) for name in _STEP_FIELDS} for step in record.episode.steps]
    return line | {"run": {name: getattr(record, name) for name in _RUN_FIELDS}}


def record_from_json(line: dict[str, Any]) -> RunRecord:
    """The inverse of `record_to_json`; the episodes of a training have no "run".

    Raises:
        ValueError: the line has other keys than this version writes.
    """
    values = _BEFORE | line
    run = values.pop("run", None)
    _check_keys(values, (*_EPISODE_FIELDS, "steps"))
    if run is not None:
        _check_keys(run, _RUN_FIELDS)
    values["steps"] = [Step(**step) for step in values["steps"]]
    for name in ("views", "evidence_box", "evidence_time"):
        values[name] = _with_tuples(values[name])
    if values["token_spans"] is not None:
        values["token_spans"] = tuple((str(kind), int(count)) for kind, count in values["token_spans"])
    return RunRecord(episode=Episode(**values), **(run or {}))


def _check_keys(values: dict[str, Any], expected: Sequence[str]) -> None:
    missing, unknown = sorted(set(expected) - values.keys()), sorted(values.keys() - set(expected))
    if missing or unknown:
        raise ValueError(
            f"got an episode of another version (missing: {missing}, unknown: {unknown}); expected what this version "
            "of `pxr eval run` writes. Evaluate again."
        )


def _with_tuples(value: Any) -> Any:
    """Boxes, sizes and points are tuples in an episode, and lists of numbers in JSON."""
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    if isinstance(value, list):
        numbers = value and all(isinstance(item, int | float) for item in value)
        return tuple(value) if numbers else [_with_tuples(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class RunFiles:
    """One evaluation run on disk. The directory is created by `start`."""

    path: Path

    @property
    def episodes_file(self) -> Path:
        return self.path / "episodes.jsonl"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.json"

    def check(self, manifest: dict[str, Any], *, reopen: bool = False) -> None:
        """Whether the run that `manifest` describes can begin or continue here; nothing is written.

        Args:
            reopen: whether a finished run may be continued, too.

        Raises:
            FileExistsError: the directory holds a finished run, or another run than this one.
        """
        if self.metrics_file.exists() and not reopen:
            raise FileExistsError(
                f'"{self.path}" holds a finished evaluation, which is not overwritten. Look at it with `pxr eval '
                f"report {self.path}`, repeat only what could not be answered with --retry-errors, choose another "
                "directory with --out, or delete this one."
            )
        if not self.manifest_file.exists():
            if self.episodes_file.exists():
                raise FileExistsError(
                    f'"{self.path}" holds episodes without a manifest, so what made them is unknown. Choose another '
                    "directory with --out, or delete this one."
                )
            return
        if changes := changes_that_matter(self.manifest(), manifest):
            raise FileExistsError(
                f'"{self.path}" holds an interrupted evaluation of another kind: {"; ".join(changes)}. Expected the '
                "same settings to continue it; repeat the earlier command, or choose another directory with --out."
            )

    def start(self, manifest: dict[str, Any], *, reopen: bool = False) -> list[RunRecord]:
        """Begin the run that `manifest` describes, or continue it; returns the episodes that are done.

        Episodes without a score are to be run again, and with a raised limit of the engine those that had outgrown its
        context as well. Arguments and errors are those of `check`.
        """
        self.check(manifest, reopen=reopen)
        if not self.manifest_file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_manifest(manifest)
            return []
        self._drop_unfinished_line()
        begun = self.manifest()
        has_more_room = limits(begun) != limits(manifest)
        done = []
        for record in self.records():
            episode = record.episode
            if episode.error is not None and episode.error.startswith(JUDGE_FAILED):
                # The answer itself is paid for.
                episode.error = None
            if episode.error is None and not (has_more_room and episode.truncated_by == CONTEXT):
                done.append(record)
        self._rewrite(done)
        self.write_manifest(begun | {name: manifest[name] for name in _MAY_CHANGE if name in manifest})
        self.metrics_file.unlink(missing_ok=True)
        return done

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, or complete it."""
        _write_json(self.manifest_file, manifest)

    def append(self, record: RunRecord) -> None:
        """Add a finished episode; it is on disk when this returns."""
        with self.episodes_file.open("a", encoding="utf-8") as file:
            _write_to_disk(file, json.dumps(record_to_json(record)) + "\n")

    def finish(self, records: Sequence[RunRecord], metrics: dict[str, Any]) -> None:
        """Write the episodes in their final order, then the metrics with the digest of their file
        (`episodes_sha256`), which mark the run as finished."""
        self._rewrite(records)
        digest = hashlib.sha256(self.episodes_file.read_bytes()).hexdigest()
        _write_json(self.metrics_file, metrics | {"episodes_sha256": digest})

    def manifest(self) -> dict[str, Any]:
        """What made the episodes."""
        return _read_json(self.manifest_file)

    def metrics(self) -> dict[str, Any]:
        """What came out, see `eval.metrics.evaluation_metrics`."""
        return _read_json(self.metrics_file)

    def records(self) -> list[RunRecord]:
        """All episodes written so far, with what they took.

        Raises:
            ValueError: a line is not an episode of this version; its number is named.
        """
        if not self.episodes_file.exists():
            return []
        records = []
        with self.episodes_file.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    records.append(record_from_json(json.loads(line)))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise ValueError(f"{self.episodes_file}, line {number}: {error}") from error
        return records

    def _rewrite(self, records: Sequence[RunRecord]) -> None:
        _replace(self.episodes_file, "".join(json.dumps(record_to_json(record)) + "\n" for record in records))

    def _drop_unfinished_line(self) -> None:
        """A run that was killed while writing leaves a line without its end."""
        if not self.episodes_file.exists():
            return
        content = self.episodes_file.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            _replace(self.episodes_file, complete.decode("utf-8"))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(
            f'"{path}" does not exist. Expected a directory that `pxr eval run` wrote to its end; check the '
            "path, or run the same command again to continue an interrupted evaluation."
        )
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f'"{path}" holds a JSON {type(content).__name__}; expected an object. Evaluate again.')
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _replace(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write all of a file or nothing of it."""
    unfinished = path.with_suffix(path.suffix + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        _write_to_disk(file, text)
    unfinished.replace(path)


def _write_to_disk(file: TextIO, text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
