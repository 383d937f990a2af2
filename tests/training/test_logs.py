from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from contextlib import closing

import pytest
from rich.console import Console

from pxr_agents.types import Episode, Step
from tests.training.conftest import ENV
from tests.training.wandb_file import history, records
from training import logs
from training.alarm import AlarmRule, AlarmState, Notice, watch_usage
from training.config import PPORecipe, SFTRecipe
from training.episode_table import PicturedEpisode
from training.logs import MetricsLog, RunLog, StageProgress, Stopwatch, WandbLog, combine_metrics, note, open_wandb


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


@pytest.mark.slow
def test_wandb_goes_on_with_an_offline_run_without_a_key(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    ids = []
    for step in (1, 2):
        with open_wandb(SFTRecipe(model="m", traces="t", out=str(tmp_path)), counter="step") as log:
            log({"step": step, "loss": 0.5})
        ids.append((tmp_path / "wandb_id").read_text())
    assert ids[0] == ids[1]
    runs = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert runs
    assert all(ids[0].strip() in run.name and run.stat().st_size > 0 for run in runs)


def test_unwanted_wandb_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for wanted in (False, True):  # with None in sys.modules it is as if it were not installed
        chosen = SFTRecipe(model="m", traces="t", out=str(tmp_path), wandb=wanted)
        with open_wandb(chosen, counter="step") as log:
            log({"step": 1})
            log.episodes([PicturedEpisode(episode=Episode(task="t", sample_id="s"), picture=None)], iteration=1)
            log.alert(Notice(kind="recovered", operation="any", text="back"))
    assert list(tmp_path.iterdir()) == []


def test_a_stopwatch_tells_raw_seconds_since_the_last_call():
    watch = Stopwatch()
    for _ in range(2):
        with watch.part("log"):
            time.sleep(0.02)
    with pytest.raises(KeyError), watch.part("checkpoint"):
        raise KeyError
    first, second = watch.take(), watch.take()
    assert first.keys() == {"seconds/log", "seconds/checkpoint", "seconds/total"}
    assert 0.04 <= first["seconds/log"] <= first["seconds/total"]
    assert first["seconds/checkpoint"] < first["seconds/log"]
    assert second.keys() == {"seconds/total"}


ZOOM = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [28, 0, 56, 28], "target_image": 1}}\n</tool_call>'


def episode(*turns, sample_id="train-1", used=0):
    steps = [Step(turn=turn, reply="", reward=0.0, reward_terms={"correct": 0.0}) for turn in turns]
    return Episode(task="t", sample_id=sample_id, steps=steps, usage={"zoom_in": used})


@pytest.fixture
def ppo_recipe(tmp_path):
    def make(**changes):
        defaults = {"episode_table_every": 2, "episode_table_size": 3, "wandb": False}
        return PPORecipe(model="m", env=ENV, out=str(tmp_path), **(defaults | changes))

    return make


def test_a_run_is_logged_line_by_line_and_shown_now_and_then(ppo_recipe, tmp_path):
    episodes = [episode("\\boxed{A}", sample_id=f"train-{k}") for k in range(5)]
    with closing(RunLog(ppo_recipe(), tmp_path, wandb=WandbLog(None), keep=0)) as log:
        for iteration in range(1, 6):
            line = log.write({"iteration": float(iteration), "reward": 0.5}, episodes, [])
            with log.watch.part("checkpoint"):
                time.sleep(0.01)
    assert sorted(path.name for path in (tmp_path / "episodes").iterdir()) == ["2", "4"]
    assert len(list((tmp_path / "episodes" / "4").glob("*.png"))) == 3
    rows = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1] == line
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["reward"] == 0.5 and row["seconds/total"] > 0 for row in rows)
    # What comes after a line is in the next one.
    assert rows[0]["seconds/checkpoint"] == rows[0]["seconds/log"] == 0.0
    assert all(row["seconds/checkpoint"] >= 0.01 and row["seconds/log"] > 0 for row in rows[1:])
    assert RunLog(ppo_recipe(), tmp_path, wandb=WandbLog(None), keep=3).past == rows[:3]


