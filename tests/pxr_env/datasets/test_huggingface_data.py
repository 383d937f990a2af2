"""Data sets of the `datasets` library, saved to disk."""

import pickle

import numpy as np
import pytest
from PIL import Image

from pxr_env.datasets import HuggingFaceData
from pxr_env.errors import DataError

datasets = pytest.importorskip("datasets")


def save(path, rows, features=None):
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(path))
    return path


@pytest.fixture
def saved(tmp_path, pictures):
    """Two rows with embedded images, one of them with two."""
    text = datasets.Value("string")
    features = dict.fromkeys(("query", "target", "kind"), text) | {"key": datasets.Value("int64")}
    features |= {"picture": datasets.List(datasets.Image()), "choices": datasets.List(text)}
    files = {name: {"bytes": (pictures / name).read_bytes(), "path": None} for name in ("china.jpg", "flower.png")}
    first = {"key": 7, "query": "What?", "picture": [files["china.jpg"]], "target": "B", "choices": None, "kind": "x"}
    second = {"key": 8, "query": "Which?", "picture": list(files.values()), "target": "a cat", "kind": None}
    rows = [first, second | {"choices": ["a dog", "a cat"]}]
    return save(tmp_path / "saved", rows, datasets.Features(features))


COLUMNS = {"id": "key", "question": "query", "images": "picture", "answers": "target", "options": "choices"}


def test_columns_are_mapped_and_images_read_from_their_bytes(saved, pictures):
    data = HuggingFaceData(saved, columns=COLUMNS | {"category": "kind"})
    assert list(data.sample_ids()) == ["7", "8"]
    first, second = data.get("7"), data.get("8")
    assert (first.question, first.answers, first.category, first.options) == ("What?", ("B",), "x", ())
    assert second.question == "Which?\n(A) a dog\n(B) a cat"
    assert (second.answers, second.category) == (("B",), None)
    for source, name in zip((*first.sources, *second.sources), ("china.jpg", "china.jpg", "flower.png"), strict=True):
        with Image.open(pictures / name) as picture:
            assert np.array_equal(source.image, picture.convert("RGB"))
    assert data.record("7").media[0] == data.record("8").media[0]
    copy = pickle.loads(pickle.dumps(data.record("8")))
    assert copy.sample().sources[1].image.size == (427, 640)
    assert len(pickle.dumps(data.record("8"))) < 2_000


def test_missing_and_unknown_columns_say_what_to_do(saved):
    with pytest.raises(DataError, match='has no column "question" for question; expected one of key, query'):
        HuggingFaceData(saved)
    with pytest.raises(DataError, match=r'no column "kin" for category.*Did you mean "kind"'):
        HuggingFaceData(saved, columns=COLUMNS | {"category": "kin"})
    with pytest.raises(ValueError, match=r'columns has the field "answer".*Did you mean "answers"'):
        HuggingFaceData(saved, columns={"answer": "target"})


def test_paths_whole_numbers_and_splits(directory):
    rows = [
        {"question": "How many?", "images": "images/small.png", "answers": 3},
        {"question": "How many now?", "images": "images/china.jpg", "answers": 4},
    ]
    table = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(str(directory))
    data = HuggingFaceData(directory, split="test")
    assert (list(data.sample_ids()), data.get("0").answers) == (["0"], ("4",))
    assert data.get("0").sources[0].image.size == (640, 427)
    with pytest.raises(DataError, match=r'got split="tests".*Did you mean "test"'):
        HuggingFaceData(directory, split="tests")
    with pytest.raises(DataError, match="got split=null, expected one of train, test"):
        HuggingFaceData(directory)


def test_what_is_no_saved_data_set_is_refused(directory):
    with pytest.raises(DataError, match="cannot be opened"):
        HuggingFaceData(directory)
