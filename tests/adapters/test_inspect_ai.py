"""Inspect plays the 20 episodes as `step` does, by tool calls and in text, and its log keeps the crops."""

import base64
import io
import os
import subprocess
import sys
import tomllib
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai.log import read_eval_log
from inspect_ai.model import ChatMessageAssistant, ModelOutput, ModelUsage, get_model
from inspect_ai.model._call_tools import parse_tool_call
from PIL import Image

from pxr_env.adapters.inspect_ai import visual
from tests.adapters.episodes import ENV_ID, EPISODES, assert_no_leak, equal_seen

ROOT = Path(__file__).parents[2]


class Script:
    """A model that says an episode's messages, whichever question it is asked."""

    def __init__(self, native):
        self.native, self.handed, self.schemas = native, [], []

    def __call__(self, messages, tools, choice, config):
        # Without ids, which are random.
        self.handed += [message.text for message in messages if message.role != "assistant"]
        self.schemas = tools
        for place, message in enumerate(messages):
            n_calls = len(getattr(message, "tool_calls", None) or ())
            assert all(reply.role == "tool" for reply in messages[place + 1 : place + 1 + n_calls])
        number = int(messages[1].text.rpartition("of ")[2].rstrip("?")) - 2
        position = sum(message.role == "assistant" for message in messages)
        said = EPISODES[number].turns[position]
        last = position == len(EPISODES[number].turns) - 1
        calls = [parse_tool_call(str(k), name, arguments, tools) for k, (name, arguments) in enumerate(said.calls)]
        message = ChatMessageAssistant(content=said.text, tool_calls=calls or None)
        if not self.native:
            message = ChatMessageAssistant(content=said.written())
        output = ModelOutput.from_message(message)
        output.choices[0].stop_reason = "model_length" if last and "boxed" not in said.text else "stop"
        output.usage = ModelUsage()  # else the mock counts tokens, with a tokenizer that it downloads
        return output


def play(task, script, log_dir, **kwargs):
    model = get_model("mockllm/model", custom_outputs=script)
    [log] = inspect_eval(task, model=model, display="none", log_dir=str(log_dir), **kwargs)
    assert log.status == "success", log.error
    return read_eval_log(log.location, resolve_attachments=True)


def seen(messages):
    """Text and pixels of the question and of the replies to each message of the model."""
    replies = []
    # Results without images come first.
    runs = groupby(messages, lambda message: message.role)
    messages = [m for role, run in runs for m in (sorted(run, key=lambda m: m.tool_call_id) if role == "tool" else run)]
    for before, message in zip(["", *messages], messages, strict=False):
        if message.role in ("user", "tool"):
            if before.role != "tool":
                replies.append(([], []))
            replies[-1][0].append(message.text)
            urls = [part.image for part in message.content if part.type == "image"]
            files = [io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))) for url in urls]
            replies[-1][1].extend(np.asarray(Image.open(file)) for file in files)
    return [("\n".join(texts), images) for texts, images in replies]


@pytest.mark.parametrize("native", [True, False])
def test_episodes_are_those_of_step(native, tmp_path):
    script = Script(native)
    log = play(visual(ENV_ID, native=native), script, tmp_path, max_samples=4)
    assert len(log.samples) == 20
    for sample in log.samples:
        episode = EPISODES[int(sample.id.rpartition("-")[2])]
        score = sample.scores["outcome"]
        assert equal_seen(seen(sample.messages), episode.seen), sample.id
        assert score.value["reward"] == episode.reward
        assert score.metadata["reward_terms"] == episode.info["reward_terms"]
        assert score.metadata["failures"] == episode.info["failures"]
        assert {name: score.value[f"usage/{name}"] for name in episode.info["usage"]} == episode.info["usage"]
        cut = {"length": "context"}.get(by := episode.info.get("truncated_by"), by)
        assert (score.answer, score.metadata.get("truncated_by")) == (episode.info["answer"], cut)
    results = {score.name: score.metrics for score in log.results.scores}
    infos = [episode.info for episode in EPISODES]
    assert results["score"]["accuracy"].value == np.mean([info["score"] for info in infos])
    assert results["usage_rate"]["mean"].value == np.mean([any(info["usage"].values()) for info in infos])
    assert results["reward"]["mean"].value == pytest.approx(np.mean([episode.reward for episode in EPISODES]))
    assert_no_leak([script.handed, script.schemas])
    assert [tool.name for tool in script.schemas] == (["zoom_in", "rotate"] if native else [])


def test_tools_are_those_of_the_environment_and_their_events_have_the_crops(tmp_path):
    script = Script(native=True)
    log = play(visual(ENV_ID, limit=3), script, tmp_path)
    zoom = script.schemas[0].model_dump(exclude_none=True)["parameters"]
    assert zoom["required"] == ["bbox_2d", "target_image"]
    assert (zoom["properties"]["bbox_2d"]["type"], zoom["properties"]["bbox_2d"]["items"]["type"]) == (
        "array",
        "number",
    )
    events = [event for event in log.samples[2].events if event.event == "tool"]
    assert [event.function for event in events] == ["zoom_in", "zoom_in", "rotate"]
    assert [[part.type for part in event.result] for event in events] == [["image", "text"]] * 3
    assert log.eval.dataset.name == f"{ENV_ID} (3 of 20)"


def test_a_limit_of_inspect_ends_the_episode_without_an_answer(tmp_path):
    [sample] = play(visual(ENV_ID), Script(native=True), tmp_path, sample_id="sample-2", message_limit=4).samples
    assert sample.limit.type == "message"
    assert sample.scores["outcome"].value["reward"] == -0.25
    assert sample.scores["outcome"].metadata["truncated_by"] == "length"


def boxed(*_):
    output = ModelOutput.from_content("mockllm/model", r"\boxed{T}")
    output.usage = ModelUsage()
    return output


@pytest.mark.parametrize("file", ["pxr_env/adapters/inspect_ai.py", "examples/adapters/with_inspect_ai.py"])
def test_the_task_is_found_in_a_file(file, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    log = play(file, boxed, tmp_path, limit=2)
    assert [sample.scores["outcome"].answer for sample in log.samples] == ["T", "T"]


def test_the_task_is_found_by_name_where_it_is_installed(tmp_path):
    site = tmp_path / "site-packages"
    facts = site / "pxr_gym-0.1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "pxr_env").symlink_to(ROOT / "pxr_env")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pxr-gym\nVersion: 0.1.0\n")
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"]
    (facts / "entry_points.txt").write_text("\n".join(["[inspect_ai]", *(f"{k} = {v}" for k, v in entry.items())]))
    code = "from inspect_ai._eval.loader import load_tasks; [task] = load_tasks(['pxr_env/visual'], {'limit': 3})\n"
    code += "print(task.name, len(task.dataset), task.dataset.name)"
    env = os.environ | {"PYTHONPATH": str(site)}
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert told.stdout == "pxr_env/visual 3 pxr_env:pxr/SyntheticSearch-v0 (3 of 100000)\n", told.stderr
