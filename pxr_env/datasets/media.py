"""The media of rows: small, hashable records without pixels, of files and of images inside a data file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from PIL import Image

from pxr_env.datasets.readers import Table
from pxr_env.errors import MediaError, quote
from pxr_env.media.images import ImageSource, decode, probe
from pxr_env.media.video import VideoSource, frame_paths
from pxr_env.views import Size

#: Base64 characters that are read to find an image's size; enough for all headers without large thumbnails.
HEADER_CHARACTERS = 64 * 1024
_DATA_URI = re.compile(rb"\s*data:[^,]{0,200};base64,", re.IGNORECASE)
#: The alphabet for URLs and file names.
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+")
#: Characters of a text that tell base64 from a path; an image has more of them.
_BEGINNING = 64
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")


class Medium(Protocol):
    """Where an image or a video lies; `kind` is "image" or "video"."""

    kind: ClassVar[str]

    @property
    def origin(self) -> Hashable:
        """Equal for what is cut from the same image or video: questions about it belong together."""

    def open(self) -> ImageSource | VideoSource:
        """Returns it as a source; nothing is decoded yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """An image file, by its path."""

    kind: ClassVar[str] = "image"
    path: str

    @property
    def origin(self) -> Hashable:
        return self.path

    def open(self) -> ImageSource:
        return ImageSource(path=Path(self.path))


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFile:
    """A video file, or with `fps` a folder of frame images or a list of them; and the clip of it that is asked about.

    Args:
        path: of the video file, or of the folder, whose frames are in the natural order of their names.
        paths: of the frames, where there is a list of them.
        fps: frames per second; None for a video file, which has its own times.
        start, end: of the clip in seconds.
    """

    kind: ClassVar[str] = "video"
    path: str | None = None
    paths: tuple[str, ...] = ()
    fps: float | None = None
    start: float | None = None
    end: float | None = None

    @property
    def origin(self) -> Hashable:
        return self.path or self.paths

    def open(self) -> VideoSource:
        if self.fps is None:
            assert self.path is not None
            return VideoSource(path=Path(self.path), start=self.start, end=self.end)
        frames = list(map(Path, self.paths)) if self.path is None else frame_paths(Path(self.path))
        return VideoSource(frames=frames, fps=self.fps, start=self.start, end=self.end)


class _ImageInside:
    """An image inside a data file: how its bytes, once they are read, become pixels."""

    __slots__ = ()
    kind: ClassVar[str] = "image"

    @property
    def name(self) -> str:
        """What messages call it."""
        raise NotImplementedError

    def read(self) -> bytes:
        """Returns the bytes of the image file.

        Raises:
            MediaError: they are not there any more.
        """
        raise NotImplementedError

    def load(self) -> Image.Image:
        """Reads and decodes the image.

        Raises:
            MediaError: the data changed, or this is no readable image.
        """
        return decode(self.read(), self.name)

    def probe(self) -> Size:
        """Reads the header and returns width and height of the upright picture.

        Raises:
            MediaError: this is no readable image, too large or too narrow.
        """
        return probe(self.read(), self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Base64Image(_ImageInside):
    """An image written as base64 at a place in a text file.

    Args:
        path: the file.
        offset: byte at which the base64 text begins.
        length: its length in bytes.
        stamp: time stamp (ns) and size of the file when it was read, so that caches notice a changed file.
        digest: of the text: copies of one image at several places have the same.
    """

    path: str
    offset: int
    length: int
    stamp: tuple[int, int]
    digest: bytes = b""

    @property
    def origin(self) -> Hashable:
        return self.digest or (self.path, self.offset)

    @property
    def name(self) -> str:
        return f'the image at byte {self.offset} of "{self.path}"'

    def open(self) -> ImageSource:
        return ImageSource(key=("base64", self.path, self.offset, self.length, self.stamp), load=self.load)

    def probe(self) -> Size:
        if self.length > HEADER_CHARACTERS:
            try:
                return probe(self.read(HEADER_CHARACTERS), self.name)
            except MediaError:
                pass  # a large thumbnail or colour profile pushed the size further back
        return probe(self.read(), self.name)

    def read(self, length: int | None = None) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return from_base64(file.read(length or self.length), whole=length is None)
        except (OSError, ValueError) as error:
            raise MediaError(
                f"{self.name} cannot be read ({quote(str(error))}); expected base64. Download the file again."
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class RowImage(_ImageInside):
    """An image in a row of a data file; two are equal if their bytes are. It is read again when it is shown.

    Args:
        table: the file.
        key: by which the file finds the row.
        steps: where it is in the row: its column, and the keys and positions from there on.
        digest: of the bytes.
    """

    table: Table = field(compare=False)
    key: int = field(compare=False)
    steps: tuple[str | int, ...] = field(compare=False)
    digest: bytes

    @property
    def origin(self) -> Hashable:
        return self.digest

    @property
    def name(self) -> str:
        return f"the image at {'.'.join(map(str, self.steps))} of a row"

    def open(self) -> ImageSource:
        return ImageSource(key=("row", self.digest), load=self.load)

    def read(self) -> bytes:
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


def from_base64(text: bytes, *, whole: bool = True) -> bytes:
    """Returns what base64 says, also with the prefix of a data URI, with line breaks, in the alphabet for URLs, and
    without padding. Without `whole` the text may be only the beginning.

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
