"""Checks of what an environment returns: observations, info, and where every picture comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import show
from pxr_env.media import MAX_ASPECT_RATIO, ImageSource
from pxr_env.testing.playing import Recording, Step, base
from pxr_env.testing.subject import TaskSubject
from pxr_env.types import Sample

#: What every info holds, and of which type.
ALWAYS = {
    "sample_id": str,
    "views": list,
    "usage": dict,
    "failures": dict,
    "duplicates": int,
    "clipped": int,
    "vision_tokens": int,
    "reward_terms": dict,
}
#: What it holds where the sample knows it.
FACTS = ("needs_operation", "evidence_box", "evidence_time", "category")
AFTER_RESET = {"system_prompt": str, "tools": list}
AFTER_END = {"answer": (str, type(None)), "score": float, "correct": bool, "target": str}


def turns_raise_nothing(subject: TaskSubject) -> Iterator[str]:
    """No exception in an episode of the oracle, of drawn calls, or without an answer.

    A model's mistake is an observation it can read. An exception in a rollout ends a training run after hours.
    """
    for recording in subject.episodes:
        if recording.error:
            played = recording.turns[-1:] or ["reset"]
            yield f'sample "{recording.sample_id}", after {show(played[0])}: {recording.error}'


def observations_are_in_their_space(subject: TaskSubject) -> Iterator[str]:
    """Observations are `{"text": str, "images": tuple of uint8 HxWx3}`, members of the observation space, with text
    that can be encoded.

    A lone surrogate from a data set breaks the tokenizer or the log long after it was read.
    """
    space = subject.make().observation_space
    for recording, number, step in _steps(subject):
        observation = step.observation
        if not isinstance(observation, dict) or observation.keys() != {"text", "images"}:
            got = sorted(observation) if isinstance(observation, dict) else type(observation).__name__
            yield f'{recording.where(number)}: {got} came; expected a dict of "text" and "images" and nothing else.'
        elif observation not in space:
            kinds = [f"{getattr(image, 'dtype', type(image).__name__)} {image.shape}" for image in step.images]
            yield (
                f"{recording.where(number)}: text of type {type(observation['text']).__name__} and images {kinds} "
                f"came; expected a member of {space}: str, and a tuple of uint8 HxWx3."
            )
        elif not _encodable(observation["text"]):
            yield (
                f"{recording.where(number)}: a text with a lone surrogate came; expected valid Unicode. "
                "Clean the question in the data."
            )


def info_has_its_keys(subject: TaskSubject) -> Iterator[str]:
    """`info` holds what the environment documents, of the documented types; wrappers may add to it.

    Loggers and curiosity read these keys in other processes, where a missing one is found late.
    """
    for recording, number, step in _steps(subject):
        expected: dict[str, Any] = {**ALWAYS}
        if step.turn is None:
            expected |= AFTER_RESET
        if step.ended:
            expected |= AFTER_END
        if step.truncated:
            expected["truncated_by"] = str
        for name, kind in expected.items():
            if name not in step.info:
                yield f'{recording.where(number)}: info lacks "{name}"; expected it of type {_name(kind)}. Add it.'
            elif not isinstance(step.info[name], kind):
                got = type(step.info[name]).__name__
                yield f'{recording.where(number)}: info["{name}"] is of type {got}; expected {_name(kind)}.'


def info_tells_the_facts(subject: TaskSubject) -> Iterator[str]:
    """What a sample knows about itself stands in every `info`, unchanged: id, evidence, category.

    Metrics such as "needless" and "missing" compare usage with these; a stale one counts the wrong episode.
    """
    data = base(subject.make()).data
    for recording, number, step in _steps(subject):
        sample = data.get(recording.sample_id)
        known = {name: value for name in FACTS if (value := getattr(sample, name)) is not None}
        for name, value in {"sample_id": sample.sample_id, **known}.items():
            if step.info.get(name) != value:
                came = show(step.info.get(name))
                yield f'{recording.where(number)}: info["{name}"] is {came}; expected {show(value)} as in the sample.'


def info_is_json(subject: TaskSubject) -> Iterator[str]:
    """`info` can be written as JSON: plain numbers, no arrays, no NaN.

    Records, traces and Ray's metrics are written as JSON; a NumPy integer fails there, not here.
    """
    for recording, number, step in _steps(subject):
        for name, value in step.info.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                yield (
                    f'{recording.where(number)}: info["{name}"] cannot be written as JSON ({error}); expected plain '
                    "values. Convert it, for example with int() or .tolist()."
                )


def images_match_their_views(subject: TaskSubject) -> Iterator[str]:
    """Every image has its entry in `info["views"]`, in order, numbered from 1, with its width and height.

    The model names images by these numbers: an image too many or too few shifts all later ones.
    """
    for recording in subject.episodes:
        n_before = 0
        for number, step in enumerate(recording.steps):
            views = step.info.get("views", [])
            new = views[n_before:]
            n_before = len(views)
            indices = [view["index"] for view in views]
            if indices != list(range(1, len(views) + 1)):
                yield f"{recording.where(number)}: views numbered {indices} came; expected 1, 2, 3, ..."
            sizes = [tuple(view["size"]) for view in new]
            shapes = [(image.shape[1], image.shape[0]) for image in step.images]
            if sizes != shapes:
                yield (
                    f"{recording.where(number)}: images of {shapes} (width, height) came for new views of {sizes}; "
                    "expected the same sizes. Show exactly what the views say."
                )


def views_lie_in_their_sources(subject: TaskSubject) -> Iterator[str]:
    """Every view names its source, a box inside it in source pixels, and for a video a frame with its time.

    A box in pixels of the shown picture instead of the source is 12% off on a photograph of 4032 pixels. A tilted
    view may reach beyond its source.
    """
    data = base(subject.make()).data
    for recording, number, step in _steps(subject):
        sample = data.get(recording.sample_id)
        for view in step.info.get("views", []):
            for region in view.get("panels", [view]):
                problem = region_problem(region, sample)
                if problem:
                    yield f"{recording.where(number)}: view {view['index']}: {problem}"


def sizes_keep_the_pixel_budget(subject: TaskSubject) -> Iterator[str]:
    """Both sides of every image are multiples of `size_multiple`, their area is at most `max_pixels`, and their ratio
    at most 200.

    Qwen's processors resize what is otherwise, and all boxes the model writes are off; or they refuse it.
    """
    env = base(subject.make())
    most, multiple = pixel_budget(env)
    for recording, number, step in _steps(subject):
        for image in step.images:
            height, width = image.shape[:2]
            if width % multiple or height % multiple:
                yield f"{recording.where(number)}: an image of {width}x{height} came; expected multiples of {multiple}."
            if width * height > most:
                yield f"{recording.where(number)}: an image of {width}x{height} came; expected at most {most} pixels."
            if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                yield (
                    f"{recording.where(number)}: an image of {width}x{height} came; expected a ratio of at most "
                    f"{MAX_ASPECT_RATIO}."
                )


def counters_add_up(subject: TaskSubject) -> Iterator[str]:
    """Usage counts operations of the task and never shrinks, and `vision_tokens` is the area of all views in squares of
    `size_multiple`.

    Curiosity and costs are computed from these; failed calls have a count of their own.
    """
    env = base(subject.make())
    _, multiple = pixel_budget(env)
    for recording in subject.episodes:
        before = dict.fromkeys(env.operations, 0)
        for number, step in enumerate(recording.steps):
            usage = step.info.get("usage", {})
            if usage.keys() != env.operations.keys() or any(usage[name] < before[name] for name in before):
                yield (
                    f"{recording.where(number)}: usage {show(usage)} came; expected a count of at least {show(before)} "
                    "for every operation of the task."
                )
                break
            before = usage
            area = sum(view["size"][0] * view["size"][1] for view in step.info.get("views", []))
            if step.info.get("vision_tokens") != area // multiple**2:
                yield (
                    f"{recording.where(number)}: {show(step.info.get('vision_tokens'))} vision tokens came; expected "
                    f"{area // multiple**2}, the area of all views in squares of {multiple} pixels."
                )


def tools_describe_the_operations(subject: TaskSubject) -> Iterator[str]:
    """After reset, `tools` has a JSON schema for every operation that the dialect has a word for, and the system prompt
    is a text.

    A model that is not told of an operation never calls it, and its rate of use stays zero without a reason.
    """
    env = subject.make()
    for sample_id in subject.sample_ids[:1]:
        _, info = env.reset(options={"sample_id": sample_id})
        tools, prompt = info.get("tools"), info.get("system_prompt")
        expected = base(env).dialect.tools(list(base(env).operations.values()))
        if tools != expected:
            yield f"tools {show(tools)} came; expected {show(expected)}, those of the dialect."
        for tool in tools or []:
            name = tool.get("function", {}).get("name")
            if not isinstance(prompt, str) or not isinstance(name, str) or name not in prompt:
                yield f"the system prompt does not name {show(name)}; expected a prompt that tells of every operation."


def _steps(subject: TaskSubject) -> Iterator[tuple[Recording, int, Step]]:
    for recording in subject.episodes:
        for number, step in enumerate(recording.steps):
            yield recording, number, step


def region_problem(region: dict[str, Any], sample: Sample) -> str | None:
    """Says what is wrong with the provenance of a region, or None.

    Args:
        region: an entry of `info["views"]` or of its panels.
        sample: whose sources it refers to.
    """
    number = region["source"]
    if not 1 <= number <= len(sample.sources):
        return f"source {number} came; expected 1 to {len(sample.sources)}."
    source = sample.sources[number - 1]
    width, height = source.size
    x1, y1, x2, y2 = region["box"]
    if not all(math.isfinite(value) for value in (x1, y1, x2, y2)):
        return f"the box {region['box']} came; expected finite numbers."
    if "corners" not in region and not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        return f"the box {region['box']} came; expected one inside the source, {width}x{height} pixels."
    if not (x1 < width and y1 < height and x2 > 0 and y2 > 0):
        return f"the box {region['box']} came; expected one that meets the source, {width}x{height} pixels."
    if isinstance(source, ImageSource):
        return None
    frame, time = region.get("frame"), region.get("time")
    if not isinstance(frame, int) or not 0 <= frame < source.n_frames:
        return f"frame {show(frame)} of a video came; expected 0 to {source.n_frames - 1}."
    if time != source.times[frame]:
        return f"time {show(time)} came for frame {frame}; expected {source.times[frame]} s, when the video shows it."
    return None


def pixel_budget(env: VisualReasoningEnv) -> tuple[int, int]:
    """Returns the largest area of an image and what both of its sides are multiples of."""
    return env.rules.image_budget["max_pixels"], env.rules.image_budget["size_multiple"]


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _name(kind: type | tuple[type, ...]) -> str:
    return " or ".join(one.__name__ for one in kind) if isinstance(kind, tuple) else kind.__name__
