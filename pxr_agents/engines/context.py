"""Whether a conversation has room for another turn."""

from __future__ import annotations

from pxr_agents.types import CONTEXT, Completion, Request, Sampling


def without_room(
    request: Request, sampling: Sampling, *, max_model_len: int, images_per_prompt: int | None = None, version: int = 0
) -> Completion | None:
    """The empty completion of a conversation that has no room for a turn of `max_tokens`; None if it has.

    Servers refuse by the same rule, so that an episode ends at the same turn everywhere.

    Args:
        request, sampling: what was asked for.
        max_model_len: most ids in a conversation.
        images_per_prompt: most images in one; None for no limit.
        version: of the weights.

    Raises:
        ValueError: no conversation has room for such a turn.
    """
    if sampling.max_tokens >= max_model_len:
        raise ValueError(
            f"A turn of max_tokens={sampling.max_tokens} came; the engine has room for max_model_len={max_model_len} "
            f"ids, conversation included. Make turns shorter, or start the engine with a larger max_model_len."
        )
    n_images = 0 if images_per_prompt is None else len(request.images) - images_per_prompt
    if len(request.ids) + sampling.max_tokens <= max_model_len and n_images <= 0:
        return None
    return Completion(token_ids=(), logprobs=(), finish_reason=CONTEXT, weights_version=version)
