"""Attention of vision encoders with few calls.

Qwen2.5-VL attends within windows of 8 x 8 patches, and transformers calls its attention once for every window of every
layer: thousands of kernels for a large image. On a GPU in half precision, `batched_attention` is one call per layer of
torch's own kernel for sequences of varying length; elsewhere neighbouring windows of equal size share a call.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

#: Its name in transformers. Encoders hand the bounds of their windows to what is called "flash", and to nothing else.
BATCHED = "batched_flash"


def batched_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention within each of n sequences that are packed one after the other.

    Args:
        module: the layer; not used.
        query, key, value: (1, heads, N, d), the sequences packed along N.
        attention_mask: not used: a sequence attends to all of itself.
        kwargs: `cu_seq_lens_q` (n + 1,), bounds of the sequences; `max_length_q`, the longest; `scaling`.

    Returns:
        (1, N, heads, d), and no weights.
    """
    bounds, scale = kwargs["cu_seq_lens_q"], kwargs["scaling"]
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        longest = kwargs["max_length_q"]
        q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale)
        return cast(Tensor, out)[None], None
    runs = [(length, len(list(equal))) for length, equal in groupby(bounds.diff().tolist())]
    split = (states[0].split([length * n for length, n in runs], dim=1) for states in (query, key, value))
    attended = []
    for (length, n), *states in zip(runs, *split, strict=True):
        # (heads, n length, d) as (n, heads, length, d), without a copy
        q, k, v = (state.unflatten(1, (n, length)).transpose(0, 1) for state in states)
        attended.append(scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)[None], None


AttentionInterface.register(BATCHED, batched_attention)
