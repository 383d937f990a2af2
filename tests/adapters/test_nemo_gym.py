"""NeMo Gym's collector, agent, resources and vLLM model servers, each in its process, play the episodes.

An OpenAI-compatible server that says what the episodes say takes the place of vLLM. `gym env start` would start the
same processes, in environments that it makes with uv, with Python 3.13.
"""

import asyncio
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

# NeMo Gym moves the folder it is installed in to the end of the path, behind those packages that are linked here.
INSTALLED = Path(sysconfig.get_path("purelib"))
os.environ["NEMO_GYM_EXTRA_ROOTS"] = str(INSTALLED)

from nemo_gym.config_types import BaseServerConfig  # noqa: E402
from nemo_gym.global_config import GlobalConfigDictParser, GlobalConfigDictParserConfig  # noqa: E402
from nemo_gym.rollout_collection import RolloutCollectionHelper  # noqa: E402
from nemo_gym.server_utils import ServerClient, get_response_json  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402

from pxr_env import ToolSession  # noqa: E402
from pxr_env.adapters.nemo_gym import PixelServer, PixelServerConfig  # noqa: E402
from pxr_env.messages import read_observation  # noqa: E402
from tests.adapters.episodes import ENV_ID, EPISODES, assert_no_leak, equal_seen  # noqa: E402

ROOT = Path(__file__).parents[2]
EXAMPLE, PAGE = ROOT / "examples/adapters/with_nemo_gym.yaml", ROOT / "docs/adapters/nemo_gym.md"


def number_of(question):
    return int(re.search(r"of (\d+)\?", str(question))[1]) - 2


class Scripted:
    """An OpenAI-compatible server that says the turns of the episode whose question it is asked."""

    def __init__(self):
        self.app, self.asked = FastAPI(), {}
        self.app.post("/v1/chat/completions")(self.complete)

    def complete(self, body: dict):
        if body["temperature"] == 0:
            raise HTTPException(422, "no model of this temperature")
        number = number_of(body["messages"][1]["content"])
        self.asked[number] = body
        turn = EPISODES[number].turns[sum(message["role"] == "assistant" for message in body["messages"])]
        finish = "tool_calls" if turn.calls else turn.finish
        choice = {"index": 0, "finish_reason": finish, "message": turn.message()}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": "x", "choices": [choice], "usage": usage}


@pytest.fixture(scope="module")
def gym(tmp_path_factory):
    """The servers of the example, and the scripted one that is behind them."""
    folder, scripted = tmp_path_factory.mktemp("gym"), Scripted()
    server = uvicorn.Server(uvicorn.Config(scripted.app, port=0, log_level="error"))
    Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    begin = {
        "config_paths": [str(EXAMPLE), "responses_api_models/vllm_model/configs/vllm_model.yaml"],
        "policy_base_url": f"http://127.0.0.1:{port}/v1",
        "policy_api_key": "none",
        "policy_model_name": "scripted",
        "pxr": {"resources_servers": {"pxr": {"task": ENV_ID, "env_kwargs": {"max_turns": 5}}}},
    }
    parsing = {"skip_load_from_cli": True, "skip_load_from_dotenv": True}
    config = GlobalConfigDictParser().parse(
        GlobalConfigDictParserConfig(initial_global_config_dict=OmegaConf.create(begin), **parsing)
    )
    os.environ["NEMO_GYM_CONFIG_DICT"] = OmegaConf.to_yaml(config)
    apps = {"pxr": re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]}
    apps["pxr_agent"] = apps["pxr"].replace("PixelServer", "PixelAgent")
    # NeMo Gym's own starts a Ray cluster, which it does not use.
    relay = "from environment_servers.legacy_agent.app import LegacyAgentEnvironmentServer as Relay\n"
    apps["pxr_environment_server"] = f"{relay}Relay.ray_enabled = False\nRelay.run_webserver()\n"
    processes, urls = [], []
    try:
        for name in (*apps, "policy_model"):
            ((kind, servers),) = config[name].items()
            ((place, entry),) = servers.items()
            directory = (folder if name in apps else INSTALLED) / kind / place
            if name in apps:
                directory.mkdir(parents=True)
                (directory / "app.py").write_text(apps[name])
            env = os.environ | {"NEMO_GYM_CONFIG_PATH": name}
            processes.append(subprocess.Popen([sys.executable, "app.py"], cwd=directory, env=env))
            urls.append(f"http://{entry.host}:{entry.port}/health")
        deadline = time.monotonic() + 300
        while urls:
            try:
                httpx.get(urls[0]).raise_for_status()
                urls.pop(0)
            except httpx.HTTPError:
                assert not any(process.poll() for process in processes)
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield scripted
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        server.should_exit = True
        del os.environ["NEMO_GYM_CONFIG_DICT"]


def row(temperature=0.25, **chosen):
    asked = {"input": "of the row", "temperature": temperature}
    agent = {"type": "responses_api_agents", "name": "pxr_agent"}
    return {"responses_create_params": asked, "agent_ref": agent, **chosen}


