"""V* Bench in its published layout."""

import json

import pytest

from pxr_env.datasets import VStar
from pxr_env.errors import DataError

TEXT = (
    "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n"
    "Answer with the option's letter from the given choices directly."
)


def row(name, **other):
    return {
        "image": "direct_attributes/china.jpg",
        "text": TEXT,
        "category": "direct_attributes",
        "label": "A",
        "question_id": name,
    } | other


@pytest.fixture
def vstar(directory):
    (directory / "images").rename(directory / "direct_attributes")
    annotation = {"target_object": ["glove"], "bbox": [[564, 142, 100, 157]], "question": "What is it?"}
    (directory / "direct_attributes" / "china.json").write_text(json.dumps(annotation))
    return directory


def test_questions_become_samples(vstar, write_lines):
    rows = [
        row(0),
        row(
            "1", image="direct_attributes/flower.png", text="Left?\n(A) left\n(B) right", label="B", category="position"
        ),
    ]
    write_lines(vstar / "test_questions.jsonl", rows)
    data = VStar(vstar)
    assert (list(data.sample_ids()), data.scorer) == (["0", "1"], "multiple_choice")
    first, second = data.get("0"), data.get("1")
    assert first.question == TEXT
    assert (first.options, first.answers) == (("rubber", "cotton", "kevlar", "leather"), ("A",))
    assert first.category == "direct_attributes"
    assert first.sources[0].size == (640, 427)
    # The picture is 640 wide: the box of x 564, width 100 is cut at its edge.
    assert first.evidence_box == (564, 142, 640, 299)
    assert (second.options, second.answers, second.evidence_box) == (("left", "right"), ("B",), None)


def test_the_evidence_box_surrounds_all_objects(vstar, write_lines):
    write_lines(vstar / "test_questions.jsonl", [row(0)])
    (vstar / "direct_attributes" / "china.json").write_text('{"bbox": [[100, 50, 10, 20], [30.5, 60, 5, 90]]}')
    assert VStar(vstar).get("0").evidence_box == (30.5, 50, 110, 150)


def test_the_instruction_can_be_left_out(vstar, write_lines):
    write_lines(vstar / "test_questions.jsonl", [row(0), row(1, text="Left?\n(A) left\n(B) right")])
    data = VStar(vstar, instruction=False)
    assert data.get("0").question.endswith("(D) leather")
    assert data.get("0").options[3] == "leather"
    assert data.get("1").question == "Left?\n(A) left\n(B) right"


def test_bad_rows_are_named(vstar, write_lines, causes):
    annotations = {"flower": '{"bbox": []}', "small": '{"bbox": [[100, 0, 5, 5]]}', "narrow": "{"}
    for name, text in annotations.items():
        (vstar / "direct_attributes" / f"{name}.json").write_text(text)
    expected = {
        "letter": (row("letter", label="E"), 'label is "E"; expected a letter from A to D'),
        "no label": (row("no label", label=None), "label is null"),
        "word": (row("word", label="paper"), "expected a letter from A to D"),
        "no options": (row("no options", text="What is it?"), "expected lines that begin with (A), (B), ... in order"),
        "gap": (row("gap", text="?\n(A) x\n(C) y"), 'its options are "AC"'),
        "empty": (row("empty", text="?\n(A) x\n(B)"), "option B is empty"),
        "same": (row("same", text="?\n(A) x\n(B) x"), "options A and B are both"),
        "image": (row("image", image="direct_attributes/no.jpg"), "does not exist"),
        "no category": (row("no category", category=None), "category is null"),
        "no box": (
            row("no box", image="direct_attributes/flower.png"),
            'bbox of "direct_attributes/flower.json" is []',
        ),
        "outside": (row("outside", image="direct_attributes/small.png"), "lies outside of its image of 60x40"),
        "narrow": (row("narrow", image="direct_attributes/narrow.png"), "sides with a ratio"),
    }
    write_lines(vstar / "test_questions.jsonl", [row("good"), *(bad for bad, _ in expected.values()), row("good")])
    ((name, cause),) = causes(lambda: VStar(vstar), expected).items()
    assert (name, "is that of line 1;" in cause) == ("good", True)


def test_a_missing_file_is_named(vstar):
    with pytest.raises(DataError, match=r"holds 0 test_questions\.jsonl files"):
        VStar(vstar)
