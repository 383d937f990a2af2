"""What a real run leaves for those who watch it: lines, warnings, episodes with pictures."""

from __future__ import annotations

import json
import logging
import pickle

import pytest

pytest.importorskip("ray")

from safetensors.torch import load_file

from training.rllib.run import run_ppo

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def test_a_run_can_be_watched(make_recipe, tmp_path, caplog):
    out = tmp_path / "run"
    # Nobody uses operations always: the alarm has to go off.
    watching = {"episode_table_every": 2, "episode_table_size": 4, "alarm_rate": 1.0, "alarm_iterations": 2}
    recipe = make_recipe(out=str(out), iterations=3, num_env_runners=1, checkpoint_every=1, wandb=True, **watching)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, logger="training"):
        patch.setenv("WANDB_MODE", "offline")
        run_ppo(recipe)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    stored = sum(tensor.nbytes for tensor in load_file(out / "model" / "model.safetensors").values())
    for row in rows:
        assert row["usage/zoom_in"] == row["usage_rate"]
        assert 0 <= row["failures/malformed"] <= 1
        # 16 episodes of a 56x56 image and some ids.
        assert row["bytes/groups"] > 4 * 56 * 56 * 3
        # The head that is tied to the embeddings is in the state twice, and in the file once.
        assert stored <= row["bytes/weights"] < 2 * stored
        assert 0 < row["seconds/settle"] < row["seconds/sample"]
        parts = ("sample", "learn", "sync", "log", "checkpoint")
        assert sum(row[f"seconds/{part}"] for part in parts) <= row["seconds/total"]
    assert [row["alarm/any"] for row in rows] == [0.0, 1.0, 1.0]
    assert all(row["seconds/checkpoint"] > 0 for row in rows[1:])

    [warning] = [record.getMessage() for record in caplog.records if record.name == "training.logs"]
    assert warning.startswith("iteration 2: operations are used by")
    assert "Likely cause: " in warning
    state = pickle.loads((out / "checkpoints" / "3" / "algorithm_state.pkl").read_bytes())["pxr"]["alarm"]
    assert state["warned"] == ["any"]
    assert [split["groups"] for split in state["history"]["any"]] == [4, 4, 4]

    assert [path.name for path in (out / "episodes").iterdir()] == ["2"]
    records = [json.loads(line) for line in (out / "episodes" / "2" / "episodes.jsonl").read_text().splitlines()]
    assert len(records) == len(list((out / "episodes" / "2").glob("*.png"))) == 4
    for record in records:
        assert [kind for kind, _ in record["token_spans"]][:2] == ["read", "written"]
    assert (out / "episodes" / "2" / "index.html").exists()
    assert list(out.glob("wandb/offline-run-*/run-*.wandb"))
