"""Images: where they come from, decoding without trusting the file, and how a part of one becomes the pixels of a view.

On broken files Pillow raises `OSError`, `SyntaxError`, `struct.error`, `IndexError` and more, PyAV and decord others.
Everything that hands bytes to one of them does it inside `decoding`, which makes a `MediaError` of whatever is raised.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from pxr_env.errors import MediaError, quote
from pxr_env.media.upright import is_plain, orientation, to_rgb, turn, upright_size, without_metadata
from pxr_env.views import Box, Quad, Size, overlap

#: The largest ratio of a picture's sides that Qwen's processors take.
MAX_ASPECT_RATIO = 200
#: What is opened. Pillow reads more, some of it through other programs (EPS) or with surprising sizes (icons, fonts).
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_ADVICE = f"Expected a complete image ({', '.join(FORMATS)}); convert or replace it."
#: Characters of a library's message that are quoted.
_CAUSE_LIMIT = 200
#: What lies outside the source, where a tilted rectangle reaches beyond it, and pixels around one that its edges are
#: interpolated from.
_OUTSIDE, _MARGIN = (128, 128, 128), 4
#: A file as caches know it: path, time stamp and size.
FileKey = tuple[str, int, int]
#: A picture as functions make it.
Picture = Image.Image | np.ndarray
_Found = TypeVar("_Found")


@contextmanager
def decoding(name: str, advice: str) -> Iterator[None]:
    """Raises MediaError in place of any exception.

    A `MediaError` passes as it is, and so does an `ImportError`: that a library is not installed is no fault of the
    file. A `MemoryError` is one: the size of a picture is checked before, so what asks for more is not as it says.

    Args:
        name: what is decoded, such as 'image file "a.png"'.
        advice: what was expected and what to do, in whole sentences.
    """
    try:
        yield
    except (MediaError, ImportError):
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(
            f"{name} is too large to be decoded ({quote(str(error), _CAUSE_LIMIT)}). Make it smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except Exception as error:
        raise MediaError(f"{name} cannot be decoded ({_cause(error)}). {advice}") from error


def _cause(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        # Its text repeats the path, or the address of a buffer.
        return "its header is that of no known format"
    text = quote(str(getattr(error, "strerror", None) or error), _CAUSE_LIMIT)
    # Others are written for people; "argument out of range" alone says little.
    is_readable = isinstance(error, OSError | ValueError | SyntaxError) and text
    return text if is_readable else f"{type(error).__name__}: {text}".rstrip(": ")


class DecodedCache:
    """Decoded pictures, least recently used out first. The newest one is kept even if it is larger than the bound.

    Attributes:
        max_bytes: bound of the bytes of all pictures in it.
        n_bytes: of the pictures in it.
    """

    def __init__(self, max_bytes: int = 256 * 1024 * 1024) -> None:
        self.max_bytes, self.n_bytes = max_bytes, 0
        self._images: OrderedDict[Hashable, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], Image.Image]) -> Image.Image:
        """Returns the picture of `key`, loaded if it is not here. It is shared: do not change it."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        # Outside of the lock: decoding takes long, and other threads want other pictures.
        image = load()
        with self._lock:
            if key not in self._images:
                self._images[key] = image
                self.n_bytes += _n_bytes(image)
            while self.n_bytes > self.max_bytes and len(self._images) > 1:
                self.n_bytes -= _n_bytes(self._images.popitem(last=False)[1])
        return image

    def clear(self) -> None:
        with self._lock:
            self._images.clear()
            self.n_bytes = 0

    def unlock_after_fork(self) -> None:
        """Replaces a lock that another thread of the parent may have held while this process was forked off."""
        self._lock = threading.Lock()


def _n_bytes(image: Image.Image) -> int:
    # Pillow stores RGB with a fourth, unused byte.
    return 4 * image.width * image.height


#: The cache of this process.
decoded_cache = DecodedCache()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=decoded_cache.unlock_after_fork)


