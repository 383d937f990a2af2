"""vLLM against transformers: the same ids, pixels, positions and masks, or the log-probabilities would differ."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.engines.vllm import EngineError, VLLMEngine
from pxr_agents.types import Sampling
from pxr_agents.vlm import VLM, collate
from tests.distributions import token_distributions
from tests.vllm_support import ARGUMENTS, VARIABLES, Talk, needs_vllm, vllm_processes

pytestmark = needs_vllm


class Running:
    """An engine, started again by the next test if one has killed it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine: VLLMEngine | None = None

    def get(self) -> VLLMEngine:
        if self.engine is None:
            self.engine = VLLMEngine.from_pretrained(self.path, timeout=120, **ARGUMENTS)
        return self.engine

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.engine = None


@pytest.fixture(scope="module")
def running(family_path):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        running = Running(family_path("qwen3-vl"))
        yield running
        running.close()


@pytest.fixture
def vlm(family_vlm) -> VLM:
    return family_vlm("qwen3-vl")


@pytest.fixture
def draw(vlm, noise_image):
    """A function that makes an image of a number of columns and rows of vision tokens."""
    unit = vlm.chat.image_unit
    return lambda columns=3, rows=3: noise_image(columns * unit, rows * unit)


@pytest.fixture
def engine(running: Running) -> VLLMEngine:
    return running.get()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_logprobs_over_turns_equal_transformers(engine, vlm, draw, temperature):
    talk = Talk(vlm, engine, Sampling(temperature=temperature, max_tokens=9))
    shared = draw()
    for key in range(6):
        talk.prompt(key, [shared, draw(1, 2)][: 1 + key % 2], "red? " * (1 + key))
    talk.turn(range(6))
    for key in range(4):
        # New images, old ones again, none at all.
        talk.reply(key, [draw(2, 4), shared][: key % 3])
    talk.turn(range(4))
    talk.reply(0, [draw(3, 1)])
    talk.turn([0])
    assert max(talk.gap(key, temperature or 1.0) for key in range(6)) < 1e-5 / (temperature or 1.0)


def test_greedy_takes_what_transformers_takes(engine, vlm, draw):
    talk = Talk(vlm, engine, Sampling(temperature=0, max_tokens=8))
    talk.prompt(0, [draw()])
    completion = talk.turn([0])[0]
    with torch.no_grad():
        ids, logprobs, _ = token_distributions(vlm, collate([talk.conversations[0].tokens()]))
    assert logprobs.argmax(-1).tolist() == ids.tolist() == list(completion.token_ids)


def test_stop_strings_end_turns_where_they_do_with_transformers(engine, vlm, draw):
    image = draw()
    free = Talk(vlm, engine, Sampling(temperature=0, max_tokens=9))
    free.prompt(0, [image])
    text = vlm.chat.decode(free.turn([0])[0].token_ids)
    sampling = Sampling(temperature=0, max_tokens=9, stop=("never", text[2:6]))
    talks = [Talk(vlm, engine, sampling), Talk(vlm, TransformersEngine(vlm), sampling)]
    for talk in talks:
        talk.prompt(0, [image])
    ours, theirs = (talk.turn([0])[0] for talk in talks)
    assert ours.token_ids == theirs.token_ids
    assert len(ours.token_ids) < 9
    assert ours.finish_reason == theirs.finish_reason == "stop"
    assert talks[0].gap(0) < 1e-5


def test_samples_from_the_distribution_it_reports(engine, vlm, draw):
    """And never a banned id, nor one of the rows that only pad the vocabulary."""
    talk = Talk(vlm, engine, Sampling(temperature=2.0, max_tokens=1))
    image, n = draw(1, 1), 1500
    for key in range(n):
        talk.prompt(key, [image])
    drawn = [c.token_ids[0] for c in talk.turn(range(n)).values()]
    assert not set(drawn) & set(vlm.chat.banned_ids)
    assert max(drawn) < len(vlm.chat.tokenizer)
    with torch.no_grad():
        _, logprobs, _ = token_distributions(vlm, collate([talk.conversations[0].tokens()]), 2.0)
    expected, counts = n * logprobs[0].exp().numpy(), np.bincount(drawn, minlength=logprobs.shape[1])
    # Five standard deviations of a binomial count.
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 1).all()


def test_a_seed_repeats_in_any_order(engine, vlm, draw):
    image = draw()

    def run(seed, order):
        talk = Talk(vlm, engine, Sampling(max_tokens=8), seed)
        for key in order:
            talk.prompt(key, [image])
        return {key: completion.token_ids for key, completion in talk.turn(order).items()}

    first = run(0, [0, 1, 2])
    assert first == run(0, [2, 0, 1])
    assert len(set(first.values())) == 3
    assert first != run(1, [0, 1, 2])


