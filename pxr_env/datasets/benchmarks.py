"""The public benchmarks as they are published: V* Bench, TallyQA, InfographicVQA, HR-Bench and MVBench."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pxr_env.datasets.fields import Fields, RowError, TableRow, check_options, read_options
from pxr_env.datasets.media import ImageFile, Medium, UnsafePathError
from pxr_env.datasets.readers import JSONLines, JSONList, Table, TSVTable, find_file, only_file, read_json
from pxr_env.datasets.rows import Dataset, Names, Record, box_problem
from pxr_env.errors import DataError, choose, did_you_mean, quote, show, text
from pxr_env.views import Box

_INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(kw_only=True, eq=False, repr=False)
class VStar(Dataset):
    """V* Bench as it is published: `test_questions.jsonl` and one folder of images per category.

    Source: craigwu/vstar_bench (Wu and Xie, arXiv 2312.14135); 115 direct_attributes, 76 relative_position.

    Fields: `image` (path), `text` (question, lines "(A) ..." with the options, and an instruction), `category`,
    `label` (letter of the right option), `question_id`. The answer is the letter. Beside an image there may be a json
    with `bbox`, a list of x, y, width, height in pixels: the smallest box around all becomes the evidence box.

    Args:
        directory: where `test_questions.jsonl` lies.
        instruction: keep the last line of every question, "Answer with the option's letter from the given choices
            directly." Without it a model may reason first.
    """

    scorer: ClassVar[str] = "multiple_choice"
    names: ClassVar[Names] = Names(id="question_id", question="text", answers="label")
    answer_form: ClassVar[str] = "letter"

    instruction: bool = True

    def open_table(self, directory: Path) -> Table:
        return JSONLines(find_file(directory, "test_questions.jsonl", "the questions"))

    def _question(self, fields: Fields) -> tuple[str, tuple[str, ...]]:
        question = fields.text("text")
        options = read_options(question)
        if not self.instruction:
            question = question.strip().removesuffix(_INSTRUCTION).rstrip()
        return question, options

    def _details(self, fields: Fields, media: Sequence[Medium]) -> dict[str, Any]:
        name, image = fields.values["image"], media[0]
        has_file = isinstance(name, str) and isinstance(image, ImageFile)
        return {
            "category": fields.text("category"),
            "evidence_box": self._evidence(name, image) if has_file else None,
        }

    def _evidence(self, name: str, image: Medium) -> Box | None:
        annotation = name.rpartition(".")[0] + ".json"
        try:
            path = self.files.find(annotation)
            if path is None or not os.path.isfile(path):
                return None
            content = read_json(Path(path))
        except (UnsafePathError, DataError) as error:
            raise RowError(f'its annotation "{quote(annotation)}" cannot be used: {error}') from error
        boxes: Any = content.get("bbox") if isinstance(content, Mapping) else None
        if not isinstance(boxes, list) or not boxes or not all(map(_is_box, boxes)):
            raise RowError(f'bbox of "{annotation}" is {show(boxes)}; expected a list of x, y, width, height')
        width, height = self._media.size(image) or (0, 0)
        # Annotators' boxes may stick out by a pixel.
        box = (
            max(0.0, float(min(x for x, _, _, _ in boxes))),
            max(0.0, float(min(y for _, y, _, _ in boxes))),
            min(float(width), float(max(x + w for x, _, w, _ in boxes))),
            min(float(height), float(max(y + h for _, y, _, h in boxes))),
        )
        if box[0] >= box[2] or box[1] >= box[3]:
            raise RowError(f'bbox of "{annotation}" lies outside of its image of {width}x{height} pixels')
        if problem := box_problem(box, (width, height)):
            raise RowError(f'bbox of "{annotation}", as a box around its objects: {problem}')
        return box


def _is_box(box: object) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, int | float) and abs(value) < 1e6 for value in box)
        and min(box[2:]) > 0
    )


@dataclass(kw_only=True, eq=False, repr=False)
class TallyQA(Dataset):
    """TallyQA as it is published: `test.json` (or `train.json`), and images of Visual Genome and COCO.

    Source: github.com/manoja328/TallyQA_dataset (Acharya et al., arXiv 1810.12440). Simple questions name a kind of
    object, complex ones ask for a relation or an attribute too.

    Fields: `image` (path such as `VG_100K_2/2410408.jpg`, looked up in the directory, then in its `images`),
    `question`, `answer` (whole number), `issimple` (bool), `question_id`. The answer is the number in digits.

    Args:
        directory: where the json file lies.
        subset: "complex" (what the paper reports), "simple" or "all". Rows outside of it are not checked.
        split: the name of the json file.

    Raises:
        DataError: the file is missing, or bad rows; all of them are named.
        ValueError: an unknown subset.
    """

    scorer: ClassVar[str] = "number"
    names: ClassVar[Names] = Names(id="question_id", prefixes=("", "images/"))

    subset: str = "complex"
    split: str = "test"

    def open_table(self, directory: Path) -> Table:
        choose(dict.fromkeys(("complex", "simple", "all")), self.subset, "subset=", "Choose one.")
        return JSONList(find_file(directory, f"{text('split', self.split)}.json", "the questions"))

    def _record(self, fields: Fields) -> Record | None:
        self._sample_id(fields)
        return super()._record(fields) if self.subset in ("all", self._kind(fields)) else None

    @staticmethod
    def _kind(fields: Fields) -> str:
        is_simple = fields.flag("issimple")
        if is_simple is None:
            raise RowError("issimple is null; expected true or false")
        return "simple" if is_simple else "complex"

    def _answers(self, fields: Fields, options: Sequence[str]) -> tuple[str, ...]:
        answers = super()._answers(fields, options)
        if not all(answer.isascii() and answer.isdecimal() and len(answer) < 10 for answer in answers):
            raise RowError(f"answer is {show(fields.values['answer'])}; expected a whole number, at least 0")
        return answers

    def _details(self, fields: Fields, media: Sequence[Medium]) -> dict[str, Any]:
        return {"category": self._kind(fields)}


@dataclass(kw_only=True, eq=False, repr=False)
class InfographicVQA(Dataset):
    """InfographicVQA as the challenge hands it out: one json per split and a folder of images.

    Source: rrc.cvc.uab.es, DocVQA task 3 (Mathew et al., arXiv 2104.12756).

    The json is `infographicsVQA_SPLIT_v1.0*.json` (also written `infographicVQA_...`) in the directory or its folder
    `infographicsvqa_qas`; of several, the one with question types (`withQT`). It holds `data`, a list of rows with
    `questionId`, `question`, `image_local_name`, `answers` (all are accepted) and, with question types, `answer_type`,
    which becomes the category. Images lie in `infographicsvqa_images`, `infographicVQA_SPLIT_v1.0_images` or `images`.
    The test split comes without answers; its rows are bad rows.

    Args:
        directory: where the json, or its folder, lies.
        split: "train", "val" or "test".
    """

    scorer: ClassVar[str] = "anls"
    names: ClassVar[Names] = Names(id="questionId", media="image_local_name", answers="answers")

    split: str = "val"

    def open_table(self, directory: Path) -> Table:
        pattern = f"[iI]nfographic*_{text('split', self.split)}_*.json"
        files = [path for place in ("", "infographicsvqa_qas") for path in (directory / place).glob(pattern)]
        files = [path for path in files if "withQT" in path.name] or files
        file = only_file(directory, files, f"infographicsVQA_{self.split}_*.json", "of the split")
        return JSONList(file, under="data")

    @property
    def prefixes(self) -> Sequence[str]:
        of_split = (f"infographicVQA_{self.split}_v1.0_images/", f"infographicsVQA_{self.split}_v1.0_images/")
        return ("infographicsvqa_images/", *of_split, "images/", "")

    def _details(self, fields: Fields, media: Sequence[Medium]) -> dict[str, Any]:
        kinds = fields.texts("answer_type", or_one=True) if "answer_type" in fields else ()
        return {"category": ", ".join(kinds) or None}


@dataclass(kw_only=True, eq=False, repr=False)
class HRBench(Dataset):
    """HR-Bench as it is published: `hr_bench_4k.tsv` or `hr_bench_8k.tsv`, with the images inside.

    Source: DreamMr/HR-Bench (Wang et al., arXiv 2408.15556); 200 questions in four orders of their options each.

    Columns: `index`, `question`, `A` to `D` (options), `answer` (letter), `category` ("single" or "cross"),
    `cycle_category` (which order of the options it is, kept in the metadata), `image` (base64; or the `index` of an
    earlier row with the same image, as evaluation kits write it). The options are written below the question. Rows with
    the same image are one cluster, and so are the four orders of a question.

    Args:
        directory: where the tsv lies.
        name: the file's name without `.tsv`; needed if there are several.
    """

    scorer: ClassVar[str] = "multiple_choice"
    names: ClassVar[Names] = Names(id="index", prefixes=("", "images/"))
    answer_form: ClassVar[str] = "letter"

    name: str | None = None

    def open_table(self, directory: Path) -> Table:
        self._images: dict[str, tuple[Medium, ...]] = {}
        path = find_file(directory, f"{self.name or '*'}.tsv", "or its name (name=...)")
        return TSVTable(path, ("index", "question", "answer", *"ABCD", "image"))

    def _find_media(self, fields: Fields) -> tuple[Medium, ...]:
        image = fields.values["image"]
        if not image:
            raise RowError("image is empty; expected base64")
        if image in self._images:
            return self._images[image]
        try:
            media = self._images[str(fields.sample_id)] = super()._find_media(fields)
        except RowError as error:
            if "does not exist" not in str(error):
                raise
            raise RowError(f"{error}. Base64, or the index of an earlier row, may stand here, too") from error
        return media

    def _options(self, fields: Fields) -> tuple[str, ...]:
        # An empty option is named by check_options.
        return check_options([fields.neutralized(str(fields.values.get(letter) or "")) for letter in "ABCD"])

    def _details(self, fields: Fields, media: Sequence[Medium]) -> dict[str, Any]:
        given = {name: fields.text(name) for name in ("category", "cycle_category") if fields.values.get(name)}
        return {"category": given.pop("category", None), "metadata": given}


_CHARADES = ("star/Charades_v1_480", "star/Charades_segment")
#: MVBench's task -> where upstream keeps its videos, as first published and as published later.
VIDEO_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "action_antonym": ("ssv2_video", "ssv2_video_mp4"),
    "action_localization": ("sta/sta_video", "sta/sta_video_segment"),
    **dict.fromkeys(("action_prediction", "action_sequence", "object_interaction"), _CHARADES),
    **dict.fromkeys(("action_count", "character_order", "object_shuffle", "state_change"), ("perception/videos",)),
    **dict.fromkeys(
        ("counterfactual_inference", "moving_attribute", "moving_count", "moving_direction", "object_existence"),
        ("clevrer/video_validation",),
    ),
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "fine_grained_pose": ("nturgbd", "nturgbd_convert"),
    "scene_transition": ("scene_qa/video",),
    "unexpected_action": ("FunQA_test/test",),
}
#: What comes before these folders: nothing, the folder of the first release, and the one with later corrections.
_BASES = ("", "video/", "data0613/", "video/data0613/")
#: Frames per second of the folders of frames (TVQA).
FRAME_FPS = 3.0


@dataclass(kw_only=True, eq=False, repr=False)
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

    Raises:
        DataError: no json files, an unknown task, or bad rows; all of them are named.
    """

    scorer: ClassVar[str] = "multiple_choice"
    names: ClassVar[Names] = Names(id="row_of_task", options="candidates")
    answer_form: ClassVar[str] = "text"

    tasks: Sequence[str] | None = None

    def open_table(self, directory: Path) -> Table:
        return _TaskFiles(directory, self.tasks)

    def _sample_id(self, fields: Fields) -> str:
        return fields.identifier("row_of_task", prefix=f"{fields.path('task')}-")

    def _options(self, fields: Fields) -> tuple[str, ...]:
        return check_options(fields.texts("candidates"))

    def _details(self, fields: Fields, media: Sequence[Medium]) -> dict[str, Any]:
        return {"category": fields.path("task")}

    def _find_media(self, fields: Fields) -> tuple[Medium, ...]:
        task = fields.path("task")
        own = next((folders for name, folders in VIDEO_FOLDERS.items() if task.startswith(name)), (task, ""))
        places = [os.path.join(base, folder, "") for base in _BASES for folder in own]
        name = self._published_name(fields.path("video"), places)
        fps, span = fields.number("fps"), fields.span("start", "end")
        fps = FRAME_FPS if fps is None else fps
        cut = [place for place in places if place.endswith("_segment/")]
        whole = [place for place in places if place not in cut]
        if self._media.exists(name, cut) and not self._media.exists(name, whole):
            return (self._media.video(name, cut, fps=fps),)
        return (self._media.video(name, whole, fps=fps, span=span),)

    def _published_name(self, name: str, places: Sequence[str]) -> str:
        """The name, or with .mp4 where only that is there: the second release converted avi and webm files."""
        stem, dot, suffix = name.rpartition(".")
        converted = f"{stem}.mp4"
        is_missing = dot and suffix in ("avi", "webm") and not self._media.exists(name, places)
        return converted if is_missing and self._media.exists(converted, places) else name


class _TaskFiles:
    """The json files of MVBench's tasks as one table, whose rows know their task and their number in it."""

    def __init__(self, directory: Path, tasks: Sequence[str] | None) -> None:
        self.path = directory
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
        self._paths = [paths[task] for task in tasks or paths]

    def rows(self) -> Iterator[TableRow]:
        for path in self._paths:
            for row in JSONList(path).rows():
                values = row.values
                if isinstance(values, Mapping):
                    values = {**values, "task": path.stem, "row_of_task": row.key}
                yield TableRow(values, f'"{path.name}" {row.place}', row.key)

    def value(self, key: int, column: str) -> Any:
        raise NotImplementedError("videos are files; nothing lies inside of these tables")
