"""`python -m eval replay RUN`: whether a run can be rebuilt.

Every episode is played again from its turns, and compared field by field: the turns go through the same rollout, the
same cover of the environment and the same bookkeeping as in `python -m eval run`, and what comes out has to be the
record. A field that is added to records is compared without any change here, unless only the model, a judge or the
clock could know it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium

from pxr_agents.judge import read_judgments
from pxr_agents.remote import FailedAction
from pxr_agents.rollout import rollout
from pxr_agents.types import CONTEXT, Action, ContextFull, Episode, Job, Observation, Tokens
from pxr_env.errors import show
from .differences import find_differences
from .judge import dispute
from .manifest import changed_facts, data_digest, sample_ids_digest, score_name
from .metrics import evaluation_metrics
from .options import open_console, say
from .records import JUDGE_FAILED, RunFiles, RunRecord, record_to_json
from .replay import episode_texts, rebuild_environment
from .runner import Watch, WatchedEnv

#: What only the model, its engine or server, a judge, or the clock could say again. That nobody changed it since shows
#: in the digest of the file and in the metrics.
ONLY_ON_RECORD = frozenset(
    {
        *("run.seconds", "run.model_seconds", "run.prompt_tokens", "run.completion_tokens", "run.n_retries"),
        *("run.served", "run.judgment", "token_spans", "steps.weights_version", "steps.finish_reason"),
    }
)
#: Mismatches that are printed of one run; `--json` has all.
_SHOWN = 20
_GOES_ON = "the turns on record are over"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """The first thing of an episode that is not as it was.

    Args:
        turn: after which turn it showed, 0 for what came with the question.
        what: "data" (the sample cannot be shown any more, or could not be then), "text", "images" (how many), "pixels",
            "views" (boxes and sizes), "end" (earlier or later), "judgment", or the field that differs.
        difference: in words: what is on record, and what came.
    """

    sample_id: str
    repeat: int
    turn: int
    what: str
    difference: str


@dataclass(frozen=True, slots=True)
class FileMismatch:
    """A field of a file of a run, such as "statistics.accuracy" of "metrics.json", that does not fit its episodes."""

    file: str
    field: str
    difference: str


@dataclass(kw_only=True, slots=True)
class ReplayCheck:
    """What came out for one run.

    Args:
        n_episodes, n_observations, n_images: how many were played again, and compared.
        n_skipped: episodes on record that never began, because their data could not be shown then, nor now.
        n_unscored: other episodes without a score: that their model or server failed cannot be seen again.
        n_judgments: judgments that were read again; `n_unseen_judgments` of these are in no file of judgments, so that
            nothing but the record says that the judge said so.
        mismatches: at most one per episode.
        files: fields of the manifest and of the metrics that are not those of the episodes.
    """

    run: str
    n_episodes: int = 0
    n_observations: int = 0
    n_images: int = 0
    n_skipped: int = 0
    n_unscored: int = 0
    n_judgments: int = 0
    n_unseen_judgments: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    files: list[FileMismatch] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether nothing differs of all that could be compared."""
        return not self.mismatches and not self.files


class _Unlike(Exception):
    """An episode is not as it was: after which turn, what, and in words."""

    def __init__(self, turn: int, what: str, difference: str) -> None:
        self.found: dict[str, Any] = {"turn": turn, "what": what, "difference": difference}


class Recalled:
    """An agent that gives the turns of one recorded episode, and ends it as it ended."""

    def __init__(self, episode: Episode) -> None:
        self._episode, self._turns = episode, iter(step.turn for step in episode.steps)

    def start(self, key: int, env: Any) -> None:
        """There is one episode, under key 0."""

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        """Nothing is asked."""

    def collect(self) -> list[tuple[int, Action]]:
        end = FailedAction(reason=self._episode.error or _GOES_ON)
        for turn in self._turns:
            return [(0, Action(text=turn))]
        return [(0, ContextFull() if self._episode.truncated_by == CONTEXT else end)]

    def finish(self, key: int) -> Tokens | None:
        return None


