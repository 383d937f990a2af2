"""`python -m eval replay`: every observation is rebuilt, and whatever differs is named."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.__main__ import main
from eval.data_hash import image_digest
from eval.records import Record, RunDirectory, record_to_json
from eval.replay_check import check_replay
from tests.eval import striped
from tests.eval.test_audit_med import evaluate_striped


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_striped(tmp_path_factory.mktemp("replay") / "run", "Reader", 3)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def rewrite(run: Path, change: Callable[[Record], None], which: int = 1) -> None:
    directory = RunDirectory(run)
    records = directory.records()
    change(records[which])
    directory.finish(records, directory.metrics())


def test_a_digest_is_of_size_and_pixels() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert image_digest(image) == hashlib.sha256(b"[2, 4, 3]" + image.tobytes()).hexdigest()
    assert image_digest(image.reshape(4, 2, 3)) != image_digest(image)
    assert image_digest(np.asfortranarray(image)) == image_digest(image)


def test_a_run_is_rebuilt_byte_for_byte(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["replay", str(run), "--json", str(tmp_path / "out.json")]) == 0
    # Three episodes of two turns: three observations each, with an image in the first two.
    assert "byte-identical. 3 episodes, 9 observations and 6 images" in capsys.readouterr().out
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert content[0]["identical"] is True
    assert (content[0]["n_images_unchecked"], content[0]["same_system_prompt"]) == (0, True)


def set_image(record: Record) -> None:
    assert record.image_sha256 is not None
    record.image_sha256[1][0] = "0" * 64


def set_reply(record: Record) -> None:
    step = record.episode.steps[0]
    record.episode.steps[0] = type(step)(turn=step.turn, reply="X" + step.reply[1:], reward=0.0, reward_terms={})


def set_views(record: Record) -> None:
    record.episode.views[1]["box"] = (0.0, 0.0, 1.0, 1.0)


def set_answer(record: Record) -> None:
    record.episode.answer = "diagonal"


def set_score(record: Record) -> None:
    record.score = 0.25


def drop_image(record: Record) -> None:
    assert record.image_sha256 is not None
    record.image_sha256[0].append("0" * 64)


def add_turn(record: Record) -> None:
    record.episode.steps.append(record.episode.steps[0])


def drop_turn(record: Record) -> None:
    record.episode.steps.pop()


@pytest.mark.parametrize(
    ("change", "turn", "what", "difference"),
    [
        (set_image, 1, "pixels", "image 1 of 1 had SHA-256 0000000000000000..."),
        (set_reply, 1, "text", "from character 0 on 'X"),
        (set_views, 2, "views", "view 2 was "),
        (set_answer, 2, "answer", "'diagonal' is on record; 'horizontal' came"),
        (set_score, 2, "score", "0.25 is on record; 1.0 came"),
        (drop_image, 0, "images", "2 images are on record; 1 came"),
        (add_turn, 2, "end", "3 turns are on record; the episode ended after 2"),
        (drop_turn, 1, "end", "the episode ended after turn 1; now it goes on"),
    ],
)
def test_the_first_difference_of_an_episode_is_named(
    run: Path, change: Callable[[Record], None], turn: int, what: str, difference: str
) -> None:
    rewrite(run, change)
    check = check_replay(run)
    assert [(m.sample_id, m.repeat, m.turn, m.what) for m in check.mismatches] == [("1", 0, turn, what)]
    assert check.mismatches[0].difference.startswith(difference)
    assert not check.identical


def test_a_mismatch_is_the_exit_status(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run, set_answer)
    assert main(["replay", str(run)]) == 1
    out = capsys.readouterr().out
    assert "1 episodes differ" in out
    assert "1, turn 2: answer: 'diagonal' is on record; 'horizontal' came" in out


def test_moved_data_are_found_and_changed_ones_noticed(run: Path, finished: Path, tmp_path: Path) -> None:
    data = tmp_path / "moved"
    shutil.copytree(finished.parent / "data-3", data)
    assert check_replay(run, str(data)).identical
    with Image.open(data / "2.png") as image:
        pixels = np.array(image)
    pixels[300, 300] = 255
    Image.fromarray(pixels).save(data / "2.png")
    assert [(m.sample_id, m.turn, m.what) for m in check_replay(run, str(data)).mismatches] == [("2", 0, "pixels")]
    # Data are checked as a whole when they are opened.
    (data / "2.png").unlink()
    with pytest.raises(ValueError, match=r"2\.png"):
        check_replay(run, str(data))


def test_runs_without_digests_say_what_was_not_checked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = RunDirectory(run)
    lines = []
    for record in directory.records():
        line = record_to_json(record)
        del line["run"]["image_sha256"]
        lines.append(json.dumps(line) + "\n")
    directory.episodes_file.write_text("".join(lines), encoding="utf-8")
    assert main(["replay", str(run)]) == 0
    assert "Pixels of 6 images could not be checked" in capsys.readouterr().out


def test_another_system_prompt_is_a_difference(run: Path) -> None:
    directory = RunDirectory(run)
    manifest = directory.manifest()
    directory.write_manifest(manifest | {"prompt": manifest["prompt"] | {"system_prompt_sha256": "0" * 64}})
    check = check_replay(run)
    assert check.same_system_prompt is False
    assert not check.identical
    assert not check.mismatches


def test_the_same_for_drawn_samples_and_hostile_turns(random_run: Path, oracle_run: Path) -> None:
    for directory in (random_run, oracle_run):
        check = check_replay(directory)
        assert check.identical
        assert (check.n_episodes, check.n_images_unchecked) == (12, 0)
    with pytest.raises(ValueError, match="was given no data"):
        check_replay(oracle_run, "somewhere")


def test_no_torch_is_needed(run: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"from eval.__main__ import main; sys.exit(main(['replay', {str(run)!r}]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_arms_of_an_audit_replay_with_their_pixels(run: Path) -> None:
    assert main(["audit", str(run), "--protocol", "counterfactual", "--change", "blank", "--change", "shift"]) == 0
    for arm in ("control", "blank", "shift"):
        assert check_replay(run / "audit" / arm).identical
    # Without the intervention they would not.
    directory = RunDirectory(run / "audit" / "blank")
    manifest = directory.manifest()
    assert manifest.pop("intervention") == {"kind": "blank", "operation": None, "seed": 0}
    directory.write_manifest(manifest)
    assert {m.what for m in check_replay(directory.path).mismatches} == {"pixels"}


def test_striped_pictures_hide_what_they_are_about(run: Path) -> None:
    # What every test with them rests on: at first sight there are no stripes.
    sample = RunDirectory(run).records()[0]
    assert sample.episode.answer == striped.ANSWERS[0]
