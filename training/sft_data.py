"""What a warm start trains on: rows of token ids, made when they are asked for, and put together to batches.

Recorded conversations (`format = "messages"`, the released warm-start data) become what the model would have seen, had
it held them in our chat format:

- Texts, images and videos of a user's turn stay in their order. Images have the size at which environments show them.
- The frames of a video are shown as images, as in the environments. (The released code uses Qwen's video encoding.)
- Results of tools are user turns. Turns of one side that follow on each other are one turn.
- Only what the assistant wrote is trained on, and of that only the last `trained_turns` turns. That is the rule of the
  released code (`instruction_tuning/sft_tooltrainer.py`): two turns, the operation that is right and the answer. What
  an error-induced self-correction says before them, the wrong operation, is context.

Rows are padded to similar lengths, or packed: a packed row holds several traces, one after the other. Its attention
mask is block-diagonal: no id sees another trace. transformers makes that mask (sdpa, eager), or the lengths for a
kernel that needs none (flash_attention_2), from positions in the text that begin again at 0 with every trace. They
travel in front of the three M-RoPE positions, which begin again, too. The vision tower encodes every image by itself
anyway. So a packed row computes what its traces do alone, up to rounding, and nothing for padding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pxr_agents.chat import ChatFormat, Conversation
from pxr_agents.types import Observation, Tokens
from pxr_agents.vlm import TokenBatch, collate, split_by_length
from pxr_env.datasets import BadRow, ImagePart, Part, SFTData, TextPart, TraceMessage
from pxr_env.errors import DataError, MediaError, show
from pxr_env.media import ImageSource, VideoSource, cut, fit_size, uniform_frames
from pxr_env.rules import frame_budget
from pxr_env.views import Quad
from .batch import BUCKET_TOKENS, pack
from .config import ImagesRecipe, SFTRecipe
from .demonstrations import Demonstrations, read_traces
from .logs import read_lines
from .run_directory import SampleCursor

#: What stands in a conversation without a system prompt: what Qwen2.5-VL's own template writes there.
DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."


class Rows(Protocol):
    """Traces as rows of token ids for one model."""

    def __len__(self) -> int:
        """Number of traces."""

    def name(self, index: int) -> str:
        """What messages call trace `index`."""

    def row(self, index: int) -> Tokens:
        """Trace `index`; raises DataError or MediaError if it cannot be made."""


def open_rows(recipe: SFTRecipe, chat: ChatFormat) -> tuple[Rows, tuple[BadRow, ...]]:
    """The traces of a recipe, and those that were left out because they cannot be used.

    Raises:
        DataError: there are none, or (without `skip_bad_rows`) some cannot be used; all of them are named.
    """
    if recipe.format == "traces":
        return Demonstrations(read_traces(recipe.traces), chat), ()
    data = SFTData(recipe.traces, skip_bad_rows=recipe.skip_bad_rows)
    conversations = Recordings(data, chat, images=recipe.images, trained_turns=recipe.trained_turns)
    if conversations.bad and not recipe.skip_bad_rows:
        told = "\n".join(str(row) for row in conversations.bad[:20])
        raise DataError(
            f"{data.path}: {len(conversations.bad)} of {data.n_rows} rows cannot be trained on; expected conversations "
            f"that end with the assistant. Correct them, or set skip_bad_rows=true:\n{told}",
            bad_rows=conversations.bad,
        )
    if not len(conversations):
        raise DataError(f"{data.path}: none of its {data.n_rows} rows can be trained on")
    return conversations, (*data.skipped, *conversations.bad)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A conversation as a system prompt and exchanges: what the user showed and said, what the assistant answered."""

    sample_id: str
    system_prompt: str
    exchanges: tuple[tuple[tuple[Part, ...], str], ...]


