"""Recognizing formats, checking data sets, and the command that does both."""

import argparse
import json
import shutil

import pytest

from pxr_env.datasets import JSONL, SFTData, TallyQA, check_dataset, open_dataset, recognize
from pxr_env.datasets.check import add_arguments, run
from pxr_env.errors import DataError


def check(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(argument) for argument in arguments]))


def line(name, **other):
    return {"id": name, "question": f"What is {name}?", "images": "images/small.png", "answers": "a dog"} | other


TALLY = {"question_id": 1, "image": "images/small.png", "question": "How many?", "answer": 2, "issimple": True}
SFT = {"message_list": [{"role": "assistant", "content": [{"text": "hi"}]}]}
MV = {"video": "clip", "question": "What?", "candidates": ["a", "b"], "answer": "a"}


def put(directory, name, content):
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("test_questions.jsonl", "", "vstar"),
        ("data.jsonl", line("a"), "jsonl"),
        ("traces.jsonl", SFT, "sft"),
        ("release.json", [SFT], "sft"),
        ("test.json", [TALLY], "tallyqa"),
        ("infographicsVQA_val_v1.0.json", {"data": [{"questionId": 1, "image_local_name": "a"}]}, "infographicvqa"),
        ("json/action_count.json", [MV], "mvbench"),
        ("action_count.json", [MV], "mvbench"),
        ("hr_bench_4k.tsv", "", "hrbench"),
        ("release.parquet", "", "rl_data"),
        ("state.json", "{}", "huggingface"),
        ("dataset_dict.json", "{}", "huggingface"),
    ],
)
def test_formats_are_recognized(directory, name, content, expected):
    put(directory, name, content)
    assert recognize(directory) == expected


def test_what_is_not_recognized_says_what_to_do(directory, tmp_path):
    with pytest.raises(DataError, match="looks like none of the known formats; expected exactly one of rl_data, eval"):
        recognize(directory)
    put(directory, "test.json", [TALLY])
    put(directory, "data.jsonl", line("a"))
    with pytest.raises(DataError, match="looks like jsonl and like tallyqa"):
        recognize(directory)
    assert recognize(directory / "test.json") == "tallyqa"
    with pytest.raises(DataError, match="does not exist"):
        recognize(tmp_path / "nowhere")


def test_data_sets_are_opened_by_format_with_checked_arguments(directory):
    put(directory, "test.json", [TALLY])
    assert len(open_dataset(directory, subset="simple")) == 1
    assert isinstance(open_dataset(directory, "tallyqa", subset="all"), TallyQA)
    with pytest.raises(TypeError, match=r'got the argument "subsets".*Did you mean "subset"'):
        open_dataset(directory, subsets="all")
    with pytest.raises(ValueError, match=r'got format="tally".*Did you mean "tallyqa"'):
        open_dataset(directory, "tally")
    put(directory, "traces.json", [SFT])
    assert isinstance(open_dataset(directory / "traces.json"), SFTData)


ROWS = [
    line("good", category="animals"),
    line("again", question="What is good?", category="animals"),
    line("missing", images="no.png"),
    line("cut", images=["images/china.jpg", "images/cut.jpg"]),
    line("token", question="<image>", category="plants"),
]


def test_a_report_counts_and_names(directory, write_lines):
    write_lines(directory / "data.jsonl", ROWS)
    report = check_dataset(directory)
    assert (report.format, report.deep, report.n_rows, report.n_good) == ("jsonl", False, 5, 4)
    assert [bad.sample_id for bad in report.bad_rows] == ["missing"]
    assert [(warning.sample_id, warning.kind) for warning in report.warnings] == [
        ("again", "duplicate"),
        ("token", "neutralized"),
    ]
    assert report.counts == {"images": 5, "category animals": 2, "category plants": 1}
    assert str(report).splitlines() == [
        f"{directory}: jsonl, 5 rows",
        "1 bad row:",
        '  line 3 (id "missing"): image "no.png" does not exist; expected a file relative to the directory',
        "1 warning (duplicate):",
        '  line 2 (id "again"): its question and media are those of "good"',
        "1 warning (neutralized):",
        '  line 5 (id "token"): 1 special tokens or control characters were replaced',
        "4 good rows, headers read",
        "  5 images",
        "  2 category animals",
        "  1 category plants",
    ]


def test_a_deep_check_decodes_every_image(directory, write_lines):
    write_lines(directory / "data.jsonl", ROWS)
    report = check_dataset(directory, deep=True)
    assert [(bad.row, bad.sample_id) for bad in report.bad_rows] == [(2, "missing"), (3, "cut")]
    assert "cannot be decoded" in report.bad_rows[1].cause
    assert (report.n_good, report.counts["images"]) == (3, 3)


