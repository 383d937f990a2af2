"""Estimates of memory, by hand: a model of 1000 parameters on 4 learners."""

from __future__ import annotations

import pytest

from training.config import EnvRecipe, LearnerRecipe, PPORecipe
from training.memory import adapter_parameters, estimate, transient


def recipe(kind="ddp", *, num_learners=4, kl_coef=0.0, **learner):
    return PPORecipe(
        model="m",
        env=EnvRecipe(id="e"),
        num_learners=num_learners,
        groups_per_iteration=256,
        kl_coef=kl_coef,
        learner=LearnerRecipe(kind=kind, **learner),
    )


@pytest.mark.parametrize(
    ("kind", "dtype", "weights", "gradients", "optimizer"),
    [
        ("ddp", "float32", 4000, 8000, 8000),
        ("ddp", "bfloat16", 4000, 8000, 8000),
        ("zero2", "float32", 4000, 1000, 3000),
        ("zero2", "bfloat16", 2000, 1000, 3000),
        ("zero3", "float32", 1000, 1000, 3000),
        ("zero3", "bfloat16", 500, 1000, 3000),
    ],
)
def test_what_stays(kind, dtype, weights, gradients, optimizer):
    memory = estimate(recipe(kind, dtype=dtype), 1000)
    assert (memory.weights, memory.gradients, memory.optimizer) == (weights, gradients, optimizer)
    assert memory.total == memory.device == weights + gradients + optimizer
    assert memory.host == 0
    # One DDP learner holds gradients once.
    assert [estimate(recipe(num_learners=n), 1000).gradients for n in (0, 1)] == [4000, 4000]


def test_the_table_of_the_paper():
    """Figure 1: 7.5B parameters on 64 devices. Ours accumulates gradients in 4 bytes instead of 2."""
    p, n = 7.5e9, 64
    more = 2 * p / n
    zero2 = estimate(recipe("zero2", num_learners=n, dtype="bfloat16"), int(p)).total
    zero3 = estimate(recipe("zero3", num_learners=n, dtype="bfloat16"), int(p)).total
    assert zero2 - more == pytest.approx(16.6e9, rel=0.01)
    assert zero3 - more == pytest.approx(1.9e9, rel=0.02)


def test_offloading_moves_what_is_stepped_and_then_the_weights():
    memory = estimate(recipe("zero3", dtype="bfloat16", offload_optimizer=True), 1000)
    assert (memory.host, memory.device) == (4000, 500)
    memory = estimate(recipe("zero3", dtype="bfloat16", offload_optimizer=True, offload_parameters=True), 1000)
    assert (memory.host, memory.device) == (4500, 0)


def test_adapters_train_little_and_are_their_own_reference():
    memory = estimate(recipe("zero2", num_learners=1, dtype="bfloat16", lora_rank=8, kl_coef=0.1), 1000, 10)
    assert (memory.weights, memory.gradients, memory.optimizer, memory.reference) == (2000, 40, 120, 0)
    assert estimate(recipe(kl_coef=0.1), 1000).reference == 4000
    # Layers of 96 x 96 and 96 x 256, rank 4.
    assert adapter_parameters(4, [(96, 96), (96, 256)]) == 4 * 192 + 4 * 352
    with pytest.raises(ValueError, match="n_trainable is 1001 with n_parameters 1000"):
        estimate(recipe(), 1000, 1001)


def test_what_comes_and_goes():
    sizes = {"n_tokens": 10, "n_actions": 2, "width": 4, "n_layers": 3, "n_vocabulary": 100}
    logits = 2 * 100 * (12 + 2)
    inside = 34 * 4 * 10
    assert transient(recipe("zero2", dtype="bfloat16"), **sizes) == logits + 3 * inside
    checkpointed = recipe("zero2", dtype="bfloat16", gradient_checkpointing=True)
    assert transient(checkpointed, **sizes) == logits + inside + 10 * 4 * 3 * 2
    assert transient(recipe("zero3", dtype="bfloat16"), **sizes, largest_layer=50) == logits + 3 * inside + 200
    assert transient(recipe(), **sizes) == 2 * 100 * 16 + 2 * 3 * inside