class Recordings:
    """Recorded conversations as token rows for one model. Pixels are read when a row is asked for, and not kept.

    Images are shown as environments show them first, whole, within the pixel budget `images`; `trained_turns` is 0 for
    all. `bad` are conversations that are left out, because they have no turn to train on or do not take turns.

    Raises:
        ValueError: no image fits the budget.
    """

    def __init__(self, data: SFTData, chat: ChatFormat, *, images: ImagesRecipe, trained_turns: int = 2) -> None:
        self._chat, self._trained_turns, self._video_frames = chat, trained_turns, images.video_frames
        multiple = images.size_multiple or chat.image_unit
        self._image = {"min_pixels": images.min_pixels, "max_pixels": images.max_pixels, "size_multiple": multiple}
        self._frame = frame_budget(
            video_frames=images.video_frames,
            max_frame_pixels=images.max_frame_pixels,
            max_pixels=images.max_pixels,
            size_multiple=multiple,
        )
        self._recordings: list[Recording] = []
        bad = []
        for trace in data:
            try:
                self._recordings.append(_recording(trace.sample_id, trace.messages))
            except DataError as error:
                bad.append(BadRow(row=trace.row, place=trace.place, sample_id=trace.sample_id, cause=str(error)))
        self.bad = tuple(bad)

    def __len__(self) -> int:
        return len(self._recordings)

    def name(self, index: int) -> str:
        """Its sample id."""
        return self._recordings[index].sample_id

    def row(self, index: int) -> Tokens:
        """Conversation `index`, with its images as the model sees them; raises DataError, which names it, if one of
        them cannot be read or shown."""
        recording = self._recordings[index]
        try:
            return self._tokens(recording)
        except ValueError as error:
            raise DataError(f'trace "{recording.sample_id}": {error}') from error

    def _tokens(self, recording: Recording) -> Tokens:
        conversation, chat = Conversation(), self._chat
        for number, (shown, answer) in enumerate(recording.exchanges):
            text, images, places = "", list[np.ndarray](), list[int]()
            for part in shown:
                if isinstance(part, TextPart):
                    text += part.text
                    continue
                for image in self._pictures(part.file.open()):
                    images.append(image)
                    places.append(len(text))
            observation: Observation = {"text": text, "images": tuple(images)}
            if number:
                chat.reply(conversation, observation, places)
            else:
                chat.prompt(conversation, recording.system_prompt, observation, places)
            train = not self._trained_turns or number >= len(recording.exchanges) - self._trained_turns
            conversation.append_turn((*chat.encode_text(answer), chat.stop_id), train=train)
        return conversation.tokens()

    def _pictures(self, source: ImageSource | VideoSource) -> Iterator[np.ndarray]:
        """Yields what is shown of a source, uint8 HxWx3; of a video frames at equal distances."""
        budget = self._image if isinstance(source, ImageSource) else self._frame
        quad, size = Quad.from_box((0, 0, *source.size)), fit_size(*source.size, **budget)
        if isinstance(source, ImageSource):
            yield cut(source.image, quad, size)
            return
        for index in uniform_frames(source.n_frames, self._video_frames):
            yield cut(source.frame(index), quad, size)


def _recording(sample_id: str, messages: Sequence[TraceMessage]) -> Recording:
    """A conversation that takes turns: system prompt, user, assistant, user, ..., assistant."""
    rest = list(messages)
    system_prompt = _text(rest.pop(0)) if rest[0].role == "system" else DEFAULT_SYSTEM_PROMPT
    if any(message.role == "system" for message in rest):
        raise DataError("a message of the system came after the first one; expected it to open the conversation")
    turns = [(side, list(said)) for side, said in groupby(rest, key=lambda message: message.role == "assistant")]
    if turns and turns[0][0]:
        raise DataError("the assistant speaks first; expected the user's question")
    if not turns or not turns[-1][0]:
        raise DataError(f"it ends with a message of {show(messages[-1].role)}; expected the assistant's answer")
    exchanges = tuple(
        (tuple(part for message in asked for part in message.content), "".join(map(_text, answered)))
        for (_, asked), (_, answered) in zip(turns[::2], turns[1::2], strict=True)
    )
    return Recording(sample_id=sample_id, system_prompt=system_prompt, exchanges=exchanges)


def _text(message: TraceMessage) -> str:
    if not all(isinstance(part, TextPart) for part in message.content):
        kind = "an image" if any(isinstance(part, ImagePart) for part in message.content) else "a video"
        raise DataError(f"a message of {show(message.role)} has {kind}; expected text only")
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


@dataclass(kw_only=True, slots=True)
class Batch:
    """One process' share of the traces of a step: `bad` ones, with their causes, could not be read, and `cursor` is
    where the next step begins (see `SampleCursor.state_dict`)."""

    rows: list[Tokens] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    cursor: dict[str, int] = field(default_factory=dict)


