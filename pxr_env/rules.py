"""The rules of an episode: what it may use up and costs, what was shown so far, and how a turn is played."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pxr_env.coordinates import Frame
from pxr_env.dialects import Dialect, same_call
from pxr_env.errors import OperationError, did_you_mean, plain, quote, represent
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
    """An operation would exceed a limit of the episode.

    Args:
        limit: name of the limit, as it stands in `info["truncated_by"]`.
        message: for the model to read.
    """

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of an episode; None is no limit.

    Args:
        max_turns: messages of the model.
        max_operations: executed operations.
        max_images: images shown, those of the sample included.
        max_shown_pixels: pixels of all images shown.
        max_vision_tokens: vision tokens of all images shown, one per `size_multiple` squared pixels.
        size_multiple: side of the square of pixels that becomes one vision token.

    Raises:
        ValueError: a limit is no integer, or too small to begin an episode.
    """

    max_turns: int
    max_operations: int
    max_images: int | None = None
    max_shown_pixels: int | None = None
    max_vision_tokens: int | None = None
    size_multiple: int = 28

    def __post_init__(self) -> None:
        for limit in dataclasses.fields(self):
            value = plain(getattr(self, limit.name))
            least = 0 if limit.name == "max_operations" else 1
            if value is None and limit.default is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"got {limit.name}={represent(value)}; expected an integer of at least {least}.")
            object.__setattr__(self, limit.name, value)

    def vision_tokens(self, views: Sequence[View]) -> int:
        """Returns the number of vision tokens of some views."""
        return sum(view.size[0] * view.size[1] for view in views) // self.size_multiple**2

    def check(self, shown: Sequence[View], new: Sequence[View], n_operations: int) -> None:
        """Checks whether one more operation may show new views beside those shown already.

        Raises:
            LimitReached: it may not. The text is for the model.
        """
        if n_operations >= self.max_operations:
            raise LimitReached(
                "max_operations", f"all {self.max_operations} operations are used up; expected an answer. Answer now."
            )
        self.check_views([*shown, *new])

    def check_views(self, views: Sequence[View]) -> None:
        """Checks whether an episode may show these views.

        Raises:
            LimitReached: it may not. The text is for the model.
        """
        pixels = sum(view.size[0] * view.size[1] for view in views)
        for limit, most, count, unit in (
            ("max_images", self.max_images, len(views), "images"),
            ("max_shown_pixels", self.max_shown_pixels, pixels, "pixels"),
            ("max_vision_tokens", self.max_vision_tokens, self.vision_tokens(views), "vision tokens"),
        ):
            if count > (math.inf if most is None else most):
                raise LimitReached(
                    limit,
                    f"with this there would be {count} {unit} in the episode; expected at most {most}. "
                    "Ask for less, or answer now.",
                )


def check_costs(costs: Mapping[str, float]) -> dict[str, float]:
    """Returns the costs as a dict.

    Raises:
        ValueError: a name is unknown, or a weight is no finite number of at least 0.
    """
    for name, weight in costs.items():
        if name not in COSTS:
            raise ValueError(f'costs has "{quote(name)}"; expected only {", ".join(COSTS)}.{did_you_mean(name, COSTS)}')
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f'the cost of "{name}" is {represent(weight)}; expected a finite number of at least 0.')
    return dict(costs)


@dataclass(kw_only=True, slots=True)
class EpisodeState:
    """What happened so far. Holds no pixels: views are rectangles of sources.

    Args:
        sample: what is asked.
        usage: operation -> executed calls.
        views: the images shown, in order.
        failures: operation, or "malformed" -> refused calls.
        calls: the executed calls with the numbers of the views they showed.
        n_duplicates: calls that had been executed before.
        n_clipped: executed calls of which a box or a point was cut off at the edge of its image.
        n_turns: messages of the model.
        ended: whether the episode is over.
    """

    sample: Sample
    usage: dict[str, int]
    views: list[View] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[OperationCall, tuple[int, ...]]] = field(default_factory=list)
    n_duplicates: int = 0
    n_clipped: int = 0
    n_turns: int = 0
    ended: bool = False

    @property
    def n_operations(self) -> int:
        """Number of executed operations."""
        return sum(self.usage.values())

    def fail(self, name: str) -> None:
        """Counts a call that was refused."""
        self.failures[name] = self.failures.get(name, 0) + 1

    def executed(self, call: OperationCall, new: Sequence[View]) -> None:
        """Counts an executed call and shows its views."""
        self.usage[call.name] += 1
        self.calls.append((call, tuple(view.index for view in new)))
        self.views += new


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyLine:
    """What one call is answered with.

    Args:
        text: in words.
        n_images: how many images come with it.
        place: where in `text` a released dialect had them, see `Dialect.image_place`.
    """

    text: str
    n_images: int = 0
    place: int = 0