def test_stops_at_the_stop_id_and_nowhere_else(engine, vlm, draw):
    # One id of some 550 is the stop: among 9,600 it comes about 17 times.
    talk = Talk(vlm, engine, Sampling(temperature=2.0, max_tokens=300))
    for key in range(32):
        talk.prompt(key, [draw(1, 1)])
    completions, stop = talk.turn(range(32)), vlm.chat.stop_id
    assert {c.finish_reason for c in completions.values()} == {"stop", "length"}
    for completion in completions.values():
        stopped = completion.finish_reason == "stop"
        assert (completion.token_ids[-1] == stop) == stopped
        assert stop not in completion.token_ids[:-1]
        assert stopped or len(completion.token_ids) == 300


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_forced_ids_open_the_turn_with_their_own_logprobs(engine, vlm, draw, temperature):
    forced = vlm.chat.encode_text("\\boxed{")
    talk = Talk(vlm, engine, Sampling(temperature=temperature, max_tokens=len(forced) + 3, forced=forced))
    talk.prompt(0, [draw()])
    completion = talk.turn([0])[0]
    assert completion.token_ids[: len(forced)] == forced
    assert len(completion.token_ids) == len(forced) + 3
    assert talk.gap(0, temperature) < 1e-5


def test_forced_ids_that_end_the_turn(engine, vlm, draw):
    stop, cut = (5, vlm.chat.stop_id, 6), (5, 6, 7)
    for forced, expected, reason in ((stop, stop[:2], "stop"), (cut, cut[:2], "length")):
        talk = Talk(vlm, engine, Sampling(max_tokens=2 if reason == "length" else 9, forced=forced))
        talk.prompt(0, [draw()])
        completion = talk.turn([0])[0]
        assert (completion.token_ids, completion.finish_reason) == (expected, reason)
        assert talk.gap(0) < 1e-5


def test_caches_hit_across_turns_and_rollouts(engine, vlm, draw):
    talk = Talk(vlm, engine, Sampling(max_tokens=40))
    image = draw(4, 4)
    before = engine.cache_counts()
    talk.prompt(0, [image], "a new question " * 10)
    # However short the turn is, it fills a block of 32 ids.
    filler = [talk.conversations[0].ids[-1]] * (31 - len(talk.conversations[0].ids) % 32)
    talk.conversations[0].append_ids(filler)
    prompt = len(talk.conversations[0].ids)
    talk.turn([0])
    first = {name: n - before[name] for name, n in engine.cache_counts().items()}
    assert first == {"prefix_queries": prompt, "prefix_hits": 0, "image_queries": 1, "image_hits": 0}

    seen = len(talk.conversations[0].ids)
    talk.reply(0, [draw()])
    talk.turn([0])
    second = {name: n - before[name] - first[name] for name, n in engine.cache_counts().items()}
    # Whole blocks of 32 ids; the last id of a turn was sampled and never fed.
    assert second["prefix_hits"] == (seen - 1) // 32 * 32 > prompt
    assert (second["image_queries"], second["image_hits"]) == (2, 1)

    talk.prompt(1, [image.copy()], "a new question " * 10)
    talk.conversations[1].append_ids(filler)
    talk.turn([1])
    third = {name: n - before[name] - first[name] - second[name] for name, n in engine.cache_counts().items()}
    assert third["prefix_hits"] == prompt // 32 * 32
    assert third["image_hits"] == 1


