"""Interventions on what an operation shows: other pixels in the same places, the episode itself stays as it is.

The environment keeps its state, its texts and its boxes; only the pixels of chosen views are exchanged before the agent
sees them. So whatever an agent then does differently, it does because of those pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from eval.attempts import CannotBeAsked
from pxr_env.media import ImageSource
from pxr_env.rendering import render
from pxr_env.types import Sample
from pxr_env.views import Box, Panel, Quad, Region, View, overlap

#: What is shown instead of what an operation showed.
INTERVENTIONS = {
    "control": "the true pixels",
    "blank": "one colour, the mean of what the question showed of that source",
    "shift": "a part of the same size from elsewhere in the source, or another frame for a whole frame",
    "unzoomed": "what the question showed of that source, resized to the same size",
}
#: Places that are tried for a shifted box, in each direction.
_PLACES = 9


class Changed(gymnasium.Wrapper):
    """Exchanges the pixels of the views that operations show.

    Args:
        operation: only views of this operation are changed; all if None.
        seed: of the place of a shifted box, together with sample and view.

    Raises:
        ValueError: `kind` is unknown.
    """

    def __init__(self, env: gymnasium.Env, *, kind: str, operation: str | None = None, seed: int = 0) -> None:
        super().__init__(env)
        if kind not in INTERVENTIONS:
            raise ValueError(f"got the intervention {kind!r}, expected one of {', '.join(INTERVENTIONS)}")
        self._kind, self._operation, self._seed = kind, operation, seed
        self._first: list[tuple[Region, np.ndarray]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        views: Sequence[View] = self._base.views
        self._first = [(view.region, image) for view, image in zip(views, observation["images"], strict=True)]
        return observation, info

    def step(self, action: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`.

        Raises:
            CannotBeAsked: a view cannot be changed in this way.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        n_new = len(observation["images"])
        if n_new and self._kind != "control":
            chosen = self._chosen()
            new = self._base.views[-n_new:]
            images = [
                self._changed(view, image) if view.index in chosen else image
                for view, image in zip(new, observation["images"], strict=True)
            ]
            observation = {**observation, "images": tuple(images)}
        return observation, reward, terminated, truncated, info

    @property
    def _base(self) -> Any:
        return self.env.unwrapped

    def _chosen(self) -> set[int]:
        """Numbers of the views to be changed."""
        return {
            number
            for call, numbers in self._base.calls
            if self._operation is None or call.name == self._operation
            for number in numbers
        }

    def _changed(self, view: View, image: np.ndarray) -> np.ndarray:
        if self._kind == "shift":
            panels = tuple(
                replace(panel, region=shifted(panel.region, self._base.sample, self._generator(view, number)))
                for number, panel in enumerate(view.panels)
            )
            return render(replace(view, panels=panels), self._base.source_image)
        changed = image.copy()
        for panel in view.panels:
            x1, y1, x2, y2 = panel.place
            changed[y1:y2, x1:x2] = self._without_detail(panel)
        return changed

    def _without_detail(self, panel: Panel) -> np.ndarray:
        """Nothing that the question did not show."""
        same = [(region, image) for region, image in self._first if region.source == panel.region.source]
        if not same:
            raise CannotBeAsked(f"intervention: source {panel.region.source} was not shown with the question")
        time = panel.region.time or 0.0
        image = min(same, key=lambda shown: abs((shown[0].time or 0.0) - time))[1]
        if self._kind == "blank":
            return np.broadcast_to(np.round(image.mean(axis=(0, 1))).astype(np.uint8), (*panel.size[::-1], 3))
        return np.asarray(Image.fromarray(image).resize(panel.size, Image.Resampling.BICUBIC))

    def _generator(self, view: View, panel: int) -> np.random.Generator:
        text = f"{self._seed}:{self._base.sample.sample_id}:{view.index}:{panel}"
        return np.random.default_rng(zlib.crc32(text.encode("utf-8", "surrogatepass")))


def shifted(region: Region, sample: Sample, generator: np.random.Generator) -> Region:
    """A region of the same size and shape elsewhere in the same source.

    It shows nothing of the evidence where that is known, and nothing of the region itself where it is not; as little of
    the region as can be had in any case. A whole frame of a video becomes another frame, outside of the evidence time.

    Raises:
        CannotBeAsked: there is no such place.
    """
    source = sample.sources[region.source - 1]
    width, height = source.size
    x1, y1, x2, y2 = region.box
    if not isinstance(source, ImageSource) and (x2 - x1) * (y2 - y1) >= 0.5 * width * height:
        return _other_frame(region, sample, generator)
    evidence = _evidence(region, sample)
    best: tuple[float, float, float, Box] | None = None
    for left, top in _places(width - (x2 - x1), height - (y2 - y1)):
        box = (left, top, left + x2 - x1, top + y2 - y1)
        rank = (_shared(box, evidence), _shared(box, region.box), float(generator.random()), box)
        best = rank if best is None else min(best, rank)
    if best is None or best[0] > 0 or (evidence is None and best[1] > 0) or best[3] == region.box:
        raise CannotBeAsked("intervention: there is no other place for a box of this size")
    dx, dy = best[3][0] - x1, best[3][1] - y1
    corners = [(x + dx, y + dy) for x, y in (region.quad.top_left, region.quad.top_right, region.quad.bottom_left)]
    quad = Quad(top_left=corners[0], top_right=corners[1], bottom_left=corners[2])
    return replace(region, quad=quad)


def _evidence(region: Region, sample: Sample) -> Box | None:
    """The evidence box in the picture that the region is cut from; None if none is known there."""
    if region.source != 1 or sample.evidence_box is None:
        return None
    if sample.evidence_time is not None and region.time is not None:
        start, end = sample.evidence_time
        if not start <= region.time < end:
            return None
    return sample.evidence_box


def _places(free_x: float, free_y: float) -> Iterator[tuple[float, float]]:
    for down in range(_PLACES if free_y > 0 else 1):
        for across in range(_PLACES if free_x > 0 else 1):
            yield float(max(0, int(free_x * across / (_PLACES - 1)))), float(max(0, int(free_y * down / (_PLACES - 1))))


def _shared(first: Box, second: Box | None) -> float:
    common = overlap(first, second) if second is not None else None
    return 0.0 if common is None else (common[2] - common[0]) * (common[3] - common[1])


def _other_frame(region: Region, sample: Sample, generator: np.random.Generator) -> Region:
    # Without an evidence time any other frame will do.
    times = sample.sources[region.source - 1].times  # type: ignore[union-attr]
    start, end = sample.evidence_time or (0.0, 0.0)
    others = [
        frame
        for frame, time in enumerate(times)
        if frame != region.frame and not (region.source == 1 and start <= time < end)
    ]
    if not others:
        raise CannotBeAsked("intervention: there is no other frame outside of the evidence time")
    frame = others[int(generator.integers(len(others)))]
    return replace(region, frame=frame, time=times[frame])