class ImageSource:
    """An image at its full resolution: a file or a function, called when its pixels are first needed and then cached,
    or a picture in memory.

    EXIF orientation is applied, wherever the picture comes from: sizes and boxes refer to the upright picture.

    Args:
        path: an image file.
        image: a picture in memory: a PIL image, or a uint8 array HxWx3.
        load: makes the picture when it is needed; picklable where environments are.
        key: what `load` depends on, hashable and unique in the process.
        size: width and height of what `load` makes, where they are known beforehand.

    Raises:
        TypeError: not exactly one of path, image, and load with key.
        MediaError: `image` is an array of another kind, or cannot be decoded.
    """

    __slots__ = ("_image", "_key", "_load", "_size", "path")

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        image: Picture | None = None,
        load: Callable[[], Picture] | None = None,
        key: Hashable = None,
        size: Size | None = None,
    ) -> None:
        if sum(given is not None for given in (path, image, load)) != 1 or (load is None) != (key is None):
            raise TypeError("ImageSource expected exactly one of path=, image= and load= with key=; pass one.")
        self.path = None if path is None else Path(path)
        self._image = None if image is None else to_image(image)
        self._load, self._key, self._size = load, key, size

    @property
    def image(self) -> Image.Image:
        """The whole picture, RGB. It is shared: do not change it.

        Raises:
            MediaError: the file is missing or cannot be decoded.
        """
        if self._image is not None:
            return self._image
        if self.path is not None:
            return open_image(self.path)
        load = self._load
        assert load is not None
        name = f"the image with key {quote(repr(self._key))}"
        return decoded_cache.get(self._key, lambda: made(load, name, self._size, "load="))

    @property
    def size(self) -> Size:
        """Width and height of the upright picture in pixels."""
        return self._size or self.image.size

    def __repr__(self) -> str:
        if self.path is not None:
            return f"ImageSource(path={str(self.path)!r})"
        if self._key is not None:
            return f"ImageSource(key={self._key!r})"
        return f"ImageSource(image={self.size[0]}x{self.size[1]})"


def made(make: Callable[[], Picture], name: str, size: Size | None, argument: str) -> Image.Image:
    """Returns the picture that the function passed as `argument` makes, upright and RGB.

    Raises:
        MediaError: it makes none, or one of another size than declared.
    """
    with decoding(name, f"Expected {argument} to return a picture; correct it, or its data."):
        image = to_image(make(), name)
    if size is not None and image.size != tuple(size):
        raise MediaError(
            f"{name} was made as {image.width}x{image.height}; expected {size[0]}x{size[1]}, as it was declared. "
            f"Correct {argument} or size=."
        )
    return image


def file_key(path: Path) -> FileKey:
    """Returns what a cache knows a file by, so that a changed file is read again.

    Raises:
        MediaError: there is no such file.
    """
    try:
        stat = os.stat(path)
    except (OSError, ValueError) as error:
        raise MediaError(
            f'file "{path}" cannot be opened ({getattr(error, "strerror", None) or error}). Expected a readable file; '
            "check the path and the directory it is relative to."
        ) from error
    return str(path), stat.st_mtime_ns, stat.st_size


def open_image(path: Path) -> Image.Image:
    """As `decode`, from the cache of this process. Do not change the picture."""
    return decoded_cache.get(file_key(path), lambda: decode(path))


def decode(file: Path | bytes, name: str | None = None) -> Image.Image:
    """Returns the upright RGB picture of an image file, of its path or bytes; `name` is what messages call it.

    Raises:
        MediaError: it is missing, no readable image, or too large.
    """
    return _read(file, name or _name(file), _upright)


def probe(file: Path | bytes, name: str | None = None) -> Size:
    """Returns width and height of the upright picture; reads the header of the file and decodes nothing. Of bytes the
    beginning is enough.

    Raises:
        MediaError: the file is missing, no image, too large, or too narrow to be shown.
    """
    if isinstance(file, Path):
        file_key(file)
    name = name or _name(file)
    width, height = _read(file, name, upright_size)
    if not 0 < max(width, height) <= MAX_ASPECT_RATIO * min(width, height):
        raise MediaError(
            f"{name} is {width}x{height}; expected sides with a ratio of at most {MAX_ASPECT_RATIO}. Cut it into parts."
        )
    return width, height


