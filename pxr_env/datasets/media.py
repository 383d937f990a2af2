"""Media that rows name or hold: found in their directory only, checked by their headers, kept without pixels."""

from __future__ import annotations

import binascii
import hashlib
import os
import re
import stat
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from pxr_env.datasets.fields import Fields, RowError
from pxr_env.datasets.readers import Table
from pxr_env.errors import DataError, MediaError, quote, show
from pxr_env.media.images import ImageSource, decode, probe
from pxr_env.media.video import VideoSource, frame_paths
from pxr_env.views import Size

#: Most frames per second of a video that is given as frames.
HIGHEST_FPS = 1000
#: From and to in seconds; None where a video begins and ends.
Span = tuple[float | None, float | None]

_DRIVE = re.compile(r"[A-Za-z]:")
# NUL ends names in the operating system; the others hide what a message or a terminal shows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_DATA_URI = re.compile(rb"\s*data:[^,]{0,200};base64,", re.IGNORECASE)
#: The alphabet for URLs and file names.
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+")
#: Characters of a text that tell base64 from a path; an image has more of them.
SHORTEST_IMAGE = 64
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")
#: Bytes by which video containers are recognized: (offset, bytes).
_CONTAINERS = (
    *((4, name) for name in (b"ftyp", b"moov", b"mdat", b"wide", b"free")),  # mp4, mov, m4v
    (0, b"\x1aE\xdf\xa3"),  # matroska, webm
    (8, b"AVI "),
    (0, b"FLV"),
    (0, b"OggS"),
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),  # MPEG video
    (188, b"G"),  # MPEG transport stream: packets of 188 bytes
    (0, b"GIF8"),
    (8, b"WEBP"),
    (0, b"0&\xb2u\x8ef\xcf\x11"),  # wmv
)


class UnsafePathError(ValueError):
    """A name from a data file leads, or may lead, out of the data's directory."""


def check_name(name: str) -> tuple[str, ...]:
    """Returns the parts of a relative path with forward slashes.

    Raises:
        UnsafePathError: it is empty, absolute, has a drive letter, a backslash, a control character or a part "..".
    """
    if _CONTROL.search(name):
        raise UnsafePathError("has a control character; expected a plain relative path")
    if "\\" in name:
        raise UnsafePathError('has a backslash; expected a relative path with "/" between its parts')
    if name.startswith("/") or _DRIVE.match(name):
        raise UnsafePathError("is absolute and leaves the directory; expected a path relative to it")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise UnsafePathError('leaves the directory; expected a relative path without ".."')
    if not parts:
        raise UnsafePathError("names no file; expected a relative path")
    return parts


class DataDirectory:
    """The directory of a data set; finds files in it by the names its rows give.

    A name is taken only if it stays inside: `check_name`, and no symbolic link on the way may lead out of the
    directory. The directory itself may be reached through a link.

    Raises:
        DataError: it is no directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise DataError(
                f'got data="{quote(str(path))}", which is no directory; expected one with the data files and their '
                "images or videos. Check the path, or unpack the data there."
            )
        #: Its absolute path without symbolic links.
        self.root = os.path.realpath(self.path)
        # Rows share few folders, and resolving one takes a system call for every part of its path.
        self._inside: dict[str, bool] = {}

    def find(self, name: str) -> str | None:
        """Returns the path of the file or folder of that name, or None if there is none.

        Raises:
            UnsafePathError: the name leaves the directory, or a symbolic link does.
        """
        *folders, last = check_name(name)
        folder = os.path.join(self.root, *folders)
        path = os.path.join(folder, last)
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
        except (OSError, ValueError):
            return None
        if folder not in self._inside:
            self._inside[folder] = self._is_inside(folder)
        if not self._inside[folder] or (is_link and not self._is_inside(path)):
            raise UnsafePathError(
                "leaves the directory through a symbolic link; expected files inside it. Copy them there"
            )
        return path if not is_link or os.path.exists(path) else None

    def _is_inside(self, path: str) -> bool:
        return os.path.commonpath([self.root, os.path.realpath(path)]) == self.root


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """An image file, by its path."""

    kind: ClassVar[str] = "image"
    path: str

    @property
    def origin(self) -> Hashable:
        """Equal for what is cut from the same image or video: questions about it belong together."""
        return self.path

    def open(self) -> ImageSource:
        """Returns it as a source; nothing is decoded yet."""
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
    def origin(self) -> Hashable:
        return self.digest

    def open(self) -> ImageSource:
        return ImageSource(key=("row", self.digest), load=self.load)

    def load(self) -> Image.Image:
        """Reads and decodes the image; raises MediaError if the data changed, or this is no readable image."""
        return decode(self._read(), self._name)

    def probe(self) -> Size:
        """Reads the header and returns width and height of the upright picture; raises MediaError like `load`."""
        return probe(self._read(), self._name)

    @property
    def _name(self) -> str:
        return f'the image at {".".join(map(str, self.steps))} of a row of "{self.table.path}"'

    def _read(self) -> bytes:
        column, *steps = self.steps
        try:
            value: Any = self.table.value(self.key, str(column))
            for step in steps:
                value = value[step]
            data = image_bytes(value)
        except (OSError, KeyError, IndexError, TypeError, ValueError):
            data = None
        if data is None or _digest(data) != self.digest:
            raise MediaError(f"{self._name} is gone; expected the data as they were opened. Open them again.")
        return data


Medium = ImageFile | VideoFile | RowImage


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def image_bytes(value: object) -> bytes | None:
    """Returns the bytes of an image file that a row holds; None if the value is something else, such as a path.

    Base64 may be a data URI, have line breaks, be written in the alphabet for URLs, and have no padding.

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
        return _from_base64(value.encode())
    beginning = value[:SHORTEST_IMAGE]
    if len(beginning) < SHORTEST_IMAGE or not _BASE64.fullmatch(beginning):
        return None
    whole = len("".join(beginning.split())) // 4 * 4
    looks_like_image = _from_base64("".join(beginning.split())[:whole].encode()).startswith(_SIGNATURES)
    return _from_base64(value.encode()) if looks_like_image else None


