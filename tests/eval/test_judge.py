"""An LLM as judge: what it is asked, what it decides, and that nothing is asked twice."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.judge import JudgeChoice
from eval.records import RunFiles
from pxr_agents.chat_client import Retries, Server, ServerRefused
from pxr_agents.judge import PROMPT, REMINDER, read_verdict
from tests.eval import scripted
from tests.eval.chat_server import ChatServer, serve, status
from tests.eval.conftest import episodes_of, run_evaluation

AGENT = "tests.eval.scripted:answering"
ANSWERS = {"test-0": "the letter A, I think", "test-1": "{answer}", "test-2": None}


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "answers", ANSWERS)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def judge(url: str, **other: Any) -> JudgeChoice:
    retries = Retries(attempts=2, first_wait=0.0)
    return JudgeChoice(server=Server(base_url=url, model="m", retries=retries), concurrency=1, **other)


def likes_the_first(body: dict[str, Any]) -> str:
    right = "I think" in body["messages"][0]["content"]
    return "It says the same, so it is not INCORRECT. CORRECT" if right else "Incorrect."


def judged(out: Path, server: ChatServer, **other: Any) -> list[bool]:
    """What the judge decided over three answers."""
    with serve(server) as url:
        run_evaluation(out, agent=AGENT, limit=3, judge=judge(url, **other))
    return [episode.correct for episode in episodes_of(out)]


def test_the_judge_decides_over_every_answer(tmp_path: Path) -> None:
    server = ChatServer(likes_the_first)
    assert judged(tmp_path / "run", server) == [True, False, False]
    records, run = RunFiles(tmp_path / "run").records(), RunFiles(tmp_path / "run")
    said = "It says the same, so it is not INCORRECT. CORRECT"
    # Who did not answer is wrong without a judge.
    assert [records[0].judgment, records[2].judgment] == [{"model": "m", "said": said, "correct": True}, None]
    assert run.metrics()["statistics"]["accuracy"] == 1 / 3
    assert [body["temperature"] for body in server.bodies] == [0.0, 0.0]
    prompt, accepted = server.bodies[1]["messages"][0]["content"], records[1].episode.target
    assert f"Accepted answers, one a line:\n{accepted}\n\nAnswer to judge:\n{{answer}}\n" in prompt
    assert (run.manifest()["judge"]["model"], run.manifest()["judge"]["prompt"]) == ("m", PROMPT)


def test_what_it_said_is_kept_for_other_runs_and_read_by_the_grammar_of_today(tmp_path: Path) -> None:
    server, cache = ChatServer(likes_the_first), tmp_path / "judgments.jsonl"
    first = judged(tmp_path / "one", server, cache=cache)
    # A process that was killed leaves half a line.
    with cache.open("a") as file:
        file.write('{"key": "')
    assert judged(tmp_path / "two", server, cache=cache) == first
    assert len(server.bodies) == 2
    lines = [json.loads(line) for line in cache.read_text().splitlines()[:2]]
    said = ["INCORRECT. The correct answer is 5.", "Either CORRECT or INCORRECT."]
    changed = [json.dumps(line | {"said": text}) + "\n" for line, text in zip(lines, said, strict=True)]
    cache.write_text("".join(changed))
    server.player = lambda body: "CORRECT"
    assert judged(tmp_path / "three", server, cache=cache) == [False, True, False]
    # Only the one that cannot be read was asked for again, in other words.
    assert len(server.bodies) == 3
    assert server.bodies[-1]["messages"][-1]["content"] == REMINDER


def test_an_outage_drops_the_question_with_its_reason_and_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = ChatServer(likes_the_first, itertools.repeat(status(503)))
    with serve(down) as url:
        arguments: Any = {"agent": AGENT, "limit": 3, "judge": judge(url)}
        metrics = run_evaluation(tmp_path / "run", **arguments)
        assert (metrics["statistics"]["n_errors"], metrics["statistics"]["accuracy"]) == (2, 0.0)
        assert all(reason.startswith("judge: ") and "status 503" in reason for reason in metrics["errors"])
        down.faults = itertools.repeat(None)
        # Nobody answers again: what the model said is on record.
        monkeypatch.setattr(scripted, "answers", {})
        metrics = run_evaluation(tmp_path / "run", retry_errors=True, **arguments)
    assert (metrics["statistics"]["n_errors"], metrics["statistics"]["accuracy"]) == (0, 1 / 3)


def test_a_judge_that_says_neither_is_asked_again_in_other_words_and_judges_nothing(tmp_path: Path) -> None:
    server = ChatServer(lambda body: "Hard to tell.")
    judged(tmp_path / "run", server)
    errors = RunFiles(tmp_path / "run").metrics()["errors"]
    assert sum(errors.values()) == 2
    assert any("said neither CORRECT nor INCORRECT, asked 3 times: Hard to tell." in reason for reason in errors)
    first, second, third = ([message["content"] for message in body["messages"]] for body in server.bodies[:3])
    assert len(server.bodies) == 6
    assert second == [first[0], "Hard to tell.", REMINDER]
    assert third == [f"{first[0]}\n\n{REMINDER}"]
    # What cannot be read is not kept.
    assert not (tmp_path / "run" / "judgments.jsonl").exists()
    # The second verdict counts.
    server = ChatServer(lambda body: "INCORRECT. The colour fits." if len(body["messages"]) == 3 else "CORRECT or not?")
    assert judged(tmp_path / "second", server) == [False, False, False]
    assert (RunFiles(tmp_path / "second").metrics()["errors"], len(server.bodies)) == ({}, 4)


def without_schema(body: dict[str, Any]) -> str:
    return "CORRECT" if "response_format" not in body else '{"verdict": "CORRECT"}'


def test_a_server_is_asked_for_one_of_two_words_and_whether_it_can_once(tmp_path: Path) -> None:
    able = ChatServer(without_schema)
    assert judged(tmp_path / "able", able) == [True, True, False]
    for body in able.bodies:
        schema = body["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["verdict"]["enum"] == ["CORRECT", "INCORRECT"]
    unable = ChatServer(without_schema, iter([status(400, b'{"error": {"message": "unknown field response_format"}}')]))
    assert judged(tmp_path / "unable", unable) == [True, True, False]
    assert ["response_format" in body for body in unable.bodies][-2:] == [False, False]
    assert len(unable.bodies) <= 3


VERDICTS: dict[str, bool | None] = {
    "CORRECT": True, "**CORRECT**": True, "Correct.": True, "CORRECT!": True, "Verdict: CORRECT": True,
    "**Verdict:** CORRECT": True, "# CORRECT": True, r"\boxed{CORRECT}": True, "<answer>CORRECT</answer>": True,
    '{"verdict": "CORRECT"}': True, '{"verdict": "CORRECT", "reason": "the same"}': True,
    '```json\n{\n  "verdict": "CORRECT"\n}\n```': True, "It\u2019s correct.": True,
    "CORRECT\n\nNothing incorrect here.": True, "Let me see. Both say red.\n\nCORRECT": True,
    "Both say red. The answer is CORRECT.": True, "So it is not INCORRECT. CORRECT": True,
    "CORRECT, because both say red.": True, "<think>Incorrect would be 4. Wrong.</think>CORRECT": True,
    "Judgment - CORRECT": True, "The response is CORRECT since it says the same": True, "INCORRECT": False,
    "Incorrect.": False, "**INCORRECT**": False, "Verdict: **INCORRECT**": False, '{"verdict": "INCORRECT"}': False,
    r"$\boxed{\text{INCORRECT}}$": False, "INCORRECT. The correct answer is 5.": False,
    "INCORRECT (correct would be B)": False, "INCORRECT\n\nThe accepted answer, red, would be correct.": False,
    "The answer is not correct.": False, "It isn't correct": False, "It isn\u2019t correct.": False,
    "not correct": False, "NOT CORRECT": False, "Wrong.": False, "That is wrong.": False,
    "<think>It may be correct.</think>INCORRECT": False, "The answer is incorrect because a bus is no car.": False,
    "": None, "Hard to tell.": None, "CORRECT or INCORRECT": None, "CORRECT/INCORRECT": None,
    "Neither CORRECT nor INCORRECT.": None, "CORRECT. No, INCORRECT.": None, "INCORRECT.\nCORRECT.": None,
    "Correct: 5. Given: 4.": None, "The correct answer is 5.": None, "Partially correct.": None,
    "The answer is partially correct.": None, "Not quite correct": None, "Correct, but only if red counts": None,
    "The answer would be correct": None, "The answer is never correct.": None, "NOT INCORRECT": None,
    "The answer is not incorrect.": None, "Is it correct? It is not.": None, "UNCORRECT": None, "CORRECTNESS": None,
    "I cannot say that it is correct": None,
}  # fmt: skip


@pytest.mark.parametrize("said", VERDICTS)
def test_a_verdict_is_a_statement_of_its_own(said: str) -> None:
    assert read_verdict(said) is VERDICTS[said]


def test_nobody_speaks_longer_than_the_grammar_reads() -> None:
    for part in ("(", "correct ", " *", "it ", "\n", "the answer is ", ".\n", "<think>"):
        assert read_verdict(part * 2000 + "x") is None


def test_a_judge_that_refuses_all_stops_the_run_and_no_answer_is_lost(tmp_path: Path) -> None:
    server = ChatServer(likes_the_first, iter([status(401)]))
    with serve(server) as url:
        with pytest.raises(ServerRefused, match="status 401"):
            run_evaluation(tmp_path / "run", agent=AGENT, limit=3, judge=judge(url))
        assert len(episodes_of(tmp_path / "run")) == 3
        metrics = run_evaluation(tmp_path / "run", agent=AGENT, limit=3, judge=judge(url))
    assert metrics["statistics"]["accuracy"] == 1 / 3


def test_options_are_named_with_their_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    row = {"id": "a", "question": "Which room?", "images": "a.png", "options": ["hall", "kitchen"], "answers": "B"}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(scripted, "answers", {"a": "the kitchen"})
    server = ChatServer(lambda body: "CORRECT")
    with serve(server) as url:
        arguments = ["--agent", AGENT, "--data", str(tmp_path), "--out", str(tmp_path / "run")]
        arguments += ["--set", "min_pixels=784", "--set", "max_pixels=7056"]
        arguments += ["--judge-model", "m", "--judge-base-url", url]
        assert main(["run", "--suite", "pxr_env:pxr/JSONL-v0", *arguments]) == 0
    assert "\nB (kitchen)\n" in server.bodies[0]["messages"][0]["content"]
    assert RunFiles(tmp_path / "run").metrics()["statistics"]["accuracy"] == 1.0
