"""What devices attain: GPUs by their data sheets, this CPU by a measurement of a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pxr_agents.agents import VLMAgent
from pxr_agents.checkpoint import ImageNormalization, read_checkpoint
from pxr_agents.rollout import rollout
from pxr_agents.types import Completion, Job, Request, Sampling
from .config import PPORecipe
from .environments import make_env, sample_cursor

if TYPE_CHECKING:
    from pxr_agents.chat import ChatFormat
    from pxr_agents.vlm import VLM


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a device attains in a second, and seconds that have nothing to do with the size of a model."""

    name: str
    memory: float
    flops: float  # operations in matrix products, bfloat16 on GPUs, float32 on CPUs
    bandwidth: float  # bytes to and from its memory
    cache: float  # bytes of keys and values that an engine attends to
    link: float  # bytes to the other GPUs of its node
    network: float  # bytes to GPUs of other nodes
    host: float  # bytes to main memory, and from there to a process
    step: float = 0.0  # a step of an engine, in which each of its conversations gets an id
    step_layer: float = 0.0  # of it, each layer
    row: float = 0.0  # of it, each conversation
    call: float = 0.0  # a pass over many ids
    call_layer: float = 0.0  # of it, each layer
    elementwise: float = 0.0  # a number of an id's hidden state in a layer, beside the matrix products
    turn: float = 0.0  # an environment's turn on one CPU, with what becomes ids and patches of it


#: Share of its peak that a GPU attains in a large matrix product. Llama 3 reports .38 to .43 on H100s for whole
#: training steps (arXiv 2407.21783, table 4); transformers' layers fuse less.
COMPUTE_SHARE = 0.35
#: Share of the bandwidth of memory and links that large transfers attain.
TRANSFER_SHARE = 0.7
#: Bytes a second that a checkpoint is written with: a disk of a server, or a shared file system.
DISK = 1e9
#: Seconds of a scheduling step of vLLM and of each conversation in it, and of an environment's turn with 1 to 2
#: megapixels (decode, crop, resize, patches), both of them on a CPU beside the GPU. Assumed.
VLLM_STEP, VLLM_ROW, TURN = 4e-3, 1e-5, 0.1


def _gpu(name: str, memory: float, flops: float, bandwidth: float, link: float, network: float, host: float) -> Device:
    share = TRANSFER_SHARE
    return Device(
        name=name, memory=memory, flops=flops * COMPUTE_SHARE, bandwidth=bandwidth * share, cache=bandwidth * share,
        link=link * share, network=network * share, host=host * share, step=VLLM_STEP, row=VLLM_ROW, turn=TURN,
    )  # fmt: skip


#: Peaks from NVIDIA's data sheets (bfloat16 without sparsity; NVLink and PCIe in one direction, which is half of what
#: they say); InfiniBand of 400 Gbit/s (A100: 200) for each GPU, as in DGX systems.
GPUS = {
    "h200": _gpu("h200", 141e9, 989e12, 4.8e12, 450e9, 50e9, 64e9),
    "h100": _gpu("h100", 80e9, 989e12, 3.35e12, 450e9, 50e9, 64e9),
    "a100": _gpu("a100", 80e9, 312e12, 2.04e12, 300e9, 25e9, 32e9),
}
#: GPUs of a node.
NODE = 8


# -- this CPU

#: Width of the models that a CPU is measured with, whose products of matrices take no time.
_WIDTH = 32


def this_cpu(memory: float, turn: float) -> Device:
    """This machine with one thread for each process, measured in seconds of CPU time: a product of matrices, a copy,
    and a Qwen3-VL of width 32 with one layer and with four, in the engine and in a learner's pass.

    Args:
        memory: its size in bytes.
        turn: CPU seconds of an environment's turn.
    """
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = torch.randn(512, 512), torch.randn(512, 512)
        flops = 2 * 512**3 / _seconds(lambda: left @ right)
        source, target = torch.zeros(2**24), torch.zeros(2**24)
        bandwidth = 2 * source.nbytes / _seconds(lambda: target.copy_(source))
        small, deep = _probe(1), _probe(4)
        one, four, many, long = _step(small, 1), _step(deep, 1), _step(small, 64), _step(small, 64, length=264)
        step_layer, row = (four - one) / 3, (many - one) / 63
        # Keys and values of 256 more ids in each conversation.
        cache = 64 * 256 * 2 * 4 * _WIDTH / max(long - many, 1e-6)
        call, call_deep = _pass(small, 1, 8), _pass(deep, 1, 8)
        call_layer = (call_deep - call) / 3
        layer = (_pass(deep, 16, 128) - _pass(small, 16, 128)) / 3
        per_id = 2 * sum(p.numel() for p in small.model.model.language_model.layers[0].parameters()) + 4 * _WIDTH * 64
        elementwise = max((layer - call_layer) / 2048 - per_id / flops, 0.0) / _WIDTH
    finally:
        torch.set_num_threads(n_threads)
    return Device(
        name="cpu", memory=memory, flops=flops, bandwidth=bandwidth, cache=cache, link=bandwidth, network=bandwidth,
        host=bandwidth, step=one - step_layer - row, step_layer=step_layer, row=row, call=call - call_layer,
        call_layer=call_layer, elementwise=elementwise, turn=turn,
    )  # fmt: skip


