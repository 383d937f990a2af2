"""What engines share: where a turn ends, whether a conversation has room for another one, and which engine it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pxr_agents.chat import ChatFormat
from pxr_agents.types import CONTEXT, Completion, LocalEngine, Request, Sampling
from pxr_env.tasks import import_function

if TYPE_CHECKING:
    from pxr_agents.vlm import VLM


class TurnEnd:
    """Whether the newest id ends a turn: the stop id does, and one that completes a stop string.

    Args:
        sampling: with the stop strings, and the ids that are forced, in which none is looked for.
    """

    def __init__(self, chat: ChatFormat, sampling: Sampling) -> None:
        self._chat, self._strings, self._n_forced = chat, sampling.stop, len(sampling.forced)
        # An id stands for one byte at least.
        self._window = max((len(string.encode()) for string in sampling.stop), default=0)

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether the turn with these ids is over; it was not before the last of them."""
        if ids[-1] == self._chat.stop_id:
            return True
        if not self._strings:
            return False
        tail = self._chat.decode(ids[max(self._n_forced, len(ids) - self._window) :])
        return any(string in tail for string in self._strings)


def without_room(
    request: Request, sampling: Sampling, *, max_model_len: int, images_per_prompt: int | None = None, version: int = 0
) -> Completion | None:
    """The empty completion of a conversation that has no room for a turn of `max_tokens`; None if it has.

    Servers refuse by the same rule, so that an episode ends at the same turn everywhere. ValueError if no conversation
    has room for such a turn.
    """
    if sampling.max_tokens >= max_model_len:
        raise ValueError(
            f"got a turn of max_tokens={sampling.max_tokens} where there is room for max_model_len={max_model_len} "
            "ids, conversation included. Make turns shorter, or start the engine with a larger max_model_len."
        )
    n_images = 0 if images_per_prompt is None else len(request.images) - images_per_prompt
    if len(request.ids) + sampling.max_tokens <= max_model_len and n_images <= 0:
        return None
    return Completion(token_ids=(), logprobs=(), finish_reason=CONTEXT, weights_version=version)


def local_engine(kind: str, vlm: VLM) -> LocalEngine:
    """The engine around weights in this process: "transformers", or what "module:factory" makes of them.

    Raises:
        ValueError: the module cannot be imported, or has no such function.
    """
    if kind == "transformers":
        from pxr_agents.engines.transformers import TransformersEngine

        return TransformersEngine(vlm)
    engine: LocalEngine = import_function(kind)(vlm)
    return engine
