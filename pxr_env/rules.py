"""The rules of an episode: what it may use up and costs, what was shown so far, and how a turn is played."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pxr_env.coordinates import Frame
from pxr_env.dialects import Dialect, same_call
from pxr_env.errors import OperationError, did_you_mean, integer, quote, represent
from pxr_env.media import MAX_ASPECT_RATIO, ImageSource, VideoSource, fit_size, uniform_frames
from pxr_env.operations import Operation, OperationContext
from pxr_env.operations.registry import Shown
from pxr_env.types import Mistake, OperationCall, Sample, Turn
from pxr_env.views import Quad, Region, View

#: Calls of one turn beyond this many are refused in one line, so that the reply stays short.
MAX_CALLS_PER_TURN = 16
#: Name under which turns and calls that could not be read are counted in `info["failures"]`.
MALFORMED = "malformed"
#: What a cost can be put on, as `costs={name: weight}`.
COSTS = {
    "format": "turns and calls that could not be read",
    "operation": "executed operations",
    "duplicate": "calls that had been made before",
    "vision_token": "vision tokens of the images that operations showed",
}


class LimitReached(OperationError):
    """An operation would exceed a limit of the episode, named as in `info["truncated_by"]`."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of an episode, see `VisualReasoningEnv`; None is no limit. ValueError if one is too small to begin."""

    max_turns: int
    max_operations: int
    max_images: int | None = None
    max_shown_pixels: int | None = None
    max_vision_tokens: int | None = None
    size_multiple: int = 28

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            value = getattr(self, limit.name)
            if value is not None or limit.default is not None:
                least = 0 if limit.name == "max_operations" else 1
                object.__setattr__(self, limit.name, integer(limit.name, value, least))

    def vision_tokens(self, views: Sequence[View]) -> int:
        """The number of vision tokens of some views, one per `size_multiple` squared pixels."""
        return _pixels(views) // self.size_multiple**2

    def check(self, shown: Sequence[View], new: Sequence[View], n_operations: int) -> None:
        """LimitReached if one more operation may not show new views beside those shown already."""
        if n_operations >= self.max_operations:
            raise LimitReached(
                "max_operations", f"all {self.max_operations} operations are used up; expected an answer. Answer now."
            )
        self.check_views(new, shown)

    def check_views(self, new: Sequence[View], shown: Sequence[View] = ()) -> None:
        """LimitReached if an episode may not show new views beside those shown already."""
        for limit, unit, count in (
            ("max_images", "image", len),
            ("max_shown_pixels", "pixel", _pixels),
            ("max_vision_tokens", "vision token", self.vision_tokens),
        ):
            most = getattr(self, limit)
            if most is not None and (n_new := count(new)) > (left := most - count(shown)):
                message = f"{n_new} {unit}{'s' * (n_new > 1)} would be shown; expected at most {left}"
                if shown:
                    advice = "Ask for less (fewer frames, a smaller box), or answer" if left else "Answer"
                    message += f", which are left of {most}. {advice} now"
                raise LimitReached(limit, f"{message}.")


def _pixels(views: Sequence[View]) -> int:
    return sum(view.size[0] * view.size[1] for view in views)


def check_costs(costs: Mapping[str, float]) -> dict[str, float]:
    """The costs as a dict; ValueError for an unknown name, or a weight that is no finite number of at least 0."""
    for name, weight in costs.items():
        if name not in COSTS:
            raise ValueError(f'costs has "{quote(name)}"; expected only {", ".join(COSTS)}.{did_you_mean(name, COSTS)}')
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f'the cost of "{name}" is {represent(weight)}; expected a finite number of at least 0.')
    return dict(costs)


@dataclass(kw_only=True, slots=True)
class EpisodeState:
    """What happened so far. Holds no pixels: views are rectangles of sources."""

    sample: Sample
    usage: dict[str, int]  # operation -> executed calls
    views: list[View] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)  # operation, or "malformed" -> refused calls
    calls: list[tuple[OperationCall, tuple[int, ...]]] = field(default_factory=list)  # executed, with their views
    results: list[dict[str, Any]] = field(default_factory=list)  # of the last turn's calls, see `results`
    n_duplicates: int = 0  # calls that had been executed before
    n_clipped: int = 0  # executed calls of which a box or a point was cut off at the edge of its image
    n_turns: int = 0  # messages of the model
    ended: bool = False

    @property
    def n_operations(self) -> int:
        """Number of executed operations."""
        return sum(self.usage.values())


