"""Checkpoints by hub name, from a Hugging Face cache as `hf download` leaves it and without a network: in every command
that takes a model, in a process of its own (the hub's client reads its environment when it is imported)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[1]
NAME, REVISION = "pxr-tests/tiny-vl", "0123456789abcdef0123456789abcdef01234567"
ENV = "pxr_env:pxr/SyntheticSearch-v0"


@pytest.fixture
def hub(tiny_path: Path, tmp_path: Path) -> Path:
    """HF_HOME with one repository: files by their digests, and links to them under the revision that `main` names."""
    home = tmp_path / "hf"
    repository = home / "hub" / f"models--{NAME.replace('/', '--')}"
    for folder in ("blobs", "refs", f"snapshots/{REVISION}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    for path in tiny_path.iterdir():
        content = path.read_bytes()
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (repository / "snapshots" / REVISION / path.name).symlink_to(os.path.join("..", "..", "blobs", blob.name))
    return home


def run(hub: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    variables = {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    cache = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in cache} | variables
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)


def evaluate(hub: Path, agent: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ["--agent", agent, "--model", NAME, "--limit", "2", "--max-tokens", "6", "--out", out, "--no-report"]
    return run(hub, "eval", "run", ENV, "--env-arg", "max_turns=1", *arguments, *more)


def assert_names_the_model(out: Path, tiny_path: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    weights = hashlib.sha256((tiny_path / "model.safetensors").read_bytes()).hexdigest()
    assert (manifest["model"], manifest["model_revision"]) == (NAME, REVISION)
    assert manifest["model_sha256"]["model.safetensors"] == weights
    assert manifest["weights_sha256"] == hashlib.sha256(f"model.safetensors {weights}".encode()).hexdigest()
    assert manifest["chat_template_sha256"] is not None
    assert len((out / "episodes.jsonl").read_text().splitlines()) == 2


def test_evaluation_records_the_revision_and_the_weights(hub: Path, tiny_path: Path, tmp_path: Path) -> None:
    done = evaluate(hub, "transformers", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert_names_the_model(tmp_path / "run", tiny_path)
    done = run(hub, "eval", "rerun", tmp_path / "run", "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert_names_the_model(tmp_path / "again", tiny_path)


@pytest.mark.vllm
@pytest.mark.slow
def test_evaluation_with_vllm(hub: Path, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    from tests.vllm_support import ARGUMENTS, VARIABLES

    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    engine = [item for key, value in ARGUMENTS.items() for item in ("--engine", f"{key}={json.dumps(value)}")]
    done = evaluate(hub, "vllm", tmp_path / "run", *engine)
    assert done.returncode == 0, done.stderr
    assert_names_the_model(tmp_path / "run", tiny_path)


def test_a_name_that_is_not_cached_says_what_to_do(hub: Path, tmp_path: Path) -> None:
    done = run(
        hub, "eval", "run", ENV, "--agent", "transformers", "--model", "pxr-tests/other", "--out", tmp_path / "o"
    )
    assert done.returncode != 0
    assert "hf download pxr-tests/other" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_download_is_named_before_anything_starts(hub: Path, tmp_path: Path) -> None:
    [weights] = hub.glob("hub/*/snapshots/*/model.safetensors")
    weights.unlink()
    traces = tmp_path / "traces.jsonl"
    traces.write_text("{}\n")
    for arguments in (
        ["eval", "run", ENV, "--agent", "transformers", "--model", NAME, "--out", tmp_path / "o"],
        ["training", "sft", *recipe(tmp_path / "sft", kind="sft", traces=str(traces))],
    ):
        done = run(hub, *arguments)
        assert done.returncode != 0
        assert "has no model.safetensors" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def recipe(out: Path, *, kind: str, **keys: object) -> list[str]:
    """A recipe file by the model's name, and its name."""
    values: dict[str, object] = {"model": NAME, "out": str(out), "wandb": False, **keys}
    path = out.with_suffix(f".{kind}.json")
    path.write_text(json.dumps(values))
    return [str(path)]


@pytest.mark.ray
@pytest.mark.slow
def test_a_warm_start_and_ppo_from_a_name(hub: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    env = {"id": ENV, "kwargs": {"coordinates": "pixel", "max_turns": 2}}
    traces = tmp_path / "traces.jsonl"
    made = run(hub, "training", "traces", f"env.id={ENV}", "env.kwargs.coordinates=pixel", "count=4", f"out={traces}")
    assert made.returncode == 0, made.stderr
    warm, trained = tmp_path / "warm", tmp_path / "ppo"
    done = run(hub, "training", "sft", *recipe(warm, kind="sft", traces=str(traces), steps=1, batch_size=4))
    assert done.returncode == 0, done.stderr
    small = {"iterations": 1, "groups_per_iteration": 2, "group_size": 2, "num_minibatches": 1, "max_tokens": 6}
    done = run(hub, "training", "ppo", *recipe(trained, kind="ppo", env=env, **small))
    assert done.returncode == 0, done.stderr
    for out in (warm, trained):
        assert (out / "model" / "model.safetensors").is_file()
        assert json.loads((out / "recipe.json").read_text())["model"] == NAME
