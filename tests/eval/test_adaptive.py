"""Mode accuracy, counted by hand; and that an agent is told from one that only looks adaptive."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from eval.audit.adaptive import adaptive_use, solvable_samples
from eval.audit.arms import AuditPlan
from eval.audit.audit import audit_run
from eval.audit.page import USE_LABELS, adaptive_rows, print_audit, write_audit
from eval.records import RunFiles, RunRecord
from eval.run_command import Whereabouts
from pxr_agents.types import Episode, Step
from tests.eval import striped
from tests.eval.test_audit_med import MED, QUIET, evaluate_striped

STEP = Step(turn="", reply="", reward=0.0, reward_terms={})


def is_correct(one: RunRecord) -> bool:
    return one.episode.correct


def record(number: int, way: str, right: bool, *, need: bool | None = None, repeat: int = 0) -> RunRecord:
    """An episode that was answered at once ("at once"), after a "zoom", after a "broken" call, or never ("none")."""
    episode = Episode(
        task="t", sample_id=str(number), correct=right, needs_operation=need,
        answer=None if way == "none" else "x", usage={"zoom_in": int(way == "zoom")},
        failures={"malformed": int(way == "broken")}, steps=[STEP] * (1 if way == "at once" else 2),
    )  # fmt: skip
    return RunRecord(episode=episode, repeat=repeat, sample_sha256="0")


def adaptive(recorded: list[RunRecord], *answers: str) -> dict[str, Any]:
    """Of questions with such answers without operations: "+-" for one of two right."""
    without = [
        record(number, "at once", sign == "+", repeat=repeat)
        for number, of_question in enumerate(answers)
        for repeat, sign in enumerate(of_question)
    ]
    return adaptive_use(recorded, solvable_samples(recorded, without, is_correct), None, is_correct)


def test_mode_accuracy_equals_that_counted_by_hand() -> None:
    ways = [("at once", True), ("broken", True), ("zoom", False), ("none", False), ("zoom", True), ("at once", True)]
    recorded = [record(number, *way, need=number > 2) for number, way in enumerate(ways)]
    # Questions 0 to 3 are solvable: at least half of three, or two, answers are right. 2 is easy, 3 is not.
    found = adaptive(recorded, "+++", "++-", "+-", "++-", "+--", "---")
    expected = {"ma_text": 2 / 4, "first_turn": 1 / 4, "ma_tool": 1 / 2, "tool_gain": 2 / 6, "tool_harm": 2 / 6}
    assert found["solvability"]["values"] == pytest.approx(expected | {"mode_accuracy": 1 / 2})
    assert [found["solvability"][name] for name in ("n", "n_easy")] == [6, 4]
    expected = {"ma_text": 2 / 3, "first_turn": 1 / 3, "ma_tool": 1 / 3, "tool_gain": 2 / 6, "tool_harm": 1 / 6}
    assert found["need"]["values"] == pytest.approx(expected | {"mode_accuracy": 1 / 2})
    # Wilson's of 2 of 4 and 1 of 2: 0.1500 and 0.0945 to their mirrors; halved, the root of the squares.
    assert found["solvability"]["intervals"]["mode_accuracy"] == pytest.approx([0.5 - 0.2678, 0.5 + 0.2678], abs=1e-4)
    assert (found["faithful"], found["causal"], found["causal_needed"]) == (None, None, None)
    assert adaptive([record(0, "zoom", True)], "+")["need"] is None


@given(
    st.lists(st.booleans(), min_size=2).filter(lambda kinds: len(set(kinds)) == 2), st.sampled_from(["zoom", "at once"])
)
def test_always_and_never_calling_have_a_mode_accuracy_of_one_half(needs: list[bool], way: str) -> None:
    recorded = [record(number, way, True, need=need) for number, need in enumerate(needs)]
    found = adaptive(recorded, *("-" if need else "+" for need in needs))
    kept = {key: found["need"][key] for key in ("values", "intervals")}
    assert kept == {key: found["solvability"][key] for key in kept}
    assert kept["values"]["mode_accuracy"] == 0.5
    low, high = kept["intervals"]["mode_accuracy"]
    assert 0 < low < 0.5 < high < 1
    # Of one kind alone nothing can be said of both.
    alone = adaptive(recorded[:1], "-" if needs[0] else "+")
    assert "mode_accuracy" not in alone["solvability"]["values"]


def test_an_audit_says_where_operations_pay(tmp_path: Path) -> None:
    run = evaluate_striped(tmp_path / "run", "ByTable", len(striped.CASES))
    found: Any = audit_run(run, Whereabouts(), AuditPlan(changes=("blank",)), QUIET)
    # Solvable: 3, 4, 5, 6, 9, of which 4 and 6 are answered at once, and 9 after a refused call; 3, 4 and 9 are wrong.
    # Of the others 0, 1 and 7 call, and 0, 1 and 2 are right.
    expected = {"ma_text": 3 / 5, "first_turn": 2 / 5, "ma_tool": 3 / 5, "tool_gain": 0.3, "tool_harm": 0.3}
    section = found["adaptive"]
    assert section["solvability"]["values"] == pytest.approx(expected | {"mode_accuracy": 3 / 5})
    # Here every question needs a look; five of ten have one. All show the evidence, and change no answer.
    assert section["need"]["values"] == {"ma_tool": 0.5, "tool_gain": 0.5, "tool_harm": 0.0}
    assert [section[name][0] for name in USE_LABELS] == [1.0, 0.0, 0.0, 0.0]
    console = Console(file=io.StringIO(), width=200)
    print_audit(found, console)
    write_audit(tmp_path / "audit.html", {"runs": [found], "steps": [0], "drift": []})
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    for text in (console.file.getvalue(), page):  # type: ignore[attr-defined]
        assert all(label in text for label, _, _ in adaptive_rows(section))
        assert "causal where an operation is needed" in text
    assert "5 of 10 solvable" in page
    # By their numbers four at a time read, know, are misled by what they see, and do not look: only readers need to.
    run = evaluate_striped(tmp_path / "mixed", "Mixed", 12)
    section = audit_run(run, Whereabouts(), AuditPlan(changes=("blank",)), QUIET)["adaptive"]
    assert [section[name][0] for name in USE_LABELS] == pytest.approx([1.0, 6 / 9, 6 / 9, 1.0])
    assert section["solvability"]["values"]["ma_text"] == pytest.approx(3 / 9)


def test_solvability_is_sampled_when_asked_and_nothing_is_played_twice(tmp_path: Path) -> None:
    run = evaluate_striped(tmp_path / "run", "ByTable", 4)
    before = striped.n_asked
    plan = AuditPlan(protocols=("med",), solve_k=3)
    found = audit_run(run, Whereabouts(), plan, QUIET)
    assert striped.n_asked - before == 4 + 3 * 4
    manifest = RunFiles(run / "audit" / "solve-3").manifest()
    assert (manifest["repeats"], manifest["prompt"]["operations"]) == (3, [])
    assert audit_run(run, Whereabouts(), plan, QUIET) == found
    assert striped.n_asked - before == 16
    assert found["med"] == audit_run(run, Whereabouts(), MED, QUIET)["med"]
    with pytest.raises(ValueError, match="got --solve-k -1, expected at least 1"):
        AuditPlan(solve_k=-1)
