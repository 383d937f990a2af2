"""Evaluation from end to end: scores, files, interruption, wrong arguments."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from rich.console import Console

from eval import runner
from eval.__main__ import main
from eval.agents import AgentChoice
from eval.manifest import chat_template_digest, commit
from eval.options import key_value
from eval.records import RunFiles
from eval.runner import evaluate
from eval.suites import Choice
from pxr_agents.types import Sampling
from tests.eval.conftest import ENV_ARGS, ENV_ID, episodes_of, run_evaluation
from tests.pxr_env.media.broken import BROKEN, saved
from tests.vllm_support import ARGUMENTS, VARIABLES, needs_vllm


def without_seconds(metrics: Any) -> Any:
    """Metrics without what depends on the clock."""
    if isinstance(metrics, dict):
        timed = ("seconds", "episodes_sha256")
        return {name: without_seconds(value) for name, value in metrics.items() if name not in timed}
    return metrics


def test_the_oracle_is_always_right_and_looks_only_where_it_has_to(oracle_run: Path) -> None:
    statistics = RunFiles(oracle_run).metrics()["statistics"]
    expected = {"accuracy": 1.0, "hit_rate": 1.0, "needless_rate": 0.0, "missing_rate": 0.0, "failure_rate": 0.0}
    expected |= {"usage_rate_needs_operation": 1.0, "usage_rate_easy": 0.0, "n_episodes": 12}
    expected |= {"first_turn_rate_needs_operation": 0.0, "first_turn_rate_easy": 1.0}
    assert {name: statistics[name] for name in expected} == expected
    records = RunFiles(oracle_run).records()
    assert [record.key for record in records] == [(f"test-{index}", 0) for index in range(12)]
    for record in records:
        episode = record.episode
        assert (episode.answer, episode.tokens, episode.task) == (episode.target, None, "pxr/SyntheticSearch-v0")
        # A vision token is 28x28 pixels.
        assert record.vision_tokens == sum(view["size"][0] * view["size"][1] for view in episode.views) // 28**2
        assert (record.score, record.completion_tokens) == (1.0, None)
        assert 0 < record.seconds >= record.model_seconds


def test_the_manifest_rebuilds_the_environment(oracle_run: Path) -> None:
    manifest = RunFiles(oracle_run).manifest()
    env = gymnasium.make(EnvSpec.from_json(json.dumps(manifest["env"])))
    assert Choice(limit=12).choose(env) == [episode.sample_id for episode in episodes_of(oracle_run)]
    observation, _ = env.reset(options={"sample_id": "test-3"})
    expected, _ = gymnasium.make(ENV_ID, **ENV_ARGS).reset(options={"sample_id": "test-3"})
    assert observation["text"] == expected["text"]
    assert (observation["images"][0] == expected["images"][0]).all()
    assert manifest["versions"]["gymnasium"] == gymnasium.__version__
    assert (manifest["agent"], manifest["n_samples"], manifest["model"], manifest["sampling"]) == (
        "oracle",
        12,
        None,
        None,
    )


def test_the_random_agent_depends_on_its_seed_only(random_run: Path, tmp_path: Path) -> None:
    # One environment instead of many: the order of episodes must not matter either.
    run_evaluation(tmp_path / "again", agent="random", n_envs=1)
    run_evaluation(tmp_path / "other", agent="random", seed=1)
    episodes = episodes_of(random_run)
    assert episodes == episodes_of(tmp_path / "again")
    assert episodes != episodes_of(tmp_path / "other")
    assert len({episode.steps[0].turn for episode in episodes}) > 1
    assert RunFiles(random_run).metrics()["statistics"]["accuracy"] < 1.0


def test_a_finished_run_is_left_alone(oracle_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = RunFiles(oracle_run).metrics_file.read_bytes()
    assert main(["run", ENV_ID, "--agent", "random", "--out", str(oracle_run)]) == 2
    assert "finished evaluation" in capsys.readouterr().err
    assert RunFiles(oracle_run).metrics_file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agent", "orcale"], 'Did you mean "oracle"?'),
        (["--agent", "transformers"], "expected --model DIRECTORY"),
        (["--agent", "transformers", "--model", "./nowhere"], "There is no such directory"),
        (["--agent", "oracle", "--model", "m"], "takes no model"),
        (["--agent", "openai", "--model", "m"], "--base-url URL"),
        (["--agent", "vllm"], "expected --model DIRECTORY"),
        (["--agent", "transformers", "--model", ".", "--base-url", "http://h/v1"], "with --agent openai only"),
        (["--agent", "oracle", "--stop", "x"], "only agents with a model take some"),
        (["--agent", "oracle", "--engine", "dtype=float32"], "only transformers and vllm take some"),
        (["--agent", "oracle", "--k", "0"], "repeats=0"),
        (["--agent", "transformers", "--model", ".", "--k", "2"], "at which all are alike"),
        (["--agent", "oracle", "--limit", "0"], "got --limit 0, expected"),
        (["--agent", "tests.eval.scripted:hostil"], 'Did you mean "hostile"?'),
        (["--agent", "tests.eval.scripted:no_agent"], "Expected an Agent"),
        (["--agent", "no_such_module:factory"], "no_such_module"),
        (["--agent", "oracle", "--env-arg", "max_turn=3"], "max_turn"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["run", ENV_ID, "--limit", "2", *arguments, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_turns=3", ("max_turns", 3)),
        ("split=test", ("split", "test")),
        ('operations=["zoom_in"]', ("operations", ["zoom_in"])),
        ("path=a=b", ("path", "a=b")),
    ],
)
def test_values_are_json_or_text(text: str, expected: tuple[str, Any]) -> None:
    assert key_value(text) == expected


def test_an_unknown_task_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "pxr_env:pxr/SyntheticSearch-v9", "--agent", "oracle", "--out", str(tmp_path / "run")]) == 2
    assert "SyntheticSearch" in capsys.readouterr().err


def test_the_command_line_says_what_it_expects(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", ENV_ID, "--agent", "oracle", "--env-arg", "max_turns"])
    assert "expected KEY=VALUE" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exited:
        main(["--help"])
    assert exited.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("run", "report", "compare"))


def test_an_agent_of_ones_own_needs_nothing_but_act(tmp_path: Path) -> None:
    run_evaluation(tmp_path / "run", agent="tests.eval.scripted:polite", limit=2)
    # A fresh one for each episode: the first turn is no answer, and the second sees a reply without images.
    for episode in episodes_of(tmp_path / "run"):
        assert [step.turn for step in episode.steps] == ["Let me think.", r"\boxed{02}"]


def test_a_broken_picture_is_one_question_without_a_score(tmp_path: Path) -> None:
    names = ["good.png", "cut.jpg", "cut.png", "bad_pixels.png", "also_good.png"]
    for name in names:
        (tmp_path / name).write_bytes(BROKEN.get(name) or saved("PNG"))
    rows = [{"id": name, "question": "What is it?", "images": name, "answers": "noise"} for name in names]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    console = Console(file=io.StringIO())
    evaluate(
        "pxr_env:pxr/JSONL-v0", out=tmp_path / "run", env_args={"data": str(tmp_path)}, agent="random", console=console
    )
    errors = {record.episode.sample_id: record.episode.error for record in RunFiles(tmp_path / "run").records()}
    assert [name for name in names if errors[name] is None] == ["good.png", "also_good.png"]
    assert all(name in str(errors[name]) for name in names if name in BROKEN)


def test_the_manifest_says_what_made_the_score(tiny_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    env_args = [
        item for key, value in (ENV_ARGS | {"max_turns": 2}).items() for item in ("--env-arg", f"{key}={value}")
    ]
    arguments = ["--agent", "transformers", "--model", str(tiny_path), "--limit", "1", "--max-tokens", "8"]
    arguments += ["--k", "2", "--temperature", "1", "--no-report", "--set", 'operations=["zoom_in"]']
    assert main(["run", ENV_ID, *arguments, *env_args, "--out", str(out)]) == 0
    manifest, records = RunFiles(out).manifest(), RunFiles(out).records()
    kwargs = manifest["env"]["kwargs"]
    assert (kwargs["max_turns"], kwargs["operations"]) == (2, ["zoom_in"])
    assert (manifest["sampling"], manifest["repeats"]) == ({"temperature": 1.0, "max_tokens": 8}, 2)
    weights = hashlib.sha256((tiny_path / "model.safetensors").read_bytes()).hexdigest()
    assert manifest["model_sha256"]["model.safetensors"] == weights
    assert manifest["weights_sha256"] == hashlib.sha256(f"model.safetensors {weights}".encode()).hexdigest()
    template = (tiny_path / "chat_template.jinja").read_bytes()
    assert manifest["chat_template_sha256"] == hashlib.sha256(template).hexdigest()
    _, info = gymnasium.make(ENV_ID, **kwargs).reset()
    prompt = manifest["prompt"]
    assert prompt["system_prompt"] == info["system_prompt"]
    assert prompt["system_prompt_sha256"] == hashlib.sha256(info["system_prompt"].encode()).hexdigest()
    assert (prompt["dialect"], prompt["coordinates"]) == ("hermes", "unit")
    assert manifest["pixels"]["image"] == {"min_pixels": 784, "max_pixels": 7056, "size_multiple": 28}
    assert (manifest["scorer"]["name"], manifest["judge"]) == ("exact", None)
    assert {"torch", "transformers", "pxr-gym"} <= manifest["versions"].keys()
    digest = str(records[0].sample_sha256)
    assert manifest["data"]["samples_sha256"] == hashlib.sha256(digest.encode()).hexdigest()
    # Untrained and cut off after 8 tokens, it says nothing an environment could score, twice.
    assert [len(record.episode.steps) for record in records] == [2, 2]
    assert RunFiles(out).metrics()["statistics"]["truncated_rate"] == 1.0


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_checkout() -> None:
    found = commit()
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        assert found is None
    else:
        assert found is not None
        assert found["id"] == done.stdout.strip()


def test_a_chat_template_is_found_wherever_it_lies(tmp_path: Path) -> None:
    assert chat_template_digest(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    expected = hashlib.sha256(b"{{ x }}").hexdigest()
    assert chat_template_digest(tmp_path) == expected
    (tmp_path / "chat_template.jinja").write_text("{{ y }}")
    assert chat_template_digest(tmp_path) == hashlib.sha256(b"{{ y }}").hexdigest()


def test_a_finished_run_has_its_report(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["run", "--suite", "synthetic-search", "--agent", "oracle", "--limit", "2", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"manifest.json", "episodes.jsonl", "metrics.json", "report.html"}
    assert RunFiles(out).manifest()["suite"]["name"] == "synthetic-search"


def test_a_ctrl_c_after_the_scores_are_written_costs_the_page_only(tmp_path, monkeypatch, capsys) -> None:
    def interrupted(run: Path, page: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr("eval.run_command.write_report", interrupted)
    assert main(["run", ENV_ID, "--agent", "oracle", "--limit", "2", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert f"The report was not written: interrupted. To write it: pxr eval report {tmp_path}/run" in said.err
    assert RunFiles(tmp_path / "run").metrics()["statistics"]["accuracy"] == 1.0
    assert "Interrupted" not in said.err


def lines(monkeypatch: pytest.MonkeyPatch, times: list[float], total: int, done: int = 0) -> list[str]:
    """What is written if each of the episodes ends at one of these seconds."""
    clock = iter([0.0, *times])
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(clock))
    console = Console(file=io.StringIO(), width=40)
    with runner.progress("evaluating", total, done, console) as advance:
        for number in range(done + 1, done + len(times) + 1):
            advance(f"{number} good")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_quick_run_writes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, [0.1, 0.2, 0.3], 3) == ["evaluating: 3 of 3 (100%) after 0 s, 3 good"]


def test_a_long_run_writes_a_line_for_each_tenth_and_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    written = lines(monkeypatch, [float(second) for second in range(1, 101)], 100)
    assert written[0] == "evaluating: 10 of 100 (10%) after 10 s, 10 good"
    assert len(written) == 10
    # Slower than a tenth in half a minute.
    slow = lines(monkeypatch, [20.0 * number for number in range(1, 21)], 1000, done=500)
    assert [line.split(",")[0] for line in slow[:2]] == [
        "evaluating: 502 of 1000 (50%) after 40 s",
        "evaluating: 504 of 1000 (50%) after 80 s",
    ]
    seconds = [int(line.split(" after ")[1].split(" s")[0]) for line in slow]
    assert all(later - earlier >= 30 for earlier, later in pairwise(seconds))


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with runner.progress("evaluating", 2, 0, console) as advance:
        advance("all good")
        advance("all good")
    assert isinstance(console.file, io.StringIO)
    assert "2/2" in console.file.getvalue()


REPEATS = 4


@pytest.mark.parametrize("name", ["random", "transformers", pytest.param("vllm", marks=needs_vllm)])
def test_neither_interruption_nor_concurrency_changes_an_answer(
    name: str, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    sampling, engine = Sampling(temperature=1.0, max_tokens=8), ARGUMENTS if name == "vllm" else {}
    agent = AgentChoice(name=name, model=str(tiny_path), sampling=sampling, engine=engine) if name != "random" else name
    arguments: Any = {"agent": agent, "env_args": ENV_ARGS | {"max_turns": 2}, "limit": 4, "repeats": REPEATS}
    whole, cut = RunFiles(tmp_path / "whole"), RunFiles(tmp_path / "cut")
    of_whole = run_evaluation(whole.path, n_envs=16, **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(RunFiles, "append", stops_after(5))
        with pytest.raises(KeyboardInterrupt):
            run_evaluation(cut.path, n_envs=3, **arguments)
    assert len(cut.records()) == 5
    assert not cut.metrics_file.exists()
    of_cut = run_evaluation(cut.path, n_envs=2, **arguments)
    turns = [
        {record.key: [step.turn for step in record.episode.steps] for record in run.records()} for run in (whole, cut)
    ]
    assert turns[0] == turns[1]
    assert list(turns[0]) == [(f"test-{k}", repeat) for k in range(4) for repeat in range(REPEATS)]
    # Repeats of a sample are not copies of each other.
    assert len({tuple(texts) for (sample_id, _), texts in turns[0].items() if sample_id == "test-0"}) == REPEATS
    assert cut.manifest()["concurrency"] == 2
    assert cut.manifest()["data"] == whole.manifest()["data"]
    assert without_seconds(of_cut) == without_seconds(of_whole)
    assert {"pass@1", "pass@2", "pass@4", "majority_accuracy"} <= of_whole["statistics"].keys()
    if name == "random":
        # The first of the repeats is what a single one would be.
        run_evaluation(tmp_path / "single", **(arguments | {"repeats": 1}))
        assert episodes_of(tmp_path / "single") == [one.episode for one in whole.records() if one.repeat == 0]


def stops_after(count: int) -> Callable[..., None]:
    append, n_written = RunFiles.append, 0

    def limited(self: RunFiles, record: Any) -> None:
        nonlocal n_written
        if n_written == count:
            raise KeyboardInterrupt
        n_written += 1
        append(self, record)

    return limited
