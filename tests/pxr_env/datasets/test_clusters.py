"""What questions belong to, in every format: those about one image or video are one cluster."""

from __future__ import annotations

import base64
import json

import pytest

from pxr_env.datasets import FORMATS, open_dataset

FRAMES = [f"clip/{number}.png" for number in range(1, 7)]


def _parquet(path, rows):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def rl_data(directory):
    rows = [
        {"qid": name, "question": "?", "answer": ["A"], "image": image, "is_video": len(image) > 2}
        for name, image in (
            ("a", ["images/small.png"]),
            ("b", ["images/china.jpg"]),
            ("c", ["images/small.png", "images/china.jpg"]),
            ("d", FRAMES),
            ("e", FRAMES),
        )
    ]
    _parquet(directory / "release.parquet", rows)
    return {"a": "a", "b": "b", "c": "a", "d": "d", "e": "d"}


def vstar(directory):
    lines = [
        {"question_id": n, "image": f"images/{image}", "text": "?\n(A) one\n(B) two", "category": "c", "label": "A"}
        for n, image in enumerate(("small.png", "china.jpg", "small.png"))
    ]
    (directory / "test_questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"0": "0", "1": "1", "2": "0"}


def tallyqa(directory):
    rows = [
        {"question_id": n, "image": image, "question": f"{n}?", "answer": 2, "issimple": False}
        for n, image in enumerate(("small.png", "small.png", "china.jpg"))
    ]
    (directory / "test.json").write_text(json.dumps(rows))
    return {"0": "0", "1": "0", "2": "2"}


def infographicvqa(directory):
    rows = [
        {"questionId": n, "image_local_name": image, "question": f"{n}?", "answers": ["x"]}
        for n, image in enumerate(("small.png", "china.jpg", "china.jpg"))
    ]
    (directory / "infographicsVQA_val_v1.0.json").write_text(json.dumps({"data": rows}))
    return {"0": "0", "1": "1", "2": "1"}


def mvbench(directory):
    (directory / "json").mkdir()
    (directory / "ssv2_video").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (directory / "ssv2_video" / name).write_bytes(b"\0\0\0\x18ftypisom" + bytes(20))
    rows = [
        {"video": name, "question": "?", "candidates": ["one", "two"], "answer": "one", **clip}
        for name, clip in (("a.mp4", {"start": 0, "end": 1}), ("b.mp4", {}), ("a.mp4", {"start": 1, "end": 2}))
    ]
    (directory / "json" / "action_antonym.json").write_text(json.dumps(rows))
    return {"action_antonym-0": "action_antonym-0", "action_antonym-1": "action_antonym-1"} | {
        "action_antonym-2": "action_antonym-0"
    }


def hrbench(directory):
    names = ("index", "question", "answer", "category", "A", "B", "C", "D", "cycle_category", "image")
    images = [
        base64.b64encode((directory / "images" / name).read_bytes()).decode() for name in ("small.png", "china.jpg")
    ]
    rows = [names]
    for index in range(8):
        # The first question has a copy of its image in each row, the second refers to its first row.
        image = images[0] if index < 4 else images[1] if index == 4 else "4"
        options = [f"o{(index + place) % 4}" for place in range(4)]
        rows.append((str(index), "?", "ABCD"[-index % 4], "single", *options, str(index % 4), image))
    (directory / "hr_bench_4k.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return {str(index): "0" if index < 4 else "4" for index in range(8)}


def jsonl(directory):
    lines = [
        {"id": name, "question": "?", "answers": "x", **media}
        for name, media in (
            ("a", {"images": "images/small.png"}),
            ("b", {"images": ["images/small.png", "images/china.jpg"]}),
            ("c", {"images": "images/small.png", "cluster": "my own"}),
            ("d", {"images": "images/china.jpg", "cluster": 7}),
            ("e", {"video": "clip", "start": 0, "end": 2}),
            ("f", {"video": "clip", "start": 2, "end": 4}),
            ("g", {"video": FRAMES}),
            ("h", {"video": FRAMES, "start": 1}),
        )
    ]
    (directory / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"a": "a", "b": "a", "c": "my own", "d": "7", "e": "e", "f": "e", "g": "g", "h": "g"}


def huggingface(directory):
    datasets = pytest.importorskip("datasets")
    content = {name: (directory / "images" / name).read_bytes() for name in ("small.png", "china.jpg")}
    rows = [
        {
            "id": name,
            "question": "?",
            "answers": ["x"],
            "images": {"bytes": content[image], "path": None},
            "cluster": own,
        }
        for name, image, own in (
            ("a", "small.png", None),
            ("b", "china.jpg", None),
            ("c", "small.png", None),
            ("d", "small.png", "my own"),
        )
    ]
    datasets.Dataset.from_list(rows).save_to_disk(directory / "saved")
    return {"a": "a", "b": "b", "c": "a", "d": "my own"}


WRITERS = {
    "rl_data": rl_data,
    "evaluation": rl_data,
    "vstar": vstar,
    "tallyqa": tallyqa,
    "infographicvqa": infographicvqa,
    "mvbench": mvbench,
    "hrbench": hrbench,
    "jsonl": jsonl,
    "huggingface": huggingface,
}


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"sft"}))
def test_questions_about_one_image_or_video_belong_together(name, directory):
    expected = WRITERS[name](directory)
    data = open_dataset(directory / "saved" if name == "huggingface" else directory, name)
    assert {sample_id: data.get(sample_id).cluster for sample_id in data.sample_ids()} == expected


def test_a_cluster_is_a_name(directory, write_lines, causes):
    row = {"question": "?", "answers": "x", "images": "images/small.png"}
    path = write_lines(
        directory / "d.jsonl", [{"id": "a", "cluster": ["x"], **row}, {"id": "b", "cluster": " ", **row}]
    )
    found = causes(lambda: open_dataset(path))
    assert found == {"a": 'cluster is ["x"]; expected text', "b": 'cluster is " "; expected text'}


def test_drawn_samples_stand_alone():
    from pxr_env.synthetic import SyntheticSearch

    data = SyntheticSearch(split="test")
    assert data.get(data.sample_ids()[0]).cluster is None
