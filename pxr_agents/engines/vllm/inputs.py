"""Our conversations as vLLM takes them. No vLLM in here.

Our ids hold one `<|image_pad|>` per merged vision token. vLLM wants one per image and expands it by itself; ids that
are expanded already it would expand again, silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pxr_agents.chat import ChatFormat
from pxr_agents.types import Request


def fold_placeholders(ids: Sequence[int], lengths: Sequence[int], image_id: int) -> list[int]:
    """Ids in which each image has one placeholder; in `ids` image k has `lengths[k]` (its vision tokens) in a row.

    Raises:
        ValueError: there are more or fewer placeholders than the images have vision tokens, or they are torn apart.
    """
    folded: list[int] = []
    position = 0
    for number, length in enumerate(lengths, start=1):
        start = position
        while start < len(ids) and ids[start] != image_id:
            start += 1
        run = list(ids[start : start + length])
        if length < 1 or len(run) < length or set(run) != {image_id}:
            n_ids = next((k for k, token in enumerate(run) if token != image_id), len(run))
            raise ValueError(
                f"Image {number} has {length} vision tokens, and {n_ids} placeholder ids in a row "
                f"came for it; expected as many. Were ids cut, or images lost or changed?"
            )
        folded += [*ids[position:start], image_id]
        position = start + length
    rest = list(ids[position:])
    if image_id in rest:
        raise ValueError(
            f"got {rest.count(image_id)} placeholder ids that belong to none of the {len(lengths)} images; expected "
            f"none. Did the model sample one? It has to be banned (see ChatFormat.banned_ids)."
        )
    return folded + rest


def vllm_prompt(request: Request, chat: ChatFormat) -> dict[str, Any]:
    """A request as vLLM's `TokensPrompt`.

    Raises:
        ValueError: as `fold_placeholders` and `ChatFormat.grid`.
    """
    from PIL import Image

    lengths = [int(np.prod(chat.grid(image))) for image in request.images]
    prompt: dict[str, Any] = {"prompt_token_ids": fold_placeholders(request.ids, lengths, chat.image_id)}
    if request.images:
        prompt["multi_modal_data"] = {"image": [Image.fromarray(image) for image in request.images]}
    return prompt
