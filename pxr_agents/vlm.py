"""A Qwen2.5-VL or Qwen3-VL checkpoint as the project uses it: load it, encode images, score tokens.

Uses only what transformers publishes for both families: `get_image_features`, and `mm_encoder_outputs` to
hand in images that were encoded once and are shown several times (the rollouts of a group share their
first image).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pxr_agents.attention import BATCHED
from pxr_agents.chat import ChatFormat
from pxr_agents.checkpoint import ImageNormalization, find_checkpoint, read_checkpoint, read_processor, save_weights
from pxr_agents.types import Tokens

#: Most logits that are there at a time when tokens are scored: 320 MB with all that is computed from them.
CHUNK = 2**24


#: What a vision tower says of an image of n vision tokens: (n, d), and (n, d) of every level that goes to a layer of
#: the language model (Qwen3-VL).
Features = tuple[Tensor, ...]


def patchify(
    images: Sequence[np.ndarray], norm: ImageNormalization, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Images to patches in the order Qwen's vision tower reads them (merge blocks first).

    Same values as the checkpoint's own image processor, without its per-image cost; images are never resized.

    Args:
        images: HxWx3 uint8, sides multiples of patch_size * merge_size.
        norm: how pixels become patches.
        device: where that happens; pixels go there as the bytes they are.

    Returns:
        (N, 3 * temporal * patch * patch) float32 patches of all images, and (n_images, 3) int64 grids
        (time, rows, columns of patches).
    """
    p, m, t = norm.patch_size, norm.merge_size, norm.temporal_patch_size
    mean, std = torch.tensor(norm.mean, device=device) * 255, torch.tensor(norm.std, device=device) * 255
    grids = [(1, image.shape[0] // p, image.shape[1] // p) for image in images]
    patches: dict[int, Tensor] = {}
    # Images of one size together: twice as fast.
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    for indices in by_shape.values():
        _, rows, columns = grids[indices[0]]
        x = torch.from_numpy(np.stack([images[i] for i in indices])).to(device).float().sub_(mean).div_(std)
        x = x.reshape(len(indices), rows // m, m, p, columns // m, m, p, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
        # An image is a video of `t` equal frames.
        x = x.unsqueeze(6).expand(*x.shape[:6], t, p, p).reshape(len(indices), rows * columns, 3 * t * p * p)
        patches.update(zip(indices, x, strict=True))
    return torch.cat([patches[index] for index in range(len(images))]), torch.tensor(grids, device=device)


class Patches(NamedTuple):
    """Images on their way into a vision tower, equal ones (the same object) once."""

    pixels: Tensor  # (N, p), see `patchify`
    grids: Tensor  # (n, 3)
    order: tuple[int, ...]  # of each image that is shown, which of the n it is


#: The images of a batch, as they are or prepared (`VLM.prepare`).
Images = Sequence[np.ndarray] | Patches | list[Features]


class OutputLayer(torch.nn.Linear):
    """The output layer of a language model, whose logits can be used a part at a time.

    All parts are computed inside one call, as long as ZeRO-3 holds the layer's weights.
    """

    def forward(self, hidden: Tensor, use: Callable[..., Any] | None = None, *more: Tensor) -> Any:
        """Logits (..., V) of hidden states (..., d); or what `use(logits, *more)` makes of those of (T, d), a tuple of
        tensors (T,), where each of `more` is (T,), too."""
        if use is None:
            return super().forward(hidden)
        size = max(1, CHUNK // self.out_features)
        if len(hidden) <= size:
            return use(super().forward(hidden), *more)
        linear = super().forward
        parts = [
            checkpoint(
                lambda states, *rest: use(linear(states), *rest), *part, use_reentrant=False, preserve_rng_state=False
            )
            for part in zip(*(tensor.split(size) for tensor in (hidden, *more)), strict=True)
        ]
        return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


class VLM:
    """A checkpoint with its chat format and pixel normalization. `model` is the plain transformers model
    (`Qwen3VLForConditionalGeneration` or `Qwen2_5_VLForConditionalGeneration`); the processor's files are written back
    when it is saved.

    Attributes:
        kept: images by their id, with their features (on the CPU), which are not computed again: for a vision tower
            that is frozen.
    """

    def __init__(
        self, model: Any, chat: ChatFormat, norm: ImageNormalization, processor_files: Mapping[str, bytes] | None = None
    ) -> None:
        self.model, self.chat, self.norm = model, chat, norm
        if type(model.lm_head) is torch.nn.Linear:
            model.lm_head.__class__ = OutputLayer
        self.kept: dict[int, tuple[np.ndarray, Features]] = {}
        self._processor_files = processor_files or {}
        bias = torch.zeros(model.config.text_config.vocab_size)
        bias[list(chat.banned_ids)] = float("-inf")
        # Rows of the vocabulary beyond the tokenizer are padding of the embedding matrix: nothing decodes them.
        bias[len(chat.tokenizer) :] = float("-inf")
        self._bias = bias

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        attn_implementation: str | None = None,
    ) -> VLM:
        """Load a Qwen2.5-VL or Qwen3-VL checkpoint.

        Args:
            path: its directory, or its hub name.
            dtype: of the weights and of what is computed with them; log-probabilities are always float32.
            attn_implementation: of the language model, as transformers names it: "sdpa" (the default), "eager",
                "flash_attention_2". The vision tower takes `pxr_agents.attention`, but "eager" if that is asked for.

        Raises:
            FileNotFoundError, ValueError: as `read_checkpoint`, and if weights are missing.
        """
        from transformers import AutoModelForImageTextToText

        # Looked up once: what a hub name stands for may change.
        checkpoint = read_checkpoint(find_checkpoint(path, weights=True))
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            checkpoint.folder, dtype=dtype, attn_implementation=attn_implementation, output_loading_info=True
        )
        model, loading = loaded
        # transformers draws what is missing at random and goes on.
        missing = sorted({*loading["missing_keys"], *(entry[0] for entry in loading["mismatched_keys"])})
        if missing:
            raise ValueError(
                f"The weights of {path} lack {len(missing)} parameters of a {checkpoint.family}, {missing[0]} for one; "
                f"expected all of them. Are they those of an adapter, or of another size of the model?"
            )
        if attn_implementation != "eager":
            model.config.vision_config._attn_implementation = BATCHED
        model.to(device)
        return cls(model, checkpoint.chat, checkpoint.norm, checkpoint.processor_files)

    @classmethod
    def around(cls, model: Any, tokenizer: Any, path: str | Path) -> VLM:
        """Wrap a loaded model; `path` is the directory where its processor configuration lies."""
        norm, files = read_processor(Path(path), model.config.vision_config)
        chat = ChatFormat(tokenizer, patch_size=norm.patch_size, merge_size=norm.merge_size)
        return cls(model, chat, norm, files)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def feature_width(self) -> int:
        """Numbers that the features of a vision token have, on all levels together."""
        config = self.model.config
        return int(
            config.text_config.hidden_size * (1 + len(getattr(config.vision_config, "deepstack_visual_indexes", ())))
        )

    def encode_images(self, images: Sequence[np.ndarray]) -> list[Features]:
        """Features of each image."""
        return self._encode(*patchify(images, self.norm, self.device))

    def _encode(self, pixels: Tensor, grids: Tensor) -> list[Features]:
        encoded = self.model.model.get_image_features(pixel_values=pixels, image_grid_thw=grids, return_dict=True)
        return list(zip(encoded.pooler_output, *(encoded.get("deepstack_features") or []), strict=True))

    def prepare(self, images: Images) -> Images:
        """What `hidden_states` makes of images before they meet the model: features that are kept, else patches."""
        if not isinstance(images[0], np.ndarray):
            return images
        unique: dict[int, Any] = {id(image): image for image in images}
        if unique.keys() <= self.kept.keys():
            kept = {key: tuple(level.to(self.device) for level in self.kept[key][1]) for key in unique}
            return [kept[id(image)] for image in images]
        slot = {key: k for k, key in enumerate(unique)}
        patches = patchify(list(unique.values()), self.norm, self.device)
        return Patches(*patches, tuple(slot[id(image)] for image in images))

    @torch.no_grad()
    def keep(self, images: Sequence[np.ndarray]) -> None:
        """Encode images, and keep their features until `kept` is cleared."""
        for image, features in zip(images, self.encode_images(images) if images else (), strict=True):
            self.kept[id(image)] = image, tuple(level.cpu() for level in features)

    def hidden_states(
        self,
        ids: Tensor,
        positions: Tensor,
        images: Images = (),
        *,
        attention_mask: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Last hidden states (B, L, d) of rows of ids (B, L) with M-RoPE positions (3, B, L).

        `images` are those of the rows, row after row in reading order, or what `prepare` made of them; equal ones (the
        same object) are encoded once. Right-padded rows need no mask, since attention is causal; a mask is for caches
        with gaps.
        """
        prepared: Any = self.prepare(images) if images else ()
        if isinstance(prepared, Patches):
            different = self._encode(prepared.pixels, prepared.grids)
            prepared = [different[k] for k in prepared.order]
        # As transformers has them: of each level a list of images.
        first, *others = [list(level) for level in zip(*prepared, strict=True)] or [[]]
        encoded = SimpleNamespace(pooler_output=first, deepstack_features=others)
        n_ids, n_features = int((ids == self.chat.image_id).sum()), sum(map(len, first))
        if n_ids != n_features:
            raise ValueError(
                f"got {n_ids} image placeholder ids with {n_features} image features; they must be equal. Were ids "
                f"cut or images lost between the rollout and here?"
            )
        out = self.model.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=cache is not None,
            mm_encoder_outputs={"image": encoded} if first else None,
        )
        return out.last_hidden_state

    def log_softmax(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (..., V) in float32 over the allowed ids, the same in sampling and in training."""
        return self.normalized(self.model.lm_head(hidden), temperature)

    def normalized(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
        """`log_softmax` of logits."""
        logits = logits.float()
        if temperature != 1.0:
            logits = logits / temperature
        # Kept where the logits are: a copy for every token would make the device wait.
        self._bias = self._bias.to(logits.device)
        return torch.log_softmax(logits + self._bias, -1)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint directory that everything loads: weights, tokenizer, processor configuration."""
        path = Path(path)
        save_weights(self.model, path)
        self.chat.tokenizer.save_pretrained(path)
        for name, content in self._processor_files.items():
            (path / name).write_bytes(content)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Rows of token ids, right-padded: B rows of at most L ids, T trained ids in all."""

    ids: Tensor  # (B, L) int64
    positions: Tensor  # (3, B, L) int64
    target: Tensor  # (B, L) bool: ids whose log-probability is wanted
    images: Images

    def to(self, device: torch.device) -> TokenBatch:
        return TokenBatch(
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            target=self.target.to(device),
            images=self.images,
        )


def collate(rows: Sequence[Tokens], pad_id: int = 0) -> TokenBatch:
    """Pad rows to the longest. Padding sits at the end, where causal attention never sees it."""
    length = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), length), pad_id, np.int64)
    positions = np.zeros((3, len(rows), length), np.int64)
    target = np.zeros((len(rows), length), bool)
    for k, row in enumerate(rows):
        n = len(row.ids)
        ids[k, :n], positions[:, k, :n], target[k, :n] = row.ids, row.positions, row.action
    images = tuple(image for row in rows for image in row.images)
    return TokenBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        target=torch.from_numpy(target),
        images=images,
    )


