"""MVBench: multiple-choice questions about videos, one json per task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pxr_env.datasets.answers import read_answers
from pxr_env.datasets.fields import Fields, Row
from pxr_env.datasets.media_files import FrameFolder, MediaFiles, VideoFile
from pxr_env.datasets.options import check_options, with_options
from pxr_env.datasets.paths import DataDirectory
from pxr_env.datasets.readers import JSONList
from pxr_env.datasets.rows import Dataset, Progress, Record
from pxr_env.errors import DataError, did_you_mean, quote

#: Task -> where upstream keeps its videos, as first published and as published later.
VIDEO_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "action_antonym": ("ssv2_video", "ssv2_video_mp4"),
    "action_count": ("perception/videos",),
    "action_localization": ("sta/sta_video", "sta/sta_video_segment"),
    "action_prediction": ("star/Charades_v1_480", "star/Charades_segment"),
    "action_sequence": ("star/Charades_v1_480", "star/Charades_segment"),
    "character_order": ("perception/videos",),
    "counterfactual_inference": ("clevrer/video_validation",),
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "fine_grained_pose": ("nturgbd", "nturgbd_convert"),
    "moving_attribute": ("clevrer/video_validation",),
    "moving_count": ("clevrer/video_validation",),
    "moving_direction": ("clevrer/video_validation",),
    "object_existence": ("clevrer/video_validation",),
    "object_interaction": ("star/Charades_v1_480", "star/Charades_segment"),
    "object_shuffle": ("perception/videos",),
    "scene_transition": ("scene_qa/video",),
    "state_change": ("perception/videos",),
    "unexpected_action": ("FunQA_test/test",),
}
#: What comes before these folders: nothing, the folder of the first release, and the one with later corrections.
_BASES = ("", "video/", "data0613/", "video/data0613/")
#: Frames per second of the folders of frames (TVQA).
FRAME_FPS = 3.0


class MVBench(Dataset):
    """MVBench as it is published: a folder `json` with a file per task, and the videos.

    Source: OpenGVLab/MVBench (Li et al., arXiv 2311.17005); 20 tasks of 200 questions.

    Fields: `video` (file or folder of frames in the task's folder, see `VIDEO_FOLDERS`), `question`, `candidates`
    (options), `answer` (text of one of them), for five tasks `start` and `end` (s) of the clip that is asked about. The
    options are written below the question, the answer is the letter, the task is the category, and a sample's id is the
    task and the row in its file: "action_count-17".

    Both releases of the videos are understood. In the first, clips are cut by `start` and `end`, and TVQA is folders of
    frames at 3 per second. In the second (folders that end in `_segment`) the files are the clips, and `start` and
    `end` are not applied again. Either lies in the directory or its folder `video`.

    Args:
        directory: where the folder `json`, or the json files, lie.
        tasks: names of the tasks (of json files); all that are there by default.
        skip_bad_rows: leave bad rows out, and keep them in `skipped`, instead of raising an exception.
        limit: read this many rows only.
        check_media: look into the files; without, they only have to exist.
        progress: is called with the number of rows read, now and then.

    Raises:
        DataError: no json files, an unknown task, or bad rows; all of them are named.
    """

    scorer: ClassVar[str] = "multiple_choice"

    def __init__(
        self,
        directory: str | Path,
        *,
        tasks: Sequence[str] | None = None,
        skip_bad_rows: bool = False,
        limit: int | None = None,
        check_media: bool = True,
        progress: Progress | None = None,
    ) -> None:
        files = DataDirectory(directory)
        self._media = MediaFiles(files, check=check_media)
        super().__init__(
            files.path,
            _read_tasks(_find_tasks(files.path, tasks)),
            self._record,
            skip_bad_rows=skip_bad_rows,
            limit=limit,
            progress=progress,
        )

    def _record(self, fields: Fields) -> Record:
        task = fields.path("task")
        sample_id = fields.identifier("row_of_task", prefix=f"{task}-")
        question = fields.text("question")
        options = check_options(fields.texts("candidates"))
        answers = read_answers(fields, "answer", options, form="text")
        return Record(
            sample_id=sample_id,
            place=fields.place,
            question=with_options(question, options),
            media=(self._video(fields, task),),
            answers=answers,
            options=options,
            category=task,
            metadata={"row": fields.row},
        )

    def _video(self, fields: Fields, task: str) -> VideoFile | FrameFolder:
        known = next((name for name in VIDEO_FOLDERS if task.startswith(name)), None)
        own = VIDEO_FOLDERS[known] if known else (task, "")
        name = self._published_name(fields.path("video"), [base + folder for base in _BASES for folder in own])
        fps = fields.number("fps")
        fps = FRAME_FPS if fps is None else fps
        span = fields.span("start", "end")
        cut = [base + folder for base in _BASES for folder in own if folder.endswith("_segment")]
        whole = [base + folder for base in _BASES for folder in own if not folder.endswith("_segment")]
        if self._media.exists(name, cut) and not self._media.exists(name, whole):
            return self._media.video(name, cut, fps=fps)
        return self._media.video(name, whole, fps=fps, span=span)

    def _published_name(self, name: str, folders: Sequence[str]) -> str:
        """The name, or with .mp4 where only that is there: the second release converted avi and webm files."""
        stem, dot, suffix = name.rpartition(".")
        converted = f"{stem}.mp4"
        if dot and suffix in ("avi", "webm") and not self._media.exists(name, folders):
            return converted if self._media.exists(converted, folders) else name
        return name


def _find_tasks(directory: Path, tasks: Sequence[str] | None) -> list[Path]:
    folder = directory / "json" if (directory / "json").is_dir() else directory
    paths = {path.stem: path for path in sorted(folder.glob("*.json"))}
    if not paths:
        raise DataError(f'"{folder}" holds no json files; expected one per task. Check the path.')
    for task in tasks or ():
        if task not in paths:
            raise DataError(
                f'tasks has "{quote(str(task))}"; expected names of the json files in "{folder}".'
                f"{did_you_mean(task, paths)} Check the name."
            )
    return [paths[task] for task in tasks or paths]


def _read_tasks(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        for row in JSONList(path).rows():
            values = row.values
            if isinstance(values, Mapping):
                values = {**values, "task": path.stem, "row_of_task": row.key}
            yield Row(values, f'"{path.name}" {row.place}', row.key)
