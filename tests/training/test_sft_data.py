"""What a warm start trains on: recorded conversations id by id and pixel by pixel, and rows packed or padded."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pxr_agents import tiny
from pxr_agents.random_checkpoint import FAMILIES, build_random
from pxr_agents.vlm import VLM
from pxr_env.datasets import SFTData
from pxr_env.errors import DataError
from tests.distributions import token_distributions
from tests.training.conftest import ENV
from tests.training.released import ASTRAY, SYSTEM, ZOOM, message, row, spoil, texts, write_released
from tests.training.rows import make_tokens, trained_texts
from training.config import ImagesRecipe, SFTRecipe
from training.learners import read_ahead
from training.quickstart.recipe import TraceRecipe
from training.quickstart.stages import search_trace
from training.sft import summed_loss
from training.sft_data import (
    DEFAULT_SYSTEM_PROMPT,
    Recordings,
    blank_row,
    open_rows,
    pack_rows,
    parts,
    tensors,
)  # fmt: skip

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

BUDGET = ImagesRecipe(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 48, video_frames=3)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "model"
    return tiny.build(path, texts(), r"\d+", [SYSTEM], seed=0).chat


@pytest.fixture
def released(tmp_path):
    return write_released(tmp_path / "data")


def recordings(released, chat, **options):
    return Recordings(SFTData(released), chat, images=BUDGET, **options)


def by_name(rows):
    return {rows.name(k): rows.row(k) for k in range(len(rows))}


def template_ids(chat, messages, grids):
    """The conversation by the model's own chat template, tokenized in one go, with each image's ids put in."""

    def typed(parts):
        return [{"type": kind, kind: value} for part in parts for kind, value in part.items()]

    content = [{"role": one["role"], "content": typed(one["content"])} for one in messages]
    rendered = chat.tokenizer.apply_chat_template(content, tokenize=False)
    ids = []
    grids = iter(grids)
    for token in chat.tokenizer.encode(rendered, add_special_tokens=False):
        rows, columns = next(grids) if token == chat.image_id else (1, 1)
        ids += [token] * (rows * columns)
    return ids


@pytest.mark.parametrize("family", ["tiny", *FAMILIES])
def test_ids_are_those_of_the_template_rendered_in_one_go(released, chat, tmp_path, family):
    if family != "tiny":
        chat = build_random(tmp_path / family, family, texts=texts() * 2).chat
    rows = by_name(recordings(released, chat))
    listed = {one["qid"]: one["message_list"] for one in json.loads((released / "release.json").read_text())}
    # The template has no frames.
    for name in ("single", "correction", "text", "two"):
        tokens = rows[name]
        grids = [chat.grid(image) for image in tokens.images]
        expected = template_ids(chat, listed[name], grids)
        # A template ends the last turn with a line break, which nobody samples.
        assert tokens.ids.tolist() == expected[: len(tokens.ids)], name
        assert chat.decode(expected[len(tokens.ids) :]).strip() == ""
        assert tokens.ids[-1] == chat.stop_id


def test_the_last_two_turns_of_the_assistant_are_trained_on(released, chat):
    rows = by_name(recordings(released, chat))
    assert trained_texts(chat, rows["single"]) == [f"I look. {ZOOM}", "It is \\boxed{a roof}."]
    assert trained_texts(chat, rows["correction"]) == [f"That is not it. {ZOOM}", "It is \\boxed{an ear}."]
    assert trained_texts(chat, rows["text"]) == ["It is \\boxed{4}."]
    every = by_name(recordings(released, chat, trained_turns=0))
    assert trained_texts(chat, every["correction"])[0] == ASTRAY
    assert np.array_equal(every["correction"].ids, rows["correction"].ids)
    last = by_name(recordings(released, chat, trained_turns=1))
    assert trained_texts(chat, last["single"]) == ["It is \\boxed{a roof}."]
    assert len(rows["correction"].turn_ends) == 3


def test_pixels_are_those_that_an_environment_shows(released, chat):
    frames = [f"images/pan_{k}.png" for k in range(4)]
    lines = [
        {"id": "china", "question": "?", "images": "images/china.png", "answers": "a"},
        {"id": "pan", "question": "?", "video": frames, "answers": "a"},
    ]
    samples = released / "samples.jsonl"
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    budget = {"min_pixels": BUDGET.min_pixels, "max_pixels": BUDGET.max_pixels, "video_frames": BUDGET.video_frames}
    env = gymnasium.make("pxr/JSONL-v0", data=str(samples), **budget)
    rows = by_name(Recordings(SFTData(released / "release.json"), chat, images=BUDGET))
    for sample_id, name in (("china", "single"), ("pan", "video")):
        observation, _ = env.reset(options={"sample_id": sample_id})
        shown = rows[name].images[: len(observation["images"])]
        assert len(shown) == (3 if name == "video" else 1)
        assert all(np.array_equal(one, other) for one, other in zip(shown, observation["images"], strict=True))
    assert len(rows["video"].images) == 3 + 1


def test_sizes_follow_the_model_and_the_budget(released, chat, tmp_path):
    for tokens in by_name(recordings(released, chat)).values():
        for image in tokens.images:
            height, width = image.shape[:2]
            assert height % 28 == width % 28 == 0
            assert height * width <= BUDGET.max_pixels
    # A small crop is enlarged.
    small = Recordings(SFTData(released), chat, images=ImagesRecipe(min_pixels=200_000, max_pixels=400_000))
    assert all(image.shape[0] * image.shape[1] >= 200_000 for image in by_name(small)["single"].images)
    other = by_name(recordings(released, build_random(tmp_path / "qwen3-vl", "qwen3-vl").chat))
    assert all(side % 32 == 0 for tokens in other.values() for image in tokens.images for side in image.shape[:2])


def test_without_a_system_prompt_there_is_qwens_own(tmp_path, chat):
    rows = [row("a", message("user", "Hi"), message("tool", "there"), message("assistant", "Yes", "."))]
    (tmp_path / "release.json").write_text(json.dumps(rows))
    tokens = recordings(tmp_path, chat).row(0)
    text = chat.tokenizer.decode(tokens.ids.tolist())
    assert DEFAULT_SYSTEM_PROMPT in text
    assert "Hithere<|im_end|>" in text
    assert text.endswith("Yes.<|im_end|>")


def test_qwens_own_system_prompt_is_that_of_its_template(tmp_path):
    chat = build_random(tmp_path / "model", "qwen2.5-vl", texts=texts() * 2).chat
    messages = [message("user", "Hi"), message("assistant", "Yes")]
    (tmp_path / "release.json").write_text(json.dumps([row("a", *messages)]))
    tokens = recordings(tmp_path / "release.json", chat).row(0)
    assert tokens.ids.tolist() == template_ids(chat, messages, [])[: len(tokens.ids)]


USER, ASSISTANT = message("user", "Hi"), message("assistant", "Yes")
BAD = [
    ([ASSISTANT, USER, ASSISTANT], "the assistant speaks first"),
    ([USER, ASSISTANT, USER], 'ends with a message of "user"'),
    ([USER, message("system", SYSTEM), ASSISTANT], "system came after the first one"),
    ([USER, message("assistant", {"image": "a.png"})], 'message of "assistant" has an image'),
]


@pytest.mark.parametrize(("messages", "cause"), BAD)
def test_conversations_that_cannot_be_trained_on_are_named_or_skipped(tmp_path, chat, messages, cause):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "release.json").write_text(json.dumps([row("good", USER, ASSISTANT), row("bad", *messages)]))
    recipe = SFTRecipe(model="m", traces=str(tmp_path), format="messages")
    with pytest.raises(DataError, match=r"1 of 2 rows cannot be trained on") as error:
        open_rows(recipe, chat)
    assert cause in str(error.value)
    assert '"bad"' in str(error.value)
    rows, bad = open_rows(SFTRecipe(model="m", traces=str(tmp_path), format="messages", skip_bad_rows=True), chat)
    assert [rows.name(k) for k in range(len(rows))] == ["good"]
    assert [one.sample_id for one in bad] == ["bad"]


def test_pixels_that_cannot_be_read_are_named_when_they_are_needed(released, chat):
    spoil(released / "images" / "china.png")
    rows = recordings(released, chat)
    with pytest.raises(DataError, match=r'trace "single": .*china\.png'):
        rows.row(0)
    rows.row(1)


def test_no_row_is_kept(released, chat):
    """What is open is text and paths; pixels are there as long as somebody holds them."""
    rows = recordings(released, chat)
    references = [weakref.ref(image) for k in range(len(rows)) for image in rows.row(k).images]
    assert references
    assert all(reference() is None for reference in references)


def search_traces(vlm, n, **budget):
    env, rng = gymnasium.make(ENV.id, **ENV.kwargs | budget), np.random.default_rng(3)
    rows = [search_trace(env, vlm.chat, f"train-{k}", TraceRecipe(zoom=0.6), rng) for k in range(n)]
    assert len({len(row.ids) for row in rows}) > 1
    return rows


def loss_and_gradients(vlm, batches):
    vlm.model.zero_grad(set_to_none=True)
    loss = summed_loss(vlm, batches)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients


def check_packed_equals_padded(vlm, rows):
    padded, expected = loss_and_gradients(vlm, tensors(rows, packed=False))
    packed, gradients = loss_and_gradients(vlm, tensors(rows, packed=True))
    alone = sum(float(summed_loss(vlm, tensors([row], packed=False)).detach()) for row in rows)
    assert packed == pytest.approx(padded, rel=1e-5)
    assert packed == pytest.approx(alone, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert float((gradients[name] - gradient).abs().max()) < 1e-5 * scale, name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_equals_padded(tiny_path, attention):
    vlm = VLM.from_pretrained(tiny_path, attn_implementation=attention)
    check_packed_equals_padded(vlm, search_traces(vlm, 5))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_in_every_family(tmp_path, family):
    vlm = build_random(tmp_path / family, family)
    unit = vlm.chat.image_unit
    budget = {"min_pixels": 65536, "max_pixels": 288 * 288} if unit == 32 else {}
    check_packed_equals_padded(vlm, search_traces(vlm, 4, size_multiple=unit, **budget))


def test_no_id_sees_another_trace(tiny_path):
    vlm = VLM.from_pretrained(tiny_path)
    first, second = search_traces(vlm, 2)
    other = dataclasses.replace(first, images=tuple(255 - image for image in first.images))
    n = int(second.action.sum())
    with torch.no_grad():
        one, changed = (token_distributions(vlm, pack_rows([row, second]))[1] for row in (first, other))
        [without] = [token_distributions(vlm, batch)[1] for batch in tensors([second], packed=False)]
    assert float((one[:-n].exp() - changed[:-n].exp()).abs().max()) > 1e-4
    assert torch.allclose(one[-n:].exp(), changed[-n:].exp(), atol=1e-7)
    assert torch.allclose(one[-n:].exp(), without.exp(), atol=1e-6)


def test_positions_begin_again_and_first_ids_are_no_targets():
    rows = [make_tokens([2, 1]), dataclasses.replace(make_tokens([2], prompt=1), action=np.array([True, True, True]))]
    batch = pack_rows(rows)
    n, m = (len(row.ids) for row in rows)
    assert batch.ids.tolist() == [[*rows[0].ids.tolist(), *rows[1].ids.tolist()]]
    assert batch.positions.shape == (4, 1, n + m)
    assert all(batch.positions[k, 0].tolist() == [*range(n), *range(m)] for k in range(4))
    assert batch.target[0].tolist() == [*rows[0].action.tolist(), False, True, True]


def test_a_blank_row_trains_nothing_and_changes_nothing(tiny_path):
    vlm = VLM.from_pretrained(tiny_path)
    rows, blank = search_traces(vlm, 2), blank_row(vlm.chat.image_id, vlm.chat.image_unit)
    for packed in (False, True):
        loss, gradients = loss_and_gradients(vlm, tensors(rows, packed=packed))
        with_blank, its = loss_and_gradients(vlm, tensors([*rows, blank], packed=packed))
        assert with_blank == pytest.approx(loss, rel=1e-6)
        assert max(float((its[name] - gradients[name]).abs().max()) for name in gradients) < 1e-5
        alone, its = loss_and_gradients(vlm, tensors([blank], packed=packed))
        assert alone == 0
        # The vision tower has a gradient, so that nobody waits for it.
        assert any("visual" in name for name in its)
        assert not any(gradient.any() for gradient in its.values())


@given(st.lists(st.integers(1, 40), max_size=20), st.integers(1, 60), st.sampled_from(["pack", "micro_batch", None]))
def test_parts_hold_every_row_once_and_keep_their_limit(lengths, limit, kind):
    rows = [make_tokens([length]) for length in lengths]
    groups = parts(rows, **{f"{name}_tokens": limit if name == kind else None for name in ("pack", "micro_batch")})
    assert sorted(id(row) for group in groups for row in group) == sorted(map(id, rows))
    if kind is None:
        assert groups == ([rows] if rows else [])
        return
    for group in groups:
        sizes = [len(row.ids) for row in group]
        total = sum(sizes) if kind == "pack" else max(sizes) * len(sizes)
        assert total <= limit or len(group) == 1


def counted(made):
    for k in itertools.count():
        made.append(k)
        yield k


def reading():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read_ahead")]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_it_reads_ahead_but_no_further_until_it_is_closed(ahead):
    made: list[int] = []
    items = read_ahead(counted(made), ahead)
    for k in range(20):
        assert next(items) == k
        assert len(made) <= k + 1 + ahead
    waiting = threading.Event()
    while len(made) < 20 + ahead:
        waiting.wait(0.01)
    assert len(made) == 20 + ahead
    assert len(reading()) == (1 if ahead else 0)
    items.close()
    assert not reading()


@pytest.mark.parametrize("ahead", [0, 2])
def test_errors_come_where_the_item_would_have(ahead):
    def failing():
        yield 1
        raise OSError("gone")

    items = read_ahead(failing(), ahead)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)
    assert not reading()


def test_what_was_handed_out_is_not_kept():
    items = read_ahead((np.zeros(3) for _ in itertools.count()), 1)
    alive = [weakref.ref(next(items)) for _ in range(10)]
    assert all(reference() is None for reference in alive[:-1])
    items.close()