def image_places(lines: Sequence[ReplyLine]) -> tuple[int, ...]:
    """Returns for each image of a reply its place in the text, the lines joined by line breaks."""
    places: list[int] = []
    start = 0
    for line in lines:
        places += [start + line.place] * line.n_images
        start += len(line.text) + 1
    return tuple(places)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What an environment allows, the same for all of its episodes.

    Args:
        dialect: how replies are worded.
        frame: what the numbers of a box mean.
        operations: what the model may call, by name.
        limits: of an episode.
        truncates: whether a call that would exceed a limit ends the episode, instead of being refused.
        repeats: whether a call that was executed before is executed again, instead of being refused.
        image_budget: pixel budget of a shown image, as keyword arguments of `fit_size`.
        frame_budget: the same for a frame of a video's overview.
        zoom_padding: what a zoom shows beyond its box, see `Frame.region`.
    """

    dialect: Dialect
    frame: Frame
    operations: Mapping[str, Operation]
    limits: Limits
    truncates: bool
    repeats: bool
    image_budget: Mapping[str, int]
    frame_budget: Mapping[str, int]
    zoom_padding: float = 0.0

    def play(self, episode: EpisodeState, turn: Turn) -> tuple[list[ReplyLine], str | None]:
        """Executes the calls of a turn that is no final answer.

        Returns:
            The lines of the reply, and the name of the limit that ends the episode, or None. The new views are the last
            ones of the episode.
        """
        refusal = self._refuse(turn)
        if refusal is not None:
            episode.fail(MALFORMED)
            return [ReplyLine(text=self.dialect.render_error(refusal))], None
        lines = []
        for number, call in enumerate(turn.calls[:MAX_CALLS_PER_TURN], start=1):
            call_number = number if len(turn.calls) > 1 else None
            try:
                lines.append(self._execute(episode, call))
            except OperationError as error:
                lines.append(ReplyLine(text=self.dialect.render_error(str(error), call_number=call_number)))
                if self.truncates and isinstance(error, LimitReached):
                    return lines, error.limit
        mistakes = list(turn.mistakes)
        if (n_more := len(turn.calls) - MAX_CALLS_PER_TURN) > 0:
            mistakes.append(
                Mistake(message=f"{n_more} more calls came; expected at most {MAX_CALLS_PER_TURN} at once.")
            )
        for mistake in mistakes:
            episode.fail(MALFORMED)
            lines.append(ReplyLine(text=self.dialect.render_error(mistake.message)))
        return lines, None

    def _refuse(self, turn: Turn) -> str | None:
        """Says why nothing in a turn counts, or None."""
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
        """Executes one call and returns its result.

        Raises:
            OperationError: the call was refused, and counted as failed.
        """
        if isinstance(call, Mistake):
            episode.fail(MALFORMED)
            raise OperationError(call.message)
        if call.name not in self.operations:
            episode.fail(MALFORMED)
            names = [tool["function"]["name"] for tool in self.dialect.tools(list(self.operations.values()))]
            raise OperationError(
                f'there is no operation "{quote(call.name)}"; expected {" or ".join(names) or "no call at all"}.'
                f"{did_you_mean(call.name, names)}"
            )
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
            new = self.views(episode, operation.run(context, call.arguments))
            self.limits.check(episode.views, new, episode.n_operations)
        except OperationError:
            episode.fail(call.name)
            raise
        episode.executed(call, new)
        episode.n_clipped += bool(frame.clipped)
        text = self.dialect.render_views(new, call)
        return ReplyLine(text=text, n_images=len(new), place=self.dialect.image_place(text, call))

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

    def views(self, episode: EpisodeState, shown: Sequence[Shown]) -> list[View]:
        """Numbers what is to be shown next, and gives it its size.

        Raises:
            OperationError: a part is too narrow to be shown.
        """
        first = len(episode.views) + 1
        return [View.of(first + number, item, self._size(item), episode.n_turns) for number, item in enumerate(shown)]

    def _size(self, shown: Shown) -> tuple[int, int]:
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
        return fit_size(width, height, **(self.frame_budget if is_overview else self.image_budget))


def frame_budget(
    video_frames: int, max_frame_pixels: int | None, max_pixels: int, size_multiple: int
) -> dict[str, int]:
    """Returns the pixel budget of a frame of a video's overview, as keyword arguments of `fit_size`.

    By default all `video_frames` frames together have at most the area of one image, and each at least one token.

    Raises:
        ValueError: `max_frame_pixels` is not even one token, or more than an image may have.
    """
    least = size_multiple**2
    most = max(max_pixels // video_frames, least) if max_frame_pixels is None else max_frame_pixels
    if not least <= most <= max_pixels:
        raise ValueError(
            f"got max_frame_pixels={most}; expected size_multiple**2 = {least} to max_pixels = {max_pixels}."
        )
    return {"min_pixels": least, "max_pixels": most, "size_multiple": size_multiple}


def first_regions(number: int, source: ImageSource | VideoSource, video_frames: int) -> list[Region]:
    """Returns what is shown of a source at first: an image as a whole, or frames of a video at equal distances.

    Args:
        number: number of the source, from 1.
        source: the image or video.
        video_frames: how many frames of a video; a shorter one is shown as a whole.
    """
    quad = Quad.from_box((0, 0, *source.size))
    if isinstance(source, ImageSource):
        return [Region(source=number, quad=quad)]
    times = source.times
    return [
        Region(source=number, quad=quad, frame=frame, time=times[frame], overview=True)
        for frame in uniform_frames(source.n_frames, video_frames)
    ]
