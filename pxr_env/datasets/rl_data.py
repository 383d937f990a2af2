"""The authors' parquet files: the released RL data, and their evaluation sets with the same columns."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pxr_env.datasets.answers import read_answers
from pxr_env.datasets.fields import Fields
from pxr_env.datasets.media_files import MediaFiles, Medium
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.readers import ParquetTable, find_file
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import DataError, quote
from pxr_env.media.frame_files import FRAME_SUFFIXES

#: The columns that every row has, and the one that marks videos.
REQUIRED_COLUMNS = ("question", "answer", "image", "qid")
OPTIONAL_COLUMNS = ("is_video",)


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
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: read the header of every image; without, files only have to exist.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: no or several parquet files, a missing column, or bad rows; all of them are named.
        ImportError: pyarrow is not installed.
    """

    scorer: ClassVar[str] = "auto"

    def __init__(
        self,
        directory: str | Path,
        *,
        fps: float = 1.0,
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        files = DataDirectory(directory)
        path = find_file(files.path, "*.parquet", "the table of questions")
        table = ParquetTable(path, REQUIRED_COLUMNS, OPTIONAL_COLUMNS)
        self._media = MediaFiles(files, table, check=check_media)
        self._fps = fps
        super().__init__(
            path,
            table.rows(),
            self._record,
            skip_bad_rows=skip_bad_rows,
            limit=limit,
            progress=progress,
        )

    def _record(self, fields: Fields) -> Record:
        return _rl_record(fields, self._media, ("", "images"), ("", "videos"), self._fps)


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
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: read the header of every image; without, files only have to exist.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: no such parquet file, a missing column, or bad rows; all of them are named.
        ImportError: pyarrow is not installed.
    """

    scorer: ClassVar[str] = "auto"

    def __init__(
        self,
        directory: str | Path,
        *,
        name: str | None = None,
        fps: float = 1.0,
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        files = DataDirectory(directory)
        path = self._find(files.path, name)
        table = ParquetTable(path, REQUIRED_COLUMNS, OPTIONAL_COLUMNS)
        # "images/a.jpg" moves to "NAME_images/a.jpg".
        self._media = MediaFiles(files, table, check=check_media, moved=f"{path.stem}_")
        self._fps = fps
        self._folders = ("", f"{path.stem}_images", "images", "videos")
        super().__init__(
            path,
            table.rows(),
            self._record,
            skip_bad_rows=skip_bad_rows,
            limit=limit,
            progress=progress,
        )

    @staticmethod
    def _find(directory: Path, name: str | None) -> Path:
        if name is None:
            return find_file(directory, "*.parquet", "or its name (name=...)")
        names = sorted(path.stem for path in directory.glob("*.parquet"))
        if name not in names:
            raise DataError(
                f'name="{quote(name)}" came; expected the name of a parquet file in "{directory}": '
                f"{', '.join(names) or 'there is none'}. Check the name."
            )
        return directory / f"{name}.parquet"

    def _record(self, fields: Fields) -> Record:
        return _rl_record(fields, self._media, self._folders, self._folders, self._fps)


def _rl_record(
    fields: Fields, media: MediaFiles, image_folders: tuple[str, ...], video_folders: tuple[str, ...], fps: float
) -> Record:
    """Checks one row of either format."""
    sample_id = fields.identifier("qid")
    question = fields.text("question")
    answers = read_answers(fields, "answer")
    found: tuple[Medium, ...]
    if not fields.flag("is_video"):
        found = media.images(fields, "image", image_folders)
    else:
        value = fields.values["image"]
        only = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(only, str) and not only.lower().endswith(FRAME_SUFFIXES):
            found = (media.video(only, video_folders, fps=fps),)
        else:
            found = (media.frames([only] if isinstance(only, str) else value, video_folders, fps=fps),)
    return Record(
        sample_id=sample_id,
        place=fields.place,
        question=question,
        media=found,
        answers=answers,
        metadata={"row": fields.row},
    )
