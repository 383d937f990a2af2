"""Plays recorded turns again, as they were or with other pixels: records hold turns, environments hold pixels.

`Replayer` rebuilds the pictures of an episode. `Changed` exchanges the pixels that an operation showed: the environment
keeps its state, its texts and its boxes, so whatever an agent then does differently, it does because of those pixels.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from pxr_agents.types import CONTEXT, Episode, Observation
from pxr_env.curiosity import WithdrawOperations
from pxr_env.media import ImageSource, VideoSource
from pxr_env.rendering import render
from pxr_env.types import NoTurn, Sample
from pxr_env.views import Box, Panel, Quad, Region, View, overlap
from .runner import CannotBeAsked

#: What is shown instead of what an operation showed.
INTERVENTIONS = {
    "control": "the true pixels",
    "blank": "one colour, the mean of what the question showed of that source",
    "shift": "a part of the same size from elsewhere in the source, or another frame for a whole frame",
    "unzoomed": "what the question showed of that source, resized to the same size",
}
#: Places that are tried for a shifted box, in each direction.
_PLACES = 9


class ReplayError(RuntimeError):
    """The environment answers recorded turns differently from how it answered then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What could be seen in an episode: the images of its views (HxWx3 uint8, by the index of the view), and the
    sources they were cut from."""

    question: str
    images: dict[int, np.ndarray]
    sources: tuple[ImageSource | VideoSource, ...]


class Replayer:
    """Replays the episodes of one run in an environment rebuilt from the run's manifest.

    Args:
        manifest: of a run of `python -m eval audit` the changed pixels are rebuilt.
        data: where the data lie now, if they were moved.

    Raises:
        ValueError: `data` came for an environment that reads none.
    """

    def __init__(self, manifest: Mapping[str, Any], data: str | None = None) -> None:
        self._env = WithdrawOperations(rebuild_environment(manifest, data))

    def observations(self, episode: Episode) -> Iterator[tuple[Observation, dict[str, Any]]]:
        """Play the recorded turns again: every observation with its info, the first one included.

        Raises:
            MediaError, DataError, OSError: the sample cannot be shown any more.
            gymnasium.error.ResetNeeded: the episode ended earlier than on record.
        """
        options = {"sample_id": episode.sample_id, "withdrawn": episode.withdrawn}
        observation, info = self._env.reset(options=options)
        for step in episode.steps:
            yield observation, info
            observation, _, _, _, info = self._env.step(step.turn)
        if episode.truncated_by == CONTEXT:
            # The agent gave up after it had seen the last observation.
            *_, info = self._env.step(NoTurn(CONTEXT))
        yield observation, info

    def replay(self, episode: Episode) -> Replay:
        """Run the recorded turns of `episode` again.

        Raises:
            ReplayError: a reply or a view differs from the record.
        """
        images: dict[int, np.ndarray] = {}
        where = f"sample {episode.sample_id!r}"
        for turn, (recorded, (observation, info)) in enumerate(
            zip(episode_texts(episode), self.observations(episode), strict=True)
        ):
            if recorded != observation["text"]:
                raise ReplayError(
                    f"{where} does not replay: after turn {turn} the environment said {observation['text'][:200]!r}, "
                    f"but {recorded[:200]!r} is on record. The data or the environment changed since the run; report "
                    "with the versions and the data of its manifest, or evaluate again."
                )
            new = info["views"][len(images) :]
            if len(new) != len(observation["images"]):
                raise ReplayError(
                    f"{where}, turn {turn}: {len(new)} new views with {len(observation['images'])} images; expected "
                    "one image per view. This is a mistake of the environment."
                )
            images |= {view["index"]: image for view, image in zip(new, observation["images"], strict=True)}
        sample = self._env.unwrapped.sample  # type: ignore[attr-defined]
        return Replay(question=sample.question, images=images, sources=tuple(sample.sources))

    def close(self) -> None:
        """Free the environment."""
        self._env.close()


def rebuild_environment(manifest: Mapping[str, Any], data: str | None = None) -> gymnasium.Env:
    """The environment of a run, with the interventions of an audit if it has any.

    Raises:
        ValueError: `data` came for an environment that reads none.
    """
    spec = EnvSpec.from_json(json.dumps(manifest["env"]))
    if data is not None:
        if "data" not in spec.kwargs:
            raise ValueError(f"got --data {data} for {spec.id}, which was given no data; leave it out")
        spec.kwargs["data"] = data
    env = gymnasium.make(spec, disable_env_checker=True)
    intervention = manifest.get("intervention")
    return env if intervention is None else Changed(env, **intervention)


def episode_texts(episode: Episode) -> list[str]:
    """The text of every observation."""
    return [episode.prompt, *(step.reply for step in episode.steps)]


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
            calls = [(call.name, numbers) for call, numbers in self._base.calls]
            chosen = {number for name, numbers in calls if self._operation in (None, name) for number in numbers}
            images = [
                self._changed(view, image) if view.index in chosen else image
                for view, image in zip(self._base.views[-n_new:], observation["images"], strict=True)
            ]
            observation = {**observation, "images": tuple(images)}
        return observation, reward, terminated, truncated, info

    @property
    def _base(self) -> Any:
        return self.env.unwrapped

    def _changed(self, view: View, image: np.ndarray) -> np.ndarray:
        if self._kind == "shift":
            sample, panels = self._base.sample, []
            for number, panel in enumerate(view.panels):
                place = f"{self._seed}:{sample.sample_id}:{view.index}:{number}"
                generator = np.random.default_rng(zlib.crc32(place.encode("utf-8", "surrogatepass")))
                panels.append(replace(panel, region=shifted(panel.region, sample, generator)))
            return render(replace(view, panels=tuple(panels)), self._base.source_image)
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
    places = _places(width - (x2 - x1), height - (y2 - y1))
    boxes = [(left, top, left + x2 - x1, top + y2 - y1) for left, top in places]
    ranks = [(_shared(box, evidence), _shared(box, region.box), float(generator.random()), box) for box in boxes]
    of_evidence, of_itself, _, best = min(ranks)
    if of_evidence > 0 or (evidence is None and of_itself > 0) or best == region.box:
        raise CannotBeAsked("intervention: there is no other place for a box of this size")
    dx, dy = best[0] - x1, best[1] - y1
    corners = [(x + dx, y + dy) for x, y in (region.quad.top_left, region.quad.top_right, region.quad.bottom_left)]
    quad = Quad(top_left=corners[0], top_right=corners[1], bottom_left=corners[2])
    return replace(region, quad=quad)


def _evidence(region: Region, sample: Sample) -> Box | None:
    """The evidence box in the picture that the region is cut from; None if none is known there."""
    start, end = sample.evidence_time or (-math.inf, math.inf)
    is_there = region.source == 1 and (region.time is None or start <= region.time < end)
    return sample.evidence_box if is_there else None


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
