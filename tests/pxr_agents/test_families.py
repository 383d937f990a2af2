"""What has to hold for every published architecture, against the code of transformers and a renderer of its own."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.agents import VLMAgent
from pxr_agents.chat import Conversation
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.random_checkpoint import FAMILIES
from pxr_agents.rollout import rollout
from pxr_agents.types import Job, Request, Sampling
from pxr_agents.vlm import VLM, collate, patchify
from pxr_env.types import OperationCall
from tests.distributions import token_distributions

ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"
#: As docs/models.md has it: 16x16 cells are the least Qwen3-VL's processor leaves alone.
ENVIRONMENT = {
    "qwen2.5-vl": {"size_multiple": 28, "coordinates": "pixel", "min_pixels": 28 * 28 * 9, "max_pixels": 28 * 28 * 9},
    "qwen3-vl": {
        "size_multiple": 32,
        "coordinates": "permille",
        "dialect": "qwen3-vl",
        "min_pixels": 256 * 256,
        "max_pixels": 288 * 288,
    },
}
ENVIRONMENT["qwen3-vl-moe"] = ENVIRONMENT["qwen3-vl"]
CALL = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [28, 0, 56, 28], "target_image": 1}}\n</tool_call>'
#: Numbers of vision tokens down and across; windows of Qwen2.5-VL's vision tower are four tokens a side.
GRIDS = ((3, 3), (1, 6), (9, 5))

families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def vlm(family, family_vlm) -> VLM:
    return family_vlm(family)


def noise(vlm, grid, seed=0):
    side = vlm.chat.image_unit
    shape = (grid[0] * side, grid[1] * side, 3)
    return np.random.default_rng([seed, *grid]).integers(0, 256, shape, dtype=np.uint8)


def conversation_of(vlm, *, images=GRIDS, turns=2):
    """A conversation whose first observation shows the first image, and every reply the others in turn."""
    conversation = Conversation()
    shown = [noise(vlm, grid, seed) for seed, grid in enumerate(images)]
    vlm.chat.prompt(conversation, "You look.", {"text": "What is it?", "images": tuple(shown[:1])})
    for turn in range(turns):
        conversation.append_turn((*vlm.chat.encode_text(CALL), vlm.chat.stop_id), train=True)
        if turn < turns - 1:
            vlm.chat.reply(conversation, {"text": "Image 2 and 3.", "images": tuple(shown[1:])})
    return conversation


def flipped_image(vlm):
    """`conversation_of` with its last image of the other orientation: as many ids, other pixels and positions."""
    return conversation_of(vlm, images=(*GRIDS[:2], GRIDS[2][::-1]))


def rope_index(vlm, conversation):
    """(3, L) positions as the family's own code has them."""
    ids = torch.tensor([conversation.ids])
    grids = patchify(conversation.images, vlm.norm)[1]
    types = (ids == vlm.chat.image_id).int()
    return vlm.model.model.get_rope_index(ids, types, image_grid_thw=grids)[0][:, 0].numpy()


def plain_logprobs(vlm, tokens):
    """(T, V) log-probabilities of the action ids by transformers' own way from pixels to logits."""
    patches, grids = patchify(tokens.images, vlm.norm)
    ids = torch.from_numpy(tokens.ids).long()[None]
    with torch.no_grad():
        logits = vlm.model(
            input_ids=ids,
            pixel_values=patches,
            image_grid_thw=grids,
            mm_token_type_ids=(ids == vlm.chat.image_id).int(),
        ).logits[0]
    logits[:, list(vlm.chat.banned_ids)] = float("-inf")
    logits[:, len(vlm.chat.tokenizer) :] = float("-inf")
    return torch.stack([logits[place - 1].log_softmax(-1) for place in np.flatnonzero(tokens.action)])


def own_logprobs(vlm, rows):
    with torch.no_grad():
        return token_distributions(vlm, collate(rows))[1].exp().double()


@families
@pytest.mark.parametrize("images", [GRIDS[:1], GRIDS[2:], GRIDS, (*GRIDS, *GRIDS)])
def test_positions_are_those_of_the_family(vlm, images):
    conversation = conversation_of(vlm, images=images, turns=3)
    np.testing.assert_array_equal(conversation.positions(), rope_index(vlm, conversation))
    np.testing.assert_array_equal(conversation.positions(7), rope_index(vlm, conversation)[:, 7:])


