"""The authors' released data: RL data and evaluation sets as parquet files, and recorded conversations as json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pxr_env.datasets.fields import Fields, RowError
from pxr_env.datasets.media import DataDirectory, ImageFile, MediaFiles, Medium, RowImage, VideoFile
from pxr_env.datasets.readers import JSONLines, JSONList, ParquetTable, Table, find_file, only_file
from pxr_env.datasets.rows import Dataset, Names, Progress, check_rows
from pxr_env.errors import DataError, quote, show
from pxr_env.media.video import FRAME_SUFFIXES

_REQUIRED_COLUMNS = ("question", "answer", "image", "qid")


@dataclass(kw_only=True, eq=False, repr=False)
class RLData(Dataset):
    """The released RL data: one `*.parquet` in a directory, images and frames at paths relative to it.

    Source: TIGER-Lab/PixelReasoner-RL-Data, `release.parquet` beside the unpacked `images.zip` and `videos.zip`.

    Columns: `question` (text), `answer` (a text or number, or a list of what is accepted), `image` (a path or the bytes
    of an image file, or a list of them), `qid` (text, unique, the sample id), `is_video` (bool, may be missing). With
    `is_video` the paths are the frames of one video, in order, or one video file. Other columns are not read. A path is
    looked up in the directory, then in its `images` (frames: `videos`), where some tools unpack the archives.

    Args:
        directory: where the parquet file lies.
        fps: frames per second of videos that are lists of frames; the release does not say.

    Raises:
        DataError: no or several parquet files, a missing column, or bad rows; all of them are named.
        ImportError: pyarrow is not installed.
    """

    names: ClassVar[Names] = Names(id="qid", prefixes=("", "images/"))

    fps: float = 1.0

    def open_table(self, directory: Path) -> Table:
        return _parquet(directory, "*", "the table of questions")

    def _find_media(self, fields: Fields) -> tuple[Medium, ...]:
        return _images_or_video(self._media, fields, self.prefixes, ("", "videos/"), self.fps)


@dataclass(kw_only=True, eq=False, repr=False)
class EvaluationData(Dataset):
    """One of the authors' evaluation sets: `NAME.parquet` with the columns of `RLData`, and its images.

    Source: JasperHaozhe/{VStar,TallyQA,InfoVQA,MVBench}-EvalData-PixelReasoner. Images lie where the archive puts them
    (`images/...`), or in `NAME_images/...`, where the authors' preparation script moves them, so that several sets
    share a directory. That script also writes absolute paths into the table, which are refused here: use the table as
    it was downloaded.

    Args:
        directory: where the parquet file lies.
        name: the file's name without `.parquet`; needed if there are several.
        fps: frames per second of videos that are lists of frames.

    Raises:
        DataError: no such parquet file, a missing column, or bad rows; all of them are named.
        ImportError: pyarrow is not installed.
    """

    names: ClassVar[Names] = Names(id="qid")

    fps: float = 1.0
    name: str | None = None

    def open_table(self, directory: Path) -> Table:
        names = sorted(path.stem for path in directory.glob("*.parquet"))
        if self.name is not None and self.name not in names:
            raise DataError(
                f'got name="{quote(self.name)}", expected the name of a parquet file in "{directory}": '
                f"{', '.join(names) or 'there is none'}."
            )
        table = _parquet(directory, self.name or "*", "or its name (name=...)")
        self._stem = table.path.stem
        return table

    @property
    def prefixes(self) -> Sequence[str]:
        # "images/a.jpg" moves to "NAME_images/a.jpg".
        return ("", f"{self._stem}_images/", "images/", "videos/", f"{self._stem}_")

    def _find_media(self, fields: Fields) -> tuple[Medium, ...]:
        return _images_or_video(self._media, fields, self.prefixes, self.prefixes, self.fps)


def _parquet(directory: Path, name: str, what: str) -> ParquetTable:
    return ParquetTable(find_file(directory, f"{name}.parquet", what), _REQUIRED_COLUMNS, ("is_video",))


def _images_or_video(
    media: MediaFiles, fields: Fields, prefixes: Sequence[str], video_prefixes: Sequence[str], fps: float
) -> tuple[Medium, ...]:
    """The images in the field `image`; or, with `is_video`, the one video file or the frames of a video there."""
    if not fields.flag("is_video"):
        return media.images(fields, "image", prefixes)
    value = fields.values["image"]
    only = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(only, str):
        value = [only] if only.lower().endswith(FRAME_SUFFIXES) else only
    return (media.video(value, video_prefixes, fps=fps),)


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
    file: VideoFile


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceMessage:
    """What one side said: its role ("system", "user", "assistant" or "tool") and the parts in order."""

    role: str
    content: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SFTTrace:
    """One recorded conversation; at least one of its messages is the assistant's.

    `sample_id` is the `qid` of its row, from its second trace on "qid#2", "qid#3", ..., and "row-7" where there is
    none. `row` is the number of the row, from 0, and `place` where a person finds it, such as "line 3".
    """

    sample_id: str
    messages: tuple[TraceMessage, ...]
    row: int
    place: str

    @property
    def content(self) -> Hashable:
        """What makes two traces the same."""
        return self.messages

    @property
    def media(self) -> tuple[ImageFile | RowImage | VideoFile, ...]:
        """The files of all images and videos in order."""
        return tuple(
            part.file for message in self.messages for part in message.content if not isinstance(part, TextPart)
        )


@dataclass(kw_only=True, eq=False, repr=False)
class SFTData:
    """The released warm-start data: a json list of rows with `message_list`, and media at paths relative to it.

    Source: TIGER-Lab/PixelReasoner-SFT-Data, the json beside the unpacked `images.zip` and `videos.zip`.

    `message_list` is a list of `{"role", "content"}`; `content` is a list of parts, each with exactly one of `text`,
    `image` (path) and `video` (list of frame paths, or a video file) that is not null. A content that is only text may
    be written as text. Other fields of a row are not read, but `qid` names it.

    A sequence of `SFTTrace`: `len`, indexing by number from 0, iteration. It is no `SampleSource`: a trace has no
    single question and answer. Texts keep their tool tags; other special tokens and control characters are neutralized.

    Args:
        directory: the json (or jsonl) file, or a directory with one in it.
        fps: frames per second of videos that are lists of frames.
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: read the header of every image or video; without, files only have to exist.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: no such file, or bad rows; all of them are named.
    """

    directory: str | Path = field(kw_only=False)
    fps: float = 1.0
    skip_bad_rows: bool = False
    limit: int | None = None
    check_media: bool = True
    progress: Progress | None = None

    def __post_init__(self) -> None:
        given = Path(self.directory)
        files = DataDirectory(given.parent if given.is_file() else given)
        found = [given] if given.is_file() else [*given.glob("*.json"), *given.glob("*.jsonl")]
        self.path = only_file(given, found, "json", "or its path")
        table: Table = JSONLines(self.path) if self.path.suffix == ".jsonl" else JSONList(self.path)
        self._media = MediaFiles(files, table, check=self.check_media)
        self._n_traces: Counter[str] = Counter()
        traces, (self.skipped, self.warnings, self.n_rows) = check_rows(
            table, self._trace, self.skip_bad_rows, self.limit, self.progress
        )
        self.progress = None  # a local function would keep the data from travelling to other processes
        self._traces = tuple(traces.values())

    def __len__(self) -> int:
        return len(self._traces)

    def __getitem__(self, index: int) -> SFTTrace:
        return self._traces[index]

    def __iter__(self) -> Iterator[SFTTrace]:
        return iter(self._traces)

    def _trace(self, fields: Fields) -> SFTTrace:
        fields.keep_tool_tags = True
        sample_id = self._name(fields)
        messages = fields.values.get("message_list")
        if not isinstance(messages, list) or not messages:
            raise RowError(f"message_list is {show(messages)}; expected a list of messages")
        read = tuple(self._message(fields, number, message) for number, message in enumerate(messages, start=1))
        if not any(message.role == "assistant" for message in read):
            raise RowError("it has no message of the assistant; expected at least one")
        return SFTTrace(sample_id=sample_id, messages=read, row=fields.row, place=fields.place)

    def _name(self, fields: Fields) -> str:
        if "qid" not in fields:
            fields.sample_id = f"row-{fields.row}"
            return fields.sample_id
        name = fields.identifier("qid")
        self._n_traces[name] += 1
        count = self._n_traces[name]
        return name if count == 1 else f"{name}#{count}"

    def _message(self, fields: Fields, number: int, message: object) -> TraceMessage:
        if not isinstance(message, Mapping):
            raise RowError(f"message {number} is {show(message)}; expected an object with role and content")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RowError(f"the role of message {number} is {show(role)}; expected one of {', '.join(ROLES)}")
        if isinstance(content, str):
            content = [{"text": content}]
        if not isinstance(content, list) or not content:
            raise RowError(f"the content of message {number} is {show(content)}; expected a list of parts")
        return TraceMessage(
            role=str(role), content=tuple(self._part(fields, number, *part) for part in enumerate(content))
        )

    def _part(self, fields: Fields, number: int, position: int, part: object) -> Part:
        # Tables write every kind in every part, null where it does not apply.
        given = part if isinstance(part, Mapping) else {}
        kinds = [kind for kind in ("text", "image", "video") if given.get(kind) is not None]
        if len(kinds) != 1:
            raise RowError(f"message {number} has the part {show(part)}; expected one of text, image and video")
        [kind] = kinds
        value = given[kind]
        try:
            if kind == "image":
                steps = ("message_list", number - 1, "content", position, kind)
                return ImagePart(file=self._media.image(value, ("", "images/"), kind, fields.key, steps))
            if kind == "video":
                return VideoPart(file=self._media.video(value, ("", "videos/"), fps=self.fps))
            if not isinstance(value, str):
                raise RowError(f"text is {show(value)}; expected text")
            return TextPart(text=fields.neutralized(value))
        except RowError as error:
            raise RowError(f"message {number}: {error}") from error
