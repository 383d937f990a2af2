"""Batched multi-turn generation with a transformers model, in this process.

Everything submitted is generated in lock-step. The KV cache of a conversation is kept across its turns, so
every id and every image is processed once. Conversations that begin alike (the rollouts of a group) are
prefilled once and copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from pxr_agents.engines import TurnEnd, without_room
from pxr_agents.types import Completion, Request, Sampling
from pxr_agents.vlm import VLM, split_by_length


@dataclass(slots=True)
class ConversationCache:
    """B conversations with C cached columns. Rows of unequal length leave gaps, which is harmless: masked columns are
    never attended to, and positions are always given explicitly.
    """

    keys: list[int]  # of the conversation in each row
    kv: DynamicCache
    mask: Tensor  # (B, C) bool, the columns that hold an id of the row
    ids_seen: list[int]  # how much of each conversation is cached
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


class TransformersEngine:
    """The `Engine` for CPUs and for single GPUs. Weights may be changed in place; then call `set_weights_version`.

    `max_model_len` is the most ids in a conversation, vision tokens included; 0 for what the checkpoint allows.
    """

    def __init__(self, vlm: VLM, *, max_model_len: int = 0) -> None:
        self.vlm = vlm
        self.weights_version = 0
        most = int(vlm.model.config.text_config.max_position_embeddings)
        if not 0 <= max_model_len <= most:
            raise ValueError(
                f"got max_model_len={max_model_len}; the checkpoint allows {most} at most, 0 stands for it"
            )
        self.max_model_len = max_model_len or most
        self._submitted: list[tuple[Request, Sampling]] = []
        self._full: list[tuple[int, Completion]] = []
        self._caches: list[ConversationCache] = []
        self._forgotten: set[int] = set()

    def set_weights_version(self, version: int) -> None:
        """The weights were replaced: everything computed with the old ones is dropped."""
        self.weights_version = version
        self._caches.clear()
        self._forgotten.clear()

    def submit(self, request: Request, sampling: Sampling) -> None:
        full = without_room(request, sampling, max_model_len=self.max_model_len, version=self.weights_version)
        if full is None:
            self._submitted.append((request, sampling))
        else:
            self._full.append((request.key, full))

    def forget(self, key: int) -> None:
        self._forgotten.add(key)

    @torch.inference_mode()
    def collect(self) -> list[tuple[int, Completion]]:
        """Generate a turn for every submitted conversation."""
        submitted, self._submitted = self._submitted, []
        was_training = self.vlm.model.training
        self.vlm.model.eval()
        by_sampling: dict[Sampling, dict[int, Request]] = {}
        for request, sampling in submitted:
            # Forced or not, conversations are generated together: that is only another way to choose an id.
            by_sampling.setdefault(replace(sampling, forced=()), {})[request.key] = request
        forced = {request.key: sampling.forced for request, sampling in submitted}
        completions, self._full = self._full, []
        for sampling, requests in by_sampling.items():
            for cache, hidden in self._prefill(requests):
                completions += self._decode(cache, hidden, requests, sampling, forced)
        self.vlm.model.train(was_training)
        return completions

    def _prefill(self, requests: dict[int, Request]) -> list[tuple[ConversationCache, Tensor]]:
        """Bring caches up to the last id of every conversation; with each the hidden states (B, d) there."""
        waiting, resumed, idle = dict(requests), [], []
        for cache in self._caches:
            # A key that was forgotten may name another conversation by now.
            kept = [(r, key) for r, key in enumerate(cache.keys) if key not in self._forgotten]
            rows = [r for r, key in kept if key in waiting]
            rest = [r for r, key in kept if key not in waiting]
            if rows:
                resumed.append(cache.take(rows))
            if rest:
                idle.append(cache.take(rest))
        self._caches = idle
        self._forgotten.clear()
        ready = []
        if resumed:
            cache = ConversationCache.merge(resumed)
            ready.append(self._extend(cache, [waiting.pop(key) for key in cache.keys]))
        if waiting:
            alike: dict[tuple[Any, ...], list[Request]] = {}
            for request in waiting.values():
                alike.setdefault((tuple(request.ids), *map(id, request.images)), []).append(request)
            leaders = [group[0] for group in alike.values()]
            cache = ConversationCache.empty([request.key for request in leaders], self.vlm)
            cache, hidden = self._extend(cache, leaders)
            followers = {group[0].key: group for group in alike.values()}
            copies = [row for row, key in enumerate(cache.keys) for _ in followers[key]]
            keys = [request.key for key in cache.keys for request in followers[key]]
            cache = cache.take(copies)
            cache.keys = keys
            ready.append((cache, hidden[torch.tensor(copies, device=hidden.device)]))
        return ready

    def _extend(self, cache: ConversationCache, requests: Sequence[Request]) -> tuple[ConversationCache, Tensor]:
        """Process what is new in each conversation; returns the hidden state (B, d) of each one's last id.

        Conversations with much that is new are processed apart from those with little, and joined again, so that
        one long reply does not pad all the others. Rows may change their order.
        """
        new = [len(request.ids) - seen for request, seen in zip(requests, cache.ids_seen, strict=True)]
        pieces, hidden = [], []
        for rows in split_by_length(new, slack=2.0):
            pieces.append(cache.take(rows))
            hidden.append(self._extend_alike(pieces[-1], [requests[r] for r in rows]))
        return ConversationCache.merge(pieces), torch.cat(hidden)

    def _extend_alike(self, cache: ConversationCache, requests: Sequence[Request]) -> Tensor:
        """`_extend` for conversations with about as many new ids each."""
        new = [len(request.ids) - seen for request, seen in zip(requests, cache.ids_seen, strict=True)]
        ids = np.zeros((len(new), max(new)), np.int64)
        positions = np.zeros((3, len(new), max(new)), np.int64)
        images: list[np.ndarray] = []
        for r, (request, n) in enumerate(zip(requests, new, strict=True)):
            ids[r, :n] = request.ids[-n:]
            positions[:, r, :n] = request.positions[:, -n:]
            images += request.images[cache.images_seen[r] :]
        device = self.vlm.device
        lengths = torch.tensor(new, device=device)
        hidden = self.vlm.hidden_states(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(positions).to(device),
            images,
            attention_mask=cache.grow(torch.arange(max(new), device=device)[None] < lengths[:, None]),
            cache=cache.kv,
        )
        cache.ids_seen = [len(request.ids) for request in requests]
        cache.images_seen = [len(request.images) for request in requests]
        return hidden[torch.arange(len(new), device=device), lengths - 1]

    def _decode(
        self,
        cache: ConversationCache,
        hidden: Tensor,
        requests: dict[int, Request],
        sampling: Sampling,
        forced: dict[int, tuple[int, ...]],
    ) -> list[tuple[int, Completion]]:
        """Sample one turn for every row. Rows that stop are parked, the others go on without them.

        The last sampled id of a turn is not cached: it is part of what is new when the conversation goes on.
        """
        ids: dict[int, list[int]] = {key: [] for key in cache.keys}
        logprobs: dict[int, list[float]] = {key: [] for key in cache.keys}
        position = torch.tensor([int(requests[key].positions[:, -1].max()) + 1 for key in cache.keys])
        position = position.to(hidden.device)
        ends = {key: TurnEnd(self.vlm.chat, replace(sampling, forced=forced[key])) for key in cache.keys}
        noise = {key: np.random.Generator(np.random.Philox(requests[key].seed)) for key in cache.keys}
        for n in range(1, sampling.max_tokens + 1):
            given = {r: forced[key][n - 1] for r, key in enumerate(cache.keys) if n <= len(forced[key])}
            # One number an id, given or not, whoever else is in the batch.
            points = [noise[key].random() for key in cache.keys]
            drawn, drawn_logprobs = self._draw(hidden, sampling.temperature, points, given)
            done: list[int] = []
            going: list[int] = []
            for r, (token, logprob) in enumerate(zip(drawn.tolist(), drawn_logprobs.tolist(), strict=True)):
                key = cache.keys[r]
                ids[key].append(token)
                logprobs[key].append(logprob)
                ended = n == sampling.max_tokens or ends[key].reached(ids[key])
                (done if ended else going).append(r)
            if done:
                self._caches.append(cache.take(done))
            if not going:
                break
            if done:
                cache, index = cache.take(going), torch.tensor(going, device=drawn.device)
                drawn, position = drawn[index], position[index]
            hidden = self._step(cache, drawn, position)
            position = position + 1
        return [
            (
                key,
                Completion(
                    token_ids=tuple(ids[key]),
                    logprobs=tuple(logprobs[key]),
                    finish_reason="stop" if ends[key].reached(ids[key]) else "length",
                    weights_version=self.weights_version,
                ),
            )
            for key in ids
        ]

    def _step(self, cache: ConversationCache, tokens: Tensor, position: Tensor) -> Tensor:
        """Feed one token a row; returns the hidden states (B, d)."""
        ones = torch.ones(len(tokens), 1, dtype=torch.bool, device=tokens.device)
        hidden = self.vlm.hidden_states(
            tokens[:, None],
            position[None, :, None].expand(3, -1, 1),
            attention_mask=cache.grow(ones),
            cache=cache.kv,
        )
        cache.ids_seen = [seen + 1 for seen in cache.ids_seen]
        return hidden[:, -1]

    def _draw(
        self, hidden: Tensor, temperature: float, points: Sequence[float], given: dict[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Sampled ids (B,), in rows that are `given` one that id, and their log-probabilities (B,).

        A row takes the id at its point, from 0 up to 1, of the cumulated probabilities: another number of rows changes
        these by rounding only, and with it hardly ever the id.
        """
        logprobs = self.vlm.log_softmax(hidden, temperature or 1.0)
        if temperature == 0:
            drawn = logprobs.argmax(-1)
        else:
            # Apple's GPUs have no doubles.
            kind = torch.float32 if logprobs.device.type == "mps" else torch.float64
            cumulated = logprobs.to(kind).exp().cumsum(-1)
            total = cumulated[:, -1]
            if not bool(torch.isfinite(total).all()):
                raise FloatingPointError(
                    f"The model gives probabilities that are no numbers (weights of version {self.weights_version}). "
                    f"Were its weights spoiled by too large a learning rate?"
                )
            # Below the total, whatever is rounded: beyond it there are only ids that are banned.
            below = torch.nextafter(total, torch.zeros_like(total))
            point = torch.minimum(torch.tensor(points, dtype=kind, device=total.device) * total, below)
            drawn = torch.searchsorted(cumulated, point[:, None], right=True)[:, 0]
        if given:
            rows = torch.tensor(list(given), device=drawn.device)
            drawn[rows] = torch.tensor(list(given.values()), device=drawn.device)
        return drawn, logprobs.gather(1, drawn[:, None])[:, 0]