def check_area(size: Size, name: str) -> None:
    """Raises MediaError for a picture above Pillow's limit, `PIL.Image.MAX_IMAGE_PIXELS` (89 megapixels)."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise MediaError(
            f"{name} has {size[0]}x{size[1]} pixels; expected at most {limit}. Make it smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        )


def to_image(picture: Picture, name: str = "a picture in memory") -> Image.Image:
    """Returns the upright RGB image of a PIL image or a uint8 array HxWx3; one that is that already is returned itself.

    Raises:
        TypeError: it is neither.
        MediaError: an array of another kind, or a picture that cannot be decoded.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise MediaError(
                f"{name} is an array of dtype {picture.dtype} and shape {picture.shape}; expected uint8 and HxWx3 with "
                "H, W >= 1. Convert it first."
            )
        return Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise TypeError(f"got {type(picture).__name__}, expected a PIL image or a uint8 array HxWx3.")
    with decoding(name, _ADVICE):
        if is_plain(picture):
            picture.load()
            if orientation(picture) == 1:
                return picture
        return _upright(picture)


def _upright(image: Image.Image) -> Image.Image:
    """A picture as it is shown: new, RGB, upright, without metadata; of an animation the frame it stands at."""
    rgb = to_rgb(image)
    # Only now: Pillow turns TIFFs while it loads them, and then calls them upright.
    return turn(rgb, orientation(image))


def _read(file: Path | bytes, name: str, look: Callable[[Image.Image], _Found]) -> _Found:
    """What `look` finds in an image file."""
    with decoding(name, _ADVICE):
        try:
            return _look(file, name, look)
        except Exception as error:
            data = None if isinstance(error, MediaError) else without_metadata(file)
            if data is None:
                raise
            return _look(data, name, look)


def _look(file: Path | bytes, name: str, look: Callable[[Image.Image], _Found]) -> _Found:
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats) as image:
        check_area(image.size, name)
        return look(image)


def _name(file: Path | bytes) -> str:
    return f'image file "{file}"' if isinstance(file, Path) else f"an image of {len(file)} bytes"


