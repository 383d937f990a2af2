from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from rich.console import Console

import pxr_env  # noqa: F401
from pxr_agents import tiny
from pxr_env.synthetic import LETTERS
from training.quickstart.pipeline import EASY_WITHDRAWN, Quickstart, targets
from training.quickstart.recipe import ENV_ID, ENV_KWARGS, PretrainRecipe, QuickstartRecipe, WarmStartRecipe
from training.quickstart.stages import (
    ATOM,
    SceneRows,
    coordinate_ids,
    fixed_texts,
    held_out_ids,
    single_ids,
    task_texts,
)


@pytest.fixture(scope="module")
def env():
    return gymnasium.make(ENV_ID, **ENV_KWARGS)


@pytest.fixture(scope="module")
def vlm(env, tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("model") / "tiny", task_texts(env), ATOM, fixed_texts(env), seed=0)


def said(vlm, row):
    """The text of the trained ids of a row."""
    return vlm.chat.decode(row.ids[row.action].tolist())


def test_what_the_task_says_is_short_for_the_tiny_model(env, vlm):
    """Each piece of form is one token, and a zoom is 12: opening, 4 numbers, 3 commas, middle, image, end, stop."""
    for text in fixed_texts(env):
        assert len(vlm.chat.encode_text(text)) == 1
    call = '{"name": "zoom_in", "arguments": {"bbox_2d": [28, 0, 56, 28], "target_image": 1}}'
    texts = (f"<tool_call>\n{call}\n</tool_call>", "\\boxed{T}", "What letter is in the blue box?")
    assert [len(vlm.chat.encode_text(text)) for text in texts] == [11, 3, 3]


def test_rows_say_what_the_scene_shows(env, vlm):
    rows, base = SceneRows(env, vlm, np.random.default_rng(0)), env.unwrapped
    for _ in range(20):
        row = rows.where()
        column, line = base.sample.metadata["boxes"][0]["cell"]
        assert said(vlm, row) == f"{28 * column}, {28 * line}, {28 * column + 28}, {28 * line + 28}"
        row = rows.caption()
        expected = {
            f"{b['colour']}{28 * b['cell'][0]}{28 * b['cell'][1]}{'' if b['hard'] else b['letter']}"
            for b in base.sample.metadata["boxes"]
        }
        assert set(said(vlm, row).splitlines()) == expected
        row = rows.ask()
        assert base.sample.needs_operation is False
        assert said(vlm, row) == f"\\boxed{{{base.sample.answers[0]}}}"
        row = rows.view()
        assert said(vlm, row) == f"\\boxed{{{base.sample.answers[0]}}}"
    assert len(coordinate_ids(env, vlm)) == 4
    assert len(single_ids(vlm, LETTERS)) == 6


def test_stages_are_not_measured_on_what_they_train_on(env, vlm):
    held_out = set(held_out_ids(env))
    rows = SceneRows(env, vlm, np.random.default_rng(0))
    assert held_out.isdisjoint(rows.sample_id() for _ in range(3000))
    rows = SceneRows(env, vlm, np.random.default_rng(0), held_out=True)
    assert held_out.issuperset(rows.sample_id() for _ in range(300))


def arm(**values):
    return {"accuracy": 0.7, "accuracy_needs_operation": 0.4, "usage_rate": 0.0, **values}


def selective(**values):
    figures = {"usage_rate_needs_operation": 0.95, "usage_rate_easy": 0.09, "first_turn_rate_easy": 0.9}
    return {"accuracy": 0.97, **figures, "accuracy_easy_withdrawn": 0.95, **values}


def test_targets_are_the_bounds_as_stated():
    better = arm(accuracy=0.85, accuracy_needs_operation=0.71, usage_rate=0.51)
    worse = arm(accuracy=0.84, accuracy_needs_operation=0.69, usage_rate=0.5)
    for plain, curiosity, met in (
        (arm(), better, [True, True, True, True]),
        (arm(usage_rate=0.05), better, [False, True, True, True]),
        (arm(), worse, [True, False, False, False]),
    ):
        found = targets({"plain": plain, "curiosity": curiosity, "selective": selective()})
        assert [target["met"] for target in found] == [*met, *[True] * 5]
    missed = selective(accuracy=0.96, usage_rate_easy=0.1, first_turn_rate_easy=0.89)
    found = targets({"plain": arm(), "curiosity": better, "selective": missed})
    assert [target["met"] for target in found] == [*[True] * 4, False, True, False, False, True]


def small(out: Path) -> QuickstartRecipe:
    recipe = QuickstartRecipe(seed=1, out=str(out), eval_samples=6)
    phases = WarmStartRecipe()
    return replace(
        recipe,
        pretrain=PretrainRecipe(steps=3, pool=64, batch_size=8, held_out=32, measure_every=2),
        warm_start=WarmStartRecipe(
            pool=16,
            batch_size=8,
            held_out=8,
            form=replace(phases.form, steps=2, measure_every=2),
            clumsy=replace(phases.clumsy, steps=2, measure_every=2),
        ),
        ppo=replace(
            recipe.ppo, iterations=2, groups_per_iteration=2, group_size=4, num_env_runners=1, checkpoint_every=1
        ),
        selective=replace(recipe.selective, answer=0),
        selective_iterations=2,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_the_whole_chain_runs_reports_honestly_and_is_reused(tmp_path):
    """All stages with too few steps: the figures must say so, and nothing is done twice."""
    recipe = small(tmp_path / "run")
    summary_path = Quickstart(recipe, Console(quiet=True)).run()
    summary = json.loads(summary_path.read_text())
    assert summary["seed"] == 1
    for name in ("plain", "curiosity", "selective"):
        figures = summary["arms"][name]
        assert figures["iterations"] == 2
        for key in ("accuracy", "accuracy_needs_operation", "accuracy_easy", "usage_rate", "hit_rate", EASY_WITHDRAWN):
            assert 0 <= figures[key] <= 1
        lines = (tmp_path / "run" / "arms" / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in lines] == [1, 2]
    assert summary["seconds"]["total"] == pytest.approx(
        sum(seconds for stage, seconds in summary["seconds"].items() if stage != "total")
    )
    # Three steps teach nothing: targets are missed, and the notes name the stages that stopped at their limit.
    assert not all(target["met"] for target in summary["targets"])
    assert any("Stage A stopped" in note for note in summary["notes"])
    report = (tmp_path / "run" / "report.html").read_text()
    assert "missed" in report
    assert "Stage A stopped" in report

    weights = tmp_path / "run" / "arms" / "plain" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    Quickstart(recipe, Console(quiet=True)).run()
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        Quickstart(replace(recipe, seed=2), Console(quiet=True))
