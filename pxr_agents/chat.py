"""Conversations as token ids: the only place that tokenizes.

A conversation grows by appending, never by rendering again: so the ids that were sampled are the ids that are trained
on. Everything that comes from outside (questions, OCR text, replies) is encoded with special tokens switched off: no
text can become a vision placeholder or a role marker.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from pxr_agents.types import Completion, Observation, Tokens
from pxr_env.messages import split_observation

_SENTINELS = {role: f"@@{role}@@" for role in ("system", "user", "assistant", "reply")}


def _pieces(tokenizer: Any) -> dict[str, str]:
    """The fixed texts of a chat template, found by rendering a conversation of sentinels.

    Works for every template that writes turns one after the other. "user_close" has what opens the model's turn in it.
    """
    from jinja2 import TemplateError

    image = {"type": "image"}
    conversation = [
        {"role": "system", "content": _SENTINELS["system"]},
        {"role": "user", "content": [image, {"type": "text", "text": _SENTINELS["user"]}]},
        {"role": "assistant", "content": _SENTINELS["assistant"]},
        {"role": "user", "content": [image, {"type": "text", "text": _SENTINELS["reply"]}]},
    ]
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except (TypeError, ValueError, TemplateError) as error:
        raise ValueError(
            f"The chat template failed on a conversation with two images ({error}); expected that of a Qwen2.5-VL or "
            f"Qwen3-VL checkpoint. Is it that of a text model?"
        ) from error
    parts = [text]
    for sentinel in _SENTINELS.values():
        head, found, tail = parts.pop().partition(sentinel)
        if not found:
            raise ValueError(
                f"The chat template dropped the text {sentinel!r} of a conversation of four messages; expected a "
                f"template that writes every message once and in order, got: {text!r}"
            )
        parts += [head, tail]
    system_open, user_open, user_close, bridge, reply_close = parts
    image_text = "<|vision_start|><|image_pad|><|vision_end|>"
    if not user_open.endswith(image_text) or not bridge.endswith(image_text) or not reply_close.startswith(user_close):
        raise ValueError(
            f"The chat template does not write an image as {image_text!r} directly before the text that follows it "
            f"(Qwen2.5-VL and Qwen3-VL do); got: {text!r}"
        )
    # A prompt opens the user turn after closing the system turn, a reply after closing the assistant's: the
    # difference between the two is what an assistant turn needs to be closed with. The last user turn is followed by
    # the generation prompt, which may open a thought as well (Qwen3-VL Thinking: "<think>").
    return {
        "system_open": system_open,
        "user_open": user_open.removesuffix(image_text),
        "user_close": reply_close,
        "assistant_close": bridge.removesuffix(image_text),
    }


class ChatFormat:
    """How a model family writes conversations: template pieces, vision tokens, image geometry.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        patch_size: side of a vision patch in pixels.
        merge_size: patches a side that are merged into one token; image sides must be multiples of
            `patch_size * merge_size` (28 for Qwen2.5-VL, 32 for Qwen3-VL).

    Attributes:
        stop_id: the id that ends a turn.
        banned_ids: ids a policy must never sample: vision, padding and role tokens. They are masked in
            sampling and in the learner's softmax alike.
    """

    def __init__(self, tokenizer: Any, *, patch_size: int, merge_size: int) -> None:
        self.tokenizer = tokenizer
        self.image_unit = patch_size * merge_size
        pieces = _pieces(tokenizer)
        self.stop_id, self.image_id, self._vision_start, self._vision_end = (
            self._special_id(token) for token in ("<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
        )
        # What a tokenizer's configuration lists as special and what it marks as special are two things.
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self.banned_ids = tuple(sorted(special.union(tokenizer.all_special_ids) - {self.stop_id}))
        self._fixed = {name: tuple(tokenizer.encode(piece, add_special_tokens=False)) for name, piece in pieces.items()}
        # "<|im_end|>" is sampled by the model when it stops, and written for it when it was cut.
        if self._fixed["assistant_close"][:1] != (self.stop_id,):
            raise ValueError(
                f"The chat template closes an assistant turn with {pieces['assistant_close']!r}; expected it to "
                f"begin with <|im_end|>, the token that ends a turn"
            )
        self._text_cache: dict[str, tuple[int, ...]] = {}

    def _special_id(self, token: str) -> int:
        ids = self.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(
                f"The tokenizer writes {token} as {len(ids)} ids; expected one, as that of a Qwen2.5-VL or a Qwen3-VL. "
                f"Is this the tokenizer of a model without vision?"
            )
        return int(ids[0])

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Ids of foreign text; never contains a special id."""
        if text not in self._text_cache:
            if len(self._text_cache) > 4096:
                self._text_cache.clear()
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            self._text_cache[text] = tuple(ids)
        return self._text_cache[text]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a turn; a final stop id is not part of it."""
        if ids and ids[-1] == self.stop_id:
            ids = ids[:-1]
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def grid(self, image: np.ndarray) -> tuple[int, int]:
        """Rows and columns of vision tokens of an image; ValueError if a side is not a multiple of `image_unit`.

        A processor would resize such an image, and the model would see other pixels than the environment showed.
        """
        height, width = image.shape[:2]
        if height % self.image_unit or width % self.image_unit:
            raise ValueError(
                f"got an image of {width}x{height} pixels; this model needs sides that are multiples of "
                f"{self.image_unit}. Make the environment with size_multiple={self.image_unit}."
            )
        return height // self.image_unit, width // self.image_unit

    def prompt(
        self,
        conversation: Conversation,
        system_prompt: str,
        observation: Observation,
        image_places: Sequence[int] | None = None,
    ) -> None:
        """Begin a conversation: system prompt, first observation (see `split_observation`), and the model's opening."""
        conversation.append_ids(self._fixed["system_open"])
        conversation.append_ids(self.encode_text(system_prompt))
        conversation.append_ids(self._fixed["user_open"])
        self._observation(conversation, observation, image_places)

    def reply(
        self, conversation: Conversation, observation: Observation, image_places: Sequence[int] | None = None
    ) -> None:
        """Go on after the model's turn with what the environment answered."""
        close = self._fixed["assistant_close"]
        conversation.append_ids(close[1:] if conversation.ids[-1] == self.stop_id else close)
        self._observation(conversation, observation, image_places)

    def _observation(
        self, conversation: Conversation, observation: Observation, image_places: Sequence[int] | None
    ) -> None:
        for part in split_observation(observation, image_places):
            if isinstance(part, str):
                conversation.append_ids(self.encode_text(part))
                continue
            conversation.append_ids((self._vision_start,))
            conversation.append_image(part, self.image_id, self.grid(part))
            conversation.append_ids((self._vision_end,))
        conversation.append_ids(self._fixed["user_close"])