def _from_base64(text: bytes) -> bytes:
    prefix = _DATA_URI.match(text)
    plain = b"".join(text[prefix.end() if prefix else 0 :].split()).rstrip(b"=").translate(_FROM_URL)
    return binascii.a2b_base64(plain + b"=" * (-len(plain) % 4), strict_mode=True)


class MediaFiles:
    """Finds the media that rows name or hold, and checks their headers. Every complaint is a `RowError`.

    Where a name is looked up is told by `prefixes`, such as ("", "images/"): the first one that has it counts.

    Args:
        directory: what names are relative to.
        table: the data file, from which images inside of it are read when they are shown.
        check: read the header of every file. Without, files only have to exist; for data that was checked before.
    """

    def __init__(self, directory: DataDirectory, table: Table, *, check: bool = True) -> None:
        self.directory = directory
        self.check = check
        self._table = table
        # A file that many rows name is opened once.
        self._sizes: dict[str, Size | str] = {}
        self._complaints: dict[str, str] = {}

    def images(self, fields: Fields, name: str, prefixes: Sequence[str] = ("",)) -> tuple[ImageFile | RowImage, ...]:
        """The images of a field, which has one or a list of them; see `image`."""
        value = fields.values.get(name)
        if not isinstance(value, list | tuple):
            return (self.image(value, prefixes, name, fields.key, (name,)),)
        if not value:
            raise RowError(f"{name} is []; expected at least one image")
        names = [f"image {number}" if len(value) > 1 else name for number in range(1, len(value) + 1)]
        return tuple(
            self.image(item, prefixes, names[index], fields.key, (name, index)) for index, item in enumerate(value)
        )

    def image(
        self, value: object, prefixes: Sequence[str], what: str, key: int, steps: tuple[str | int, ...]
    ) -> ImageFile | RowImage:
        """An image file, or an image inside the data file.

        Args:
            value: a path; or bytes, base64 or a data URI; or an object with `bytes` or `path`.
            prefixes: where a path is looked up.
            what: what messages call the value.
            key, steps: where it is, as of a `RowImage`.
        """
        try:
            data = image_bytes(value)
        except ValueError as error:
            raise RowError(f"{what} is {show(value)}, which is no base64 ({error}); expected an image") from error
        if data is None:
            path = _path(value)
            if path is None:
                raise RowError(f"{what} is {show(value)}; expected a path, or the bytes or base64 of an image file")
            return self._image_file(path, prefixes, "image")
        if self.check:
            try:
                probe(data, what)
            except MediaError as error:
                raise RowError(str(error)) from error
        return RowImage(table=self._table, key=key, steps=steps, digest=_digest(data))

    def _image_file(self, name: str, prefixes: Sequence[str], what: str) -> ImageFile:
        path = self._find(name, prefixes, what)
        if not os.path.isfile(path):
            raise RowError(f'{what} "{quote(name)}" is no file; expected an image file')
        if self.check:
            self._probe(path, name, what)
        return ImageFile(path=path)

    def exists(self, name: str, prefixes: Sequence[str]) -> bool:
        """Whether one of `prefixes` has that file or folder."""
        try:
            return any(self.directory.find(prefix + name) for prefix in prefixes)
        except UnsafePathError:
            return False

    def size(self, medium: Medium) -> Size | None:
        """Width and height of an image that was found here, in pixels; None of a video."""
        if isinstance(medium, VideoFile):
            return None
        if isinstance(medium, ImageFile):
            return self._probe(medium.path, os.path.basename(medium.path), "image")
        try:
            return medium.probe()
        except MediaError as error:
            raise RowError(str(error)) from error

    def video(
        self, value: object, prefixes: Sequence[str] = ("",), *, fps: float = 1.0, span: Span = (None, None)
    ) -> VideoFile:
        """A video file, a folder of frames, or a list of frame images of one size; `fps` is that of frames."""
        if not 0 < fps <= HIGHEST_FPS:
            raise RowError(f"fps is {fps:g}; expected frames per second, above 0 and at most {HIGHEST_FPS}")
        if not isinstance(value, str):
            return self._frames(value, prefixes, fps, span)
        if value.lstrip()[:5].lower() == "data:":
            raise RowError(f"the video is {show(value)}; expected a path. Write the video into a file")
        path = self._find(value, prefixes, "video")
        if os.path.isdir(path):
            return self._folder(path, value, fps, span)
        # Opening a pipe would wait for ever.
        if not os.path.isfile(path):
            raise RowError(f'video "{quote(value)}" is no file; expected a video file or a folder of frames')
        if self.check and path not in self._complaints:
            self._complaints[path] = _container_complaint(path)
        if complaint := self._complaints.get(path):
            raise RowError(f'video "{quote(value)}" {complaint}')
        return VideoFile(path=path, start=span[0], end=span[1])

    def _frames(self, values: object, prefixes: Sequence[str], fps: float, span: Span) -> VideoFile:
        if not isinstance(values, list | tuple) or not values:
            raise RowError(f"the video is {show(values)}; expected a path, or a list of paths of its frames")
        paths = []
        first: Size | None = None
        for number, value in enumerate(values, start=1):
            name = _path(value)
            if name is None or (isinstance(value, Mapping) and value.get("bytes") is not None):
                raise RowError(
                    f"frame {number} is {show(value)}; expected a path. Write frames into files of their own"
                )
            paths.append(self._image_file(name, prefixes, f"frame {number}").path)
            size = self._probe(paths[-1], name, "frame") if self.check else (0, 0)
            first = first or size
            if size != first:
                raise RowError(
                    f"frame {number} is {size[0]}x{size[1]} and frame 1 {first[0]}x{first[1]}; expected frames of one "
                    "size"
                )
        _check_start(span, len(paths) / fps)
        return VideoFile(paths=tuple(paths), fps=fps, start=span[0], end=span[1])

    def _folder(self, path: str, name: str, fps: float, span: Span) -> VideoFile:
        try:
            frames = frame_paths(Path(path))
        except MediaError as error:
            raise RowError(f'video "{quote(name)}": {error}') from error
        for frame in frames:
            if frame.is_symlink():
                self._find(os.path.relpath(frame, self.directory.root), ("",), "frame")
        if self.check:
            self._probe(str(frames[0]), f"{name}/{frames[0].name}", "frame")
        _check_start(span, len(frames) / fps)
        return VideoFile(path=path, fps=fps, start=span[0], end=span[1])

    def _find(self, name: str, prefixes: Sequence[str], what: str) -> str:
        try:
            for prefix in prefixes:
                if path := self.directory.find(prefix + name):
                    return path
        except UnsafePathError as error:
            raise RowError(f'{what} "{quote(name)}" {error}') from error
        if "://" in name:
            raise RowError(f'{what} "{quote(name)}" is an address; expected a file, since nothing is downloaded')
        among = " or ".join(f'"{prefix[:-1]}"' for prefix in prefixes[:4] if prefix)
        among = f" in {among}" if among else ""
        raise RowError(f'{what} "{quote(name)}" does not exist{among}; expected a file relative to the directory')

    def _probe(self, path: str, name: str, what: str) -> Size:
        if path not in self._sizes:
            try:
                self._sizes[path] = probe(Path(path))
            except MediaError as error:
                self._sizes[path] = str(error).replace(f'image file "{path}" ', "", 1)
        size = self._sizes[path]
        if isinstance(size, str):
            raise RowError(f'{what} "{quote(name)}" {size}')
        return size


def _path(value: object) -> str | None:
    """The path that a value is, or has; None if there is none."""
    path = value.get("path") if isinstance(value, Mapping) else value
    return path if isinstance(path, str) and path.strip() else None


def _check_start(span: Span, duration: float) -> None:
    if span[0] is not None and span[0] >= duration:
        raise RowError(f"start is {span[0]:g} s and the video ends at {duration:g} s; expected a start before its end")


def _container_complaint(path: str) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(192)
    except OSError as error:
        return f"cannot be read ({error.strerror}); expected a video file"
    if not head:
        return "is empty; expected a video file"
    if not any(head[offset:].startswith(magic) for offset, magic in _CONTAINERS):
        return "is no video file; expected mp4, webm, mkv, avi, mov or a folder of frames"
    return ""
