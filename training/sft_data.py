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
from pxr_agents.types import Observation, Tokens
from pxr_env.datasets import BadRow, ImagePart, Part, SFTData, TextPart, TraceMessage
from pxr_env.errors import DataError, show
from pxr_env.media import ImageSource, VideoSource, cut, fit_size, uniform_frames
from pxr_env.rules import frame_budget
from pxr_env.views import Quad
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
class Recording:
    """A conversation as a system prompt and exchanges: what the user showed and said, what the assistant answered."""

    sample_id: str
    system_prompt: str
    exchanges: tuple[tuple[tuple[Part, ...], str], ...]


class Recordings:
    """Recorded conversations as token rows for one model. Pixels are read when a row is asked for, and not kept.

    Args:
        data: the conversations.
        chat: the model's chat format.
        images: at which size images are shown: as environments show them first, whole, within a pixel budget.
        trained_turns: see the module; 0 for all.

    Attributes:
        bad: conversations that are left out, because they have no turn to train on or do not take turns.

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
