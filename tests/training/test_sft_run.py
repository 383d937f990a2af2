from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from pxr_agents.vlm import VLM
from tests.training.conftest import ENV
from tests.training.rows import trained_logprobs
from training.config import LearnerRecipe, SFTRecipe, TracesRecipe
from training.demonstrations import Demonstrations, oracle_traces, read_traces, write_traces
from training.run_directory import FinishedRunError, Interrupted, SampleCursor, TrainingError
from training.sft_run import run_sft


@pytest.fixture
def make_recipe(speaker, tmp_path):
    write_traces(tmp_path / "traces.jsonl", oracle_traces(TracesRecipe(env=ENV, count=10)))

    def make(**changes):
        defaults = {
            "model": str(speaker),
            "traces": str(tmp_path / "traces.jsonl"),
            "out": str(tmp_path / "run"),
            "steps": 6,
            "batch_size": 4,
            "lr": 1e-3,
            "lr_warmup_steps": 2,
            "wandb": False,
        }
        return SFTRecipe(**(defaults | changes))

    return make


def lines(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("seconds/")} for row in rows]


FROZEN = {"prefetch": 0, "learner": LearnerRecipe(freeze_vision=True)}


@pytest.mark.parametrize("options", [{}, {"pack_tokens": 600}, FROZEN])
def test_a_run_takes_the_steps_of_a_plain_loop(make_recipe, speaker, tmp_path, options):
    """Losses, norms, rates and weights are those of transformers' forward and torch's AdamW, one trace at a time."""
    recipe = make_recipe(steps=4, weight_decay=0.1, max_grad_norm=0.5, lr_decay_fraction=0.5, **options)
    run_sft(recipe)
    vlm = VLM.from_pretrained(speaker)
    for name, parameter in vlm.model.named_parameters():
        parameter.requires_grad_(not (recipe.learner.freeze_vision and "visual" in name))
    parameters = [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1)
    rows = Demonstrations(read_traces(recipe.traces), vlm.chat)
    cursor = SampleCursor([str(k) for k in range(10)], seed=0)
    # Two steps of warm-up; over the last half of the run the rate falls.
    for factor, said in zip((0.5, 1.0, 1.0, 0.5), lines(tmp_path / "run"), strict=True):
        batch = [rows.row(int(k)) for k in cursor.take(4)]
        losses = torch.stack([-logprobs[token] for row in batch for token, logprobs in trained_logprobs(vlm, row)])
        optimizer.zero_grad()
        losses.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.param_groups[0]["lr"] = 1e-3 * factor
        optimizer.step()
        assert said["loss"] == pytest.approx(float(losses.mean().detach()), rel=1e-4)
        assert said["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
        assert said["lr"] == pytest.approx(1e-3 * factor)
        assert said["trained_tokens"] == len(losses)
        assert said["tokens"] == sum(len(row.ids) for row in batch)
    trained, expected = load_file(tmp_path / "run" / "model" / "model.safetensors"), vlm.model.state_dict()
    # Adam's first steps have the size of the rate however small a gradient is, so that rounding can turn some around.
    for name, value in trained.items():
        assert float((value - expected[name]).abs().mean()) < 2e-6, name
    before = load_file(speaker / "model.safetensors")
    assert max(float((value - before[name]).abs().max()) for name, value in trained.items()) > 1e-3


def test_bad_traces_are_named_or_left_out(make_recipe, tmp_path):
    recipe = make_recipe()
    rows = Demonstrations(read_traces(recipe.traces), VLM.from_pretrained(recipe.model).chat)
    limit = sorted(len(rows.row(k).ids) for k in range(10))[5]
    long = {rows.name(k) for k in range(10) if len(rows.row(k).ids) > limit}
    with pytest.raises(ValueError, match=rf"got \d+ ids, expected at most max_length={limit}"):
        run_sft(make_recipe(max_length=limit))
    run_sft(make_recipe(steps=3, max_length=limit, skip_bad_rows=True))
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped_rows.jsonl").read_text().splitlines()]
    # Three steps of four see all ten traces, and each is noted once.
    assert sorted(row["name"] for row in skipped) == sorted(long)
    assert sum(row["skipped_traces"] for row in lines(tmp_path / "run")) >= len(long)


def test_a_loss_that_is_no_number_ends_the_run(make_recipe, tmp_path):
    saying = r"at step 2, on the traces .*traces\.jsonl, line \d+.*checkpoints/1\. Lower lr or max_grad_norm"
    with pytest.raises(TrainingError, match=saying):
        run_sft(make_recipe(lr=1e30, lr_warmup_steps=0))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["1"]


def test_interrupted_and_resumed_equals_uninterrupted(make_recipe, tmp_path):
    def interrupt(done, total, measured):
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert run_sft(make_recipe(out=str(straight), checkpoint_every=2)) == straight / "model"
    recipe = make_recipe(out=str(stopped))
    with pytest.raises(Interrupted, match="Stopped after step 3 of 6"):
        run_sft(recipe, interrupt)
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["3"]
    with pytest.raises(ValueError, match=r"lr: 0\.001 before, 0\.002 now"):
        run_sft(make_recipe(out=str(stopped), lr=2e-3))
    seen = []
    run_sft(recipe, lambda done, total, measured: seen.append((done, total)))
    assert seen == [(4, 6), (5, 6), (6, 6)]

    one, other = (load_file(out / "model" / "model.safetensors") for out in (straight, stopped))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert lines(straight) == lines(stopped)
    assert [row["step"] for row in lines(straight)] == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in lines(straight)[:2]] == [5e-4, 1e-3]
    states = [torch.load(out / "checkpoints" / "6" / "state.pt") for out in (straight, stopped)]
    assert states[0]["cursor"] == states[1]["cursor"] == {"taken": 25}  # an id at a seam of epochs was skipped
    with pytest.raises(FinishedRunError):
        run_sft(recipe)