def check_replay(directory: Path, data: str | None = None, judgments: Path | None = None) -> ReplayCheck:
    """Play every episode of a run again and compare what comes out with the record, the metrics and the manifest.

    Texts are on record as they were, images by their digests, views by boxes and sizes. No model is needed.

    Args:
        directory: what `python -m eval run` wrote; an unfinished run is checked as far as it got.
        judgments: what the judge said, if not in the run's directory.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the environment cannot be rebuilt from the manifest, or its data cannot be opened.
    """
    run = RunFiles(directory)
    manifest = run.manifest()
    check = ReplayCheck(run=str(directory))
    env = rebuild_environment(manifest, data)
    try:
        known = read_judgments(judgments or directory / "judgments.jsonl")
        records = run.records()
        attempt = WatchedEnv(env)
        for record in records:
            try:
                _check_episode(record, _play_again(attempt, record), check, is_judged=manifest.get("judge") is not None)
                if record.judgment is not None:
                    _check_judgment(record, env, manifest, known, check)
            except _Unlike as unlike:
                sample_id, repeat = record.key
                check.mismatches.append(Mismatch(sample_id=sample_id, repeat=repeat, **unlike.found))
        check.files = check_files(run, manifest, records, env)
    finally:
        env.close()
    return check


def _play_again(attempt: WatchedEnv, record: RunRecord) -> RunRecord:
    watch = Watch(Recalled(record.episode), [record.repeat])
    sample_id = record.episode.sample_id
    [episode] = rollout([attempt], watch, [Job(sample_id=sample_id, group=sample_id)])
    return watch.record(episode)


def _check_episode(record: RunRecord, now: RunRecord, check: ReplayCheck, *, is_judged: bool) -> None:
    recorded, error = record.episode, record.episode.error
    if error is not None and error.startswith("data: ") and not recorded.prompt:
        if now.sample_sha256 is not None:
            raise _Unlike(0, "data", f"{show(error, 200)} is on record; now it can be shown")
        check.n_skipped += 1
        return
    if now.sample_sha256 is None:
        raise _Unlike(0, "data", str(now.episode.error))
    check.n_episodes += 1
    _check_observations(record, now, check)
    last = len(recorded.steps)
    if error is None and now.episode.error is not None:
        if now.episode.error.endswith(_GOES_ON):
            raise _Unlike(last, "end", f"the episode ended after turn {last}; now it goes on")
        raise _Unlike(last, "data", now.episode.error)
    if error is not None and (now.episode.error is not None or (is_judged and error.startswith(JUDGE_FAILED))):
        # It broke where it broke then; the words are those of a model's server, or of a judge's.
        check.n_unscored += 1
        now.episode.error = error
    if record.judgment is not None:
        if not is_judged:
            raise _Unlike(last, "judgment", "a judgment is on record, and no judge in the manifest")
        # The judge decided, not the scorer.
        now.episode.correct = bool(record.judgment.get("correct"))
    elif is_judged and recorded.answer is not None and error is None:
        raise _Unlike(last, "judgment", "a judge decides in this run, and no judgment is on record")
    _check_fields(record, now, last)


def _check_observations(record: RunRecord, now: RunRecord, check: ReplayCheck) -> None:
    """What was shown, observation after observation, and how many there were."""
    was, came = episode_texts(record.episode), episode_texts(now.episode)
    recorded, shown = record.image_sha256 or [], now.image_sha256 or []
    check.n_observations += len(shown)
    check.n_images += sum(map(len, shown))
    for turn, images in enumerate(shown[: len(was)]):
        if was[turn] != came[turn]:
            at = _first_difference(was[turn], came[turn])
            part = slice(max(0, at - 20), at + 60)
            words = f"from character {at} on {was[turn][part]!r} is on record; {came[turn][part]!r} came"
            raise _Unlike(turn, "text", words)
        digests = recorded[turn] if turn < len(recorded) else []
        if len(digests) != len(images):
            raise _Unlike(turn, "images", f"{len(digests)} images are on record; {len(images)} came")
        for number, (digest, image) in enumerate(zip(digests, images, strict=True), start=1):
            if digest != image:
                words = f"image {number} of {len(images)} had SHA-256 {digest[:16]}...; {image[:16]}... came"
                raise _Unlike(turn, "pixels", words)
    n_recorded, n_now = len(record.episode.steps), len(now.episode.steps)
    if n_recorded != n_now:
        raise _Unlike(n_now, "end", f"{n_recorded} turns are on record; the episode ended after {n_now}")


