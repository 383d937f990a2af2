"""`python -m eval replay`: every observation is rebuilt, and whatever differs is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

from eval.__main__ import main
from eval.judge import JudgeChoice
from eval.manifest import image_digest
from eval.metrics import evaluation_metrics
from eval.records import RunFiles, RunRecord
from eval.replay import Replayer, ReplayError, rebuild_environment
from eval.replay_check import ONLY_ON_RECORD, check_files, check_replay
from pxr_agents.agents import EachEpisode
from pxr_agents.chat_client import Server
from pxr_agents.rollout import rollout
from pxr_agents.types import Episode, Job, Observation, Step
from pxr_env.curiosity import WithdrawOperations
from tests.eval import scripted
from tests.eval.chat_server import ChatServer, serve
from tests.eval.conftest import run_evaluation
from tests.eval.test_audit_med import evaluate_striped


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_striped(tmp_path_factory.mktemp("replay") / "run", "Reader", 3)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def rewrite(run: Path, change: Callable[[Any], object], which: int = 1) -> None:
    directory = RunFiles(run)
    records = directory.records()
    change(records[which])
    # As somebody would who wants it to fit.
    directory.finish(records, evaluation_metrics(records))


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
    assert content[0]["files"] == []


def set_reply(record: RunRecord) -> None:
    step = record.episode.steps[0]
    record.episode.steps[0] = type(step)(turn=step.turn, reply="X" + step.reply[1:], reward=0.0, reward_terms={})


def set_answer(record: RunRecord) -> None:
    record.episode.answer = "diagonal"


#: Changes of a record, the turn after which they show, as what, and in which words.
CHANGES: list[tuple[Callable[[Any], object], int, str, str]] = [
    (
        lambda record: record.image_sha256[1].__setitem__(0, "0" * 64),
        *(1, "pixels", "image 1 of 1 had SHA-256 0000000000000000..."),
    ),
    (set_reply, 1, "text", "from character 0 on 'X"),
    (lambda record: record.episode.views[1].update(box=(0.0, 0.0, 1.0, 1.0)), 2, "views", "view 2 was "),
    (set_answer, 2, "answer", '"diagonal" is on record; "horizontal" came'),
    (lambda record: setattr(record.episode, "correct", False), 2, "correct", "false is on record; true came"),
    (lambda record: setattr(record, "score", 0.25), 2, "score", "0.25 is on record; 1.0 came"),
    (lambda record: record.image_sha256[0].append("0" * 64), 0, "images", "2 images are on record; 1 came"),
    (
        lambda record: record.episode.steps.append(record.episode.steps[0]),
        *(2, "end", "3 turns are on record; the episode ended after 2"),
    ),
    (lambda record: record.episode.steps.pop(), 1, "end", "the episode ended after turn 1; now it goes on"),
]


@pytest.mark.parametrize(("change", "turn", "what", "difference"), CHANGES)
def test_the_first_difference_of_an_episode_is_named(
    run: Path, change: Callable[[Any], object], turn: int, what: str, difference: str
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
    assert '1, turn 2: answer: "diagonal" is on record; "horizontal" came' in out


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


#: Every field of a line of `episodes.jsonl`; below "run" as `run.NAME`, of the second turn as `steps.NAME`.
FIELDS = (
    *(f"{field.name}" for field in fields(Episode) if field.name not in ("tokens", "steps")),
    *(f"steps.{field.name}" for field in fields(Step)),
    *(f"run.{field.name}" for field in fields(RunRecord) if field.name != "episode"),
)


def forged(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [forged(value[0]), *value[1:]] if value and isinstance(value[0], float) else value[:-1]
    return {"forged": 1} if isinstance(value, dict) else "forged"


def forge(run: Path, name: str, *, hide: bool) -> None:
    """Change one field of the second episode; with `hide` also the digest of the file, so that it fits."""
    file, metrics_file = run / "episodes.jsonl", run / "metrics.json"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    place, _, key = name.rpartition(".")
    target = {"": lines[1], "run": lines[1]["run"], "steps": lines[1]["steps"][1]}[place]
    others = {"judgment": {"said": "CORRECT"}, "evidence_time": [0.0, 1.0], "token_spans": [["read", 1]]}
    target[key] = others[key] if key in others else forged(target[key])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if hide:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
        metrics_file.write_text(json.dumps(metrics | {"episodes_sha256": digest}), encoding="utf-8")


#: What a forgery of a field is called, where not by its own name.
NAMED = {
    "sample_id": "data",
    "prompt": "text",
    "steps.reply": "text",
    # Only the model's side can tell, so that the numbers made of it no longer fit.
    "run.repeat": "episodes.jsonl run.repeat",
    "run.seconds": "metrics.json statistics.seconds",
    "run.prompt_tokens": "metrics.json statistics.prompt_tokens",
    "run.completion_tokens": "metrics.json statistics.completion_tokens",
    "run.served": "metrics.json served.x",
}
#: Nothing but the digest of the file tells; of a turn, if the environment answers to another one as to the first.
UNSEEN = (
    *("token_spans", "steps.turn", "steps.weights_version", "steps.finish_reason"),
    *("run.model_seconds", "run.n_retries"),
)


@pytest.mark.parametrize("name", FIELDS)
def test_a_forged_field_is_named(run: Path, name: str) -> None:
    is_number = name in ("run.prompt_tokens", "run.completion_tokens")
    if is_number:
        rewrite(run, lambda record: setattr(record, name.removeprefix("run."), 7))
    forge(run, name, hide=name not in UNSEEN)
    check = check_replay(run)
    named = {m.what for m in check.mismatches} | {f"{m.file} {m.field}" for m in check.files}
    expected = "episodes.jsonl SHA-256" if name in UNSEEN else NAMED.get(name, name.rpartition(".")[2])
    assert expected in named, named
    assert not check.identical
    if name in ONLY_ON_RECORD - {"run.judgment"}:
        assert not check.mismatches


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path


def with_forged(content: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    changed = json.loads(json.dumps(content))
    target = changed
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = forged(target[path[-1]])
    return changed


def test_every_forged_number_of_the_metrics_is_named(run: Path) -> None:
    directory = RunFiles(run)
    manifest, metrics, records = directory.manifest(), directory.metrics(), directory.records()
    env = rebuild_environment(manifest)
    assert check_files(directory, manifest, records, env) == []
    paths = [path for path in leaves(metrics) if path != ("episodes_sha256",)]
    assert len(paths) > 30
    for path in paths:
        directory.metrics_file.write_text(json.dumps(with_forged(metrics, path)), encoding="utf-8")
        found = check_files(directory, manifest, records, env)
        assert [(one.file, one.field) for one in found] == [("metrics.json", ".".join(path))]
    # A version that counted fewer things forged nothing; a number that was taken out of one place is missed.
    parts = ("statistics", "intervals", "counts")
    fewer = metrics | {part: {k: v for k, v in metrics[part].items() if k != "first_turn_rate"} for part in parts}
    for older, n_found in ((fewer, 0), (metrics | {"statistics": fewer["statistics"]}, 1)):
        directory.metrics_file.write_text(json.dumps(older), encoding="utf-8")
        assert len(check_files(directory, manifest, records, env)) == n_found
    env.close()


def test_every_forged_fact_of_the_manifest_is_named(run: Path) -> None:
    directory = RunFiles(run)
    manifest, records = directory.manifest(), directory.records()
    env = rebuild_environment(manifest)
    names = ("data", "prompt", "pixels", "scorer", "n_samples", "samples_sha256", "repeats")
    paths = list(leaves({name: manifest[name] for name in names}))
    assert len(paths) > 15
    for path in paths:
        found = check_files(directory, with_forged(manifest, path), records, env)
        field = "run.repeat" if path == ("repeats",) else ".".join(path)
        assert field in [one.field for one in found]
    env.close()


def test_a_lost_or_doubled_episode_is_noticed(run: Path) -> None:
    directory = RunFiles(run)
    records = directory.records()
    for others in (records[:-1], [*records, records[0]]):
        directory.finish(others, evaluation_metrics(others))
        assert {one.field for one in check_replay(run).files} & {"n_samples", "run.repeat"}


def test_an_unfinished_run_is_checked_as_far_as_it_got(run: Path) -> None:
    directory = RunFiles(run)
    directory.metrics_file.unlink()
    lines = directory.episodes_file.read_text(encoding="utf-8").splitlines(keepends=True)
    directory.episodes_file.write_text("".join(lines[:2]), encoding="utf-8")
    check = check_replay(run)
    assert (check.identical, check.n_episodes) == (True, 2)


@pytest.fixture(scope="module")
def judged_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge found the first of two answers right, which the scorer does not."""
    out = tmp_path_factory.mktemp("judged") / "run"
    server = ChatServer(lambda body: "CORRECT" if "I think" in body["messages"][0]["content"] else "INCORRECT")
    with pytest.MonkeyPatch.context() as patch, serve(server) as url:
        patch.setattr(scripted, "answers", {"test-0": "I think so", "test-1": "no"})
        patch.delenv("OPENAI_API_KEY", raising=False)
        judge = JudgeChoice(server=Server(base_url=url, model="m"), concurrency=1)
        run_evaluation(out, agent="tests.eval.scripted:answering", limit=2, judge=judge)
    return out


