"""What is shown of one episode: pictures as data URIs, numbered boxes on the sources, turns cut into parts."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pxr_agents.statistics import is_hit, knows_evidence, looks, term_returns, used
from pxr_agents.types import Episode
from pxr_env.media import ImageSource
from pxr_env.views import Box
from .facts import Segment, is_cut, outcome, split_turn
from .records import RunRecord
from .replay import Replay, Replayer

#: Longest side in pixels at which a source image is embedded: about that of the views that models see.
SOURCE_SIDE = 1600
#: A picture that needs more bytes as PNG is stored as JPEG.
PNG_BYTES = 48 * 1024
#: Most characters that are shown of a question or a reply.
TEXT_LIMIT = 20_000
#: Encoded pictures that are remembered.
MAX_LATEST = 64
#: How many colours turns have; the next turn begins with the first again.
COLOURS = 6
#: Height of a number's badge as a share of the picture's longer side, and its width for every character.
_BADGE_HEIGHT, _BADGE_WIDTH = 0.052, 0.034

_latest: dict[bytes, str] = {}
_lock = threading.Lock()


class SourceMark(NamedTuple):
    """A box drawn on a source, all in source pixels.

    `points` are its corners where it is turned, for an SVG polygon; `kind` is "view" or "evidence", `label` the number
    of the view, `turn` the one that asked for it, `badge` the x, y, width, height of the label's background.
    """

    x: float
    y: float
    width: float
    height: float
    points: str | None
    kind: str
    label: str
    turn: int
    badge: Box

    @property
    def colour(self) -> int:
        """The number of the turn's colour, from 1."""
        return (self.turn - 1) % COLOURS + 1


