from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_agents.vlm import VLM
from tests.training.conftest import ENV
from tests.training.rows import trained_texts
from training.mistakes import wrong_box
from training.traces import (
    ScriptedTurn,
    TraceRecipe,
    answer_turn,
    demonstrate,
    oracle_turns,
    search_trace,
    target_cell,
    zoom_turn,
)


@pytest.fixture(scope="module")
def vlm(speaker):
    return VLM.from_pretrained(speaker)


@pytest.fixture
def env() -> Any:
    return gymnasium.make(ENV.id, **ENV.kwargs)


def test_a_masked_wrong_operation_carries_no_loss(env, vlm):
    env.reset(options={"sample_id": "train-3"})
    sample = env.unwrapped.sample
    wrong = zoom_turn(env, (0, 0, 112, 112), train=False)
    right, answer = zoom_turn(env, target_cell(sample)), answer_turn(env, sample.answers[0])
    tokens = demonstrate(env, vlm.chat, "train-3", [wrong, right, answer])

    # The ids of the row, put together again from its parts.
    chat, stop = vlm.chat, vlm.chat.stop_id
    observation, info = env.reset(options={"sample_id": "train-3"})
    replies = [env.step(turn.text)[0] for turn in (wrong, right)]
    vision = [chat.tokenizer.convert_tokens_to_ids(f"<|vision_{side}|>") for side in ("start", "end")]
    rows, columns = chat.grid(observation["images"][0])
    picture = [vision[0], *[chat.image_id] * (rows * columns), vision[1]]

    def fixed(text):
        return chat.tokenizer.encode(text, add_special_tokens=False)

    user_close = fixed("<|im_end|>\n<|im_start|>assistant\n")
    between = [
        [*fixed("\n<|im_start|>user\n"), *picture, *chat.encode_text(reply["text"]), *user_close] for reply in replies
    ]
    prompt = [
        *fixed("<|im_start|>system\n"),
        *chat.encode_text(info["system_prompt"]),
        *fixed("<|im_end|>\n<|im_start|>user\n"),
        *picture,
        *chat.encode_text(observation["text"]),
        *user_close,
    ]
    turns = [[*chat.encode_text(turn.text), stop] for turn in (wrong, right, answer)]
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
def test_search_traces_train_on_turns_only(env, vlm, recipe, n_trained, n_images):
    rng = np.random.default_rng(0)
    for k in range(12):
        tokens = search_trace(env, vlm.chat, f"train-{k}", recipe, rng)
        sample = env.unwrapped.data.get(f"train-{k}")
        texts = trained_texts(vlm.chat, tokens)
        assert len(texts) == n_trained
        assert len(tokens.images) == n_images
        assert all(text.startswith(("<tool_call>", "\\boxed{")) for text in texts)
        assert not np.isin(tokens.ids[tokens.action], vlm.chat.banned_ids).any()
        if recipe.miss == 0:
            assert texts[-1] == answer_turn(env, sample.answers[0]).text


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
            assert terminated
            assert reward == 1.0
            assert info["usage"]["zoom_in"] == n_operations
            assert not any(info["failures"].values())
    with pytest.raises(ValueError, match="got kind='both'"):
        oracle_turns(env, "both", rng)


@given(
    st.integers(8, 200),
    st.integers(8, 200),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.integers(0, 3),
)
def test_a_wrong_box_is_elsewhere(width, height, shares, seed):
    # A box of at most a third of each side always leaves room.
    w, h = 1 + shares[0] * (width / 3 - 1), 1 + shares[1] * (height / 3 - 1)
    x, y = shares[2] * (width - w), shares[3] * (height - h)
    x1, y1, x2, y2 = wrong_box((width, height), (x, y, x + w, y + h), np.random.default_rng(seed))
    assert -1e-9 <= x1 <= x2 <= width + 1e-9
    assert -1e-9 <= y1 <= y2 <= height + 1e-9
    assert x2 - x1 == pytest.approx(w)
    assert y2 - y1 == pytest.approx(h)
    overlap = max(0.0, min(x2, x + w) - max(x1, x)) * max(0.0, min(y2, y + h) - max(y1, y))
    assert overlap == pytest.approx(0, abs=1e-9)


def test_no_room_for_a_wrong_box():
    with pytest.raises(ValueError, match="leaves no room"):
        wrong_box((100, 100), (10, 10, 90, 90), np.random.default_rng(0))


def test_a_trace_that_the_environment_refuses_is_named(env, vlm):
    env.reset(options={"sample_id": "train-0"})
    answer = answer_turn(env, "A")
    with pytest.raises(ValueError, match=r"ended after turn 1 of 2"):
        demonstrate(env, vlm.chat, "train-0", [answer, answer])
    with pytest.raises(ValueError, match=r"Turn 1 of a trace of sample 'train-0' failed"):
        demonstrate(env, vlm.chat, "train-0", [ScriptedTurn(text="hm"), answer])