_interned: weakref.WeakValueDictionary[tuple[tuple[int, ...], bytes], np.ndarray] = weakref.WeakValueDictionary()


def intern_image(image: np.ndarray) -> np.ndarray:
    """One array for equal images, as long as somebody holds it.

    The rollouts of a group begin with the same image: memory and what is sent to a learner hold one copy of it, and
    engines find equal images by identity.
    """
    key = (image.shape, blake2b(np.ascontiguousarray(image).data, digest_size=16).digest())
    return _interned.setdefault(key, image)


class Conversation:
    """One episode as ids, images and M-RoPE positions; grows only at its end."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.images: list[np.ndarray] = []
        self._action: list[bool] = []
        self._logprobs: list[float] = []
        self._positions: list[np.ndarray] = []
        self._next_position = 0
        self._turn_ends: list[int] = []
        self._forced: list[int] = []
        self._n_images = 0  # up to the end of the last turn

    @property
    def n_turns(self) -> int:
        """Turns of the model so far, demonstrated ones included."""
        return len(self._turn_ends)

    def append_ids(self, ids: Sequence[int]) -> None:
        """Text that the model did not write."""
        self._extend(ids, action=False, logprobs=[0.0] * len(ids))

    def append_image(self, image: np.ndarray, image_id: int, grid: tuple[int, int]) -> None:
        """An image of grid[0] x grid[1] vision tokens. All its tokens share one time, as get_rope_index has it."""
        rows, columns = grid
        base = self._next_position
        height, width = np.divmod(np.arange(rows * columns, dtype=np.int32), columns)
        self._positions.append(np.stack([np.full_like(height, base), base + height, base + width]))
        self._next_position += max(rows, columns)
        self._append([image_id] * (rows * columns), action=False, logprobs=[0.0] * (rows * columns))
        self.images.append(intern_image(image))

    def append_completion(self, completion: Completion, *, n_forced: int = 0) -> None:
        """A turn of the model: exactly the ids that were sampled; the first `n_forced` of them were forced."""
        start = len(self.ids)
        self._forced += range(start, start + min(n_forced, len(completion.token_ids)))
        self._extend(completion.token_ids, action=True, logprobs=completion.logprobs)
        self._end_turn()

    def append_turn(self, ids: Sequence[int], *, train: bool) -> None:
        """A demonstrated turn; `train=False` keeps it as context only (a wrong operation that gets repaired)."""
        self._extend(ids, action=train, logprobs=[0.0] * len(ids))
        self._end_turn()

    def end_with_last_turn(self) -> None:
        """Forget what was shown after the last turn of the model: there is no room to answer it."""
        n = self._turn_ends[-1] + 1 if self._turn_ends else 0
        self._positions = [self.positions()[:, :n]]
        del self.ids[n:], self._action[n:], self._logprobs[n:], self.images[self._n_images :]

    def _end_turn(self) -> None:
        self._turn_ends.append(len(self.ids) - 1)
        self._n_images = len(self.images)

    def _extend(self, ids: Sequence[int], *, action: bool, logprobs: Sequence[float]) -> None:
        first, self._next_position = self._next_position, self._next_position + len(ids)
        self._positions.append(np.arange(first, self._next_position, dtype=np.int32)[None].repeat(3, 0))
        self._append(ids, action=action, logprobs=logprobs)

    def _append(self, ids: Sequence[int], *, action: bool, logprobs: Sequence[float]) -> None:
        self.ids += ids
        self._action += [action] * len(ids)
        self._logprobs += logprobs

    def positions(self, start: int = 0) -> np.ndarray:
        """(3, L - start) int32 M-RoPE positions from id `start` on."""
        if len(self._positions) > 1:
            self._positions = [np.concatenate(self._positions, axis=1)]
        return self._positions[0][:, start:] if self._positions else np.zeros((3, 0), np.int32)

    def tokens(self) -> Tokens:
        """A snapshot for the learner."""
        forced = None
        if self._forced:
            forced = np.zeros(len(self.ids), bool)
            forced[self._forced] = True
        return Tokens(
            ids=np.asarray(self.ids, np.int32),
            action=np.asarray(self._action, bool),
            logprobs=np.asarray(self._logprobs, np.float32),
            positions=np.asarray(self.positions(), np.int32),
            images=tuple(self.images),
            turn_ends=tuple(self._turn_ends),
            forced=forced,
        )
