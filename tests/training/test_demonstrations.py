"""Demonstrations: what they show, how they are written down, and what of them is trained on."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_agents.checkpoint import read_checkpoint
from pxr_env.errors import DataError
from tests.training.conftest import ENV
from tests.training.rows import trained_texts
from training.config import TracesRecipe
from training.demonstrations import (
    Demonstrations,
    ScriptedTurn,
    answer_turn,
    demonstrate,
    oracle_traces,
    oracle_turns,
    read_traces,
    write_traces,
    wrong_box,
    zoom_turn,
)
from training.quickstart.recipe import TraceRecipe
from training.quickstart.stages import search_trace, target_cell


@pytest.fixture(scope="module")
def chat(tiny_path):
    return read_checkpoint(tiny_path).chat


@pytest.fixture
def env() -> Any:
    return gymnasium.make(ENV.id, **ENV.kwargs)


def test_a_masked_wrong_operation_carries_no_loss(env, chat):
    env.reset(options={"sample_id": "train-3"})
    sample = env.unwrapped.sample
    wrong = zoom_turn(env, (0, 0, 112, 112), train=False)
    right, answer = zoom_turn(env, target_cell(sample)), answer_turn(env, sample.answers[0])
    tokens = demonstrate(env, chat, "train-3", [wrong, right, answer])

    # The ids of the row, put together again from its parts.
    observation, info = env.reset(options={"sample_id": "train-3"})
    replies = [env.step(turn.text)[0] for turn in (wrong, right)]
    vision = [chat.tokenizer.convert_tokens_to_ids(f"<|vision_{side}|>") for side in ("start", "end")]
    rows, columns = chat.grid(observation["images"][0])
    picture = [vision[0], *[chat.image_id] * (rows * columns), vision[1]]

    def fixed(text):
        return chat.tokenizer.encode(text, add_special_tokens=False)

    close, system = fixed("<|im_end|>\n<|im_start|>assistant\n"), chat.encode_text(info["system_prompt"])
    prompt = [*fixed("<|im_start|>system\n"), *system, *fixed("<|im_end|>\n<|im_start|>user\n"), *picture]
    prompt += [*chat.encode_text(observation["text"]), *close]
    between = [
        [*fixed("\n<|im_start|>user\n"), *picture, *chat.encode_text(reply["text"]), *close] for reply in replies
    ]
    turns = [[*chat.encode_text(turn.text), chat.stop_id] for turn in (wrong, right, answer)]
    parts = [(prompt, False), (turns[0], False), (between[0], False), (turns[1], True), (between[1], False)]
    parts.append((turns[2], True))
    assert tokens.ids.tolist() == [token for ids, _ in parts for token in ids]
    assert tokens.action.tolist() == [trained for ids, trained in parts for _ in ids]
    assert len(tokens.images) == 3
    assert np.array_equal(tokens.images[1], replies[0]["images"][0])


@pytest.mark.parametrize(
    ("recipe", "n_trained", "n_images"),
    [
        (TraceRecipe(zoom=0.0), 1, 1),
        (TraceRecipe(zoom=1.0, correction=0.0), 2, 2),
        (TraceRecipe(zoom=1.0, correction=1.0), 2, 3),
        (TraceRecipe(zoom=1.0, correction=0.0, miss=1.0), 1, 2),
        (TraceRecipe(zoom=1.0, correction=0.0, miss=1.0, answer_from_view=True), 2, 2),
    ],
)
def test_search_traces_train_on_turns_only(env, chat, recipe, n_trained, n_images):
    rng = np.random.default_rng(0)
    for k in range(12):
        tokens = search_trace(env, chat, f"train-{k}", recipe, rng)
        texts = trained_texts(chat, tokens)
        assert (len(texts), len(tokens.images)) == (n_trained, n_images)
        assert all(text.startswith(("<tool_call>", "\\boxed{")) for text in texts)
        assert not np.isin(tokens.ids[tokens.action], chat.banned_ids).any()
        if recipe.miss == 0:
            assert texts[-1] == answer_turn(env, env.unwrapped.data.get(f"train-{k}").answers[0]).text


def test_oracle_turns_of_all_kinds_are_answered_right(env):
    rng = np.random.default_rng(0)
    trained = {"direct": [True], "single-pass": [True, True], "self-correction": [False, True, True]}
    for n_operations, kind in enumerate(trained):
        for k in range(8):
            env.reset(options={"sample_id": f"train-{k}"})
            turns = oracle_turns(env, kind, rng)
            assert [turn.train for turn in turns] == trained[kind]
            for turn in turns:
                *_, reward, terminated, _, info = env.step(turn.text)
            assert (terminated, reward, info["usage"]["zoom_in"]) == (True, 1.0, n_operations)
            assert not any(info["failures"].values())
    with pytest.raises(ValueError, match="got kind='both'"):
        oracle_turns(env, "both", rng)


@given(st.integers(8, 200), st.integers(8, 200), st.tuples(*[st.floats(0, 1)] * 4), st.integers(0, 3))
def test_a_wrong_box_is_elsewhere(width, height, shares, seed):
    # A box of at most a third of each side always leaves room.
    w, h = 1 + shares[0] * (width / 3 - 1), 1 + shares[1] * (height / 3 - 1)
    x, y = shares[2] * (width - w), shares[3] * (height - h)
    x1, y1, x2, y2 = wrong_box((width, height), (x, y, x + w, y + h), np.random.default_rng(seed))
    assert -1e-9 <= x1 <= x2 <= width + 1e-9
    assert -1e-9 <= y1 <= y2 <= height + 1e-9
    assert (x2 - x1, y2 - y1) == pytest.approx((w, h))
    overlap = max(0.0, min(x2, x + w) - max(x1, x)) * max(0.0, min(y2, y + h) - max(y1, y))
    assert overlap == pytest.approx(0, abs=1e-9)


def test_no_room_for_a_wrong_box():
    with pytest.raises(ValueError, match="leaves no room"):
        wrong_box((100, 100), (10, 10, 90, 90), np.random.default_rng(0))


GOOD = {"env": {"id": ENV.id, "kwargs": ENV.kwargs}, "sample_id": "train-1", "turns": [{"text": r"\boxed{A}"}]}


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_oracle_traces_survive_a_file_and_become_what_the_policy_will_see(tmp_path, env, chat):
    traces = oracle_traces(TracesRecipe(env=ENV, count=24, zoom=0.5, correction=0.5))
    write_traces(tmp_path / "sub" / "traces.jsonl", traces)
    demonstrations = Demonstrations(read_traces(tmp_path / "sub"), chat)
    assert len(demonstrations) == 24
    for k, trace in enumerate(traces):
        row, expected = demonstrations.row(k), demonstrate(env, chat, trace.sample_id, trace.turns)
        assert np.array_equal(row.ids, expected.ids)
        assert np.array_equal(row.action, expected.action)
        assert all(map(np.array_equal, row.images, expected.images))


def test_samples_that_need_the_operation_are_always_shown_one(env):
    traces = oracle_traces(TracesRecipe(env=ENV, count=40, zoom=0.0, correction=1.0))
    needs = [env.unwrapped.data.get(trace.sample_id).needs_operation for trace in traces]
    expected = [[False, True, True] if need else [True] for need in needs]
    assert [[turn.train for turn in trace.turns] for trace in traces] == expected
    assert len({trace.sample_id for trace in traces}) == 40
    assert 0 < sum(needs) < 40


def test_seeds_differ_and_repeat():
    first, again, other = (
        [trace.turns for trace in oracle_traces(TracesRecipe(env=ENV, count=6, seed=seed, zoom=1.0))]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_train_and_kwargs_may_be_left_out_and_empty_lines_are_skipped(tmp_path):
    line = {"env": {"id": ENV.id}, "sample_id": "train-1", "turns": [{"text": "x", "train": False}, {"text": "é"}]}
    [trace] = read_traces(write(tmp_path / "a.jsonl", "", line))
    assert trace.env.kwargs == {}
    assert [(turn.text, turn.train) for turn in trace.turns] == [("x", False), ("é", True)]
    assert trace.origin.endswith("a.jsonl, line 2")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON"),
        ([1], "expected {"),
        (GOOD | {"extra": 1}, "extra"),
        (GOOD | {"origin": "here"}, "origin"),
        (GOOD | {"env": "pxr/SyntheticSearch-v0"}, "env is"),
        (GOOD | {"sample_id": 3}, "sample_id is 3"),
        (GOOD | {"turns": [{"txt": "A"}]}, "turns.0.text is"),
        (GOOD | {"turns": [{"text": "A", "train": "no"}]}, 'turns.0.train is "no"'),
        (GOOD | {"turns": []}, "no turn is to be trained on"),
        (GOOD | {"turns": [{"text": "A", "train": False}]}, "no turn is to be trained on"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = write(tmp_path / "traces.jsonl", GOOD, line)
    with pytest.raises(DataError, match=r"traces\.jsonl, line 2: ") as error:
        read_traces(path)
    assert message in str(error.value)


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(DataError, match="pxr train traces"):
        read_traces(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="holds no trace"):
        read_traces(tmp_path)


def test_a_trace_the_environment_does_not_take_is_named_when_it_is_played(tmp_path, env, chat):
    answer = {"text": r"\boxed{A}"}
    lines = [GOOD | {"sample_id": "train-x"}, GOOD | {"turns": [{"text": "hm"}, answer]}]
    demonstrations = Demonstrations(read_traces(write(tmp_path / "traces.jsonl", *lines)), chat)
    with pytest.raises(DataError, match=r"line 1: .*train-x"):
        demonstrations.row(0)
    with pytest.raises(DataError, match=r"line 2: Turn 1 of a trace of sample 'train-1' failed"):
        demonstrations.row(1)
    with pytest.raises(ValueError, match=r"ended after turn 1 of 2"):
        demonstrate(env, chat, "train-0", [ScriptedTurn(**answer)] * 2)


def test_zooms_need_evidence():
    from tests.eval.photographs import make_env  # samples about which nothing is known

    assert make_env(max_pixels=28 * 28 * 4).data.get("cats").evidence_box is None
    recipe = TracesRecipe(env=type(ENV)(id="Photographs-v0", kwargs={"max_pixels": 28 * 28 * 4}), count=1, zoom=1.0)
    with pytest.raises(ValueError, match="has no evidence box"):
        oracle_traces(recipe)
