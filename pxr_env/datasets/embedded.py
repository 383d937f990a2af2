"""Images that lie inside a data file: found by their place, read and decoded only when they are needed."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image, ImageOps, UnidentifiedImageError

from pxr_env.errors import MediaError, quote
from pxr_env.geometry import Size
from pxr_env.media.images import FORMATS, ImageSource, check_area, to_rgb
from pxr_env.media.sizes import MAX_ASPECT_RATIO

#: Base64 characters that are read to find an image's size; enough for all headers without large thumbnails.
HEADER_CHARACTERS = 64 * 1024
_ORIENTATION_TAG = 0x0112
_UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Base64Image:
    """An image written as base64 at a place in a text file.

    Args:
        path: the file.
        offset: byte at which the base64 text begins.
        length: its length in bytes.
        stamp: time stamp (ns) and size of the file when it was read, so that caches notice a changed file.
        digest: of the text: copies of one image at several places have the same.
    """

    kind: ClassVar[str] = "image"
    path: str
    offset: int
    length: int
    stamp: tuple[int, int]
    digest: bytes = b""

    @property
    def origin(self) -> Hashable:
        """What questions about the same image have in common."""
        return self.digest or (self.path, self.offset)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f'the image at byte {self.offset} of "{self.path}"'

    def open(self) -> ImageSource:
        """Returns the image as a source; nothing is read yet."""
        return ImageSource(key=("base64", self.path, self.offset, self.length, self.stamp), load=self.load)

    def load(self) -> Image.Image:
        """Reads and decodes the image.

        Raises:
            MediaError: the file changed, or this is no readable image.
        """
        return decode(self._read(self.length), self.name)

    def probe(self) -> Size:
        """Reads the header and returns width and height of the upright picture.

        Raises:
            MediaError: this is no readable image, too large or too narrow.
        """
        if self.length > HEADER_CHARACTERS:
            try:
                return probe(self._read(HEADER_CHARACTERS), self.name)
            except MediaError:
                # A large thumbnail or colour profile pushed the size further back.
                pass
        return probe(self._read(self.length), self.name)

    def _read(self, length: int) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return base64.b64decode(file.read(length), validate=True)
        except (OSError, binascii.Error, ValueError) as error:
            raise MediaError(
                f"{self.name} cannot be read ({quote(str(error))}); expected base64. Download the file again."
            ) from error


def decode(data: bytes, name: str) -> Image.Image:
    """Returns the upright RGB picture of an image file's bytes.

    Raises:
        MediaError: it is no readable image, or too large.
    """
    try:
        with _open(data, name) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except MediaError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def probe(data: bytes, name: str) -> Size:
    """Returns width and height of the upright picture of an image file's bytes; its beginning is enough.

    Raises:
        MediaError: it is no readable image, too large or too narrow to be shown.
    """
    try:
        with _open(data, name) as image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION_TAG, 1) >= 5:
                width, height = height, width
    except MediaError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise MediaError(
            f"{name} is {width}x{height}; expected sides with a ratio of at most {MAX_ASPECT_RATIO}. Cut it into parts."
        )
    return width, height


def _open(data: bytes, name: str) -> Image.Image:
    Image.init()
    with warnings.catch_warnings():
        # Pillow warns above its limit and raises above twice of it; here the limit is one.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data), formats=[form for form in FORMATS if form in Image.OPEN])
    check_area(image.size, name)
    return image


def _unreadable(name: str, error: Exception) -> MediaError:
    return MediaError(
        f"{name} cannot be decoded ({quote(str(error))}). Expected a complete image ({', '.join(FORMATS)}); convert or "
        "replace it."
    )
