"""Whether a run can be rebuilt: every episode is played again from its turns, and compared field by field.

The recorded turns go through the same rollout, the same cover of the environment and the same bookkeeping as in
`python -m eval run`; what comes out has to be the record. A field that is added to records is compared without any
change here, unless only the model, a judge or the clock could know it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.attempts import Attempt, Watch
from eval.judge import dispute, read_judgments
from eval.records import JUDGE_FAILED, Record, RunDirectory, record_to_json
from eval.replay import rebuild_environment
from eval.replay_files import FileMismatch, check_files
from pxr_agents.remote import FailedAction
from pxr_agents.rollout import rollout
from pxr_agents.types import CONTEXT, Action, ContextFull, Job, Observation, Tokens
from pxr_env.errors import show
from pxr_env.types import Sample

#: What only the model, its engine or server, a judge, or the clock could say again. That nobody changed it since shows
#: in the digest of the file and in the metrics.
ONLY_ON_RECORD = frozenset(
    {
        *("run.seconds", "run.model_seconds", "run.prompt_tokens", "run.completion_tokens", "run.n_retries"),
        *("run.served", "run.judgment", "token_spans", "steps.weights_version", "steps.finish_reason"),
    }
)
#: Earlier versions did not record it: without, it is unchecked.
LATER = ("run.image_sha256", "run.cluster")
_GOES_ON = "the turns on record are over"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """The first thing of an episode that is not as it was.

    Args:
        sample_id, repeat: which episode.
        turn: after which turn it showed, 0 for what came with the question.
        what: "data" (the sample cannot be shown any more, or could not be then), "text", "images" (how many), "pixels",
            "views" (boxes and sizes), "end" (earlier or later), "judgment", or the field that differs, such as
            "correct".
        difference: in words: what is on record, and what came.
    """

    sample_id: str
    repeat: int
    turn: int
    what: str
    difference: str


@dataclass(kw_only=True, slots=True)
class ReplayCheck:
    """What came out for one run.

    Args:
        run: its directory.
        n_episodes: episodes that were played again.
        n_observations: observations that were compared.
        n_images: images in them.
        n_skipped: episodes on record that never began, because their data could not be shown then, nor now.
        n_unscored: other episodes without a score: that their model or server failed cannot be seen again.
        unrecorded: what a run of an earlier version did not record -> of how many images or episodes.
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
    unrecorded: Counter[str] = field(default_factory=Counter)
    n_judgments: int = 0
    n_unseen_judgments: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    files: list[FileMismatch] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether nothing differs of all that could be compared."""
        return not self.mismatches and not self.files


class Recalled:
    """An agent that gives the turns of one recorded episode, and ends it as it ended."""

    def __init__(self, record: Record) -> None:
        self._episode = record.episode
        self._turns = [step.turn for step in record.episode.steps]
        self._key = 0

    def start(self, key: int, env: Any) -> None:
        self._key = key

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        """Nothing is asked."""

    def collect(self) -> list[tuple[int, Action]]:
        if self._turns:
            return [(self._key, Action(text=self._turns.pop(0)))]
        if self._episode.truncated_by == CONTEXT:
            return [(self._key, ContextFull())]
        return [(self._key, FailedAction(reason=self._episode.error or _GOES_ON))]

    def finish(self, key: int) -> Tokens | None:
        return None


def check_replay(directory: Path, data: str | None = None, judgments: Path | None = None) -> ReplayCheck:
    """Play every episode of a run again and compare what comes out with the record, the metrics and the manifest.

    Texts are on record as they were, images by their digests (SHA-256 over size and pixels), views by boxes and sizes.
    Data are opened once; no model is needed.

    Args:
        directory: what `python -m eval run` wrote; an unfinished run is checked as far as it got.
        data: where the data lie now, if they were moved.
        judgments: what the judge said, if not in the run's directory.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the environment cannot be rebuilt from the manifest, or its data cannot be opened.
    """
    run = RunDirectory(directory)
    manifest = run.manifest()
    check = ReplayCheck(run=str(directory))
    env = rebuild_environment(manifest, data)
    try:
        known = read_judgments(judgments or directory / "judgments.jsonl")
        records = run.records()
        attempt = Attempt(env)
        for record in records:
            now = _play_again(attempt, record)
            found = _unlike(record, now, check, is_judged=manifest.get("judge") is not None)
            if found is None and record.judgment is not None:
                sample = env.unwrapped.data.get(record.episode.sample_id)  # type: ignore[attr-defined]
                found = _judgment(record, sample, manifest, known, check)
            if found is not None:
                check.mismatches.append(Mismatch(sample_id=record.episode.sample_id, repeat=record.repeat, **found))
        check.files = check_files(run, manifest, records, env, check.unrecorded)
    finally:
        env.close()
    return check


def _play_again(attempt: Attempt, record: Record) -> Record:
    watch = Watch(Recalled(record), [record.repeat])
    played: list[Record] = []
    sample_id = record.episode.sample_id
    rollout([attempt], watch, [Job(sample_id=sample_id, group=sample_id)], lambda e: played.append(watch.record(e)))
    return played[0]


def _unlike(record: Record, now: Record, check: ReplayCheck, *, is_judged: bool) -> dict[str, Any] | None:
    """The first difference as fields of a `Mismatch`; None if there is none."""
    recorded, error = record.episode, record.episode.error
    if now.sample_sha256 is None:
        if error is not None and error.startswith("data: ") and not recorded.prompt:
            check.n_skipped += 1
            return None
        return _found(0, "data", str(now.episode.error))
    if error is not None and error.startswith("data: ") and not recorded.prompt:
        return _found(0, "data", f"{show(error, 200)} is on record; now it can be shown")
    check.n_episodes += 1
    found = _observations(record, now, check)
    if found is not None:
        return found
    last = len(recorded.steps)
    if error is None and now.episode.error is not None:
        if now.episode.error.endswith(_GOES_ON):
            return _found(last, "end", f"the episode ended after turn {last}; now it goes on")
        return _found(last, "data", now.episode.error)
    if error is not None and (now.episode.error is not None or (is_judged and error.startswith(JUDGE_FAILED))):
        # It broke where it broke then; the words are those of a model's server, or of a judge's.
        check.n_unscored += 1
        now.episode.error = error
    if record.judgment is not None and is_judged:
        # The judge decided, not the scorer.
        now.episode.correct = bool(record.judgment.get("correct"))
    elif is_judged and recorded.answer is not None and error is None:
        return _found(last, "judgment", "a judge decides in this run, and no judgment is on record")
    elif record.judgment is not None:
        return _found(last, "judgment", "a judgment is on record, and no judge in the manifest")
    return _fields(record, now, check, last)


def _found(turn: int, what: str, difference: str) -> dict[str, Any]:
    return {"turn": turn, "what": what, "difference": difference}


def _observations(record: Record, now: Record, check: ReplayCheck) -> dict[str, Any] | None:
    """What was shown, observation after observation, and how many there were."""
    texts = [[episode.prompt, *(step.reply for step in episode.steps)] for episode in (record.episode, now.episode)]
    assert now.image_sha256 is not None
    for turn, images in enumerate(now.image_sha256):
        check.n_observations += 1
        check.n_images += len(images)
        if turn >= len(texts[0]):
            break
        if texts[0][turn] != texts[1][turn]:
            return _found(turn, "text", first_characters(texts[0][turn], texts[1][turn]))
        if record.image_sha256 is None:
            check.unrecorded["pixels of images"] += len(images)
            continue
        digests = record.image_sha256[turn] if turn < len(record.image_sha256) else []
        if len(digests) != len(images):
            return _found(turn, "images", f"{len(digests)} images are on record; {len(images)} came")
        for number, (digest, image) in enumerate(zip(digests, images, strict=True), start=1):
            if digest != image:
                came = f"image {number} of {len(images)} had SHA-256 {digest[:16]}...; {image[:16]}... came"
                return _found(turn, "pixels", came)
    n_recorded, n_now = len(record.episode.steps), len(now.episode.steps)
    if n_recorded != n_now:
        return _found(n_now, "end", f"{n_recorded} turns are on record; the episode ended after {n_now}")
    return None


def _fields(record: Record, now: Record, check: ReplayCheck, last: int) -> dict[str, Any] | None:
    """Everything else, by its name in `episodes.jsonl`."""
    first, second = _flat(record), _flat(now)
    for name in LATER:
        if first[name] is None and second[name] is not None:
            if name == "run.cluster":
                check.unrecorded["clusters of episodes"] += 1
            second[name] = None
    for turn, (was, came) in enumerate(zip(first.pop("steps"), second.pop("steps"), strict=True), start=1):
        for name in was:
            if f"steps.{name}" not in ONLY_ON_RECORD and was[name] != came[name]:
                return _found(turn, name, _both(was[name], came[name]))
    if first["views"] != second["views"]:
        return _found(last, "views", _views(first["views"], second["views"]))
    for name in first.keys() - ONLY_ON_RECORD:
        if first[name] != second[name]:
            return _found(last, name.removeprefix("run."), _both(first[name], second[name]))
    return None


def _flat(record: Record) -> dict[str, Any]:
    """A record as it is written, with its fields below "run" as `run.NAME`."""
    line = json.loads(json.dumps(record_to_json(replace(record))))
    return {**{f"run.{name}": value for name, value in line.pop("run").items()}, **line}


def _judgment(
    record: Record, sample: Sample, manifest: Mapping[str, Any], known: Mapping[str, str], check: ReplayCheck
) -> dict[str, Any] | None:
    assert record.judgment is not None
    check.n_judgments += 1
    objection, is_known = dispute(record.judgment, sample, record.episode.answer or "", manifest["judge"], known)
    check.n_unseen_judgments += not is_known
    return None if objection is None else _found(len(record.episode.steps), "judgment", objection)


def _both(recorded: object, came: object) -> str:
    return f"{show(recorded, 100)} is on record; {show(came, 100)} came"


def _views(recorded: Sequence[object], came: Sequence[object]) -> str:
    number = next((n for n, pair in enumerate(zip(recorded, came, strict=False)) if pair[0] != pair[1]), None)
    if number is None:
        return f"{len(recorded)} views are on record; {len(came)} came"
    return f"view {number + 1} was {show(recorded[number], 200)}; {show(came[number], 200)} came"


def first_characters(recorded: str, came: str) -> str:
    """Both texts from where they part."""
    at = next(
        (n for n, pair in enumerate(zip(recorded, came, strict=False)) if pair[0] != pair[1]),
        min(len(recorded), len(came)),
    )
    start = max(0, at - 20)
    return f"from character {at} on {recorded[start : at + 60]!r} is on record; {came[start : at + 60]!r} came"