async def collected(rows):
    """What NeMo Gym's collector makes of the rows, its averages, and what the agent says to rows that fail."""
    helper = RolloutCollectionHelper()
    pairs = [await pair for pair in helper.run_examples(rows)]
    results = [{name: row[name] for name in ("_ng_task_index", "_ng_rollout_index")} | result for row, result in pairs]
    client = helper.setup_server_client()
    averages = await client.post("pxr_agent", "/aggregate_metrics", json={"verify_responses": results})
    wrong = row(sample_id="nothing"), row(temperature=0.0)
    refused = [await client.post("pxr_agent", "/run", json=one) for one in wrong]
    return results, await get_response_json(averages), [(one.status, await one.text()) for one in refused]


def said(text, is_cut):
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "role": "assistant", "id": "m", "status": "completed", "content": [part]}
    facts = {"id": "r", "object": "response", "created_at": 0, "model": "x", "tools": [], "tool_choice": "auto"}
    cut = {"incomplete_details": {"reason": "max_output_tokens"}} if is_cut else {}
    return {**facts, **cut, "parallel_tool_calls": True, "output": [message]}


def chat_part(part):
    if part["type"] == "input_text":
        return {"type": "text", "text": part["text"]}
    return {"type": "image_url", "image_url": {"url": part["image_url"]}}


def shown(messages):
    """Of each reply to the model: the texts of tools, and the images after them."""
    replies = [[]]
    for message in messages:
        if message["role"] == "assistant":
            replies.append([])
        else:
            replies[-1].append(message)
    for reply in replies:
        texts = [message["content"] for message in reply if message["role"] == "tool"]
        seen = [read_observation(message)[0] for message in reply if message["role"] == "user"]
        images = [image for one in seen for image in one["images"]]
        yield "\n".join(texts or [one["text"] for one in seen]), images


def test_20_episodes_at_once_are_those_of_step(gym):
    rows = [
        row(sample_id=episode.sample_id, _ng_task_index=episode.number, _ng_rollout_index=0) for episode in EPISODES
    ]
    results, averages, refused = asyncio.run(collected(rows))
    results = {result["sample_id"]: result for result in results}
    for episode in EPISODES:
        asked, result = gym.asked[episode.number], results[episode.sample_id]
        system, *messages = asked["messages"]
        assert equal_seen(list(shown(messages)), episode.seen)
        assert asked["temperature"] == 0.25
        handed = [system, asked["tools"], *(message for message in messages if message["role"] != "assistant")]
        assert_no_leak(handed)
        assert system["content"] == ToolSession(ENV_ID).native_prompt
        assert result["reward"] == episode.reward
        assert result["reward_components"] == episode.info["reward_terms"]
        told_of = {name: episode.info.get(name) for name in ("answer", "truncated_by")}
        told_of |= {f"used_{name}": count for name, count in episode.info["usage"].items()}
        assert {name: result[name] for name in told_of} == told_of
        # Every message is in the response, and what it cost.
        items = [item["type"] for item in result["response"]["output"]]
        assert items.count("function_call") == sum(len(turn.calls) for turn in episode.turns)
        assert result["response"]["usage"]["total_tokens"] == 110 * len(episode.turns)
    mean = np.mean([episode.info["reward_terms"]["correct"] for episode in EPISODES])
    assert averages["agent_metrics"]["mean/term_correct"] == pytest.approx(mean)
    assert [status for status, _ in refused] == [500, 500]
    assert "expected one of 20 ids" in refused[0][1]
    assert "no model of this temperature" in refused[1][1]


def test_the_example_is_that_of_the_page():
    assert f"```yaml\n{EXAMPLE.read_text()}```" in PAGE.read_text()


def test_calls_in_the_text_and_sessions_of_one_server(monkeypatch):
    monkeypatch.setenv("NEMO_GYM_CONFIG_DICT", "{}")
    place = {"host": "127.0.0.1", "port": 1}
    config = PixelServerConfig(**place, entrypoint="app.py", name="pxr", task=ENV_ID, native=False)
    head = ServerClient(head_server_config=BaseServerConfig(**place), global_config_dict=DictConfig({}))
    app = PixelServer(config=config, server_client=head).setup_webserver()
    players = []
    for episode in EPISODES:
        client = TestClient(app)
        begun = client.post("/seed_session", json=row(sample_id=episode.sample_id)).json()
        assert begun["tools"] == []
        assert "<tools>" in begun["instructions"]
        assert_no_leak(begun)
        players.append((client, episode, begun["input"]))
    # A turn of each, and so on.
    for number in range(max(len(episode.turns) for episode in EPISODES)):
        for client, episode, handed in players:
            if number < len(episode.turns):
                turn = episode.turns[number]
                is_cut = not turn.calls and "boxed" not in turn.text
                response = said(turn.written(), is_cut)
                reply = client.post("/step", json=response).json()
                assert reply["done"] == (number == len(episode.turns) - 1)
                handed += reply["input"]
    for client, episode, handed in players:
        seen = [read_observation({"content": [chat_part(part) for part in item["content"]]})[0] for item in handed]
        assert equal_seen([(one["text"], one["images"]) for one in seen], episode.seen)
        assert_no_leak(handed)
        played = {**row(), "response": response}
        assert client.post("/verify", json=played).json()["reward"] == episode.reward
        assert client.post("/verify", json=played).status_code == 409
    client.post("/seed_session", json=row())
    assert client.post("/close_session").status_code == 200
    assert client.post("/step", json=response).status_code == 409