def read_batches(rows: Rows, cursor: SampleCursor, share: slice, recipe: SFTRecipe) -> Iterator[Batch]:
    """Yields batch after batch, without end; traces with more ids than `max_length` are bad.

    Args:
        rows: the traces.
        cursor: over their numbers; the same in all processes.
        share: which traces of a step are read here; the second of three processes reads slice(1, None, 3).
        recipe: `batch_size`, `max_length` and `skip_bad_rows` count.

    Raises:
        DataError, MediaError: a trace is bad (without `skip_bad_rows`).
    """
    while True:
        batch = Batch()
        for number in map(int, cursor.take(recipe.batch_size)[share]):
            name = rows.name(number)
            try:
                row = rows.row(number)
                if recipe.max_length is not None and len(row.ids) > recipe.max_length:
                    raise DataError(
                        f"{name}: got {len(row.ids)} ids, expected at most max_length={recipe.max_length}. Lower the "
                        f"pixel budget of its images, raise max_length, or set skip_bad_rows=true."
                    )
            except (DataError, MediaError) as error:
                if not recipe.skip_bad_rows:
                    raise
                batch.bad.append((name, str(error)))
            else:
                batch.rows.append(row)
                batch.names.append(name)
        batch.cursor = cursor.state_dict()
        yield batch


def note_skipped(path: Path, skipped: Iterable[tuple[str, str]]) -> None:
    """Add traces (name, cause) to OUT/skipped_rows.jsonl; those that are there already are not written again."""
    known = {line["name"] for line in read_lines(path)}
    new = {name: cause for name, cause in skipped if name not in known}
    if new:
        with path.open("a", encoding="utf-8") as file:
            for name, cause in new.items():
                file.write(json.dumps({"name": name, "cause": cause}, ensure_ascii=False) + "\n")


def parts(rows: Sequence[Tokens], *, pack_tokens: int | None, micro_batch_tokens: int | None) -> list[list[Tokens]]:
    """Rows that go forward and backward together; all of them where neither limit is given.

    Args:
        rows: the traces of a step.
        pack_tokens: ids of a packed row, at most; a longer trace gets a row of its own.
        micro_batch_tokens: ids of padded rows, at most, padding included.
    """
    lengths = [len(row.ids) for row in rows]
    if not rows:
        groups: list[list[int]] = []
    elif pack_tokens is not None:
        groups = pack(lengths, pack_tokens)
    elif micro_batch_tokens is not None:
        groups = split_by_length(lengths, max_tokens=micro_batch_tokens)
    else:
        groups = [list(range(len(rows)))]
    return [[rows[k] for k in sorted(group)] for group in groups if group]


def tensors(rows: Sequence[Tokens], *, packed: bool) -> list[TokenBatch]:
    """The rows of one part as tensors: one packed row, or rows of similar lengths together, shorter ones first."""
    if packed:
        return [pack_rows(rows)]
    groups = split_by_length([len(row.ids) for row in rows], max_tokens=BUCKET_TOKENS)
    return [collate([rows[k] for k in group]) for group in groups]


def pack_rows(rows: Sequence[Tokens]) -> TokenBatch:
    """One row (1, L) of all traces, side by side; its positions are (4, 1, L): in the text, and M-RoPE's three."""
    lengths = [len(row.ids) for row in rows]
    in_text = np.concatenate([np.arange(length) for length in lengths])
    positions = np.concatenate([row.positions for row in rows], axis=1)
    target = np.concatenate([row.action for row in rows])
    # The first id of a trace follows on the last one of another: nothing says what it should be.
    target[np.cumsum([0, *lengths[:-1]])] = False
    return TokenBatch(
        ids=torch.from_numpy(np.concatenate([row.ids for row in rows]).astype(np.int64))[None],
        positions=torch.from_numpy(np.concatenate([in_text[None], positions]).astype(np.int64))[:, None],
        target=torch.from_numpy(target)[None],
        images=tuple(image for row in rows for image in row.images),
    )


def blank_row(image_id: int, side: int) -> Tokens:
    """A row that trains nothing and shows a black image of one vision token, `side` pixels wide and high.

    Learners that share one model have to run the same layers equally often (ZeRO): where one has no trace, or no image,
    this stands in.
    """
    return Tokens(
        ids=np.array([image_id], np.int32),
        action=np.zeros(1, bool),
        logprobs=np.zeros(1, np.float32),
        positions=np.zeros((3, 1), np.int32),
        images=(np.zeros((side, side, 3), np.uint8),),
        turn_ends=(),
    )
