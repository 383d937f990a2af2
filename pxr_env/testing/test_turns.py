"""What models write: it is executed, or answered readably and counted apart from usage, within the limits."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from gymnasium.error import ResetNeeded

from pxr_env.errors import quote, show
from pxr_env.operations.registry import WORDS
from pxr_env.testing.playing import Environment, Playthrough, base, play
from pxr_env.testing.subject import TaskSubject
from pxr_env.testing.turns import draw_call, drawn_turns, surrounded, written
from pxr_env.types import Mistake, OperationCall, Sample, Turn

#: A text longer than this, in characters, is none that a model reads: it fills its context.
READABLE = 1000
#: Calls of a turn in which a model repeats itself, and characters of the reply to all of them.
_MANY_CALLS = 200
_LONGEST_REPLY = 8000
#: Drawn calls of each operation, for each sample.
_DRAWS = 8


def test_malformed_turns_are_answered(malformed: list[tuple[str, Playthrough]]) -> None:
    """Turns that cannot be read get a short text and no image, end nothing and raise nothing.

    Half a call, a call beside an answer, two answers, empty ones, unknown names, wrong types, lone surrogates. An
    empty reply leaves a model without a hint; an exception ends the run.
    """
    for where, episode in malformed:
        after = episode.last
        assert not episode.error, f"{where}: {episode.error}"
        ended = after.ended or after.reward
        assert not ended, f"{where}: expected no end and no reward. Answer with a text."
        assert not after.images, f"{where}: got {len(after.images)} images; expected a text only."
        assert_readable(after.text, where)


def test_failures_are_no_usage(malformed: list[tuple[str, Playthrough]]) -> None:
    """A turn that cannot be read adds to `failures`, and nothing to `usage`.

    Elsewhere malformed calls count as use of an operation, so that failing is rewarded.
    """
    for where, episode in malformed:
        if episode.error:
            continue
        before, after = episode.steps
        assert after.count("usage") == before.count("usage"), f'{where}: got usage. Count it under "failures".'
        assert after.count("failures") > before.count("failures"), f"{where}: no failure was counted; expected one."
        assert len(after.info["views"]) == len(before.info["views"]), f"{where}: expected as many views as before."


def test_prose_around_a_call_is_ignored(env: Environment, sample_id: str, call: str) -> None:
    """A call is executed with prose, line breaks, braces or Chinese around it.

    Elsewhere a line break after the closing tag means that there was no call.
    """
    for name, turn in surrounded(call).items():
        env.reset(options={"sample_id": sample_id})
        observation, *_, info = env.step(turn)
        got = f"a call with {name}: got {show(observation['text'], 200)}"
        n_executed = sum(info["usage"].values())
        assert n_executed == 1, f"{got}; expected the call to be executed. Search for it in the text."


def test_many_calls_get_a_short_reply(env: Environment, task: TaskSubject, sample_id: str) -> None:
    """A turn of 200 calls, or of 200 halves of one, is answered in at most 8,000 characters.

    A model that repeats itself until it is cut off must not fill its context, and the learner's memory, with replies.
    """
    for operation in base(env).operations.values():
        text = written(base(env), draw_call(base(env), operation, task.rng("many", sample_id)))
        if text is None:
            continue
        for name, turn in {"calls": f"{text}\n", "halves of a call": text[: len(text) // 2]}.items():
            env.reset(options={"sample_id": sample_id})
            observation, *_ = env.step(turn * _MANY_CALLS)
            length = len(observation["text"])
            got = f"{_MANY_CALLS} {name} of {operation.name}: got a text of {length} characters"
            assert length <= _LONGEST_REPLY, f"{got}; expected at most {_LONGEST_REPLY}. Refuse the rest in one line."


def test_the_end_is_final(env: Environment, sample: Sample) -> None:
    """An answer terminates the episode with no further observation, and a turn after the end raises `ResetNeeded`.

    A loop that forgets to reset would otherwise go on collecting reward.
    """
    turn = base(env).dialect.render_answer(sample.answers[0])
    observation, _, terminated, truncated, _ = env.step(f"I am sure now. {turn}")
    assert (terminated, truncated) == (True, False), "expected that an answer terminates. Read the answer."
    assert not observation["images"], "expected no images for an answer."
    with pytest.raises(ResetNeeded):
        env.step(turn)


def test_drawn_calls_are_executed_or_refused(env: Environment, task: TaskSubject, sample_id: str) -> None:
    """Every call whose arguments satisfy the schema of its operation either shows images and counts as usage, or is
    answered by a text and counts as a failure.

    Whatever a model can write within the schema will be written in a long run.
    """
    turns = drawn_turns(base(env), _DRAWS, task.rng("drawn", sample_id))
    recording = play(env, turns, sample_id=sample_id)
    if recording.error:
        pytest.fail(f"{show(turns[len(recording.turns)], 200)}: {recording.error}")
    for before, step in itertools.pairwise(recording.steps):
        executed, failed = (step.count(name) - before.count(name) for name in ("usage", "failures"))
        one = (executed, failed) in ((1, 0), (0, 1))
        assert one, f"{step.where}: {executed} executed and {failed} failed; expected one of both."
        if failed:
            assert not step.images, f"{step.where}: expected no images of a refused call."
            assert_readable(step.text, step.where)
        else:
            assert step.images, f"{step.where}: expected images. Raise OperationError where nothing is shown."


def test_repeated_calls_are_counted(env: Environment, sample_id: str, call: str) -> None:
    """A call that was executed before is counted in `duplicates`, and refused with the number of its image unless the
    task executes it again.

    Elsewhere models earn the bonus for looking by asking for the same picture again and again.
    """
    counts = [step.info["duplicates"] for step in play(env, [call, call], sample_id=sample_id).steps]
    assert counts == [0, 0, 1], "expected in duplicates the second of two equal calls."


def test_calls_survive_the_dialect(env: Environment, task: TaskSubject, sample_id: str) -> None:
    """What the dialect writes it reads again: drawn calls of every operation, with prose around them.

    Demonstrations are written by `render_call` and played through `parse`; a difference trains what fails.
    """
    rng, dialect = task.rng("dialect", sample_id), base(env).dialect
    for operation in [*base(env).operations.values()] * _DRAWS:
        drawn = draw_call(base(env), operation, rng)
        text = written(base(env), drawn)
        if text is not None:
            turn = dialect.parse(f"I look closer.\n{text}\n")
            read = [(call.name, dict(call.arguments)) for call in turn.calls if isinstance(call, OperationCall)]
            same = read == [(drawn.name, dict(drawn.arguments))] and not turn.answers and not turn.mistakes
            arguments = show(dict(drawn.arguments), 200)
            assert same, f"{show(text, 200)} was read as {_describe(turn)}; expected a call with {arguments}."


def test_answers_survive_the_dialect(plain: Environment, sample: Sample) -> None:
    """The accepted answers of the samples, and answers with signs of their own, are read as they were written.

    An answer that no turn can express cannot be given by any model.
    """
    dialect = base(plain).dialect
    for answer in (*sample.answers, *WORDS):
        try:
            text = dialect.render_answer(answer)
        except ValueError:
            if answer in sample.answers:
                raise
            continue
        turn = dialect.parse(text)
        got = f'the answer "{quote(answer)}" was read as {_describe(turn)}'
        assert turn == Turn(answers=(answer,)), f"{got}; expected itself, or ValueError."


def test_max_turns_truncates(silent: Playthrough, plain: Environment) -> None:
    """An episode without an answer is truncated, not terminated, with its turn number `max_turns`, and `truncated_by`
    says so.

    Learners bootstrap after a truncation and not after a termination; an endless episode stops a whole batch.
    """
    last, limit = silent.last, base(plain).limits.max_turns
    end = (len(silent.turns), last.terminated, last.truncated)
    assert end == (limit, False, True), "expected after max_turns turns terminated=False and truncated=True."
    assert last.info.get("truncated_by") == "max_turns"


@pytest.mark.parametrize("limit", ["max_operations", "max_images"])
def test_operations_stop_at_their_limit(task: TaskSubject, sample_id: str, executed: list[str], limit: str) -> None:
    """Beyond `max_operations` and `max_images` no operation is executed: it is answered by a text and shows nothing, or
    ends the episode where the task says so.

    A limit that is checked after an operation ran has shown, and paid for, one too many.
    """
    if len(executed) < 2:
        pytest.skip("found no 2 calls that are executed.")
    env = task.roomy()
    inner = base(env)
    trial = play(env, executed[:1], sample_id=sample_id)
    # Room for the first call and no further one.
    most = 1 if limit == "max_operations" else sum(len(step.images) for step in trial.steps)
    inner.limits = dataclasses.replace(inner.limits, **{limit: most})
    last = play(env, executed, sample_id=sample_id).last
    where = f"the second call with {limit}={most}"
    got = f"{where}: got {last.count('usage')} operations and {len(last.images)} images"
    assert (last.count("usage"), len(last.images)) == (1, 0), f"{got}; expected 1 and none."
    if last.truncated:
        assert last.info.get("truncated_by") == limit, where
    assert_readable(last.text, where)


def assert_readable(text: str, where: str) -> None:
    """Asserts that a reply is one that a model can use."""
    assert text.strip(), f"{where}: got an empty text; expected what was got, what was expected and what to do."
    message = f"{where}: got a text of {len(text)} characters; expected at most {READABLE}. Quote only its beginning."
    assert len(text) <= READABLE, message
    programmers = "Traceback (most recent call last)" in text or " object at 0x" in text
    assert not programmers, f"{where}: got {show(text, 200)}; expected words for the model, not for a programmer."


def _describe(turn: Turn) -> str:
    parts = [
        f"the mistake {show(call.message, 200)}"
        if isinstance(call, Mistake)
        else f"the call {show([call.name, dict(call.arguments)], 200)}"
        for call in turn.calls
    ]
    parts += [f"the answer {show(answer)}" for answer in turn.answers]
    parts += [f"the mistake {show(mistake.message, 200)}" for mistake in turn.mistakes]
    return " and ".join(parts) or "nothing"
