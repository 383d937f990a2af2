"""What the README and the documentation show has to run, and what they link to has to exist."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from tests.eval.chat_server import ChatServer, serve, zoom_then_answer

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "step_an_environment.py"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])


def test_the_readme_steps_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks == [EXAMPLE.read_text()]
    namespace = runpy.run_path(str(EXAMPLE))
    assert namespace["terminated"] is True
    assert namespace["info"]["usage"] == {"zoom_in": 1}
    assert namespace["reward"] == float(namespace["info"]["target"] == "T")
    assert "zoom_in" in capsys.readouterr().out


def test_loops_of_your_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the page, against a server that writes calls into its text or, where it is given tools, apart."""
    pytest.importorskip("openai")

    def message(text: str) -> dict[str, Any]:
        call = re.search(r"<tool_call>(.*)</tool_call>", text, flags=re.DOTALL)
        if call is None or "tools" not in server.bodies[-1]:
            return {"content": text}
        read = json.loads(call[1])
        function = {"name": read["name"], "arguments": json.dumps(read["arguments"])}
        return {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sessions.md").read_text(), flags=re.DOTALL)
    server = ChatServer(zoom_then_answer, message=message)
    rewards = []
    with serve(server) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        for block in blocks:
            played: dict[str, Any] = {}
            exec(block, played)
            assert played["session"].info["usage"]["zoom_in"] == 1
            rewards.append(played["session"].outcome.reward)
    # It answers "B", since the box that was asked for is blue.
    assert rewards[0] == rewards[1] == float(target_of(0) == "B")
    assert [message["role"] for message in server.bodies[1]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "user",
    ]
    assert [message["role"] for message in server.bodies[3]["messages"]] == ["system", "user", "assistant", "user"]


def target_of(seed: int) -> str:
    env = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0")
    env.reset(seed=seed)
    return str(env.unwrapped.sample.answers[0])  # type: ignore[attr-defined]


def test_parts_of_your_own_are_used_in_every_episode(tmp_path: Path) -> None:
    """An operation, a scorer, a reward, an environment and an agent from one file, by the command that it shows."""
    pytest.importorskip("jinja2")
    command = [sys.executable, "-m", "eval", "run", "my_parts:my/Search-v0", "--agent", "my_parts:UpperHalf"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")])}
    out = tmp_path / "mine"
    done = subprocess.run(
        [*command, "--limit", "5", "--out", str(out)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    episodes = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == 5
    for episode in episodes:
        look, answer = episode["steps"]
        assert episode["usage"] == {"zoom_in": 0, "upper_half": 1}
        assert look["reward_terms"] == {"words": -1e-4 * len(look["turn"])}
        right = float(episode["target"] == "A")
        assert answer["reward_terms"] == {"correct": right, "words": -1e-4 * len(r"\boxed{A}")}
        assert answer["reward"] == pytest.approx(right - 9e-4)


def test_the_diffs_of_contributing_apply_and_work(tmp_path: Path) -> None:
    diffs = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    assert len(diffs) == 4
    for package in ("pxr_env", "pxr_agents"):
        shutil.copytree(ROOT / package, tmp_path / package)
    for diff in diffs:
        done = subprocess.run(["git", "apply", "-"], input=diff, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    program = r"""
import gymnasium, my_reward
env = gymnasium.make("my/Search-v0", operations=["zoom_in", "upper_half"], scorer="contains")
env.reset(seed=0)
call = '<tool_call>{"name": "upper_half", "arguments": {"target_image": 1}}</tool_call>'
info = env.step(call)[-1]
assert info["usage"] == {"zoom_in": 0, "upper_half": 1}, info
answer = r"\boxed{it is " + env.unwrapped.sample.answers[0].lower() + "}"
assert env.step(answer)[-1]["reward_terms"] == {"correct": 1.0, "words": -1e-4 * len(answer)}
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    local = [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]
    missing = [target for target in local if not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("package", ["training", "eval"])
def test_an_extra_that_is_not_installed_is_named(package: str) -> None:
    command = {"training": ["train", "ppo"], "eval": ["eval", "report", "x"]}[package]
    hidden = 'sys.modules.update({"rich": None, "pydantic": None})'
    program = f"import sys; {hidden}; from pxr_env.__main__ import pxr; sys.exit(pxr({command}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"pip install 'pxr-gym[{command[0]}]'" in done.stderr
    assert "halted" in done.stderr
    assert "Traceback" not in done.stderr
