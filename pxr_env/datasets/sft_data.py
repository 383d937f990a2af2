"""The released warm-start data: recorded conversations with images and videos."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pxr_env.datasets.fields import Fields, RowError
from pxr_env.datasets.media_files import FrameFiles, FrameFolder, ImageFile, MediaFiles, VideoFile
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.readers import JSONLines, JSONList, Table
from pxr_env.datasets.row_images import RowImage
from pxr_env.datasets.rows import Progress, check_rows
from pxr_env.errors import DataError, show

#: Who may speak in a trace.
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPart:
    """Text of a message."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePart:
    """An image of a message; `file.open()` gives the source."""

    kind: ClassVar[str] = "image"
    file: ImageFile | RowImage


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoPart:
    """A video of a message; `file.open()` gives the source."""

    kind: ClassVar[str] = "video"
    file: FrameFiles | FrameFolder | VideoFile


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What one side said: its role ("system", "user", "assistant" or "tool") and the parts in order."""

    role: str
    content: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One recorded conversation.

    Args:
        sample_id: its name, unique in the data: the `qid` of its row, and from its second trace on "qid#2", "qid#3",
            ...; "row-7" where there is none.
        messages: in order; at least one is the assistant's.
        row: the number of the row, from 0.
        place: where a person finds it, such as "line 3".
    """

    sample_id: str
    messages: tuple[Message, ...]
    row: int
    place: str

    @property
    def content(self) -> Hashable:
        """What makes two traces the same."""
        return self.messages

    @property
    def media(self) -> tuple[ImageFile | RowImage | FrameFiles | FrameFolder | VideoFile, ...]:
        """The files of all images and videos in order."""
        return tuple(
            part.file for message in self.messages for part in message.content if not isinstance(part, TextPart)
        )


class SFTData:
    """The released warm-start data: a json list of rows with `message_list`, and media at paths relative to it.

    Source: TIGER-Lab/PixelReasoner-SFT-Data, the json beside the unpacked `images.zip` and `videos.zip`.

    `message_list` is a list of `{"role", "content"}`; `content` is a list of parts, each with exactly one of `text`,
    `image` (path) and `video` (list of frame paths, or a video file) that is not null. A content that is only text may
    be written as text. Other fields of a row are not read, but `qid` names it.

    A sequence of `Trace`: `len`, indexing by number from 0, iteration. It is no `SampleSource`: a trace has no single
    question and answer. Texts keep their tool tags; other special tokens and control characters are neutralized.

    Args:
        path: the json (or jsonl) file, or a directory with one in it.
        fps: frames per second of videos that are lists of frames.
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: read the header of every image; without, files only have to exist.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: no such file, or bad rows; all of them are named.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float = 1.0,
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        given = Path(path)
        files = DataDirectory(given.parent if given.is_file() else given)
        #: The data file.
        self.path = given if given.is_file() else _find(given)
        table: Table = JSONLines(self.path) if self.path.suffix == ".jsonl" else JSONList(self.path)
        self._media = MediaFiles(files, table, check=check_media)
        self._fps = fps
        self._n_traces: dict[str, int] = {}
        checked = check_rows(
            self.path, table.rows(), self._trace, skip_bad_rows=skip_bad_rows, limit=limit, progress=progress
        )
        #: The rows that were left out.
        self.skipped = checked.bad
        #: What is odd about rows that were kept.
        self.warnings = checked.warnings
        #: Number of rows read, those that were left out included.
        self.n_rows = checked.n_rows
        self._traces = tuple(checked.good.values())

    def __len__(self) -> int:
        return len(self._traces)

    def __getitem__(self, index: int) -> Trace:
        return self._traces[index]

    def __iter__(self) -> Iterator[Trace]:
        return iter(self._traces)

    def _trace(self, fields: Fields) -> Trace:
        fields.keep_tool_tags = True
        sample_id = self._name(fields)
        messages = fields.values.get("message_list")
        if not isinstance(messages, list) or not messages:
            raise RowError(f"message_list is {show(messages)}; expected a list of messages")
        read = tuple(self._message(fields, number, message) for number, message in enumerate(messages, start=1))
        if not any(message.role == "assistant" for message in read):
            raise RowError("it has no message of the assistant; expected at least one")
        return Trace(sample_id=sample_id, messages=read, row=fields.row, place=fields.place)

    def _name(self, fields: Fields) -> str:
        if "qid" not in fields:
            fields.sample_id = f"row-{fields.row}"
            return fields.sample_id
        name = fields.identifier("qid")
        self._n_traces[name] = count = self._n_traces.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def _message(self, fields: Fields, number: int, message: object) -> Message:
        if not isinstance(message, Mapping):
            raise RowError(f"message {number} is {show(message)}; expected an object with role and content")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RowError(f"the role of message {number} is {show(role)}; expected one of {', '.join(ROLES)}")
        if isinstance(content, str):
            content = [{"text": content}]
        if not isinstance(content, list) or not content:
            raise RowError(f"the content of message {number} is {show(content)}; expected a list of parts")
        return Message(role=str(role), content=tuple(self._part(fields, number, *part) for part in enumerate(content)))

    def _part(self, fields: Fields, number: int, position: int, part: object) -> Part:
        # Tables write every kind in every part, null where it does not apply.
        kinds = (
            {kind: part[kind] for kind in ("text", "image", "video") if part.get(kind) is not None}
            if isinstance(part, Mapping)
            else {}
        )
        if len(kinds) != 1:
            raise RowError(f"message {number} has the part {show(part)}; expected one of text, image and video")
        ((kind, value),) = kinds.items()
        try:
            return self._read(fields, kind, value, ("message_list", number - 1, "content", position, kind))
        except RowError as error:
            raise RowError(f"message {number}: {error}") from error

    def _read(self, fields: Fields, kind: str, value: Any, steps: tuple[str | int, ...]) -> Part:
        if kind == "text":
            if not isinstance(value, str):
                raise RowError(f"text is {show(value)}; expected text")
            return TextPart(text=fields.neutralized(value))
        if kind == "image":
            return ImagePart(file=self._media.image(value, ("", "images"), "image", fields.key, steps))
        if isinstance(value, str):
            return VideoPart(file=self._media.video(value, ("", "videos"), fps=self._fps))
        return VideoPart(file=self._media.frames(value, ("", "videos"), fps=self._fps))


def _find(directory: Path) -> Path:
    files = sorted(path for pattern in ("*.json", "*.jsonl") for path in directory.glob(pattern))
    if len(files) != 1:
        found = ", ".join(path.name for path in files[:5]) or "none"
        raise DataError(
            f'"{directory}" holds {len(files)} json files ({found}); expected exactly one. Give the path of the file.'
        )
    return files[0]