def test_a_dying_operation_is_a_warning_in_the_log(ppo_recipe, tmp_path, caplog):
    state, rule = AlarmState(), AlarmRule(rate=0.2, iterations=2)
    caplog.set_level(logging.INFO, logger="training")
    with closing(RunLog(ppo_recipe(episode_table_every=0), tmp_path, wandb=WandbLog(None), keep=0)) as log:
        for iteration, users in enumerate([5, 1, 0, 0, 4, 4], start=1):
            episodes = [episode("x", used=int(k < users)) for k in range(10)]
            state, notices = watch_usage(state, episodes, iteration=iteration, rule=rule)
            log.write({"iteration": float(iteration), **state.flags()}, episodes, notices)
    said = [(record.levelname, record.getMessage().splitlines()[0]) for record in caplog.records]
    assert [level for level, _ in said] == ["WARNING", "INFO"]
    assert said[0][1].startswith("iteration 3: operations are used by 5.0%")
    assert said[1][1].startswith("iteration 6: operations are used by 40.0%")
    flags = [json.loads(text)["alarm/any"] for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert flags == [0, 0, 1, 1, 1, 0]
    # None were wanted.
    assert not (tmp_path / "episodes").exists()


@pytest.mark.slow
def test_wandb_gets_scalars_episodes_with_pictures_and_alerts(ppo_recipe, tmp_path, monkeypatch):
    """The real library, offline."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    zoomed, direct = episode(ZOOM, "\\boxed{A}", used=1), episode("\\boxed{B}", sample_id="train-2")
    notice = Notice(kind="low", operation="any", text="it dies\nbecause")
    recipe = ppo_recipe(wandb=True)
    with open_wandb(recipe) as wandb, closing(RunLog(recipe, tmp_path, wandb=wandb, keep=0)) as log:
        log.write({"iteration": 1.0, "usage/zoom_in": 0.5}, [zoomed, direct], [])
        log.write({"iteration": 2.0, "usage/zoom_in": 0.25}, [zoomed, direct], [notice])
    assert "WANDB_DATA_DIR" not in os.environ
    first, second = history(tmp_path)
    assert (first["_step"], first["usage/zoom_in"]) == (1, 0.5)
    assert (second["_step"], second["usage/zoom_in"], second["episodes.nrows"]) == (2, 0.25, 2)
    [alert] = [record.alert for record in records(tmp_path) if record.WhichOneof("record_type") == "alert"]
    assert (alert.title, alert.text, alert.level) == ("it dies", "it dies\nbecause", "WARN")
    [artifact] = [record.artifact for record in records(tmp_path) if record.WhichOneof("record_type") == "artifact"]
    files = {entry.path: entry.local_path for entry in artifact.manifest.contents}
    # Everything that is uploaded later lies in the run's directory.
    assert all(path.startswith(str(tmp_path)) for path in files.values())
    pictures = [path for path in files if path.endswith(".png")]
    assert len(pictures) == 2
    with open(files["episodes.table.json"]) as file:
        table = json.load(file)
    assert table["columns"] == [
        "iteration", "sample", "question", "turns", "picture", "answer", "target", "correct", "reward", "reward terms",
        "usage", "failures", "truncated by", "probe", "withdrawn",
    ]  # fmt: skip
    assert [row[table["columns"].index("turns")] for row in table["data"]] == [f"{ZOOM}\n\n\\boxed{{A}}", "\\boxed{B}"]


def test_a_bar_shows_rates_and_what_is_dying_and_is_lines_where_it_cannot_be_drawn(monkeypatch):
    alarms = {"alarm/any": 0.0, "alarm/seek": 1.0, "alarm/flip": 1.0}
    measured = {"accuracy": 0.5, "usage_rate": 0.125, "loss": 3.0, **alarms}
    assert note(measured) == "accuracy 0.50, usage rate 0.12, alarm: seek flip"
    assert note({"accuracy": 0.5, "alarm/any": 0.0}) == "accuracy 0.50"
    assert note({}) == ""
    monkeypatch.setattr(logs, "LOG_SECONDS", -1.0)
    file = io.StringIO()
    with StageProgress(Console(file=file, width=200)) as bars:
        bars.begin("PPO", 10)(3, 10, {"accuracy": 0.5, "alarm/any": 1.0})
    assert "PPO: 3 of 10; accuracy 0.50, alarm: any" in file.getvalue()
