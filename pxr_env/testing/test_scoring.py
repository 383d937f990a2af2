"""Answers and rewards: the oracle is right, wrong answers are not, and the reward is what its terms say."""

from __future__ import annotations

import math

import pytest

from pxr_env.datasets.rows import box_problem, time_problem
from pxr_env.env import shows_evidence
from pxr_env.errors import quote, show
from pxr_env.media import VideoSource
from pxr_env.testing.playing import Environment, PlayedTurn, Playthrough, base, play
from pxr_env.testing.subject import TaskSubject
from pxr_env.testing.turns import MARKER
from pxr_env.types import Sample
from pxr_env.views import View

#: Answers that scorers have stumbled over.
_HOSTILE = (
    "nan", "inf", "-0", "1e999", "9" * 5000, "1/0", "(A", "A) B) C)", "[0, 0, 0, 0]", "\\frac{1}{0}", "\\" * 50,
    "٣", "²", "\U0001d7db", "İ", "ﬃ", "\u202e3", "a" * 100_000, "{" * 500 + "}" * 500, "None", "[1, 2", "左",
)  # fmt: skip


def test_the_oracle_scores_one(oracle: Playthrough) -> None:
    """A scripted agent that knows the evidence looks at it, answers `answers[0]`, and scores 1.0 within the limits.

    Where it does not, the data, the scorer, the limits or the coordinates are wrong, and no model can do better.
    """
    info = oracle.last.info
    right = oracle.last.terminated and info.get("score") == 1.0
    assert right, (
        f"the oracle played {show(oracle.turns, 300)} and ended with score {show(info.get('score'))}, answer "
        f"{show(info.get('answer'))} and target {show(info.get('target'))}; expected score 1.0. Does the scorer suit "
        "answers[0]?"
    )


def test_evidence_lies_in_its_source(sample: Sample) -> None:
    """`evidence_box` lies inside source 1, in its pixels; `evidence_time` inside a video, and holds a frame.

    Evidence given in pixels of a resized picture makes hits of misses.
    """
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

    A need that is claimed but cannot be met, or that the first view meets already, makes the measured gain of an
    operation meaningless.
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
    """An answer that is a nonsense word scores less than `answers[0]`, and is not correct.

    A scorer that finds the target inside a longer answer, or takes anything where it finds no number, is beaten by it.
    """
    info = play(env, [base(env).dialect.render_answer(MARKER)], sample_id=sample_id).last.info
    wrong = info.get("score", 1.0) < 1.0 and not info.get("correct", True)
    assert wrong, (
        f'the answer "{MARKER}" got score {show(info.get("score"))} and correct={show(info.get("correct"))}, target '
        f"{show(info.get('target'))}; expected a lower score and False. Choose a stricter scorer."
    )


def test_hostile_answers_are_scored(roomy: Environment, task: TaskSubject) -> None:
    """Every answer gets a finite score from 0 to 1 and ends the episode: NaN, huge numbers, fractions by zero, foreign
    digits, 100,000 characters.

    A scorer that raises loses a whole group; one that returns NaN poisons the advantages of all its episodes.
    """
    for answer in _HOSTILE:
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
    """An episode that ends without an answer has score 0.0, correct False and answer None.

    Otherwise silence is a strategy.
    """
    if silent.last.ended:
        outcome = {name: silent.last.info.get(name) for name in ("answer", "score", "correct")}
        expected = {"answer": None, "score": 0.0, "correct": False}
        assert outcome == expected, f"{len(silent.turns)} turns without an answer"


def test_the_reward_is_the_sum_of_its_terms(steps: list[PlayedTurn]) -> None:
    """The reward of every step is the finite sum of `info["reward_terms"]`.

    Curves of the terms explain the reward only if nothing is missing among them.
    """
    for step in steps:
        terms = step.info.get("reward_terms", {})
        fits = math.isfinite(step.reward) and math.isclose(step.reward, sum(terms.values()), abs_tol=1e-9)
        assert fits, (
            f"{step.where}: got reward {step.reward} with terms {show(terms)}; expected their sum. Name every term."
        )
