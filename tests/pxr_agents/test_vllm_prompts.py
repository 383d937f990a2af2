"""Conversations as vLLM takes them, weights on their way into it, and its start arguments: without vLLM."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pxr_agents.chat import Conversation
from pxr_agents.engines.vllm.arguments import StartArguments
from pxr_agents.engines.vllm.inputs import fold_placeholders, vllm_prompt
from pxr_agents.engines.vllm.shared import mapped_weights, shared_weights
from pxr_agents.types import Request

PAD = 9
text = st.lists(st.integers(0, 8), max_size=4)


@given(st.lists(st.tuples(text, st.integers(1, 5)), max_size=4), text)
def test_folding_undoes_expansion(pieces, tail):
    expanded = [token for words, n in pieces for token in [*words, *[PAD] * n]] + tail
    single = [token for words, _ in pieces for token in [*words, PAD]] + tail
    assert fold_placeholders(expanded, [n for _, n in pieces], PAD) == single


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([1, PAD, PAD, 2], [3], "Image 1 has 3 vision tokens, and 2 placeholder ids"),
        ([1, 2], [3], "Image 1 has 3 vision tokens, and 0 placeholder ids"),
        ([PAD, 1, PAD, PAD], [1, 1], "got 1 placeholder ids that belong to none of the 2 images"),
        ([1, PAD, 2, PAD], [2], "Image 1 has 2 vision tokens, and 1 placeholder ids"),
        ([1, PAD], [], "got 1 placeholder ids that belong to none of the 0 images"),
    ],
)
def test_counts_that_do_not_fit_are_refused(ids, lengths, message):
    with pytest.raises(ValueError, match=message):
        fold_placeholders(ids, lengths, PAD)


def test_a_prompt_has_one_placeholder_and_the_very_pixels_of_each_image(tiny_vlm, noise_image):
    images, conversation, chat = (noise_image(84, 56), noise_image(28, 28)), Conversation(), tiny_vlm.chat
    chat.prompt(conversation, "You look.", {"text": "red?", "images": images})
    request = Request(key=1, ids=conversation.ids, positions=conversation.positions(), images=conversation.images)
    prompt = vllm_prompt(request, chat)
    assert prompt["prompt_token_ids"].count(chat.image_id) == 2
    assert len(prompt["prompt_token_ids"]) == len(conversation.ids) - (3 * 2 - 1)
    for shown, image in zip(prompt["multi_modal_data"]["image"], images, strict=True):
        assert np.array_equal(np.asarray(shown), image)


def test_other_processes_find_weights_and_tied_ones_once():
    tied = torch.arange(6.0).reshape(2, 3)
    weights = {"embed": tied, "a": torch.randn(3, 2).bfloat16().T, "b": torch.tensor(7), "lm_head.weight": tied}
    with shared_weights(weights) as places, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        read = pool.submit(_read, places).result()
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    assert read.keys() == weights.keys()
    assert places[0][1:3] == places[3][1:3]


def _read(places):
    return {name: tensor.clone() for name, tensor in mapped_weights(places)}


def test_weights_without_the_output_layer_are_refused():
    with pytest.raises(ValueError, match=r"without 'lm_head.weight'"), shared_weights({"a": torch.ones(1)}):
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tensor_parallel_size", 0),
        ("max_model_len", -1),
        ("images_per_prompt", 0),
        ("gpu_memory_utilization", 0.0),
        ("gpu_memory_utilization", 1.5),
        ("dtype", "float8"),
        ("weight_transfer", "gloo"),
    ],
)
def test_start_arguments_are_checked(name, value):
    with pytest.raises(ValueError, match=rf"^1 validation error for StartArguments\n{name}\n"):
        dataclasses.replace(StartArguments(), **{name: value})


CODE = "import os, pxr_agents.engines.vllm; print(os.environ['VLLM_LOGGING_STREAM'])"


@pytest.mark.parametrize("given", [None, "ext://sys.stdout"])
def test_vllm_logs_to_standard_error_unless_told_otherwise(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_LOGGING_STREAM", raising=False)
    if given is not None:
        monkeypatch.setenv("VLLM_LOGGING_STREAM", given)
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [given or "ext://sys.stderr"]
