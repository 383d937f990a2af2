"""What verl's agent loop hands to its trainer is our own conversation about the same episode."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from pyarrow import parquet
from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen3VLProcessor
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker, _agent_loop_registry
from verl.workers.rollout.replica import TokenOutput

from pxr_agents import tiny
from pxr_agents.adapters.verl import PixelLoop, rows
from pxr_agents.chat import Conversation
from pxr_agents.types import Completion
from pxr_agents.vlm import VLM, patchify
from pxr_env import ToolSession
from tests.adapters.episodes import ENV_ID, EPISODES, Said, assert_no_leak

# Its video processor would need torchvision, and there are no videos.
Qwen3VLProcessor.get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])


class Server:
    """verl's client of a server: a script, then the model itself on what a server gets, ids and images.

    verl pins transformers below what our engines need, so each id takes a forward pass.
    """

    def __init__(self, vlm: VLM, script: Sequence[Said] = ()) -> None:
        self.vlm, self.script = vlm, list(script)
        self.calls: list[Any] = []
        self.turns: list[TokenOutput] = []

    async def generate(self, request_id: str, *, prompt_ids: Any, sampling_params: Any, image_data: Any) -> TokenOutput:
        self.calls.append((request_id, prompt_ids, image_data))
        most, chat = sampling_params["max_tokens"], self.vlm.chat
        if self.script:
            ids = (*chat.encode_text(self.script.pop(0).written()), chat.stop_id)[:most]
            self.turns.append(TokenOutput(token_ids=list(ids), log_probs=[-0.5] * len(ids)))
            return self.turns[-1]
        read, turn = reread(self.vlm, prompt_ids, image_data), TokenOutput(token_ids=[], log_probs=[])
        noise = torch.Generator().manual_seed(len(self.calls))
        while len(turn.token_ids) < min(most, 5) and chat.stop_id not in turn.token_ids:
            logprobs = forward(self.vlm, read, *patchify(read.images, self.vlm.norm))[-1]
            drawn = int(torch.multinomial(logprobs.exp(), 1, generator=noise))
            turn.token_ids.append(drawn)
            turn.log_probs.append(float(logprobs[drawn]))
            read.append_ids((drawn,))
        self.turns.append(turn)
        return turn


def forward(vlm: VLM, read: Conversation, pixels: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (L, V) of what follows each id, among those that may be sampled."""
    ids, positions = torch.tensor([read.ids]), torch.tensor(read.positions(), dtype=torch.long)[:, None]
    with torch.no_grad():
        logits = vlm.model(input_ids=ids, position_ids=positions, pixel_values=pixels, image_grid_thw=grids).logits[0]
    banned = torch.tensor(vlm.chat.banned_ids)
    return logits.index_fill(1, banned, float("-inf"))[:, : len(vlm.chat.tokenizer)].log_softmax(-1)


def reread(vlm: VLM, ids: Sequence[int], images: Sequence[Image.Image]) -> Conversation:
    """A conversation from ids with image tokens, each run of which has to be an image's."""
    read, left, k = Conversation(), [np.asarray(image) for image in images], 0
    while k < len(ids):
        if ids[k] == vlm.chat.image_id:
            grid = vlm.chat.grid(left[0])
            n = grid[0] * grid[1]
            assert set(ids[k : k + n]) == {vlm.chat.image_id}
            read.append_image(left.pop(0), vlm.chat.image_id, grid)
            k += n
        else:
            read.append_ids(ids[k : k + 1])
            k += 1
    assert not left
    return read


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VLM:
    return tiny.build(tmp_path_factory.mktemp("tiny"), [ToolSession(ENV_ID).system_prompt] * 2, r"\d")


@pytest.fixture(scope="module")
def play(vlm: VLM) -> Any:
    """verl's own worker, but for what needs a GPU: it makes the loop, runs it and prepares what it returns."""
    path = vlm.model.config._name_or_path
    worker: Any = AgentLoopWorker.__new__(AgentLoopWorker)
    worker.tokenizer = AutoTokenizer.from_pretrained(path)
    images = Qwen2VLImageProcessor.from_pretrained(path)
    worker.processor = Qwen3VLProcessor(images, worker.tokenizer, chat_template=worker.tokenizer.chat_template)
    worker.hf_model_type, worker.dataset_cls, worker.tools, worker.mm_processor_kwargs = "qwen3_vl", object, [], {}
    worker.reward_loop_worker_handles, worker.distillation_enabled = None, False

    def run(server: Server, sample_id: str, length: int = 1024, prompt_length: int = 1024) -> Any:
        rollout = {"prompt_length": prompt_length, "response_length": length}
        worker.config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": {}})
        worker.rollout_config, worker.llm_client = worker.config.actor_rollout_ref.rollout, server
        [row] = rows("marbles", [sample_id])
        row = {**row, "raw_prompt": row.pop("prompt")}
        trajectory = {"step": 0, "sample_index": 0, "rollout_n": 0, "validate": False}
        return asyncio.run(worker._run_agent_loop({"temperature": 1.0}, trajectory, trace=False, **row))

    target = "pxr_agents.adapters.verl.PixelLoop"
    loop = {"_target_": target, "env": ENV_ID, "kwargs": {"operations": ["zoom_in", "rotate"]}}
    _agent_loop_registry["marbles"] = OmegaConf.create(loop)
    return run