def test_a_deep_check_decodes_the_ends_of_videos(directory, write_lines, write_mp4):
    def clip(name, video, **other):
        return {"id": name, "question": f"{name}?", "video": video, "answers": "a"} | other

    shutil.copy(directory / "images" / "text.png", directory / "clip" / "6.png")
    content = write_mp4(directory / "good.mp4").read_bytes()
    (directory / "cut.mp4").write_bytes(content[: len(content) // 2])
    rows = [clip("last frame", "clip"), clip("listed", ["clip/1.png", "clip/2.png"])]
    rows += [clip("good", "good.mp4"), clip("cut", "cut.mp4"), clip("late", "good.mp4", start=2.5)]
    write_lines(directory / "data.jsonl", rows)
    assert check_dataset(directory).n_good == 5
    report = check_dataset(directory, deep=True)
    assert [bad.sample_id for bad in report.bad_rows] == ["last frame", "cut", "late"]
    assert report.counts == {"videos": 2}


def test_evidence_lies_inside_the_clip(directory, write_lines):
    def clip(name, **other):
        return {"id": name, "question": f"{name}?", "video": "clip", "fps": 2, "answers": "a"} | other

    rows = [
        clip("good", evidence_time=[1, 3], evidence_box=[0, 0, 40, 30]),
        clip("late", evidence_time=[1, 3.5]),
        clip("late in clip", start=1, evidence_time=[1, 2.5]),
        clip("wide", evidence_box=[0, 0, 41, 30]),
    ]
    write_lines(directory / "data.jsonl", rows)
    causes = {bad.sample_id: bad.cause for bad in check_dataset(directory).bad_rows}
    assert causes == {bad.sample_id: bad.cause for bad in check_dataset(directory, deep=True).bad_rows}
    assert list(causes) == ["late", "late in clip", "wide"]
    assert causes["late"].startswith("evidence_time is [1.0, 3.5]; expected seconds inside the clip of 3 s")
    assert causes["late in clip"].startswith("evidence_time is [1.0, 2.5]; expected seconds inside the clip of 2 s")
    assert causes["wide"].startswith("evidence_box is [0.0, 0.0, 41.0, 30.0]; expected it inside its picture of 40x30")


def test_evidence_of_a_video_file_is_compared_with_the_video(directory, write_lines, write_mp4):
    write_mp4(directory / "a.mp4")
    values = {
        "good": {"evidence_time": [0.5, 2], "evidence_box": [0, 0, 64, 48]},
        "milliseconds": {"evidence_time": [500, 1500]},
        "fractions": {"evidence_box": [0.2, 0.2, 0.6, 0.6]},
        "between frames": {"evidence_time": [0.51, 0.59]},
    }
    rows = [{"id": name, "question": name, "video": "a.mp4", "answers": "a"} | value for name, value in values.items()]
    write_lines(directory / "data.jsonl", rows)
    causes = {bad.sample_id: bad.cause for bad in check_dataset(directory).bad_rows}
    assert list(causes) == ["milliseconds", "fractions", "between frames"]
    assert "inside the clip of 2 s, from its first frame on. If they are milliseconds" in causes["milliseconds"]
    assert "which are fractions; expected x1, y1, x2, y2 in pixels of its picture of 64x48" in causes["fractions"]
    assert "between two of the 20 frames" in causes["between frames"]


def test_traces_are_checked_deeply_too(directory):
    image = {"role": "user", "content": [{"image": "images/cut.jpg"}]}
    put(directory, "release.json", [SFT, {"message_list": [image, *SFT["message_list"]], "qid": "cut"}])
    assert check_dataset(directory).n_good == 2
    assert [(bad.row, bad.sample_id) for bad in check_dataset(directory, deep=True).bad_rows] == [(1, "cut")]


def test_only_bad_rows_and_all_of_tallyqa(directory):
    put(directory, "test.json", [TALLY | {"answer": -1}])
    report = check_dataset(directory)
    assert (report.n_rows, report.n_good, len(report.bad_rows)) == (1, 0, 1)
    put(directory, "test.json", [TALLY, TALLY | {"question_id": 2, "issimple": False}])
    assert check_dataset(directory).n_good == 2


def test_the_command(directory, write_lines, capsys, tmp_path):
    write_lines(directory / "data.jsonl", ROWS)
    assert check(directory, "--json", tmp_path / "report.json") == 1
    assert '  line 3 (id "missing")' in capsys.readouterr().out
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["bad_rows"][0]["id"] == "missing"
    assert (written["n_good"], written["counts"]["images"]) == (4, 5)
    assert check(directory, "--limit", 2) == 0
    assert "2 good rows" in capsys.readouterr().out
    write_lines(directory / "data.jsonl", ROWS[3:4])
    assert check(directory, "--format", "jsonl") == 0
    assert check(directory, "--format", "jsonl", "--deep") == 1


def test_the_command_tells_wrong_usage_from_bad_data(directory, capsys, tmp_path):
    assert check(tmp_path / "nowhere") == 2
    assert check(tmp_path / "nowhere", "--format", "jsonl") == 2
    assert check(directory) == 2
    assert "expected exactly one of rl_data" in capsys.readouterr().err
    assert check(directory, "--format", "jsnl") == 2
    assert 'Did you mean "jsonl"?' in capsys.readouterr().err
    assert check(directory, "--format", "jsonl") == 1
    assert "holds 0 *.jsonl files" in capsys.readouterr().err
    put(directory, "data.jsonl", line("a"))
    assert check(directory, "--limit", 0) == 2
    assert check(directory, "--set", "split") == 2
    assert check(directory, "--set", "split=test") == 2
    assert "those of jsonl: skip_bad_rows" in capsys.readouterr().err
    assert check(directory, "--set", "check_media=false") == 0
    put(directory, "train.json", [TALLY, TALLY | {"question_id": 2, "issimple": False}])
    capsys.readouterr()
    assert check(directory, "--format", "tallyqa", "--set", "split=train", "--set", "subset=simple") == 0
    assert "1 good row," in capsys.readouterr().out


def test_progress_goes_to_stderr(directory, write_lines, capsys):
    write_lines(directory / "data.jsonl", [line(number) for number in range(10_001)])
    assert check(directory) == 0
    captured = capsys.readouterr()
    assert "10000 rows" in captured.err
    assert "10000 rows read" not in captured.out


def test_reports_are_safe_to_print(directory, write_lines):
    write_lines(directory / "data.jsonl", [line("a", category="\x1b[31mred"), line("b", images="\u202e\x9bno.png")])
    text = str(check_dataset(directory))
    assert not {"\x1b", "\x9b", "\u202e"} & set(text)
    assert isinstance(open_dataset(directory, skip_bad_rows=True), JSONL)