def _check_fields(record: RunRecord, now: RunRecord, last: int) -> None:
    """Everything else, by its name in `episodes.jsonl`."""
    first, second = _flat(record), _flat(now)
    for turn, (was, came) in enumerate(zip(first.pop("steps"), second.pop("steps"), strict=True), start=1):
        for name in was:
            if f"steps.{name}" not in ONLY_ON_RECORD and was[name] != came[name]:
                raise _Unlike(turn, name, _both(was[name], came[name]))
    was, came = first["views"], second["views"]
    if was != came:
        at = _first_difference(was, came)
        words = f"{len(was)} views are on record; {len(came)} came"
        if at < min(len(was), len(came)):
            words = f"view {at + 1} was {show(was[at], 200)}; {show(came[at], 200)} came"
        raise _Unlike(last, "views", words)
    for name in first.keys() - ONLY_ON_RECORD:
        if first[name] != second[name]:
            raise _Unlike(last, name.removeprefix("run."), _both(first[name], second[name]))


def _check_judgment(
    record: RunRecord, env: gymnasium.Env, manifest: Mapping[str, Any], known: Mapping[str, str], check: ReplayCheck
) -> None:
    assert record.judgment is not None
    check.n_judgments += 1
    sample = env.unwrapped.data.get(record.episode.sample_id)  # type: ignore[attr-defined]
    objection, is_known = dispute(record.judgment, sample, record.episode.answer or "", manifest["judge"], known)
    check.n_unseen_judgments += not is_known
    if objection is not None:
        raise _Unlike(len(record.episode.steps), "judgment", objection)


def _flat(record: RunRecord) -> dict[str, Any]:
    """A record as it is written, with its fields below "run" as `run.NAME`."""
    line = json.loads(json.dumps(record_to_json(record)))
    return {**{f"run.{name}": value for name, value in line.pop("run").items()}, **line}


def _both(recorded: object, came: object) -> str:
    return f"{show(recorded, 100)} is on record; {show(came, 100)} came"


def _first_difference(first: Sequence[object], second: Sequence[object]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, pair in pairs if pair[0] != pair[1]), min(len(first), len(second)))


def check_files(
    run: RunFiles, manifest: Mapping[str, Any], records: Sequence[RunRecord], env: gymnasium.Env
) -> list[FileMismatch]:
    """What of the manifest and of the metrics of a run is not that of its episodes.

    Args:
        run: without `metrics.json` it is unfinished, and only what its environment says is compared.
        env: the environment, rebuilt from the manifest.
    """
    found = [FileMismatch("manifest.json", one.field, _both(*one.values)) for one in changed_facts(manifest, env)]
    if run.metrics_file.exists():
        found += [*_of_samples(manifest, records), *_of_metrics(run, manifest, records)]
    return found