def replayed(vlm: VLM, sample_id: str, turns: Sequence[TokenOutput]) -> tuple[Conversation, float]:
    """Our own ids of an episode, and what `step` pays for the turns of a server."""
    env, told, total, is_over = gymnasium.make(ENV_ID), Conversation(), 0.0, False
    observation, info = env.reset(options={"sample_id": sample_id})
    vlm.chat.prompt(told, info["system_prompt"], observation)
    for turn in turns:
        done = Completion(token_ids=tuple(turn.token_ids), logprobs=tuple(turn.log_probs), finish_reason="stop")
        told.append_completion(done)
        observation, reward, terminated, truncated, _ = env.step(vlm.chat.decode(turn.token_ids))
        total, is_over = total + float(reward), terminated or truncated
        if not is_over:
            vlm.chat.reply(told, observation)
    return told, total


def check(vlm: VLM, output: Any, own: Conversation, n_ids: int, n_images: int) -> None:
    """What verl trains on is our conversation up to its end, masked and with the features of its images alone."""
    tokens = own.tokens()
    n_prompt = int(tokens.action.argmax())
    ids = [i for i, kept in zip(output.input_ids[0].tolist(), output.attention_mask[0].tolist(), strict=True) if kept]
    assert ids == own.ids[:n_ids]
    n = n_ids - n_prompt
    assert output.response_mask[0].tolist() == [
        *tokens.action[n_prompt:n_ids],
        *[0] * (output.response_ids.shape[1] - n),
    ]
    np.testing.assert_array_equal(output.response_logprobs[0, :n].numpy(), tokens.logprobs[n_prompt:n_ids])
    pixels, grids = patchify(own.images[:n_images], vlm.norm)
    assert torch.equal(output.multi_modal_inputs["image_grid_thw"], grids)
    torch.testing.assert_close(output.multi_modal_inputs["pixel_values"], pixels, rtol=0, atol=1e-6)
    assert ids.count(vlm.chat.image_id) * 4 == grids.prod(dim=1).sum()


def test_twenty_episodes(vlm: VLM, play: Any) -> None:
    for episode in EPISODES:
        server = Server(vlm, episode.turns)
        output = play(server, episode.sample_id)
        own, reward = replayed(vlm, episode.sample_id, server.turns)
        check(vlm, output, own, len(own.ids), len(own.images))
        # A last message without a call or an answer is told so, and the model goes on by itself.
        assert output.reward_score == reward == episode.reward
        assert len({request_id for request_id, *_ in server.calls}) == 1
        assert output.num_turns == 2 * len(server.turns)
        action = own.tokens().action
        assert_no_leak(vlm.chat.decode([i for i, own_id in zip(own.ids, action, strict=True) if not own_id]))
        metrics = output.extra_fields["reward_extra_info"]
        assert metrics["acc"] == (episode.info["correct"] is True)
        assert metrics["usage_rate"] == bool(sum(episode.info["usage"].values()))
    assert_no_leak(rows("marbles", ["sample-0"]))


@pytest.mark.parametrize(
    ("cut", "images", "reward"),
    [("call", 1, 0.0), ("result", 1, -0.125), ("nothing", 1, -0.125), ("answer", 2, -0.125)],
)
def test_cut_by_length(vlm: VLM, play: Any, cut: str, images: int, reward: float) -> None:
    """What was shown after the last turn is left out with its images."""
    server = Server(vlm, EPISODES[1].turns)
    play(server, "sample-1")
    own, _ = replayed(vlm, "sample-1", server.turns)
    call, answer = (len(turn.token_ids) for turn in server.turns)
    first, end = int(own.tokens().action.argmax()), len(own.ids)
    result = end - answer - first
    length = {"call": call - 30, "result": result - 1, "nothing": result, "answer": end - first - 3}[cut]
    output = play(Server(vlm, EPISODES[1].turns), "sample-1", length)
    check(vlm, output, own, first + (call if images == 1 and cut != "call" else length), images)
    assert output.reward_score == reward
    assert output.extra_fields["reward_extra_info"] == {"acc": 0.0, "usage_rate": reward != 0, "truncated_rate": 1.0}


def test_the_model_goes_on_from_its_ids_and_images(vlm: VLM, play: Any) -> None:
    """What verl trains on gives the log-probabilities that the server told, turn for turn, in one forward pass."""
    server = Server(vlm, EPISODES[1].turns[:1])
    output = play(server, "sample-1")
    own, _ = replayed(vlm, "sample-1", server.turns)
    check(vlm, output, own, len(own.ids), 2)
    logprobs = forward(vlm, own, *(output.multi_modal_inputs[name] for name in ("pixel_values", "image_grid_thw")))
    tokens = own.tokens()
    mine = np.flatnonzero(tokens.action)[len(server.turns[0].token_ids) :]
    assert len(mine) > 4
    np.testing.assert_allclose(tokens.logprobs[mine], logprobs[mine - 1, tokens.ids[mine]], atol=1e-4)


def test_a_prompt_that_is_too_long_is_an_error(vlm: VLM, play: Any) -> None:
    with pytest.raises(ValueError, match="expected at most prompt_length=100"):
        play(Server(vlm), "sample-0", prompt_length=100)


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = Path("examples/adapters").resolve()
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(examples / "with_verl.py"))
    data = parquet.read_table(tmp_path / "train.parquet").to_pylist()
    assert (len(data), data[7]["sample_id"], data[7]["agent_name"]) == (512, "train-7", "search")
    [loop] = OmegaConf.load(examples / "with_verl.yaml")
    assert (loop.name, hydra.utils.get_class(loop._target_)) == ("search", PixelLoop)
    env = gymnasium.make(loop.env, **OmegaConf.to_container(loop.kwargs))
    assert "train-511" in env.unwrapped.data.sample_ids()
