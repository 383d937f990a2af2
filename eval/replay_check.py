"""Whether a run can be rebuilt byte for byte: every observation of every episode, from the manifest and the turns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium

from eval.data_hash import image_digest
from eval.records import Record, RunDirectory
from eval.replay import Replayer
from pxr_agents.types import Episode
from pxr_env.errors import DataError, MediaError


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """The first thing of an episode that is not as it was.

    Args:
        sample_id, repeat: which episode.
        turn: after which turn it showed, 0 for what came with the question.
        what: "data" (the sample cannot be shown any more), "text", "images" (how many), "pixels", "views" (boxes and
            sizes), "end" (earlier or later), "answer", "score".
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
        n_images: images in them; `n_images_unchecked` of these without a digest on record.
        n_skipped: episodes on record that never began, because their data could not be shown then.
        same_system_prompt: whether the environment words the system prompt as it did; None if it is not on record.
        mismatches: at most one per episode.
    """

    run: str
    n_episodes: int = 0
    n_observations: int = 0
    n_images: int = 0
    n_images_unchecked: int = 0
    n_skipped: int = 0
    same_system_prompt: bool | None = None
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether nothing differs of all that could be compared."""
        return not self.mismatches and self.same_system_prompt is not False


def check_replay(directory: Path, data: str | None = None) -> ReplayCheck:
    """Play every episode of a run again and compare every observation with the record.

    Texts are on record as they were, images by their digests (SHA-256 over size and pixels), views by boxes and sizes.
    Data are opened once; no model is needed.

    Args:
        directory: what `python -m eval run` wrote; an unfinished run is checked as far as it got.
        data: where the data lie now, if they were moved.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the environment cannot be rebuilt from the manifest, or its data cannot be opened.
    """
    run = RunDirectory(directory)
    manifest = run.manifest()
    check = ReplayCheck(run=str(directory))
    replayer = Replayer(manifest, data)
    try:
        recorded = (manifest.get("prompt") or {}).get("system_prompt_sha256")
        if recorded is not None:
            check.same_system_prompt = recorded == _sha256(replayer.system_prompt)
        for record in run.records():
            if not record.episode.prompt and record.episode.error is not None:
                check.n_skipped += 1
                continue
            check.n_episodes += 1
            difference = _first_difference(record, replayer, check)
            if difference is not None:
                check.mismatches.append(difference)
    finally:
        replayer.close()
    return check


def _first_difference(record: Record, replayer: Replayer, check: ReplayCheck) -> Mismatch | None:
    episode = record.episode
    texts = [episode.prompt, *(step.reply for step in episode.steps)]
    turn, info = 0, dict[str, Any]()

    def mismatch(what: str, difference: str) -> Mismatch:
        return Mismatch(sample_id=episode.sample_id, repeat=record.repeat, turn=turn, what=what, difference=difference)

    try:
        for turn, (observation, now) in enumerate(replayer.observations(episode)):
            info = now
            check.n_observations += 1
            if observation["text"] != texts[turn]:
                return mismatch("text", _first_characters(texts[turn], observation["text"]))
            unlike = _images(record, turn, observation["images"], check)
            if unlike is not None:
                return mismatch(*unlike)
    except gymnasium.error.ResetNeeded:
        return mismatch("end", f"{len(episode.steps)} turns are on record; the episode ended after {turn}")
    except (MediaError, DataError, OSError) as error:
        return mismatch("data", str(error))
    found = _outcome(record, info)
    return None if found is None else mismatch(*found)


def _images(record: Record, turn: int, images: Sequence[Any], check: ReplayCheck) -> tuple[str, str] | None:
    check.n_images += len(images)
    if record.image_sha256 is None:
        check.n_images_unchecked += len(images)
        return None
    digests = record.image_sha256[turn] if turn < len(record.image_sha256) else []
    if len(digests) != len(images):
        return "images", f"{len(digests)} images are on record; {len(images)} came"
    for number, (digest, image) in enumerate(zip(digests, images, strict=True), start=1):
        now = image_digest(image)
        if now != digest:
            return "pixels", f"image {number} of {len(images)} had SHA-256 {digest[:16]}...; {now[:16]}... came"
    return None


def _outcome(record: Record, info: Mapping[str, Any]) -> tuple[str, str] | None:
    """What the last info says against what is on record. An episode that broke has no outcome."""
    episode = record.episode
    views = [_view_facts(view) for view in info["views"]]
    recorded = [_view_facts(view) for view in episode.views]
    if views != recorded:
        number = next((n for n, pair in enumerate(zip(views, recorded, strict=False)) if pair[0] != pair[1]), None)
        if number is None:
            return "views", f"{len(recorded)} views are on record; {len(views)} came"
        return "views", f"view {number + 1} was {recorded[number]}; {views[number]} came"
    if episode.error is not None and not _has_ended(episode):
        return None
    if "score" not in info:
        return "end", f"the episode ended after turn {len(episode.steps)}; now it goes on"
    if info["answer"] != episode.answer:
        return "answer", f"{episode.answer!r} is on record; {info['answer']!r} came"
    if record.score is not None and info["score"] != record.score:
        return "score", f"{record.score} is on record; {info['score']} came"
    return None


def _has_ended(episode: Episode) -> bool:
    return episode.answer is not None or episode.truncated_by is not None


def _view_facts(view: Mapping[str, Any]) -> tuple[Any, ...]:
    return view["index"], view["turn"], view["source"], view.get("frame"), tuple(view["box"]), tuple(view["size"])


def _first_characters(recorded: str, came: str) -> str:
    """Both texts from where they part."""
    at = next(
        (n for n, pair in enumerate(zip(recorded, came, strict=False)) if pair[0] != pair[1]),
        min(len(recorded), len(came)),
    )
    start = max(0, at - 20)
    return f"from character {at} on {recorded[start : at + 60]!r} is on record; {came[start : at + 60]!r} came"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
