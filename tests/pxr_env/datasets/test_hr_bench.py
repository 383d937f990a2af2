"""HR-Bench: images inside a table, read when they are shown."""

import base64
import csv
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pxr_env.datasets import HRBench
from pxr_env.datasets.readers import TSVTable
from pxr_env.errors import DataError, MediaError

COLUMNS = ["index", "question", "answer", "category", "A", "B", "C", "D", "cycle_category", "image"]


def encode(path):
    return base64.b64encode(path.read_bytes()).decode()


def row(index, image, **other):
    options = {"A": "27B", "B": "37B", "C": "27D", "D": "27E"}
    values = {"index": index, "question": "What is written there?", "answer": "C", "category": "single", **options}
    return values | {"cycle_category": "cycle_0", "image": image} | other


def write(path, rows, columns=COLUMNS, **dialect):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", **dialect)
        writer.writeheader()
        writer.writerows(rows)


def test_rows_become_samples(directory):
    china, flower = (encode(directory / "images" / name) for name in ("china.jpg", "flower.png"))
    tricky = 'Which "sign",\tor\nwhich two?'
    write(directory / "hr_bench_4k.tsv", [row(0, china), row(1, flower, question=tricky, answer="a", category="cross")])
    data = HRBench(directory)
    assert (list(data.sample_ids()), data.scorer, data.warnings) == (["0", "1"], "multiple_choice", ())
    first, second = data.get("0"), data.get("1")
    assert first.question == "What is written there?\n(A) 27B\n(B) 37B\n(C) 27D\n(D) 27E"
    assert (first.options, first.answers, first.category) == (("27B", "37B", "27D", "27E"), ("C",), "single")
    assert first.metadata == {"row": 0, "cycle_category": "cycle_0"}
    assert second.question.startswith(tricky + "\n(A)")
    assert (second.answers, second.category) == (("A",), "cross")
    for sample, name in ((first, "china.jpg"), (second, "flower.png")):
        with Image.open(directory / "images" / name) as picture:
            assert np.array_equal(sample.sources[0].image, picture.convert("RGB"))


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_quoted_tables_and_windows_lines(directory, quoting):
    image = encode(directory / "images" / "china.jpg")
    write(directory / "a.tsv", [row(0, image), row(1, image, D='say "x"')], quoting=quoting)
    (directory / "a.tsv").write_bytes(b"\xef\xbb\xbf" + (directory / "a.tsv").read_bytes().replace(b"\n", b"\r\n"))
    data = HRBench(directory)
    assert data.get("1").options[3] == 'say "x"'
    assert data.get("1").sources[0].image.size == (640, 427)


def test_no_base64_is_held(directory):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8))
    picture.save(directory / "noise.png")
    write(directory / "a.tsv", [row(number, encode(directory / "noise.png")) for number in range(3)])
    data = HRBench(directory)
    assert len(pickle.dumps([data.record(name) for name in data.sample_ids()])) < 5_000
    source = data.get("2").sources[0]
    assert np.array_equal(source.image, picture)


def test_an_image_may_be_named_by_the_row_that_has_it(directory):
    image = encode(directory / "images" / "small.png")
    write(directory / "a.tsv", [row(5, image), row(6, "5", answer="D"), row(7, "8"), row(8, image)])
    data = HRBench(directory, skip_bad_rows=True)
    assert data.record("6").media == data.record("5").media
    assert [(bad.sample_id, bad.cause) for bad in data.skipped] == [
        (
            "7",
            'image "8" does not exist in "images"; expected a file relative to the directory. Base64, or the index of '
            "an earlier row, may stand here, too",
        )
    ]
    assert [warning.sample_id for warning in data.warnings] == ["6", "8"]


