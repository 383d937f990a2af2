"""What is asked about: a file and a question of a visitor, or a sample that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import ImageDraw

from eval.cards import evidence_frame
from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import DataError
from pxr_env.media import ImageSource, VideoSource
from pxr_env.play.serving import SOURCE_SIDE, picture, text
from pxr_env.types import Sample

#: Longest question in characters, so that nobody fills a model's context by it.
MAX_QUESTION = 2000
#: Longest video in seconds, and most pixels of a picture.
MAX_SECONDS = 120.0
MAX_PIXELS = 64_000_000
SAMPLE_ID = "yours"
_EVIDENCE_COLOUR = (0, 158, 115)


class OneQuestion:
    """A data set of one sample: a visitor's question. Nobody knows its answer, so no score means anything.

    Args:
        question: what is asked.
        source: the image or video.
    """

    def __init__(self, question: str, source: ImageSource | VideoSource) -> None:
        self._sample = Sample(sample_id=SAMPLE_ID, question=question, sources=(source,), answers=("",))

    def __len__(self) -> int:
        return 1

    def sample_ids(self) -> Sequence[str]:
        return [SAMPLE_ID]

    def get(self, sample_id: str) -> Sample:
        if sample_id != SAMPLE_ID:
            raise DataError(f'got the sample "{sample_id}", expected "{SAMPLE_ID}"')
        return self._sample


def ask_about(path: str | None, question: str, *, is_video: bool, arguments: Mapping[str, Any]) -> VisualReasoningEnv:
    """The environment of a visitor's own question.

    Args:
        path: the uploaded file.
        question: what is asked.
        is_video: what the file is.
        arguments: of the environment. Operations on videos are added for a video where the dialect has words for them.

    Raises:
        ValueError: there is no file or no question, one is too large or unreadable, or the arguments do not fit
            together. The message is for the visitor.
    """
    kind = "video" if is_video else "image"
    if not path:
        raise ValueError(f"Got no {kind}; choose one first.")
    if not question.strip():
        raise ValueError("Got no question; write one first.")
    if len(question) > MAX_QUESTION:
        raise ValueError(f"The question has {len(question)} characters; expected at most {MAX_QUESTION}.")
    source: ImageSource | VideoSource
    if is_video:
        source = VideoSource(path=Path(path))
        if source.duration > MAX_SECONDS:
            raise ValueError(f"The video lasts {source.duration:.0f} s; expected at most {MAX_SECONDS:.0f} s. Cut it.")
    else:
        source = ImageSource(path=Path(path))
    if source.size[0] * source.size[1] > MAX_PIXELS:
        width, height = source.size
        raise ValueError(f"The {kind} has {width}x{height} pixels; expected at most {MAX_PIXELS:,}. Make it smaller.")
    given = dict(arguments)
    if "operations" not in given:
        only_zoom = given.get("dialect") in ("mini-o3", "deepeyes") or not is_video
        given["operations"] = ("zoom_in",) if only_zoom else ("zoom_in", "select_frames", "seek")
    return VisualReasoningEnv(OneQuestion(question.strip(), source), **given)


def draw_sample(env_id: str, seed: int, arguments: Mapping[str, Any]) -> tuple[gymnasium.Env, Sample]:
    """An environment with a drawn sample, and the sample.

    Raises:
        ValueError: the arguments do not fit together. The message is for the visitor.
    """
    env = gymnasium.make(env_id, disable_env_checker=True, **arguments)
    env.reset(seed=seed)
    base: Any = env.unwrapped
    return env, base.sample


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
    facts = [f"target <b>{text(sample.answers[0])}</b>"]
    if sample.needs_operation is not None:
        facts.append("an operation is needed" if sample.needs_operation else "no operation is needed")
    if sample.evidence_time is not None:
        facts.append("evidence from {:.1f} to {:.1f} s".format(*sample.evidence_time))
    shown = picture(np.asarray(image), SOURCE_SIDE, "the sample with its evidence box")
    return (
        f'<div class="pxr"><figure class="sample">{shown}<figcaption>{text(sample.question)}\n'
        f"{', '.join(facts)}; green: the evidence</figcaption></figure></div>"
    )
