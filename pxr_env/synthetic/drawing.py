"""What procedural pictures are drawn with: grain, letters, and paint that an exact area mean does not show.

Paint on a flat fill changes the mean of a block of pixels. `hide` pays for it in the rest of the block, as a glow
around the paint that makes the mean of every block the fill again, exactly. A picture reduced by the side of the blocks
then has the same bytes with the paint and without it, while at full resolution the paint stands out all the more.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from pxr_env.synthetic.scenes import SPLITS
from pxr_env.views import Box, Size

Colour = tuple[int, int, int]
#: x1, y1, x2, y2 in pixels.
Place = tuple[int, int, int, int]

#: Fill colours, about as light as the background: a thing is told by its hue, not by being dark.
COLOURS: dict[str, Colour] = {"red": (245, 80, 80), "green": (70, 225, 90), "blue": (90, 130, 250)}
LETTERS = "ACHLTX"
#: Hard letters differ from the fill colour by plus and minus this much, or as much as a channel has room for.
TEXTURE_AMPLITUDE = 70
#: Grey of easy letters.
INK = 15
# How a letter sits in its box, in units: the side of a glyph pixel and the margin around the glyph of 5x7.
_GLYPH_PIXEL, _MARGIN = 2, 2
#: Width and height of a box with a letter, in units.
LETTER_BOX: Size = (5 * _GLYPH_PIXEL + 2 * _MARGIN, 7 * _GLYPH_PIXEL + 2 * _MARGIN)

# One string per row.
_FONT = {
    "A": ("01110", "10001", "10001", "11111", "10001", "10001", "10001"),
    "C": ("01111", "10000", "10000", "10000", "10000", "10000", "01111"),
    "H": ("10001", "10001", "10001", "11111", "10001", "10001", "10001"),
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "T": ("11111", "00100", "00100", "00100", "00100", "00100", "00100"),
    "X": ("10001", "10001", "01010", "00100", "01010", "10001", "10001"),
}
GLYPHS = {letter: np.array([[pixel == "1" for pixel in row] for row in rows]) for letter, rows in _FONT.items()}


@functools.lru_cache(maxsize=256)
def draw_letter(letter: str, fill: Colour, *, hard: bool, pixel: int, reduction: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ink of a letter, (h, w) bool, and the colours of its inked pixels, (n, 3) uint8. Do not change them.

    Args:
        letter: one of `LETTERS`.
        fill: the colour around it.
        hard: whether it is a texture whose mean over every block is `fill`, instead of dark.
        pixel: side of one pixel of the letter, a multiple of `reduction`.
        reduction: side of the blocks, even.
    """
    ink = GLYPHS[letter].repeat(pixel, axis=0).repeat(pixel, axis=1)
    if not hard:
        return ink, np.full((int(ink.sum()), 3), INK, dtype=np.uint8)
    # Dark left half, light right half of every block: the mean of the block is the fill colour.
    sign = np.where(np.arange(ink.shape[1]) % reduction < reduction // 2, -1, 1)
    colour = np.array(fill)
    amplitude = np.minimum(TEXTURE_AMPLITUDE, np.minimum(colour, 255 - colour))
    texture = colour + amplitude * np.broadcast_to(sign[None, :, None], (*ink.shape, 3))
    return ink, texture[ink].astype(np.uint8)


def draw_letter_box(
    pixels: np.ndarray, box: Place, fill: Colour, letter: str | None, *, hard: bool, unit: int, reduction: int
) -> None:
    """Draws a box of `LETTER_BOX` units into a picture (h, w, 3), with a letter on it or None.

    Args:
        unit: pixels of the picture in a unit.
        hard, reduction: see `draw_letter`.
    """
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = fill
    if letter is not None:
        x, y = x1 + _MARGIN * unit, y1 + _MARGIN * unit
        ink, paint = draw_letter(letter, fill, hard=hard, pixel=_GLYPH_PIXEL * unit, reduction=reduction)
        pixels[y : y + ink.shape[0], x : x + ink.shape[1]][ink] = paint


def hide(fill: Colour, paint: Colour, cover: np.ndarray, *, reduction: int) -> np.ndarray:
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


@functools.lru_cache(maxsize=8)
def noise(side: int) -> np.ndarray:
    """Returns grey noise of twice the side of a source, (2*side, 2*side, 1) uint8 below 36. Do not change it."""
    return np.random.default_rng(0).integers(0, 36, (2 * side, 2 * side, 1), dtype=np.uint8)


def noise_corner(rng: np.random.Generator, side: int, split: str) -> tuple[int, int]:
    """Draws where the noise of a scene begins, as row and column.

    Even columns are for one split, odd ones for the other: no picture can be in both.
    """
    top, left = (int(value) for value in rng.integers(0, side, 2))
    return top, left // 2 * 2 + SPLITS.index(split)


def grainy(size: Size, corner: tuple[int, int], shade: Colour) -> np.ndarray:
    """Returns a background: a piece of the noise above a shade, (h, w, 3) uint8."""
    (width, height), (top, left) = size, corner
    piece = noise(max(size))[top : top + height, left : left + width]
    return piece + np.array(shade, dtype=np.uint8)


def around(boxes: Sequence[Place], scale: int = 1) -> Box:
    """Returns the box around some boxes, `scale` times as large."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return float(scale * min(x1)), float(scale * min(y1)), float(scale * max(x2)), float(scale * max(y2))
