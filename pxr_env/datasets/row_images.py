"""Images that lie in the rows of a data file: as bytes, as base64 or as a data URI."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from PIL import Image

from pxr_env.datasets.embedded import from_base64
from pxr_env.datasets.readers import Table
from pxr_env.errors import MediaError
from pxr_env.geometry import Size
from pxr_env.media.images import ImageSource, decode, probe

_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+")
#: Characters of a text that tell base64 from a path; an image has more of them.
_BEGINNING = 64
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")


def image_bytes(value: object) -> bytes | None:
    """Returns the bytes of an image file that a row holds; None if the value is something else, such as a path.

    Raises:
        ValueError: a data URI that is not base64.
    """
    if isinstance(value, Mapping):
        return image_bytes(value.get("bytes"))
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return None
    if value[:5].lower() == "data:":
        return from_base64(value.encode())
    beginning = value[:_BEGINNING]
    looks_like_base64 = len(beginning) == _BEGINNING and _BASE64.fullmatch(beginning)
    if looks_like_base64 and from_base64(beginning.encode(), whole=False).startswith(_SIGNATURES):
        return from_base64(value.encode())
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowImage:
    """An image in a row of a data file; two are equal if their bytes are. It is read again when it is shown.

    Args:
        table: the file.
        key: by which the file finds the row.
        steps: where it is in the row: its column, and the keys and positions from there on.
        digest: of the bytes.
    """

    kind: ClassVar[str] = "image"
    table: Table = field(compare=False)
    key: int = field(compare=False)
    steps: tuple[str | int, ...] = field(compare=False)
    digest: bytes

    @property
    def origin(self) -> bytes:
        """What questions about the same image have in common."""
        return self.digest

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the image at {'.'.join(map(str, self.steps))} of a row"

    def open(self) -> ImageSource:
        """Returns the image as a source; nothing is read yet."""
        return ImageSource(key=("row", self.digest), load=self.load)

    def load(self) -> Image.Image:
        """Reads and decodes the image.

        Raises:
            MediaError: the data changed, or this is no readable image.
        """
        return decode(self._read(), self.name)

    def probe(self) -> Size:
        """Reads the header and returns width and height of the upright picture.

        Raises:
            MediaError: this is no readable image, too large or too narrow.
        """
        return probe(self._read(), self.name)

    def _read(self) -> bytes:
        column, *steps = self.steps
        value: Any = self.table.value(self.key, str(column))
        try:
            for step in steps:
                value = value[step]
            data = image_bytes(value)
        except (KeyError, IndexError, TypeError, ValueError):
            data = None
        if data is None or digest(data) != self.digest:
            raise MediaError(f"{self.name} is gone; expected the data as they were opened. Open them again.")
        return data


def digest(data: bytes) -> bytes:
    """Returns what tells the bytes of an image from others."""
    return hashlib.blake2b(data, digest_size=16).digest()
