"""Recorded conversations as token rows: every id, every pixel, and which of them are trained on."""

from __future__ import annotations

import json
import weakref

import gymnasium
import numpy as np
import pytest
from PIL import Image

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents import tiny
from pxr_agents.random_checkpoint import FAMILIES, build_random
from pxr_env.datasets import SFTData
from pxr_env.errors import DataError
from tests.training.released import ASTRAY, SYSTEM, ZOOM, message, row, spoil, texts, write_released
from tests.training.rows import trained_texts
from training.config import ImagesRecipe, SFTRecipe
from training.sft_data import DEFAULT_SYSTEM_PROMPT, Recordings, open_rows

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
    content = [
        {
            "role": one["role"],
            "content": [{"type": kind, kind: value} for part in one["content"] for kind, value in part.items()],
        }
        for one in messages
    ]
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


def test_sizes_follow_the_model_and_the_budget(released, chat):
    for tokens in by_name(recordings(released, chat)).values():
        for image in tokens.images:
            height, width = image.shape[:2]
            assert height % 28 == width % 28 == 0
            assert height * width <= BUDGET.max_pixels
    # A small crop is enlarged.
    small = Recordings(SFTData(released), chat, images=ImagesRecipe(min_pixels=200_000, max_pixels=400_000))
    assert all(image.shape[0] * image.shape[1] >= 200_000 for image in by_name(small)["single"].images)


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


def test_a_model_of_another_family_gets_its_own_sizes(released, tmp_path):
    vlm = build_random(tmp_path / "qwen3-vl", "qwen3-vl")
    rows = by_name(recordings(released, vlm.chat))
    assert all(side % 32 == 0 for tokens in rows.values() for image in tokens.images for side in image.shape[:2])