def _seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """CPU seconds of the fastest of some runs, after one that does not count."""
    run()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return min(spent)


def _probe(layers: int) -> VLM:
    from pxr_agents import tiny
    from pxr_agents.chat import ChatFormat
    from pxr_agents.vlm import VLM

    patch, merge, grey = tiny.PATCH_SIZE, tiny.MERGE_SIZE, (0.5, 0.5, 0.5)
    tokenizer = tiny.build_tokenizer(["a b"], "x")
    model = tiny.build_model(tokenizer, width=_WIDTH, layers=layers, vision_width=_WIDTH)
    norm = ImageNormalization(patch_size=patch, merge_size=merge, temporal_patch_size=1, mean=grey, std=grey)
    return VLM(model, ChatFormat(tokenizer, patch_size=patch, merge_size=merge), norm)


def _step(vlm: VLM, rows: int, length: int = 8) -> float:
    """Seconds of a step of the engine with so many conversations of `length` ids: what 32 more steps take, by 32."""
    from pxr_agents.engines import local_engine

    engine = local_engine("transformers", vlm)

    def turns(n_steps: int) -> None:
        for key in range(rows):
            positions = np.tile(np.arange(length), (3, 1))
            request = Request(key=key, ids=[97 + key] * length, positions=positions, images=(), seed=key)
            engine.submit(request, Sampling(max_tokens=n_steps))
        engine.collect()
        engine.set_weights_version(0)

    return (_seconds(lambda: turns(33)) - _seconds(lambda: turns(1))) / 32


def _pass(vlm: VLM, rows: int, length: int) -> float:
    """Seconds of a pass without gradients over rows of ids, of which half are scored."""
    import torch

    from pxr_agents.vlm import TokenBatch, score_tokens

    ids = torch.full((rows, length), 97)
    target = torch.arange(length).expand(rows, -1) >= length // 2
    positions = torch.arange(length).expand(3, rows, -1)
    batch = TokenBatch(ids=ids, positions=positions, target=target, images=())
    with torch.no_grad():
        return _seconds(lambda: score_tokens(vlm, batch))


# -- environments


class Seen(NamedTuple):
    """Means over episodes: ids of text and vision tokens of a question, ids of a reply, CPU seconds of a turn."""

    text: float
    image: float
    reply: float
    seconds: float


class CannedEngine:
    """Answers every request at once, with the same ids; notes what it was asked."""

    weights_version = 0

    def __init__(self, chat: ChatFormat, n_ids: int) -> None:
        self._answer = Completion(
            token_ids=tuple(chat.encode_text("a " * n_ids)[:n_ids]), logprobs=(-1.0,) * n_ids, finish_reason="length"
        )
        self._image_id = chat.image_id
        self._ready: list[tuple[int, Completion]] = []
        self.asked: dict[int, list[tuple[int, int]]] = {}

    def submit(self, request: Request, sampling: Sampling) -> None:
        n_images = int((np.asarray(request.ids) == self._image_id).sum())
        self.asked.setdefault(request.key, []).append((len(request.ids), n_images))
        self._ready.append((request.key, self._answer))

    def collect(self) -> list[tuple[int, Completion]]:
        ready, self._ready = self._ready, []
        return ready

    def forget(self, key: int) -> None:
        pass


def rehearse(recipe: PPORecipe, turn: int, episodes: int = 24) -> Seen:
    """Plays a recipe's environment with the tokenizer of its checkpoint, and nothing said."""
    chat = read_checkpoint(recipe.model).chat
    engine = CannedEngine(chat, turn)
    envs = [make_env(recipe.env) for _ in range(8)]
    cursor = sample_cursor(envs[0], recipe.env, seed=0)
    jobs = [Job(sample_id=cursor.take(1)[0], seed=k) for k in range(episodes)]
    agent = VLMAgent(chat, engine, Sampling(max_tokens=turn))
    start = time.process_time()
    played = rollout(envs, agent, jobs)
    seconds = time.process_time() - start
    for env in envs:
        env.close()
    firsts = [asked[0] for asked in engine.asked.values()]
    replies = [b[0] - a[0] - turn for asked in engine.asked.values() for a, b in pairwise(asked)]
    image = sum(n for _, n in firsts) / episodes
    return Seen(
        text=sum(n for n, _ in firsts) / episodes - image,
        image=image,
        reply=sum(replies) / max(len(replies), 1),
        seconds=seconds / sum(len(episode.steps) for episode in played),
    )
