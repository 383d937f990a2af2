"""What TRL's own tool loop shows, pays and trains is what `step` makes of the same messages."""

from __future__ import annotations

import functools
import os
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLProcessor
from transformers.utils.chat_template_utils import render_jinja_template
from trl import GRPOConfig, GRPOTrainer
from trl import chat_template_utils as trl_templates

from pxr_agents import random_checkpoint, tiny
from pxr_agents.chat import Conversation
from pxr_agents.vlm import VLM, patchify
from pxr_env import ToolSession
from pxr_env.adapters.trl import GRPOTask, score
from pxr_env.errors import DataError
from tests.adapters.episodes import ENV_ID, EPISODES, Episode, Said, assert_no_leak

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
# Its video processor would need torchvision, and there are no videos.
Qwen3VLProcessor.get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])
LOOK, RIGHT = EPISODES[1].turns


@dataclass(frozen=True)
class Played(Episode):
    """What TRL plays of an episode: each call as a message of its own, and none after JSON that breaks off. Of a tool
    that does not exist it says so itself."""

    @property
    def turns(self) -> list[Said]:
        turns: list[Said] = []
        for said in super().turns:
            turns += [Said("" if k else said.text, (call,)) for k, call in enumerate(said.calls)] or [said]
            if said.calls and not said.calls[-1][1].endswith("}"):
                return turns
        return turns

    @property
    def seen(self) -> list[tuple[str, list[Any]]]:
        unknown = [any(name == "look" for name, _ in said.calls) for said in self.turns[:-1]]
        said_by_trl = ("{'error': 'Tool look not found.'}", [])
        return [said_by_trl if no else seen for no, seen in zip([False, *unknown], super().seen, strict=True)]


class Scripted(GRPOTrainer):
    """The model begins with the messages of `script`, then it goes on by itself; everything else is TRL's.

    Attributes:
        script: sample id and number of the rollout -> messages.
        batch: what TRL trains on, and what it gave to reward functions.
    """

    script: Callable[[str, int], Sequence[Said]]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._left = [list(self.script(row["sample_id"], number)) for number, row in enumerate(inputs)]
        self._read: list[list[int]] = []
        trained = super()._generate_and_score_completions(inputs)
        self.batch = {**trained, **self._scored, "rows": inputs}
        return trained

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, ids)
        self._scored = {"prompts": prompts, "completions": completions, "rewards": rewards[:, 0].tolist()}
        return rewards

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any, **more: Any) -> Any:
        if not self._read:
            self._read = [[] for _ in prompt_ids]
        rollouts: list[int] = []
        for ids in prompt_ids:
            matches = (k for k, read in enumerate(self._read) if ids[: len(read)] == read and k not in rollouts)
            rollouts.append(next(matches))
        if not any(self._left[rollout] for rollout in rollouts):
            return super()._generate_single_turn(prompt_ids, *rest, **more)
        said = [self._left[rollout].pop(0).written() for rollout in rollouts]
        written = [[*self._tokenizer.encode(text), self._tokenizer.eos_token_id] for text in said]
        written = [ids[: self.max_completion_length] for ids in written]
        for rollout, prompt, ids in zip(rollouts, prompt_ids, written, strict=True):
            self._read[rollout] = [*prompt, *ids]
        return written, None


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VLM:
    session = ToolSession(ENV_ID)
    return tiny.build(tmp_path_factory.mktemp("tiny"), [session.system_prompt, session.native_prompt] * 2, r"\d")