@families
def test_logprobs_equal_the_plain_forward_pass(vlm):
    tokens = conversation_of(vlm).tokens()
    expected = plain_logprobs(vlm, tokens).exp().double()
    torch.testing.assert_close(own_logprobs(vlm, [tokens]), expected, atol=1e-5, rtol=0)
    # What is never sampled has no probability at all, and every one is of the id that was chosen there.
    with torch.no_grad():
        ids, logprobs, _ = token_distributions(vlm, collate([tokens]))
    assert ids.tolist() == tokens.ids[tokens.action].tolist()
    assert bool(torch.isneginf(logprobs[:, list(vlm.chat.banned_ids)]).all())


@families
def test_these_checkpoints_notice_mistakes(vlm):
    """An image that is wrong, positions that are: with weights of the usual random size neither would show."""
    tokens = conversation_of(vlm).tokens()
    right = own_logprobs(vlm, [tokens])
    batch = collate([tokens])
    other_pixels = own_logprobs(vlm, [flipped_image(vlm).tokens()])
    batch.positions[:] = torch.arange(batch.ids.shape[1])
    with torch.no_grad():
        other_positions = token_distributions(vlm, batch)[1].exp().double()
    assert float((other_pixels - right).abs().max()) > 0.01
    assert float((other_positions - right).abs().max()) > 0.01


@families
def test_batched_equals_single(vlm):
    rows = [
        conversation_of(vlm).tokens(),
        conversation_of(vlm, images=GRIDS[:1], turns=1).tokens(),
        conversation_of(vlm, images=(), turns=3).tokens(),
        conversation_of(vlm, images=GRIDS[::-1]).tokens(),
    ]
    single = torch.cat([own_logprobs(vlm, [row]) for row in rows])
    torch.testing.assert_close(own_logprobs(vlm, rows), single, atol=1e-5, rtol=0)


@families
def test_a_cached_conversation_goes_on_with_a_new_image(vlm):
    """Turn after turn through the engine's KV cache; the same conversation in one forward pass."""
    engine = TransformersEngine(vlm)
    conversations = {}
    for key, grid in enumerate(GRIDS):
        conversations[key] = Conversation()
        prompt = {"text": "What is it?" * (key + 1), "images": (noise(vlm, grid),)}
        vlm.chat.prompt(conversations[key], "You look.", prompt)
    for turn in range(3):
        for key, conversation in conversations.items():
            if turn:
                shown = (noise(vlm, GRIDS[key - turn], turn),) if key != turn else ()
                vlm.chat.reply(conversation, {"text": f"Reply {turn}.", "images": shown})
            request = Request(
                key=key, ids=conversation.ids, positions=conversation.positions(), images=conversation.images
            )
            engine.submit(request, Sampling(max_tokens=3 + key))
        for key, completion in engine.collect():
            conversations[key].append_completion(completion)
    for conversation in conversations.values():
        np.testing.assert_array_equal(conversation.positions(), rope_index(vlm, conversation))
        tokens = conversation.tokens()
        expected = plain_logprobs(vlm, tokens).gather(1, torch.from_numpy(tokens.ids[tokens.action]).long()[:, None])
        np.testing.assert_allclose(tokens.logprobs[tokens.action], expected[:, 0].numpy(), atol=5e-5)


@families
def test_patches_are_those_of_the_familys_processor(vlm, family, family_path):
    processor = pytest.importorskip("transformers.models.qwen2_vl").Qwen2VLImageProcessorPil
    env = gymnasium.make(ENV_ID, **ENVIRONMENT[family])
    shown = []
    for seed in range(4):
        shown += env.reset(seed=seed)[0]["images"]
        box = env.unwrapped.frame.from_source(env.unwrapped.sample.evidence_box, env.unwrapped.views[0])
        call = OperationCall(name="zoom_in", arguments={"bbox_2d": box, "target_image": 1})
        shown += env.step(env.unwrapped.dialect.render_call(call))[0]["images"]
    assert len(shown) == 8
    expected = processor.from_pretrained(family_path(family))(images=shown, return_tensors="pt")
    patches, grids = patchify(shown, vlm.norm)
    # Equal grids: the limits of the processor's configuration resized none of them.
    assert grids.tolist() == expected.image_grid_thw.tolist()
    torch.testing.assert_close(patches, expected.pixel_values, atol=1e-6, rtol=0)
    assert all(vlm.norm.keeps(image.shape[1], image.shape[0]) for image in shown)


