"""The files of a run: what is written comes back, what was interrupted goes on, what is finished stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.records import RunFiles, RunRecord, record_from_json, record_to_json
from pxr_agents.types import Episode, Step, Tokens
from tests.eval.conftest import episodes_of

MANIFEST = {"agent": "oracle", "seed": 0}


def full_episode(sample_id: str = "0") -> Episode:
    whole = {"source": 1, "box": (0.0, 0.0, 10.5, 20.0), "size": (28, 56)}
    turned = {
        "corners": [(0.0, 20.0), (0.0, 0.0), (10.5, 0.0), (10.5, 20.0)],
        "marks": [{"kind": "point", "points": [(3.0, 4.0)], "label": "a"}],
        "adjustments": [{"contrast": 2.0}],
    }
    return Episode(
        task="pxr/SyntheticSearch-v0",
        sample_id=sample_id,
        group="g",
        prompt="Which letter is \u8a9e \ud800?",
        steps=[Step(turn="a\nb", reply="", reward=0.5, reward_terms={"correct": 0.5}, weights_version=3)],
        views=[{"index": 1, "turn": 0, **whole}, {"index": 2, "turn": 1, **whole, **turned}],
        evidence_time=(0.5, 1.5),
        usage={"zoom_in": 1},
        failures={"malformed": 2},
        needs_operation=True,
        evidence_box=(1.0, 2.0, 3.0, 4.5),
        category="colour",
        answer="K",
        target="T",
        correct=True,
        token_spans=(("read", 12), ("written", 5)),
    )


def full_record(sample_id: str = "0") -> RunRecord:
    return RunRecord(
        episode=full_episode(sample_id),
        repeat=2,
        score=0.75,
        seconds=1.5,
        model_seconds=1.25,
        vision_tokens=9,
        prompt_tokens=100,
        completion_tokens=20,
        n_retries=3,
        duplicates=1,
        clipped=2,
        served="model fp_1",
        sample_sha256="ab" * 32,
        judgment={"said": "CORRECT", "correct": True},
    )


def test_a_record_survives_json_except_for_its_tokens() -> None:
    record = full_record()
    record.episode.tokens = Tokens(
        ids=np.zeros(1, np.int32),
        action=np.zeros(1, bool),
        logprobs=np.zeros(1, np.float32),
        positions=np.zeros((3, 1), np.int32),
        images=(),
        turn_ends=(),
    )
    line = json.loads(json.dumps(record_to_json(record)))
    assert record_from_json(line) == full_record()
    # A training writes the episode alone.
    del line["run"]
    assert record_from_json(line) == RunRecord(episode=full_episode())


def test_records_from_before_there_were_withdrawn_operations() -> None:
    line = record_to_json(full_record())
    del line["withdrawn"]
    assert record_from_json(line).episode.withdrawn is False


@pytest.mark.parametrize("place", ["episode", "run"])
def test_a_record_of_another_version_is_refused(place: str) -> None:
    line = record_to_json(full_record())
    values, name = (line, "category") if place == "episode" else (line["run"], "cluster")
    values["colour"] = values.pop(name)
    with pytest.raises(ValueError, match=rf"another version \(missing: \['{name}'\], unknown: \['colour'\]\)"):
        record_from_json(line)


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    directory = RunFiles(tmp_path / "run")
    assert directory.start(MANIFEST) == []
    directory.append(full_record())
    directory.finish([full_record()], {"statistics": {}})
    with pytest.raises(FileExistsError, match="finished evaluation"):
        directory.start(MANIFEST)
    assert episodes_of(directory.path) == [full_episode()]


def test_an_interrupted_run_goes_on_without_its_half_line(tmp_path: Path) -> None:
    directory = RunFiles(tmp_path)
    directory.start(MANIFEST)
    directory.append(full_record("0"))
    with directory.episodes_file.open("a") as file:
        file.write(json.dumps(record_to_json(full_record("1")))[:50])
    assert directory.start(MANIFEST) == [full_record("0")]
    directory.append(full_record("1"))
    assert episodes_of(directory.path) == [full_episode("0"), full_episode("1")]


def test_what_could_not_be_scored_is_tried_again_and_a_judge_that_failed_costs_no_new_answer(tmp_path: Path) -> None:
    directory = RunFiles(tmp_path)
    directory.start(MANIFEST)
    lost, unjudged, good = full_record("0"), full_record("1"), full_record("2")
    lost.episode.error, unjudged.episode.error = "model: away", "judge: away"
    for record in (lost, unjudged, good):
        directory.append(record)
    directory.finish(directory.records(), {"statistics": {}})
    assert [record.episode.sample_id for record in directory.start(MANIFEST, reopen=True)] == ["1", "2"]
    assert [episode.error for episode in episodes_of(directory.path)] == [None, None]
    assert not directory.metrics_file.exists()


def test_what_is_no_run_to_go_on_with_is_refused(tmp_path: Path) -> None:
    directory = RunFiles(tmp_path)
    with pytest.raises(FileNotFoundError, match="continue an interrupted evaluation"):
        directory.metrics()
    directory.append(full_record())
    with pytest.raises(FileExistsError, match="without a manifest"):
        directory.start(MANIFEST)
    directory.write_manifest(MANIFEST)
    with pytest.raises(FileExistsError, match="seed was 0 and is 1"):
        directory.start(MANIFEST | {"seed": 1})
    with directory.episodes_file.open("a") as file:
        file.write("[]\n")
    with pytest.raises(ValueError, match=r"episodes.jsonl, line 2"):
        directory.records()


def test_a_server_with_a_larger_context_is_asked_again_what_outgrew_the_smaller_one(tmp_path: Path) -> None:
    def manifest(room: int | None) -> dict[str, Any]:
        says = {"id": "m"} if room is None else {"id": "m", "max_model_len": room}
        return {"model": "m", "server": {"model": "m", "says": says}}

    directory = RunFiles(tmp_path / "run")
    directory.start(manifest(512))
    fits = RunRecord(episode=Episode(task="t", sample_id="a", truncated_by="max_turns"), score=0.0)
    full = RunRecord(episode=Episode(task="t", sample_id="b", truncated_by="context"), score=0.0)
    for record in (fits, full):
        directory.append(record)
    assert len(directory.start(manifest(512))) == 2
    assert directory.start(manifest(1024)) == [fits]
    assert directory.manifest() == manifest(1024)
    # It was asked again, and there still was no room: the same server is not asked a third time.
    directory.append(full)
    assert directory.start(manifest(1024)) == [fits, full]
    assert directory.start(manifest(None)) == [fits]
