"""What a visitor sees of an episode, as HTML in which every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eval.cards import data_uri, evidence_frame
from eval.demo.live import End, Moment
from eval.facts import split_turn
from pxr_env.media import ImageSource
from pxr_env.types import Sample

#: Longest side of a crop, and of a source, as they are sent to the browser.
CROP_SIDE = 420
SOURCE_SIDE = 900
_EVIDENCE_COLOUR = (0, 158, 115)


class Transcript:
    """Grows by what happens in an episode. `html()` is all of it."""

    def __init__(self) -> None:
        self._overview = ""
        self._parts: list[str] = []
        self._n_turns = 0

    def add(self, moment: Moment) -> None:
        """Adds a turn, or what came before the first."""
        if moment.overview is not None:
            picture = _picture(moment.overview, SOURCE_SIDE, "the source with the boxes of all views")
            self._overview = f'<figure class="overview">{picture}</figure>'
        views = "".join(
            _view(image, view) for image, view in zip(moment.images, moment.views, strict=True) if view["turn"] > 0
        )
        crops = f'<div class="views">{views}</div>' if views else ""
        if moment.turn is None:
            self._parts.append(f'<section class="question"><h4>Question</h4><p>{_text(moment.reply)}</p></section>')
            return
        self._n_turns += 1
        segments = "".join(
            f'<span class="{segment.kind}">{_text(segment.text)}</span>' for segment in split_turn(moment.turn)
        )
        reply = f'<p class="reply">{_text(moment.reply)}</p>' if moment.reply else ""
        text = f'<h4>Turn {self._n_turns}</h4><div class="text">{segments}</div>'
        self._parts.append(f'<section class="turn">{text}{reply}{crops}</section>')

    def finish(self, end: End, target: str | None) -> None:
        """Adds the answer, or why there is none; `target` is None where nobody knows it."""
        if end.error is not None:
            self.fail(end.error)
        elif end.episode is None:
            self._parts.append('<section class="end"><h4>Stopped</h4></section>')
        elif end.episode.answer is None:
            limit = escape(str(end.episode.truncated_by))
            self._parts.append(
                f'<section class="end"><h4>No answer</h4><p>The limit {limit} was reached.</p></section>'
            )
        else:
            known = ""
            if target is not None:
                verdict = "correct" if end.episode.correct else f"wrong, the target is {target}"
                known = f'<p class="verdict">{_text(verdict)}</p>'
            answer = f'<p class="final">{_text(end.episode.answer)}</p>'
            self._parts.append(f'<section class="end"><h4>Answer</h4>{answer}{known}</section>')

    def fail(self, message: str) -> None:
        """Adds an error that the visitor should read."""
        self._parts.append(f'<section class="end error" role="alert"><h4>Error</h4><p>{_text(message)}</p></section>')

    def html(self) -> str:
        """All of it."""
        return f'<div class="pxr-demo">{self._overview}{"".join(self._parts)}</div>'


def describe_sample(sample: Sample) -> str:
    """A drawn sample with its evidence and its target, before anybody is asked."""
    source = sample.sources[0]
    frame = 0
    if not isinstance(source, ImageSource) and sample.evidence_time is not None:
        frame = evidence_frame(source.times, sample.evidence_time)
    image = (source.image if isinstance(source, ImageSource) else source.frame(frame)).convert("RGB").copy()
    if sample.evidence_box is not None:
        x1, y1, x2, y2 = sample.evidence_box
        width = max(2, image.width // 200)
        ImageDraw.Draw(image).rectangle((x1 - width, y1 - width, x2 + width, y2 + width), None, _EVIDENCE_COLOUR, width)
    facts = [f"target <b>{_text(sample.answers[0])}</b>"]
    if sample.needs_operation is not None:
        facts.append("an operation is needed" if sample.needs_operation else "no operation is needed")
    if sample.evidence_time is not None:
        facts.append("evidence from {:.1f} to {:.1f} s".format(*sample.evidence_time))
    picture = _picture(np.asarray(image), SOURCE_SIDE, "the sample with its evidence box")
    return (
        f'<div class="pxr-demo"><figure class="sample">{picture}<figcaption>{_text(sample.question)}<br>'
        f"{', '.join(facts)}; green: the evidence</figcaption></figure></div>"
    )


def _view(image: np.ndarray, view: Mapping[str, Any]) -> str:
    box = ", ".join(f"{number:.0f}" for number in view["box"])
    frame = f", frame {view['frame'] + 1}" if view.get("frame") is not None else ""
    caption = f"Image {view['index']}: {box}{frame}"
    return f"<figure>{_picture(image, CROP_SIDE, caption)}<figcaption>{escape(caption)}</figcaption></figure>"


def _picture(pixels: np.ndarray, side: int, text: str) -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) < side // 2:
        # Small views are enlarged as they are: their pixels are what the model saw.
        factor = side // 2 // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((side, side))
    return (
        f'<img src="{data_uri(image)}" alt="{escape(text, quote=True)}" width="{image.width}" height="{image.height}">'
    )


def _text(text: str) -> str:
    """Escaped, with its line breaks; what is no character is shown as such."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return escape(clean, quote=True).replace("\n", "<br>")
