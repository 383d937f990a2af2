"""Checks of answers and rewards: the oracle is right, wrong answers are not, and the reward is what its terms say."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pxr_env.datasets.evidence import box_problem, time_problem
from pxr_env.errors import quote, show
from pxr_env.media import ImageSource
from pxr_env.oracle import shows_evidence
from pxr_env.testing.playing import Recording, base, play
from pxr_env.testing.report import NotApplicable
from pxr_env.testing.subject import TaskSubject
from pxr_env.testing.turns import MARKER
from pxr_env.types import Sample
from pxr_env.views import View

#: Answers that scorers have stumbled over.
_HOSTILE = (
    "nan", "inf", "-0", "1e999", "9" * 5000, "1/0", "(A", "A) B) C)", "[0, 0, 0, 0]", "\\frac{1}{0}", "\\" * 50,
    "٣", "²", "\U0001d7db", "İ", "ﬃ", "\u202e3", "a" * 100_000, "{" * 500 + "}" * 500, "None", "[1, 2", "左",
)  # fmt: skip


def the_oracle_scores_one(subject: TaskSubject) -> Iterator[str]:
    """A scripted agent that knows the evidence looks at it, answers `answers[0]`, and scores 1.0 within the limits.

    Where it does not, the data, the scorer, the limits or the coordinates are wrong, and no model can do better.
    """
    for recording in subject.oracle_episodes:
        last = recording.last
        if not last.terminated or last.info.get("score") != 1.0:
            yield (
                f'sample "{recording.sample_id}": the oracle played {show(recording.turns, 300)} and ended with score '
                f"{show(last.info.get('score'))}, answer {show(last.info.get('answer'))} and target "
                f"{show(last.info.get('target'))}; expected score 1.0. Does the scorer suit answers[0]?"
            )


def evidence_lies_in_its_source(subject: TaskSubject) -> Iterator[str]:
    """`evidence_box` lies inside source 1, in its pixels; `evidence_time` inside a video, and holds a frame.

    Evidence given in pixels of a resized picture makes hits of misses.
    """
    data = base(subject.make()).data
    samples = [data.get(sample_id) for sample_id in subject.sample_ids]
    if all(sample.evidence_box is None and sample.evidence_time is None for sample in samples):
        raise NotApplicable("the samples name no evidence.")
    for sample in samples:
        problem = _evidence_problem(sample)
        if problem:
            yield f'sample "{sample.sample_id}": {problem}'


def needed_operations_show_the_evidence(subject: TaskSubject) -> Iterator[str]:
    """Where `needs_operation` is True, the oracle executes an operation, and a view of it shows the evidence larger
    than the first views do, or at a time that they do not show.

    A need that is claimed but cannot be met, or that the first view meets already, makes the measured gain of an
    operation meaningless.
    """
    env = subject.make()
    data = base(env).data
    needy = [recording for recording in subject.oracle_episodes if data.get(recording.sample_id).needs_operation]
    if not needy:
        raise NotApplicable("no sample that was looked at says that it needs an operation.")
    for recording in needy:
        sample = data.get(recording.sample_id)
        where = f'sample "{recording.sample_id}" needs an operation'
        if sample.evidence_box is None and sample.evidence_time is None and sample.evidence_call is None:
            yield f"{where}, and no evidence came; expected evidence_box, evidence_time or evidence_call. Add one."
        elif not sum(recording.last.info.get("usage", {}).values()):
            yield f"{where}, and the oracle executed none: {show(recording.turns, 300)}; expected one. Offer it."
        elif sample.evidence_call is None:
            played = play(env, recording.turns, sample_id=recording.sample_id)
            views, n_first = base(env).views, len(played.steps[0].images)
            shown = [_magnification(view) for view in views[n_first:] if shows_evidence(view, base(env))]
            at_first = [_magnification(view) for view in views[:n_first] if shows_evidence(view, base(env))]
            if not shown or max(shown) <= max(at_first, default=0.0):
                most, first = max(shown, default=0.0), max(at_first, default=0.0)
                yield (
                    f"{where}, and the oracle saw the evidence at {most:.2f} shown pixels per source pixel; expected "
                    f"more than at first, {first:.2f}. Raise max_pixels, or make the source larger."
                )


def wrong_answers_score_less(subject: TaskSubject) -> Iterator[str]:
    """An answer that is a nonsense word scores less than `answers[0]`, and is not correct.

    A scorer that finds the target inside a longer answer, or takes anything where it finds no number, is beaten by it.
    """
    env = subject.roomy()
    for sample_id in subject.sample_ids:
        recording = play(env, [base(env).dialect.render_answer(MARKER)], sample_id=sample_id)
        info = recording.last.info
        if info.get("score", 1.0) >= 1.0 or info.get("correct", True):
            yield (
                f'sample "{sample_id}": the answer "{MARKER}" got score {show(info.get("score"))} and correct='
                f"{show(info.get('correct'))}, target {show(info.get('target'))}; expected a lower score and False. "
                "Choose a stricter scorer."
            )


def hostile_answers_are_scored(subject: TaskSubject) -> Iterator[str]:
    """Every answer gets a finite score from 0 to 1 and ends the episode: NaN, huge numbers, fractions by zero, foreign
    digits, 100,000 characters.

    A scorer that raises loses a whole group; one that returns NaN poisons the advantages of all its episodes.
    """
    env = subject.roomy()
    for sample_id in subject.sample_ids[:1]:
        for answer in _HOSTILE:
            try:
                turn = base(env).dialect.render_answer(answer)
            except ValueError:
                continue
            recording = play(env, [turn], sample_id=sample_id)
            score = recording.last.info.get("score")
            if recording.error or not isinstance(score, float) or not 0 <= score <= 1:
                yield (
                    f'sample "{sample_id}", the answer "{quote(answer, 40)}": '
                    f"{recording.error or f'score {show(score)} came; expected a float from 0 to 1.'}"
                )


def the_reward_is_the_sum_of_its_terms(subject: TaskSubject) -> Iterator[str]:
    """The reward of every step is the finite sum of `info["reward_terms"]`.

    Curves of the terms explain the reward only if nothing is missing among them.
    """
    for recording in subject.episodes:
        for number, step in enumerate(recording.steps):
            terms = step.info.get("reward_terms", {})
            if not math.isfinite(step.reward) or not math.isclose(step.reward, sum(terms.values()), abs_tol=1e-9):
                yield (
                    f"{recording.where(number)}: reward {step.reward} came with terms {show(terms)}; expected "
                    f"{sum(terms.values())}, their sum. Name every term."
                )


def unanswered_episodes_are_incorrect(subject: TaskSubject) -> Iterator[str]:
    """An episode that ends without an answer has score 0.0, correct False and answer None.

    Otherwise silence is a strategy.
    """
    for recording in subject.silent_episodes:
        info = recording.last.info
        outcome = {name: info.get(name) for name in ("answer", "score", "correct")}
        if recording.last.ended and outcome != {"answer": None, "score": 0.0, "correct": False}:
            yield f"{_ending(recording)}: {show(outcome)} came; expected answer None, score 0.0 and correct False."


def _ending(recording: Recording) -> str:
    return f'sample "{recording.sample_id}", {len(recording.turns)} turns without an answer'


def _evidence_problem(sample: Sample) -> str | None:
    source = sample.sources[0]
    if sample.evidence_box is not None and (problem := box_problem(sample.evidence_box, source.size)):
        return f"{problem}."
    if sample.evidence_time is None:
        return None
    if isinstance(source, ImageSource):
        return f"evidence_time {sample.evidence_time} came for an image; expected it for a video only."
    problem = time_problem(sample.evidence_time, source)
    return f"{problem}." if problem else None


def _magnification(view: View) -> float:
    """Shown pixels per source pixel, along a side."""
    return min(view.size[0] / view.region.quad.width, view.size[1] / view.region.quad.height)
