"""Procedural videos: "Which letter appears on the red box?", an event in a few frames among many.

Boxes and a ball run to and fro on tracks. For a few frames a letter stands on a box, or the ball has another colour.
The overview shows frames at equal distances, each as its exact 4x4 mean. An easy event falls on one of them. A hard one
lies between them ("time"), or falls on one but is a letter whose texture has the mean of the box ("detail"): either way
the overview has the same bytes with the event and without it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pxr_env.arguments import checks_arguments
from pxr_env.geometry import Box, Size
from pxr_env.media import VideoSource, uniform_frames
from pxr_env.synthetic.letters import LETTERS
from pxr_env.synthetic.scenes import (
    COLOURS,
    REMEMBERED,
    SPLITS,
    Budget,
    ProceduralSamples,
    check_range,
    noise_corner,
    warn_if_inexact,
)
from pxr_env.synthetic.video_drawing import BALL_COLOURS, LANES, REDUCTION, SMALLEST, Event, Mover, Stage, draw_frame
from pxr_env.types import OperationCall, Sample

#: Tokens of a shown frame by default, and how many times more pixels its source has.
_FRAME_TOKENS = 12
_ASPECT = 4 / 3
_BALL = "ball"
# Seeds differ from those of other kinds of scenes.
_KIND = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoConfig:
    """What a video depends on beside its split and index; hashable."""

    hard_fraction: float
    detail_fraction: float
    seconds: int
    fps: int
    event_frames: int
    n_distractors: int
    video_frames: int
    overview: Size
    budget: Budget

    @property
    def n_frames(self) -> int:
        """Frames of a video."""
        return self.seconds * self.fps

    @property
    def shown(self) -> list[int]:
        """The frames that the overview shows."""
        return uniform_frames(self.n_frames, self.video_frames)

    @property
    def size(self) -> Size:
        """Width and height of the source in pixels."""
        return self.overview[0] * REDUCTION, self.overview[1] * REDUCTION

    def starts(self, *, shown: bool) -> list[int]:
        """Returns where an event may begin so that the overview shows a frame of it, or shows none."""
        frames = set(self.shown)
        return [
            start
            for start in range(self.n_frames - self.event_frames + 1)
            if frames.isdisjoint(range(start, start + self.event_frames)) is not shown
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scene:
    """A video as numbers; the event that is asked for comes first. `need` is None, "time" or "detail"."""

    stage: Stage
    events: tuple[Event, ...]
    need: str | None


class SyntheticVideo(ProceduralSamples):
    """The data of `pxr/SyntheticVideo-v0`: an event in a few frames that only seeking or a closer look shows.

    ## Description
    A counterpart of questions about videos (MVBench). Three boxes and a ball run to and fro on tracks over grain. For
    `event_frames` frames a letter stands on one box, or the ball has another colour; other objects have such events
    at other times. A sample is a pure function of the arguments (except `num_samples`), the split and the index.
    Train and test have no frame in common.

    ## Observation
    `video_frames` frames at equal distances, 8 of 112x84 pixels by default (12 vision tokens each), and "Which letter
    appears on the red box?" or "What colour does the ball turn for a moment?". Easy and hard videos have the same
    questions, equally often.

    ## Action
    `seek` shows frames between those of the overview, `select_frames` shows frames at the full resolution of the
    source, `zoom_in` a part of a frame. One call of the right kind is enough.

    ## Reward
    1 for the letter or the colour (scorer "exact"), else 0. The letters are equally frequent, and so are the colours.

    ## Difficulty
    `hard_fraction` and `detail_fraction`; `seconds` and `fps` (more frames to look for the event in); `event_frames`
    (shorter events); `n_distractors`.

    ## Certified need
    `metadata["need"]` is "time" where the event lies between the shown frames, "detail" where a shown frame has the
    letter, but as a texture whose mean over every 4x4 block is the colour of the box. `needs_operation` is computed
    for each sample: the frames of the overview have the same bytes without the event. A budget that shows another
    scale warns.

    ## Oracle
    `evidence_time` is from the first frame of the event up to the first one after it, `evidence_box` the box around
    the object in these frames, and `evidence_call` is the `seek` or `select_frames` that shows a hard event.
    `metadata` holds "need", "object" ("ball" or the colour of the box), "frames" (first, and first after it) and
    "boxes" (of the object in each of them, in source pixels).

    Args:
        split: "train" or "test".
        num_samples: how many samples there are.
        hard_fraction: chance that the event is hard.
        detail_fraction: chance that a hard letter needs a closer look at a shown frame instead of other frames.
        seconds: length of a video.
        fps: frames per second.
        event_frames: frames that an event lasts.
        n_distractors: other objects with an event, 0 to 3.
        video_frames: frames that the environment shows first.
        max_frame_pixels: pixel budget of such a frame, see `fit_size`; by default 12 tokens.
        size_multiple: the same.

    Raises:
        ValueError: an argument is out of range, the frames are too small, or events do not fit between shown frames.
    """

    scorer: ClassVar[str] = "exact"

    @checks_arguments
    def __init__(
        self,
        *,
        split: str = "train",
        num_samples: int = 100_000,
        hard_fraction: float = 0.5,
        detail_fraction: float = 0.5,
        seconds: int = 8,
        fps: int = 8,
        event_frames: int = 3,
        n_distractors: int = 2,
        video_frames: int = 8,
        max_frame_pixels: int | None = None,
        size_multiple: int = 28,
    ) -> None:
        super().__init__(split=split, num_samples=num_samples)
        check_range("hard_fraction", hard_fraction, 0, 1, integer=False)
        check_range("detail_fraction", detail_fraction, 0, 1, integer=False)
        check_range("seconds", seconds, 1, 3600)
        check_range("fps", fps, 1, 60)
        check_range("event_frames", event_frames, 1, seconds * fps)
        check_range("n_distractors", n_distractors, 0, LANES - 1)
        check_range("video_frames", video_frames, 1, seconds * fps)
        budget = _budget(max_frame_pixels, size_multiple)
        self.config = VideoConfig(
            hard_fraction=hard_fraction,
            detail_fraction=detail_fraction,
            seconds=seconds,
            fps=fps,
            event_frames=event_frames,
            n_distractors=n_distractors,
            video_frames=video_frames,
            overview=_overview(budget),
            budget=budget,
        )
        if not self.config.starts(shown=False):
            raise ValueError(
                f"got event_frames={event_frames} with {seconds * fps} frames, video_frames={video_frames} of them "
                "shown; expected events that fit between the shown ones. Lower event_frames or video_frames, or raise "
                "seconds or fps."
            )
        warn_if_inexact(budget, self.config.overview, REDUCTION, "hard letters", "Choose another max_frame_pixels.")

    @classmethod
    def environment_defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the environment's arguments that suit samples made with `given`.

        A selected frame is shown at the resolution of the source, and a zoom at least as large as a frame at first.
        """
        size_multiple = given.get("size_multiple", 28)
        budget = _budget(given.get("max_frame_pixels"), size_multiple)
        width, height = _overview(budget)
        least, most = given.get("min_pixels"), given.get("max_pixels")
        if most is None:
            most = max(width * height * REDUCTION**2, budget.max_pixels)
        return {
            "operations": ("select_frames", "seek", "zoom_in"),
            "max_turns": 4,
            "max_operations": 3,
            "min_pixels": min(width * height, most) if least is None else least,
            "max_pixels": most,
            "size_multiple": size_multiple,
            "video_frames": given.get("video_frames", 8),
            "max_frame_pixels": budget.max_pixels,
        }

    def _sample(self, index: int) -> Sample:
        config = self.config
        scene = _scene(config, self.split, index)
        event = scene.events[0]
        mover = scene.stage.movers[event.mover]
        boxes = [mover.box(frame) for frame in range(event.start, event.stop)]
        is_ball = mover.kind == _BALL
        question = (
            "What colour does the ball turn for a moment?"
            if is_ball
            else f"Which letter appears on the {mover.kind} box?"
        )
        times = event.start / config.fps, event.stop / config.fps
        return Sample(
            sample_id=f"{self.split}-{index}",
            question=question,
            sources=(_source(config, self.split, index),),
            answers=(event.value,),
            needs_operation=_needs_operation(config, self.split, index),
            evidence_box=_around(boxes),
            evidence_time=times,
            evidence_call=_call(config, scene, times),
            category=f"hard_{scene.need}" if scene.need else "easy",
            metadata={
                "need": scene.need,
                "object": mover.kind,
                "frames": (event.start, event.stop),
                "boxes": boxes,
            },
        )


