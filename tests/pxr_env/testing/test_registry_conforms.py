"""Every task of the table passes the conformance suite: procedural ones as they are, data sets on a few small rows."""

from __future__ import annotations

import base64
import csv
import json

import numpy as np
import pytest
from PIL import Image

from pxr_env.coordinates import FRAMES, get_frame
from pxr_env.dialects import dialect_names, get_dialect
from pxr_env.operations import operation_names
from pxr_env.tasks import TASKS
from pxr_env.testing import check_task

#: Small views: the suite looks at behaviour, and large ones only take longer.
BUDGET = {"min_pixels": 28 * 28, "max_pixels": 112 * 112}
SEARCH = "pxr_env:pxr/SyntheticSearch-v0"
NAMES = ("a.png", "b.png")


def pictures(folder):
    """Two pictures of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 256, (60 + 40 * number, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def frames(folder, count=6):
    """Frames of a clip, each of another grey."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (48, 36), (30 * number,) * 3).save(folder / f"{number}.png")


def rows(columns, *values):
    """Rows as dicts."""
    return [dict(zip(columns.split(), row, strict=True)) for row in values]


def write_lines(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def vstar(directory):
    pictures(directory / "direct_attributes")
    (directory / "direct_attributes" / "a.json").write_text('{"bbox": [[10, 20, 30, 25]]}')
    text, kind = "Which colour?\n(A) red\n(B) blue", "direct_attributes"
    values = [(f"direct_attributes/{name}", text, kind, "B", number) for number, name in enumerate(NAMES)]
    write_lines(directory / "test_questions.jsonl", rows("image text category label question_id", *values))


def tallyqa(directory):
    pictures(directory / "VG_100K")
    columns = "answer data_source image image_id issimple question question_id"
    values = [
        (3 + number, "imported_genome", f"VG_100K/{name}", number, False, "How many?", number)
        for number, name in enumerate(NAMES)
    ]
    (directory / "test.json").write_text(json.dumps(rows(columns, *values)))


def infographic_vqa(directory):
    pictures(directory / "images")
    columns = "questionId question image_local_name answers data_split"
    values = [(number, "How many?", name, ["3", "three"], "val") for number, name in enumerate(NAMES)]
    data = {"dataset_name": "infographicVQA", "dataset_version": "1.0", "data": rows(columns, *values)}
    (directory / "infographicsVQA_val_v1.0_withQT.json").write_text(json.dumps(data))


def mvbench(directory):
    values = []
    for name in ("one", "two"):
        frames(directory / "tvqa" / "frames_fps3_hq" / name)
        values.append((name, "What happened?", ["ran", "sat"], "sat", 0.3, 1.7))
    (directory / "json").mkdir()
    (directory / "json" / "episodic_reasoning.json").write_text(
        json.dumps(rows("video question candidates answer start end", *values))
    )


def hr_bench(directory):
    pictures(directory)
    columns = ["index", "question", "answer", "category", "A", "B", "C", "D", "cycle_category", "image"]
    with open(directory / "hr_bench_4k.tsv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        for number, name in enumerate(NAMES):
            image = base64.b64encode((directory / name).read_bytes()).decode()
            writer.writerow([number, "What is it?", "C", "single", "a", "b", "c", "d", "cycle_0", image])


def jsonl(directory):
    pictures(directory / "images")
    frames(directory / "clip")
    lines = [
        *rows(
            "id question images answers",
            ("one", "What?", "images/a.png", ["a dog"]),
            ("two", "What?", ["images/a.png", "images/b.png"], ["左"]),
        ),
        *rows("id question video options answers", ("three", "When?", "clip", ["soon", "late"], "B")),
    ]
    lines[0]["evidence_box"] = [9, 9, 30, 30]
    write_lines(directory / "data.jsonl", lines)


def rl_data(directory):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pictures(directory / "images")
    frames(directory / "clip")
    clip = [f"clip/{number}.png" for number in range(1, 7)]
    lines = rows(
        "question answer image is_video qid",
        ("Which?", ["B"], ["images/a.png"], False, "one"),
        ("When?", ["A"], clip, True, "two"),
    )
    parquet.write_table(pyarrow.Table.from_pylist(lines), directory / "release.parquet")


DATA = {
    "pxr/VStar-v0": vstar,
    "pxr/TallyQA-v0": tallyqa,
    "pxr/InfographicVQA-v0": infographic_vqa,
    "pxr/MVBench-v0": mvbench,
    "pxr/HRBench-v0": hr_bench,
    "pxr/JSONL-v0": jsonl,
    "pxr/RLData-v0": rl_data,
}


@pytest.mark.parametrize("task_id", TASKS)
def test_a_task_of_the_table(task_id, tmp_path):
    arguments = {}
    if "data" in TASKS[task_id].parameters():
        DATA[task_id](tmp_path)
        arguments = {"data": str(tmp_path), **BUDGET}
    report = check_task(f"pxr_env:{task_id}", samples=3, arguments=arguments)
    assert report.passed, str(report)


def pairs():
    """All dialects with the coordinate frames they speak of."""
    for dialect in dialect_names():
        for frame in FRAMES:
            try:
                get_dialect(dialect, get_frame(frame))
            except ValueError:
                continue
            yield dialect, frame


@pytest.mark.parametrize(("dialect", "coordinates"), list(pairs()))
def test_every_dialect_in_every_frame(dialect, coordinates):
    check_task(SEARCH, samples=1, arguments={"dialect": dialect, "coordinates": coordinates}).raise_if_failed()


@pytest.mark.parametrize(("dialect", "coordinates"), [("hermes", "pixel"), ("tags", "permille")])
def test_all_operations_at_once(tmp_path, dialect, coordinates):
    jsonl(tmp_path)
    arguments = {"data": str(tmp_path), "dialect": dialect, "coordinates": coordinates, "operations": operation_names()}
    check_task("pxr_env:pxr/JSONL-v0", samples=["two", "three"], arguments=arguments | BUDGET).raise_if_failed()


@pytest.mark.parametrize(
    "arguments",
    [
        {"on_limit": "truncate", "duplicates": "execute"},
        {"costs": {"format": 0.1, "operation": 0.05, "duplicate": 0.2, "vision_token": 0.001}},
        {"max_images": 2, "max_vision_tokens": 20, "max_turns": 2},
        {"hard_fraction": 0.0, "operations": []},
    ],
)
def test_other_limits_and_costs(arguments):
    check_task(SEARCH, samples=2, arguments=arguments).raise_if_failed()