def add_noise(vlm: VLM, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in vlm.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def test_new_weights_of_text_and_vision_are_those_of_the_learner(running, draw):
    engine, image = running.get(), draw()
    vlm, generator = VLM.from_pretrained(running.path), torch.Generator().manual_seed(5)
    try:
        for version in (3, 4):
            old = engine.weights_version
            early = Talk(vlm, engine, Sampling(max_tokens=100))
            early.prompt(7, [image])
            early.submit(7)
            add_noise(vlm, generator)
            if version == 4:
                # On a CPU vLLM keeps its memory, and goes through the same steps.
                engine._wait(engine._core.sleep(), "sleep")
            engine.load_weights(vlm.model.state_dict(), version)
            # Sampled by the old weights or by the new ones, but never by both.
            [(_, completion)] = engine.collect()
            assert completion.weights_version in (old, version)
            # The image's features and the prompt's keys and values are computed anew.
            talk = Talk(vlm, engine, Sampling(max_tokens=9))
            talk.prompt(0, [image])
            assert talk.turn([0])[0].weights_version == engine.weights_version == version
            talk.reply(0, [image, draw(2, 2)])
            assert talk.turn([0])[0].weights_version == version
            assert talk.gap(0) < 1e-5
    finally:
        engine.load_weights(VLM.from_pretrained(running.path).model.state_dict(), 0)


def test_what_no_conversation_could_have_is_refused(engine, vlm, draw):
    for sampling, message in (
        (Sampling(max_tokens=1024), "max_model_len="),
        (Sampling(temperature=3.0), "temperature=3.0"),
    ):
        talk = Talk(vlm, engine, sampling)
        talk.prompt(0, [draw()])
        with pytest.raises(ValueError, match=message):
            talk.turn([0])


def test_a_conversation_without_room_gets_no_turn(engine, vlm, draw):
    """Too many ids, or too many images: the others go on."""
    talk = Talk(vlm, engine, Sampling(max_tokens=2))
    many = "red and blue? " * 20
    for key, (images, text) in enumerate([(1, "red?"), (9, "red?"), (1, many), (1, many)]):
        talk.prompt(key, [draw(1, 1) for _ in range(images)], text)
    room = ARGUMENTS["max_model_len"] - talk.sampling.max_tokens
    for key in (2, 3):
        ids = talk.conversations[key].ids
        talk.conversations[key].append_ids([ids[-3]] * (room - len(ids) + key - 2))
    reasons = {key: completion.finish_reason for key, completion in talk.turn(range(4)).items()}
    assert (reasons[1], reasons[3]) == ("context", "context")
    assert not {reasons[0], reasons[2]} & {"context"}


def test_a_hung_engine_is_reported_in_time_and_a_dead_one_at_once(running, vlm, draw):
    engine = running.get()
    processes = vllm_processes()
    assert processes
    talk = Talk(vlm, engine, Sampling(max_tokens=5))
    try:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        engine.timeout = 2.0
        talk.prompt(0, [draw()])
        with pytest.raises(EngineError, match=r"none of 1 turns within timeout=2 s \(conversations 0\)"):
            talk.turn([0])
        engine.timeout = 120.0
        for process in processes:
            process.send_signal(signal.SIGCONT)
        # It went on, and nothing is lost.
        assert [key for key, _ in engine.collect()] == [0]
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        talk.prompt(1, [draw()])
        with pytest.raises(EngineError, match="died while it completed conversation 1"):
            talk.turn([1])
        with pytest.raises(EngineError, match="died"):
            engine.check_health()
    finally:
        running.close()


@pytest.fixture
def qwen2_5_vl(family_path, tmp_path: Path) -> Path:
    """A random Qwen2.5-VL whose heads are 32 wide: vLLM has no narrower ones on a CPU."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    path = tmp_path / "model"
    shutil.copytree(family_path("qwen2.5-vl"), path)
    config: Any = AutoConfig.from_pretrained(path)
    text = config.text_config
    text.num_attention_heads, text.num_key_value_heads = text.hidden_size // 32, 1
    text.rope_parameters["mrope_section"] = [4, 6, 6]
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.08)
    model.save_pretrained(path)
    return path


def test_qwen2_5_vl(running, qwen2_5_vl, noise_image):
    """The other architecture: window attention, other positions, other names of weights."""
    vlm = VLM.from_pretrained(qwen2_5_vl)
    # A machine for tests has no room for two at a time.
    running.close()
    with VLLMEngine.from_pretrained(qwen2_5_vl, timeout=120, **ARGUMENTS) as engine:
        for version in (0, 1):
            if version:
                add_noise(vlm, torch.Generator().manual_seed(5))
                engine.load_weights(vlm.model.state_dict(), version)
            talk = Talk(vlm, engine, Sampling(max_tokens=9))
            talk.prompt(0, [noise_image(28 * 9, 28 * 6), noise_image(28, 28)])
            talk.turn([0])
            talk.reply(0, [noise_image(28 * 2, 28 * 5)])
            assert talk.turn([0])[0].weights_version == version
            assert talk.gap(0) < 1e-5


def test_a_mixture_of_experts(running, family_path, noise_image, tmp_path):
    """It reads what is saved here, and refuses what vLLM would load wrongly."""
    VLM.from_pretrained(family_path("qwen3-vl-moe")).save(tmp_path)
    vlm = VLM.from_pretrained(tmp_path)
    running.close()
    with VLLMEngine.from_pretrained(tmp_path, timeout=120, **ARGUMENTS) as engine:
        talk = Talk(vlm, engine, Sampling(max_tokens=9))
        talk.prompt(0, [noise_image(32 * 3, 32 * 2)])
        talk.turn([0])
        assert talk.gap(0) < 1e-5
        with pytest.raises(EngineError, match="mixture of experts wrongly on CPUs"):
            engine.load_weights(vlm.model.state_dict(), 1)
        # The old weights are still there.
        talk.reply(0, [noise_image(32, 32)])
        assert talk.turn([0])[0].weights_version == 0
        assert talk.gap(0) < 1e-5
