"""InfographicVQA in its published layouts."""

import json

import pytest

from pxr_env.datasets import InfographicVQA
from pxr_env.errors import DataError


def row(name, **other):
    return {
        "questionId": name,
        "question": "How many?",
        "image_local_name": "china.jpg",
        "image_url": "https://example.org/china.jpg",
        "ocr_output_file": "china.json",
        "answers": ["3", "three"],
        "data_split": "val",
    } | other


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"dataset_name": "infographicVQA", "dataset_version": "1.0", "data": rows}))


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("infographicsVQA_val_v1.0_withQT.json", "infographicsvqa_images"),
        ("infographicsvqa_qas/infographicsVQA_val_v1.0_withQT.json", "infographicsvqa_images"),
        ("infographicVQA_val_v1.0.json", "infographicVQA_val_v1.0_images"),
        ("infographicVQA_val_v1.0.json", "images"),
    ],
)
def test_all_layouts(directory, file, images):
    if images != "images":
        (directory / "images").rename(directory / images)
    write(directory / file, [row(65718, answer_type=["single span", "non-extractive"]), row(2)])
    data = InfographicVQA(directory)
    sample = data.get("65718")
    assert (data.scorer, sample.answers, sample.category) == ("anls", ("3", "three"), "single span, non-extractive")
    assert sample.sources[0].size == (640, 427)
    assert data.get("2").category is None
    assert [warning.kind for warning in data.warnings] == ["duplicate"]


def test_of_several_files_the_one_with_question_types_is_read(directory):
    write(directory / "infographicVQA_val_v1.0.json", [row(1)])
    write(directory / "infographicsVQA_val_v1.0_withQT.json", [row(2)])
    assert list(InfographicVQA(directory).sample_ids()) == ["2"]
    write(directory / "infographicsVQA_val_v2.0_withQT.json", [row(3)])
    with pytest.raises(DataError, match="holds 2 infographicsVQA_val_"):
        InfographicVQA(directory)
    with pytest.raises(DataError, match=r"holds 0 infographicsVQA_test_\*\.json files \(none\)"):
        InfographicVQA(directory, split="test")


def test_bad_rows_are_named(directory, causes):
    expected = {
        "1": (row(1, answers=[]), "answers is []; expected text or a number"),
        "2": (row(2, answers=None), "answers is null"),
        "3": (row(3, answers={"a": 1}), 'answers is {"a": 1}; expected text or a number'),
        "4": (row(4, image_local_name="no.jpg"), 'image "no.jpg" does not exist in "infographicsvqa_images"'),
        "6": (row(6, answer_type=3), "answer_type is 3"),
    }
    write(directory / "infographicsVQA_val_v1.0.json", [row(0), *(bad for bad, _ in expected.values())])
    assert causes(lambda: InfographicVQA(directory), expected) == {}


def test_a_file_without_data_is_refused(directory):
    (directory / "infographicsVQA_val_v1.0.json").write_text("[]")
    with pytest.raises(DataError, match=r'holds \[\]; expected an object with the rows under "data"'):
        InfographicVQA(directory)
