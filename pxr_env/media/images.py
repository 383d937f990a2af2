"""Images: where they come from, decoding them without trusting the file, and the cache of decoded pictures.

Libraries that decode promise no exceptions: on broken files Pillow raises `OSError`, `SyntaxError`, `ValueError`,
`struct.error`, `TypeError`, `IndexError`, `RuntimeError` and more, PyAV and decord others again. Everything that hands
bytes to one of them does it inside `decoding`, which makes a `MediaError` of whatever is raised.
"""

from __future__ import annotations

import io
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
from pxr_env.views import Size

#: The largest ratio of a picture's sides that Qwen's processors take.
MAX_ASPECT_RATIO = 200
#: What is opened. Pillow reads more, some of it through other programs (EPS) or with surprising sizes (icons, fonts).
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_ADVICE = f"Expected a complete image ({', '.join(FORMATS)}); convert or replace it."
_Found = TypeVar("_Found")


#: Characters of a library's message that are quoted.
_CAUSE_LIMIT = 200


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
    is_plain = isinstance(error, OSError | ValueError | SyntaxError) and text
    return text if is_plain else f"{type(error).__name__}: {text}".rstrip(": ")


#: Bytes of decoded pictures kept in this process.
DECODED_CACHE_BYTES = 256 * 1024 * 1024


class DecodedCache:
    """Decoded pictures, least recently used out first. The newest one is kept even if it is larger than the bound.

    Args:
        max_bytes: bound of the bytes of all pictures in it.
    """

    def __init__(self, max_bytes: int = DECODED_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._bytes = 0
        self._images: OrderedDict[Hashable, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def n_bytes(self) -> int:
        """Bytes of the pictures in it."""
        return self._bytes

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
                self._bytes += _n_bytes(image)
            while self._bytes > self.max_bytes and len(self._images) > 1:
                self._bytes -= _n_bytes(self._images.popitem(last=False)[1])
        return image

    def clear(self) -> None:
        """Forgets all pictures."""
        with self._lock:
            self._images.clear()
            self._bytes = 0

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
        image: Image.Image | np.ndarray | None = None,
        load: Callable[[], Image.Image | np.ndarray] | None = None,
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
        return decoded_cache.get(self._key, lambda: _load(load, self._key, self._size))

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


def file_key(path: Path) -> tuple[str, int, int]:
    """Returns what a cache knows a file by: its path, time stamp and size, so that a changed file is read again.

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
    """Returns the upright RGB picture of an image file, from the cache of this process. Do not change it.

    Raises:
        MediaError: the file is missing, too large or cannot be decoded.
    """
    return decoded_cache.get(file_key(path), lambda: decode(path))


def decode(file: Path | bytes, name: str | None = None) -> Image.Image:
    """Returns the upright RGB picture of an image file.

    Args:
        file: its path, or its bytes.
        name: what messages call it; by default 'image file "PATH"'.

    Raises:
        MediaError: it is no readable image, or too large.
    """
    return _read(file, name, upright)


def probe(file: Path | bytes, name: str | None = None) -> Size:
    """Reads the header of an image file: returns width and height of the upright picture, and decodes nothing.

    Args:
        file: its path, or its bytes, of which the beginning is enough.
        name: what messages call it; by default 'image file "PATH"'.

    Raises:
        MediaError: the file is missing, no image, too large, or too narrow to be shown.
    """
    if isinstance(file, Path):
        file_key(file)
    width, height = _read(file, name, upright_size)
    if not 0 < max(width, height) <= MAX_ASPECT_RATIO * min(width, height):
        raise MediaError(
            f"{name or _name(file)} is {width}x{height}; expected sides with a ratio of at most {MAX_ASPECT_RATIO}. "
            "Cut it into parts."
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


def to_image(picture: Image.Image | np.ndarray, name: str = "a picture in memory") -> Image.Image:
    """Returns the upright RGB image of a PIL image or a uint8 array HxWx3; one that is that already is returned itself.

    Args:
        picture: what was made or opened elsewhere.
        name: what messages call it.

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
        return picture if _is_shown_as_it_is(picture) else upright(picture)


def upright(image: Image.Image) -> Image.Image:
    """Returns a picture as it is shown: new, RGB, upright, without metadata; of an animation the frame it stands at."""
    rgb = to_rgb(image)
    # Only now: Pillow turns TIFFs while it loads them, and then calls them upright.
    return turn(rgb, orientation(image))


def _load(load: Callable[[], Image.Image | np.ndarray], key: Hashable, size: Size | None) -> Image.Image:
    name = f"the image with key {quote(repr(key))}"
    with decoding(name, "Expected load= to return a picture; correct it, or its data."):
        image = to_image(load(), name)
    if size is not None and image.size != tuple(size):
        raise MediaError(
            f"{name} was made as {image.width}x{image.height}; expected {size[0]}x{size[1]}, as it was declared. "
            "Correct load= or size=."
        )
    return image


def _is_shown_as_it_is(picture: Image.Image) -> bool:
    if not is_plain(picture):
        return False
    picture.load()
    return orientation(picture) == 1


def _read(file: Path | bytes, name: str | None, look: Callable[[Image.Image], _Found]) -> _Found:
    """What `look` finds in an image file."""
    name = name or _name(file)
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
