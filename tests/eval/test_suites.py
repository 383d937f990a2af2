"""Small hand-made data in each original format: scores equal those computed by hand."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.__main__ import main
from eval.records import RunFiles
from eval.suites import SUITES, get_suite
from pxr_env.tasks import TASKS
from tests.eval import scripted
from tests.eval.conftest import episodes_of

#: Small enough to be drawn at once.
SMALL = {"min_pixels": 784, "max_pixels": 7056, "max_turns": 1}
AGENT = "tests.eval.scripted:answering"


def run_suite(suite: str, data: Path, answers: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> RunFiles:
    monkeypatch.setattr(scripted, "answers", answers)
    arguments = [item for key, value in SMALL.items() for item in ("--set", f"{key}={value}")]
    out = data.parent / "run"
    command = ["run", "--suite", suite, "--data", str(data), "--agent", AGENT, "--out", str(out), *arguments]
    assert main(command) == 0
    assert (out / "report.html").is_file()
    return RunFiles(out)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), colour).save(path)


def accuracies(run: RunFiles) -> dict[str, float]:
    by_category = run.metrics()["by_category"]
    return {category: metrics["statistics"]["accuracy"] for category, metrics in by_category.items()}


def test_vstar(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for number, (category, label) in enumerate(
        [("direct_attributes", "A"), ("direct_attributes", "B"), ("relative_position", "A"), ("relative_position", "B")]
    ):
        picture(data / category / f"{number}.jpg")
        text = "Which?\n(A) a cat\n(B) a dog\nAnswer with the option's letter from the given choices directly."
        image = f"{category}/{number}.jpg"
        rows.append({"image": image, "text": text, "category": category, "label": label, "question_id": number})
    (data / "test_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "direct_attributes" / "0.json").write_text('{"bbox": [[1, 2, 10, 10]]}')
    # The letter; the text of the option; the other option; no answer before the last turn.
    run = run_suite("vstar", data, {"0": "A", "1": "a dog", "2": "b", "3": None}, monkeypatch)
    statistics = run.metrics()["statistics"]
    assert statistics["accuracy"] == 2 / 4
    assert statistics["truncated_rate"] == 1 / 4
    assert accuracies(run) == {"direct_attributes": 1.0, "relative_position": 0.0}
    assert run.manifest()["scorer"]["name"] == "multiple_choice"
    assert run.manifest()["data"]["file_sha256"] is not None


def test_tallyqa_complex(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for number, (answer, simple) in enumerate([(4, False), (3, False), (12, False), (1, True)]):
        picture(data / "VG_100K_2" / f"{number}.jpg")
        row = {"image": f"VG_100K_2/{number}.jpg", "question": "How many?", "answer": answer, "issimple": simple}
        rows.append(row | {"question_id": number, "data_source": "imported_genome", "image_id": number})
    (data / "test.json").write_text(json.dumps(rows))
    # The simple question is not asked; a word is a number, and another number is not.
    run = run_suite("tallyqa-complex", data, {"0": "4", "1": "three", "2": "13"}, monkeypatch)
    assert run.metrics()["statistics"]["accuracy"] == 2 / 3
    assert run.manifest()["n_samples"] == 3
    monkeypatch.setitem(SMALL, "scorer", "number_strict")
    shutil.rmtree(run.path)
    run = run_suite("tallyqa-complex", data, {"0": "4", "1": "three", "2": "13"}, monkeypatch)
    assert run.metrics()["statistics"]["accuracy"] == 1 / 3


def test_infographicvqa(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for number, accepted in enumerate([["1995"], ["Coca Cola", "Coca Cola Company"], ["red"], ["42%"]]):
        picture(data / "images" / f"{number}.jpeg")
        row = {"questionId": number, "question": f"What {number}?", "image_local_name": f"{number}.jpeg"}
        rows.append(row | {"answers": accepted, "answer_type": ["single span"], "data_split": "val"})
    (data / "infographicsVQA_val_v1.0_withQT.json").write_text(json.dumps({"data": rows}))
    run = run_suite("infographicvqa", data, {"0": "1994", "1": "CocaCola", "2": "blue", "3": "42%"}, monkeypatch)
    metrics = run.metrics()
    # 1 of 4 characters; 1 of 9; nothing in common ("red" and "blue" share one of four); all.
    assert metrics["statistics"]["anls"] == pytest.approx((3 / 4 + 8 / 9 + 0 + 1) / 4)
    assert metrics["statistics"]["accuracy"] == 1 / 4
    low, high = metrics["intervals"]["anls"]
    assert 0 <= low < metrics["statistics"]["anls"] < high <= 1


def test_mvbench(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for video in ("one", "two"):
        for frame in range(1, 5):
            picture(data / "video" / "tvqa" / "frames_fps3_hq" / video / f"{frame:05}.jpg", colour=f"#{frame}00")
            picture(data / "other" / video / f"{frame}.png")
    question = {"question": "What happened?", "candidates": ["Ate", "Tidied up", "Threw"]}
    (data / "json").mkdir()
    episodic = [
        question | {"video": "one", "answer": "Tidied up", "start": 0, "end": 1},
        question | {"video": "two", "answer": "Ate", "start": 0, "end": 1},
    ]
    (data / "json" / "episodic_reasoning.json").write_text(json.dumps(episodic))
    (data / "json" / "other.json").write_text(json.dumps([question | {"video": "two", "answer": "Threw"}]))
    answers = {"episodic_reasoning-0": "B", "episodic_reasoning-1": "Threw", "other-0": "(C) Threw"}
    run = run_suite("mvbench", data, answers, monkeypatch)
    assert run.metrics()["statistics"]["accuracy"] == 2 / 3
    assert accuracies(run) == {"episodic_reasoning": 1 / 2, "other": 1.0}


def test_hrbench(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 80).save(buffer, format="PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    rows = [
        {"index": index, "question": "Which number?", "answer": answer, "category": category, "image": image}
        | {"A": "27B", "B": "37B", "C": "27D", "D": "27E", "cycle_category": f"cycle_{index % 4}"}
        for index, (answer, category) in enumerate([("A", "single"), ("B", "single"), ("C", "cross"), ("D", "cross")])
    ]
    with (data / "hr_bench_4k.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    run = run_suite("hrbench", data, {"0": "A", "1": "37b", "2": "C. 27D", "3": "A"}, monkeypatch)
    assert run.metrics()["statistics"]["accuracy"] == 3 / 4
    assert accuracies(run) == {"single": 1.0, "cross": 0.5}


def test_own_questions_by_the_id_of_their_environment(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(data / "a.png")
    rows = [
        {"id": "a", "question": "Which?", "images": "a.png", "answers": ["K"]},
        {"id": "b", "question": "How many?", "images": "a.png", "answers": ["3"]},
    ]
    (data / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_suite("pxr_env:pxr/JSONL-v0", data, {"a": "k", "b": "2"}, monkeypatch)
    assert run.metrics()["statistics"]["accuracy"] == 1 / 2


def test_data_that_cannot_be_shown_are_counted_apart(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(data / "a.png")
    noise = Image.effect_noise((640, 480), 80)
    noise.save(data / "cut.jpg")
    # Its header is whole, its pixels are not.
    (data / "cut.jpg").write_bytes((data / "cut.jpg").read_bytes()[:9000])
    media = {"cut": "cut.jpg", "a": "a.png"}
    rows = [{"id": name, "question": "Which?", "images": image, "answers": ["K"]} for name, image in media.items()]
    (data / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_suite("pxr_env:pxr/JSONL-v0", data, {"a": "K"}, monkeypatch)
    statistics = run.metrics()["statistics"]
    assert (statistics["accuracy"], statistics["n_episodes"], statistics["n_errors"]) == (1.0, 1, 1)
    assert "1 not scored: data: image file" in capsys.readouterr().out
    lost = episodes_of(run.path)[0]
    assert (lost.target, lost.correct, lost.answer) == ("K", False, None)


def test_the_data_hash_knows_what_is_inside_and_not_where_it_lies(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digests(name: str, change: Callable[[Path], Any]) -> tuple[Any, list[str | None]]:
        folder = data / name / "data"
        folder.mkdir(parents=True)
        for image in ("a", "b"):
            picture(folder / f"{image}.png")
        rows = [{"id": i, "question": "Which?", "images": f"{i}.png", "answers": ["K"]} for i in ("a", "b")]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        change(folder)
        run = run_suite("pxr_env:pxr/JSONL-v0", folder, {"a": "K", "b": "K"}, monkeypatch)
        return run.manifest()["data"]["samples_sha256"], [record.sample_sha256 for record in run.records()]

    same, (a, b) = digests("same", lambda folder: None)
    assert digests("moved", lambda folder: None) == (same, [a, b])
    other, (a2, b2) = digests("repainted", lambda folder: picture(folder / "b.png", "blue"))
    assert (a2 == a, b2 == b, other == same) == (True, False, False)
    data_file = "data.jsonl"
    other, (a2, b2) = digests(
        "reworded",
        lambda folder: (folder / data_file).write_text((folder / data_file).read_text().replace('"K"', '"L"', 1)),
    )
    assert (a2 == a, b2 == b, other == same) == (False, True, False)

    def embed(folder: Path, colour: str) -> None:
        picture(folder / "b.png", colour)
        image = base64.b64encode((folder / "b.png").read_bytes()).decode()
        (folder / data_file).write_text((folder / data_file).read_text().replace("b.png", image))

    (_, (a2, b2)), (_, (a3, b3)) = (
        digests(f"{c} inside", lambda folder, c=c: embed(folder, c)) for c in ("red", "blue")
    )
    assert (a2, a3, b2 == b3) == (a, a, False)


def test_every_suite_is_a_registered_task_with_arguments_it_takes() -> None:
    for suite in SUITES.values():
        task = TASKS[suite.env_id.removeprefix("pxr_env:")]
        assert suite.arguments.keys() <= task.parameters().keys()
        assert suite.protocol
        assert suite.source
        assert suite.needs_data == (not suite.name.startswith("synthetic"))


def test_unknown_suites_and_wrong_combinations_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='Did you mean "vstar"'):
        get_suite("vstr")
    for arguments, message in (
        (["--suite", "vstar", "pxr_env:pxr/VStar-v0"], "not both"),
        ([], "not neither"),
        (["--suite", "synthetic-search", "--data", "x"], "which reads no data"),
        (["--suite", "vstar"], 'needs data="DIR"'),
        (["--suite", "synthetic-search", "--judge-model", "m"], "belong together"),
    ):
        assert main(["run", *arguments, "--agent", "oracle", "--limit", "1", "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
