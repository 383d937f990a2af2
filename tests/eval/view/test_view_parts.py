"""What the pages are made from: growing files, the index, the list of runs, addresses, curves."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import report, view
from eval.charts import line_chart, thin
from eval.facts import FILTERS, Selection
from eval.records import RunFiles
from eval.report import PICTURE_BYTES, PICTURED
from eval.view.curves import History
from eval.view.files import MAX_OPEN, EpisodeIndex, GrowingLines, Library, OpenFiles, accuracy_so_far, find_runs
from eval.view.query import Query, run_key, run_link
from eval.view.runs_page import age, model_name


class Told(GrowingLines):
    """Remembers every line since it was last told to forget."""

    told: list[bytes]

    def clear(self) -> None:
        self.told = []

    def add(self, line: bytes) -> None:
        self.told.append(line)


def test_lines_are_read_when_they_are_whole_and_anew_when_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = Told(path)

    def seen() -> list[bytes]:
        lines.refresh()
        assert [lines.read(k) for k in range(len(lines.told))] == lines.told
        return lines.told

    assert seen() == []
    path.write_bytes(b"one\ntw")
    first = seen()
    assert first == [b"one\n"]
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert seen() == [b"one\n", b"two\n", b"three\n"]
    # Nothing was forgotten in between.
    assert lines.told is first
    # Written anew in place, and longer than before.
    path.write_bytes(b"one\nTWO\nTHREE\nfour\n")
    second = seen()
    assert second == [b"one\n", b"TWO\n", b"THREE\n", b"four\n"]
    # Replaced by another file with the same beginning.
    (tmp_path / "other").write_bytes(path.read_bytes())
    (tmp_path / "other").replace(path)
    assert seen() == second
    assert lines.told is not second
    path.unlink()
    lines.refresh()
    assert lines.told == []


def test_the_index_agrees_with_the_records(groups_run: Path) -> None:
    records = RunFiles(groups_run).records()
    index = EpisodeIndex(groups_run / "episodes.jsonl")
    index.refresh()
    assert [index.record(k) for k in range(24)] == records
    assert [(facts.sample_id, facts.repeat) for facts in index.facts] == [record.key for record in records]
    for number, record in enumerate(records):
        assert index.find(record.episode.sample_id, record.repeat) == number
        assert index.nth(number) == record.repeat
    wrong = [k for k, record in enumerate(records) if not record.episode.correct and record.episode.n_operations]
    assert index.select(Selection(tags=("wrong", "used"))) == wrong
    assert index.find("no such sample", 0) is index.find(records[0].episode.sample_id, 4) is None
    assert accuracy_so_far(index.facts) == (sum(record.episode.correct for record in records), 24)


def test_the_index_grows_and_names_what_is_no_episode(groups_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    lines = (groups_run / "episodes.jsonl").read_text().splitlines(keepends=True)
    deep = "[" * 100_000 + "\n"
    path.write_text(lines[0] + "no JSON\n" + "[1]\n" + '{"answer": 1}\n' + deep + lines[1] + lines[2][:9])
    index = EpisodeIndex(path)
    index.refresh()
    assert len(index.facts) == 2
    assert index.unreadable.keys() == {2, 3, 4, 5}
    assert "JSON list" in index.unreadable[3]
    assert index.record(1).key == ("test-0", 1)
    with path.open("a") as file:
        file.write(lines[2][9:])
    index.refresh()
    assert index.record(2).key == ("test-0", 2)


def test_episodes_that_are_not_numbered_get_numbers(runs: Path) -> None:
    index = EpisodeIndex(runs / "ppo" / "episodes" / "2" / "episodes.jsonl")
    index.refresh()
    assert [index.facts[k].repeat for k in index.group("test-3")] == [0, 1, 2, 3]
    assert index.find("test-3", 2) == 14


def test_only_some_indexes_stay_open(groups_run: Path, tmp_path: Path) -> None:
    indexes = OpenFiles(EpisodeIndex)
    first = indexes.get(groups_run / "episodes.jsonl")
    assert indexes.get(groups_run / "episodes.jsonl") is first
    for number in range(MAX_OPEN):
        indexes.get(tmp_path / str(number))
    assert indexes.get(groups_run / "episodes.jsonl") is not first


def test_runs_are_found_and_told_apart(runs: Path) -> None:
    found = {run.key: run for run in find_runs(runs)}
    assert {key: run.kind for key, run in found.items()} == {
        "eval/oracle": "evaluation",
        "eval/groups": "evaluation",
        "eval/interrupted": "evaluation",
        "ppo": "training",
    }
    assert [key for key, run in found.items() if run.is_finished] == ["eval/groups", "eval/oracle"]
    assert found["ppo"].iterations() == [2]
    # A directory that is a run itself.
    assert [(run.key, run.kind) for run in find_runs(runs / "ppo")] == [("ppo", "training")]


def test_links_to_elsewhere_are_not_followed(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "away").symlink_to(runs)
    shutil.copytree(runs / "eval" / "oracle", tmp_path / "here")
    (tmp_path / "here" / "report.html").symlink_to("/etc/hostname")
    library = Library(tmp_path)
    (run,) = library.runs().values()
    assert run.key == "here"
    assert run.file("report") is None
    assert run.file("../../etc/passwd") is None


def test_what_is_no_json_object_is_empty(tmp_path: Path) -> None:
    library = Library(tmp_path)
    for content, expected in (("[1]", {}), ("{", {}), ("[" * 100_000, {}), ('{"a": 1}', {"a": 1})):
        (tmp_path / "file").write_text(content)
        os.utime(tmp_path / "file", ns=(len(content), len(content)))
        assert library.read(tmp_path / "file") == expected
    assert library.read(tmp_path / "nothing") == {}


@settings(max_examples=50)
@given(st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_any_directory_name_has_an_address(name: str) -> None:
    raw = os.fsdecode(name.encode("utf-8", "surrogatepass"))
    link = run_link(raw)
    assert link.isascii()
    assert not set(link) & set(" \"'<>?#")
    assert run_key(link) == raw


def test_a_query_keeps_its_filters() -> None:
    query = Query.parse("show=wrong&show=used&show=nonsense&q=a+b&page=2&evil=1&category=")
    assert (query.show, query.number("page"), query.selection.text) == (("wrong", "used"), 2, "a b")
    assert query.get("evil") is None
    assert query.link(page=3) == "?show=wrong&show=used&q=a+b&page=3"
    assert query.link(q=None, page=None) == "?show=wrong&show=used"
    assert query.without_filters().link() == "?"
    assert Query.parse("page=-1").number("page") == Query.parse("page=" + "9" * 5000).number("page") == 0
    assert Query.parse("&".join("q=1" for _ in range(1000))) == Query()


@settings(max_examples=30)
@given(st.text())
def test_any_id_survives_its_address(sample_id: str) -> None:
    link = Query().link(episode=sample_id or "x")
    assert Query.parse(link[1:]).get("episode") == (sample_id or "x")[:2000]


def test_curves_of_a_training(runs: Path) -> None:
    history = History(runs / "ppo" / "metrics.jsonl")
    history.refresh()
    assert history.counter == "iteration"
    assert history.series("usage/zoom_in") == [(1, 0.5), (2, 0.25), (3, 0.0), (4, 0.0), (5, 0.125)]
    assert history.alarms() == [("any", 3, 4, False)]
    charts = {chart.title: chart for chart in history.charts()}
    assert [line.name for line in charts["Usage"].lines] == ["zoom_in"]
    assert [line.name for line in charts["Seconds"].lines] == ["sample", "learn"]
    assert {"Accuracy", "Reward", "Entropy", "Engine against learner"} <= charts.keys()
    assert "Loss" not in charts
    (span,) = charts["Usage"].spans
    left, right = charts["Usage"].x_range
    # Iterations 3 to 4 of 1 to 5: the third quarter of the axis.
    assert (span.start, span.width) == (
        pytest.approx((left + right) / 2, abs=0.01),
        pytest.approx((right - left) / 4, abs=0.02),
    )
    assert charts["Accuracy"].spans == []


def test_an_alarm_that_lasts_and_lines_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "alarm/zoom": 0}, {"step": 2, "alarm/zoom": 1}, {"step": 3, "alarm/zoom": 1, "lr": None}]
    gap = {"learner/logprob_gap_mean": 0.1, "usage/zoom": 0.0}
    rows = [row | gap | {"alarm/logprob_gap": float(row["step"] == 1)} for row in rows]
    bad = ["{", "[]", '{"step": 1e999, "loss": NaN}', '{"step": ' + "9" * 400 + "}"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n".join(bad) + "\n")
    history = History(path)
    history.refresh()
    assert history.n_unreadable == 3
    assert history.alarms() == [("logprob_gap", 1, 1, False), ("zoom", 2, 3, True)]
    marked = {chart.title: [span.label for span in chart.spans] for chart in history.charts() if chart.spans}
    assert marked == {"Usage": ["alarm: zoom"], "Engine against learner": ["alarm: logprob_gap"]}
    assert len(history.rows) == 4


def test_selective_use_over_the_iterations(tmp_path: Path) -> None:
    rows = [
        {"iteration": 1, "usage_rate_easy": 1.0, "first_turn_rate_easy": 0.0},
        {"iteration": 2, "usage_rate_easy": 0.5, "selective/gate": 0.25, "arm/answer/accuracy": 0.75, "need/auc": 1.0},
        {"iteration": 3, "usage_rate_easy": 0.0, "alarm/habit": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = History(tmp_path / "metrics.jsonl")
    history.refresh()
    drawn = {chart.title: [(line.name, *line.points) for line in chart.lines] for chart in history.charts()}
    assert drawn == {
        "Usage by need": [("Usage, easy", (1, 1.0), (2, 0.5), (3, 0.0)), ("At once, easy", (1, 0.0))],
        "Selective use": [("gate", (2, 0.25))],
        "Estimated need": [("auc", (2, 1.0))],
        "Arms": [("answer", (2, 0.75))],
    }
    assert history.alarms() == [("habit", 3, 3, True)]


def test_long_lines_are_thinned_and_keep_their_extremes() -> None:
    points = [(float(x), 0.0) for x in range(10_000)]
    points[5_003], points[7_001] = (5_003.0, 9.0), (7_001.0, -9.0)
    kept = thin(points, 100)
    assert len(kept) <= 101
    assert {points[5_003], points[7_001], points[-1]} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:100], 100) == points[:100]
    chart = line_chart("long", {"a": points})
    assert chart is not None
    assert len(chart.lines[0].raw.split()) <= 601


def test_age_and_the_name_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.view.runs_page.time.time", lambda: 1e9)
    ages = {5: "just now", 61: "1 minute ago", 7_300: "2 hours ago", 90_000: "1 day ago"}
    assert {seconds: age(1e9 - seconds) for seconds in ages} == ages
    names = {"/runs/ppo/model": "ppo/model", "Qwen/Qwen3-VL": "Qwen3-VL", "a/b/": "b", "model": "model", None: ""}
    assert {path: model_name(path) for path in names} == names


DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "view.md").read_text(encoding="utf-8")


def test_the_documentation_has_options_defaults_and_filters_of_the_commands() -> None:
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    view.add_arguments(parser)
    report.add_arguments(parser)
    known = parser._option_string_actions
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= known.keys() | {"--k"}
    assert f"`--port N` ({known['--port'].default})" in PAGE
    assert known["--episodes"].default == PICTURED
    for text in (f"{PICTURED} by default", f"{PICTURE_BYTES / 1e6:.0f} MB", f"last {MAX_OPEN} runs"):
        assert text in PAGE
    row = next(line for line in PAGE.splitlines() if line.startswith("| `f`"))
    assert all(text in row for tag, text in FILTERS.items() if tag not in ("truncated", "unscored"))
    assert 0 < (DOCS / "images" / "view.png").stat().st_size <= 300_000
