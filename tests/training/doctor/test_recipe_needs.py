from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import ENV
from training.__main__ import main
from training.config import EngineRecipe, LearnerRecipe, PPORecipe, SFTRecipe, TracesRecipe
from training.doctor.machine import GIB, GPU, Machine
from training.doctor.recipe import check_recipe, load_any, parts_of, processes
from training.doctor.versions import Package
from training.recipe_reader import RecipeError

ROOT = Path(__file__).resolve().parents[3]
TORCH = {"torch": Package(version="2.13.0"), "transformers": Package(version="5.19.0"), "wandb": Package(version="1")}
H100 = GPU(name="NVIDIA H100", memory=80 * GIB)


def findings(recipe, packages=TORCH, **changes):
    machine = {"cpus": 8, "memory": 100 * GIB, "shared_memory": 60 * GIB, "gpus": ()} | changes
    found = list(check_recipe(recipe, Machine(**machine), packages))
    assert all(finding.remedy for finding in found if finding.level in ("warning", "error"))
    return found


def problems(*arguments, **changes):
    found = findings(*arguments, **changes)
    return [(finding.level, finding.text) for finding in found if finding.level in ("warning", "error")]


def on_gpus(recipe_of, learners, engines):
    engine = EngineRecipe(kind="vllm", num_engines=engines, num_gpus_per_engine=1.0)
    return recipe_of(num_env_runners=1, num_learners=learners, num_gpus_per_learner=1.0, engine=engine)


def test_a_recipe_that_fits_has_no_problem(make_recipe):
    assert problems(make_recipe(num_env_runners=2)) == []
    [told] = [finding.text for finding in findings(make_recipe(num_env_runners=2)) if "driver" in finding.text]
    assert told == "1 driver, 2 env runners (0.25 CPUs, 0 GPUs each)"


def test_gpus_are_counted(make_recipe):
    recipe = on_gpus(make_recipe, learners=4, engines=12)
    assert processes(recipe) == {
        "learners": (4, 0.25, 1.0),
        "env runners": (1, 0.25, 0.0),
        "vLLM engines": (12, 1.0, 1.0),
    }
    [(level, text), *_] = problems(recipe, cpus=64)
    assert (level, "needs 16 GPUs; this machine has 0" in text) == ("error", True)
    [(level, text)] = problems(recipe, cpus=64, gpus=(H100,) * 8)
    assert (level, "needs 16 GPUs (2 nodes like this one); this machine has 8" in text) == ("warning", True)
    assert problems(recipe, cpus=64, gpus=(H100,) * 16) == []


def test_many_processes_on_few_processors_are_a_warning(make_recipe):
    [(level, text)] = problems(make_recipe(num_env_runners=8), cpus=4)
    assert (level, text) == ("warning", "9 processes share 4 CPUs.")
    assert problems(make_recipe(num_env_runners=7), cpus=4) == []


def test_a_finished_run_and_a_relative_path_on_a_cluster_are_found(make_recipe, tmp_path):
    (tmp_path / "done" / "model").mkdir(parents=True)
    [(level, text)] = problems(make_recipe(out=str(tmp_path / "done")))
    assert (level, "holds a finished run" in text) == ("error", True)
    [(level, text)] = problems(make_recipe(out="runs/relative"), environment={"RAY_ADDRESS": "auto"})
    assert (level, "out=runs/relative is relative" in text) == ("warning", True)


