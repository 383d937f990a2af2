"""Counterfactual views: agents whose use of an operation is known, interruption, servers, the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.agents import AgentChoice
from eval.audit.arms import AuditPlan, Resumed
from eval.audit.audit import audit_run
from eval.audit.measures import analyse
from eval.audit.page import write_audit
from eval.records import RunFiles, RunRecord
from eval.run_command import Whereabouts, agent_of
from eval.runner import evaluate
from pxr_agents.chat_client import Server
from pxr_agents.types import Action, Episode, Observation
from tests.eval import striped
from tests.eval.chat_server import ChatServer, pixels, serve
from tests.eval.scripted import HOSTILE
from tests.eval.test_audit_med import QUIET, evaluate_striped
from tests.eval.test_report import Page

COUNTERFACTUAL = AuditPlan(protocols=("counterfactual",))


def audited(tmp_path: Path, player: str, n: int = 8, plan: AuditPlan = COUNTERFACTUAL) -> dict[str, Any]:
    run = evaluate_striped(tmp_path / "run", player, n)
    return audit_run(run, Whereabouts(), plan, QUIET)["counterfactual"]


@pytest.mark.parametrize(
    ("player", "changed", "lost", "use", "verdict"),
    [
        ("Reader", 1.0, 1.0, "causal", "causal, helps"),
        ("Decorator", 0.0, 0.0, "decorative", "decorative: no change beyond the control's was found"),
        ("Misled", 1.0, -1.0, "causal", "causal, harms"),
    ],
)
def test_use_is_told_by_what_changes(
    tmp_path: Path, player: str, changed: float, lost: float, use: str, verdict: str
) -> None:
    found = audited(tmp_path, player)["operations"]["zoom_in"]
    assert found["n"] == 8
    assert found["reproduced"][0] == 1.0
    assert found["accuracy_control"][0] == {"Reader": 1.0, "Decorator": 1.0, "Misled": 0.0}[player]
    for arm in found["arms"].values():
        assert (arm["n"], arm["n_impossible"]) == (8, 0)
        assert (arm["changed"][0], arm["noise"][0], arm["excess"][0]) == (changed, 0.0, changed)
        assert arm["accuracy_lost"][0] == lost
        assert (arm["n_lost"], arm["n_gained"]) == (8 * (lost > 0), 8 * (lost < 0))
        # Two tails of eight heads.
        assert arm["excess_p"] == (2 / 2**8 if changed else 1.0)
    assert {name: of["n"] for name, of in found["uses"].items()} == {"causal": 0, "decorative": 0, "unstable": 0} | {
        use: 8
    }
    assert found["verdict"] == verdict
    assert found["need"] == {"needed": {use: 8}, "not needed": {}}
    # Every zoom was into the square.
    assert found["faithfulness"]["faithful"][0] == found["faithfulness"]["coverage"] == 1.0
    assert found["faithfulness"]["table"] == {"faithful": {use: 8}, "unfaithful": {}}


def test_shares_of_an_agent_that_does_all_of_it(tmp_path: Path) -> None:
    result = audited(tmp_path, "Mixed", 12)
    # Of twelve questions three each are read, known, misled, and answered without a call.
    assert result["n_used"] == 9
    found = result["operations"]["all"]
    for arm in found["arms"].values():
        assert (arm["n_lost"], arm["n_gained"], arm["accuracy_lost"][0]) == (3, 3, 0.0)
        assert (arm["changed"][0], arm["accuracy"][0]) == pytest.approx((6 / 9, 6 / 9))
        low, high = arm["changed"][1:]
        assert 0.2 < low < 6 / 9 < high <= 1.0
    assert {use: of["share"][0] for use, of in found["uses"].items()} == pytest.approx(
        {"causal": 6 / 9, "decorative": 3 / 9, "unstable": 0.0}
    )
    # Six changes of nine and none in the control: 2 / 2**6 is not below 0.05 / 3.
    assert found["verdict"].startswith("decorative")
    # What used nothing is not played, and the turns up to the last call are those of the run, and so are the boxes.
    run = tmp_path / "run"
    recorded = {record.key: record for record in RunFiles(run).records()}
    played = RunFiles(run / "audit" / "blank").records()
    assert [record.episode.sample_id for record in played] == [str(n) for n in range(12) if n % 4 != 3]
    for record in played:
        before = recorded[record.key]
        assert record.episode.steps[0].turn == before.episode.steps[0].turn
        assert record.episode.views == before.episode.views
        shown, shown_before = record.image_sha256 or [], before.image_sha256 or []
        assert shown[0] == shown_before[0]
        assert shown[1] != shown_before[1]


def test_unfaithful_and_unstable_uses_are_told_from_causal_ones(tmp_path: Path) -> None:
    found = audited(tmp_path / "stranger", "Stranger", 4)["operations"]["all"]
    assert found["faithfulness"]["faithful"][0] == found["faithfulness"]["coverage"] == 0.0
    assert found["faithfulness"]["faithful_correct"][0] == 0.0
    assert found["faithfulness"]["table"] == {"faithful": {}, "unfaithful": {"decorative": 4}}
    assert found["accuracy_control"][0] == 1.0
    # What changes by itself is not laid at the pixels.
    found = audited(tmp_path / "fickle", "Fickle", 4)["operations"]["all"]
    assert found["reproduced"][0] == 0.0
    for arm in found["arms"].values():
        assert (arm["changed"][0], arm["noise"][0], arm["excess"][0]) == (1.0, 1.0, 0.0)
    assert found["uses"]["unstable"]["n"] == 4
    assert found["verdict"].startswith("decorative")


def test_of_several_operations_each_is_changed_apart(tmp_path: Path) -> None:
    data = striped.write_data(tmp_path / "data", 6)
    evaluate(
        striped.ENV_ID,
        out=tmp_path / "run",
        agent="tests.eval.striped:Tumbler",
        env_args={**striped.ENV_ARGS, "data": str(data), "operations": ["zoom_in", "flip"]},
        console=QUIET,
    )
    plan = AuditPlan(protocols=("counterfactual",), changes=("blank",))
    found = audit_run(tmp_path / "run", Whereabouts(), plan, QUIET)["counterfactual"]["operations"]
    # All six read what they zoom into; the flips of questions 0, 2 and 4 are looked at by nobody.
    changed = {name: (of["n"], of["arms"]["blank"]["changed"][0]) for name, of in found.items()}
    assert changed == {"all": (6, 1.0), "zoom_in": (6, 1.0), "flip": (3, 0.0)}
    played = {path.name: len(RunFiles(path).records()) for path in (tmp_path / "run" / "audit").iterdir()}
    assert played == {"control": 6, "blank": 6, "blank-zoom_in": 3, "blank-flip": 3}


def test_samples_that_changed_since_the_run_are_noticed(tmp_path: Path) -> None:
    run = evaluate_striped(tmp_path / "run", "Reader", 2)
    rows = tmp_path / "data-2" / "data.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace("Do the stripes", "Do these stripes"), encoding="utf-8")
    with pytest.raises(ValueError, match="2 samples are not what they were in the run, such as '0'"):
        audit_run(run, Whereabouts(), COUNTERFACTUAL, QUIET)


def test_nothing_is_played_twice_and_an_interrupted_audit_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluate_striped(tmp_path / "run", "Reader", 6)
    whole = audit_run(run, Whereabouts(), COUNTERFACTUAL, QUIET)
    before = striped.n_asked
    assert audit_run(run, Whereabouts(), COUNTERFACTUAL, QUIET) == whole
    assert striped.n_asked == before
    shutil.rmtree(run / "audit")
    answer, n_left = striped.Reader.answer, 9

    def interrupted(self: striped.Reader, observation: Observation) -> str:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise KeyboardInterrupt
        return answer(self, observation)

    monkeypatch.setattr(striped.Reader, "answer", interrupted)
    one_at_a_time = Whereabouts(concurrency=1)
    with pytest.raises(KeyboardInterrupt):
        audit_run(run, one_at_a_time, COUNTERFACTUAL, QUIET)
    monkeypatch.setattr(striped.Reader, "answer", answer)
    # Six of the control and three of the first arm are on disk; two turns for each of the others.
    before = striped.n_asked
    assert audit_run(run, one_at_a_time, COUNTERFACTUAL, QUIET) == whole
    assert striped.n_asked - before == 2 * (4 * 6 - 9)


def test_another_program_may_play_and_it_is_said_which(tmp_path: Path) -> None:
    run = evaluate_striped(tmp_path / "run", "Reader", 4)
    other = Whereabouts(agent="tests.eval.striped:Decorator")
    result = audit_run(run, other, COUNTERFACTUAL, QUIET)
    assert result["notes"][0].startswith("The run was played by tests.eval.striped:Reader, the audit by tests.eval.")
    assert result["counterfactual"]["operations"]["all"]["uses"]["decorative"]["n"] == 4
    assert RunFiles(run / "audit" / "blank").manifest()["agent"] == "tests.eval.striped:Decorator"
    before = striped.n_asked
    again = audit_run(run, Whereabouts(), COUNTERFACTUAL, QUIET)
    assert again["counterfactual"] == result["counterfactual"]
    assert striped.n_asked == before


class Batch:
    """An agent for many episodes that cannot be told a turn."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []
        self._waiting: list[int] = []

    def start(self, key: int, env: Any) -> None: ...

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        self.seen.append((key, observation["text"]))
        self._waiting.append(key)

    def collect(self) -> list[tuple[int, Action]]:
        waiting, self._waiting = self._waiting, []
        return [(key, Action(text=f"own {key}")) for key in waiting]

    def finish(self, key: int) -> None: ...


