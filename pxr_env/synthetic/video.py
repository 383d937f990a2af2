"""Procedural videos: "Which letter appears on the red box?", an event in a few frames among many.

Boxes and a ball run to and fro on tracks. For a few frames a letter stands on a box, or the ball has another colour.
The overview shows frames at equal distances, each as its exact 4x4 mean. An easy event falls on one of them. A hard one
lies between them ("time"), or falls on one but is a letter whose texture has the mean of the box ("detail"): either way
the overview has the same bytes with the event and without it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw

from pxr_env.media import VideoSource, uniform_frames
from pxr_env.synthetic.scenes import (
    COLOURS,
    LETTER_BOX,
    LETTERS,
    Budget,
    Colour,
    Place,
    ProceduralSamples,
    around,
    check_range,
    draw_letter_box,
    grainy,
    needs_operation,
    noise_corner,
    scene_of,
)
from pxr_env.types import OperationCall, Sample
from pxr_env.views import Size

#: Source pixels per overview pixel, on each axis.
REDUCTION = 4
#: One track for each box, and one for the ball.
LANES = 1 + len(COLOURS)
#: The smallest overview in pixels in which the letters are readable.
SMALLEST: Size = (96, 84)
#: What the ball may turn, and what it is.
BALL_COLOURS: dict[str, Colour] = {
    "red": (225, 45, 45),
    "green": (40, 175, 70),
    "blue": (55, 95, 235),
    "yellow": (240, 215, 40),
}
BALL_FILL, BALL_RIM, TRACK = (238, 238, 242), (70, 72, 80), (148, 150, 156)
# Tokens of a shown frame by default, and how many times wider than tall it is.
_FRAME_TOKENS, _ASPECT = 12, 4 / 3
#: What runs on the first track, and its size in units of one overview pixel in the smallest frame.
_BALL, _BALL_SIZE = "ball", 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Mover:
    """An object that runs to and fro on its track, in steps of whole overview pixels.

    Args:
        kind: "ball", or the colour of a box.
        size: width and height in source pixels, with its upper edge at `top`.
        first: where it is in frame 0, in steps along the way to and fro, of which it goes `speed` in each frame.
        room: steps from the left end of the track to the right one.
    """

    kind: str
    size: Size
    top: int
    first: int
    speed: int
    room: int

    def box(self, frame: int) -> Place:
        """Returns where it is in a frame, x1, y1, x2, y2 in source pixels."""
        way = (self.first + self.speed * frame) % (2 * self.room)
        left = REDUCTION * (way if way <= self.room else 2 * self.room - way)
        return left, self.top, left + self.size[0], self.top + self.size[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What happens to object number `mover` from frame `start` up to `stop`: a letter, or the colour of the ball.

    A `hidden` letter is a texture that the overview does not show.
    """

    mover: int
    start: int
    stop: int
    value: str
    hidden: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoScene:
    """A video as numbers, of a size in source pixels.

    The event that is asked for comes first. `need` is None, "time" or "detail".
    """

    size: Size
    corner: tuple[int, int]
    shade: Colour
    movers: tuple[Mover, ...]
    events: tuple[Event, ...]
    need: str | None