class ReplyLine(NamedTuple):
    """A line of a reply, with the numbers of its views, their place in its text, and the call it answers."""

    text: str
    views: tuple[int, ...] = ()
    place: int = 0
    call: str | None = None  # the name of the operation, or "malformed"; None for what is said about the whole turn
    ok: bool = True


def image_places(lines: Sequence[ReplyLine]) -> tuple[int, ...]:
    """For each image of a reply its place in the text, the lines joined by line breaks."""
    places: list[int] = []
    start = 0
    for line in lines:
        places += [start + line.place] * len(line.views)
        start += len(line.text) + 1
    return tuple(places)


def results(lines: Sequence[ReplyLine]) -> list[dict[str, Any]]:
    """What came of each call of a turn, in their order, as `info["results"]` has it."""
    return [
        {"name": line.call, "ok": line.ok, "text": line.text, "views": list(line.views)}
        for line in lines
        if line.call is not None
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What an environment allows, the same for all of its episodes. Budgets are keyword arguments of `fit_size`."""

    dialect: Dialect
    frame: Frame
    operations: Mapping[str, Operation]
    limits: Limits
    truncates: bool  # a call that would exceed a limit ends the episode, instead of being refused
    repeats: bool  # a call that was executed before is executed again, instead of being refused
    image_budget: Mapping[str, int]
    frame_budget: Mapping[str, int]  # of a frame of a video's overview
    call_pixels: int  # largest area of all that one call shows
    zoom_padding: float  # what a zoom shows beyond its box, see `Frame.region`

    def play(self, episode: EpisodeState, turn: Turn) -> tuple[list[ReplyLine], str | None]:
        """Executes the calls of a turn that is no final answer; the new views are the last ones of the episode then.

        Returns:
            The lines of the reply, and the name of the limit that ends the episode, or None.
        """
        mistakes = [mistake.message for mistake in turn.mistakes]
        calls = turn.calls[:MAX_CALLS_PER_TURN]
        if (refusal := self._refuse(turn)) is not None:
            calls, mistakes = (), [refusal]
        elif (n_more := len(turn.calls) - MAX_CALLS_PER_TURN) > 0:
            mistakes.append(f"{n_more} more calls came; expected at most {MAX_CALLS_PER_TURN} at once.")
        lines = []
        for number, call in enumerate(calls, start=1):
            call_number = number if len(turn.calls) > 1 else None
            try:
                lines.append(self._execute(episode, call))
            except OperationError as error:
                name = MALFORMED if isinstance(call, Mistake) else call.name
                text = self.dialect.render_error(str(error), call_number=call_number)
                lines.append(ReplyLine(text, call=name, ok=False))
                if self.truncates and isinstance(error, LimitReached):
                    return lines, error.limit
        if mistakes:
            episode.failures[MALFORMED] += len(mistakes)
        return lines + [ReplyLine(self.dialect.render_error(message)) for message in mistakes], None

    def _refuse(self, turn: Turn) -> str | None:
        """Why nothing in a turn counts, or None."""
        if turn.calls and turn.answers:
            return (
                f'the message has a call and the answer "{quote(turn.answers[0], 40)}"; expected one of both. '
                "Nothing was executed. Call first, answer when you have seen the result."
            )
        if len(turn.answers) > 1:
            first, second = (quote(answer, 30) for answer in turn.answers[:2])
            return f'the message has {len(turn.answers)} answers, "{first}" and "{second}"; expected one. Write one.'
        if not turn.calls and not turn.mistakes:
            if not self.operations:
                return f"the message has no final answer; expected {self.dialect.render_answer('answer')}."
            return f"the message has no operation call and no final answer; expected {self.dialect.reminder}."
        return None

    def _execute(self, episode: EpisodeState, call: OperationCall | Mistake) -> ReplyLine:
        """Executes one call; an OperationError says that it was refused, and counted as failed."""
        if isinstance(call, Mistake) or call.name not in self.operations:
            episode.failures[MALFORMED] += 1
            raise OperationError(call.message if isinstance(call, Mistake) else self._unknown(call.name))
        operation = self.operations[call.name]
        # What is cut off at an edge is noted while this call runs.
        frame = replace(self.frame, clipped=[])
        try:
            self.limits.check(episode.views, (), episode.n_operations)
            call = replace(call, arguments=operation.read(call.arguments))
            self._check_new(episode, call)
            context = OperationContext(
                views=tuple(episode.views),
                frame=frame,
                sources=episode.sample.sources,
                zoom_padding=self.zoom_padding,
            )
            found = operation.run(context, call.arguments)
            # All results of a call share its area, each with room for one token at least.
            each = max(self.call_pixels // max(len(found), 1), self.limits.size_multiple**2)
            new = self.views(episode, found, each)
            self.limits.check(episode.views, new, episode.n_operations)
        except OperationError:
            episode.failures[call.name] += 1
            raise
        episode.usage[call.name] += 1
        shown = tuple(view.index for view in new)
        episode.calls.append((call, shown))
        episode.views += new
        episode.n_clipped += bool(frame.clipped)
        text = self.dialect.render_views(new, call)
        return ReplyLine(text, shown, self.dialect.image_place(text, call), call.name)

    def _unknown(self, name: str) -> str:
        names = [tool["function"]["name"] for tool in self.dialect.tools(list(self.operations.values()))]
        expected = " or ".join(names) or "no call at all"
        return f'there is no operation "{quote(name)}"; expected {expected}.{did_you_mean(name, names)}'

    def _check_new(self, episode: EpisodeState, call: OperationCall) -> None:
        """Counts a call that was executed before, and refuses it unless duplicates are executed."""
        before = next((shown for done, shown in episode.calls if same_call(done, call)), None)
        if before is None:
            return
        episode.n_duplicates += 1
        if not self.repeats:
            where = f"image {before[0]}" if len(before) == 1 else f"images {before[0]} to {before[-1]}"
            raise OperationError(
                f"the same call was made before, and its result is {where}; expected another call. Look there, call "
                "something else, or answer."
            )

    def views(self, episode: EpisodeState, shown: Sequence[Shown], most: int | None = None) -> list[View]:
        """What is to be shown next with its numbers and sizes, each within its budget and `most` pixels; an
        OperationError where a part is too narrow.
        """
        first = len(episode.views) + 1
        return [
            View.of(first + number, item, self._size(item, most), episode.n_turns) for number, item in enumerate(shown)
        ]

    def _size(self, shown: Shown, most: int | None) -> tuple[int, int]:
        regions = [shown] if isinstance(shown, Region) else [shown.left, shown.right]
        tallest = max(region.quad.height for region in regions)
        # Side by side, at the same height.
        width = max(1, round(sum(region.quad.width * tallest / region.quad.height for region in regions)))
        height = max(1, round(tallest))
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise OperationError(
                f"the box is {width}x{height} pixels of the original image; expected sides with a ratio of at most "
                f"{MAX_ASPECT_RATIO}. Choose a less narrow box."
            )
        is_overview = all(region.overview for region in regions)
        budget = dict(self.frame_budget if is_overview else self.image_budget)
        if most is not None:
            budget |= {name: min(budget[name], most) for name in ("min_pixels", "max_pixels")}
        return fit_size(width, height, **budget)


def frame_budget(
    video_frames: int, max_frame_pixels: int | None, max_pixels: int, size_multiple: int
) -> dict[str, int]:
    """The pixel budget of a frame of a video's overview, as keyword arguments of `fit_size`.

    By default all frames together have at most the area of one image, and each at least one token.
    """
    least = size_multiple**2
    most = max(max_pixels // video_frames, least) if max_frame_pixels is None else max_frame_pixels
    if not least <= most <= max_pixels:
        raise ValueError(
            f"got max_frame_pixels={most}; expected size_multiple**2 = {least} to max_pixels = {max_pixels}."
        )
    return {"min_pixels": least, "max_pixels": most, "size_multiple": size_multiple}


def call_budget(max_call_pixels: int | None, max_pixels: int, size_multiple: int) -> int:
    """The area in pixels that all views of one call share; by default that of one image."""
    return max_pixels if max_call_pixels is None else integer("max_call_pixels", max_call_pixels, size_multiple**2)


def padding(zoom_padding: float) -> float:
    """What a zoom shows beyond its box, checked."""
    if not 0 <= zoom_padding <= 1:
        raise ValueError(f"got zoom_padding={zoom_padding!r}; expected a number from 0 to 1.")
    return float(zoom_padding)


def first_regions(number: int, source: ImageSource | VideoSource, video_frames: int) -> list[Region]:
    """What is shown of source `number` at first: an image as a whole, or at most so many frames at equal distances."""
    quad = Quad.from_box((0, 0, *source.size))
    if isinstance(source, ImageSource):
        return [Region(source=number, quad=quad)]
    times = source.times
    return [
        Region(source=number, quad=quad, frame=frame, time=times[frame], overview=True)
        for frame in uniform_frames(source.n_frames, video_frames)
    ]