def fit_size(width: int, height: int, *, min_pixels: int, max_pixels: int, size_multiple: int) -> Size:
    """Returns the size at which a picture is shown: `smart_resize` of Qwen2-VL, in exact integer arithmetic.

    Each side is rounded to the nearest multiple; if the area in pixels then leaves the budget, both sides are scaled to
    it keeping the aspect ratio, rounded towards the inside. Where no multiple lies between the limits, `max_pixels`
    wins. No side is shorter than one multiple; a side that would then break `max_pixels`, or be more than 200 times the
    other, is cut.

    Raises:
        ValueError: the ratio of the sides is above 200, or the budget is impossible.
    """
    check_budget(min_pixels=min_pixels, max_pixels=max_pixels, size_multiple=size_multiple)
    if width < 1 or height < 1:
        raise ValueError(f"got a picture of {width}x{height} pixels, expected at least 1x1.")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(
            f"got a picture of {width}x{height} pixels, expected a ratio of its sides of at most {MAX_ASPECT_RATIO}. "
            "Choose a less narrow part."
        )
    # In units of the multiple. round() is Python's, half to even, as in the reference.
    cells = max_pixels // size_multiple**2
    columns, rows = max(1, round(width / size_multiple)), max(1, round(height / size_multiple))
    if columns * rows * size_multiple**2 < min_pixels:
        # The least counts whose squares reach the quotients.
        columns = 1 + math.isqrt(-(-width * min_pixels // (height * size_multiple**2)) - 1)
        rows = 1 + math.isqrt(-(-height * min_pixels // (width * size_multiple**2)) - 1)
    if columns * rows > cells:
        columns = max(1, math.isqrt(width * max_pixels // (height * size_multiple**2)))
        rows = max(1, math.isqrt(height * max_pixels // (width * size_multiple**2)))
    # Only a side that was raised to one multiple can still break the budget: the other one pays for it.
    columns = min(columns, max(1, cells // rows))
    rows = min(rows, cells // columns)
    # Rounding may have stretched the picture past what a processor accepts.
    columns, rows = min(columns, MAX_ASPECT_RATIO * rows), min(rows, MAX_ASPECT_RATIO * columns)
    return columns * size_multiple, rows * size_multiple


def check_budget(*, min_pixels: int, max_pixels: int, size_multiple: int) -> None:
    """Raises ValueError if no picture can be shown within the budget."""
    if not 1 <= size_multiple**2 <= max_pixels or size_multiple < 1:
        raise ValueError(
            f"got max_pixels={max_pixels} with size_multiple={size_multiple}, expected size_multiple >= 1 and "
            f"max_pixels >= size_multiple**2 = {size_multiple**2}, or not a single patch fits. Raise max_pixels."
        )
    if not 0 <= min_pixels <= max_pixels:
        raise ValueError(
            f"got min_pixels={min_pixels} and max_pixels={max_pixels}, expected 0 <= min_pixels <= max_pixels. "
            "Lower min_pixels or raise max_pixels."
        )


def cut(source: ImageSource | Image.Image, part: Box | Quad, size: Size) -> np.ndarray:
    """Returns a part of a picture at `size` as a new uint8 array HxWx3.

    The pixels are resampled once, from the source. Where the part lies on whole pixels and both its sides are whole
    multiples of the size, every pixel is the rounded mean of its block (exact where the block has 2**n pixels; at the
    border of rounding one level lower may come out of others); otherwise bicubic, the filter of Qwen's processors.
    A turned or mirrored part (`Quad`) has the pixels of the upright one, exchanged.

    Raises:
        ValueError: a part that is not tilted leaves the source.
    """
    image = source.image if isinstance(source, ImageSource) else source
    quad = part if isinstance(part, Quad) else Quad.from_box(part)
    if quad.is_tilted:
        return _cut_tilted(image, quad, size)
    if quad.is_upright:
        return _cut_box(image, quad.box, size)
    # Sideways: the upper side of the picture runs along the source's columns.
    sideways = quad.top_left[0] == quad.top_right[0]
    upright = _cut_box(image, quad.box, (size[1], size[0]) if sideways else size)
    if sideways:
        upright = upright.transpose(1, 0, 2)
    left_to_right = (quad.top_left[1] < quad.top_right[1]) if sideways else (quad.top_left[0] < quad.top_right[0])
    top_to_bottom = (quad.top_left[0] < quad.bottom_left[0]) if sideways else (quad.top_left[1] < quad.bottom_left[1])
    return np.ascontiguousarray(upright[:: 1 if top_to_bottom else -1, :: 1 if left_to_right else -1])


def _cut_box(image: Image.Image, box: Box, size: Size) -> np.ndarray:
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height):
        raise ValueError(
            f"got the box {box}, expected 0 <= x1 < x2 <= {image.width} and 0 <= y1 < y2 <= {image.height}. "
            "Clip the box to the source."
        )
    left, top, right, bottom = (round(value) for value in box)
    across, rest_x = divmod(right - left, size[0])
    down, rest_y = divmod(bottom - top, size[1])
    if (left, top, right, bottom) == tuple(box) and rest_x == rest_y == 0:
        if across == down == 1:
            return np.array(image.crop((left, top, right, bottom)), dtype=np.uint8)
        return np.array(image.reduce((across, down), box=(left, top, right, bottom)), dtype=np.uint8)
    return np.array(image.resize(size, Image.Resampling.BICUBIC, box=box), dtype=np.uint8)


def _cut_tilted(image: Image.Image, quad: Quad, size: Size) -> np.ndarray:
    """Shrinks the surroundings to the scale of the result first, or the transform would alias, and turns them."""
    x1, y1, x2, y2 = quad.box
    whole = (0, 0, image.width, image.height)
    around = overlap((x1 - _MARGIN, y1 - _MARGIN, x2 + _MARGIN, y2 + _MARGIN), whole)
    if around is None:
        return np.full((size[1], size[0], 3), _OUTSIDE, dtype=np.uint8)
    left, top = int(around[0]), int(around[1])
    right, bottom = min(round(around[2] + 0.5), image.width), min(round(around[3] + 0.5), image.height)
    scale = min(1.0, size[0] / quad.width, size[1] / quad.height)
    near = image.crop((left, top, right, bottom))
    if scale < 1:
        small = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
        near = near.resize(small, Image.Resampling.BICUBIC)
    to_near_x, to_near_y = near.width / (right - left), near.height / (bottom - top)

    def in_near(x: float, y: float) -> tuple[float, float]:
        return (x - left) * to_near_x, (y - top) * to_near_y

    corners = in_near(*quad.top_left), in_near(*quad.top_right), in_near(*quad.bottom_left)
    coefficients: list[float] = []
    for origin, across, down in zip(*corners, strict=True):
        coefficients += [(across - origin) / size[0], (down - origin) / size[1], origin]
    turned = near.transform(
        size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BICUBIC, fillcolor=_OUTSIDE
    )
    return np.array(turned, dtype=np.uint8)
