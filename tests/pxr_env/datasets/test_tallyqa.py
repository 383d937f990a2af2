"""TallyQA in its published layout."""

import json

import pytest

from pxr_env.datasets import TallyQA
from pxr_env.errors import DataError


def row(name, **other):
    return {
        "answer": 4,
        "data_source": "imported_genome",
        "image": "VG_100K_2/china.jpg",
        "image_id": 92410408,
        "issimple": False,
        "question": "How many roofs does the tall building have?",
        "question_id": name,
    } | other


@pytest.fixture
def tally(directory):
    (directory / "images").rename(directory / "VG_100K_2")
    return directory


def test_subsets(tally):
    rows = [row(1), row(2, issimple=True, answer=0), row(3, answer=12)]
    (tally / "test.json").write_text(json.dumps(rows))
    assert list(TallyQA(tally).sample_ids()) == ["1", "3"]
    assert list(TallyQA(tally, subset="simple").sample_ids()) == ["2"]
    data = TallyQA(tally, subset="all")
    assert (len(data), data.scorer) == (3, "number")
    sample = data.get("3")
    assert (sample.answers, sample.category, sample.metadata) == (("12",), "complex", {"row": 2})
    assert data.get("2").category == "simple"
    assert sample.sources[0].size == (640, 427)
    with pytest.raises(ValueError, match=r'subset="complx".*Did you mean "complex"'):
        TallyQA(tally, subset="complx")


def test_images_may_lie_in_a_folder_and_splits_have_their_own_file(tally):
    (tally / "images").mkdir()
    (tally / "VG_100K_2").rename(tally / "images" / "VG_100K_2")
    (tally / "train.json").write_text(json.dumps([row(1)]))
    assert TallyQA(tally, split="train").get("1").sources[0].path.is_file()
    with pytest.raises(DataError, match=r"holds 0 test\.json files"):
        TallyQA(tally)


def test_bad_rows_are_named(tally, causes):
    expected = {
        "1": (row(1, answer="four"), 'answer is "four"; expected a whole number'),
        "2": (row(2, answer=-1), "answer is -1"),
        "3": (row(3, answer=2.5), "answer is 2.5"),
        "4": (row(4, answer=True), "answer is true"),
        "5": (row(5, issimple=None), "issimple is null; expected true or false"),
        "6": (row(6, issimple="no"), 'issimple is "no"'),
        "7": (row(7, image="VG_100K_2/no.jpg"), "does not exist in"),
        "8": (row(8, question=""), "question is"),
    }
    rows = [row(0), *(bad for bad, _ in expected.values()), row(9, issimple=True, answer="not in the subset"), row(0)]
    (tally / "test.json").write_text(json.dumps(rows))
    ((name, cause),) = causes(lambda: TallyQA(tally), expected).items()
    assert (name, "is that of row 0 (line 1);" in cause) == ("0", True)


@pytest.mark.parametrize(
    ("text", "message"), [('{"a": 1}', 'holds {"a": 1}; expected a list'), ("[", "it is no JSON"), ("\xff", "no UTF-8")]
)
def test_files_of_another_kind_are_refused(tally, text, message):
    (tally / "test.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        TallyQA(tally)
