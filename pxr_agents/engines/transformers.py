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
from transformers.cache_utils import Cache, DynamicLayer

from pxr_agents.engines import TurnEnd, without_room
from pxr_agents.types import Completion, Request, Sampling
from pxr_agents.vlm import VLM, split_by_length

#: Columns of a cache that are written before it is copied to a larger one.
ROOM = 32
#: So few rows are decoded without those that have stopped.
FEW = 4


class RoomyLayer(DynamicLayer):
    """Keys and values (B, heads, C, d) of a layer, with room behind them: new columns are written into it.

    transformers' own layer copies everything for every new column.
    """

    def __init__(self, store: Tensor | None = None, columns: int = 0) -> None:
        super().__init__()
        if store is not None:
            self.lazy_initialization(*store)
            self.keys, self.values = store[..., :columns, :]
        self.store = store  # (2, B, heads, capacity, d)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        before = self.get_seq_length()
        columns = before + key_states.shape[2]
        if self.store is None or columns > self.store.shape[3]:
            (rows, heads), size = key_states.shape[:2], key_states.shape[3]
            store = key_states.new_empty(2, rows, heads, columns + ROOM, size)
            if self.store is None:
                self.lazy_initialization(key_states, value_states)
            else:
                store[..., :before, :] = self.store[..., :before, :]
            self.store = store
        self.store[0, :, :, before:columns], self.store[1, :, :, before:columns] = key_states, value_states
        self.keys, self.values = self.store[..., :columns, :]
        return self.keys, self.values


@dataclass(slots=True)
class ConversationCache:
    """B conversations with C cached columns. Rows of unequal length leave gaps, which is harmless: masked columns are
    never attended to, and positions are always given explicitly.
    """

    keys: list[int]  # of the conversation in each row
    kv: Any  # transformers' `Cache`, of `RoomyLayer`s
    mask: Tensor  # (B, C) bool, the columns that hold an id of the row
    ids_seen: list[int]  # how much of each conversation is cached
    images_seen: list[int]

    @classmethod
    def empty(cls, keys: list[int], vlm: VLM) -> ConversationCache:
        layers: list[Any] = [RoomyLayer() for _ in vlm.model.model.language_model.layers]
        mask = torch.zeros(len(keys), 0, dtype=torch.bool, device=vlm.device)
        return cls(keys, Cache(layers=layers), mask, [0] * len(keys), [0] * len(keys))

    def grow(self, new: Tensor) -> Tensor | None:
        """Announce (B, n) columns about to be cached; returns the attention mask (B, C + n), None if all ones.

        Without gaps the causal mask is all there is, and attention takes its fast path.
        """
        self.mask = torch.cat([self.mask, new], 1)
        return None if bool(self.mask.all()) else self.mask

    def take(self, rows: Sequence[int], columns: int | None = None) -> ConversationCache:
        """The given rows (repeats allowed), and their first columns; the cache itself if that is all of it in order."""
        if list(rows) == list(range(len(self.keys))) and columns in (None, self.mask.shape[1]):
            return self
        return ConversationCache.join([(self, rows)], columns)

    @staticmethod
    def join(parts: Sequence[tuple[ConversationCache, Sequence[int]]], columns: int | None = None) -> ConversationCache:
        """Rows of several caches in one; shorter ones get a gap at the front. With `columns`, their first ones only."""
        ends = [cache.mask.shape[1] if columns is None else columns for cache, _ in parts]
        indices = [torch.tensor(rows, device=cache.mask.device) for cache, rows in parts]
        most = max(ends)
        masks = [F.pad(c.mask[i, :end], (most - end, 0)) for (c, _), i, end in zip(parts, indices, ends, strict=True)]
        layers: list[Any] = []
        for stores in zip(*([layer.store for layer in cache.kv.layers] for cache, _ in parts), strict=True):
            if not most:
                layers.append(RoomyLayer())
                continue
            # What goes on gets room, what waits for its next turn none.
            shown = [store[..., :end, :] for store, end in zip(stores, ends, strict=True)]
            _, _, heads, _, size = stores[0].shape
            store = stores[0].new_empty(2, sum(map(len, indices)), heads, most + ROOM * (columns is None), size)
            for place, old, index in zip(store.split([len(i) for i in indices], 1), shown, indices, strict=True):
                gap = most - old.shape[3]
                place[..., :gap, :] = 0
                place[..., gap:most, :] = old.index_select(1, index)
            layers.append(RoomyLayer(store, most))
        return ConversationCache(
            [cache.keys[r] for cache, rows in parts for r in rows],
            Cache(layers=layers),
            torch.cat(masks),
            [c.ids_seen[r] - c.mask.shape[1] + end for (c, rows), end in zip(parts, ends, strict=True) for r in rows],
            [cache.images_seen[r] for cache, rows in parts for r in rows],
        )


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
            free = replace(sampling, forced=()) if sampling.forced else sampling
            by_sampling.setdefault(free, {})[request.key] = request
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
                resumed.append((cache, rows))
            if rest:
                idle.append(cache.take(rest))
        self._caches = idle
        self._forgotten.clear()
        ready = []
        if resumed:
            [(cache, rows), *others] = resumed
            cache = ConversationCache.join(resumed) if others else cache.take(rows)
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
        if len(pieces) == 1:
            return pieces[0], hidden[0]
        return ConversationCache.join([(piece, range(len(piece.keys))) for piece in pieces]), torch.cat(hidden)

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
        """Sample one turn for every row.

        A row that stops stays until there are a few of them, or few others: leaving costs a copy of all that go on.
        The last sampled id of a turn is not cached: it is part of what is new when the conversation goes on.
        """
        ids: dict[int, list[int]] = {key: [] for key in cache.keys}
        logprobs: dict[int, list[float]] = {key: [] for key in cache.keys}
        position = torch.tensor([int(requests[key].positions[:, -1].max()) + 1 for key in cache.keys])
        position = position.to(hidden.device)
        ends = {key: TurnEnd(self.vlm.chat, replace(sampling, forced=forced[key])) for key in cache.keys}
        # One number an id, given or not, whoever else is in the batch.
        noise = {k: np.random.Generator(np.random.Philox(requests[k].seed)).random(sampling.max_tokens) for k in ids}
        stopped: dict[int, list[int]] = {}  # by how many columns of their rows count
        for n in range(sampling.max_tokens):
            given = {r: forced[key][n] for r, key in enumerate(cache.keys) if n < len(forced[key])}
            drawn, drawn_logprobs = self._draw(hidden, sampling.temperature, [noise[k][n] for k in cache.keys], given)
            gone = {r for rows in stopped.values() for r in rows}
            for r, (key, token, logprob) in enumerate(
                zip(cache.keys, drawn.tolist(), drawn_logprobs.tolist(), strict=True)
            ):
                if r not in gone:
                    ids[key].append(token)
                    logprobs[key].append(logprob)
                    if n + 1 == sampling.max_tokens or ends[key].reached(ids[key]):
                        stopped.setdefault(cache.mask.shape[1], []).append(r)
                        gone.add(r)
            going = [r for r in range(len(cache.keys)) if r not in gone]
            if gone and (len(going) <= FEW or len(gone) * 4 >= len(cache.keys)):
                self._caches += [cache.take(rows, columns) for columns, rows in stopped.items()]
                stopped.clear()
                if not going:
                    break
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
        mask = cache.grow(ones)
        cache.ids_seen = [seen + 1 for seen in cache.ids_seen]
        return next_hidden(self.vlm.model.model.language_model, cache.kv, tokens, position, mask)

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


