"""Which samples a run is over: alike from all categories, the first, or those that are named; and again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eval.__main__ import main
from eval.records import RunFiles
from eval.replay_check import check_replay
from eval.suites import Choice, read_sample_ids, stratified
from tests.eval import scripted
from tests.eval.chat_server import ChatServer, serve
from tests.eval.conftest import ENV_ARGS, ENV_ID, run_evaluation

AGENT = "tests.eval.scripted:answering"
CATEGORIES = ("easy",) * 12 + ("hard",) * 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty questions: first twelve easy ones, then eight hard ones, of which every two share a picture."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for number, category in enumerate(CATEGORIES):
        name = f"{number}.png" if category == "easy" else f"shared-{number // 2}.png"
        Image.new("RGB", (64, 48), (number, 0, 0)).save(folder / name)
        row = {"id": str(number), "question": "What?", "images": name, "answers": "red", "category": category}
        rows.append(json.dumps(row) + "\n")
    (folder / "data.jsonl").write_text("".join(rows))
    return folder


def command(data: Path, out: Path, *more: str) -> list[str]:
    told = f"run pxr_env:pxr/JSONL-v0 --no-report --agent {AGENT}".split()
    return [*told, "--data", str(data), "--out", str(out), *more]


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "answers", {str(number): "red" for number in range(20)})
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ids_of(run: Path) -> list[str]:
    return [record.episode.sample_id for record in RunFiles(run).records()]


categories = st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=40)


@given(categories, st.data())
def test_each_category_has_its_share(kinds: list[str | None], drawn: st.DataObject) -> None:
    ids = [f"s{number}" for number in range(len(kinds))]
    of = dict(zip(ids, kinds, strict=True))
    count = drawn.draw(st.integers(1, len(kinds)))
    chosen = stratified(ids, of.__getitem__, count)
    assert len(chosen) == count
    assert chosen == [name for name in ids if name in set(chosen)]
    for kind, n in Counter(kinds).items():
        assert abs(sum(of[name] == kind for name in chosen) - count * n / len(kinds)) <= 1
    # A larger choice has what a smaller one has; the order of the data does not matter.
    assert set(stratified(ids, of.__getitem__, max(1, count - 1))) <= set(chosen)
    assert set(stratified(ids[::-1], of.__getitem__, count)) == set(chosen)


def test_a_limit_draws_from_all_categories_alike_in_every_run(data: Path, tmp_path: Path) -> None:
    assert main(command(data, tmp_path / "a", "--limit", "10")) == 0
    assert main(command(data, tmp_path / "b", "--limit", "10", "--seed", "7")) == 0
    chosen = ids_of(tmp_path / "a")
    assert Counter(CATEGORIES[int(name)] for name in chosen) == {"easy": 6, "hard": 4}
    assert chosen == ids_of(tmp_path / "b") == sorted(chosen, key=int) != [str(n) for n in range(10)]
    manifest = RunFiles(tmp_path / "a").manifest()
    assert manifest["samples"] == {"chosen": "stratified", "ids": chosen}
    assert check_replay(tmp_path / "a").identical


def test_the_first_and_named_ones(data: Path, tmp_path: Path) -> None:
    assert main(command(data, tmp_path / "first", "--first", "3")) == 0
    assert ids_of(tmp_path / "first") == ["0", "1", "2"]
    assert RunFiles(tmp_path / "first").manifest()["samples"] == {"chosen": "first", "ids": None}
    assert main(command(data, tmp_path / "named", "--sample-ids", "17, 3")) == 0
    assert ids_of(tmp_path / "named") == ["17", "3"]
    (tmp_path / "ids.txt").write_text("4\n\n11\n")
    assert main(command(data, tmp_path / "file", "--sample-ids", str(tmp_path / "ids.txt"))) == 0
    assert ids_of(tmp_path / "file") == ["4", "11"]
    assert main(command(data, tmp_path / "all")) == 0
    assert RunFiles(tmp_path / "all").manifest()["samples"] == {"chosen": "all", "ids": None}
    assert ids_of(tmp_path / "all") == [str(number) for number in range(20)]


def test_names_too_long_for_a_path_are_names() -> None:
    assert read_sample_ids(",".join(["x" * 200] * 40)) == ("x" * 200,) * 40


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "2", "--first", "2"], "got --limit and --first, expected"),
        (["--first", "0"], "got --first 0, expected at least 1"),
        (["--limit", "-1"], "got --limit -1, expected at least 1"),
        (["--sample-ids", "1,1"], "the same one twice"),
        (["--sample-ids", ","], "without ids"),
        (["--sample-ids", "nonesuch"], '--sample-ids has "nonesuch", which is no sample'),
    ],
)
def test_wrong_choices_are_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(command(data, tmp_path / "run", *more)) == 2
    assert message in capsys.readouterr().err


def test_of_procedural_samples_any_are_as_good() -> None:
    env = gymnasium.make(ENV_ID, **ENV_ARGS)
    assert Choice(limit=3).choose(env) == ["test-0", "test-1", "test-2"]
    assert Choice(sample_ids=("test-9",)).choose(env) == ["test-9"]


def test_samples_of_a_task_of_ones_own_are_asked_for_their_category() -> None:
    class Own:
        def __init__(self, data: Any) -> None:
            self._data = data

        def __len__(self) -> int:
            return 8

        def sample_ids(self) -> list[str]:
            return [f"test-{number}" for number in range(8)]

        def get(self, sample_id: str) -> Any:
            return self._data.get(sample_id)

    env = gymnasium.make(ENV_ID, **ENV_ARGS)
    base: Any = env.unwrapped
    kinds = {name: base.data.get(name).category for name in Own(base.data).sample_ids()}
    base.data = Own(base.data)
    chosen = Choice(limit=4).choose(env)
    for kind, n in Counter(kinds.values()).items():
        assert abs(sum(kinds[name] == kind for name in chosen) - n / 2) <= 1


def test_a_run_is_run_again(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = tmp_path / "first"
    assert main(command(data, first, "--limit", "6", "--set", "max_turns=2", "--seed", "3")) == 0
    shutil.move(data, tmp_path / "moved")
    assert main(["rerun", str(first), "--out", str(tmp_path / "again"), "--data", str(tmp_path / "moved")]) == 0
    printed = capsys.readouterr()
    assert f"the code of {AGENT}: no version of it is on record" in printed.err
    manifests = [RunFiles(path).manifest() for path in (first, tmp_path / "again")]
    assert ids_of(first) == ids_of(tmp_path / "again")
    for name in ("seed", "repeats", "prompt", "pixels", "scorer", "data", "samples_sha256", "agent"):
        assert manifests[0][name] == manifests[1][name]
    assert manifests[1]["env"]["kwargs"]["max_turns"] == 2
    capsys.readouterr()
    assert main(["compare", str(first), str(tmp_path / "again")]) == 0
    assert "6 samples are compared" in capsys.readouterr().out


def test_a_run_whose_data_changed_cannot_be_had_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(data, tmp_path / "first")) == 0
    content = (data / "data.jsonl").read_text()
    (data / "data.jsonl").write_text(content.replace("What?", "Which?"))
    assert main(["rerun", str(tmp_path / "first" / "manifest.json"), "--out", str(tmp_path / "again")]) == 2
    assert "the run cannot be had again: data.file_sha256 was" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    # Other pixels only show when they are looked at.
    (data / "data.jsonl").write_text(content)
    Image.new("RGB", (64, 48), "green").save(data / "0.png")
    assert main(["rerun", str(tmp_path / "first"), "--out", str(tmp_path / "again")]) == 1
    assert "not as it was: files of the samples" in capsys.readouterr().err


def test_a_key_goes_to_no_address_out_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.eval.test_remote import choice, zoom_then_answer

    with serve(ChatServer(zoom_then_answer)) as url:
        run_evaluation(tmp_path / "run", agent=choice(url), limit=2)
        assert RunFiles(tmp_path / "run").manifest()["server"]["base_url"] == url
        assert main(["rerun", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 2
        assert f"the run asked a model at {url}; expected --base-url URL" in capsys.readouterr().err
        assert main(["rerun", str(tmp_path / "run"), "--out", str(tmp_path / "again"), "--base-url", url]) == 0
    printed = capsys.readouterr().err
    assert "a server does not prove what it runs" in printed
    assert RunFiles(tmp_path / "again").metrics()["counts"] == RunFiles(tmp_path / "run").metrics()["counts"]


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerun", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    (tmp_path / "manifest.json").write_text("{}")
    assert main(["rerun", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "lacks env, suite, agent, seed, repeats" in capsys.readouterr().err


def test_the_table_of_suites(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suites"]) == 0
    out = capsys.readouterr().out
    assert "synthetic-search" in out
    assert "--data DIR (HRBench in docs/data.md)" in out
    assert main(["suites", "pxr_env:pxr/JSONL-v0", "--data", str(data)]) == 0
    assert "20 samples about 16 images or videos, 12 easy, 8 hard" in capsys.readouterr().out
    assert main(["suites", "--data", str(data)]) == 2
    assert "expected one, such as vstar" in capsys.readouterr().err