@families
def test_keeps_says_what_the_familys_processor_does(vlm, family, family_path):
    processor = pytest.importorskip("transformers.models.qwen2_vl").Qwen2VLImageProcessorPil
    processor = processor.from_pretrained(family_path(family))
    unit = vlm.chat.image_unit
    seen = set()
    for columns, rows in [(1, 1), (2, 2), (1, 4), (1, 3), (8, 8), (7, 9), (9, 8), (130, 130), (128, 128), (127, 130)]:
        resized = processor.get_number_of_image_patches(rows * unit, columns * unit) != rows * columns * 4
        assert vlm.norm.keeps(columns * unit, rows * unit) == (not resized), (columns, rows)
        seen.add(resized)
    assert seen == {True, False}
    assert not vlm.norm.keeps(10 * unit + 1, 10 * unit)


@families
def test_refuses_a_view_of_another_familys_multiple(vlm):
    wrong, right = (60 - vlm.chat.image_unit) * 3, vlm.chat.image_unit
    image = np.zeros((wrong, wrong, 3), np.uint8)
    with pytest.raises(ValueError, match=rf"{wrong}x{wrong} .* multiples of {right}\. .* size_multiple={right}"):
        vlm.chat.prompt(Conversation(), "", {"text": "", "images": (image,)})


def render(messages, *, default_system=None):
    """A conversation as the families publish it, written down without their templates."""
    text = (
        ""
        if messages[0][0] == "system" or default_system is None
        else f"<|im_start|>system\n{default_system}<|im_end|>\n"
    )
    for role, n_images, content in messages:
        images = "<|vision_start|><|image_pad|><|vision_end|>" * n_images
        text += f"<|im_start|>{role}\n{images}{content}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


def as_messages(messages):
    return [
        {"role": role, "content": [{"type": "image"}] * n_images + [{"type": "text", "text": content}]}
        for role, n_images, content in messages
    ]


MESSAGES = [
    ("system", 0, "Call zoom_in.\n\n<tools>\n{}\n</tools>\n<tool_call>\n{}\n</tool_call>"),
    ("user", 2, "What letter is in the red box?\nÄ 图 🙂"),
    ("assistant", 0, CALL),
    ("user", 1, "Image 3: 84x84 pixels."),
    ("assistant", 0, "Hm."),
    ("user", 0, "That is no call.\nTry again."),
]


@families
@pytest.mark.parametrize("cut", [False, True])
def test_ids_are_those_of_the_familys_template(vlm, cut):
    chat, conversation = vlm.chat, Conversation()
    (_, _, system), (_, n, question), *rest = MESSAGES
    image = noise(vlm, (1, 2))
    chat.prompt(conversation, system, {"text": question, "images": (image,) * n})
    for (_, _, turn), (_, n, reply) in zip(rest[::2], rest[1::2], strict=True):
        conversation.append_turn((*chat.encode_text(turn), *(() if cut else (chat.stop_id,))), train=True)
        chat.reply(conversation, {"text": reply, "images": (image,) * n})
    ids = [t for k, t in enumerate(conversation.ids) if t != chat.image_id or conversation.ids[k - 1] != chat.image_id]
    whole = chat.tokenizer.apply_chat_template(as_messages(MESSAGES), tokenize=False, add_generation_prompt=True)
    assert whole == render(MESSAGES)
    assert ids == chat.tokenizer.encode(render(MESSAGES))
    # Words that Qwen writes as one id are one id in a prompt too; they are no special tokens.
    assert chat.tokenizer.convert_tokens_to_ids("<tool_call>") in ids


@pytest.mark.parametrize(
    ("family", "system"), [("qwen2.5-vl", "You are a helpful assistant."), ("qwen3-vl", None), ("qwen3-vl-moe", None)]
)
def test_only_qwen2_5_vl_has_a_system_turn_of_its_own(vlm, system):
    """Which is why every conversation here has one: an empty prompt is an empty turn, in both families."""
    text = vlm.chat.tokenizer.apply_chat_template(
        as_messages(MESSAGES[1:2]), tokenize=False, add_generation_prompt=True
    )
    assert text == render(MESSAGES[1:2], default_system=system)