def _budget(max_frame_pixels: int | None, size_multiple: int) -> Budget:
    """The budget of a frame of the overview; an environment's is the same."""
    most = _FRAME_TOKENS * size_multiple**2 if max_frame_pixels is None else max_frame_pixels
    if most < size_multiple**2:
        raise _too_small(most, size_multiple)
    return Budget(min_pixels=min(most, size_multiple**2), max_pixels=most, size_multiple=size_multiple)


def _too_small(max_frame_pixels: int, size_multiple: int) -> ValueError:
    return ValueError(
        f"got max_frame_pixels={max_frame_pixels} with size_multiple={size_multiple}, expected room for frames of "
        f"{SMALLEST[0]}x{SMALLEST[1]} pixels. Raise max_frame_pixels."
    )


def _overview(budget: Budget) -> Size:
    """The size in pixels at which frames are shown: about 4:3, and an exact mean of the source."""
    multiple = budget.size_multiple
    exact = [(columns * multiple, rows * multiple) for columns, rows in budget.exact_overviews(REDUCTION)]
    fitting = [size for size in exact if size[0] >= SMALLEST[0] and size[1] >= SMALLEST[1]]
    if not fitting:
        raise _too_small(budget.max_pixels, multiple)
    return min(fitting, key=lambda size: abs(size[0] / size[1] / _ASPECT - 1))