@pytest.fixture
def judged(judged_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(judged_once, tmp_path / "run")
    return tmp_path / "run"


def test_judgments_are_read_again(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [record.episode.correct for record in RunFiles(judged).records()] == [True, False]
    assert main(["replay", str(judged)]) == 0
    out = capsys.readouterr().out
    assert "byte-identical. 2 episodes" in out
    assert "2 judgments were read again" in out


def test_judgments_that_nothing_proves_are_not_passed_in_silence(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.jsonl"
    (judged / "judgments.jsonl").rename(kept)
    assert main(["replay", str(judged)]) == 0
    assert "2 judgments stand in no file of judgments and cannot be checked" in capsys.readouterr().out
    assert main(["replay", str(judged), "--judgments", str(kept)]) == 0
    assert "cannot be checked" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("judgment", "correct", "what"),
    [
        ({"said": "CORRECT", "correct": True, "model": "m"}, True, "judgment"),
        ({"said": "INCORRECT", "correct": True, "model": "m"}, True, "judgment"),
        ({"said": "INCORRECT", "correct": False, "model": "another"}, False, "judgment"),
        ({"said": "INCORRECT", "correct": False, "model": "m"}, True, "correct"),
        (None, False, "judgment"),
        (None, True, "judgment"),
    ],
)
def test_forged_judgments_are_named(judged: Path, judgment: dict[str, Any] | None, correct: bool, what: str) -> None:
    def change(record: RunRecord) -> None:
        record.judgment, record.episode.correct = judgment, correct

    rewrite(judged, change)
    assert [(m.sample_id, m.what) for m in check_replay(judged).mismatches] == [("test-1", what)]


def test_the_same_for_drawn_samples_and_hostile_turns(random_run: Path, oracle_run: Path) -> None:
    for directory in (random_run, oracle_run):
        check = check_replay(directory)
        assert (check.identical, check.n_episodes) == (True, 12)
    with pytest.raises(ValueError, match="was given no data"):
        check_replay(oracle_run, "somewhere")


def test_the_arms_of_an_audit_replay_with_their_pixels(run: Path) -> None:
    assert main(["audit", str(run), "--protocol", "counterfactual", "--change", "blank", "--change", "shift"]) == 0
    for arm in ("control", "blank", "shift"):
        assert check_replay(run / "audit" / arm).identical
    # Without the intervention they would not.
    directory = RunFiles(run / "audit" / "blank")
    manifest = directory.manifest()
    assert manifest.pop("intervention") == {"kind": "blank", "operation": None, "seed": 0}
    directory.write_manifest(manifest)
    assert {m.what for m in check_replay(directory.path).mismatches} == {"pixels"}


class Call:
    """Always zooms."""

    def act(self, observation: Observation) -> str:
        box = {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}
        return f"<tool_call>{json.dumps({'name': 'zoom_in', 'arguments': box})}</tool_call>"


def test_an_episode_without_operations_is_replayed_without_them() -> None:
    """Its call is a mistake there, and would be executed where operations are offered."""
    made = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", coordinates="unit")
    assert made.spec is not None
    agent = EachEpisode(lambda env: Call())
    [episode] = rollout([WithdrawOperations(made)], agent, [Job(sample_id="train-0", options={"withdrawn": True})])
    assert (episode.withdrawn, episode.usage, episode.truncated_by) == (True, {}, "max_turns")
    with closing(Replayer({"env": json.loads(made.spec.to_json())})) as replayer:
        assert len(replayer.replay(episode).images) == 1
        with pytest.raises(ReplayError):
            replayer.replay(replace(episode, withdrawn=False))
