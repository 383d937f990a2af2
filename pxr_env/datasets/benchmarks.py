"""The public benchmarks as they are published: V* Bench, TallyQA, InfographicVQA, HR-Bench and MVBench."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pxr_env.datasets.answers import check_options, read_options
from pxr_env.datasets.evidence import box_problem
from pxr_env.datasets.fields import Fields, RowError, TableRow
from pxr_env.datasets.media import Base64Image, ImageFile, Medium
from pxr_env.datasets.paths import UnsafePathError
from pxr_env.datasets.readers import JSONLines, JSONList, Table, find_file, read_json
from pxr_env.datasets.rows import Dataset, Names, Record
from pxr_env.datasets.tsv import SHORTEST_IMAGE, TSVTable
from pxr_env.errors import DataError, choose, did_you_mean, quote, show, text
from pxr_env.views import Box

_INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(kw_only=True, eq=False, repr=False)
class VStar(Dataset):
    """V* Bench as it is published: `test_questions.jsonl` and one folder of images per category.

    Source: craigwu/vstar_bench (Wu and Xie, arXiv 2312.14135); 115 direct_attributes, 76 relative_position.

    Fields: `image` (path), `text` (question, lines "(A) ..." with the options, and an instruction), `category`,
    `label` (letter of the right option), `question_id`. The answer is the letter.

    Beside every image upstream has a json with `bbox`, a list of x, y, width, height in pixels for the objects that are
    asked about. Where it is there, the smallest box around all of them becomes the evidence box.

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
        return {
            "category": fields.text("category"),
            "evidence_box": self._evidence(fields.values["image"], media[0]),
        }

    def _evidence(self, name: object, image: Medium) -> Box | None:
        if not isinstance(image, ImageFile) or not isinstance(name, str):
            return None
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
        and box[2] > 0
        and box[3] > 0
    )


#: Simple questions name a kind of object, complex ones ask for a relation or an attribute too.
SUBSETS = ("complex", "simple", "all")


@dataclass(kw_only=True, eq=False, repr=False)
class TallyQA(Dataset):
    """TallyQA as it is published: `test.json` (or `train.json`), and images of Visual Genome and COCO.

    Source: github.com/manoja328/TallyQA_dataset (Acharya et al., arXiv 1810.12440).

    Fields: `image` (path such as `VG_100K_2/2410408.jpg` or `val2014/COCO_val2014_000000000042.jpg`, looked up in the
    directory, then in its `images`), `question`, `answer` (whole number), `issimple` (bool), `question_id`; `image_id`
    and `data_source` are not read. The answer is the number in digits.

    Args:
        directory: where the json file lies.
        subset: "complex" (what the paper reports), "simple" or "all". Rows outside of it are not checked.
        split: the name of the json file.

    Raises:
        DataError: the file is missing, or bad rows; all of them are named.
        ValueError: an unknown subset.
    """

    scorer: ClassVar[str] = "number"
    names: ClassVar[Names] = Names(id="question_id")

    subset: str = "complex"
    split: str = "test"

    def open_table(self, directory: Path) -> Table:
        choose(dict.fromkeys(SUBSETS), self.subset, "subset=", "Choose one.")
        return JSONList(find_file(directory, f"{text('split', self.split)}.json", "the questions"))

    @property
    def folders(self) -> Sequence[str]:
        return ("", "images")

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
        places = (directory, directory / "infographicsvqa_qas")
        pattern = f"[iI]nfographic*_{text('split', self.split)}_*.json"
        files = sorted(path for place in places for path in place.glob(pattern))
        typed = [path for path in files if "withQT" in path.name]
        files = typed if len(files) > 1 and typed else files
        if len(files) != 1:
            found = ", ".join(path.name for path in files[:5]) or "none"
            raise DataError(
                f'"{directory}" holds {len(files)} files infographicsVQA_{self.split}_*.json ({found}); expected '
                "exactly one. Check the split, or move the others."
            )
        return JSONList(files[0], under="data")

    @property
    def folders(self) -> Sequence[str]:
        of_split = (f"infographicVQA_{self.split}_v1.0_images", f"infographicsVQA_{self.split}_v1.0_images")
        return ("infographicsvqa_images", *of_split, "images", "")

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

    Opening the file remembers where each image begins. It is read and decoded when a sample is shown; neither the data
    nor an episode holds the base64 text.

    Args:
        directory: where the tsv lies.
        name: the file's name without `.tsv`; needed if there are several.
        check_media: decode the beginning of every image and read its size.
    """

    scorer: ClassVar[str] = "multiple_choice"
    names: ClassVar[Names] = Names(id="index")
    answer_form: ClassVar[str] = "letter"

    name: str | None = None

    def open_table(self, directory: Path) -> Table:
        path = find_file(directory, f"{self.name or '*'}.tsv", "or its name (name=...)")
        stat = path.stat()
        self._file, self._stamp = str(path.resolve()), (stat.st_mtime_ns, stat.st_size)
        self._images: dict[str, Medium] = {}
        return TSVTable(path, ("index", "question", "answer", *"ABCD", "image"), placed="image")

    def _find_media(self, fields: Fields) -> tuple[Medium, ...]:
        image = self._image(fields)
        self._images[str(fields.sample_id)] = image
        return (image,)

    def _image(self, fields: Fields) -> Medium:
        offset, length, short, digest = fields.values["image"]
        if length == 0:
            raise RowError("image is empty; expected base64")
        if short in self._images:
            return self._images[short]
        if length < SHORTEST_IMAGE:
            try:
                return self._media.image(short, ("", "images"), "image", fields.key, ("image",))
            except RowError as error:
                raise RowError(f"{error}. Base64, or the index of an earlier row, may stand here, too") from error
        image = Base64Image(path=self._file, offset=offset, length=length, stamp=self._stamp, digest=digest)
        if self.check_media:
            self._media.size(image)
        return image

    def _options(self, fields: Fields) -> tuple[str, ...]:
        # An empty option is named by check_options.
        return check_options([fields.neutralized(str(fields.values.get(letter) or "")) for letter in "ABCD"])

    def _details(self, fields: Fields, media: Sequence[Medium]) -> dict[str, Any]:
        given = {name: fields.text(name) for name in ("category", "cycle_category") if fields.values.get(name)}
        return {"category": given.pop("category", None), "metadata": given}


#: MVBench's task -> where upstream keeps its videos, as first published and as published later.
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
        known = next((name for name in VIDEO_FOLDERS if task.startswith(name)), None)
        own = VIDEO_FOLDERS[known] if known else (task, "")
        folders = [base + folder for base in _BASES for folder in own]
        name = self._published_name(fields.path("video"), folders)
        fps, span = fields.number("fps"), fields.span("start", "end")
        fps = FRAME_FPS if fps is None else fps
        cut = [folder for folder in folders if folder.endswith("_segment")]
        whole = [folder for folder in folders if not folder.endswith("_segment")]
        if self._media.exists(name, cut) and not self._media.exists(name, whole):
            return (self._media.video(name, cut, fps=fps),)
        return (self._media.video(name, whole, fps=fps, span=span),)

    def _published_name(self, name: str, folders: Sequence[str]) -> str:
        """The name, or with .mp4 where only that is there: the second release converted avi and webm files."""
        stem, dot, suffix = name.rpartition(".")
        converted = f"{stem}.mp4"
        if dot and suffix in ("avi", "webm") and not self._media.exists(name, folders):
            return converted if self._media.exists(converted, folders) else name
        return name


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
