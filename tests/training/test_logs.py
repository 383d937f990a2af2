from __future__ import annotations

import json
import sys

import pytest

from training.config import SFTRecipe
from training.logs import MetricsLog, combine_metrics, open_wandb


def test_metrics_are_combined_by_mean_and_maximum():
    rows = [{"loss": 1.0, "ratio_max": 2.0}, {"loss": 4.0, "ratio_max": 1.5, "gap": 3.0}]
    assert combine_metrics(rows) == {"loss": 2.5, "ratio_max": 2.0, "gap": 3.0}
    assert combine_metrics([]) == {}


def test_a_log_goes_on_after_the_last_line_that_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        MetricsLog(path, keep=step - 1, counter="step").write({"step": step, "loss": 1 / step})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    log = MetricsLog(path, keep=2, counter="step")
    assert log.past == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    log.write({"step": 3, "loss": 9.0})
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [1.0, 0.5, 9.0]


@pytest.fixture
def recipe(tmp_path):
    return SFTRecipe(model="m", traces="t", out=str(tmp_path))


@pytest.mark.slow
def test_wandb_writes_an_offline_run_without_a_key(recipe, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    ids = []
    for step in (1, 2):
        with open_wandb(recipe, counter="step") as log:
            log({"step": step, "loss": 0.5})
        ids.append((tmp_path / "wandb_id").read_text())
    assert ids[0] == ids[1]
    runs = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert runs
    assert all(ids[0].strip() in run.name and run.stat().st_size > 0 for run in runs)


def test_unwanted_wandb_does_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for wanted in (False, True):  # with None in sys.modules it is as if it were not installed
        chosen = SFTRecipe(model="m", traces="t", out=str(tmp_path), wandb=wanted)
        with open_wandb(chosen, counter="step") as log:
            log({"step": 1})
    assert list(tmp_path.iterdir()) == []
