"""What an episode looks like on the page, as HTML in which every text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from PIL import Image

#: Longest side of a view, and of a source, as they are sent to the browser.
VIEW_SIDE, SOURCE_SIDE = 420, 900
#: Pictures with more pixels are sent as JPEG, the others as PNG.
_PNG_PIXELS = 65_536

#: Cuts a turn into (kind, text): "text", "call", "answer" or "thought".
SplitTurn = Callable[[str], Iterable[tuple[str, str]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """What is new after the reset or a turn.

    Args:
        turn: what was written, None after the reset.
        reply: what the environment said.
        images: the new views (HxWx3 uint8), `views` what they show (see `View.as_dict`).
        overview: the sources with the boxes of all views, None where they could not or must not be shown.
    """

    turn: str | None
    reply: str
    images: Sequence[np.ndarray] = ()
    views: Sequence[Mapping[str, Any]] = ()
    overview: np.ndarray | None = None


class Transcript:
    """Grows by what happens in an episode. `html()` is all of it.

    Args:
        split_turn: tells the parts of a turn apart; without it a turn is shown as one text.
    """

    def __init__(self, split_turn: SplitTurn = lambda turn: [("text", turn)]) -> None:
        self._split_turn = split_turn
        self._overview = ""
        self._parts: list[str] = []
        self._n_turns = 0

    def add(self, moment: Moment) -> None:
        """Adds a turn, or what came before the first."""
        if moment.overview is not None:
            image = picture(moment.overview, SOURCE_SIDE, "the source with the boxes of all views")
            self._overview = f'<figure class="overview">{image}</figure>'
        if moment.turn is None:
            self._parts.append(f'<section class="question"><h4>Question</h4><p>{text(moment.reply)}</p></section>')
            return
        self._n_turns += 1
        parts = "".join(f'<span class="{kind}">{text(part)}</span>' for kind, part in self._split_turn(moment.turn))
        turn = f'<h4>Turn {self._n_turns}</h4><div class="text">{parts}</div>'
        reply = f'<p class="reply">{text(moment.reply)}</p>' if moment.reply else ""
        views = "".join(_view(image, view) for image, view in zip(moment.images, moment.views, strict=True))
        crops = f'<div class="views">{views}</div>' if views else ""
        self._parts.append(f'<section class="turn">{turn}{reply}{crops}</section>')

    def end(self, title: str, *lines: str, final: str | None = None, is_error: bool = False) -> None:
        """Adds how it ended.

        Args:
            title: in a word.
            lines: what there is to say of it.
            final: the answer.
            is_error: whether something went wrong.
        """
        kind = 'end error" role="alert' if is_error else "end"
        answer = "" if final is None else f'<p class="final">{text(final)}</p>'
        said = "".join(f'<p class="verdict">{text(line)}</p>' for line in lines)
        self._parts.append(f'<section class="{kind}"><h4>{text(title)}</h4>{answer}{said}</section>')

    def html(self) -> str:
        """All of it."""
        return f'<div class="pxr">{self._overview}{"".join(self._parts)}</div>'


def picture(pixels: np.ndarray, side: int, description: str) -> str:
    """An image, uint8 HxWx3, as an `<img>` of at most `side` pixels that loads nothing."""
    image = enlarged(pixels, side // 2)
    image.thumbnail((side, side))
    kind = "PNG" if image.width * image.height <= _PNG_PIXELS else "JPEG"
    file = io.BytesIO()
    image.save(file, kind, **({"compress_level": 1} if kind == "PNG" else {"quality": 90}))
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/{kind.lower()};base64,{data}" alt="{text(description)}" '
        f'width="{image.width}" height="{image.height}">'
    )


def enlarged(pixels: np.ndarray, side: int) -> Image.Image:
    """A small image at a multiple of its size, up to `side`, with its pixels as they are: a model sees them."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(1, side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def describe_view(view: Mapping[str, Any]) -> str:
    """A view in one line: "Image 2: 280, 0, 560, 140, frame 3 at 0.50 s"."""
    if "panels" in view:
        return f"Image {view['index']}: two images side by side"
    box = ", ".join(f"{edge:.0f}" for edge in view["box"])
    frame = "" if view.get("frame") is None else f", frame {view['frame'] + 1} at {view['time']:.2f} s"
    return f"Image {view['index']}: {box}{frame}"


def text(plain: str) -> str:
    """Escaped; what is no character is shown as such."""
    return escape(plain.encode("utf-8", "replace").decode("utf-8"), quote=True)


def _view(image: np.ndarray, view: Mapping[str, Any]) -> str:
    caption = describe_view(view)
    return f"<figure>{picture(image, VIEW_SIDE, caption)}<figcaption>{text(caption)}</figcaption></figure>"
