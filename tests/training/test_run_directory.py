"""The order in which samples come, and where a run goes on in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_agents.engines.vllm.arguments import StartArguments
from training.config import EngineRecipe, EnvRecipe, PPORecipe
from training.ppo_run import FREE_KEYS, GROWING_KEYS
from training.run_directory import RunDirectory, SampleCursor

IDS = [f"s{k}" for k in range(7)]


def test_every_sample_once_an_epoch_in_a_new_order():
    cursor = SampleCursor(IDS, seed=0)
    first, second = cursor.take(7), cursor.take(7)
    assert sorted(first) == sorted(second) == IDS
    assert first != second
    assert first != IDS


def test_the_seed_is_all_the_order_depends_on():
    assert SampleCursor(IDS, seed=3).take(5) == SampleCursor(IDS, seed=3).take(5)
    assert SampleCursor(IDS, seed=3).take(7) != SampleCursor(IDS, seed=4).take(7)


@given(st.lists(st.integers(1, 7), max_size=10), st.integers(0, 10))
def test_a_stored_cursor_goes_on_where_it_was(sizes, at):
    straight, stopped = SampleCursor(IDS, seed=1), SampleCursor(IDS, seed=1)
    for k, n in enumerate(sizes):
        if k == at:
            state = stopped.state_dict()
            stopped = SampleCursor(IDS, seed=1)
            stopped.load_state_dict(state)
        taken = straight.take(n)
        assert taken == stopped.take(n)
        assert len(set(taken)) == n


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no samples"):
        SampleCursor([], seed=0)
    with pytest.raises(ValueError, match=r"got data of 7 samples, expected 8 different ones at a time; set groups_per"):
        SampleCursor(IDS, seed=0).take(8)


@pytest.mark.parametrize(("length", "grows"), [(4096, True), (0, True), (1024, False)])
def test_a_run_goes_on_with_the_engines_that_are_left(tmp_path, length, grows):
    def claim(num_engines, **vllm):
        engine = EngineRecipe(kind="vllm", num_engines=num_engines, vllm=StartArguments(**vllm))
        recipe = PPORecipe(model="m", env=EnvRecipe(id="e"), engine=engine)
        RunDirectory(tmp_path).claim(recipe, free_keys=FREE_KEYS, growing_keys=GROWING_KEYS)

    claim(4, max_model_len=2048)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    fewer = {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "weight_transfer": "nccl"}
    claim(2, max_model_len=2048, **fewer)
    if grows:
        claim(2, max_model_len=length, **fewer)
    else:
        with pytest.raises(ValueError, match=r"max_model_len \(may grow\): 2048 before, 1024 now"):
            claim(2, max_model_len=length, **fewer)
