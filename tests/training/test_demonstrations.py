from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest

from pxr_agents.vlm import VLM
from pxr_env.errors import DataError
from tests.training.conftest import ENV
from training.config import TracesRecipe
from training.demonstrations import Demonstrations, oracle_traces, read_traces, write_traces
from training.traces import demonstrate

GOOD = {"env": {"id": ENV.id, "kwargs": ENV.kwargs}, "sample_id": "train-1", "turns": [{"text": r"\boxed{A}"}]}


@pytest.fixture(scope="module")
def chat(speaker):
    return VLM.from_pretrained(speaker).chat


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_oracle_traces_survive_a_file_and_become_what_the_policy_will_see(tmp_path, chat):
    traces = oracle_traces(TracesRecipe(env=ENV, count=24, zoom=0.5, correction=0.5))
    write_traces(tmp_path / "sub" / "traces.jsonl", traces)
    read = read_traces(tmp_path / "sub")
    assert [(trace.env, trace.sample_id, trace.turns) for trace in read] == [
        (trace.env, trace.sample_id, trace.turns) for trace in traces
    ]
    env = gymnasium.make(ENV.id, **ENV.kwargs)
    demonstrations = Demonstrations(read, chat)
    assert len(demonstrations) == 24
    for k, trace in enumerate(traces):
        row, expected = demonstrations.row(k), demonstrate(env, chat, trace.sample_id, trace.turns)
        assert np.array_equal(row.ids, expected.ids)
        assert np.array_equal(row.action, expected.action)
        assert all(map(np.array_equal, row.images, expected.images))


def test_samples_that_need_the_operation_are_always_shown_one():
    traces = oracle_traces(TracesRecipe(env=ENV, count=40, zoom=0.0, correction=1.0))
    data = gymnasium.make(ENV.id, **ENV.kwargs).unwrapped.data
    needs = [data.get(trace.sample_id).needs_operation for trace in traces]
    assert [len(trace.turns) for trace in traces] == [3 if need else 1 for need in needs]
    assert [[turn.train for turn in trace.turns] for trace in traces] == [
        [False, True, True] if need else [True] for need in needs
    ]
    assert len({trace.sample_id for trace in traces}) == 40
    assert 0 < sum(needs) < 40


def test_seeds_differ_and_repeat():
    def texts(seed):
        return [trace.turns for trace in oracle_traces(TracesRecipe(env=ENV, count=6, seed=seed, zoom=1.0))]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


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
        (GOOD | {"env": "pxr/SyntheticSearch-v0"}, "env is"),
        (GOOD | {"sample_id": 3}, "sample_id is 3"),
        (GOOD | {"turns": [{"txt": "A"}]}, "turns are"),
        (GOOD | {"turns": [{"text": "A", "train": "no"}]}, "turns are"),
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
    with pytest.raises(DataError, match=r"python -m training traces"):
        read_traces(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="holds no trace"):
        read_traces(tmp_path)


def test_a_trace_the_environment_does_not_take_is_named_when_it_is_played(tmp_path, chat):
    lines = [GOOD | {"sample_id": "train-x"}, GOOD | {"turns": [{"text": "hm"}, {"text": r"\boxed{A}"}]}]
    demonstrations = Demonstrations(read_traces(write(tmp_path / "traces.jsonl", *lines)), chat)
    with pytest.raises(DataError, match=r"line 1: .*train-x"):
        demonstrations.row(0)
    with pytest.raises(DataError, match=r"line 2: Turn 1 .* failed"):
        demonstrations.row(1)


def test_zooms_need_evidence():
    from tests.eval.photographs import make_env  # samples about which nothing is known

    assert make_env(max_pixels=28 * 28 * 4).data.get("cats").evidence_box is None
    recipe = TracesRecipe(env=type(ENV)(id="Photographs-v0", kwargs={"max_pixels": 28 * 28 * 4}), count=1, zoom=1.0)
    with pytest.raises(ValueError, match="has no evidence box"):
        oracle_traces(recipe)
