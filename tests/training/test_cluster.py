"""Two nodes on one machine: two raylets, each with its own worker processes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("ray")

from training.config import EnvRecipe, to_dict
from training.rllib.run import NodeView, check_job, node_problems

ROOT = Path(__file__).resolve().parents[2]
JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}})}
# Each node has room for one env runner: two runners need both nodes.
LAYOUT = {"num_env_runners": 2, "num_cpus_per_env_runner": 1.5, "iterations": 2}

JOB_SERVER = all(importlib.util.find_spec(name) is not None for name in ("aiohttp_cors", "opencensus"))

START_CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster

# Any free port: another cluster on this machine may have the usual one.
node = {"num_cpus": 2, "object_store_memory": 200 * 2**20, "dashboard_agent_listen_port": 0}
cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": bool(int(sys.argv[1]))})
cluster.add_node(**node)
cluster.wait_for_nodes()
print(json.dumps([cluster.address, cluster.webui_url]), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def environment(**more):
    return os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), **more}


def ray_folder():
    """A folder of its own for a cluster: what looks for a cluster that was not named, such as a submitted job, joins
    the one that was started last in the same folder. Its path is short, as those of sockets have to be."""
    return tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True)


@pytest.fixture(scope="module")
def cluster():
    """Environment variables of who joins two nodes, which have a job server if what it needs is installed."""
    command = [sys.executable, "-c", START_CLUSTER, str(int(JOB_SERVER))]
    with ray_folder() as folder:
        process = subprocess.Popen(
            command, env=environment(RAY_TMPDIR=folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        address, server = json.loads(process.stdout.readline())
        yield {"RAY_TMPDIR": folder, "RAY_ADDRESS": address, "RAY_API_SERVER_ADDRESS": f"http://{server}"}
        process.stdin.close()
        process.wait(timeout=120)


@pytest.fixture
def recipe_file(make_recipe, tmp_path):
    """A recipe for two nodes, with pixel limits of its own."""
    kwargs = make_recipe().env.kwargs | {"max_pixels": 112 * 112, "min_pixels": 28 * 28}
    recipe = make_recipe(**LAYOUT, env=EnvRecipe(id=make_recipe().env.id, kwargs=kwargs))
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(to_dict(recipe)))
    return file


RUNNERS = """
import json, sys
import ray
from training.config import PPORecipe, load_recipe
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.run import check_nodes

ray.init(log_to_driver=False)
recipe = load_recipe(sys.argv[1], PPORecipe)
check_nodes(recipe)
algorithm = VLMPPOConfig().recipe(recipe).build_algo()
def look(runner):
    return ray.get_runtime_context().get_node_id(), {name: runner.env.spec.kwargs[name] for name in recipe.env.kwargs}
