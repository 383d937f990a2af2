"""`vf-eval` plays the 20 episodes against a server as `step` does, several at a time."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import verifiers.v1 as vf
from PIL import Image
from verifiers.v1.cli.eval.main import main

from tests.adapters.episodes import ENV_ID, EPISODES, assert_no_leak, equal_seen

ROOT = Path(__file__).parents[2]


class Scripted(BaseHTTPRequestHandler):
    """A server of chat completions that says an episode's messages; then its context is full."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[list[dict]] = []
    now = most = 0
    lock = threading.Lock()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cls = type(self)
        with self.lock:
            cls.bodies.append(body)
            cls.now += 1
            cls.most = max(cls.most, cls.now)
        time.sleep(0.02)
        position = sum(message["role"] == "assistant" for message in body["messages"])
        turns = EPISODES[number(body["messages"])].turns
        if position < len(turns):
            said = {"role": "assistant", "content": turns[position].written()}
            reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
            reply |= {"choices": [{"index": 0, "message": said, "finish_reason": turns[position].finish}]}
            reply |= {"usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}
        else:
            reply = {"error": {"message": "maximum context length exceeded", "code": "context_length_exceeded"}}
        with self.lock:
            cls.now -= 1
        data = json.dumps(reply).encode()
        self.send_response(400 if "error" in reply else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1"
    httpd.shutdown()


def number(messages):
    [question] = [part["text"] for part in messages[1]["content"] if part["type"] == "text"]
    return int(question.rpartition("of ")[2].rstrip("?")) - 2


@pytest.fixture
def evaluate(server, tmp_path, monkeypatch):
    """The command, in this process; returns the traces that it wrote."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")

    def run(*args, taskset=("pxr_verifiers",)):
        common = ["-m", "m", "--client.base-url", server, "--client.api-key-var", "OPENAI_API_KEY"]
        common += ["--env.taskset.env-id", ENV_ID, "--no-push", "--no-rich", "-o", str(tmp_path), "--run.name", "run"]
        main([*taskset, *common, *args])
        lines = (tmp_path / "run" / "traces.jsonl").read_text().splitlines()
        return [trace for line in lines for trace in vf.WireEpisode.model_validate_json(line).traces]

    return run


def seen(messages):
    shown = []
    for message in messages:
        if message["role"] == "user":
            parts = message["content"]
            urls = [part["image_url"]["url"].partition(",")[2] for part in parts if part["type"] == "image_url"]
            images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))) for url in urls]
            shown.append(("".join(part["text"] for part in parts if part["type"] == "text"), images))
    return shown


def test_episodes_are_those_of_step(evaluate):
    traces = evaluate("-n", "20", "-r", "2", "-c", "8")
    assert sorted(trace.task.data.id for trace in traces) == sorted(2 * [episode.sample_id for episode in EPISODES])
    assert Scripted.most > 1
    for trace in traces:
        messages = [message.model_dump() for message in trace.branches[-1].messages]
        episode = EPISODES[number(messages)]
        assert trace.task.data.id == episode.sample_id
        assert trace.ok, trace.errors
        assert equal_seen(seen(messages)[: len(episode.turns)], episode.seen)
        assert trace.reward == pytest.approx(episode.reward)
        assert {name: term.value for name, term in trace.rewards.items()} == episode.info["reward_terms"]
        assert trace.metrics["score"] == episode.info["score"]
        assert {name: trace.metrics[f"usage/{name}"] for name in episode.info["usage"]} == episode.info["usage"]
        assert trace.info["pxr_env"]["failures"] == episode.info["failures"]
    handed = [[m for m in body["messages"] if m["role"] != "assistant"] for body in Scripted.bodies]
    assert_no_leak([seen(messages) for messages in handed])
    assert {message["role"] for messages in handed for message in messages} == {"system", "user"}
    assert_no_leak([messages[0] for messages in handed])
    assert_no_leak([trace.task.data.model_dump() for trace in traces])


def test_a_limit_of_verifiers_ends_the_episode_without_an_answer(evaluate):
    example = ("@", str(ROOT / "examples" / "adapters" / "with_verifiers.toml"), "-r", "1")
    [trace] = evaluate("--select.include.ids", "sample-1", "--env.agent.max-turns", "1", taskset=example)
    assert (trace.ok, trace.stop_condition, trace.reward) == (True, "max_turns", -0.125)
    assert trace.info["pxr_env"]["truncated_by"] == "length"
