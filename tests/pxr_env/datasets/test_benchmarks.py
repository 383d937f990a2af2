"""V* Bench, TallyQA and InfographicVQA in their published layouts."""

import json

import pytest

from pxr_env.datasets import InfographicVQA, TallyQA, VStar
from pxr_env.errors import DataError

TEXT = (
    "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n"
    "Answer with the option's letter from the given choices directly."
)


def of_vstar(name, image="china.jpg", **other):
    values = {"image": f"direct_attributes/{image}", "text": TEXT, "category": "direct_attributes", "label": "A"}
    return values | {"question_id": name} | other


@pytest.fixture
def vstar(directory, write_lines):
    """A function that writes rows, and annotations beside images, and returns the directory."""
    folder = (directory / "images").rename(directory / "direct_attributes")

    def write(rows, **annotations):
        for name, boxes in annotations.items():
            (folder / f"{name}.json").write_text(boxes if isinstance(boxes, str) else json.dumps({"bbox": boxes}))
        return write_lines(directory / "test_questions.jsonl", rows).parent

    return write


def test_vstar(vstar):
    rows = [
        of_vstar(0),
        of_vstar("1", "flower.png", text="Left?\n(A) left\n(B) right", label="B", category="position"),
        of_vstar(2, "small.png"),
    ]
    directory = vstar(rows, china=[[564, 142, 100, 157]], small=[[10, 5, 10, 20], [3.5, 6, 5, 29]])
    data = VStar(directory)
    assert (list(data.sample_ids()), data.scorer) == (["0", "1", "2"], "multiple_choice")
    first, second = data.get("0"), data.get("1")
    assert (first.question, first.options, first.answers) == (TEXT, ("rubber", "cotton", "kevlar", "leather"), ("A",))
    assert (first.category, first.sources[0].size) == ("direct_attributes", (640, 427))
    # The picture is 640 wide: the box of x 564, width 100 is cut at its edge.
    assert first.evidence_box == (564, 142, 640, 299)
    assert (second.options, second.answers, second.evidence_box) == (("left", "right"), ("B",), None)
    # The box around all objects.
    assert data.get("2").evidence_box == (3.5, 5, 20, 35)
    plain = VStar(directory, instruction=False)
    assert (plain.get("0").question[-11:], plain.get("0").options[3]) == ("(D) leather", "leather")
    assert plain.get("1").question == "Left?\n(A) left\n(B) right"


def test_bad_rows_of_vstar_are_named(vstar, causes):
    expected = {
        "letter": (of_vstar("letter", label="E"), 'label is "E"; expected a letter from A to D'),
        "no label": (of_vstar("no label", label=None), "label is null"),
        "no options": (of_vstar("no options", text="What?"), "expected lines that begin with (A), (B), ... in order"),
        "gap": (of_vstar("gap", text="?\n(A) x\n(C) y"), 'its options are "AC"'),
        "empty": (of_vstar("empty", text="?\n(A) x\n(B)"), "option B is empty"),
        "same": (of_vstar("same", text="?\n(A) x\n(B) x"), "options A and B are both"),
        "no category": (of_vstar("no category", category=None), "category is null"),
        "no box": (of_vstar("no box", "flower.png"), 'bbox of "direct_attributes/flower.json" is []'),
        "outside": (of_vstar("outside", "small.png"), "lies outside of its image of 60x40"),
        "no json": (of_vstar("no json", "china.jpg"), 'its annotation "direct_attributes/china.json" cannot be used'),
    }
    rows = [of_vstar("good", "cut.jpg"), *(bad for bad, _ in expected.values())]
    directory = vstar(rows, flower=[], small=[[100, 0, 5, 5]], china="{", cut=[[1, 1, 20, 20]])
    for name in ("letter", "no label", "no options", "gap", "empty", "same", "no category"):
        expected[name][0]["image"] = "direct_attributes/cut.jpg"
    vstar(rows)
    assert causes(lambda: VStar(directory), expected) == {}
    (directory / "test_questions.jsonl").unlink()
    with pytest.raises(DataError, match=r"holds 0 test_questions\.jsonl files"):
        VStar(directory)


def of_tallyqa(name, **other):
    values = {"answer": 4, "data_source": "imported_genome", "image": "VG_100K_2/china.jpg", "image_id": 92410408}
    return values | {"issimple": False, "question": "How many roofs?", "question_id": name} | other


@pytest.fixture
def tally(directory):
    (directory / "images").rename(directory / "VG_100K_2")
    return directory