seen = algorithm.env_runner_group.foreach_env_runner(look, local_env_runner=False)
algorithm.train()
groups = algorithm.sampler.sample(["train-1", "train-2"])
print(json.dumps({"seen": seen, "metrics": algorithm.last_iteration, "workers": [group.worker for group in groups]}))
algorithm.stop()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_env_runners_on_two_nodes_sample_with_the_whole_recipe(cluster, recipe_file):
    command = [sys.executable, "-c", RUNNERS, str(recipe_file)]
    result = subprocess.run(
        command, env=environment(**cluster), capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    told, kwargs = json.loads(result.stdout.splitlines()[-1]), json.loads(recipe_file.read_text())["env"]["kwargs"]
    assert len({node for node, _ in told["seen"]}) == 2
    assert [seen for _, seen in told["seen"]] == [kwargs, kwargs]
    assert sorted(told["workers"]) == [1, 2]
    assert told["metrics"]["n_episodes"] == 16
    assert told["metrics"]["bytes/groups"] > 16 * 84 * 84
    assert told["metrics"]["learner/logprob_gap_max"] < 1e-4


LOST = """
import json, sys, time
import ray
from ray.cluster_utils import Cluster
from training.config import PPORecipe, load_recipe
from training.rllib.algorithm import VLMPPOConfig

node = {"num_cpus": 2, "object_store_memory": 200 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
other = cluster.add_node(**node)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
layout = ["groups_per_iteration=16", "max_envs_per_runner=4"]
algorithm = VLMPPOConfig().recipe(load_recipe(sys.argv[1], PPORecipe, layout)).build_algo()
pool, told = algorithm.sampler._runners, []
poll, begun_by, begun = pool.poll, pool._begun_by, []

def finish_one_group_only(runner):
    settled, finished = runner._settled, []
    def settled_or_stuck(*group):
        if finished:
            time.sleep(600)
        finished.append(True)
        return settled(*group)
    if runner.worker_index == 2:
        runner._settled = settled_or_stuck

def begun_until_now(worker):
    before = list(begun) if worker == 2 else []
    del begun[: len(before)]
    return before + begun_by(worker)

def poll_and_lose_a_node(attempt):
    poll(attempt)
    if cluster.worker_nodes and 2 in {group.worker for group in attempt.groups}:
        # It has finished something, and something is under way, which the queue tells but once.
        while not begun:
            begun.extend(begun_by(2))
        cluster.remove_node(other, allow_graceful=False)

algorithm.env_runner_group.foreach_env_runner(finish_one_group_only, local_env_runner=False)
pool.poll, pool._begun_by = poll_and_lose_a_node, begun_until_now
for _ in range(2):
    algorithm.train()
    faults = [[fault.kind, fault.text] for fault in algorithm.books.faults]
    told.append([algorithm.last_iteration["n_episodes"], len(cluster.worker_nodes), faults])
print(json.dumps(told))
algorithm.stop()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_goes_on_without_a_node_that_is_lost_in_mid_iteration(recipe_file):
    with ray_folder() as folder:
        result = subprocess.run(
            [sys.executable, "-c", LOST, str(recipe_file)],
            env=environment(RAY_TMPDIR=folder), capture_output=True, text=True, check=False, timeout=400,
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    # Ray has its own last words on a cluster that is shut down.
    [first, second] = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("[[")))
    assert (first[:2], second) == ([64, 0], [64, 0, []])
    # What it had in flight, and what it had finished and nobody else had.
    assert {kind for kind, _ in first[2]} == {"env runner"}
    assert "env runner 2 died; its samples are sampled again: " in first[2][0][1]
    assert len(first[2][0][1].split(": ")[1].split(", ")) <= 2


ALONE = """
import sys
import ray
from training.config import PPORecipe, load_recipe
from training.rllib.run import ray_session

with ray_session(load_recipe(sys.argv[1], PPORecipe)):
    print(len(ray.nodes()))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_nobody_named_is_left_alone(cluster, recipe_file):
    """`ray.init` would join the two nodes, and then refuse to be told how many CPUs there are."""
    command = [sys.executable, "-c", ALONE, str(recipe_file)]
    result = subprocess.run(
        command, env=environment(RAY_TMPDIR=cluster["RAY_TMPDIR"]), capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "1"


def submit(cluster, *arguments):
    address = ["--address", cluster["RAY_API_SERVER_ADDRESS"], "--log-color", "false"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", *address, "--working-dir", str(ROOT), "--"]
    entrypoint = [sys.executable, "-m", "training", "ppo", *map(str, arguments)]
    return subprocess.run(
        [*command, *entrypoint], env=environment(), capture_output=True, text=True, check=False, timeout=400
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not JOB_SERVER, reason='`ray job submit` needs pip install "ray[default]==2.60.0"')
def test_a_submitted_job_trains_on_two_nodes(cluster, recipe_file, tmp_path):
    out = tmp_path / "run"
    done = submit(cluster, recipe_file, f"out={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    kwargs = json.loads(recipe_file.read_text())["env"]["kwargs"]
    assert json.loads((out / "recipe.json").read_text())["env"]["kwargs"] == kwargs
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert all(row["n_episodes"] == 16 for row in rows)
    assert (out / "model" / "model.safetensors").exists()
    vanishing = submit(cluster, recipe_file, "out=runs/somewhere")
    assert vanishing.returncode != 0
    assert "out='runs/somewhere' came in a submitted job" in vanishing.stdout


def test_output_that_would_vanish_is_refused(make_recipe):
    with pytest.raises(ValueError, match=r"out='runs/x' came in a submitted job.*out=/shared/runs/x"):
        check_job(make_recipe(out="runs/x"), JOB)
    check_job(make_recipe(out="/shared/runs/x"), JOB)
    check_job(make_recipe(out="runs/x"), {})
    check_job(make_recipe(out="runs/x"), {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {}}'})


def view(name, *, model=True, out=True, **versions):
    return NodeView(
        name=name, has_model=model, has_out=out, versions={"python": "3.11.9", "torch": "2.13.0"} | versions
    )


def test_nodes_that_differ_are_named(make_recipe):
    here, recipe = view("head"), make_recipe(num_learners=2)
    assert node_problems(recipe, here, [here, view("a")]) == []
    views = [view("a", model=False), view("b", out=False), view("c", torch="2.12.0")]
    first, second, third = node_problems(recipe, here, views)
    assert first.startswith(f"a has no model={recipe.model}")
    assert second.startswith("b does not see out=")
    assert third.startswith("c has torch 2.12.0 instead of 2.13.0")
    # Without learners of their own only the driver writes; a model on a hub is nobody's directory.
    assert node_problems(make_recipe(), here, [view("b", out=False)]) == []
    assert node_problems(recipe, view("head", model=False), [view("a", model=False)]) == []


def test_what_is_uploaded_is_small(tmp_path):
    """Neither runs nor the repository's history travel with a job."""
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    names = zipfile.ZipFile(package).namelist()
    assert {"pxr_env/env.py", "pxr_env/testing/__init__.py", "training/recipes/ppo_tiny.toml"} <= set(names)
    folders = {name.split("/")[0] for name in names}
    assert {"pxr_env", "pxr_agents", "training", "eval", "examples"} <= folders
    assert not folders & {".git", ".venv", "runs", "wandb", "tests", "docs", "pxr_gym.egg-info", ".mypy_cache"}
    assert package.stat().st_size < 20 * 2**20
