"""What is shown of one episode: pictures as data URIs, numbered boxes, turns cut into parts."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from eval.facts import is_cut, outcome
from eval.highlight import Segment, split_turn
from eval.marks import Mark, arrange, evidence_frame
from eval.records import Record
from eval.replay import Replay, Replayer
from pxr_agents.statistics import is_hit, knows_evidence, term_returns, used
from pxr_agents.types import Episode
from pxr_env.media import ImageSource, VideoSource

#: Longest side in pixels at which a source image is embedded: about that of the views that models see.
SOURCE_SIDE = 1600
#: A picture that needs more bytes as PNG is stored as JPEG.
PNG_BYTES = 48 * 1024
#: Most characters that are shown of a question or a reply.
TEXT_LIMIT = 20_000
#: Encoded pictures that are remembered.
MAX_LATEST = 64

_latest: OrderedDict[bytes, str] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePicture:
    """A source image or a video frame with every box that was looked at; `width` and `height` in source pixels.

    `href` is None where there are no pixels to show, `frame` the index of a video's frame.
    """

    href: str | None
    number: int
    frame: int | None
    width: float
    height: float
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewPicture:
    """A view as the model saw it.

    Args:
        href: the picture; None where there are no pixels to show.
        index, width, height, box: as in `info["views"]`.
        turn: which asked for it, 0 for the question.
        frame: of a video.
        source, area: the number of the source, and the part of it that is shown as the `viewBox` of an SVG; None and
            the view's own pixels where it is turned, or of two parts.
    """

    href: str | None
    index: int
    width: int
    height: int
    box: str
    turn: int = 0
    frame: int | None = None
    source: int | None = None
    area: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnCard:
    """A turn, the reply to it and the views that came with the reply; `is_cut`: by the limit of tokens."""

    number: int
    segments: tuple[Segment, ...]
    reply: str
    reward_terms: dict[str, float]
    views: tuple[ViewPicture, ...]
    weights_version: int | None
    is_cut: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeCard:
    """One episode, ready for the template.

    Args:
        hit: whether an operation found the evidence; None where the question makes no sense.
        no_pictures: why there are none; None if there are.
    """

    record: Record
    question: str
    prompt: str
    first_views: tuple[ViewPicture, ...]
    sources: tuple[SourcePicture, ...]
    turns: tuple[TurnCard, ...]
    used: bool
    failed: bool
    hit: bool | None
    reward_terms: dict[str, float]
    no_pictures: str | None

    @property
    def episode(self) -> Episode:
        return self.record.episode

    @property
    def outcome(self) -> str:
        """One word for the badge."""
        return outcome(self.episode)

    @property
    def token_counts(self) -> dict[str, int]:
        """How many tokens of the episode are "read", "written" and "forced"; empty where nobody recorded it."""
        counts: dict[str, int] = {}
        for kind, count in self.episode.token_spans or ():
            counts[kind] = counts.get(kind, 0) + count
        return counts

    @property
    def n_picture_bytes(self) -> int:
        """How much its pictures add to a page."""
        views = [*self.first_views, *(view for turn in self.turns for view in turn.views)]
        hrefs = [picture.href for picture in self.sources] + [view.href for view in views]
        return sum(len(href or "") for href in hrefs)


def build_card(record: Record, replayer: Replayer) -> EpisodeCard:
    """Replay an episode and prepare everything the template shows.

    Raises:
        ReplayError: the environment no longer answers as it did.
    """
    replay = replayer.replay(record.episode)
    images = {view.index: np.ascontiguousarray(view.image) for view in replay.views}
    sources = tuple(_source_pictures(replay, record.episode))
    return _card(record, replay.question, images, sources, None)


def text_card(record: Record, reason: str) -> EpisodeCard:
    """The same without pixels, from the record alone: boxes are drawn on an empty frame. `reason` says why."""
    return _card(record, record.episode.prompt, {}, tuple(_empty_frames(record.episode)), reason)


def choose_samples(kinds: Sequence[object], count: int) -> list[int]:
    """Indices of `count` episodes that show every kind: one of each kind in turn, in the order of the run.

    Args:
        kinds: the kind of every episode of the run (any hashable value).
        count: how many to choose; all if there are fewer.
    """
    by_kind: dict[object, list[int]] = {}
    for index, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(index)
    ranked = sorted((rank, index) for indices in by_kind.values() for rank, index in enumerate(indices))
    return sorted(index for _, index in ranked[:count])


def data_uri(image: Image.Image) -> str:
    """`image` as a data URI: PNG where that is small (drawings, small views), else JPEG.

    The latest are remembered: the episodes of a group show the same source and the same first view.
    """
    key = hashlib.blake2b(image.tobytes(), digest_size=16, key=f"{image.mode}{image.size}".encode()).digest()
    with _lock:
        known = _latest.get(key)
    if known is None:
        kind, content = encode(image)
        known = f"data:{kind};base64," + base64.b64encode(content).decode("ascii")
        with _lock:
            _latest[key] = known
            while len(_latest) > MAX_LATEST:
                _latest.popitem(last=False)
    return known


def encode(image: Image.Image) -> tuple[str, bytes]:
    """The media type and the bytes of `image`: PNG where that is small, else JPEG."""
    png = io.BytesIO()
    # A good compression takes its time, which is lost on a photograph: the fastest tells what is worth it.
    image.save(png, format="PNG", compress_level=1)
    if PNG_BYTES < png.tell() <= 1.5 * PNG_BYTES:
        png = io.BytesIO()
        image.save(png, format="PNG")
    if png.tell() <= PNG_BYTES:
        return "image/png", png.getvalue()
    jpeg = io.BytesIO()
    image.save(jpeg, format="JPEG", quality=88)
    return "image/jpeg", jpeg.getvalue()


def _card(
    record: Record,
    question: str,
    images: Mapping[int, np.ndarray],
    sources: tuple[SourcePicture, ...],
    no_pictures: str | None,
) -> EpisodeCard:
    episode = record.episode
    views = [_view_picture(view, images) for view in episode.views]
    knows_hit = used(episode) and knows_evidence(episode)
    return EpisodeCard(
        record=record,
        question=question,
        prompt=_shorten(episode.prompt),
        first_views=tuple(view for view in views if view.turn == 0),
        sources=sources,
        turns=tuple(
            TurnCard(
                number=number,
                segments=tuple(split_turn(step.turn)),
                reply=_shorten(step.reply),
                reward_terms=step.reward_terms,
                views=tuple(view for view in views if view.turn == number),
                weights_version=step.weights_version,
                is_cut=is_cut(step),
            )
            for number, step in enumerate(episode.steps, start=1)
        ),
        used=used(episode),
        failed=any(episode.failures.values()),
        hit=is_hit(episode) if knows_hit else None,
        reward_terms=term_returns(episode),
        no_pictures=no_pictures,
    )


def _view_picture(view: Mapping[str, Any], images: Mapping[int, np.ndarray]) -> ViewPicture:
    image = images.get(view["index"])
    width, height = view["size"]
    x1, y1, x2, y2 = view["box"]
    is_part = not {"corners", "panels"} & view.keys()
    return ViewPicture(
        href=None if image is None else data_uri(Image.fromarray(image)),
        index=view["index"],
        turn=view["turn"],
        width=width,
        height=height,
        box=", ".join(f"{value:.0f}" for value in view["box"]),
        frame=view.get("frame"),
        source=view["source"] if is_part else None,
        area=f"{x1:g} {y1:g} {x2 - x1:g} {y2 - y1:g}" if is_part else f"0 0 {width} {height}",
    )


def _source_pictures(replay: Replay, episode: Episode) -> Iterator[SourcePicture]:
    """Every source image; of a video every frame that an operation showed, and one that shows the evidence."""
    for number, source in enumerate(replay.sources, start=1):
        for frame in _video_frames(source, episode, number) if isinstance(source, VideoSource) else [None]:
            image = source.image if isinstance(source, ImageSource) else source.frame(frame or 0)
            small = image.copy()
            small.thumbnail((SOURCE_SIDE, SOURCE_SIDE))
            size = (float(image.size[0]), float(image.size[1]))
            time = source.times[frame] if isinstance(source, VideoSource) and frame is not None else None
            yield _source_picture(data_uri(small), episode, number, frame, size, time)


def _empty_frames(episode: Episode) -> Iterator[SourcePicture]:
    """The sources as far as the record knows them: as large as the largest box that was shown of them."""
    parts = [part for view in episode.views for part in view.get("panels", [view])]
    for number in sorted({part["source"] for part in parts}):
        boxes = [part["box"] for part in parts if part["source"] == number]
        size = (max(box[2] for box in boxes), max(box[3] for box in boxes))
        is_video = any(part.get("frame") is not None for part in parts if part["source"] == number)
        for frame in _frames(episode, number) if is_video else [None]:
            yield _source_picture(None, episode, number, frame, size)


def _frames(episode: Episode, number: int) -> list[int]:
    """The frames of a video that an operation showed."""
    parts = [part for view in episode.views if view["turn"] > 0 for part in view.get("panels", [view])]
    return sorted({part["frame"] for part in parts if part["source"] == number and part.get("frame") is not None})


def _video_frames(source: VideoSource, episode: Episode, number: int) -> list[int]:
    """The frames that an operation showed, and one that shows the evidence if none of them does."""
    frames, evidence = _frames(episode, number), episode.evidence_time
    if number == 1 and evidence is not None:
        if not any(evidence[0] <= source.times[frame] < evidence[1] for frame in frames):
            frames = sorted({*frames, evidence_frame(source.times, evidence)})
    elif number == 1 and episode.evidence_box is not None and not frames:
        frames = [0]
    return frames


def _source_picture(
    href: str | None,
    episode: Episode,
    number: int,
    frame: int | None,
    size: tuple[float, float],
    time: float | None = None,
) -> SourcePicture:
    return SourcePicture(
        href=href,
        number=number,
        frame=frame,
        width=size[0],
        height=size[1],
        marks=arrange(episode, number, frame, size, time),
    )


def _shorten(text: str) -> str:
    more = len(text) - TEXT_LIMIT
    return text if more <= 0 else f"{text[:TEXT_LIMIT]} … {more:,} more characters"
