"""Observations as chat messages and back, for OpenAI's API and for transformers; and what of an `info` is the agent's.

>>> observation = {"text": "What is it?", "images": (np.zeros((28, 28, 3), np.uint8),)}
>>> [part["type"] for part in user_message(observation)["content"]]
['image_url', 'text']
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from pxr_env.dialects import Dialect
from pxr_env.errors import choose, represent

#: The parts of a chat message in the order the model sees them: {"type": "text", "text": str}, and for an image, as
#: `images` says, {"type": "image_url", "image_url": {"url": data URI}} or {"type": "image", "image": picture}.
Content: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """What came of one tool call, see `ToolSession.calls`.

    Example:
        >>> CallResult(name="zoom_in", ok=False, text="Error: ...", views=(), content=[]).ok
        False
    """

    name: str
    """Of the tool, as it was called."""
    ok: bool
    """Whether it was executed; otherwise `text` says what was wrong, for the model."""
    text: str
    """The words of the environment."""
    views: tuple[int, ...]
    """The numbers of the images that it showed."""
    content: Content
    """The parts of a message with these images and words."""


#: What of an `info` may reach an agent. Everything else (targets, evidence, whether an operation is needed, rewards,
#: what wrappers and later versions add) stays behind unless it is named here.
AGENT_INFO = (
    "sample_id", "views", "usage", "failures", "duplicates", "clipped", "vision_tokens", "system_prompt", "tools",
    "image_places", "results", "truncated_by", "answer",
)  # fmt: skip


def for_agent(info: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of an environment's `info` that an agent may see."""
    return {name: info[name] for name in AGENT_INFO if name in info}


def split_observation(
    observation: Mapping[str, Any], image_places: Sequence[int] | None = None
) -> list[str | np.ndarray]:
    """The images and the pieces of text of an observation, in the order the model sees them.

    Args:
        image_places: for each image how many characters of the text come before it, ascending
            (`info["image_places"]`); None: all images come before the text. ValueError if there is not one for each.
    """
    text, images = observation["text"], observation["images"]
    if image_places is None:
        return [*images, text]
    if len(image_places) != len(images) or list(image_places) != sorted(image_places):
        raise ValueError(f"got image_places={image_places}, expected {len(images)} in ascending order")
    parts: list[str | np.ndarray] = []
    start = 0
    for image, place in zip(images, image_places, strict=True):
        if place > start:
            parts.append(text[start:place])
            start = place
        parts.append(image)
    return [*parts, text[start:]] if text[start:] or not parts else parts


def _file(image: np.ndarray, kind: str, **options: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, format=kind.upper(), **options)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}


#: How an image is handed over -> the part of a message. All but "jpeg" keep every pixel; "png" is packed quickly rather
#: than tightly.
IMAGES = {
    "pil": lambda image: {"type": "image", "image": Image.fromarray(np.ascontiguousarray(image))},
    "array": lambda image: {"type": "image", "image": image},
    "png": lambda image: _file(image, "png", compress_level=1),
    "jpeg": lambda image: _file(image, "jpeg", quality=95, subsampling=0),
}


def content(observation: Mapping[str, Any], image_places: Sequence[int] | None = None, *, images: str) -> Content:
    """The parts of a message that shows an observation: its images, then its text, or as `image_places` says.

    Args:
        images: "png" or "jpeg" for data URIs as OpenAI's API takes them, "pil" or "array" for pictures as transformers
            takes them. ValueError for any other.
    """
    image_part = choose(IMAGES, images, "images=", "")
    return [
        {"type": "text", "text": part} if isinstance(part, str) else image_part(part)
        for part in split_observation(observation, image_places)
    ]


def user_message(
    observation: Mapping[str, Any], image_places: Sequence[int] | None = None, *, images: str = "png"
) -> dict[str, Any]:
    """An observation as a chat message of the user, see `content`."""
    return {"role": "user", "content": content(observation, image_places, images=images)}


def first_messages(
    observation: Mapping[str, Any], info: Mapping[str, Any], *, images: str = "png"
) -> list[dict[str, Any]]:
    """What a conversation begins with, from what `reset` returned: the system prompt and the question."""
    system = {"role": "system", "content": info["system_prompt"]}
    return [system, user_message(observation, info.get("image_places"), images=images)]


def read_image(url: str) -> Image.Image:
    """The picture, in RGB, of a data URI. ValueError or OSError if it holds none."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def read_observation(message: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The observation that a message shows, and the place of each image in its text: the inverse of `user_message`.

    Raises:
        ValueError: a part is neither text nor an image of one of the kinds above.
    """
    parts = message["content"]
    text, pictures, places = "", [], []
    for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
        match part:
            case {"type": "text", "text": str(words)}:
                text += words
                continue
            case {"type": "image_url", "image_url": {"url": str(url)}} if url.startswith("data:image/"):
                picture: Any = read_image(url)
            case {"type": "image", "image": Image.Image() | np.ndarray() as picture}:
                pass
            case _:
                raise ValueError(f"got the part {represent(part)}; expected text, a data URI of an image or a picture.")
        pictures.append(np.array(picture, dtype=np.uint8))
        places.append(len(text))
    return {"text": text, "images": tuple(pictures)}, tuple(places)


def tool_messages(
    ids: Sequence[str], results: Sequence[CallResult], *, images_apart: bool = False
) -> list[dict[str, Any]]:
    """The results of the calls of those ids as messages of tools; with `images_apart` the images come after them, in a
    message of the user, each after the words of its result."""
    if not images_apart:
        return [
            {"role": "tool", "tool_call_id": identity, "content": result.content}
            for identity, result in zip(ids, results, strict=True)
        ]
    told = [
        {"role": "tool", "tool_call_id": identity, "content": result.text}
        for identity, result in zip(ids, results, strict=True)
    ]
    shown = [part for result in results if result.views for part in result.content]
    return [*told, {"role": "user", "content": shown}] if shown else told


def read_assistant(message: Mapping[str, Any]) -> tuple[str, list[tuple[str, str, Any]]]:
    """The text of an assistant's message, and its tool calls: id, name and arguments, as they came."""
    parts = message.get("content") or ""
    text = parts if isinstance(parts, str) else "".join(part.get("text", "") for part in parts)
    calls = [
        (call.get("id", ""), call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    return text, calls


def native_call(dialect: Dialect, name: str, arguments: Mapping[str, Any] | str) -> str:
    """A call that came apart from the text, as tool calls do, written so that the dialect reads it.

    Args:
        name: of the tool, as in the schemas of `dialect.tools`.
        arguments: as a dict, or as the JSON text in which servers pass them on.
    """
    if not isinstance(arguments, str):
        try:
            arguments = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            arguments = represent(arguments)
    return dialect.write_native(name, arguments)
