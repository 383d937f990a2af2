"""Clients of the official SDK play the episodes in another process, over stdio and over HTTP."""

import json
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import gymnasium
import pytest
from mcp import Client, StdioServerParameters

from pxr_env.adapters.mcp import OUTCOME
from pxr_env.messages import read_observation
from pxr_env.types import NoTurn
from tests.adapters.episodes import ENV_ID, EPISODES, Said, assert_no_leak, equal_seen

LEFT = {"bbox_2d": [0.0, 0.0, 0.5, 0.5], "target_image": 1}


def command(*arguments):
    return StdioServerParameters(command=sys.executable, args=["-m", "pxr_env", "mcp", ENV_ID, *arguments], cwd=".")


@asynccontextmanager
async def http_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, *command("--http", str(port)).args])
    try:
        with anyio.fail_after(60):
            while True:
                try:
                    await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await anyio.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait()


def calls_of(episode):
    """The calls, each a turn; arguments that are no JSON cannot be sent, and are none."""
    for name, arguments in [call for turn in episode.turns for call in turn.calls]:
        try:
            yield name, json.loads(arguments)
        except ValueError:
            yield name, {}


def shown(result):
    """Text and images of a result."""
    parts = [
        {"type": "text", "text": block.text}
        if block.type == "text"
        else {"type": "image_url", "image_url": {"url": f"data:{block.mime_type};base64,{block.data}"}}
        for block in result.content
    ]
    observation, _ = read_observation({"content": parts})
    return observation["text"], list(observation["images"])


async def play(client, episode):
    results = [await client.call_tool("reset", {"sample_id": episode.sample_id})]
    results += [await client.call_tool(name, arguments) for name, arguments in calls_of(episode)]
    last = episode.turns[-1].text
    end = await client.call_tool("answer", {"text": last if "boxed" in last else ""})
    assert shown(end) == ("The episode is over.", [])
    assert_no_leak([result.model_dump() for result in results])
    return [shown(result) for result in results], [result.is_error for result in results[1:]], end.meta[OUTCOME]


def check(played, episode):
    """Compare with what `step` makes of the same."""
    seen, errors, outcome = played
    env = gymnasium.make(ENV_ID)
    observation, _ = env.reset(options={"sample_id": episode.sample_id})
    expected, refused = [(observation["text"], list(observation["images"]))], []
    for name, arguments in calls_of(episode):
        observation, _, _, _, info = env.step(Said("", ((name, json.dumps(arguments)),)).written())
        expected.append((observation["text"], list(observation["images"])))
        refused += [not result["ok"] for result in info["results"]]
    last = episode.turns[-1].text
    _, reward, _, _, info = env.step(last if "boxed" in last else NoTurn("length"))
    assert equal_seen(seen, expected)
    assert errors == refused
    told = {name: info.get(name) for name in ("reward_terms", "answer", "truncated_by", "usage", "failures")}
    assert outcome == {"reward": reward, **told}
    return reward


def test_20_episodes_in_another_process_are_those_of_step():
    async def main():
        async with Client(command()) as client:
            assert_no_leak([client.session.instructions, (await client.list_tools()).model_dump()])
            return [await play(client, episode) for episode in EPISODES]

    rewards = [check(played, episode) for played, episode in zip(anyio.run(main), EPISODES, strict=True)]
    assert rewards == [1.0, 0.875, 0.625, 1.0, 0.0, 0.875, -0.125, 0.625, 0.875, -0.25] * 2


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_clients_at_once_over_http_have_an_episode_each(mode):
    played = {}

    async def one(url, episode):
        async with Client(url, mode=mode) as client:
            played[episode.number] = await play(client, episode)

    async def main():
        async with http_server() as url, anyio.create_task_group() as group:
            for episode in EPISODES[:4]:
                group.start_soon(one, url, episode)

    anyio.run(main)
    assert [check(played[episode.number], episode) for episode in EPISODES[:4]] == [1.0, 0.875, 0.625, 1.0]


def test_http_without_sessions_is_refused_readably():
    async def main():
        async with http_server() as url, Client(url, mode="2026-07-28") as client:
            return await client.call_tool("reset", {"seed": 0})

    refused = anyio.run(main)
    assert refused.is_error
    assert "expected one that began with initialize" in refused.content[0].text


def test_a_limit_ends_the_episode_and_mistakes_are_results():
    async def main():
        async with Client(command("--set", "max_turns=1")) as client:
            wrong = [("zoom_in", LEFT), ("reset", {"sample_id": "nothing"}), ("reset", {"sed": 1}), ("answer", {})]
            results = [await client.call_tool(*call) for call in wrong]
            await client.call_tool("reset", {})
            return results, await client.call_tool("zoom_in", LEFT), await client.call_tool("zoom_in", LEFT)

    mistakes, last, late = anyio.run(main)
    assert all(result.is_error for result in mistakes)
    for result, word in zip(mistakes, ("Call reset first", "nothing", "sed", "expected text"), strict=True):
        assert word in result.content[0].text
    assert_no_leak([result.model_dump() for result in mistakes])
    assert last.meta[OUTCOME]["truncated_by"] == "max_turns"
    assert (late.is_error, late.content[0].text) == (True, "The episode is over.")


def test_the_example_is_that_of_the_page():
    example = Path("examples/adapters/with_mcp.py")
    assert f"```python\n{example.read_text()}```" in Path("docs/adapters/mcp.md").read_text()
    printed = subprocess.run([sys.executable, example], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[2:] == ["['image', 'text'] Image 2 (84x84).", "The episode is over. 1.0"]