def test_the_turns_of_an_agent_that_cannot_be_told_are_replaced() -> None:
    agent = Batch()
    resumed = Resumed(agent, [["first", "second"], []])
    for key in (0, 1):
        resumed.submit(key, {"text": "question", "images": ()}, {})
    assert [(key, action.text) for key, action in resumed.collect()] == [(0, "first"), (1, "own 1")]
    turns = []
    for text in ("a", "b"):
        resumed.submit(0, {"text": text, "images": ()}, {})
        turns += [action.text for _, action in resumed.collect()]
    assert turns == ["second", "own 0"]
    assert agent.seen == [(0, "question"), (1, "question"), (0, "a"), (0, "b")]


def see_stripes(body: dict[str, Any]) -> str:
    """A model behind a server that zooms and reads; without a tool in its prompt it guesses."""
    shown = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    if len(body["messages"]) == 2 and "zoom_in" in body["messages"][0]["content"]:
        return striped.zoom((0, 0, 56, 56))
    return f"\\boxed{{{striped.read_stripes(pixels(shown[-1]))}}}"


def test_a_server_is_asked_only_for_the_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    data = striped.write_data(tmp_path / "data", 1)
    server = ChatServer(see_stripes)
    with serve(server) as url:
        evaluate(
            striped.ENV_ID,
            out=tmp_path / "run",
            agent=AgentChoice(name="openai", model="m", server=Server(base_url=url, model="m")),
            env_args={**striped.ENV_ARGS, "data": str(data)},
            console=QUIET,
        )
        assert len(server.bodies) == 2
        assert main(["audit", str(tmp_path / "run"), "--base-url", url]) == 0
        # One turn without operations, and the last one in the control and three arms.
        assert len(server.bodies) == 2 + 1 + 4
        assert main(["audit", str(tmp_path / "run")]) == 0
        assert len(server.bodies) == 7
    recorded, control = server.bodies[1], server.bodies[3]
    assert control == recorded
    blank = server.bodies[4]
    assert blank["messages"][:-1] == recorded["messages"][:-1]
    assert blank["messages"][-1] != recorded["messages"][-1]
    audit = json.loads((tmp_path / "run" / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert audit["med"]["values"]["call_gain"] == 1.0
    assert audit["counterfactual"]["operations"]["all"]["uses"]["causal"]["n"] == 1


def test_without_its_server_or_with_other_weights_nothing_is_played(tmp_path: Path) -> None:
    manifest = {
        "agent": "openai",
        "model": "m",
        "sampling": {"temperature": 0.5, "max_tokens": 7, "stop": ["</x>"], "body": {"top_p": 0.9}},
        "seed": 3,
        "engine": {},
        "server": {"base_url": "http://example.org/v1"},
        "model_sha256": {},
    }
    with pytest.raises(ValueError, match=r"a model at http://example\.org/v1; expected --base-url"):
        agent_of(manifest, Whereabouts())
    choice = agent_of(manifest, Whereabouts(server=Server(base_url="http://localhost:1/v1", model="")))
    assert (choice.sampling.temperature, choice.sampling.max_tokens, choice.sampling.stop) == (0.5, 7, ("</x>",))
    assert choice.body == {"top_p": 0.9}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    local = manifest | {
        "agent": "transformers",
        "model": str(tmp_path),
        "server": None,
        "sampling": {"temperature": 0.0, "max_tokens": 7},
        "model_sha256": {"config.json": "0" * 64},
    }
    with pytest.raises(ValueError, match=r"not the checkpoint of the run: config\.json, model\.safetensors differ"):
        agent_of(local, Whereabouts())


def record(sample: int, answer: str | None, *, correct: bool = False, error: str | None = None) -> RunRecord:
    return RunRecord(episode=Episode(task="t", sample_id=str(sample), answer=answer, correct=correct, error=error))


def test_episodes_without_a_score_are_counted_apart() -> None:
    def is_correct(one: RunRecord) -> bool:
        return one.episode.correct

    recorded = [record(number, "a", correct=True) for number in range(3)]
    control = [record(0, "A ", correct=True), record(1, None), record(2, None, error="model: down")]
    blank = [record(0, "b"), record(1, None), record(2, "c")]
    shift = [record(number, None, error="intervention: no place") for number in range(3)]
    found = analyse(recorded, control, {"blank": blank, "shift": shift}, is_correct)
    assert (found["n"], found["n_lost"]) == (2, 1)
    # "A " is "a"; no answer is another one than "a", and the same as no answer.
    assert found["reproduced"][0] == 0.5
    assert found["arms"]["blank"]["changed"][0] == 0.5
    assert found["arms"]["blank"]["noise"][0] == 0.5
    assert found["arms"]["shift"] == {"n": 0, "n_impossible": 2}
    assert {use: of["n"] for use, of in found["uses"].items()} == {"causal": 1, "decorative": 0, "unstable": 1}
    assert found["faithfulness"] is None
    assert analyse(recorded, [], {}, is_correct) == {"n": 0, "n_lost": 3}


def test_the_page_is_self_contained_and_deaf_to_what_models_write(tmp_path: Path) -> None:
    run = evaluate_striped(tmp_path / "run", "Reader", 2)
    audit_run(run, Whereabouts(), COUNTERFACTUAL, QUIET)
    for arm in ("control", "blank"):
        directory = RunFiles(run / "audit" / arm)
        records = directory.records()
        records[0].episode.answer = HOSTILE
        directory.finish(records, directory.metrics())
    result = audit_run(run, Whereabouts(), COUNTERFACTUAL, QUIET)
    write_audit(tmp_path / "audit.html", {"runs": [result], "steps": [0], "drift": []})
    page = Page(tmp_path / "audit.html")
    assert HOSTILE in page.text
    assert "Does the operation cause the answer?" in page.text
    assert len(page.all("script")) == 1
    assert not page.all("link")
    # Two episodes with a view in four arms.
    sources = [attributes["src"] or "" for attributes in page.all("img")]
    assert len(sources) == 2 * 4
    assert all(source.startswith("data:image/") for source in sources)