def _of_samples(manifest: Mapping[str, Any], records: Sequence[RunRecord]) -> Iterator[FileMismatch]:
    # An arm of an audit has the episodes that used an operation: how many depends on the run.
    if "samples_sha256" not in manifest:
        return
    sample_ids = list(dict.fromkeys(record.episode.sample_id for record in records))
    of_data = data_digest(record.sample_sha256 for record in records if record.repeat == 0)
    for name, was, now in (
        ("n_samples", manifest["n_samples"], len(sample_ids)),
        ("samples_sha256", manifest["samples_sha256"], sample_ids_digest(sample_ids)),
        ("data.samples_sha256", manifest["data"]["samples_sha256"], of_data),
    ):
        if was != now:
            yield FileMismatch("manifest.json", name, _both(was, now))
    counts = Counter(record.key for record in records)
    expected = Counter((name, repeat) for name in sample_ids for repeat in range(manifest["repeats"]))
    if counts != expected:
        name, repeat = min((counts - expected) | (expected - counts))
        text = f"each of {manifest['repeats']} repeats of a sample has one episode; not so {name!r}, repeat {repeat}"
        yield FileMismatch("episodes.jsonl", "run.repeat", text)


def _of_metrics(run: RunFiles, manifest: Mapping[str, Any], records: Sequence[RunRecord]) -> Iterator[FileMismatch]:
    recorded = run.metrics()
    digest, now = recorded.pop("episodes_sha256", None), hashlib.sha256(run.episodes_file.read_bytes()).hexdigest()
    if digest != now:
        yield FileMismatch("episodes.jsonl", "SHA-256", _both(digest, now))
    try:
        again = json.loads(json.dumps(evaluation_metrics(records, score_name=score_name(manifest))))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
        # Records that contradict themselves; the replay of their episodes names them.
        text = f"they cannot be computed from the episodes on record: {type(error).__name__}: {error}"
        yield FileMismatch("metrics.json", "statistics", text)
        return
    text = run.metrics_file.read_text(encoding="utf-8")
    for one in find_differences([recorded, again]):
        *_, part, name = ["", *one.field.split(".")]
        # A statistic of which nothing is on record came after the run.
        is_new = part in ("statistics", "intervals", "counts") and json.dumps(name) not in text
        if not is_new and not _alike(*one.values):
            yield FileMismatch("metrics.json", one.field, _both(*one.values))


def _alike(first: Any, second: Any) -> bool:
    """Whether two values are equal but for the rounding of another machine."""
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, int | float) and isinstance(second, int | float):
        return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)
    return bool(first == second)


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
    console = open_console()
    for check in checks:
        say(console, *_lines(check))
    if arguments.json is not None:
        content = [asdict(check) | {"identical": check.identical} for check in checks]
        # Texts of models may hold halves of surrogate pairs, which ASCII escapes survive.
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if all(check.identical for check in checks) else 1


def _lines(check: ReplayCheck) -> Iterator[str]:
    """What people read of a check."""
    unlike = [f"{len(check.mismatches)} episodes differ"] if check.mismatches else []
    unlike += [f"{len(check.files)} fields of its files do not fit its episodes"] if check.files else []
    verdict = " and ".join(unlike) or "byte-identical"
    if check.n_unseen_judgments:
        verdict += f", but {check.n_unseen_judgments} judgments stand in no file of judgments and cannot be checked"
    rebuilt = f"{check.n_episodes} episodes, {check.n_observations} observations and {check.n_images} images"
    yield f"{check.run}: {verdict}. {rebuilt} were rebuilt."
    for count, text in (
        (check.n_skipped, "episodes never began, because their data could not be shown."),
        (check.n_unscored, "episodes have no score; that a model or a server failed cannot be seen again."),
        (check.n_judgments, "judgments were read again; what a judge would say now is not asked."),
    ):
        if count:
            yield f"  {count} {text}"
    files = [f"{one.file}: {one.field}: {one.difference}" for one in check.files]
    episodes = []
    for one in check.mismatches:
        name = f"{one.sample_id}, repeat {one.repeat}" if one.repeat else one.sample_id
        episodes.append(f"{name}, turn {one.turn}: {one.what}: {one.difference}")
    for lines, kind in ((files, " fields"), (episodes, "")):
        yield from (f"  {line}" for line in lines[:_SHOWN])
        if len(lines) > _SHOWN:
            yield f"  and {len(lines) - _SHOWN} more{kind}; --json FILE writes all."
