"""What an environment returns: observations, info, where every picture comes from, scores and rewards."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pxr_env.datasets.rows import box_problem, time_problem
from pxr_env.env import shows_evidence
from pxr_env.errors import quote, show
from pxr_env.media import MAX_ASPECT_RATIO, VideoSource
from pxr_env.testing.playing import MARKER, Environment, PlayedTurn, Playthrough, TaskSubject, base, play
from pxr_env.types import SAMPLE_FACTS, Sample
from pxr_env.views import View

#: What every info holds, and of which type.
ALWAYS: dict[str, Any] = {
    "sample_id": str,
    "views": list,
    "results": list,
    "usage": dict,
    "failures": dict,
    "duplicates": int,
    "clipped": int,
    "vision_tokens": int,
    "reward_terms": dict,
}
#: What it holds as the sample does, where that knows it.
FACTS = ("sample_id", *SAMPLE_FACTS)
AFTER_RESET: dict[str, Any] = {"system_prompt": str, "tools": list}
AFTER_END: dict[str, Any] = {"answer": str | None, "score": float, "correct": bool, "target": str}
#: Answers that scorers have stumbled over.
HOSTILE = (
    "nan", "inf", "-0", "1e999", "9" * 5000, "1/0", "(A", "A) B) C)", "[0, 0, 0, 0]", "\\frac{1}{0}", "\\" * 50,
    "٣", "²", "\U0001d7db", "İ", "ﬃ", "\u202e3", "a" * 100_000, "{" * 500 + "}" * 500, "None", "[1, 2", "左",
)  # fmt: skip


def test_environments_can_be_made(task: TaskSubject) -> None:
    """An environment of the task can be made, is one of `pxr_env.VisualReasoningEnv`, and has the samples asked for."""
    known = base(task.make()).data.sample_ids()
    unknown = [sample_id for sample_id in task.sample_ids if sample_id not in known]
    assert not unknown, f"expected samples of data.sample_ids(), without {unknown}. Check samples=."
    assert task.sample_ids, "expected at least one sample. Check samples=."


def test_turns_raise_nothing(episodes: list[Playthrough]) -> None:
    """No exception in an episode of the oracle, of drawn calls, or without an answer."""
    for episode in episodes:
        assert not episode.error, f"after {show((episode.turns or ['reset'])[-1])}: {episode.error}"


def test_observations_are_in_their_space(steps: list[PlayedTurn], plain: Environment) -> None:
    """Observations are `{"text": str, "images": tuple of uint8 HxWx3}`, members of the observation space, with text
    that can be encoded.
    """
    for step in steps:
        assert isinstance(step.observation, dict), step.where
        assert sorted(step.observation) == ["images", "text"], f"{step.where}: expected these two and nothing else."
        kinds = [f"{getattr(image, 'dtype', type(image).__name__)} {image.shape}" for image in step.images]
        fits = step.observation in plain.observation_space
        assert fits, f"{step.where}: got text {show(step.text)} and images {kinds}; expected {plain.observation_space}."
        surrogate = any("\ud800" <= letter <= "\udfff" for letter in step.text)
        assert not surrogate, f"{step.where}: got a text with a lone surrogate. Clean the question in the data."


def test_info_has_its_keys(steps: list[PlayedTurn]) -> None:
    """`info` holds what the environment documents, of the documented types; wrappers may add to it."""
    for step in steps:
        expected = ALWAYS | (AFTER_RESET if step.turn is None else {}) | (AFTER_END if step.ended else {})
        if step.truncated:
            expected |= {"truncated_by": str}
        for name, kind in expected.items():
            assert name in step.info, f'{step.where}: info lacks "{name}"; expected it of type {kind}.'
            got, wanted = type(step.info[name]).__name__, getattr(kind, "__name__", kind)
            fits = isinstance(step.info[name], kind)
            assert fits, f'{step.where}: info["{name}"] is of type {got}; expected {wanted}.'


def test_info_tells_the_facts(steps: list[PlayedTurn], sample: Sample) -> None:
    """What a sample knows about itself stands in every `info`, unchanged: id, evidence, category."""
    known = {name: value for name in FACTS if (value := getattr(sample, name)) is not None}
    for step in steps:
        assert {name: step.info.get(name) for name in known} == known, f"{step.where}: expected what the sample says."


def test_info_is_json(steps: list[PlayedTurn]) -> None:
    """`info` can be written as JSON: plain numbers, no arrays, no NaN."""
    for step in steps:
        for name, value in step.info.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                message = f'{step.where}: info["{name}"] cannot be written as JSON ({error}); expected plain values.'
                pytest.fail(f"{message} Convert it, for example with int() or .tolist().")


def test_images_match_their_views(episodes: list[Playthrough]) -> None:
    """Every image has its entry in `info["views"]`, in order, numbered from 1, with its width and height."""
    for episode in episodes:
        n_before = 0
        for step in episode.steps:
            views = step.info.get("views", [])
            indices = [view["index"] for view in views]
            assert indices == list(range(1, len(views) + 1)), f"{step.where}: expected views numbered 1, 2, 3, ..."
            sizes = [tuple(view["size"]) for view in views[n_before:]]
            shapes = [(image.shape[1], image.shape[0]) for image in step.images]
            assert shapes == sizes, f"{step.where}: expected images of the sizes (width, height) of the new views."
            n_before = len(views)


def test_views_lie_in_their_sources(steps: list[PlayedTurn], sample: Sample) -> None:
    """Every view names its source, a box inside it in source pixels, and for a video a frame with its time."""
    for step in steps:
        for view in step.info.get("views", []):
            for region in view.get("panels", [view]):
                assert_region(region, sample, f"{step.where}: view {view['index']}")


def test_sizes_keep_the_pixel_budget(steps: list[PlayedTurn], plain: Environment) -> None:
    """Both sides of every image are multiples of `size_multiple`, their area is at most `max_pixels`, and their ratio
    at most 200.
    """
    budget = base(plain).rules.image_budget
    most, multiple = budget["max_pixels"], budget["size_multiple"]
    for step in steps:
        for image in step.images:
            height, width = image.shape[:2]
            got = f"{step.where}: got an image of {width}x{height}; expected"
            assert width % multiple == height % multiple == 0, f"{got} multiples of {multiple}."
            assert width * height <= most, f"{got} at most {most} pixels."
            narrow = max(width, height) > MAX_ASPECT_RATIO * min(width, height)
            assert not narrow, f"{got} a ratio of at most {MAX_ASPECT_RATIO}."


def test_counters_add_up(episodes: list[Playthrough], plain: Environment) -> None:
    """Usage counts operations of the task and never shrinks, and `vision_tokens` is the area of all views in squares of
    `size_multiple`.
    """
    multiple = base(plain).rules.image_budget["size_multiple"]
    for episode in episodes:
        before = dict.fromkeys(base(plain).operations, 0)
        for step in episode.steps:
            usage = step.info.get("usage", {})
            grows = usage.keys() == before.keys() and all(usage[name] >= before[name] for name in before)
            assert grows, (
                f"{step.where}: got usage {show(usage)}; expected at least {show(before)}, of every operation."
            )
            before = usage
            area = sum(view["size"][0] * view["size"][1] for view in step.info.get("views", []))
            message = f"{step.where}: expected as vision tokens the area of all views in squares of {multiple} pixels."
            assert step.info.get("vision_tokens") == area // multiple**2, message


def test_tools_describe_the_operations(plain: Environment, sample_id: str) -> None:
    """After reset, `tools` has a JSON schema for every operation that the dialect has a word for, and the system prompt
    is a text.
    """
    _, info = plain.reset(options={"sample_id": sample_id})
    expected = base(plain).dialect.tools(list(base(plain).operations.values()))
    assert info.get("tools") == expected, f"got tools {show(info.get('tools'))}; expected those of the dialect."
    for tool in expected:
        name = tool["function"]["name"]
        assert name in str(info.get("system_prompt")), f"expected a system prompt that tells of {name}."


def test_the_oracle_scores_one(oracle: Playthrough) -> None:
    """A scripted agent that knows the evidence looks at it, answers `answers[0]`, and scores 1.0 within the limits."""
    info = oracle.last.info
    right = oracle.last.terminated and info.get("score") == 1.0
    assert right, (
        f"the oracle played {show(oracle.turns, 300)} and ended with score {show(info.get('score'))}, answer "
        f"{show(info.get('answer'))} and target {show(info.get('target'))}; expected score 1.0. Does the scorer suit "
        "answers[0]?"
    )


def test_evidence_lies_in_its_source(sample: Sample) -> None:
    """`evidence_box` lies inside source 1, in its pixels; `evidence_time` inside a video, and holds a frame."""
    source, box, time = sample.sources[0], sample.evidence_box, sample.evidence_time
    if box is None and time is None:
        pytest.skip("the sample names no evidence.")
    problem = None if box is None else box_problem(box, source.size)
    if time is not None and isinstance(source, VideoSource):
        problem = problem or time_problem(time, source)
    elif time is not None:
        problem = problem or f"got evidence_time {time} for an image; expected a video"
    assert not problem, f"{problem}."


def test_needed_operations_show_the_evidence(plain: Environment, sample: Sample, oracle: Playthrough) -> None:
    """Where `needs_operation` is True, the oracle executes an operation, and a view of it shows the evidence larger
    than the first views do, or at a time that they do not show.
    """
    if not sample.needs_operation:
        pytest.skip("the sample does not say that it needs an operation.")
    known = (sample.evidence_box, sample.evidence_time, sample.evidence_call) != (None, None, None)
    assert known, "an operation is needed; expected evidence_box, evidence_time or evidence_call. Add one."
    n_executed = sum(oracle.last.info.get("usage", {}).values())
    assert n_executed, f"the oracle executed none: {show(oracle.turns, 300)}; expected an operation. Offer it."
    if sample.evidence_call is None:
        n_first = len(play(plain, oracle.turns, sample_id=sample.sample_id).steps[0].images)
        first, shown = (
            max((_magnification(view) for view in views if shows_evidence(view, base(plain))), default=0.0)
            for views in (base(plain).views[:n_first], base(plain).views[n_first:])
        )
        assert shown > first, (
            f"the oracle saw the evidence at {shown:.2f} shown pixels per source pixel; expected more than at first, "
            f"{first:.2f}. Raise max_pixels, or make the source larger."
        )


def _magnification(view: View) -> float:
    """Shown pixels per source pixel, along a side."""
    return min(view.size[0] / view.region.quad.width, view.size[1] / view.region.quad.height)


def test_wrong_answers_score_less(env: Environment, sample_id: str) -> None:
    """An answer that is a nonsense word scores less than `answers[0]`, and is not correct."""
    info = play(env, [base(env).dialect.render_answer(MARKER)], sample_id=sample_id).last.info
    wrong = info.get("score", 1.0) < 1.0 and not info.get("correct", True)
    assert wrong, (
        f'the answer "{MARKER}" got score {show(info.get("score"))} and correct={show(info.get("correct"))}, target '
        f"{show(info.get('target'))}; expected a lower score and False. Choose a stricter scorer."
    )


def test_hostile_answers_are_scored(roomy: Environment, task: TaskSubject) -> None:
    """Every answer gets a finite score from 0 to 1 and ends the episode: NaN, huge numbers, fractions by zero, foreign
    digits, 100,000 characters.
    """
    for answer in HOSTILE:
        try:
            turn = base(roomy).dialect.render_answer(answer)
        except ValueError:
            continue
        recording = play(roomy, [turn], sample_id=task.sample_ids[0])
        where, score = f'the answer "{quote(answer, 40)}"', recording.last.info.get("score")
        assert not recording.error, f"{where}: {recording.error}"
        fits = isinstance(score, float) and 0 <= score <= 1
        assert fits, f"{where}: got score {show(score)}; expected a float from 0 to 1."


def test_unanswered_episodes_are_incorrect(silent: Playthrough) -> None:
    """An episode that ends without an answer has score 0.0, correct False and answer None."""
    if silent.last.ended:
        outcome = {name: silent.last.info.get(name) for name in ("answer", "score", "correct")}
        expected = {"answer": None, "score": 0.0, "correct": False}
        assert outcome == expected, f"{len(silent.turns)} turns without an answer"


def test_the_reward_is_the_sum_of_its_terms(steps: list[PlayedTurn]) -> None:
    """The reward of every step is the finite sum of `info["reward_terms"]`."""
    for step in steps:
        terms = step.info.get("reward_terms", {})
        fits = math.isfinite(step.reward) and math.isclose(step.reward, sum(terms.values()), abs_tol=1e-9)
        assert fits, (
            f"{step.where}: got reward {step.reward} with terms {show(terms)}; expected their sum. Name every term."
        )


def assert_region(region: dict[str, Any], sample: Sample, where: str) -> None:
    """Asserts that the provenance of a region, an entry of `info["views"]` or of its panels, is right."""
    number, n_sources = region["source"], len(sample.sources)
    assert 1 <= number <= n_sources, f"{where}: got source {number}; expected 1 to {n_sources}."
    source = sample.sources[number - 1]
    width, height = source.size
    x1, y1, x2, y2 = box = region["box"]
    inside = 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    meets = all(map(math.isfinite, box)) and x1 < width and y1 < height and x2 > 0 and y2 > 0
    message = f"{where}: got the box {box}; expected one inside the source, {width}x{height} pixels"
    assert meets if "corners" in region else inside, f"{message} (a tilted one has to meet it)."
    if isinstance(source, VideoSource):
        frame, time = region.get("frame"), region.get("time")
        known = isinstance(frame, int) and 0 <= frame < source.n_frames
        assert known, f"{where}: got frame {show(frame)} of a video; expected 0 to {source.n_frames - 1}."
        shown = source.times[int(frame or 0)]
        assert time == shown, f"{where}: got time {show(time)}; expected {shown} s, when frame {frame} is shown."