def test_checkpoints_that_the_disk_cannot_hold_are_an_error(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("training.doctor.recipe.free_disk", lambda path: 10 * GIB)
    model = tmp_path / "large"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(GIB)  # sparse: takes no disk
    # Three checkpoints of 6 GiB each.
    texts = [text for _, text in problems(make_recipe(model=str(model)))]
    assert any("10 GiB are free" in text and "about 18 GiB" in text for text in texts)


def test_what_the_preflight_says_is_a_finding(make_recipe):
    [(level, text)] = problems(make_recipe(model="/nowhere"))
    assert level == "error"
    assert text.startswith("FileNotFoundError: model='/nowhere' came")
    # Without transformers nothing can be opened; that is said elsewhere.
    assert problems(make_recipe(model="/nowhere"), {}) == []


def test_supervised_runs_and_traces_are_looked_at(speaker, tmp_path):
    sft = SFTRecipe(model=str(speaker), traces=str(tmp_path / "absent.jsonl"), out=str(tmp_path / "run"))
    [(level, text)] = problems(sft)
    assert (level, "absent.jsonl does not exist" in text) == ("error", True)
    assert problems(TracesRecipe(env=ENV, out=str(tmp_path / "traces.jsonl")), {}) == []


@pytest.mark.parametrize(
    ("environment", "packages", "text"),
    [
        ({"WANDB_API_KEY": "secret"}, TORCH, "wandb logs online"),
        ({"WANDB_API_KEY": "secret", "WANDB_MODE": "disabled"}, TORCH, "wandb is in mode disabled"),
        ({}, TORCH, "wandb logs offline"),
        ({"WANDB_API_KEY": "secret"}, {}, "wandb is not installed"),
    ],
)
def test_where_wandb_logs_is_told_but_not_the_key(make_recipe, environment, packages, text):
    found = findings(make_recipe(wandb=True), packages, environment=environment)
    assert any(finding.level == "note" and finding.text.startswith(text) for finding in found)
    assert not any("secret" in finding.text for finding in found)


def test_parts_follow_from_the_recipe(make_recipe):
    assert parts_of(None) == parts_of(make_recipe()) == {"environments", "training", "ray"}
    assert parts_of(on_gpus(make_recipe, 1, 1)) == {"environments", "training", "ray", "vllm"}
    assert parts_of(SFTRecipe(model="m", traces="t")) == {"environments", "training"}
    learner = LearnerRecipe(kind="zero3", lora_rank=8)
    many = SFTRecipe(model="m", traces="t", num_learners=2, learner=learner)
    assert parts_of(many) == {"environments", "training", "ray", "deepspeed", "lora"}
    assert processes(many) == {"learners": (2, 1.0, 0.0)}
    assert parts_of(TracesRecipe(env=ENV)) == {"environments"}


def test_the_kind_of_a_recipe_follows_from_its_keys(tmp_path):
    kinds = {"ppo_tiny": PPORecipe, "sft_tiny": SFTRecipe, "traces_tiny": TracesRecipe}
    for name, kind in kinds.items():
        assert type(load_any(name)) is kind
    assert load_any("ppo_tiny", ["seed=5"]).seed == 5
    with pytest.raises(RecipeError, match="there is no such recipe"):
        load_any("pppo_tiny")


def test_the_command(make_recipe, capsys, tmp_path):
    """A real run: this Python, this machine, and a recipe with and without a mistake."""
    recipe = make_recipe()
    arguments = ["doctor", "ppo_tiny", f"model={recipe.model}", f"out={tmp_path}/run"]
    status = main([*arguments, "--json"])
    read = json.loads(capsys.readouterr().out)
    assert read["ok"] is (status == 0)
    assert {finding["topic"] for finding in read["findings"]} == {"versions", "machine", "recipe", "memory"}
    assert not [finding for finding in read["findings"] if finding["topic"] == "recipe" and finding["level"] == "error"]
    assert main([*arguments, "model=/nowhere"]) == 1
    assert "model='/nowhere' came" in capsys.readouterr().out
    assert main(["doctor", "ppo_tiny", "sed=1"]) == 2
    assert '"seed"' in capsys.readouterr().err
    assert main(["doctor", "seed=1"]) == 2
    assert "without a recipe" in capsys.readouterr().err


def test_it_runs_where_hardly_anything_is_installed():
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in ("torch", "transformers", "ray", "rich", "vllm"))
    code = f"import sys\n{blocked}from training.__main__ import main\nsys.exit(main(['doctor']))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr
    assert result.stdout.startswith("versions\n")
