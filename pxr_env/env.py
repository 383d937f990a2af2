"""The one environment: a question about images and videos, answered in turns of text with pixel operations.

And its oracle: a scripted agent that knows the evidence and the answer, and should score 1.0 everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded
from PIL import Image

from pxr_env import errors, rules
from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from pxr_env.errors import DataError, OperationError, did_you_mean, represent
from pxr_env.media import ImageSource, VideoSource, check_budget
from pxr_env.operations import get_operation
from pxr_env.rendering import RenderModes, draw_overview, render
from pxr_env.rules import EpisodeState, Limits, Rules
from pxr_env.scoring import get_scorer
from pxr_env.spaces import ImagesSpace, TextSpace, TurnSpace
from pxr_env.types import SAMPLE_FACTS, NoTurn, OperationCall, Sample, SampleSource, as_source, find_id
from pxr_env.views import View


class VisualReasoningEnv(gymnasium.Env[dict[str, Any], str]):
    r"""A question about images and videos, answered in turns of text with pixel operations.

    ## Action
    A `str`: the model's message, as it wrote it. It holds operation calls or one final answer, in the declared dialect,
    with any prose around. Every other message is answered by a text that says what was found and what was expected.

    ## Observation
    `{"text": str, "images": tuple of uint8 HxWx3}`: only what is new, always new arrays. The images come before the
    text. After `reset` these are the images of the sample, frames of its videos at equal distances, and the question;
    after a turn the results of its calls.

    ## Reward
    The sum of `info["reward_terms"]`: empty until the end, then "correct", the score of the answer from 0 to 1, and for
    each of `costs` a term of at most 0, such as "operation_cost".

    ## End
    `terminated` with the first final answer; `truncated` when `max_turns` messages passed without one, or with
    `on_limit="truncate"` when an operation would exceed another limit, or with a `pxr_env.types.NoTurn` in place of a
    message, by which an agent says that it cannot go on. `info["truncated_by"]` names the limit.

    ## Info
    Always: `sample_id`, `views` (see `View.as_dict`), `results` (for each call of the turn `name`, `ok`, `text` and the
    numbers of its `views`), `usage` (operation -> executed calls), `failures`
    (operation -> refused calls; unreadable turns and calls and unknown names under "malformed"), `duplicates` (calls
    that had been made before), `clipped` (executed calls that overshot an edge by at most 1 % and were cut off there),
    `vision_tokens` (of all views), `reward_terms`, and where the sample knows them `needs_operation`, `evidence_box`,
    `evidence_time`, `category`. After `reset` also `system_prompt` and `tools`, and
    with `images_in_text` always `image_places`: for each image how many characters of the text come before it.
    After the end `answer` (None if there was none), `score`, `correct` and `target`, the first accepted answer.

    Args:
        data: the samples, as a source or as a list.
        scorer: how answers are scored, see `pxr_env.scoring`.
        coordinates: "unit", "pixel" or "permille": what the numbers of a box mean, see `pxr_env.coordinates`.
        dialect: how turns are written, see `pxr_env.dialects`.
        operations: names of the operations the model may call.
        max_turns: messages per episode.
        max_operations: executed operations per episode.
        max_images: images shown per episode, those of the sample included; None for no limit.
        max_shown_pixels: pixels of all images shown; None for no limit.
        max_vision_tokens: vision tokens of all images shown; None for no limit.
        on_limit: "refuse" answers an operation that would exceed a limit with a text, "truncate" ends the episode.
        duplicates: "refuse" answers a call that was executed before by naming its result, "execute" runs it again.
        min_pixels: least area of a shown image, see `fit_size`.
        max_pixels: largest area of a shown image.
        size_multiple: both sides of shown images are multiples of this (28 for Qwen2.5-VL, 32 for Qwen3-VL).
        video_frames: frames of a video that are shown at first.
        max_frame_pixels: largest area of such a frame, and of what `seek` shows; by default all frames together have
            the area of one image.
        max_call_pixels: largest area of all images that one call shows, which share it equally; by default that of one
            image, so that eight selected frames take no more room than one zoom.
        costs: name -> weight, see `pxr_env.rules.COSTS`.
        system_prompt: what the model is told first, instead of the dialect's own words.
        question_suffix: what follows every question.
        images_in_text: whether the images of a reply stand where models of the dialect were trained to see them
            (`info["image_places"]`), instead of before the text.
        zoom_padding: what `zoom_in` shows beyond its box on each side, as a share of the target image, 0 to 1.
        render_mode: None, or "rgb_array" for `render()` to return the sources with the boxes of all views.

    Raises:
        ValueError: an argument is unknown or out of range; the message says what was expected.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RenderModes(["rgb_array"]), "render_fps": 1}  # type: ignore[misc]

    @errors.checks_arguments
    def __init__(
        self,
        data: SampleSource | Sequence[Sample],
        *,
        scorer: str = "exact",
        coordinates: str = "unit",
        dialect: str = "hermes",
        operations: Sequence[str] = ("zoom_in",),
        max_turns: int = 6,
        max_operations: int = 4,
        max_images: int | None = None,
        max_shown_pixels: int | None = None,
        max_vision_tokens: int | None = None,
        on_limit: str = "refuse",
        duplicates: str = "refuse",
        min_pixels: int = 401_408,
        max_pixels: int = 4_014_080,
        size_multiple: int = 28,
        video_frames: int = 16,
        max_frame_pixels: int | None = None,
        max_call_pixels: int | None = None,
        costs: Mapping[str, float] | None = None,
        system_prompt: str | None = None,
        question_suffix: str = "",
        images_in_text: bool = False,
        zoom_padding: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        self.data = as_source(data)
        self.render_mode = _one_of((None, *self.metadata["render_modes"]), "render_mode", render_mode)
        budget = {"min_pixels": min_pixels, "max_pixels": max_pixels, "size_multiple": size_multiple}
        check_budget(**budget)
        self.frame = get_frame(coordinates)
        self.dialect = get_dialect(dialect, self.frame)
        self.operations = {name: get_operation(name) for name in operations}
        offered = list(self.operations.values())
        self.dialect.check_operations(offered)
        limits = Limits(
            max_turns=max_turns,
            max_operations=max_operations,
            max_images=max_images,
            max_shown_pixels=max_shown_pixels,
            max_vision_tokens=max_vision_tokens,
            size_multiple=size_multiple,
        )
        self.video_frames = errors.integer("video_frames", video_frames, 1)
        self.costs = rules.check_costs(costs or {})
        self._scorer = get_scorer(scorer)
        self.rules = Rules(
            dialect=self.dialect,
            frame=self.frame,
            operations=self.operations,
            limits=limits,
            truncates=_one_of(("refuse", "truncate"), "on_limit", on_limit) == "truncate",
            repeats=_one_of(("refuse", "execute"), "duplicates", duplicates) == "execute",
            image_budget=budget,
            frame_budget=rules.frame_budget(video_frames, max_frame_pixels, max_pixels, size_multiple),
            call_pixels=rules.call_budget(max_call_pixels, max_pixels, size_multiple),
            zoom_padding=rules.padding(zoom_padding),
        )
        self.images_in_text = images_in_text
        self.question_suffix = errors.text("question_suffix", question_suffix)
        own_words = self.dialect.system_prompt(offered, max_turns=max_turns, max_operations=max_operations)
        self.system_prompt = own_words if system_prompt is None else system_prompt
        self._episode: EpisodeState | None = None
        self._spec: EnvSpec | None = None
        self.observation_space = spaces.Dict({"images": ImagesSpace(), "text": TextSpace()})
        self.action_space = TurnSpace(
            dialect=dialect, coordinates=coordinates, operations=tuple(operations), size_multiple=size_multiple
        )

    def __copy__(self) -> VisualReasoningEnv:
        """Another one that shares the data, and neither the running episode nor what draws samples and actions."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other.action_space = deepcopy(self.action_space)
        other._episode = other._np_random = other._np_random_seed = None
        return other

    def without_operations(self) -> VisualReasoningEnv:
        """Another one with the same data in which nothing but an answer counts: it offers no operations, its system
        prompt (the dialect's own) mentions none, and an episode has one turn."""
        other, limits = copy(self), replace(self.limits, max_turns=1)
        other.operations = {}
        other.rules = replace(self.rules, operations={}, limits=limits)
        other.system_prompt = self.dialect.system_prompt([], max_turns=1, max_operations=limits.max_operations)
        return other

    @property
    def spec(self) -> EnvSpec | None:
        """How `gymnasium.make` made it. Paths and NumPy's scalars stand in it as texts and numbers, as JSON wants."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = spec
        if spec is not None:
            spec.kwargs = errors.plain(spec.kwargs, paths=True)

    @property
    def sample(self) -> Sample:
        """The sample of the running episode, answers included; ResetNeeded if there was no reset yet."""
        return self._current().sample

    @property
    def views(self) -> tuple[View, ...]:
        """The images shown so far, in order."""
        return tuple(self._current().views)

    @property
    def calls(self) -> tuple[tuple[OperationCall, tuple[int, ...]], ...]:
        """The calls that were executed so far, each with the numbers of the views it showed."""
        return tuple(self._current().calls)

    @property
    def limits(self) -> Limits:
        """The limits of an episode. New ones may be set, and hold from then on."""
        return self.rules.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self.rules = replace(self.rules, limits=limits)

    def source_image(self, source: int, frame: int | None = None) -> Image.Image:
        """A copy of source number `source` (from 1) at full resolution; of a video, its frame (from 0)."""
        return _picture(self.sample, source, frame).copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode with a drawn sample, or that of `options={"sample_id": id}`.

        Raises:
            ValueError: an unknown option, or a seed that is no integer of at least 0.
            DataError: an unknown sample id, or a sample that cannot be shown.
            MediaError: an image or a video that cannot be read.
        """
        super().reset(seed=None if seed is None else errors.integer("seed", seed, 0))
        self._episode = None
        sample = self.data.get(self._choose({} if options is None else options))
        episode = EpisodeState(sample=sample, usage=dict.fromkeys(self.operations, 0))
        introductions = []
        try:
            for number, source in enumerate(sample.sources, start=1):
                new = self.rules.views(episode, rules.first_regions(number, source, self.video_frames))
                episode.views += new
                if isinstance(source, VideoSource):
                    introductions.append(self.dialect.render_video(new, duration=source.duration))
            self.limits.check_views(episode.views)
        except OperationError as error:
            raise DataError(
                f'sample "{sample.sample_id}" cannot be shown: {error} Change it or leave it out.'
            ) from error
        observation = {
            "images": self._pixels(sample, episode.views),
            "text": "\n".join([*introductions, sample.question]) + self.question_suffix,
        }
        self._episode = episode
        tools = self.dialect.tools(list(self.operations.values()))
        info = {**self._info({}), "system_prompt": self.system_prompt, "tools": tools}
        return observation, self._placed(info, (0,) * len(observation["images"]))

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Plays one turn, the model's message; see the class for what comes back.

        Raises:
            ResetNeeded: before the first reset, or after the end of the episode.
            InvalidAction: `action` is no `str`.
        """
        episode = self._current()
        if episode.ended:
            raise ResetNeeded("got step() after the end of the episode; expected reset() first. Call env.reset().")
        if not isinstance(action, str):
            raise InvalidAction(
                f"got an action of type {type(action).__name__}; expected str, the model's message. "
                "Decode the tokens before step()."
            )
        nothing = {"images": (), "text": ""}
        episode.results = []
        if isinstance(action, NoTurn):
            return self._end(None, nothing, limit=action.limit)
        turn = self.dialect.parse(action)
        episode.n_turns += 1
        if len(turn.answers) == 1 and not turn.calls and not turn.mistakes:
            return self._end(turn.answers[0], nothing)
        n_shown = len(episode.views)
        lines, limit = self.rules.play(episode, turn)
        episode.results = rules.results(lines)
        text = "\n".join(line.text for line in lines)
        observation = {"images": self._pixels(episode.sample, episode.views[n_shown:]), "text": text}
        if limit is None and episode.n_turns >= self.limits.max_turns:
            limit = "max_turns"
        if limit is None:
            return observation, 0.0, False, False, self._placed(self._info({}), rules.image_places(lines))
        return self._end(None, observation, limit)

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The sources, each frame that was shown apart, with the boxes of all views so far, uint8 HxWx3 of one size for
        all episodes; None without a render mode."""
        if self.render_mode is None:
            return None
        return draw_overview(self._current().views, partial(_picture, self.sample))

    def _current(self) -> EpisodeState:
        if self._episode is None:
            raise ResetNeeded("no episode is running; expected reset() first. Call env.reset().")
        return self._episode

    def _placed(self, info: dict[str, Any], places: tuple[int, ...]) -> dict[str, Any]:
        return info | {"image_places": places} if self.images_in_text else info

    def _choose(self, options: dict[str, Any]) -> str:
        if not isinstance(options, Mapping):
            raise ValueError(f'got options={represent(options)}; expected a dict, such as {{"sample_id": id}}.')
        for name in options:
            if name != "sample_id":
                near = did_you_mean(name, ["sample_id"])
                raise ValueError(f'got the option "{errors.quote(name)}"; expected only sample_id.{near}')
        ids = self.data.sample_ids()
        if "sample_id" in options:
            return find_id(options["sample_id"], ids)
        return ids[int(self.np_random.integers(len(ids)))]

    def _pixels(self, sample: Sample, views: Sequence[View]) -> tuple[np.ndarray, ...]:
        return tuple(render(view, partial(_picture, sample)) for view in views)

    def _end(
        self, answer: str | None, observation: dict[str, Any], limit: str | None = None
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        episode = self._current()
        episode.ended = True
        score = 0.0 if answer is None else float(self._scorer(answer, episode.sample))
        terms = {"correct": score, **self._cost_terms(episode)}
        info = self._info(terms) | {
            "answer": answer,
            "score": score,
            "correct": answer is not None and self._scorer.is_correct(score),
            "target": episode.sample.answers[0],
            **({} if limit is None else {"truncated_by": limit}),
        }
        return observation, sum(terms.values()), limit is None, limit is not None, info

    def _cost_terms(self, episode: EpisodeState) -> dict[str, float]:
        shown_by_operations = [episode.views[number - 1] for _, numbers in episode.calls for number in numbers]
        counts = {
            "format": episode.failures[rules.MALFORMED],
            "operation": episode.n_operations,
            "duplicate": episode.n_duplicates,
            "vision_token": self.limits.vision_tokens(shown_by_operations),
        }
        return {f"{name}_cost": -weight * counts[name] for name, weight in self.costs.items()}

    def _info(self, reward_terms: dict[str, float]) -> dict[str, Any]:
        episode = self._current()
        return {
            "sample_id": episode.sample.sample_id,
            "views": [view.as_dict() for view in episode.views],
            "results": episode.results,
            "usage": dict(episode.usage),
            "failures": dict(episode.failures),
            "duplicates": episode.n_duplicates,
            "clipped": episode.n_clipped,
            "vision_tokens": self.limits.vision_tokens(episode.views),
            "reward_terms": reward_terms,
            **{name: fact for name in SAMPLE_FACTS if (fact := getattr(episode.sample, name)) is not None},
        }


def _picture(sample: Sample, number: int, frame: int | None) -> Image.Image:
    if not 1 <= number <= len(sample.sources):
        raise ValueError(f"got source {number}; expected 1 to {len(sample.sources)}.")
    source = sample.sources[number - 1]
    if isinstance(source, ImageSource):
        return source.image
    if frame is None:
        raise ValueError(f"got source {number}, a video, without a frame; expected 0 to {source.n_frames - 1}.")
    return source.frame(frame)


def _one_of(choices: tuple[object, ...], name: str, value: str | None) -> str | None:
    if not isinstance(value, str | None) or value not in choices:
        raise ValueError(f"got {name}={represent(value)}; expected {' or '.join(map(represent, choices))}.")
    return value


def oracle_turns(env: VisualReasoningEnv, *, look: bool = True) -> Iterator[str]:
    """The messages of an oracle for the episode that was just begun.

    With `look`, it makes `evidence_call` where the sample has one, or else seeks to `evidence_time` and zooms to
    `evidence_box`. Then it gives the first accepted answer. It looks at the environment before each message, and keeps
    within its limits.

    Raises:
        ValueError: the dialect cannot write the call or the answer.
    """
    for number, call in enumerate(_evidence_calls(env) if look else (), start=1):
        if number > min(env.limits.max_operations, env.limits.max_turns - 1):
            break
        yield env.dialect.render_call(call)
    yield env.dialect.render_answer(env.sample.answers[0])


def _evidence_calls(env: VisualReasoningEnv) -> Iterator[OperationCall]:
    sample = env.sample
    if sample.evidence_call is not None:
        if sample.evidence_call.name in env.operations:
            yield sample.evidence_call
        return
    if sample.evidence_time is not None:
        if "seek" in env.operations:
            start, end = sample.evidence_time
            yield OperationCall(name="seek", arguments={"start": start, "end": end, "target_video": 1})
        elif "select_frames" in env.operations:
            frames = [view.index for view in env.views if shows_evidence(view, env)]
            if frames:
                yield OperationCall(name="select_frames", arguments={"target_frames": frames[:1]})
    if sample.evidence_box is not None and "zoom_in" in env.operations:
        views = [view for view in env.views if shows_evidence(view, env)]
        if views:
            # The newest: what was sought comes after the overview.
            numbers = env.frame.from_source(sample.evidence_box, views[-1], source=1)
            yield OperationCall(name="zoom_in", arguments={"bbox_2d": numbers, "target_image": views[-1].index})


def shows_evidence(view: View, env: VisualReasoningEnv) -> bool:
    """Whether a view of a single region shows the whole evidence box of the sample, at the time of the evidence."""
    sample = env.sample
    if view.is_comparison or view.source != 1:
        return False
    if sample.evidence_time is not None:
        start, end = sample.evidence_time
        if view.time is None or not start <= view.time < end:
            return False
    if sample.evidence_box is None:
        return True
    (x1, y1, x2, y2), (left, top, right, bottom) = sample.evidence_box, view.box
    # Boxes went through the decimals of a coordinate frame and floating point.
    return left <= x1 + 1e-6 and top <= y1 + 1e-6 and right >= x2 - 1e-6 and bottom >= y2 - 1e-6