def test_subsets_of_tallyqa(tally):
    rows = [of_tallyqa(1), of_tallyqa(2, issimple=True, answer=0), of_tallyqa(3, answer=12)]
    (tally / "test.json").write_text(json.dumps(rows))
    assert list(TallyQA(tally).sample_ids()) == ["1", "3"]
    assert list(TallyQA(tally, subset="simple").sample_ids()) == ["2"]
    data = TallyQA(tally, subset="all")
    assert (len(data), data.scorer, data.get("2").category) == (3, "number", "simple")
    sample = data.get("3")
    assert (sample.answers, sample.category, sample.metadata) == (("12",), "complex", {"row": 2})
    assert sample.sources[0].size == (640, 427)
    with pytest.raises(ValueError, match=r'subset="complx".*Did you mean "complex"'):
        TallyQA(tally, subset="complx")
    (tally / "test.json").rename(tally / "train.json")
    (tally / "images").mkdir()
    (tally / "VG_100K_2").rename(tally / "images" / "VG_100K_2")
    assert TallyQA(tally, split="train").get("1").sources[0].path.is_file()
    with pytest.raises(DataError, match=r"holds 0 test\.json files"):
        TallyQA(tally)


def test_bad_rows_of_tallyqa_are_named(tally, causes):
    expected = {
        "1": (of_tallyqa(1, answer="four"), 'answer is "four"; expected a whole number'),
        "2": (of_tallyqa(2, answer=-1), "answer is -1"),
        "3": (of_tallyqa(3, answer=2.5), "answer is 2.5"),
        "4": (of_tallyqa(4, issimple=None), "issimple is null; expected true or false"),
        "5": (of_tallyqa(5, issimple="no"), 'issimple is "no"'),
        "6": (of_tallyqa(6, image="VG_100K_2/no.jpg"), 'does not exist in "images"'),
    }
    unread = of_tallyqa(9, issimple=True, answer="not in the subset")
    rows = [of_tallyqa(0), *(bad for bad, _ in expected.values()), unread, of_tallyqa(0)]
    (tally / "test.json").write_text(json.dumps(rows))
    [(name, cause)] = causes(lambda: TallyQA(tally), expected).items()
    assert (name, "is that of row 0 (line 1);" in cause) == ("0", True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', 'holds {"a": 1}; expected a list'),
        ("[", "it is no JSON"),
        ('[{"issimple": true},]', "it is no JSON"),
        ("[1 2]", "it is no JSON"),
        ("\xff", "no UTF-8"),
    ],
)
def test_files_of_another_kind_are_refused(tally, text, message):
    (tally / "test.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        TallyQA(tally)


def of_infographics(name, **other):
    values = {"questionId": name, "question": "How many?", "image_local_name": "china.jpg", "answers": ["3", "three"]}
    return values | {"ocr_output_file": "china.json", "data_split": "val"} | other


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    head = {"dataset_name": 'of "data": [', "license": {"x": 1}, "dataset_version": "1.0"}
    path.write_text(json.dumps(head | {"data": rows}))


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("infographicsVQA_val_v1.0_withQT.json", "infographicsvqa_images"),
        ("infographicsvqa_qas/infographicsVQA_val_v1.0_withQT.json", "infographicsvqa_images"),
        ("infographicVQA_val_v1.0.json", "infographicVQA_val_v1.0_images"),
        ("infographicVQA_val_v1.0.json", "images"),
    ],
)
def test_all_layouts_of_infographics(directory, file, images):
    (directory / "images").rename(directory / images)
    write(directory / file, [of_infographics(65718, answer_type=["single span", "non-extractive"]), of_infographics(2)])
    data = InfographicVQA(directory)
    sample = data.get("65718")
    assert (data.scorer, sample.answers, sample.category) == ("anls", ("3", "three"), "single span, non-extractive")
    assert (sample.sources[0].size, data.get("2").category) == ((640, 427), None)
    assert [warning.kind for warning in data.warnings] == ["duplicate"]


def test_of_several_files_the_one_with_question_types_is_read(directory):
    write(directory / "infographicVQA_val_v1.0.json", [of_infographics(1)])
    write(directory / "infographicsVQA_val_v1.0_withQT.json", [of_infographics(2)])
    assert list(InfographicVQA(directory).sample_ids()) == ["2"]
    write(directory / "infographicsVQA_val_v2.0_withQT.json", [of_infographics(3)])
    with pytest.raises(DataError, match="holds 2 infographicsVQA_val_"):
        InfographicVQA(directory)
    with pytest.raises(DataError, match=r"holds 0 infographicsVQA_test_\*\.json files \(none\)"):
        InfographicVQA(directory, split="test")


def test_bad_rows_of_infographics_are_named(directory, causes):
    expected = {
        "2": (of_infographics(2, answers=None), "answers is null"),
        "4": (
            of_infographics(4, image_local_name="no.jpg"),
            'image "no.jpg" does not exist in "infographicsvqa_images"',
        ),
        "6": (of_infographics(6, answer_type=3), "answer_type is 3"),
    }
    file = directory / "infographicsVQA_val_v1.0.json"
    write(file, [of_infographics(0), *(bad for bad, _ in expected.values())])
    assert causes(lambda: InfographicVQA(directory), expected) == {}
    file.write_text("[]")
    with pytest.raises(DataError, match=r'holds \[\]; expected an object with the rows under "data"'):
        InfographicVQA(directory)
