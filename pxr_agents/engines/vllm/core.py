"""One vLLM engine, asynchronous: requests to completions, and new weights. The only module that imports vLLM.

Everything of `AsyncCore` has to be called in one event loop. `engine.py` makes it an `Engine` in this process;
a Ray actor calls it directly.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from vllm import AsyncEngineArgs, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from pxr_agents.checkpoint import find_checkpoint, published_weights, read_checkpoint
from pxr_agents.engines import without_room
from pxr_agents.engines.vllm.arguments import NO_NEW_EXPERTS, DeadEngineError, EngineError, StartArguments
from pxr_agents.engines.vllm.inputs import vllm_prompt
from pxr_agents.engines.vllm.shared import SharedReload, shared_weights
from pxr_agents.types import Completion, Request, Sampling


class Token(NamedTuple):
    """A sampled or forced id, its log-probability, and the version of the weights that gave it."""

    id: int
    logprob: float
    version: int


class CacheCounter(StatLoggerBase):
    """Adds up vLLM's own counts of what its caches were asked for and had.

    "prefix_queries" and "prefix_hits" count ids of prompts, "image_queries" and "image_hits" images.
    """

    def __init__(self, vllm_config: Any = None, engine_index: int = 0) -> None:
        self.counts = dict.fromkeys(("prefix_queries", "prefix_hits", "image_queries", "image_hits"), 0)

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if scheduler_stats is not None:
            self.counts["prefix_queries"] += scheduler_stats.prefix_cache_stats.queries
            self.counts["prefix_hits"] += scheduler_stats.prefix_cache_stats.hits
        if mm_cache_stats is not None:
            self.counts["image_queries"] += mm_cache_stats.queries
            self.counts["image_hits"] += mm_cache_stats.hits

    def log_engine_initialized(self) -> None:
        return


class AsyncCore:
    """A running vLLM engine on a checkpoint, a directory or a hub name; one that is to `sleep` needs `sleep_mode`."""

    def __init__(self, path: str | Path, arguments: StartArguments, *, sleep_mode: bool = False) -> None:
        self.checkpoint = read_checkpoint(find_checkpoint(path, weights=True))
        self.weights_version = 0
        self.cache_counter = CacheCounter()
        self._images_per_prompt = arguments.images_per_prompt
        self._ids = itertools.count()
        self._broken: BaseException | None = None
        self._asleep = False
        self._llm = AsyncLLM.from_engine_args(
            _engine_args(str(self.checkpoint.folder), arguments, sleep_mode),
            stat_loggers=[lambda config, index: self.cache_counter],
        )
        self.max_model_len = int(self._llm.model_config.max_model_len)

    async def start(self) -> None:
        """Let vLLM know the version of the weights; completions are labelled with it from now on."""
        await self._llm.update_weight_version(str(self.weights_version))

    async def complete(self, request: Request, sampling: Sampling) -> Completion:
        """Sample one turn; an empty one of a conversation that has no room for it.

        Raises:
            ValueError: the request does not fit the engine.
            EngineError: the engine died, or broke a promise that is checked here.
        """
        if self._broken is not None:
            raise EngineError(f"New weights did not arrive whole ({self._broken!r}). Start the engine again.")
        forced = self._check(sampling)
        full = without_room(
            request,
            sampling,
            max_model_len=self.max_model_len,
            images_per_prompt=self._images_per_prompt,
            version=self.weights_version,
        )
        if full is not None:
            return full
        opening, (rest, finish_reason) = await asyncio.gather(
            asyncio.gather(*(self._score(request, forced[:k], token, sampling) for k, token in enumerate(forced))),
            self._sample(request, forced, sampling),
        )
        tokens = [*opening, *rest]
        versions = {token.version for token in tokens}
        if len(versions) != 1 or finish_reason not in ("stop", "length"):
            raise EngineError(
                f"vLLM finished a turn with {finish_reason!r} and weights of versions {sorted(versions)}; expected "
                f"'stop' or 'length' and one version. Nothing of this turn may be trained on."
            )
        return Completion(
            token_ids=tuple(token.id for token in tokens),
            logprobs=tuple(token.logprob for token in tokens),
            finish_reason="stop" if finish_reason == "stop" else "length",
            weights_version=versions.pop(),
        )

    def _check(self, sampling: Sampling) -> tuple[int, ...]:
        """The forced ids that fit into the turn, after checking what vLLM would change silently."""
        if not (sampling.temperature == 0 or 0.01 <= sampling.temperature <= 2):
            raise ValueError(f"got temperature={sampling.temperature}; vLLM samples with 0 (greedy) or 0.01 to 2")
        forced = sampling.forced[: sampling.max_tokens]
        stop = self.checkpoint.chat.stop_id
        return forced[: forced.index(stop) + 1] if stop in forced else forced

    def _params(self, sampling: Sampling, *, stop: tuple[str, ...] = (), **changes: Any) -> SamplingParams:
        """What the policy may sample and how; nothing of it comes from the checkpoint's generation configuration."""
        return SamplingParams(
            temperature=sampling.temperature,
            logit_bias=dict.fromkeys(self.checkpoint.banned_ids, float("-inf")),
            stop_token_ids=[self.checkpoint.chat.stop_id],
            ignore_eos=True,
            # Text is needed only to find stop strings in it.
            detokenize=bool(stop),
            stop=list(stop),
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **changes,
        )

    async def _sample(self, request: Request, forced: tuple[int, ...], sampling: Sampling) -> tuple[list[Token], str]:
        """What the model adds to the forced ids, and why it ended."""
        if forced[-1:] == (self.checkpoint.chat.stop_id,):
            return [], "stop"
        if len(forced) == sampling.max_tokens:
            return [], "length"
        params = self._params(
            sampling, stop=sampling.stop, max_tokens=sampling.max_tokens - len(forced), seed=request.seed, logprobs=0
        )
        output, version = await self._generate(replace(request, ids=[*request.ids, *forced]), params)
        tokens = [
            Token(token, entry[token].logprob, version)
            for token, entry in zip(output.token_ids, output.logprobs, strict=True)
        ]
        return tokens, str(output.finish_reason)

    async def _score(self, request: Request, before: tuple[int, ...], token: int, sampling: Sampling) -> Token:
        """The forced id that follows `before`, with the log-probability the model would have sampled it with.

        vLLM's prompt log-probabilities are those of the model without mask and temperature, and make it process the
        whole prompt again. What one more sampled id could have been is exact, and the prompt is in the cache.
        """
        params = self._params(sampling, max_tokens=1, seed=0, logprob_token_ids=[token])
        output, version = await self._generate(replace(request, ids=[*request.ids, *before]), params)
        return Token(token, output.logprobs[0][token].logprob, version)

    async def _generate(self, request: Request, params: SamplingParams) -> tuple[Any, int]:
        """vLLM's output for a request and the version of the weights that sampled it."""
        prompt: Any = vllm_prompt(request, self.checkpoint.chat)
        try:
            # With FINAL_ONLY there is one.
            results = [result async for result in self._llm.generate(prompt, params, f"turn-{next(self._ids)}")]
        except EngineDeadError as error:
            raise DeadEngineError(
                f"vLLM's process died while it completed conversation {request.key}: {error}"
            ) from error
        [result] = results
        read = list(result.prompt_token_ids or ())
        if read != list(request.ids):
            raise EngineError(
                f"vLLM read {len(read)} ids where the conversation has {len(request.ids)}; expected "
                f"the same ids. Did its processor resize an image?"
            )
        [output] = result.outputs
        spans = output.weight_versions or []
        if len(spans) != 1:
            raise EngineError(
                f"The weights changed while conversation {request.key} was completed: {spans}; expected one version"
            )
        return output, int(spans[0].version)

    async def reload(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Replace the weights by a whole state dict, under the names transformers gives its parameters.

        Turns under way are finished with the old weights before, and turns that are asked for meanwhile wait for the
        new ones. Everything computed with the old weights is dropped.

        Raises:
            EngineError: the model is a mixture of experts on a CPU.
        """
        if self.checkpoint.has_experts and current_platform.is_cpu():
            raise EngineError(NO_NEW_EXPERTS)
        published = dict(published_weights(self.checkpoint.config.model_type, weights.items()))
        with shared_weights(published) as places, self._broken_if_this_fails():
            await self._make_ready()
            await self._llm.collective_rpc("reload_shared", args=(places,))
            await self._resume(version)

    async def sleep(self) -> None:
        """Finish the turns under way, and leave the GPU's memory to others until new weights come: weights and caches
        are dropped. Turns that are asked for meanwhile wait."""
        with self._broken_if_this_fails():
            await self._llm.sleep(level=2, mode="wait")
            self._asleep = True

    async def open_transfer(self, init_info: dict[str, Any]) -> None:
        """Connect to a learner that sends weights from GPU to GPU."""
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    async def begin_transfer(self) -> None:
        """Finish the turns under way and make ready for new weights; what follows waits until `end_transfer`."""
        with self._broken_if_this_fails():
            await self._make_ready()
            await self._llm.start_weight_update()

    async def receive_transfer(self, update_info: Any) -> None:
        """Receive weights; returns when they are loaded."""
        with self._broken_if_this_fails():
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info=update_info))

    async def end_transfer(self, version: int) -> None:
        """All weights came: they are version `version`."""
        with self._broken_if_this_fails():
            await self._llm.finish_weight_update()
            await self._resume(version)

    @contextmanager
    def _broken_if_this_fails(self) -> Iterator[None]:
        """Nobody may sample with weights that are half old and half new."""
        try:
            yield
        except BaseException as error:
            self._broken = error
            raise

    async def _make_ready(self) -> None:
        """For new weights: no turn is under way, and there is memory for them."""
        if self._asleep:
            await self._llm.wake_up(tags=["weights"])
        else:
            await self._llm.pause_generation(mode="wait", clear_cache=True)

    async def _resume(self, version: int) -> None:
        await self._llm.reset_prefix_cache()
        await self._llm.reset_mm_cache()
        await self._llm.reset_encoder_cache()
        await self._llm.update_weight_version(str(version))
        if self._asleep:
            await self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        await self._llm.resume_generation()
        self.weights_version = version

    async def check_health(self) -> None:
        """Returns if vLLM's process answers, and not before it does; raises DeadEngineError if it is gone."""
        try:
            await self._llm.check_health()
            # What it knows of its process is no older than its last answer. This asks for one.
            await self._llm.is_sleeping()
        except EngineDeadError as error:
            raise DeadEngineError(f"vLLM's process died: {error}") from error

    def shutdown(self) -> None:
        """Stop vLLM. An idle process of vLLM's does not answer a polite request, so it gets little time."""
        self._llm.shutdown(timeout=1)
        # Or it would shut down once more while the interpreter does.
        del self._llm


def _engine_args(path: str, arguments: StartArguments, sleep_mode: bool) -> AsyncEngineArgs:
    transfer = arguments.weight_transfer
    sizes = ("kv_cache_memory_bytes", "max_model_len", "max_num_batched_tokens", "block_size")
    # 0 leaves one to vLLM.
    given: dict[str, Any] = {name: size for name in sizes if (size := getattr(arguments, name))}
    return AsyncEngineArgs(
        model=path,
        dtype=arguments.dtype,
        seed=arguments.seed,
        tensor_parallel_size=arguments.tensor_parallel_size,
        worker_extension_cls=f"{SharedReload.__module__}.{SharedReload.__qualname__}",
        # An engine lives on one node.
        distributed_executor_backend="mp" if arguments.tensor_parallel_size > 1 else None,
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        max_num_seqs=arguments.max_num_seqs,
        enforce_eager=arguments.enforce_eager,
        enable_prefix_caching=True,
        limit_mm_per_prompt={"image": arguments.images_per_prompt, "video": 0},
        # The environment shows images at a size the model reads as it is.
        mm_processor_kwargs={"do_resize": False},
        # After the mask and the temperature: those of the distribution that was sampled from.
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        disable_log_stats=True,
        enable_sleep_mode=sleep_mode,
        weight_transfer_config=None if transfer == "none" else WeightTransferConfig(backend=transfer),
        **given,
    )
