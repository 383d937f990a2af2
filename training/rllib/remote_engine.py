"""The engines of an `EngineGroup` as one `Engine`, in any process: which of them a conversation goes to, and what
happens to what one owed that died."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError

from pxr_agents.engines.vllm import EngineError, StaleWeightsError
from pxr_agents.types import CONTEXT, Completion, Request, Sampling

# Seconds before a call goes out again whose engine died or waits for weights.
RETRY_AFTER = 0.5
# Engines that may die of (or during) one request before it is given up.
MAX_DEATHS = 3
# A client's conversations: so many more on one engine than on another, and a group is no longer kept together.
FAR_AHEAD = 16
# Prompts whose engine a client remembers.
KNOWN_PROMPTS = 1024


class Router:
    """Which engine a conversation belongs to: the one it began with, which has its prefix in its cache.

    A new one goes where the last one with the same prompt went, so that the prompt and its images are processed once
    for a group; unless that engine has `FAR_AHEAD` conversations more than the one that has the fewest. Other prompts
    go there; of equals `first` comes first, so that clients begin with different engines.
    """

    def __init__(self, num_engines: int, first: int = 0) -> None:
        self._order = [(first + k) % num_engines for k in range(num_engines)]
        self._homes: dict[int, int] = {}
        self._prompts: dict[Hashable, int] = {}

    def route(self, key: int, avoid: Collection[int] = (), *, prompt: Hashable = None) -> int:
        """Its own engine, or from now on another one if its own is to be avoided."""
        candidates = [engine for engine in self._order if engine not in avoid] or self._order
        if self._homes.get(key) not in candidates:
            self._homes.pop(key, None)
            crowd = Counter(self._homes.values())
            fewest = min(candidates, key=lambda engine: crowd[engine])
            home = self._prompts.pop(prompt, fewest)
            if home not in candidates or crowd[home] >= crowd[fewest] + FAR_AHEAD:
                home = fewest
            self._homes[key] = home
            if prompt is not None:
                self._prompts[prompt] = home
                if len(self._prompts) > KNOWN_PROMPTS:
                    del self._prompts[next(iter(self._prompts))]
        return self._homes[key]

    def forget(self, key: int) -> None:
        self._homes.pop(key, None)


@dataclass(frozen=True, slots=True)
class EngineHandles:
    """What a client needs to reach the engines of a group, in any process: the checkpoint, for its tokenizer, the
    actors, and the seconds without any completion after which it gives up."""

    path: str
    actors: tuple[Any, ...]
    timeout: float


@dataclass(slots=True)
class _Turn:
    """A request under way."""

    request: Request
    sampling: Sampling
    engine: int = -1
    deaths: int = 0
    not_before: float = 0.0


class RemoteEngine:
    """An `Engine` whose work is done by the actors of an `EngineGroup`, with weights of this version or newer; `first`
    as for `Router`.

    Attributes:
        broken: conversations that ended (as if their context were full) because an engine raised an `EngineError`, with
            what it said.
    """

    def __init__(self, handles: EngineHandles, *, weights_version: int = 0, first: int = 0) -> None:
        self._handles = handles
        self._router = Router(len(handles.actors), first)
        self._in_flight: dict[ray.ObjectRef, _Turn] = {}
        self._waiting: list[_Turn] = []
        self._images: dict[int, ray.ObjectRef] = {}
        self._dead: dict[int, ray.ObjectRef] = {}
        self.weights_version = weights_version
        self.broken: dict[int, str] = {}

    def submit(self, request: Request, sampling: Sampling) -> None:
        # The engine finds positions by itself. Every image goes to the object store once.
        light = replace(
            request, positions=np.zeros((3, 0), np.int32), images=[self._image(image) for image in request.images]
        )
        self._send(_Turn(light, sampling))

    def collect(self) -> list[tuple[int, Completion]]:
        """Whatever is finished, after waiting for one turn at least; nothing if nothing was submitted.

        What an engine owed that died is asked of another one, or of the same one once it is up again if it is alone.

        Raises:
            EngineError: nothing was finished within the timeout.
            ray.exceptions.RayTaskError: what a request itself made an engine raise (it does not fit, say).
        """
        deadline = time.monotonic() + self._handles.timeout
        while self._in_flight or self._waiting:
            self._revive()
            self._send_waiting()
            refs = list(self._in_flight)
            if refs:
                ray.wait(refs, timeout=RETRY_AFTER)
                ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
                completions = [done for ref in ready if (done := self._take(ref)) is not None]
                if completions:
                    return completions
            else:
                time.sleep(RETRY_AFTER / 10)
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{len(self._in_flight) + len(self._waiting)} turns are under way and none was finished within "
                    f"engine.turn_timeout={self._handles.timeout:g} s. Engines hang, or do not get weights of version "
                    f"{self.weights_version}"
                )
        return []

    def forget(self, key: int) -> None:
        self._router.forget(key)

    def close(self) -> None:
        """Take back what is under way; nothing of it will be collected."""
        for ref in self._in_flight:
            ray.cancel(ref)

    def _image(self, image: np.ndarray) -> ray.ObjectRef:
        key = id(image)
        if key not in self._images:
            self._images[key] = ray.put(image)
            weakref.finalize(image, self._images.pop, key, None)
        return self._images[key]

    def _send(self, turn: _Turn) -> None:
        prompt = hash((tuple(turn.request.ids), *turn.request.images))
        turn.engine = self._router.route(turn.request.key, self._dead, prompt=prompt)
        actor = self._handles.actors[turn.engine]
        ref = actor.complete.remote(turn.request, turn.sampling, self.weights_version)
        self._in_flight[ref] = turn

    def _revive(self) -> None:
        """Count those engines again that answer after a restart; the question alone makes them start."""
        for engine, answer in list(self._dead.items()):
            if ray.wait([answer], timeout=0)[0]:
                try:
                    ray.get(answer)
                    del self._dead[engine]
                except RayActorError:
                    self._dead[engine] = self._handles.actors[engine].check_health.remote()

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if turn.not_before > time.monotonic():
                self._waiting.append(turn)
            else:
                self._send(turn)

    def _take(self, ref: ray.ObjectRef) -> tuple[int, Completion] | None:
        """The completion of a finished call; None if it has to be asked for again."""
        turn = self._in_flight.pop(ref)
        try:
            completion: Completion = ray.get(ref)
        except StaleWeightsError:
            pass
        except RayActorError as error:
            if turn.engine not in self._dead:
                # Only the first to notice counts it; calls to an engine while it starts fail, too, and are no deaths.
                self._dead[turn.engine] = self._handles.actors[turn.engine].check_health.remote()
                turn.deaths += 1
            if turn.deaths >= MAX_DEATHS:
                return self._break(turn, f"{turn.deaths} engines died of one conversation: {error}")
        except EngineError as error:
            return self._break(turn, str(getattr(error, "cause", error)))
        else:
            return turn.request.key, completion
        turn.not_before = time.monotonic() + RETRY_AFTER
        self._waiting.append(turn)
        return None

    def _break(self, turn: _Turn, why: str) -> tuple[int, Completion]:
        self.broken[turn.request.key] = why
        version = self.weights_version
        return turn.request.key, Completion(token_ids=(), logprobs=(), finish_reason=CONTEXT, weights_version=version)
