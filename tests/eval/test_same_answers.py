"""One model behind transformers, vLLM and vLLM's server gives the same answers: greedy, in float32."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from eval.agents import AgentChoice, open_agent
from eval.records import RunFiles
from eval.runner import evaluate
from eval.suites import Choice
from pxr_agents.chat import Conversation
from pxr_agents.chat_client import Server
from pxr_agents.checkpoint import read_checkpoint
from pxr_agents.remote import OpenAIAgent
from pxr_agents.types import Sampling
from tests.eval.conftest import episodes_of
from tests.vllm_support import ARGUMENTS, VARIABLES, needs_vllm

pytestmark = needs_vllm

ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"
ENV_ARGS = {"split": "test", "min_pixels": 784, "max_pixels": 7056, "max_turns": 2}
GREEDY = Sampling(temperature=0.0, max_tokens=12)
#: The system prompt is spelt almost letter by letter.
LENGTH = 2048
CALL = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def checkpoint(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, made to say nothing but characters that no merge joins.

    A server takes text and gives text. What an untrained model says is mostly no text (half characters, special tokens)
    or would be cut into other tokens when it is sent back; what a trained one says is text.
    """
    import torch

    from pxr_agents.vlm import VLM

    vlm = VLM.from_pretrained(tiny_path)
    vocabulary = vlm.chat.tokenizer.get_vocab()
    said = [vocabulary[character] for character in "!#$%&*+;=@^|~"]
    head = torch.zeros_like(vlm.model.lm_head.weight)
    # Random directions: its own embeddings would make it repeat one character for ever.
    head[said] = torch.randn(len(said), head.shape[1], generator=torch.Generator().manual_seed(1))
    vlm.model.lm_head.weight = torch.nn.Parameter(head)
    vlm.model.config.tie_word_embeddings = False
    vlm.model.config.text_config.tie_word_embeddings = False
    path = tmp_path_factory.mktemp("same") / "model"
    vlm.save(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def variables() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield


@pytest.fixture(scope="module")
def base_url(checkpoint: Path, variables: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own OpenAI-compatible server on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "host": "127.0.0.1",
        "port": port,
        "served-model-name": "tiny",
        "dtype": "float32",
        "block-size": 32,
        "kv-cache-memory-bytes": 64 << 20,
        "max-model-len": LENGTH,
        "max-num-seqs": 8,
        "limit-mm-per-prompt": '{"image": 8}',
    }
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(checkpoint),
        "--enforce-eager",
    ]
    command += [item for name, value in options.items() for item in (f"--{name}", str(value))]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for _ in range(500):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        else:
            pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def choices(checkpoint: Path, base_url: str) -> dict[str, AgentChoice]:
    engine = {**ARGUMENTS, "max_model_len": LENGTH}
    server = Server(base_url=base_url, model="tiny", timeout=60.0)
    return {
        "transformers": AgentChoice(name="transformers", model=str(checkpoint), sampling=GREEDY),
        "vllm": AgentChoice(name="vllm", model=str(checkpoint), sampling=GREEDY, engine=engine),
        "openai": AgentChoice(name="openai", model="tiny", server=server, sampling=GREEDY),
    }


def two_turns(choice: AgentChoice, sample_ids: Sequence[str]) -> list[tuple[str, str]]:
    """What a model says at first to each sample, and what to the result of a call that is put into its mouth."""
    said = []
    with open_agent(choice) as agent:
        for key, sample_id in enumerate(sample_ids):
            env = gymnasium.make(ENV_ID, **ENV_ARGS)
            observation, info = env.reset(options={"sample_id": sample_id})
            agent.start(key, env)
            agent.submit(key, observation, info)
            [(_, first)] = agent.collect()
            # Under another key: what an engine remembers of this one is another conversation.
            agent.start(1000 + key, env)
            put(agent, key, 1000 + key, CALL)
            observation, *_, info = env.step(CALL)
            assert len(observation["images"]) == 1
            agent.submit(1000 + key, observation, info)
            [(_, second)] = agent.collect()
            said.append((first.text, second.text))
    return said


def put(agent: Any, key: int, new_key: int, text: str) -> None:
    """Begin another conversation as the one of `key` began, with another first turn."""
    if isinstance(agent, OpenAIAgent):
        begin = agent._talks[key].messages[:2]
        agent._talks[new_key].messages = [*begin, {"role": "assistant", "content": text}]
        return
    chat, before = agent.chat, agent._conversations[key]
    tokens = before.tokens()
    image_ids = np.flatnonzero(tokens.ids == chat.image_id)
    conversation = agent._conversations[new_key] = Conversation()
    conversation.append_ids(before.ids[: image_ids[0]])
    conversation.append_image(before.images[0], chat.image_id, chat.grid(before.images[0]))
    conversation.append_ids(before.ids[image_ids[-1] + 1 : tokens.action.argmax()])
    conversation.append_turn([*chat.encode_text(text), chat.stop_id], train=True)


def test_whole_evaluations_are_equal(choices: dict[str, AgentChoice], tmp_path: Path) -> None:
    turns = {}
    for name, choice in choices.items():
        evaluate(ENV_ID, out=tmp_path / name, agent=choice, env_args=ENV_ARGS, choice=Choice(limit=6), n_envs=6)
        turns[name] = [[step.turn for step in one.steps] for one in episodes_of(tmp_path / name)]
    assert turns["transformers"] == turns["vllm"] == turns["openai"]
    assert {len(of_episode) for of_episode in turns["openai"]} == {2}
    # They look at the pictures: not everything they say is the same.
    assert len({tuple(of_episode) for of_episode in turns["openai"]}) > 1


def test_images_of_later_turns_are_seen_alike(choices: dict[str, AgentChoice]) -> None:
    said = {name: two_turns(choice, ["test-0", "test-1", "test-2"]) for name, choice in choices.items()}
    assert said["transformers"] == said["vllm"] == said["openai"]
    assert all(first != second for first, second in said["openai"])


def test_what_a_server_counts_is_what_is_counted_here(choices: dict[str, AgentChoice], tmp_path: Path) -> None:
    evaluate(
        ENV_ID,
        out=tmp_path / "run",
        agent=choices["openai"],
        env_args={**ENV_ARGS, "max_turns": 1},
        choice=Choice(limit=1),
    )
    [record] = RunFiles(tmp_path / "run").records()
    chat = read_checkpoint(str(choices["transformers"].model)).chat
    env = gymnasium.make(ENV_ID, **ENV_ARGS)
    observation, info = env.reset(options={"sample_id": "test-0"})
    conversation = Conversation()
    chat.prompt(conversation, info["system_prompt"], observation)
    assert record.prompt_tokens == len(conversation.ids)
    assert record.completion_tokens == GREEDY.max_tokens
    assert RunFiles(tmp_path / "run").manifest()["server"]["says"]["id"] == "tiny"