def _source(config: VideoConfig, split: str, index: int) -> VideoSource:
    return VideoSource(
        key=("SyntheticVideo", config, split, index),
        load_frame=functools.partial(_render, config, split, index),
        n_frames=config.n_frames,
        fps=float(config.fps),
        size=config.size,
    )


def _render(config: VideoConfig, split: str, index: int, frame: int) -> np.ndarray:
    scene = _scene(config, split, index)
    return draw_frame(scene.stage, scene.events, frame)


@functools.lru_cache(maxsize=REMEMBERED)
def _needs_operation(config: VideoConfig, split: str, index: int) -> bool:
    """Whether the overview is the same, byte for byte, without the event. Only its own frames can differ."""
    scene, source = _scene(config, split, index), _source(config, split, index)
    event, *others = scene.events
    return all(
        np.array_equal(
            config.budget.show(source.frame(frame)),
            config.budget.show(draw_frame(scene.stage, others, frame)),
        )
        for frame in config.shown
        if event.start <= frame < event.stop
    )


@functools.lru_cache(maxsize=64)
def _scene(config: VideoConfig, split: str, index: int) -> _Scene:
    rng = np.random.default_rng([_KIND, SPLITS.index(split), index])
    corner = noise_corner(rng, max(config.size), split)
    red, green, blue = (int(value) for value in rng.integers(176, 202, 3))
    # The ball is asked about as often as all boxes together, whether that is hard or not.
    hard = bool(rng.random() < config.hard_fraction)
    kinds = [_BALL, *COLOURS]
    asked = 0 if rng.random() < 0.5 else int(rng.integers(1, len(kinds)))
    need = None
    if hard:
        need = "detail" if asked != 0 and rng.random() < config.detail_fraction else "time"
    lanes = rng.permutation(LANES)
    movers = tuple(
        Mover.draw(rng, kind=kind, lane=int(lane), size=config.size) for kind, lane in zip(kinds, lanes, strict=True)
    )
    starts = config.starts(shown=need != "time")
    events = [_event(config, rng, asked, starts, hidden=need == "detail")]
    others = [int(mover) for mover in rng.permutation(LANES) if mover != asked]
    anywhere = list(range(config.n_frames - config.event_frames + 1))
    events += [_event(config, rng, mover, anywhere, hidden=False) for mover in others[: config.n_distractors]]
    stage = Stage(size=config.size, corner=corner, shade=(red, green, blue), movers=movers)
    return _Scene(stage=stage, events=tuple(events), need=need)


def _event(config: VideoConfig, rng: np.random.Generator, mover: int, starts: list[int], *, hidden: bool) -> Event:
    start = starts[int(rng.integers(len(starts)))]
    values = list(BALL_COLOURS) if mover == 0 else list(LETTERS)
    value = values[int(rng.integers(len(values)))]
    return Event(mover=mover, start=start, stop=start + config.event_frames, value=value, hidden=hidden)


def _call(config: VideoConfig, scene: _Scene, times: tuple[float, float]) -> OperationCall | None:
    """What shows a hard event."""
    event = scene.events[0]
    if scene.need == "time":
        return OperationCall(name="seek", arguments={"start": times[0], "end": times[1]})
    if scene.need == "detail":
        # The frames of the overview are the first images of the episode.
        numbers = [number for number, frame in enumerate(config.shown, start=1) if event.start <= frame < event.stop]
        return OperationCall(name="select_frames", arguments={"target_frames": numbers[:1]})
    return None


def _around(boxes: list[tuple[int, int, int, int]]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return float(min(lefts)), float(min(tops)), float(max(rights)), float(max(bottoms))
