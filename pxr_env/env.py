"""The one environment: a question about images, answered in turns of text with pixel operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from PIL import Image

from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from pxr_env.errors import DataError, OperationError, did_you_mean, quote
from pxr_env.media import MAX_ASPECT_RATIO, ImageSource, check_budget, cut, fit_size
from pxr_env.operations import OperationContext, get_operation
from pxr_env.scoring import get_scorer
from pxr_env.spaces import ImagesSpace, TextSpace, TurnSpace
from pxr_env.types import Mistake, OperationCall, Region, Sample, SampleSource, Turn, View

#: Name under which turns and calls that could not be read are counted in `info["failures"]`.
MALFORMED = "malformed"
#: Calls of one turn beyond this many are refused in one line, so that the reply stays short.
MAX_CALLS_PER_TURN = 16
_OPTIONS = ("sample_id",)


@dataclass(kw_only=True, slots=True)
class _Episode:
    """The state of a running episode. Holds no pixels: views are boxes of sources."""

    sample: Sample
    usage: dict[str, int]
    views: list[View] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    n_turns: int = 0
    ended: bool = False

    def fail(self, name: str) -> None:
        self.failures[name] = self.failures.get(name, 0) + 1


class VisualReasoningEnv(gymnasium.Env[dict[str, Any], str]):
    r"""A question about images, answered in turns of text with pixel operations.

    ## Action
    A `str`: the model's message, as it wrote it. It holds operation calls or one final answer, in the declared dialect,
    with any prose around. Every other message is answered by a text that says what came and what was expected.

    ## Observation
    `{"text": str, "images": tuple of uint8 HxWx3}`: only what is new, always new arrays. The images come before the
    text. After `reset` these are the images of the sample and the question, after a turn the results of its calls.

    ## Reward
    The sum of `info["reward_terms"]`, empty until the end, then `{"correct": 1.0}` or `{"correct": 0.0}`.

    ## End
    `terminated` with the first final answer; `truncated` when `max_turns` messages passed without one
    (`info["truncated_by"] == "max_turns"`, reward 0).

    ## Info
    Always: `sample_id`, `views` (see `View.as_dict`), `usage` (operation -> executed calls), `failures`
    (operation -> refused calls; unreadable turns and calls and unknown names under "malformed"), `reward_terms`, and
    where the sample knows them `needs_operation`, `evidence_box`, `category`. After `reset` also `system_prompt` and
    `tools`. After the end `answer` (None if there was none), `correct` and `target`, the first accepted answer.

    Args:
        data: the samples.
        scorer: "exact", "multiple_choice", "number" or "auto", see `pxr_env.scoring`.
        coordinates: "unit", "pixel" or "permille": what the numbers of a box mean, see `pxr_env.coordinates`.
        dialect: "hermes" or "pixel-reasoner": how turns are written, see `pxr_env.dialects`.
        operations: names of the operations the model may call.
        max_turns: messages per episode.
        max_operations: executed operations per episode; further ones are refused.
        min_pixels: least area of a shown image, see `fit_size`.
        max_pixels: largest area of a shown image.
        size_multiple: both sides of shown images are multiples of this (28 for Qwen2.5-VL, 32 for Qwen3-VL).
        render_mode: None, or "rgb_array" for `render()` to return all views of the episode side by side.

    Raises:
        ValueError: an argument is unknown or out of range; the message says what was expected.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 1}  # type: ignore[misc]

    def __init__(
        self,
        data: SampleSource,
        *,
        scorer: str = "exact",
        coordinates: str = "unit",
        dialect: str = "hermes",
        operations: Sequence[str] = ("zoom_in",),
        max_turns: int = 6,
        max_operations: int = 4,
        min_pixels: int = 401_408,
        max_pixels: int = 4_014_080,
        size_multiple: int = 28,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(operations, str):
            raise ValueError(f'operations="{quote(operations)}" came; expected a list of names: pass ["{operations}"].')
        if len(data) == 0:
            raise DataError("a data set without samples came; expected at least one. Check the path or the split.")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f'render_mode={render_mode!r} came; expected None or "rgb_array".')
        _check_count("max_turns", max_turns, least=1)
        _check_count("max_operations", max_operations, least=0)
        check_budget(min_pixels=min_pixels, max_pixels=max_pixels, size_multiple=size_multiple)
        self.data = data
        self.frame = get_frame(coordinates)
        self.dialect = get_dialect(dialect, self.frame)
        self.operations = {name: get_operation(name) for name in operations}
        self.max_turns, self.max_operations = max_turns, max_operations
        self.render_mode = render_mode
        self._scorer = get_scorer(scorer)
        self._budget = {"min_pixels": min_pixels, "max_pixels": max_pixels, "size_multiple": size_multiple}
        self._system_prompt = self.dialect.system_prompt(
            list(self.operations.values()), max_turns=max_turns, max_operations=max_operations
        )
        self._episode: _Episode | None = None
        self.observation_space = spaces.Dict({"images": ImagesSpace(), "text": TextSpace()})
        self.action_space = TurnSpace(
            dialect=dialect, coordinates=coordinates, operations=tuple(operations), size_multiple=size_multiple
        )

    @property
    def sample(self) -> Sample:
        """The sample of the running episode, answers included: for scripted agents and reports.

        Raises:
            ResetNeeded: there was no reset yet.
        """
        return self._current().sample

    @property
    def views(self) -> tuple[View, ...]:
        """The images shown so far, in order."""
        return tuple(self._current().views)

    def source_image(self, source: int) -> Image.Image:
        """Returns a copy of source number `source` (from 1) of the current sample at full resolution."""
        return self._source(source).image.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode.

        Args:
            seed: seeds the choice of the sample, as in Gymnasium.
            options: `{"sample_id": id}` chooses the sample.

        Raises:
            ValueError: an unknown option.
            DataError: an unknown sample id, or a sample that cannot be shown.
            MediaError: an image that cannot be read.
        """
        super().reset(seed=seed)
        self._episode = None
        sample = self.data.get(self._choose(options or {}))
        episode = _Episode(sample=sample, usage=dict.fromkeys(self.operations, 0))
        for number, source in enumerate(sample.sources, start=1):
            box = (0.0, 0.0, float(source.size[0]), float(source.size[1]))
            try:
                episode.views.append(self._view(episode, Region(source=number, box=box), len(episode.views) + 1))
            except OperationError as error:
                raise DataError(
                    f'image {number} of sample "{sample.sample_id}" cannot be shown: {error} Remove or cut it.'
                ) from error
        self._episode = episode
        observation = {"images": self._pixels(episode.views), "text": sample.question}
        tools = self.dialect.tools(list(self.operations.values()))
        return observation, {**self._info({}), "system_prompt": self._system_prompt, "tools": tools}

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Plays one turn, the model's message. See the class for what comes back.

        Raises:
            ResetNeeded: before the first reset, or after the end of the episode.
            InvalidAction: `action` is no `str`.
        """
        episode = self._current()
        if episode.ended:
            raise ResetNeeded("step() came after the end of the episode; expected reset() first. Call env.reset().")
        if not isinstance(action, str):
            raise InvalidAction(
                f"an action of type {type(action).__name__} came; expected str, the model's message. "
                "Decode the tokens before step()."
            )
        turn = self.dialect.parse(action)
        episode.n_turns += 1
        if len(turn.answers) == 1 and not turn.calls and not turn.mistakes:
            return self._end(turn.answers[0])
        n_shown = len(episode.views)
        lines = self._reply(turn)
        observation = {"images": self._pixels(episode.views[n_shown:]), "text": "\n".join(lines)}
        if episode.n_turns < self.max_turns:
            return observation, 0.0, False, False, self._info({})
        return self._end(None, observation)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Returns all views of the episode side by side on grey, uint8 HxWx3; None without a render mode."""
        if self.render_mode is None:
            return None
        views = self._current().views
        height, width = max(view.size[1] for view in views), sum(view.size[0] for view in views)
        canvas = np.full((height, width, 3), 128, dtype=np.uint8)
        left = 0
        for view, pixels in zip(views, self._pixels(views), strict=True):
            canvas[: view.size[1], left : left + view.size[0]] = pixels
            left += view.size[0]
        return canvas

    def _current(self) -> _Episode:
        if self._episode is None:
            raise ResetNeeded("no episode is running; expected reset() first. Call env.reset().")
        return self._episode

    def _source(self, number: int) -> ImageSource:
        sources = self._current().sample.sources
        if not 1 <= number <= len(sources):
            raise ValueError(f"source {number} came; expected 1 to {len(sources)}.")
        return sources[number - 1]

    def _choose(self, options: dict[str, Any]) -> str:
        for name in options:
            if name not in _OPTIONS:
                raise ValueError(
                    f'the option "{quote(str(name))}" came; expected only {", ".join(_OPTIONS)}.'
                    f"{did_you_mean(name, _OPTIONS)}"
                )
        ids = self.data.sample_ids()
        if "sample_id" not in options:
            return ids[int(self.np_random.integers(len(ids)))]
        sample_id = options["sample_id"]
        if sample_id not in ids:
            raise DataError(
                f'sample_id="{quote(str(sample_id))}" came; expected one of {len(ids)} ids, "{ids[0]}" to "{ids[-1]}".'
                f"{did_you_mean(sample_id, ids)} They are in env.unwrapped.data.sample_ids()."
            )
        return str(sample_id)

    def _reply(self, turn: Turn) -> list[str]:
        """Executes the calls of a turn that is no final answer; returns the lines of the reply."""
        episode = self._current()
        refusal = self._refuse(turn)
        if refusal is not None:
            episode.fail(MALFORMED)
            return [f"Error: {refusal}"]
        lines = []
        for number, call in enumerate(turn.calls[:MAX_CALLS_PER_TURN], start=1):
            try:
                lines += self._execute(call)
            except OperationError as error:
                where = f" in call {number}" if len(turn.calls) > 1 else ""
                lines.append(f"Error{where}: {error}")
        mistakes = list(turn.mistakes)
        if (n_more := len(turn.calls) - MAX_CALLS_PER_TURN) > 0:
            mistakes.append(
                Mistake(message=f"{n_more} more calls came; expected at most {MAX_CALLS_PER_TURN} at once.")
            )
        for mistake in mistakes:
            episode.fail(MALFORMED)
            lines.append(f"Error: {mistake.message}")
        return lines

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
            return f"the message has no operation call and no final answer; expected {self.dialect.reminder}."
        return None

    def _execute(self, call: OperationCall | Mistake) -> list[str]:
        """Executes one call and returns one line per new view.

        Raises:
            OperationError: the call was refused, and counted as failed.
        """
        episode = self._current()
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
        try:
            if sum(episode.usage.values()) >= self.max_operations:
                raise OperationError(
                    f"all {self.max_operations} operations are used up; expected an answer. Answer now."
                )
            context = OperationContext(views=tuple(episode.views), frame=self.frame)
            regions = self.operations[call.name].run(context, call.arguments)
            new = [self._view(episode, region, len(episode.views) + 1 + k) for k, region in enumerate(regions)]
        except OperationError:
            episode.fail(call.name)
            raise
        episode.usage[call.name] += 1
        episode.views += new
        return [f"Image {view.index} ({view.size[0]}x{view.size[1]})." for view in new]

    def _view(self, episode: _Episode, region: Region, index: int) -> View:
        x1, y1, x2, y2 = region.box
        width, height = max(1, round(x2 - x1)), max(1, round(y2 - y1))
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise OperationError(
                f"the box is {width}x{height} pixels of the original image; expected sides with a ratio of at most "
                f"{MAX_ASPECT_RATIO}. Choose a less narrow box."
            )
        return View(index=index, source=region.source, box=region.box, size=fit_size(width, height, **self._budget))

    def _pixels(self, views: Sequence[View]) -> tuple[np.ndarray, ...]:
        return tuple(cut(self._source(view.source), view.box, view.size) for view in views)

    def _end(
        self, answer: str | None, observation: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        episode = self._current()
        episode.ended = True
        correct = answer is not None and self._scorer(answer, episode.sample)
        terms = {"correct": float(correct)}
        info = self._info(terms) | {"answer": answer, "correct": correct, "target": episode.sample.answers[0]}
        if answer is None:
            info["truncated_by"] = "max_turns"
        observation = observation or {"images": (), "text": ""}
        return observation, sum(terms.values()), answer is not None, answer is None, info

    def _info(self, reward_terms: dict[str, float]) -> dict[str, Any]:
        episode = self._current()
        facts = {
            "needs_operation": episode.sample.needs_operation,
            "evidence_box": episode.sample.evidence_box,
            "category": episode.sample.category,
        }
        return {
            "sample_id": episode.sample.sample_id,
            "views": [view.as_dict() for view in episode.views],
            "usage": dict(episode.usage),
            "failures": dict(episode.failures),
            "reward_terms": reward_terms,
            **{name: fact for name, fact in facts.items() if fact is not None},
        }


def _check_count(name: str, value: int, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} came; expected an integer of at least {least}.")
