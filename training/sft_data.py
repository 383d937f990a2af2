"""What a warm start trains on: rows of token ids, made when they are asked for, from whatever format the traces have.

Recorded conversations (`format = "messages"`, the released warm-start data) become what the model would have seen, had
it held them in our chat format:

- Texts, images and videos of a user's turn stay in their order. Images have the size at which environments show them.
- The frames of a video are shown as images, as in the environments. (The released code uses Qwen's video encoding.)
- Results of tools are user turns. Turns of one side that follow on each other are one turn.
- Only what the assistant wrote is trained on, and of that only the last `trained_turns` turns. That is the rule of the
  released code (`instruction_tuning/sft_tooltrainer.py`): two turns, the operation that is right and the answer. What
  an error-induced self-correction says before them, the wrong operation, is context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np

from pxr_agents.chat import ChatFormat, Conversation
from pxr_agents.types import Tokens
from pxr_env.datasets import BadRow, ImagePart, Message, Part, SFTData, TextPart
from pxr_env.errors import DataError, show
from pxr_env.geometry import Quad
from pxr_env.media import ImageSource, VideoSource, cut, fit_size, uniform_frames
from pxr_env.rules import frame_budget
from training.config import ImagesRecipe, SFTRecipe
from training.demonstrations import Demonstrations, read_traces

#: What stands in a conversation without a system prompt: what Qwen2.5-VL's own template writes there.
DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."


class Rows(Protocol):
    """Traces as rows of token ids for one model."""

    def __len__(self) -> int:
        """Number of traces."""

    def name(self, index: int) -> str:
        """What messages call trace `index`."""

    def row(self, index: int) -> Tokens:
        """Trace `index`.

        Raises:
            DataError, MediaError: it cannot be made.
        """


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
class Exchange:
    """What the user showed and said, in order, and what the assistant answered."""

    shown: tuple[Part, ...]
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A conversation as a system prompt and exchanges."""

    sample_id: str
    system_prompt: str
    exchanges: tuple[Exchange, ...]


class Recordings:
    """Recorded conversations as token rows for one model. Pixels are read when a row is asked for, and not kept.

    Args:
        data: the conversations.
        chat: the model's chat format.
        images: at which size images are shown.
        trained_turns: see the module; 0 for all.

    Attributes:
        bad: conversations that are left out, because they have no turn to train on or do not take turns.
    """

    def __init__(self, data: SFTData, chat: ChatFormat, *, images: ImagesRecipe, trained_turns: int = 2) -> None:
        self._chat, self._trained_turns = chat, trained_turns
        self._pictures = Pictures(images, chat.image_unit)
        recordings, bad = [], []
        for trace in data:
            try:
                recordings.append(_recording(trace.sample_id, trace.messages))
            except DataError as error:
                bad.append(BadRow(row=trace.row, place=trace.place, sample_id=trace.sample_id, cause=str(error)))
        self._recordings, self.bad = tuple(recordings), tuple(bad)

    def __len__(self) -> int:
        return len(self._recordings)

    def name(self, index: int) -> str:
        """Its sample id."""
        return self._recordings[index].sample_id

    def row(self, index: int) -> Tokens:
        """Conversation `index`, with its images as the model sees them.

        Raises:
            DataError: an image cannot be read or shown; names the conversation.
        """
        recording = self._recordings[index]
        try:
            return self._tokens(recording)
        except ValueError as error:
            raise DataError(f'trace "{recording.sample_id}": {error}') from error

    def _tokens(self, recording: Recording) -> Tokens:
        conversation, n_exchanges = Conversation(), len(recording.exchanges)
        frame = _opening(self._chat, recording.system_prompt)
        reply = _between(self._chat)
        for number, exchange in enumerate(recording.exchanges):
            conversation.append_ids(frame.before)
            for part in exchange.shown:
                self._show(conversation, part, frame)
            conversation.append_ids(frame.after)
            train = not self._trained_turns or number >= n_exchanges - self._trained_turns
            conversation.append_turn((*self._chat.encode_text(exchange.answer), self._chat.stop_id), train=train)
            frame = reply
        return conversation.tokens()

    def _show(self, conversation: Conversation, part: Part, frame: _Frame) -> None:
        if isinstance(part, TextPart):
            conversation.append_ids(self._chat.encode_text(part.text))
            return
        source = part.file.open()
        for image in self._pictures.of(source):
            conversation.append_ids((frame.vision_start,))
            conversation.append_image(image, self._chat.image_id, self._chat.grid(image))
            conversation.append_ids((frame.vision_end,))


