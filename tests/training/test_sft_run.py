from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from pxr_agents.vlm import VLM
from tests.training.conftest import ENV
from training.config import SFTRecipe, TracesRecipe
from training.demonstrations import oracle_traces, write_traces
from training.run_directory import FinishedRunError, Interrupted
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


def test_it_learns_what_the_traces_say(make_recipe, speaker, tmp_path):
    run_sft(make_recipe(steps=25, batch_size=5))
    rows = lines(tmp_path / "run")
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    before, after = (VLM.from_pretrained(path).model.state_dict() for path in (speaker, tmp_path / "run" / "model"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
