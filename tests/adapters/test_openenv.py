"""Clients of OpenEnv play the episodes on a server in another process, side by side."""

import multiprocessing
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import httpx
import numpy as np
import pytest
import uvicorn
from openenv.core.generic_client import GenericEnvClient

from pxr_agents.foreign import ForeignEnv
from pxr_env import ToolSession
from pxr_env.adapters.openenv import PixelAction, PixelClient, PixelEnvironment, build_app
from pxr_env.messages import read_observation
from tests.adapters.episodes import ENV_ID, EPISODES, assert_no_leak, equal_seen


def serve(port):
    uvicorn.run(build_app(ENV_ID, max_concurrent_envs=4), port=port, log_level="error")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def url():
    port = free_port()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(port,))
    process.start()
    deadline = time.monotonic() + 300
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
            break
        except httpx.HTTPError:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.join()


def shown(messages):
    observations = [read_observation(message)[0] for message in messages]
    return "\n".join(one["text"] for one in observations), [image for one in observations for image in one["images"]]


def play(url, episode, native):
    with PixelClient(base_url=url).sync() as client:
        result = client.reset(sample_id=episode.sample_id, episode_id=str(episode.number))
        handed = list(result.observation.messages)
        seen = [shown(handed[1:])]
        for number, turn in enumerate(episode.turns, start=1):
            # What is neither a call nor an answer, such as a cut message.
            is_last = not turn.calls and "boxed" not in turn.text
            calls = {"tool_calls": turn.message().get("tool_calls", [])} if native else {}
            content = turn.text if native else turn.written()
            result = client.step(PixelAction(content=content, is_last=is_last, **calls))
            handed += result.observation.messages
            seen += [] if result.done else [shown(result.observation.messages)]
            assert_no_leak([handed, {**result.observation.metadata, "answer": None}])
            assert result.done == (number == len(episode.turns))
            assert result.done or result.reward == 0.0
        assert client.state().step_count == len(episode.turns)
        return seen, result


@pytest.mark.parametrize("native", [False, True], ids=["text", "native"])
def test_20_episodes_side_by_side_are_those_of_step(url, native):
    with ThreadPoolExecutor(4) as pool:
        played = list(pool.map(lambda episode: play(url, episode, native), EPISODES))
    for (seen, result), episode in zip(played, EPISODES, strict=True):
        assert equal_seen(seen, episode.seen)
        assert result.reward == episode.reward
        assert result.observation.reward_terms == episode.info["reward_terms"]
        told = {name: episode.info.get(name) for name in ("usage", "failures", "truncated_by", "answer")}
        assert {name: result.observation.metadata.get(name) for name in told} == told


def test_mistakes_of_the_model_are_messages_and_those_of_the_program_are_errors(url):
    with GenericEnvClient(base_url=url).sync() as client:
        seen = client.reset(seed=0).observation
        assert [message["role"] for message in seen["messages"]] == ["system", "user"]
        assert "<tools>" in seen["messages"][0]["content"]
        assert client.step({"content": "Hm."}).observation["messages"][0]["role"] == "user"
        with pytest.raises(RuntimeError, match="nothing"):
            client.reset(sample_id="nothing")
        with pytest.raises(RuntimeError, match="Invalid message"):
            client.step({"text": "Hm."})


def test_native_calls_have_a_prompt_without_their_syntax():
    environment = PixelEnvironment(ENV_ID, native=True)
    prompt = environment.reset(seed=0).messages[0]["content"]
    assert prompt == ToolSession(ENV_ID).native_prompt
    environment.close()


def test_the_example_is_that_of_the_page():
    example = Path("examples/adapters/with_openenv.py")
    assert f"```python\n{example.read_text()}```" in Path("docs/adapters/openenv.md").read_text()
    command = [sys.executable, example, str(free_port())]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "1.0 {'correct': 1.0}"


def test_our_rollouts_play_a_server(url):
    """A server is an environment of others, and what it shows and pays is what `step` does."""
    env = ForeignEnv(
        "pxr_agents.foreign:OpenEnvGame",
        env_kwargs={"base_url": url, "field": "content", "shown": ["messages"]},
        min_pixels=28 * 28 * 9,
        max_pixels=28 * 28 * 36,
    )
    alone = gymnasium.make(ENV_ID)
    for seed in range(5):
        observation, _ = env.reset(options={"sample_id": str(seed)})
        expected, info = alone.reset(seed=seed)
        assert observation["text"] == f"{info['system_prompt']}\n{expected['text']}"
        turns = [turn.written() for turn in EPISODES[1].turns[:1]]
        for turn in [*turns, alone.unwrapped.dialect.render_answer(alone.unwrapped.sample.answers[0])]:
            np.testing.assert_array_equal(observation["images"], expected["images"])
            observation, reward, terminated, _, info = env.step(turn)
            expected, *paid, _, _ = alone.step(turn)
            assert (reward, terminated) == tuple(paid)
            assert info["reward_terms"] == {"reward": reward}
            assert observation["text"] == expected["text"]
        assert (reward, terminated) == (0.875, True)
    env.close()
