"""The same value means the same in every format: answers, options, images, and the places of bad rows."""

import base64
import csv
import datetime
import decimal
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from pxr_env.datasets import FORMATS, HuggingFaceData, open_dataset
from pxr_env.errors import DataError

JSON_FORMATS = ("jsonl", "vstar", "tallyqa", "infographicvqa", "mvbench", "sft")
TABLES = ("huggingface", "rl_data", "evaluation")
OPTIONS = ["one", "two", "three", "four"]
COLUMNS = {
    **dict.fromkeys(("huggingface", "jsonl"), ("id", "answers", "images")),
    **dict.fromkeys(("rl_data", "evaluation"), ("qid", "answer", "image")),
    "vstar": ("question_id", "label", "image"),
    "tallyqa": ("question_id", "answer", "image"),
    "infographicvqa": ("questionId", "answers", "image_local_name"),
    "hrbench": ("index", "answer", "image"),
}


def row_of(name, sample_id, answers="1", image="small.png", options=None):
    """A row of a format; with `options` of those that know them."""
    if name == "sft":
        said = [{"role": "user", "content": [{"image": image}]}, {"role": "assistant", "content": "yes"}]
        return {"qid": sample_id, "message_list": said}
    if name == "mvbench":
        return {"video": "clip.mp4", "question": "Which?", "candidates": options or OPTIONS, "answer": answers}
    row = dict(zip((*COLUMNS[name], "question"), (sample_id, answers, image, "Which?"), strict=True))
    if name == "vstar":
        lines = "".join(f"\n({letter}) {option}" for letter, option in zip("ABCD", options or OPTIONS, strict=False))
        row |= {"text": row.pop("question") + lines, "category": "c"}
    elif name == "hrbench":
        row |= dict(zip("ABCD", options or OPTIONS, strict=True))
    elif name == "tallyqa":
        row |= {"issimple": False}
    elif options:
        row |= {"options": options}
    return row


FILES = {"jsonl": "data.jsonl", "vstar": "test_questions.jsonl", "tallyqa": "test.json", "sft": "release.json"}
FILES |= {"infographicvqa": "infographicsVQA_val_v1.0.json", "mvbench": "json/moving_count.json"}
FILES |= {"hrbench": "hr_bench_4k.tsv", "rl_data": "a.parquet", "evaluation": "a.parquet"}