class SourcePicture(NamedTuple):
    """A source image or a video frame with every box that was looked at; `width` and `height` in source pixels.

    `href` is None where there are no pixels to show, `frame` the index of a video's frame.
    """

    href: str | None
    number: int
    frame: int | None
    width: float
    height: float
    marks: tuple[SourceMark, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewPicture:
    """A view as the model saw it; `href` is None where there are no pixels, `turn` 0 for the question.

    `source` and `area` are the number of the source and the part of it that is shown as the `viewBox` of an SVG; None
    and the view's own pixels where it is turned, or of two parts.
    """

    href: str | None
    index: int
    width: int
    height: int
    box: str
    turn: int
    frame: int | None
    source: int | None
    area: str


class TurnCard(NamedTuple):
    """A turn, the reply to it and the views that came with the reply; `is_cut`: by the limit of tokens."""

    number: int
    segments: list[Segment]
    reply: str
    views: list[ViewPicture]
    weights_version: int | None
    is_cut: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeCard:
    """One episode, ready for the template. `no_pictures` says why there are none; None if there are."""

    record: RunRecord
    question: str
    prompt: str
    first_views: list[ViewPicture]
    sources: list[SourcePicture]
    turns: list[TurnCard]
    no_pictures: str | None

    @property
    def episode(self) -> Episode:
        return self.record.episode

    @property
    def outcome(self) -> str:
        return outcome(self.episode)

    @property
    def used(self) -> bool:
        return used(self.episode)

    @property
    def failed(self) -> bool:
        return any(self.episode.failures.values())

    @property
    def hit(self) -> bool | None:
        """Whether an operation found the evidence; None where the question makes no sense."""
        return is_hit(self.episode) if self.used and knows_evidence(self.episode) else None

    @property
    def reward_terms(self) -> dict[str, float]:
        return term_returns(self.episode)

    @property
    def token_counts(self) -> dict[str, int]:
        """How many tokens of the episode are "read", "written" and "forced"; empty where nobody recorded it."""
        counts: Counter[str] = Counter()
        for kind, count in self.episode.token_spans or ():
            counts[kind] += count
        return counts

    @property
    def n_picture_bytes(self) -> int:
        """How much its pictures add to a page."""
        views = [*self.first_views, *(view for turn in self.turns for view in turn.views)]
        return sum(len(href or "") for href in [one.href for one in self.sources] + [one.href for one in views])


def build_card(record: RunRecord, replayer: Replayer) -> EpisodeCard:
    """Replay an episode and prepare everything the template shows.

    Raises:
        ReplayError: the environment no longer answers as it did.
    """
    replay = replayer.replay(record.episode)
    return _card(record, replay.question, replay.images, _source_pictures(replay, record.episode), None)


def text_card(record: RunRecord, reason: str) -> EpisodeCard:
    """The same without pixels, from the record alone: boxes are drawn on an empty frame. `reason` says why."""
    return _card(record, record.episode.prompt, {}, _empty_frames(record.episode), reason)


def card_or_text(record: RunRecord, replayer: Replayer) -> EpisodeCard:
    """The card of an episode; if it cannot be played again, one without pictures that says why."""
    if not record.episode.prompt and record.episode.error is not None:
        return text_card(record, "The question could not be shown.")
    try:
        return build_card(record, replayer)
    except Exception as error:
        # Data that moved, another version, a mistake in somebody's environment: the record is still worth reading.
        return text_card(record, str(error) or repr(error))


def choose_samples(kinds: Sequence[object], count: int) -> list[int]:
    """Indices of `count` episodes that show every (hashable) kind: one of each in turn, in the order of the run."""
    by_kind: dict[object, list[int]] = {}
    for index, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(index)
    ranked = sorted((rank, index) for indices in by_kind.values() for rank, index in enumerate(indices))
    return sorted(index for _, index in ranked[:count])


def data_uri(image: Image.Image) -> str:
    """`image` as a data URI. The latest are remembered: the episodes of a group show the same source."""
    key = hashlib.blake2b(image.tobytes(), digest_size=16, key=f"{image.mode}{image.size}".encode()).digest()
    with _lock:
        if key not in _latest:
            kind, content = encode(image)
            _latest[key] = f"data:{kind};base64," + base64.b64encode(content).decode("ascii")
            if len(_latest) > MAX_LATEST:
                del _latest[next(iter(_latest))]
        return _latest[key]


def encode(image: Image.Image) -> tuple[str, bytes]:
    """The media type and the bytes of `image`: PNG where that is small (drawings, small views), else JPEG."""

    def saved(**options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, **options)
        return file.getvalue()

    # A good compression takes its time, which is lost on a photograph: the fastest tells what is worth it.
    png = saved(format="PNG", compress_level=1)
    if PNG_BYTES < len(png) <= 1.5 * PNG_BYTES:
        png = saved(format="PNG")
    return ("image/png", png) if len(png) <= PNG_BYTES else ("image/jpeg", saved(format="JPEG", quality=88))


def view_picture(view: Mapping[str, Any], images: Mapping[int, np.ndarray]) -> ViewPicture:
    """A view of `info["views"]` with its pixels, if they are among `images` (by the index of the view)."""
    image = images.get(view["index"])
    width, height = view["size"]
    x1, y1, x2, y2 = view["box"]
    is_part = not {"corners", "panels"} & view.keys()
    return ViewPicture(
        href=None if image is None else data_uri(Image.fromarray(np.ascontiguousarray(image))),
        index=view["index"],
        turn=view["turn"],
        width=width,
        height=height,
        box=", ".join(f"{value:.0f}" for value in view["box"]),
        frame=view.get("frame"),
        source=view["source"] if is_part else None,
        area=f"{x1:g} {y1:g} {x2 - x1:g} {y2 - y1:g}" if is_part else f"0 0 {width} {height}",
    )


def _card(
    record: RunRecord,
    question: str,
    images: Mapping[int, np.ndarray],
    sources: Iterator[SourcePicture],
    no_pictures: str | None,
) -> EpisodeCard:
    episode = record.episode
    views = [view_picture(view, images) for view in episode.views]

    def of_turn(number: int) -> list[ViewPicture]:
        return [view for view in views if view.turn == number]

    turns = [
        TurnCard(
            number,
            split_turn(step.turn),
            shorten(step.reply, TEXT_LIMIT),
            of_turn(number),
            step.weights_version,
            is_cut(step),
        )
        for number, step in enumerate(episode.steps, start=1)
    ]
    return EpisodeCard(
        record=record,
        question=question,
        prompt=shorten(episode.prompt, TEXT_LIMIT),
        first_views=of_turn(0),
        sources=list(sources),
        turns=turns,
        no_pictures=no_pictures,
    )


def _source_pictures(replay: Replay, episode: Episode) -> Iterator[SourcePicture]:
    """Every source image; of a video every frame that an operation showed, and one that shows the evidence."""
    for number, source in enumerate(replay.sources, start=1):
        frames = [None] if isinstance(source, ImageSource) else _frames(episode, number, source.times)
        for frame in frames:
            image = source.image if isinstance(source, ImageSource) else source.frame(frame or 0)
            time = None if isinstance(source, ImageSource) else source.times[frame or 0]
            small = image.copy()
            small.thumbnail((SOURCE_SIDE, SOURCE_SIDE))
            marks = arrange(episode, number, frame, image.size, time)
            width, height = map(float, image.size)
            yield SourcePicture(data_uri(small), number, frame, width, height, marks)


def _empty_frames(episode: Episode) -> Iterator[SourcePicture]:
    """The sources as far as the record knows them: as large as the largest box that was shown of them."""
    for number in sorted({look["source"] for look in looks(episode)}):
        of_source = looks(episode, number)
        width, height = (float(max(look["box"][edge] for look in of_source)) for edge in (2, 3))
        is_video = any(look.get("frame") is not None for look in of_source)
        for frame in _frames(episode, number) if is_video else [None]:
            yield SourcePicture(None, number, frame, width, height, arrange(episode, number, frame, (width, height)))


def _frames(episode: Episode, number: int, times: Sequence[float] | None = None) -> list[int]:
    """The frames of a video that an operation showed; where `times` tells it, also one that shows the evidence."""
    frames: set[int] = {look["frame"] for look in looks(episode, number) if look["turn"] > 0} - {None}
    evidence = episode.evidence_time
    if number > 1 or times is None:
        return sorted(frames)
    if evidence is not None and not any(evidence[0] <= times[frame] < evidence[1] for frame in frames):
        frames.add(evidence_frame(times, evidence))
    elif evidence is None and episode.evidence_box is not None and not frames:
        frames = {0}
    return sorted(frames)


def arrange(
    episode: Episode, source: int, frame: int | None, size: tuple[float, float], time: float | None = None
) -> tuple[SourceMark, ...]:
    """The boxes of all views of one source in their order, then the evidence.

    Views of the whole source get no box, it would only frame the picture. Badges stand in the upper left corner of
    their box, and to the right of a badge that stands there already. `time` is that of a frame of a video, where the
    video is there; else what the views say of it counts.
    """
    marks: list[SourceMark] = []
    for look in looks(episode, source):
        box, label = tuple(look["box"]), str(look["index"])
        if look.get("frame") == frame and box != (0, 0, *size):
            badge = _free_place(label, box, size, [mark.badge for mark in marks])
            marks.append(_mark(look, "view", label, look["turn"], badge))
    if source == 1 and episode.evidence_box is not None and _in_time(episode, frame, time):
        marks.append(_mark({"box": episode.evidence_box}, "evidence", "", 0, (0.0, 0.0, 0.0, 0.0)))
    return tuple(marks)


def evidence_frame(times: Sequence[float], evidence_time: tuple[float, float]) -> int:
    """The frame of a video, by its times, that is nearest to the middle of the evidence."""
    middle = sum(evidence_time) / 2
    return min(range(len(times)), key=lambda index: abs(times[index] - middle))


def _in_time(episode: Episode, frame: int | None, time: float | None) -> bool:
    """Whether a frame shows the evidence, as far as that is known."""
    if frame is None or episode.evidence_time is None:
        return True
    start, end = episode.evidence_time
    times = [look.get("time", start) for look in looks(episode) if look.get("frame") == frame]
    return any(start <= known < end for known in ([time] if time is not None else times))


def _mark(look: Mapping[str, Any], kind: str, label: str, turn: int, badge: Box) -> SourceMark:
    x1, y1, x2, y2 = look["box"]
    points = " ".join(f"{x:g},{y:g}" for x, y in look["corners"]) if look.get("corners") is not None else None
    return SourceMark(x1, y1, x2 - x1, y2 - y1, points, kind, label, turn, badge)


def _free_place(label: str, box: Box, size: tuple[float, float], taken: Sequence[Box]) -> Box:
    """The upper left corner of `box`, or above it where it is small; past badges that are there, inside the picture."""
    side = max(size)
    height, width = _BADGE_HEIGHT * side, (_BADGE_WIDTH * len(label) + 0.012) * side
    left, top = max(0.0, min(box[0], size[0] - width)), box[1]
    if box[3] - box[1] < 2 * height or box[2] - box[0] < 2 * width:
        # What is looked at must not be covered.
        top = box[1] - height if box[1] >= height else box[3]
    x, y = left, max(0.0, min(top, size[1] - height))
    for other_x, other_y, across, down in sorted(taken):
        if other_x < x + width and x < other_x + across and other_y < y + height and y < other_y + down:
            x = other_x + across
    if x + width > size[0]:
        x = left
    return round(x, 2), round(y, 2), round(width, 2), round(height, 2)


def shorten(text: object, limit: int = 2000) -> str:
    """At most `limit` characters of `text`, and how many more there are."""
    shown = str(text)
    return shown if len(shown) <= limit else f"{shown[:limit]} … {len(shown) - limit:,} more characters"
