"""Which engine a conversation goes to, and how weights travel to engines."""

from __future__ import annotations

import pickle

import pytest
import torch

pytest.importorskip("ray")

from pxr_agents.engines.vllm.arguments import EngineError
from training.rllib.engines import shared_gpus
from training.rllib.remote_engine import FAR_AHEAD, Router
from training.rllib.store import to_array, to_tensor


def test_new_conversations_go_where_the_fewest_are_and_stay():
    router = Router(3)
    assert [router.route(key) for key in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [router.route(key) for key in range(6)] == [0, 1, 2, 0, 1, 2]
    for key in (1, 4):
        router.forget(key)
    assert [router.route(key) for key in (6, 7, 8)] == [1, 1, 0]


def test_conversations_with_one_prompt_stay_together_unless_their_engine_is_far_ahead():
    router = Router(2)
    assert [router.route(key, prompt=key // 4) for key in range(12)] == [0] * 4 + [1] * 4 + [0] * 4
    # Also when those that had it before are over.
    for key in range(4, 8):
        router.forget(key)
    assert [router.route(12, prompt=1), router.route(13, prompt="new")] == [1, 1]
    # Engine 0 has 8 and engine 1 has 2 of them: 10 more make it 16 ahead.
    assert FAR_AHEAD == 16
    assert [router.route(100 + key, prompt=0) for key in range(22)] == [0] * 10 + [1] * 12


def test_clients_begin_with_different_engines():
    assert [Router(3, first).route(0) for first in range(4)] == [0, 1, 2, 0]


def test_a_conversation_moves_for_good_when_its_engine_is_to_be_avoided():
    router = Router(2)
    assert router.route(0) == 0
    assert router.route(0, avoid={0}) == 1
    assert router.route(0) == 1
    # A new one counts the moved one where it is now.
    assert router.route(1) == 0
    # With nowhere else to go it stays.
    assert router.route(0, avoid={0, 1}) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64])
@pytest.mark.parametrize("shape", [(), (5,), (300, 7)])
def test_weights_travel_as_arrays_that_are_not_pickled(dtype, shape):
    tensor = (torch.randn(shape) * 100).to(dtype)
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(to_array(tensor), protocol=5, buffer_callback=buffers.append)
    assert sum(buffer.raw().nbytes for buffer in buffers) == tensor.nbytes
    assert len(text) < 300
    again = to_tensor(pickle.loads(text, buffers=buffers))
    assert again.dtype == dtype
    assert torch.equal(again, tensor)
    assert to_tensor(tensor) is tensor


def test_engines_that_take_turns_get_the_gpus_of_learners_on_one_node():
    # Learners come in any order: three on one node, two on another.
    homes = [("a", "0"), ("b", "4"), ("a", "1"), ("b", "5"), ("a", "7")]
    assert shared_gpus(homes, 2, 2) == [("a", ("0", "1")), ("b", ("4", "5"))]
    assert shared_gpus(homes, 4, 1) == [("a", ("0",)), ("a", ("1",)), ("a", ("7",)), ("b", ("4",))]
    with pytest.raises(EngineError, match="num_engines=3 of 2 GPUs of one node each; the learners have 3 on a, 2 on b"):
        shared_gpus(homes, 3, 2)