def write(folder, name, rows, arrow=None):
    """Writes the rows as the file of a format; `arrow` says which type of arrow a column has."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (60, 40), "red").save(folder / "small.png")
    (folder / "clevrer" / "video_validation").mkdir(parents=True, exist_ok=True)
    (folder / "clevrer" / "video_validation" / "clip.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(20))
    if name in TABLES:
        pa = pytest.importorskip("pyarrow")
        columns = {key: [row.get(key) for row in rows] for key in rows[0]}
        types = arrow or {}
        table = pa.table({key: pa.array(values, types.get(key)) for key, values in columns.items()})
        if name == "huggingface":
            pytest.importorskip("datasets").Dataset(table).save_to_disk(str(folder))
        else:
            pytest.importorskip("pyarrow.parquet").write_table(table, folder / FILES[name])
        return
    path = folder / FILES[name]
    path.parent.mkdir(exist_ok=True)
    if name == "hrbench":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps({"data": rows} if name == "infographicvqa" else rows, indent=1))


def read(folder, name, row, arrow=None):
    """The only good row of a file beside which there is no other; or the cause for which it is bad."""
    write(folder, name, [row], arrow)
    try:
        data = open_dataset(folder, name, **({"subset": "all"} if name == "tallyqa" else {}))
    except DataError as error:
        [bad] = error.bad_rows
        return bad.cause
    return data[0] if name == "sft" else data.get(data.sample_ids()[0])


def came(sample):
    return sample if isinstance(sample, str) else sample.answers


WRITTEN = [
    ("3", ("3",)),
    (3, ("3",)),
    (3.0, ("3",)),
    (0, ("0",)),
    ([3, 4], ("3", "4")),
    ([3.0, 3.0], ("3",)),
    (["3"], ("3",)),
    (True, "is true; expected text or a number"),
    (None, "is null; expected text or a number"),
    ("", 'is ""; expected text or a number'),
    (" \n", "expected text or a number"),
    ([], "is []; expected text or a number"),
    ([None], "is null; expected text or a number"),
    ([[3]], "is [3]; expected text or a number"),
    ({"a": 3}, 'is {"a": 3}; expected text or a number'),
    (0.1 + 0.2, "is 0.30000000000000004, which is no number as it was written"),
    (1e300, "is 1e+300, which is no number as it was written"),
]
ONLY_JSON = [
    ([3, "3"], ("3",)),
    (10**400, "bits; expected a number of at most 300 digits"),
    (["3", None], "entry 2 of"),
]
NOT_COUNTED = [(2.5, ("2.5",)), (-7, ("-7",)), (1e-7, ("0.0000001",)), (["three", "3"], ("three", "3")), ("B", ("B",))]


@pytest.mark.parametrize("name", ["jsonl", "infographicvqa", "tallyqa", *TABLES])
def test_answers_are_read_alike(tmp_path, name):
    cases = WRITTEN + (ONLY_JSON if name in JSON_FORMATS else []) + (NOT_COUNTED if name != "tallyqa" else [])
    for number, (value, expected) in enumerate(cases):
        found = came(read(tmp_path / str(number), name, row_of(name, "q", value)))
        assert expected in found if isinstance(expected, str) else found == expected, (value, found)


@pytest.mark.parametrize("name", TABLES)
def test_answers_of_every_arrow_type_are_read(tmp_path, name):
    pa = pytest.importorskip("pyarrow")
    cases = [
        (decimal.Decimal("3.00"), None, ("3",)),
        (decimal.Decimal("-2.50"), None, ("-2.5",)),
        (3, pa.int8(), ("3",)),
        (3.0, pa.float16(), ("3",)),
        (0.5, pa.float32(), ("0.5",)),
        (0.1, pa.float32(), "is 0.10000000149011612, which is no number as it was written"),
        (math.nan, None, "is nan; expected text or a number"),
        (math.inf, None, "is inf; expected text or a number"),
        ("a", pa.large_string(), ("a",)),
        ("a", pa.dictionary(pa.int32(), pa.string()), ("a",)),
        (["a", "b"], pa.large_list(pa.string()), ("a", "b")),
        ([1, 2], pa.list_(pa.int64(), 2), ("1", "2")),
        (datetime.date(2024, 2, 1), None, "is 2024-02-01 (date); expected text or a number"),
        (datetime.datetime(2024, 2, 1, 12), None, "2024-02-01 12:00:00 (datetime)"),
        (datetime.timedelta(seconds=3), None, "0:00:03 (timedelta)"),
        (b"a", pa.large_binary(), "is b'a'; expected text or a number"),
        ([{"text": "a"}], None, 'is {"text": "a"}; expected text or a number'),
        (None, pa.null(), "is null; expected text or a number"),
    ]
    if name == "huggingface":
        cases = [case for case in cases if case[1] != pa.float16()]
    for number, (value, kind, expected) in enumerate(cases):
        found = came(read(tmp_path / str(number), name, row_of(name, "q", value), {COLUMNS[name][1]: kind}))
        assert expected in found if isinstance(expected, str) else found == expected, (value, found)


LETTERS = ["B", "b", "(B)", "(b)", "B.", "B:", "B)", "[B]", "two", " Two ", "B. two", "(B) two", "B: Two"]
NUMBERS = [1, 1.0, np.int64(1).item()]
NO_OPTION = ["E", "five", "B. one", "BB", "B two three", "1"]
NO_NUMBER = [4, -1, 1.5, True, [1, 9]]


@pytest.mark.parametrize("name", ["jsonl", "vstar", "mvbench", "hrbench", "huggingface"])
def test_options_are_named_alike(tmp_path, name):
    image = _base64(tmp_path / "image.png") if name == "hrbench" else "small.png"
    good = LETTERS + (NUMBERS if name != "hrbench" else [])
    bad = NO_OPTION + (NO_NUMBER if name != "hrbench" else [])
    for number, value in enumerate([*good, *bad]):
        found = came(read(tmp_path / str(number), name, row_of(name, "q", value, image, OPTIONS)))
        if number < len(good):
            assert found == ("B",), (value, found)
        else:
            assert "expected a letter from A to D" in found or "expected text or a number" in found, (value, found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("jsonl", None), ("huggingface", None), ("vstar", ("A",)), ("hrbench", ("A",)), ("mvbench", ("B",))],
)
def test_an_answer_with_two_meanings_is_what_the_format_declares_or_refused(tmp_path, name, expected):
    image = _base64(tmp_path / "image.png") if name == "hrbench" else "small.png"
    found = came(read(tmp_path, name, row_of(name, "q", "A", image, ["B", "A", "x", "y"])))
    assert found == expected or (expected is None and "names option A and option B" in found)


def test_a_number_that_is_an_option_itself_is_refused(tmp_path):
    found = came(read(tmp_path, "jsonl", row_of("jsonl", "q", 1, options=["1", "2"])))
    assert "answers is 1, which names option A and option B, one by its letter or number" in found


def _base64(path):
    Image.new("RGB", (60, 40), "red").save(path)
    return base64.b64encode(path.read_bytes()).decode()


def _wrapped(text):
    return "\n".join(text[start : start + 76] for start in range(0, len(text), 76))


def images_of(data):
    text = base64.b64encode(data).decode()
    return {
        "base64": text,
        "lines": _wrapped(text),
        "without padding": text.rstrip("="),
        "for URLs": text.replace("+", "-").replace("/", "_"),
        "data URI": f"data:image/png;base64,{text}",
        "data URI with a charset": f"DATA:image/png;charset=utf-8;base64,{_wrapped(text)}",
    }


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"mvbench"}))
def test_images_are_read_alike(tmp_path, name):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8))
    picture.save(tmp_path / "image.png")
    data = (tmp_path / "image.png").read_bytes()
    good = images_of(data)
    if name != "hrbench":
        good |= {"object": {"bytes": good["base64"] if name in JSON_FORMATS else data, "path": None}}
        good |= {"object with a path": {"bytes": None, "path": "image.png"}}
    if name in TABLES:
        good |= {"bytes": data}
    answer = "A" if name in ("vstar", "hrbench") else "1"
    for number, (what, value) in enumerate(good.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        picture.save(folder / "image.png")
        sample = read(folder, name, row_of(name, "q", answer, value))
        assert not isinstance(sample, str), (what, sample)
        source = sample.media[0].open() if name == "sft" else sample.sources[0]
        assert np.array_equal(source.image, picture), what


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"mvbench"}))
def test_what_is_no_image_is_a_bad_row(tmp_path, name):
    no_image = base64.b64encode(b"no image at all, but long enough to be one" * 3).decode()
    bad = {"data:image/png;base64,!!!": "", f"data:image/png;base64,{no_image}": "cannot be decoded"}
    bad |= {
        "no.png": "does not exist",
        "https://example.org/a.png": "is an address; expected a file",
        "../a.png": "leaves",
    }
    if name != "hrbench":
        bad[""] = "expected a path"
    cases = list(bad.items())
    if name in (*JSON_FORMATS, *TABLES):
        cases += [(value, "expected") for value in (None, 3, {"bytes": None, "path": None}, {"url": "a"})]
    answer = "A" if name in ("vstar", "hrbench") else "1"
    for number, (value, cause) in enumerate(cases):
        found = read(tmp_path / str(number), name, row_of(name, "q", answer, value))
        assert isinstance(found, str), value
        assert cause in found, (value, found)


def test_lists_of_images_in_rows(tmp_path):
    text = _base64(tmp_path / "image.png")
    data = {"bytes": (tmp_path / "image.png").read_bytes(), "path": None}
    for name in ("jsonl", "rl_data", "huggingface", "infographicvqa"):
        value = [data] * 2 if name in TABLES else [f"data:image/png;base64,{text}", "small.png"]
        sources = read(tmp_path / name, name, row_of(name, "q", "1", value)).sources
        assert [source.image.size for source in sources] == [(60, 40)] * 2


def test_label_columns_count_by_their_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["cat", "dog", "cow"])
    texts = datasets.Value("string")
    features = dict.fromkeys(("id", "question", "images"), texts) | dict.fromkeys(("answers", "category"), label)
    features = datasets.Features(features | {"several": [label], "options": [texts]})
    _base64(tmp_path / "small.png")
    row = {"question": "Which?", "images": "small.png", "answers": 1, "category": 2, "several": [1, 0], "options": None}
    rows = [
        row | {"id": "name"},
        row | {"id": "number", "options": ["a sheep", "a goat"]},
        row | {"id": "agree", "options": ["cat", "dog"]},
        row | {"id": "differ", "options": ["dog", "cat"]},
        row | {"id": "unlabelled", "answers": -1},
        row | {"id": "beyond", "answers": 2, "options": ["a sheep", "a goat"]},
    ]
    table = datasets.Dataset.from_list(rows, features=features)
    table.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "small.png").write_bytes((tmp_path / "small.png").read_bytes())
    data = HuggingFaceData(tmp_path / "saved", skip_bad_rows=True)
    assert {name: data.get(name).answers for name in data.sample_ids()} == {
        "name": ("dog",),
        "number": ("B",),
        "agree": ("B",),
    }
    assert data.get("name").category == "cow"
    causes = {bad.sample_id: bad.cause for bad in data.skipped}
    assert 'answers is 1 ("dog"), which names option A and option B' in causes["differ"]
    assert "answers is -1, a label without a name" in causes["unlabelled"]
    assert 'answers is 2 ("cow"); expected a letter from A to B' in causes["beyond"]
    columns = {"answers": "several"}
    assert HuggingFaceData(tmp_path / "saved", columns=columns, limit=1).get("name").answers == ("dog", "cat")
    # The same columns in a parquet file that the library wrote.
    names = {"id": "qid", "images": "image", "answers": "answer"}
    table.select([0]).rename_columns(names).to_parquet(str(tmp_path / "a.parquet"))
    assert open_dataset(tmp_path, "rl_data").get("name").answers == ("dog",)


def _line(name, folder, place):
    """What a person finds at a place."""
    text = (folder / FILES[name]).read_text(encoding="utf-8-sig")
    return text.split("\n")[int(re.search(r"line (\d+)", place)[1]) - 1]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_places_are_found_again(tmp_path, name):
    image = _base64(tmp_path / "image.png") if name == "hrbench" else "small.png"
    answer = {"vstar": "A", "hrbench": "A", "mvbench": "two"}.get(name, "1")
    rows = [row_of(name, f"q{number}", answer, image) for number in range(4)]
    broken = {key: None for key in ("id", "qid", "index", "question_id", "questionId") if key in rows[2]}
    rows[2] |= {"question": "", "message_list": []} if name in ("mvbench", "sft") else broken
    rows[2] = {key: value for key, value in rows[2].items() if key in rows[0]}
    write(tmp_path, name, rows)
    path = tmp_path / FILES.get(name, "")
    if path.suffix in (".jsonl", ".tsv"):
        # A byte order mark, blank lines, Windows line ends, no line end at the end of the file.
        lines = path.read_text().splitlines()
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([lines[0], "", "", *lines[1:]]).encode())
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path, name, **({"subset": "all"} if name == "tallyqa" else {}))
    [bad] = caught.value.bad_rows
    assert f"  {bad.place} (id " in str(caught.value)
    if name in TABLES:
        assert bad.place == "row 2"
        return
    if path.suffix == ".json":
        assert "row 2 (line" in bad.place
        assert _line(name, tmp_path, bad.place).strip() == "{"
        rest = "\n".join(path.read_text().split("\n")[int(re.search(r"line (\d+)", bad.place)[1]) - 1 :])
        found = json.JSONDecoder().raw_decode(rest, rest.index("{"))[0]
    elif name == "hrbench":
        found = dict(zip(rows[0], _line(name, tmp_path, bad.place).rstrip("\r").split("\t"), strict=True))
        found["index"] = found["index"] or None
    else:
        found = json.loads(_line(name, tmp_path, bad.place))
    assert found == rows[2]


def test_lines_of_json_lines(tmp_path):
    good = '{"id": "%s", "question": "a\u2028b\u0085c", "images": "small.png", "answers": "1"}'
    lines = [
        "",
        good % "a",
        "",
        '{"id": "b", "question": "?",, "images": "small.png"}',
        '{"id": "c"',
        good % "a",
        good % "d",
    ]
    _base64(tmp_path / "small.png")
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    data = open_dataset(path, "jsonl", skip_bad_rows=True)
    assert list(data.sample_ids()) == ["a", "d"]
    assert data.get("d").question == "a\u2028b\ufffdc"
    # Column 29 is the second comma, and column 11 is behind the end of the line.
    assert [str(bad).split(" (Exp")[0] for bad in data.skipped] == [
        "line 4 (id missing): column 29 is no JSON",
        "line 5 (id missing): column 11 is no JSON",
        'line 6 (id "a"): the id is that of line 2; expected a new one',
    ]
    path.write_bytes('{"id": "é", "question": "\xff"}'.encode().replace("ÿ".encode(), b"\xff"))
    with pytest.raises(DataError, match=r"line 1 \(id missing\): column 26 is no UTF-8"):
        open_dataset(path, "jsonl")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="has no usable row"):
        open_dataset(path, "jsonl")
    path.write_bytes((good % "a").encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16; expected UTF-8"):
        open_dataset(path, "jsonl")


def test_a_long_line_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr("pxr_env.datasets.readers.LONGEST_LINE", 200)
    _base64(tmp_path / "small.png")
    rows = [row_of("jsonl", name, "1" * (500 if name == "b" else 1)) for name in "abc"]
    write(tmp_path, "jsonl", rows)
    data = open_dataset(tmp_path, "jsonl", skip_bad_rows=True)
    assert (list(data.sample_ids()), [bad.place for bad in data.skipped]) == (["a", "c"], ["line 2"])
    assert "longer than 200 bytes" in data.skipped[0].cause
    image = images_of((tmp_path / "small.png").read_bytes())["base64"]
    monkeypatch.undo()
    write(tmp_path, "jsonl", [*rows, row_of("jsonl", "d", "1", image)])
    assert open_dataset(tmp_path, "jsonl").get("d").sources[0].image.size == (60, 40)


@pytest.mark.parametrize("name", ["tallyqa", "sft", "infographicvqa"])
def test_a_json_list_names_rows_and_lines(tmp_path, name):
    rows = [row_of(name, f"q{number}") for number in range(3)]
    write(tmp_path, name, rows)
    path = tmp_path / FILES[name]
    text = path.read_text()
    first = next(iter(rows[1]))
    path.write_text(text.replace(f'"{first}": {json.dumps(rows[1][first])}', f'"{first}": NaN'))
    with pytest.raises(DataError, match=r"row 1 \(line \d+\) \(id missing\): it holds NaN"):
        open_dataset(path.parent, name, **({"subset": "all"} if name == "tallyqa" else {}))
    path.write_text(text[: len(text) // 2])
    last = text[: len(text) // 2].count("\n") + 1
    with pytest.raises(DataError, match=rf"line ({last}|{last - 1}) column \d+"):
        open_dataset(path.parent, name)
    path.write_text("")
    with pytest.raises(DataError, match="it is empty"):
        open_dataset(path.parent, name)


FRAMES = [f"{number}.png" for number in range(1, 7)]


def of_parts(name, first, second):
    """Rows of a format about a first image or video, a second one and the first again, and their clusters by id."""
    answer = {"vstar": "A", "hrbench": "A", "mvbench": "two"}.get(name, "1")
    rows = [row_of(name, str(number), answer, image) for number, image in enumerate((first, second, first))]
    for number, row in enumerate(rows):
        row[next(key for key in ("text", "question") if key in row)] = f"{number}?" + "\n(A) x\n(B) y" * (
            name == "vstar"
        )
    return rows, {"0": "0", "1": "1", "2": "0"}


def with_videos(rows, clusters, videos):
    """Adds rows with videos instead of images; the first of each pair names the cluster."""
    for number, (video, cluster) in enumerate(videos, start=len(rows)):
        rows.append({key: value for key, value in rows[0].items() if key != "images"} | {"id": str(number)} | video)
        clusters[str(number)] = cluster or str(number)


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"sft"}))
def test_questions_about_one_image_or_video_belong_together(tmp_path, name):
    for number, path in enumerate(["other.png", *FRAMES]):
        Image.new("RGB", (60, 40), (0, 40 * number, 0)).save(tmp_path / path)
    first, second = "small.png", "other.png"
    _base64(tmp_path / first)
    if name == "hrbench":
        first, second = (base64.b64encode((tmp_path / path).read_bytes()).decode() for path in (first, second))
    rows, clusters = of_parts(name, first, second)
    if name == "jsonl":
        rows[1] |= {"cluster": "my own"}
        clusters["1"] = "my own"
        (tmp_path / "clip").mkdir()
        _base64(tmp_path / "clip" / "1.png")
        _base64(tmp_path / "clip" / "2.png")
        parts = [({"video": "clip", "end": 1}, None), ({"video": "clip", "start": 1}, "3")]
        lists = [
            ({"video": FRAMES}, None),
            ({"video": FRAMES, "start": 1}, "5"),
            ({"video": FRAMES, "cluster": 7}, "7"),
        ]
        with_videos(rows, clusters, [*parts, *lists])
        rows.append(row_of(name, "8", "1", ["small.png", "other.png"]))
        clusters["8"] = "0"
    elif name == "huggingface":
        rows = [row | {"cluster": own} for row, own in zip(rows, (None, "my own", None), strict=True)]
        clusters["1"] = "my own"
    elif name in ("rl_data", "evaluation"):
        lists = (["small.png"], ["other.png"], ["small.png", "other.png"], FRAMES, FRAMES)
        rows = [row_of(name, str(number), "1", image) for number, image in enumerate(lists)]
        rows = [row | {"is_video": len(row["image"]) > 2} for row in rows]
        clusters |= {"3": "3", "4": "3"}
    elif name == "hrbench":
        rows.append(row_of(name, "3", "A", "1"))  # the image of row 1
        clusters["3"] = "1"
    elif name == "mvbench":
        (tmp_path / "clevrer" / "video_validation").mkdir(parents=True)
        (tmp_path / "clevrer" / "video_validation" / "b.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(20))
        for row, part in zip(rows, ({"start": 0, "end": 1}, {"video": "b.mp4"}, {"start": 1, "end": 2}), strict=True):
            row |= part
        clusters = {f"moving_count-{name}": f"moving_count-{of}" for name, of in clusters.items()}
    write(tmp_path, name, rows)
    data = open_dataset(tmp_path, name, **({"subset": "all"} if name == "tallyqa" else {}))
    assert {sample_id: data.get(sample_id).cluster for sample_id in data.sample_ids()} == clusters


def test_a_cluster_is_a_name(tmp_path):
    for cluster, shown in ((["x"], '["x"]'), (" ", '" "')):
        row = row_of("jsonl", "q", "1") | {"cluster": cluster}
        assert read(tmp_path, "jsonl", row) == f"cluster is {shown}; expected text"