class TokenScores(NamedTuple):
    """What a model says about the T target ids of a batch, row after row."""

    ids: Tensor  # (T,)
    logprobs: Tensor  # (T,) of each id where it was chosen, float32
    entropy: Tensor  # (T,) of the distribution there, in nats
    hidden: Tensor  # (T, d) there


def score_tokens(vlm: VLM, batch: TokenBatch, temperature: float = 1.0, *, train_entropy: bool = False) -> TokenScores:
    """Scores the target ids. Gradients flow through log-probabilities, and through the entropy if it is trained.

    Log-probabilities over the vocabulary would be the largest tensors of a pass. No more than `CHUNK` of them are there
    at a time, and they are computed once more on the way back.
    """
    hidden = vlm.hidden_states(batch.ids, batch.positions, batch.images)
    chosen_at, ids = hidden[:, :-1][batch.target[:, 1:]], batch.ids[:, 1:][batch.target[:, 1:]]

    def score(logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        over_all = vlm.normalized(logits, temperature)
        logprobs = over_all.gather(1, chosen[:, None])[:, 0]
        with torch.set_grad_enabled(train_entropy and torch.is_grad_enabled()):
            # Banned ids have log-probability -inf and probability 0: their product counts as 0.
            return logprobs, -(over_all.exp() * over_all.clamp(min=-1e4)).sum(-1)

    head = vlm.model.lm_head
    # With an adapter it is another layer, and is called as one.
    in_parts = isinstance(head, OutputLayer)
    logprobs, entropy = head(chosen_at, score, ids) if in_parts else score(head(chosen_at), ids)
    return TokenScores(ids=ids, logprobs=logprobs, entropy=entropy, hidden=chosen_at)


def split_by_length(lengths: Sequence[int], *, slack: float = 1.25, max_tokens: int = 65536) -> list[list[int]]:
    """Indices in groups, so that short rows do not pay for long ones: in each the longest is at most `slack` times the
    shortest, and padded to the longest it holds at most `max_tokens` ids; a single longer row is a group of its own.
    """
    groups: list[list[int]] = []
    shortest = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        full = bool(groups) and length * (len(groups[-1]) + 1) > max_tokens
        if not groups or length > slack * shortest or full:
            groups.append([])
            shortest = length
        groups[-1].append(index)
    return groups
