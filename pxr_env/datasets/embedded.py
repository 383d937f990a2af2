"""Images that lie inside a data file: found by their place, read and decoded only when they are needed."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from pxr_env.errors import MediaError, quote
from pxr_env.geometry import Size
from pxr_env.media.images import ImageSource, decode, probe

#: Base64 characters that are read to find an image's size; enough for all headers without large thumbnails.
HEADER_CHARACTERS = 64 * 1024


_DATA_URI = re.compile(rb"\s*data:[^,]{0,200};base64,", re.IGNORECASE)
#: The alphabet for URLs and file names.
_FROM_URL = bytes.maketrans(b"-_", b"+/")


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
                return from_base64(file.read(length), whole=length == self.length)
        except (OSError, ValueError) as error:
            raise MediaError(
                f"{self.name} cannot be read ({quote(str(error))}); expected base64. Download the file again."
            ) from error


def from_base64(text: bytes, *, whole: bool = True) -> bytes:
    """Returns what base64 says, also with the prefix of a data URI, with line breaks, in the alphabet for URLs, and
    without padding.

    Args:
        text: the base64.
        whole: whether it is all of it, and not only its beginning.

    Raises:
        ValueError: it is something else.
    """
    prefix = _DATA_URI.match(text)
    plain = b"".join(text[prefix.end() if prefix else 0 :].split()).rstrip(b"=").translate(_FROM_URL)
    if not whole:
        plain = plain[: len(plain) // 4 * 4]
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