@pytest.fixture
def train(vlm: VLM, tmp_path: Path) -> Callable[..., Scripted]:
    def run(script: Any, dataset: Dataset, tasks: Any, *, steps: int = 1, length: int = 1024) -> Scripted:
        path = Path(vlm.model.config._name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(path)
        arguments = GRPOConfig(
            output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=2 * len(dataset) // steps,
            num_generations=2, max_completion_length=length, shuffle_dataset=False, learning_rate=1e-3, use_cpu=True,
            bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no", disable_tqdm=True,
            logging_steps=1, generation_kwargs={"max_new_tokens": 6, "suppress_tokens": list(vlm.chat.banned_ids)},
        )  # fmt: skip
        trainer = Scripted(
            str(path), score, arguments, dataset, environment_factory=tasks,
            processing_class=Qwen3VLProcessor(image_processor, tokenizer, chat_template=tokenizer.chat_template),
        )  # fmt: skip
        trainer.script = script
        trainer.train()
        return trainer

    return run


def parts(batch: dict[str, Any], number: int) -> tuple[list[int], list[int]]:
    """The ids of a rollout without padding, and those of them that are trained on."""
    ids, mask, own = (batch[name][number].tolist() for name in ("completion_ids", "completion_mask", "tool_mask"))
    prompt = [
        i for i, m in zip(*(batch[f"prompt_{name}"][number].tolist() for name in ("ids", "mask")), strict=True) if m
    ]
    whole = prompt + [i for i, m in zip(ids, mask, strict=True) if m]
    return whole, [i for i, m, o in zip(ids, mask, own, strict=True) if m and o]


def conversation(vlm: VLM, turns: Sequence[Said], seen: Sequence[tuple[str, Any]]) -> Conversation:
    """Our own ids of an episode."""
    chat, told = vlm.chat, Conversation()
    observations = [{"text": text, "images": tuple(images)} for text, images in seen]
    chat.prompt(told, "", observations[0])
    for said, observation in zip(turns, [*observations[1:], None], strict=True):
        told.append_turn((*chat.encode_text(said.written()), chat.stop_id), train=True)
        if observation:
            chat.reply(told, observation)
    return told


def test_twenty_episodes(vlm: VLM, train: Callable[..., Scripted]) -> None:
    task, played = GRPOTask(ENV_ID), {episode.sample_id: Played(episode.number) for episode in EPISODES}
    dataset = task.dataset(20)
    trainer = train(lambda sample_id, _: played[sample_id].turns, dataset, task)
    batch, images, handed = trainer.batch, [], [dataset.to_list()]
    assert len(batch["rows"]) == 40
    for number, row in enumerate(batch["rows"]):
        episode = played[row["sample_id"]]
        own = conversation(vlm, episode.turns, episode.seen)
        ids, trained = parts(batch, number)
        # All but the system's message is our own conversation, id for id, image tokens included.
        start, own_start = ids.index(vlm.chat.stop_id), own.ids.index(vlm.chat.stop_id)
        assert ids[start:] == own.ids[own_start:]
        tokens = own.tokens()
        assert trained == tokens.ids[tokens.action].tolist()
        shown = [image for _, seen in episode.seen for image in seen]
        assert batch["num_images"][number] == len(shown)
        images += shown
        messages = [*batch["prompts"][number], *batch["completions"][number]]
        blocks = [block for m in messages if m["role"] != "assistant" and m["content"] for block in m["content"]]
        pictures = [np.asarray(block["image"]) for block in blocks if "image" in block]
        assert [picture.tobytes() for picture in pictures] == [image.tobytes() for image in shown]
        assert batch["rewards"][number] == episode.reward
        handed += [vlm.chat.decode(ids[:start]), [block.get("text") for block in blocks if isinstance(block, dict)]]
    pixels, grids = patchify(images, vlm.norm)
    assert torch.equal(batch["image_grid_thw"], grids)
    torch.testing.assert_close(batch["pixel_values"], pixels, rtol=0, atol=1e-6)
    assert "zoom_in" in handed[1]
    assert_no_leak(handed)
    logs = trainer.state.log_history[0]
    assert logs["reward"] == pytest.approx(sum(episode.reward for episode in played.values()) / 20)
    assert logs["reward/operation_cost"] < 0 < logs["accuracy"] == logs["reward/correct"] < logs["usage_rate"] < 1
    assert logs["truncated_rate"] == pytest.approx(0.3)  # those of the numbers 3, 6 and 9


@pytest.mark.parametrize(
    ("cut", "images", "reward"),
    [("call", 1, 0.0), ("result", 1, -0.125), ("nothing", 2, -0.125), ("answer", 2, -0.125)],
)
def test_cut_by_length(vlm: VLM, train: Callable[..., Scripted], cut: str, images: int, reward: float) -> None:
    """A result that has no room is left out with its image, and what is left of a message is no answer."""
    episode, task = Played(1), GRPOTask(ENV_ID)
    own = conversation(vlm, episode.turns, episode.seen)
    action = own.tokens().action
    call, answer = (len(vlm.chat.encode_text(said.written())) + 1 for said in episode.turns)
    first, end = int(action.argmax()), len(action)
    result = end - answer - first
    length = {"call": call - 30, "result": result - 1, "nothing": result, "answer": end - first - 3}[cut]
    kept = call if cut == "result" else length
    batch = train(lambda *_: episode.turns, task.dataset([episode.sample_id]), task, length=length).batch
    ids, trained = parts(batch, 0)
    assert ids[-kept:] == own.ids[first : first + kept]
    assert trained == [i for i, a in zip(own.ids[: first + kept], action, strict=False) if a]
    assert ids.count(vlm.chat.image_id) * 4 == batch["image_grid_thw"][:images].prod(dim=1).sum()
    assert batch["num_images"] == [images] * 2
    assert batch["rewards"] == [reward] * 2


def test_several_tasks_at_once(vlm: VLM, train: Callable[..., Scripted]) -> None:
    tasks = {"zooms": GRPOTask(ENV_ID), "turns": GRPOTask(ENV_ID, operations=["rotate"], costs=None)}
    sets = [task.dataset(["sample-1"], environment=name) for name, task in tasks.items()]
    turn = Said("", (("rotate", '{"degrees": 90, "target_image": 1}'),))
    batch = train(lambda _, number: [turn if number == 3 else LOOK, RIGHT], concatenate_datasets(sets), tasks).batch
    prompts = [vlm.chat.decode(ids.tolist()) for ids in batch["prompt_ids"]]
    assert ["zoom_in" in prompt for prompt in prompts] == [True, True, False, False]
    assert [completion[1]["content"] for completion in batch["completions"][2:3]] == [
        "{'error': 'Tool zoom_in not found.'}"
    ]
    assert batch["rewards"] == [0.875, 0.875, 1.0, 1.0]
    assert batch["num_images"] == [2, 2, 1, 2]


def test_two_optimizer_steps(vlm: VLM, train: Callable[..., Scripted]) -> None:
    """Every other rollout begins with a call, and the model itself goes on after the image."""
    task = GRPOTask(ENV_ID)
    trainer = train(lambda _, number: [(Said("Hm."), LOOK)[number % 2]], task.dataset(4), task, steps=2)
    for number, completion in enumerate(trainer.batch["completions"]):
        assert [m["role"] for m in completion] == [["assistant"], ["assistant", "tool", "assistant"]][number % 2]
    assert trainer.batch["rewards"] == [0.0, -0.125] * 2
    assert 0 < len(parts(trainer.batch, 1)[1]) - len(vlm.chat.encode_text(LOOK.written())) - 1 <= 6
    assert [log["grad_norm"] > 0 for log in trainer.state.log_history[:2]] == [True, True]
    before = vlm.model.state_dict()
    changed = [not torch.equal(before[name], weights) for name, weights in trainer.model.state_dict().items()]
    assert sum(changed) > len(changed) / 2


def test_what_is_not_there_is_an_error() -> None:
    task = GRPOTask(ENV_ID)
    with pytest.raises(ValueError, match="got samples=21; expected 1 to 20"):
        task.dataset(21)
    with pytest.raises(DataError, match='got sample_id="sample-20"; expected one of 20 ids'):
        task.dataset(["sample-20"])
    assert score([[]], [object()], lambda name, value: None) == [None]


def test_the_example(vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, but for a step on a CPU."""
    small = {
        "max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False,
        "report_to": [], "save_strategy": "no", "disable_tqdm": True,
        "generation_kwargs": {"max_new_tokens": 4, "suppress_tokens": list(vlm.chat.banned_ids)},
    }  # fmt: skip
    monkeypatch.setattr("trl.GRPOConfig", functools.partial(GRPOConfig, **small))
    monkeypatch.setattr("sys.argv", ["with_trl.py", vlm.model.config._name_or_path])
    example = Path("examples/adapters/with_trl.py").resolve()
    monkeypatch.chdir(tmp_path)
    task = runpy.run_path(str(example))["task"]
    assert task.dataset(["train-7"])[0]["sample_id"] == "train-7"


@pytest.mark.parametrize("kind", ["tiny", "qwen3-vl"])
def test_takes_our_checkpoints_as_they_are(tmp_path: Path, kind: str) -> None:
    if kind == "tiny":
        tiny.build(tmp_path, ["a 1 b", "a 2 b"], r"\d")
    else:
        random_checkpoint.build_random(tmp_path, kind)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    images = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    processor = Qwen3VLProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    assert tokenizer.response_template is not None
    assert trl_templates.supports_tool_calling(processor)
    assert trl_templates.is_chat_template_prefix_preserving(processor)
    prefix = tokenizer.encode("<|im_start|>assistant\n")
    for turn in EPISODES[2].turns:
        read = trl_templates.parse_response(tokenizer, tokenizer.encode(f"{turn.written()}<|im_end|>"), prefix=prefix)
        assert [call["function"]["name"] for call in read.get("tool_calls", ())] == [name for name, _ in turn.calls]


def test_random_templates_are_the_published_ones() -> None:
    published = trl_templates.qwen3_vl_chat_template
    session = ToolSession(ENV_ID)
    for episode in EPISODES:
        question = {"role": "user", "content": session.reset(sample_id=episode.sample_id)}
        messages = [{"role": "system", "content": session.native_prompt}, question]
        for turn in episode.turns:
            if not session.is_over:
                messages += [turn.message(), *session.respond(turn.message())]
        for tools in (None, session.tools):
            ours, theirs = (
                render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=True)[0]
                for template in (random_checkpoint.PUBLISHED["qwen3-vl"]["chat_template"], published)
            )
            assert ours == theirs