def next_hidden(text: Any, kv: Any, tokens: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
    """Last hidden states (B, d) of one more text token a row: what the layers of `text`, the language model of a
    Qwen-VL, compute, without what transformers does around them, which costs a small model more time.

    Args:
        kv: the cache, which takes up the new column.
        tokens, position: (B,); all three M-RoPE positions of text are equal, however a family interleaves them.
        mask: (B, C + 1) bool, the columns that are attended to; None for all of them.
    """
    hidden = text.embed_tokens(tokens)[:, None]
    cos, sin = text.rotary_emb(hidden, position[None, :, None].expand(3, -1, 1))
    if cos.ndim == 4:
        cos, sin = cos[0], sin[0]
    half = cos.shape[-1] // 2
    # With it rotating by half a turn is only an exchange of halves.
    cos, sin = cos[:, None], torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, None]
    attended = None if mask is None else mask[:, None, None]
    for layer, cached in zip(text.layers, kv.layers, strict=True):
        attention, states = layer.self_attn, layer.input_layernorm(hidden)
        shape = (len(tokens), 1, -1, attention.head_dim)
        query, key, value = (f(states).view(shape) for f in (attention.q_proj, attention.k_proj, attention.v_proj))
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        both = torch.cat([query, key], 2).transpose(1, 2)
        both = both * cos + both.roll(half, -1) * sin
        n_heads = query.shape[2]
        keys, values = cached.update(both[:, n_heads:], value.transpose(1, 2))
        states = F.scaled_dot_product_attention(
            both[:, :n_heads], keys, values, attended, scale=attention.scaling, enable_gqa=n_heads != keys.shape[1]
        )
        hidden = hidden + attention.o_proj(states.transpose(1, 2).reshape(len(tokens), 1, -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return text.norm(hidden)[:, 0]
