r"""Environments of others as ones that our rollouts, our trainer and our agents play.

Everything with Gymnasium's `reset` and `step` will do whose observations hold images, text or both, or which can be
rendered, and whose actions are text or names:

>>> lake = {"env": "FrozenLake-v1", "actions": ["left", "down", "right", "up"], "show": "render"}
>>> env = gymnasium.make("pxr_agents.foreign:pxr/Foreign-v0", **lake)  # doctest: +SKIP

An environment behind an OpenEnv server is `env="pxr_agents.foreign:OpenEnvGame"` with `env_kwargs={"base_url": ...}`.
In a recipe: `env = {id = "pxr_agents.foreign:pxr/Foreign-v0", kwargs = {env = "my_games:make", ...}}`.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from pxr_env.errors import DataError, did_you_mean, integer, quote, represent
from pxr_env.media import check_budget, fit_size
from pxr_env.media.images import to_image
from pxr_env.messages import read_image
from pxr_env.rendering import RenderModes
from pxr_env.spaces import ImagesSpace, TextSpace
from pxr_env.types import NoTurn

#: Actions that no message can be without a function that reads it.
_NO_TEXT = spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete | spaces.Dict | spaces.Tuple
_SHOWS = ("observation", "render", "both")


class Seeds:
    """The samples of an environment that has none: sample "7" is what `reset(seed=7)` begins.

    So the episodes of a group begin alike.
    """

    def __init__(self, n: int) -> None:
        self._ids = tuple(map(str, range(n)))

    def __len__(self) -> int:
        return len(self._ids)

    def sample_ids(self) -> Sequence[str]:
        return self._ids


class ForeignEnv(gymnasium.Env[dict[str, Any], str]):
    r"""An environment of somebody else, with the observations, actions and `info` of a visual reasoning one.

    A turn is a message of the model. Actions that have names, or numbers, stand in it as a final answer does,
    `\boxed{left}`; a message without one is answered by a text that says so, and the other environment is not asked.
    Every reward of a step is the term "reward". An episode is `correct` where the environment's own `info` says so
    ("success" or "is_success"), or else if all rewards together reach `success`.

    Args:
        env: an id for `gymnasium.make`, "module:function" for something that makes an environment, or an environment.
        env_kwargs: arguments of whatever makes it.
        system_prompt: what the model is told first; by default only how to write an action.
        actions: the names of discrete actions, in their order; by default their numbers.
        show: what the model sees of it: the "observation", what it looks like ("render"), or "both".
        read: "module:function" or a function that makes an action of a message, and raises ValueError, with words for
            the model, where it cannot; by default texts go on as they are.
        n_seeds: how many samples there are, each the seed of a reset.
        max_turns: messages per episode.
        success: least return of an episode that counts as correct.
        min_pixels, max_pixels, size_multiple: sizes of shown images, see `fit_size`.

    Raises:
        ValueError: an argument is out of range, or no action can be made of a text.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": RenderModes(["rgb_array"]), "render_fps": 1}  # type: ignore[misc]
    #: There are none: nothing is counted, and nothing can be made to begin with one.
    operations: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        env: str | gymnasium.Env,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
        actions: Sequence[str] | None = None,
        show: str = "observation",
        read: str | Callable[[str], Any] | None = None,
        n_seeds: int = 10_000,
        max_turns: int = 20,
        success: float = 1.0,
        min_pixels: int = 28 * 28,
        max_pixels: int = 401_408,
        size_multiple: int = 28,
        render_mode: str | None = None,
    ) -> None:
        if show not in _SHOWS:
            raise ValueError(f"got show={represent(show)}; expected one of {', '.join(_SHOWS)}.")
        self._budget = {"min_pixels": min_pixels, "max_pixels": max_pixels, "size_multiple": size_multiple}
        check_budget(**self._budget)
        self.foreign = _made(env, dict(env_kwargs or {}), renders=show != "observation" or render_mode is not None)
        self.data, self.render_mode = Seeds(integer("n_seeds", n_seeds, 1)), render_mode
        self.dialect = get_dialect("hermes", get_frame("unit"))
        self._show, self._success = show, success
        self._max_turns = integer("max_turns", max_turns, 1)
        space = getattr(self.foreign, "action_space", None)
        self._first, self._names = _numbered(space, actions)
        if read is None and isinstance(space, _NO_TEXT):
            raise ValueError(f"the environment takes {space}; expected texts or numbered actions. Pass `read`.")
        own = self._choice if self._names else str
        self._read = own if read is None else _found(read) if isinstance(read, str) else read
        self.system_prompt = self._own_words() if system_prompt is None else system_prompt
        self.observation_space = spaces.Dict({"images": ImagesSpace(), "text": TextSpace()})
        self.action_space = TextSpace()
        self._sample_id, self._return, self._n_turns, self._tokens = "", 0.0, 0, 0
        self._failures: Counter[str] = Counter()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode with a drawn sample, or that of `options={"sample_id": "7"}`; DataError for an unknown
        one."""
        super().reset(seed=seed)
        ids = self.data.sample_ids()
        chosen = (options or {}).get("sample_id")
        self._sample_id = ids[int(self.np_random.integers(len(ids)))] if chosen is None else str(chosen)
        if self._sample_id not in ids:
            raise DataError(f"got sample_id={represent(chosen)}; expected a seed from 0 to {len(ids) - 1}, as text.")
        self._return, self._n_turns, self._tokens, self._failures = 0.0, 0, 0, Counter()
        observation, _ = self.foreign.reset(seed=int(self._sample_id))
        return self._shown(observation), self._info({}) | {"system_prompt": self.system_prompt, "tools": []}

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Plays one message; NoTurn ends the episode."""
        if isinstance(action, NoTurn):
            return self._end({"text": "", "images": ()}, 0.0, {}, action.limit)
        self._n_turns += 1
        out = self._n_turns >= self._max_turns
        try:
            read = self._read(action)
        except ValueError as error:
            self._failures["malformed"] += 1
            seen: dict[str, Any] = {"text": f"Error: {error}", "images": ()}
            return self._end(seen, 0.0, {}, "max_turns") if out else (seen, 0.0, False, False, self._info({}))
        observation, reward, terminated, truncated, info = self.foreign.step(read)
        seen, paid = self._shown(observation), float(reward)
        self._return += paid
        if terminated or truncated or out:
            limit = None if terminated else str(info.get("truncated_by", "time")) if truncated else "max_turns"
            return self._end(seen, paid, info, limit, answer=action)
        return seen, paid, False, False, self._info({"reward": paid})

    def render(self) -> Any:
        """What the other environment renders."""
        return self.foreign.render()

    def close(self) -> None:
        self.foreign.close()

    def _end(
        self, seen: dict[str, Any], reward: float, said: Mapping[str, Any], limit: str | None, answer: str | None = None
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        success = said.get("success", said.get("is_success", self._return >= self._success))
        end = {"answer": answer, "score": self._return, "correct": bool(success), "target": None}
        info = self._info({"reward": reward}) | end | ({} if limit is None else {"truncated_by": limit})
        return seen, reward, limit is None, limit is not None, info

    def _info(self, reward_terms: dict[str, float]) -> dict[str, Any]:
        return {
            "sample_id": self._sample_id, "views": [], "results": [], "usage": {}, "failures": dict(self._failures),
            "duplicates": 0, "clipped": 0, "vision_tokens": self._tokens, "reward_terms": reward_terms,
        }  # fmt: skip

    def _shown(self, observation: Any) -> dict[str, Any]:
        parts = list(_parts(observation)) if self._show != "render" else []
        if self._show != "observation":
            parts.append(self.foreign.render())
        images = tuple(self._fitted(part) for part in parts if not isinstance(part, str))
        self._tokens += sum(image.shape[0] * image.shape[1] for image in images) // self._budget["size_multiple"] ** 2
        return {"text": "\n".join(part for part in parts if isinstance(part, str) and part), "images": images}

    def _fitted(self, picture: Any) -> np.ndarray:
        image = to_image(picture, "an image of the environment")
        size = fit_size(*image.size, **self._budget)
        return np.array(image if size == image.size else image.resize(size, Image.Resampling.LANCZOS))

    def _choice(self, message: str) -> int:
        """The number of the action that a message names."""
        answers = self.dialect.parse(message).answers
        example = self.dialect.render_answer(self._names[0])
        if len(answers) != 1:
            raise ValueError(f"the message has {len(answers)} actions; expected one, such as {example}.")
        name = answers[0].strip().lower()
        for number, known in enumerate(self._names):
            if name == known.lower():
                return self._first + number
        near = did_you_mean(name, self._names)
        raise ValueError(f'there is no action "{quote(name)}"; expected {", ".join(self._names)}.{near}')

    def _own_words(self) -> str:
        if not self._names:
            return "Each of your messages is an action."
        example = self.dialect.render_answer(self._names[0])
        return f"Choose an action in each message and write it as {example}. The actions: {', '.join(self._names)}."


class OpenEnvGame:
    """An environment behind an OpenEnv server, as one that `ForeignEnv` plays. It needs openenv.

    Args:
        base_url: of the server.
        field: of its action, the one that gets the message.
        action: its other fields.
        shown: fields of its observation that the model sees; by default all that the protocol did not add.
    """

    def __init__(
        self,
        base_url: str,
        *,
        field: str = "message",
        action: Mapping[str, Any] | None = None,
        shown: Sequence[str] | None = None,
    ) -> None:
        from openenv.core.generic_client import GenericEnvClient

        self._client = GenericEnvClient(base_url=base_url).sync().connect()
        self._field, self._action, self._fields = field, dict(action or {}), shown

    def reset(self, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """The observation of the server without what its protocol adds."""
        return self._seen(self._client.reset(seed=seed)), {}

    def step(self, message: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Sends a message."""
        result = self._client.step({**self._action, self._field: message})
        return self._seen(result), float(result.reward or 0.0), bool(result.done), False, {}

    def close(self) -> None:
        """Ends the session."""
        self._client.close()

    def _seen(self, result: Any) -> dict[str, Any]:
        found = {name: it for name, it in result.observation.items() if name not in ("metadata", "done", "reward")}
        return found if self._fields is None else {name: found[name] for name in self._fields}


def _numbered(space: gymnasium.Space | None, actions: Sequence[str] | None) -> tuple[int, tuple[str, ...]]:
    """The first number of a discrete action space and the names of its actions; no names for any other space."""
    if not isinstance(space, spaces.Discrete):
        return 0, ()
    first, n = int(space.start), int(space.n)
    if actions is not None and len(actions) != n:
        raise ValueError(f"got {len(actions)} actions; expected {n}, the names of {space}.")
    return first, tuple(actions or map(str, range(first, first + n)))


def _made(env: str | gymnasium.Env, kwargs: dict[str, Any], *, renders: bool) -> Any:
    """What has `reset` and `step`."""
    if not isinstance(env, str):
        return env
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if renders else {}
    module, _, name = env.partition(":")
    if name and "/" not in name and "-v" not in name:
        return getattr(importlib.import_module(module), name)(**kwargs, **mode)
    return gymnasium.make(env, **kwargs, **mode)


def _found(path: str) -> Callable[[str], Any]:
    module, _, name = path.partition(":")
    return cast(Callable[[str], Any], getattr(importlib.import_module(module), name))


def _parts(observation: Any) -> Iterator[Any]:
    """The texts and pictures of an observation of any build, in its order. Data URIs of images count as pictures; of
    chat messages what they say counts."""
    match observation:
        case {"role": str(), "content": content}:
            yield from _parts(content)
        case {"type": "text", "text": text}:
            yield str(text)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            yield from _parts(url)
        case str() if observation.startswith("data:image/"):
            yield read_image(observation)
        case str():
            yield observation
        case Image.Image():
            yield observation
        case np.ndarray() if observation.dtype == np.uint8 and observation.ndim == 3:
            yield observation
        case Mapping():
            for value in observation.values():
                yield from _parts(value)
        case list() | tuple():
            for value in observation:
                yield from _parts(value)
        case None:
            return
        case _:
            yield str(observation)


gymnasium.register("pxr/Foreign-v0", entry_point="pxr_agents.foreign:ForeignEnv")