@dataclass(frozen=True, kw_only=True)
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
    seed: ClassVar[tuple[int, ...]] = (2,)

    detail_fraction: float = 0.5
    seconds: int = 8
    fps: int = 8
    event_frames: int = 3
    n_distractors: int = 2
    video_frames: int = 8
    max_frame_pixels: int | None = None
    size_multiple: int = 28

    def _check(self) -> None:
        check_range("detail_fraction", self.detail_fraction, 0, 1, integer=False)
        check_range("seconds", self.seconds, 1, 3600)
        check_range("fps", self.fps, 1, 60)
        check_range("event_frames", self.event_frames, 1, self.n_frames)
        check_range("n_distractors", self.n_distractors, 0, LANES - 1)
        check_range("video_frames", self.video_frames, 1, self.n_frames)
        overview = _overview(self.budget)
        if not self.starts(shown=False):
            raise ValueError(
                f"got event_frames={self.event_frames} with {self.n_frames} frames, video_frames={self.video_frames} "
                "of them shown; expected events that fit between the shown ones. Lower event_frames or video_frames, "
                "or raise seconds or fps."
            )
        self.budget.warn_if_inexact(overview, REDUCTION, "hard letters", "Choose another max_frame_pixels.")

    @classmethod
    def budget_of(cls, given: Mapping[str, Any]) -> Budget:
        most, size_multiple = given.get("max_frame_pixels"), given.get("size_multiple", 28)
        most = _FRAME_TOKENS * size_multiple**2 if most is None else most
        if most < size_multiple**2:
            raise _too_small(most, size_multiple)
        return Budget(min_pixels=min(most, size_multiple**2), max_pixels=most, size_multiple=size_multiple)

    @property
    def n_frames(self) -> int:
        """Frames of a video."""
        return self.seconds * self.fps

    @functools.cached_property
    def shown(self) -> list[int]:
        """The frames that the overview shows."""
        return uniform_frames(self.n_frames, self.video_frames)

    @functools.cached_property
    def size(self) -> Size:
        """Width and height of the source in pixels."""
        width, height = _overview(self.budget)
        return width * REDUCTION, height * REDUCTION

    def starts(self, *, shown: bool) -> list[int]:
        """Returns where an event may begin so that the overview shows a frame of it, or shows none."""
        frames = set(self.shown)
        return [
            start
            for start in range(self.n_frames - self.event_frames + 1)
            if frames.isdisjoint(range(start, start + self.event_frames)) is not shown
        ]

    @classmethod
    def environment_defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the environment's arguments that suit samples made with `given`.

        A selected frame is shown at the resolution of the source, and a zoom at least as large as a frame at first.
        """
        budget = cls.budget_of(given)
        width, height = _overview(budget)
        least, most = given.get("min_pixels"), given.get("max_pixels")
        most = max(width * height * REDUCTION**2, budget.max_pixels) if most is None else most
        least = min(width * height, most) if least is None else least
        return {
            **Budget(min_pixels=least, max_pixels=most, size_multiple=budget.size_multiple).defaults(),
            "operations": ("select_frames", "seek", "zoom_in"),
            "video_frames": given.get("video_frames", 8),
            "max_frame_pixels": budget.max_pixels,
        }

    def _sample(self, index: int) -> Sample:
        scene = scene_of(self, index)
        event = scene.events[0]
        mover = scene.movers[event.mover]
        boxes = [mover.box(frame) for frame in range(event.start, event.stop)]
        of_box = f"Which letter appears on the {mover.kind} box?"
        times = event.start / self.fps, event.stop / self.fps
        return Sample(
            sample_id=f"{self.split}-{index}",
            question="What colour does the ball turn for a moment?" if mover.kind == _BALL else of_box,
            sources=(self._source(index),),
            answers=(event.value,),
            needs_operation=needs_operation(self, index),
            evidence_box=around(boxes),
            evidence_time=times,
            evidence_call=self._call(scene, times),
            category=f"hard_{scene.need}" if scene.need else "easy",
            metadata={
                "need": scene.need,
                "object": mover.kind,
                "frames": (event.start, event.stop),
                "boxes": boxes,
            },
        )

    def _source(self, index: int) -> VideoSource:
        return VideoSource(
            key=("SyntheticVideo", self, index),
            load_frame=functools.partial(self._draw, index),
            n_frames=self.n_frames,
            fps=float(self.fps),
            size=self.size,
        )

    def _draw(self, index: int, frame: int) -> np.ndarray:
        scene = scene_of(self, index)
        return draw_frame(scene, scene.events, frame)

    def _is_hidden(self, index: int) -> bool:
        """Only the event's own frames can differ."""
        scene, source, show = scene_of(self, index), self._source(index), self.budget.show
        event, *others = scene.events
        return all(
            np.array_equal(show(source.frame(frame)), show(draw_frame(scene, others, frame)))
            for frame in self.shown
            if event.start <= frame < event.stop
        )

    def _scene(self, index: int) -> VideoScene:
        rng = self._rng(index)
        corner = noise_corner(rng, max(self.size), self.split)
        red, green, blue = rng.integers(176, 202, 3).tolist()
        # The ball is asked about as often as all boxes together, whether that is hard or not.
        hard = bool(rng.random() < self.hard_fraction)
        kinds = [_BALL, *COLOURS]
        asked = 0 if rng.random() < 0.5 else int(rng.integers(1, len(kinds)))
        need = None
        if hard:
            need = "detail" if asked != 0 and rng.random() < self.detail_fraction else "time"
        lanes = rng.permutation(LANES)
        movers = tuple(
            _draw_mover(rng, kind, lane, self.size) for kind, lane in zip(kinds, lanes.tolist(), strict=True)
        )
        starts = self.starts(shown=need != "time")
        events = [self._event(rng, asked, starts, hidden=need == "detail")]
        others = [int(mover) for mover in rng.permutation(LANES) if mover != asked]
        anywhere = list(range(self.n_frames - self.event_frames + 1))
        events += [self._event(rng, mover, anywhere, hidden=False) for mover in others[: self.n_distractors]]
        shade = (red, green, blue)
        return VideoScene(size=self.size, corner=corner, shade=shade, movers=movers, events=tuple(events), need=need)

    def _event(self, rng: np.random.Generator, mover: int, starts: list[int], *, hidden: bool) -> Event:
        start = starts[int(rng.integers(len(starts)))]
        values = list(BALL_COLOURS) if mover == 0 else list(LETTERS)
        value = values[int(rng.integers(len(values)))]
        return Event(mover=mover, start=start, stop=start + self.event_frames, value=value, hidden=hidden)

    def _call(self, scene: VideoScene, times: tuple[float, float]) -> OperationCall | None:
        """What shows a hard event."""
        event = scene.events[0]
        if scene.need == "time":
            return OperationCall(name="seek", arguments={"start": times[0], "end": times[1]})
        if scene.need == "detail":
            # The frames of the overview are the first images of the episode.
            numbers = [number for number, frame in enumerate(self.shown, start=1) if event.start <= frame < event.stop]
            return OperationCall(name="select_frames", arguments={"target_frames": numbers[:1]})
        return None