@families
def test_a_policy_cannot_sample_what_is_special_or_nothing(vlm):
    tokenizer = vlm.chat.tokenizer
    banned = set(tokenizer.convert_ids_to_tokens(list(vlm.chat.banned_ids)))
    assert banned == {
        *(
            "<|endoftext|>",
            "<|im_start|>",
            "<|object_ref_start|>",
            "<|object_ref_end|>",
            "<|box_start|>",
            "<|box_end|>",
        ),
        *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
        *("<|image_pad|>", "<|video_pad|>"),
    }
    logprobs = vlm.log_softmax(torch.zeros(1, vlm.model.config.text_config.hidden_size))
    allowed = torch.isfinite(logprobs[0]).nonzero()[:, 0].tolist()
    assert set(allowed) == set(range(len(tokenizer))) - set(vlm.chat.banned_ids)
    assert len(tokenizer) < logprobs.shape[-1]


@families
def test_no_turn_goes_on_past_an_end_token(vlm):
    """The published generation configurations end at two ids; here one ends a turn and the other is never sampled."""
    ends = vlm.model.generation_config.eos_token_id
    assert ends == vlm.chat.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert set(ends) - {vlm.chat.stop_id} <= set(vlm.chat.banned_ids)


@families
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_same_model_with_softmax_in_full(vlm, family, family_path, dtype):
    half = VLM.from_pretrained(family_path(family), dtype=dtype)
    assert {parameter.dtype for parameter in half.model.parameters()} == {dtype}
    tokens = conversation_of(vlm, turns=2).tokens()
    with torch.no_grad():
        _, logprobs, hidden = token_distributions(half, collate([tokens]))
    assert (hidden.dtype, logprobs.dtype) == (dtype, torch.float32)
    total = logprobs.double().exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)
    right = own_logprobs(vlm, [tokens])
    rounding = (logprobs.exp() - right).abs().mean()
    mistake = (own_logprobs(vlm, [flipped_image(vlm).tokens()]) - right).abs().mean()
    assert float(rounding) < float(mistake) / (3 if dtype is torch.bfloat16 else 20)


@families
def test_eager_attention_agrees(vlm, family, family_path):
    eager = VLM.from_pretrained(family_path(family), attn_implementation="eager")
    assert eager.model.config.text_config._attn_implementation == "eager"
    tokens = conversation_of(vlm).tokens()
    torch.testing.assert_close(own_logprobs(eager, [tokens]), own_logprobs(vlm, [tokens]), atol=1e-5, rtol=0)


@families
def test_a_whole_rollout(vlm, family):
    """Episodes of a policy whose first turn is made to zoom: sampled log-probabilities are those of a forward pass."""
    envs = [gymnasium.make(ENV_ID, max_turns=3, **ENVIRONMENT[family]) for _ in range(2)]
    envs[0].reset(seed=0)
    box = envs[0].unwrapped.frame.from_source((8, 8, 40, 40), envs[0].unwrapped.views[0])
    call = OperationCall(name="zoom_in", arguments={"bbox_2d": box, "target_image": 1})
    opening = envs[0].unwrapped.dialect.render_call(call)
    sampling = Sampling(max_tokens=len(vlm.chat.encode_text(opening)) + 4)
    agent = VLMAgent(vlm.chat, TransformersEngine(vlm), sampling, opening=opening)
    episodes = rollout(envs, agent, [Job(sample_id=f"train-{k}", group=k) for k in range(3)])
    # What is sampled after the call may spoil it.
    assert sum(episode.n_operations for episode in episodes) >= 2
    for episode in episodes:
        tokens = episode.tokens
        assert episode.error is None
        assert len(tokens.images) == 1 + episode.n_operations
        assert len(tokens.turn_ends) == len(episode.steps)
        expected = plain_logprobs(vlm, tokens).gather(1, torch.from_numpy(tokens.ids[tokens.action]).long()[:, None])
        np.testing.assert_allclose(tokens.logprobs[tokens.action], expected[:, 0].numpy(), atol=1e-4)


@pytest.mark.gpu
@families
def test_a_gpu_agrees_with_the_cpu(vlm, family, family_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    there = VLM.from_pretrained(family_path(family), device="cuda:0")
    tokens = conversation_of(vlm).tokens()
    with torch.no_grad():
        logprobs = token_distributions(there, collate([tokens]).to(there.device))[1]
    assert logprobs.device == there.device
    torch.testing.assert_close(logprobs.exp().double().cpu(), own_logprobs(vlm, [tokens]), atol=1e-3, rtol=0)
