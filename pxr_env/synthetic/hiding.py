"""Drawing what an exact area mean does not show.

Paint on a flat fill changes the mean of a block of pixels. `hide` pays for it in the rest of the block, as a glow
around the paint that makes the mean of every block the fill again, exactly. A picture reduced by the side of the blocks
then has the same bytes with the paint and without it, while at full resolution the paint stands out all the more.
"""

from __future__ import annotations

import numpy as np


def hide(fill: tuple[int, int, int], paint: tuple[int, int, int], cover: np.ndarray, *, reduction: int) -> np.ndarray:
    """Returns paint on a flat fill, with a glow around it, such that the mean of every block is the fill exactly.

    Where the glow would leave 0..255, both paint and glow of that block are weakened until it does not; a block that
    the paint covers wholly stays empty.

    Args:
        fill: the colour that the means keep.
        paint: the colour of the paint.
        cover: how much of each pixel is painted, (h, w) from 0 to 1; h and w are multiples of `reduction`.
        reduction: side of the blocks in pixels.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ValueError: the sides are no multiples of `reduction`.
    """
    height, width = cover.shape
    if height % reduction or width % reduction:
        raise ValueError(f"got a cover of {width}x{height} pixels, expected multiples of reduction={reduction}.")
    across = width // reduction
    painted = _blocks(np.asarray(cover, dtype=np.float64)[:, :, None], reduction)
    base = np.array(fill, dtype=np.float64)
    paid = (np.array(paint) - base) * painted
    free = 1 - painted
    room = free.sum(axis=1, keepdims=True)
    # A block without free pixels cannot pay: nothing is drawn in it.
    change = np.where(room > 1e-6, paid - paid.sum(axis=1, keepdims=True) * free / np.maximum(room, 1e-6), 0.0)
    limit = np.where(change > 0, 255 - base, base) / np.maximum(np.abs(change), 1e-9)
    strength = np.minimum(1.0, limit.min(axis=(1, 2), keepdims=True))
    blocks = base.astype(np.int64) + _round_to_zero_sum(strength * change)
    rows = blocks.reshape(-1, across, reduction, reduction, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(height, width, 3).astype(np.uint8)


def _blocks(pixels: np.ndarray, side: int) -> np.ndarray:
    """(h, w, c) -> (blocks, pixels of a block, c)."""
    height, width, channels = pixels.shape
    blocks = pixels.reshape(height // side, side, width // side, side, channels).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(-1, side * side, channels)


def _round_to_zero_sum(changes: np.ndarray) -> np.ndarray:
    """Rounds changes whose sum over axis 1 is zero to integers whose sum is zero: down, then up where most was lost."""
    # What is a hair below an integer because of floating point is that integer.
    whole = np.floor(changes + 1e-9)
    missing = -whole.sum(axis=1, keepdims=True)
    rank = np.argsort(np.argsort(whole - changes, axis=1, kind="stable"), axis=1, kind="stable")
    return (whole + (rank < missing)).astype(np.int64)
