"""Checkpoints by hub name, from a Hugging Face cache as `hf download` leaves it and without a network: in every command
that takes a model, in processes of their own (the hub's client reads its environment when it is imported)."""

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
NAME, HALF, REVISION = "pxr-tests/tiny-vl", "pxr-tests/half", "0123456789abcdef0123456789abcdef01234567"
ENV = "pxr_env:pxr/SyntheticSearch-v0"
# One process for several commands: most of its time is spent on imports.
RUN = """
import json, pkgutil, sys
for package, *arguments in json.loads(sys.argv[1]):
    print("status", pkgutil.resolve_name(f"{package}.__main__:main")(arguments), file=sys.stderr)
"""


@pytest.fixture
def hub(tiny_path: Path, tmp_path: Path) -> Path:
    """HF_HOME with two repositories, one of them without weights: files by their digests, and links to them under the
    revision that `main` names."""
    home = tmp_path / "hf"
    for name in (NAME, HALF):
        repository = home / "hub" / f"models--{name.replace('/', '--')}"
        for folder in ("blobs", "refs", f"snapshots/{REVISION}"):
            (repository / folder).mkdir(parents=True)
        (repository / "refs" / "main").write_text(REVISION)
        for path in tiny_path.iterdir():
            if name == HALF and path.suffix == ".safetensors":
                continue
            blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.write_bytes(path.read_bytes())
            (repository / "snapshots" / REVISION / path.name).symlink_to(os.path.join("..", "..", "blobs", blob.name))
    return home


def run(hub: Path, *commands: list[object]) -> list[tuple[str, str]]:
    """What each of the commands wrote to stderr, and its exit status."""
    variables = {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    cache = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in cache} | variables
    command = [sys.executable, "-c", RUN, json.dumps([list(map(str, arguments)) for arguments in commands])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert "Traceback" not in done.stderr, done.stderr
    said = done.stderr.split("status ")
    statuses = [text.partition("\n")[0] for text in said[1:]]
    assert len(statuses) == len(commands), done.stderr
    return list(zip(said, statuses, strict=False))


def evaluate(agent: str, out: Path, *more: str, model: str = NAME) -> list[object]:
    arguments = ["--agent", agent, "--model", model, "--limit", "2", "--max-tokens", "6", "--out", out, "--no-report"]
    return ["eval", "run", ENV, "--env-arg", "max_turns=1", *arguments, *more]


def assert_names_the_model(out: Path, tiny_path: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    weights = hashlib.sha256((tiny_path / "model.safetensors").read_bytes()).hexdigest()
    assert (manifest["model"], manifest["model_revision"]) == (NAME, REVISION)
    assert manifest["model_sha256"]["model.safetensors"] == weights
    assert manifest["weights_sha256"] == hashlib.sha256(f"model.safetensors {weights}".encode()).hexdigest()
    assert manifest["chat_template_sha256"] is not None
    assert len((out / "episodes.jsonl").read_text().splitlines()) == 2


@pytest.mark.vllm
@pytest.mark.slow
def test_evaluation_with_vllm(hub: Path, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    from tests.vllm_support import ARGUMENTS, VARIABLES

    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    engine = [item for key, value in ARGUMENTS.items() for item in ("--engine", f"{key}={json.dumps(value)}")]
    [(said, status)] = run(hub, evaluate("vllm", tmp_path / "run", *engine))
    assert status == "0", said
    assert_names_the_model(tmp_path / "run", tiny_path)


def test_evaluation_and_what_is_not_there(hub: Path, tiny_path: Path, tmp_path: Path) -> None:
    """Evaluation records the revision and the weights; a name that is not cached and an interrupted download are named
    before anything starts."""
    traces = tmp_path / "traces.jsonl"
    traces.write_text("{}\n")
    (said, status), *refused = run(
        hub,
        evaluate("transformers", tmp_path / "run"),
        evaluate("transformers", tmp_path / "other", model="pxr-tests/other"),
        evaluate("transformers", tmp_path / "half", model=HALF),
        ["training", "sft", f"model={HALF}", f"traces={traces}", f"out={tmp_path}/sft", "wandb=false"],
    )
    assert status == "0", said
    assert_names_the_model(tmp_path / "run", tiny_path)
    messages = ["hf download pxr-tests/other", "has no model.safetensors", "has no model.safetensors"]
    for (said, status), message in zip(refused, messages, strict=True):
        assert status in ("1", "2")
        assert message in said


@pytest.mark.ray
@pytest.mark.slow
def test_a_warm_start_and_ppo(hub: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    env = [f"env.id={ENV}", "env.kwargs.coordinates=pixel", "env.kwargs.max_turns=2"]
    traces, warm, trained = (tmp_path / name for name in ("traces.jsonl", "warm", "ppo"))
    model = [f"model={NAME}", "wandb=false"]
    small = ["iterations=1", "groups_per_iteration=2", "group_size=2", "num_minibatches=1", "max_tokens=6"]
    results = run(
        hub,
        ["training", "traces", *env[:2], "count=4", f"out={traces}"],
        ["training", "sft", *model, f"traces={traces}", f"out={warm}", "steps=1", "batch_size=4"],
        ["training", "ppo", *model, *env, f"out={trained}", *small],
    )
    assert [status for _, status in results] == ["0"] * 3, results
    for out in (warm, trained):
        assert (out / "model" / "model.safetensors").is_file()
        assert json.loads((out / "recipe.json").read_text())["model"] == NAME
