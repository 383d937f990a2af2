"""Finds the media that rows name or hold, and checks their headers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pxr_env.datasets.fields import Fields, RowError
from pxr_env.datasets.media import Base64Image, ImageFile, Medium, RowImage, VideoFile, digest, image_bytes
from pxr_env.datasets.paths import DataDirectory, UnsafePathError
from pxr_env.datasets.readers import Table
from pxr_env.errors import MediaError, quote, show
from pxr_env.media.images import probe
from pxr_env.media.video import FRAME_SUFFIXES, frame_paths
from pxr_env.views import Size

#: Most frames per second of a video that is given as frames.
HIGHEST_FPS = 1000
#: Bytes by which video containers are recognized: (offset, bytes).
_CONTAINERS = (
    (4, b"ftyp"),  # mp4, mov, m4v
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (4, b"free"),
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


class MediaFiles:
    """Finds the media that rows name or hold, and checks their headers. Every complaint is a `RowError`.

    Args:
        directory: what names are relative to.
        table: the data file, from which images inside of it are read when they are shown.
        check: read the header of every file. Without, files only have to exist; for data that was checked before.
        moved: is put before a name whose file is in none of its folders.
    """

    def __init__(self, directory: DataDirectory, table: Table, *, check: bool = True, moved: str | None = None) -> None:
        self.directory = directory
        self.check = check
        self._table, self._moved = table, moved
        # A file that many rows name is opened once.
        self._sizes: dict[str, Size | str] = {}
        self._complaints: dict[str, str] = {}

    def images(self, fields: Fields, name: str, folders: Sequence[str] = ("",)) -> tuple[ImageFile | RowImage, ...]:
        """The images of a field, which has one or a list of them; see `image`."""
        value = fields.values.get(name)
        if not isinstance(value, list | tuple):
            return (self.image(value, folders, name, fields.key, (name,)),)
        if not value:
            raise RowError(f"{name} is []; expected at least one image")
        return tuple(
            self.image(item, folders, f"image {position + 1}" if len(value) > 1 else name, fields.key, (name, position))
            for position, item in enumerate(value)
        )

    def images_or_frames(
        self, fields: Fields, folders: Sequence[str], video_folders: Sequence[str], fps: float
    ) -> tuple[Medium, ...]:
        """The images in the field `image`; or, with `is_video`, the one video file or the frames of a video there."""
        if not fields.flag("is_video"):
            return self.images(fields, "image", folders)
        value = fields.values["image"]
        only = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(only, str) and not only.lower().endswith(FRAME_SUFFIXES):
            return (self.video(only, video_folders, fps=fps),)
        return (self.frames([only] if isinstance(only, str) else value, video_folders, fps=fps),)

    def image(
        self, value: object, folders: Sequence[str], what: str, key: int, steps: tuple[str | int, ...]
    ) -> ImageFile | RowImage:
        """An image file, or an image inside the data file.

        Args:
            value: a path; or bytes, base64 or a data URI; or an object with `bytes` or `path`.
            folders: where a path is looked up; the first one that has it counts.
            what: what messages call the value.
            key: of its row.
            steps: where it is in the row: its column, and the keys and positions from there on.
        """
        try:
            data = image_bytes(value)
        except ValueError as error:
            raise RowError(f"{what} is {show(value)}, which is no base64 ({error}); expected an image") from error
        if data is None:
            path = _path(value)
            if path is None:
                raise RowError(f"{what} is {show(value)}; expected a path, or the bytes or base64 of an image file")
            return self._file(path, folders, "image")
        image = RowImage(table=self._table, key=key, steps=steps, digest=digest(data))
        if self.check:
            try:
                probe(data, what)
            except MediaError as error:
                raise RowError(str(error)) from error
        return image

    def _file(self, name: str, folders: Sequence[str], what: str) -> ImageFile:
        path = self._find(name, folders, what)
        if not os.path.isfile(path):
            raise RowError(f'{what} "{quote(name)}" is no file; expected an image file')
        if self.check:
            self._probe(path, name, what)
        return ImageFile(path=path)

    def exists(self, name: str, folders: Sequence[str]) -> bool:
        """Whether one of `folders` has that file or folder."""
        try:
            return any(self.directory.find(f"{folder}/{name}" if folder else name) for folder in folders)
        except UnsafePathError:
            return False

    def size(self, medium: Medium) -> Size | None:
        """Width and height of an image that was found here, in pixels; None of a video."""
        if isinstance(medium, ImageFile):
            return self._probe(medium.path, os.path.basename(medium.path), "image")
        if isinstance(medium, RowImage | Base64Image):
            try:
                return medium.probe()
            except MediaError as error:
                raise RowError(str(error)) from error
        return None

    def frames(
        self,
        values: object,
        folders: Sequence[str] = ("",),
        *,
        fps: float = 1.0,
        span: tuple[float | None, float | None] = (None, None),
    ) -> VideoFile:
        """The video whose frames are image files, given as a list of paths; all of the same size."""
        _check_fps(fps)
        if not isinstance(values, list | tuple) or not values:
            raise RowError(f"the video is {show(values)}; expected a path, or a list of paths of its frames")
        names = [_frame_name(value, number) for number, value in enumerate(values, start=1)]
        paths = tuple(self._file(name, folders, f"frame {number}").path for number, name in enumerate(names, start=1))
        if self.check:
            sizes = [self._probe(path, name, "frame") for path, name in zip(paths, names, strict=True)]
            for number, size in enumerate(sizes, start=1):
                if size != sizes[0]:
                    raise RowError(
                        f"frame {number} is {size[0]}x{size[1]} and frame 1 {sizes[0][0]}x{sizes[0][1]}; expected "
                        "frames of one size"
                    )
        _check_span(span, len(paths) / fps)
        return VideoFile(paths=paths, fps=fps, start=span[0], end=span[1])

    def video(
        self,
        name: str,
        folders: Sequence[str] = ("",),
        *,
        fps: float = 1.0,
        span: tuple[float | None, float | None] = (None, None),
    ) -> VideoFile:
        """The video file, or the folder of frames, of that name in the first of `folders` that has it."""
        _check_fps(fps)
        if name.lstrip()[:5].lower() == "data:":
            raise RowError(f"the video is {show(name)}; expected a path. Write the video into a file")
        path = self._find(name, folders, "video")
        if os.path.isdir(path):
            return self._folder(path, name, fps, span)
        # Opening a pipe would wait for ever.
        if not os.path.isfile(path):
            raise RowError(f'video "{quote(name)}" is no file; expected a video file or a folder of frames')
        if self.check and path not in self._complaints:
            self._complaints[path] = _container_complaint(path)
        if complaint := self._complaints.get(path):
            raise RowError(f'video "{quote(name)}" {complaint}')
        return VideoFile(path=path, start=span[0], end=span[1])

    def _folder(self, path: str, name: str, fps: float, span: tuple[float | None, float | None]) -> VideoFile:
        try:
            frames = frame_paths(Path(path))
        except MediaError as error:
            raise RowError(f'video "{quote(name)}": {error}') from error
        for frame in frames:
            if frame.is_symlink():
                self._find(os.path.relpath(frame, self.directory.root), ("",), "frame")
        if self.check:
            self._probe(str(frames[0]), f"{name}/{frames[0].name}", "frame")
        _check_span(span, len(frames) / fps)
        return VideoFile(path=path, fps=fps, start=span[0], end=span[1])

    def _find(self, name: str, folders: Sequence[str], what: str) -> str:
        try:
            for folder in folders:
                if path := self.directory.find(f"{folder}/{name}" if folder else name):
                    return path
            if self._moved and (path := self.directory.find(self._moved + name)):
                return path
        except UnsafePathError as error:
            raise RowError(f'{what} "{quote(name)}" {error}') from error
        if "://" in name:
            raise RowError(f'{what} "{quote(name)}" is an address; expected a file, since nothing is downloaded')
        among = " or ".join(f'"{folder}"' for folder in folders[:4] if folder)
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


def _frame_name(value: object, number: int) -> str:
    path = _path(value)
    if path is None or (isinstance(value, Mapping) and value.get("bytes") is not None):
        raise RowError(f"frame {number} is {show(value)}; expected a path. Write frames into files of their own")
    return path


def _check_fps(fps: float) -> None:
    if not 0 < fps <= HIGHEST_FPS:
        raise RowError(f"fps is {fps:g}; expected frames per second, above 0 and at most {HIGHEST_FPS}")


def _check_span(span: tuple[float | None, float | None], duration: float) -> None:
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
    if not any(head[offset : offset + len(magic)] == magic for offset, magic in _CONTAINERS):
        return "is no video file; expected mp4, webm, mkv, avi, mov or a folder of frames"
    return ""