class Pictures:
    """Images and videos as the environments show them first: whole, within a pixel budget, frames at equal distances.

    Args:
        images: the budget.
        size_multiple: of both sides, where the budget says none.

    Raises:
        ValueError: nothing fits the budget.
    """

    def __init__(self, images: ImagesRecipe, size_multiple: int) -> None:
        multiple = images.size_multiple or size_multiple
        self._image = {"min_pixels": images.min_pixels, "max_pixels": images.max_pixels, "size_multiple": multiple}
        self._video_frames = images.video_frames
        self._frame = frame_budget(
            video_frames=images.video_frames,
            max_frame_pixels=images.max_frame_pixels,
            max_pixels=images.max_pixels,
            size_multiple=multiple,
        )

    def of(self, source: ImageSource | VideoSource) -> Iterator[np.ndarray]:
        """Yields what is shown of a source, uint8 HxWx3."""
        budget = self._image if isinstance(source, ImageSource) else self._frame
        quad, size = Quad.from_box((0, 0, *source.size)), fit_size(*source.size, **budget)
        if isinstance(source, ImageSource):
            yield cut(source.image, quad, size)
            return
        for index in uniform_frames(source.n_frames, self._video_frames):
            yield cut(source.frame(index), quad, size)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """What the chat format writes around a user's turn, and around an image in it, as ids."""

    before: tuple[int, ...]
    vision_start: int
    vision_end: int
    after: tuple[int, ...]


def _opening(chat: ChatFormat, system_prompt: str) -> _Frame:
    """Around the first user's turn."""
    conversation = Conversation()
    chat.prompt(conversation, system_prompt, {"text": "", "images": (_pixel(chat),)})
    return _frame(chat, conversation.ids)


def _between(chat: ChatFormat) -> _Frame:
    """Around a user's turn that follows on one of the assistant."""
    conversation = Conversation()
    conversation.append_ids((chat.stop_id,))
    chat.reply(conversation, {"text": "", "images": (_pixel(chat),)})
    return _frame(chat, conversation.ids[1:])


def _frame(chat: ChatFormat, ids: Sequence[int]) -> _Frame:
    """From the ids of a turn that shows an image of one vision token and says nothing."""
    place = ids.index(chat.image_id)
    return _Frame(
        before=tuple(ids[: place - 1]),
        vision_start=ids[place - 1],
        vision_end=ids[place + 1],
        after=tuple(ids[place + 2 :]),
    )


def _pixel(chat: ChatFormat) -> np.ndarray:
    return np.zeros((chat.image_unit, chat.image_unit, 3), np.uint8)


def _recording(sample_id: str, messages: Sequence[Message]) -> Recording:
    """A conversation that takes turns: system prompt, user, assistant, user, ..., assistant."""
    rest = list(messages)
    system_prompt = DEFAULT_SYSTEM_PROMPT
    if rest[0].role == "system":
        system_prompt = _text(rest.pop(0))
    if any(message.role == "system" for message in rest):
        raise DataError("a message of the system came after the first one; expected it to open the conversation")
    turns = [(side, list(said)) for side, said in groupby(rest, key=lambda message: message.role == "assistant")]
    if turns and turns[0][0]:
        raise DataError("the assistant speaks first; expected the user's question")
    if not turns or not turns[-1][0]:
        last = messages[-1].role
        raise DataError(f"it ends with a message of {show(last)}; expected the assistant's answer")
    exchanges = []
    for (_, asked), (_, answered) in zip(turns[::2], turns[1::2], strict=True):
        shown = tuple(part for message in asked for part in message.content)
        exchanges.append(Exchange(shown=shown, answer="".join(map(_text, answered))))
    return Recording(sample_id=sample_id, system_prompt=system_prompt, exchanges=tuple(exchanges))


def _text(message: Message) -> str:
    if not all(isinstance(part, TextPart) for part in message.content):
        kind = "an image" if any(isinstance(part, ImagePart) for part in message.content) else "a video"
        raise DataError(f"a message of {show(message.role)} has {kind}; expected text only")
    return "".join(part.text for part in message.content if isinstance(part, TextPart))
