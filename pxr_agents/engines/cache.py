"""The KV cache of a batch of conversations that come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from pxr_agents.vlm import VLM


@dataclass(slots=True)
class ConversationCache:
    """B conversations with C cached columns; row k belongs to conversation `keys[k]`.

    Attributes:
        kv: the model's keys and values.
        mask: (B, C) bool, the columns that hold an id of the row. Rows of unequal length leave gaps, which is
            harmless: masked columns are never attended to, and positions are always given explicitly.
        ids_seen, images_seen: how much of each conversation is cached.
    """

    keys: list[int]
    kv: DynamicCache
    mask: Tensor
    ids_seen: list[int]
    images_seen: list[int]
    config: Any

    @classmethod
    def empty(cls, keys: list[int], vlm: VLM) -> ConversationCache:
        config = vlm.model.config.text_config
        mask = torch.zeros(len(keys), 0, dtype=torch.bool, device=vlm.device)
        return cls(keys, DynamicCache(config=config), mask, [0] * len(keys), [0] * len(keys), config)

    def grow(self, new: Tensor) -> Tensor | None:
        """Announce (B, n) columns about to be cached; returns the attention mask (B, C + n), None if all ones.

        Without gaps the causal mask is all there is, and attention takes its fast path.
        """
        self.mask = torch.cat([self.mask, new], 1)
        return None if bool(self.mask.all()) else self.mask.long()

    def take(self, rows: Sequence[int]) -> ConversationCache:
        """The given rows (repeats allowed); the cache itself if that is all of them in order."""
        if list(rows) == list(range(len(self.keys))):
            return self
        index = torch.tensor(rows, device=self.mask.device)
        kv = DynamicCache(config=self.config)
        for layer, (keys, values) in enumerate(self._layers()):
            kv.update(keys[index], values[index], layer)
        return ConversationCache(
            [self.keys[r] for r in rows],
            kv,
            self.mask[index],
            [self.ids_seen[r] for r in rows],
            [self.images_seen[r] for r in rows],
            self.config,
        )

    @staticmethod
    def merge(caches: Sequence[ConversationCache]) -> ConversationCache:
        """All rows of several caches in one; shorter ones get a gap at the front."""
        first = caches[0]
        if len(caches) == 1:
            return first
        columns = max(cache.mask.shape[1] for cache in caches)
        gaps = [columns - cache.mask.shape[1] for cache in caches]
        kv = DynamicCache(config=first.config)
        for layer, parts in enumerate(zip(*(cache._layers() for cache in caches), strict=True)):
            padded = [[F.pad(x, (0, 0, gap, 0)) for x in part] for part, gap in zip(parts, gaps, strict=True)]
            kv.update(torch.cat([keys for keys, _ in padded]), torch.cat([values for _, values in padded]), layer)
        return ConversationCache(
            [key for cache in caches for key in cache.keys],
            kv,
            torch.cat([F.pad(cache.mask, (gap, 0)) for cache, gap in zip(caches, gaps, strict=True)]),
            [n for cache in caches for n in cache.ids_seen],
            [n for cache in caches for n in cache.images_seen],
            first.config,
        )

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        layers: list[Any] = self.kv.layers
        return [(layer.keys, layer.values) for layer in layers if layer.keys is not None]
