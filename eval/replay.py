"""Rebuilds the pictures of an episode from its record: records hold turns, environments hold pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from eval.interventions import Changed
from pxr_agents.types import CONTEXT, Episode, Observation
from pxr_env.media import ImageSource, VideoSource
from pxr_env.types import NoTurn


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
        manifest: what `python -m eval run` wrote to `manifest.json`. Of a run of `python -m eval audit` the changed
            pixels are rebuilt.

    Raises:
        ValueError: `data` came for an environment that reads none.
    """

    def __init__(self, manifest: Mapping[str, Any], data: str | None = None) -> None:
        self._env = rebuild_environment(manifest, data)

    def observations(self, episode: Episode) -> Iterator[tuple[Observation, dict[str, Any]]]:
        """Play the recorded turns of `episode` again: every observation with its info, the first one included.

        Raises:
            MediaError, DataError, OSError: the sample cannot be shown any more.
            gymnasium.error.ResetNeeded: the episode ended earlier than on record.
        """
        turns = [step.turn for step in episode.steps]
        observation, info = self._env.reset(options={"sample_id": episode.sample_id})
        for turn in turns:
            yield observation, info
            observation, _, _, _, info = self._env.step(turn)
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
        recorded = [episode.prompt, *(step.reply for step in episode.steps)]
        for turn, (observation, info) in enumerate(self.observations(episode)):
            _compare(episode, turn, recorded[turn], observation["text"])
            new = info["views"][len(images) :]
            if len(new) != len(observation["images"]):
                raise ReplayError(
                    f"sample {episode.sample_id!r}, turn {turn}: {len(new)} new views with "
                    f"{len(observation['images'])} images; expected one image per view. This is a mistake of the "
                    "environment."
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


def _compare(episode: Episode, turn: int, recorded: str, replayed: str) -> None:
    if recorded != replayed:
        raise ReplayError(
            f"sample {episode.sample_id!r} does not replay: after turn {turn} the environment said {replayed[:200]!r}, "
            f"but {recorded[:200]!r} is on record. The data or the environment changed since the run; report with the "
            "versions and the data of its manifest, or evaluate again."
        )