def _too_small(max_frame_pixels: int, size_multiple: int) -> ValueError:
    return ValueError(
        f"got max_frame_pixels={max_frame_pixels} with size_multiple={size_multiple}, expected room for frames of "
        f"{SMALLEST[0]}x{SMALLEST[1]} pixels. Raise max_frame_pixels."
    )


def _overview(budget: Budget) -> Size:
    """The size in pixels at which frames are shown: about 4:3, and an exact mean of the source."""
    exact = budget.exact_overviews(REDUCTION)
    fitting = [size for size in exact if size[0] >= SMALLEST[0] and size[1] >= SMALLEST[1]]
    if not fitting:
        raise _too_small(budget.max_pixels, budget.size_multiple)
    return min(fitting, key=lambda size: abs(size[0] / size[1] / _ASPECT - 1))


def _draw_mover(rng: np.random.Generator, kind: str, lane: int, size: Size) -> Mover:
    """Draws the place and the speed of an object on a track of a frame of that size."""
    unit = _unit(size)
    units = (_BALL_SIZE, _BALL_SIZE) if kind == _BALL else LETTER_BOX
    shape = (units[0] * unit, units[1] * unit)
    lane_height = size[1] // LANES // REDUCTION * REDUCTION
    top = lane * lane_height + (lane_height - shape[1]) // 2 // REDUCTION * REDUCTION
    room = (size[0] - shape[0]) // REDUCTION
    first, speed = int(rng.integers(2 * room)), int(rng.integers(1, 4))
    return Mover(kind=kind, size=shape, top=top, first=first, speed=speed * unit // REDUCTION, room=room)


def draw_frame(scene: VideoScene, events: Sequence[Event], frame: int) -> np.ndarray:
    """Returns a frame of a scene with these events, (h, w, 3) uint8."""
    unit = _unit(scene.size)
    pixels = grainy(scene.size, scene.corner, scene.shade)
    now = {event.mover: event for event in events if event.start <= frame < event.stop}
    for number, mover in enumerate(scene.movers):
        middle = (mover.top + mover.size[1] // 2) // REDUCTION * REDUCTION
        pixels[middle : middle + unit] = TRACK
        x1, y1, x2, y2 = box = mover.box(frame)
        if mover.kind == _BALL:
            disc, rim = _disc(x2 - x1)
            shown = pixels[y1:y2, x1:x2]
            shown[rim] = BALL_RIM
            shown[disc] = BALL_COLOURS[now[number].value] if number in now else BALL_FILL
        else:
            letter, hard = (now[number].value, now[number].hidden) if number in now else (None, False)
            draw_letter_box(pixels, box, COLOURS[mover.kind], letter, hard=hard, unit=unit, reduction=REDUCTION)
    return pixels


def _unit(size: Size) -> int:
    """Source pixels of a unit: letters grow with the frame."""
    return REDUCTION * max(1, min(size[0] // SMALLEST[0], size[1] // SMALLEST[1]) // REDUCTION)


@functools.lru_cache(maxsize=8)
def _disc(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a ball is filled and where it has its rim, (side, side) bool. Do not change them."""
    image = Image.new("L", (side, side))
    width = max(2, side // 24)
    ImageDraw.Draw(image).ellipse((0, 0, side - 1, side - 1), fill=255, outline=128, width=width)
    values = np.asarray(image)
    return values == 255, values == 128