def test_bad_rows_are_named(directory, causes):
    image = encode(directory / "images" / "small.png")
    text = base64.b64encode(b"no image at all, but long enough to be one" * 3).decode()
    advice = "Base64, or the index of an earlier row, may stand here, too"
    expected = {
        "1": (row(1, image, answer="E"), 'answer is "E"; expected a letter from A to D'),
        "2": (row(2, image, B=""), "option B is empty"),
        "4": (row(4, ""), "image is empty; expected base64"),
        "5": (row(5, text), advice),
        "6": (row(6, "!" * 100), advice),
        "7": (row(7, encode(directory / "images" / "narrow.png")), "expected sides with a ratio"),
    }
    write(directory / "a.tsv", [row(0, image), *(bad for bad, _ in expected.values()), row(0, image)])
    with open(directory / "a.tsv", "a") as file:
        file.write("9\tone column too few\n")
    found = causes(lambda: HRBench(directory), expected)
    assert "is that of line 2;" in found.pop("0")
    assert found == {None: "it has 2 columns; expected 10, separated by tabs"}


def test_an_image_that_is_cut_off_or_gone_is_found_when_it_is_decoded(directory):
    write(directory / "a.tsv", [row(0, encode(directory / "images" / "cut.jpg"))])
    data = HRBench(directory)
    for change, message in ((lambda: None, "cannot be decoded"), ((directory / "a.tsv").unlink, "is gone")):
        change()
        with pytest.raises(MediaError, match=rf'the image at image of a row of ".*a\.tsv" {message}'):
            _ = data.get("0").sources[0].image


def test_a_quotation_mark_that_nothing_closes_spoils_a_bounded_number_of_rows(directory, monkeypatch):
    monkeypatch.setattr("pxr_env.datasets.readers.MOST_LINES", 3)
    image = encode(directory / "images" / "small.png")
    write(directory / "a.tsv", [row(number, image) for number in range(8)], quoting=csv.QUOTE_NONE)
    text = (directory / "a.tsv").read_text().replace("2\tWhat is", '2\t"What is')
    (directory / "a.tsv").write_text(text)
    data = HRBench(directory, skip_bad_rows=True)
    assert list(data.sample_ids()) == ["0", "1", "5", "6", "7"]
    assert [bad.cause for bad in data.skipped] == ["it has 2 columns; expected 10, separated by tabs"]


CELLS = st.text(st.sampled_from('ab "\t\n,\u00e9'), max_size=6)


@given(rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=5), quoting=st.sampled_from([0, 1]))
def test_tables_are_read_as_they_were_written(tmp_path_factory, rows, quoting):
    path = tmp_path_factory.getbasetemp() / "table.tsv"
    columns = ["index", "a", "b", "c"]
    written = [dict(zip(columns, [str(number), *cells], strict=True)) for number, cells in enumerate(rows)]
    write(path, written, columns, quoting=quoting)
    table = TSVTable(path, ["index"])
    read = list(table.rows())
    assert [row.values for row in read] == written
    assert [{name: table.value(row.key, name) for name in columns} for row in read] == written


def test_what_is_no_utf8_is_one_bad_row(directory):
    write(directory / "a.tsv", [row(0, "images/small.png"), row(1, "images/small.png", C="*")])
    (directory / "a.tsv").write_bytes((directory / "a.tsv").read_bytes().replace(b"*", b"\xff"))
    data = HRBench(directory, skip_bad_rows=True)
    assert [str(bad) for bad in data.skipped] == ["line 3 (id missing): C is no UTF-8; expected text"]


def test_files_are_chosen_by_name(directory):
    image = encode(directory / "images" / "small.png")
    for name in ("hr_bench_4k", "hr_bench_8k"):
        write(directory / f"{name}.tsv", [row(name, image)])
    with pytest.raises(DataError, match=r"holds 2 \*\.tsv files"):
        HRBench(directory)
    assert list(HRBench(directory, name="hr_bench_8k").sample_ids()) == ["hr_bench_8k"]
    write(directory / "other.tsv", [], columns=["index", "question"])
    with pytest.raises(DataError, match='has no column "answer"'):
        HRBench(directory, name="other")
