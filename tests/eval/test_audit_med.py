"""The MED decomposition: terms counted by hand, the identity for any outcomes, and the run without operations."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from eval.__main__ import main
from eval.audit.arms import AuditPlan
from eval.audit.audit import audit_run, steps_of
from eval.audit.measures import TERMS, decompose, drift
from eval.records import RunFiles, RunRecord
from eval.run_command import Whereabouts
from eval.runner import evaluate
from pxr_agents.types import Episode
from tests.eval import striped

QUIET = Console(file=io.StringIO())
MED = AuditPlan(protocols=("med",))


def evaluate_striped(out: Path, player: str, n: int, **arguments: object) -> Path:
    """A run of one of the agents of `striped` beside its data."""
    data = out.parent / f"data-{n}"
    if not data.exists():
        striped.write_data(data, n)
    evaluate(
        striped.ENV_ID,
        out=out,
        agent=f"tests.eval.striped:{player}",
        env_args={**striped.ENV_ARGS, "data": str(data)},
        console=QUIET,
        **arguments,  # type: ignore[arg-type]
    )
    return out


@pytest.fixture(scope="module")
def by_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_striped(tmp_path_factory.mktemp("med") / "run", "ByTable", len(striped.CASES))


def test_terms_and_factors_equal_those_counted_by_hand(by_table: Path) -> None:
    med = audit_run(by_table, Whereabouts(), MED, QUIET)["med"]
    assert (med["n"], med["n_unscored"], med["n_repeats"]) == (10, 0, 1)
    # Questions 3, 4, 5, 6, 9 are right without operations; 0, 1, 2, 5, 6 with them.
    expected = {
        "accuracy_with": 0.5,
        "accuracy_without": 0.5,
        "gap": 0.0,
        "call_rate": 0.6,  # 0, 1, 3, 5, 7, and 9, whose call was refused
        "call_gain": 0.2,  # 0, 1
        "schema_gain": 0.1,  # 2
        "call_harm": 0.2,  # 3, 9
        "schema_harm": 0.1,  # 4
        "gain": 0.3,
        "harm": 0.3,
        "malformed_without": 0.0,
        "unanswered_without": 0.0,
        "mass/fail": 0.5,
        "mass/succ": 0.5,
        "policy/call_gain": 3 / 5,  # 0, 1, 7 of 0, 1, 2, 7, 8
        "quality/call_gain": 2 / 3,
        "policy/schema_gain": 2 / 5,
        "quality/schema_gain": 1 / 2,
        "policy/call_harm": 3 / 5,  # 3, 5, 9 of 3, 4, 5, 6, 9
        "quality/call_harm": 2 / 3,
        "policy/schema_harm": 2 / 5,
        "quality/schema_harm": 1 / 2,
    }
    assert med["values"] == pytest.approx(expected)
    # Three questions only with, three only without: McNemar's exact p is 1.
    assert med["gap_test"]["p_value"] == 1.0
    assert med["intervals"].keys() == expected.keys()
    assert all(low <= med["values"][name] <= high for name, (low, high) in med["intervals"].items())


def test_without_operations_the_prompt_and_the_replies_do_not_mention_them(by_table: Path) -> None:
    audit_run(by_table, Whereabouts(), MED, QUIET)
    without = RunFiles(by_table / "audit" / "without")
    prompt = without.manifest()["prompt"]
    assert prompt["operations"] == []
    texts = [prompt["system_prompt"], *(step.reply for record in without.records() for step in record.episode.steps)]
    assert not [text for text in texts if "tool" in text or "zoom" in text or "operation" in text]
    assert "zoom_in" in RunFiles(by_table).manifest()["prompt"]["system_prompt"]


def test_a_model_that_cannot_help_calling_is_told_from_one_that_cannot_see(tmp_path: Path) -> None:
    run = evaluate_striped(tmp_path / "run", "Caller", 4)
    result = audit_run(run, Whereabouts(), MED, QUIET)
    values = result["med"]["values"]
    assert (values["call_gain"], values["unanswered_without"], values["malformed_without"]) == (1.0, 1.0, 1.0)
    assert "Without operations 100.0% of the questions got no answer" in result["notes"][0]


def test_what_was_played_is_not_played_again(tmp_path: Path) -> None:
    run = evaluate_striped(tmp_path / "run", "ByTable", len(striped.CASES))
    audit_run(run, Whereabouts(), AuditPlan(protocols=("med",), limit=4), QUIET)
    before = striped.n_asked
    # Without operations every question is one turn: six are missing.
    whole = audit_run(run, Whereabouts(), MED, QUIET)
    assert striped.n_asked - before == 6
    assert audit_run(run, Whereabouts(), MED, QUIET) == whole
    few = audit_run(run, Whereabouts(), AuditPlan(protocols=("med",), limit=4), QUIET)
    assert striped.n_asked - before == 6
    assert few["med"]["n"] == 4


def test_another_agent_is_not_taken_for_that_of_the_run(tmp_path: Path) -> None:
    run = RunFiles(evaluate_striped(tmp_path / "run", "Decorator", 2))
    audit_run(run.path, Whereabouts(), MED, QUIET)
    manifest = run.manifest()
    run.write_manifest(manifest | {"prompt": manifest["prompt"] | {"dialect": "pixel-reasoner"}})
    with pytest.raises(ValueError, match=r"differ in prompt\.dialect, too"):
        audit_run(run.path, Whereabouts(), MED, QUIET)
    run.write_manifest(manifest | {"prompt": manifest["prompt"] | {"operations": []}})
    with pytest.raises(ValueError, match="had no operations"):
        audit_run(run.path, Whereabouts(), MED, QUIET)


def record(sample_id: str, repeat: int, *, correct: bool, calls: bool = False) -> RunRecord:
    episode = Episode(task="t", sample_id=sample_id, correct=correct, usage={"zoom_in": int(calls)}, answer="x")
    return RunRecord(episode=episode, repeat=repeat, sample_sha256="0")


outcomes = st.lists(
    st.tuples(
        st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=3),
        st.lists(st.booleans(), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(outcomes)
def test_the_terms_sum_to_the_gap_and_count_all_pairs_of_repeats(
    questions: list[tuple[list[tuple[bool, bool]], list[bool]]],
) -> None:
    with_operations, without = [], []
    counted = dict.fromkeys(TERMS, 0.0)
    for number, (with_them, without_them) in enumerate(questions):
        with_operations += [
            record(str(number), repeat, correct=right, calls=calls) for repeat, (right, calls) in enumerate(with_them)
        ]
        without += [record(str(number), repeat, correct=right) for repeat, right in enumerate(without_them)]
        weight = 1 / (len(with_them) * len(without_them) * len(questions))
        for (right, calls), right_without in itertools.product(with_them, without_them):
            if right != right_without:
                counted[f"{'call' if calls else 'schema'}_{'gain' if right else 'harm'}"] += weight
    values = decompose(with_operations, without, lambda one: one.episode.correct)["values"]
    assert {name: values[name] for name in TERMS} == pytest.approx(counted)
    gap = values["call_gain"] + values["schema_gain"] - values["call_harm"] - values["schema_harm"]
    assert gap == pytest.approx(values["gap"])
    assert values["accuracy_with"] - values["accuracy_without"] == pytest.approx(values["gap"])
    for term in TERMS:
        mass = values["mass/fail" if term.endswith("gain") else "mass/succ"]
        product = mass * values.get(f"policy/{term}", 0.0) * values.get(f"quality/{term}", 0.0)
        assert product == pytest.approx(values[term])


def test_drift_with_operations_is_intrinsic_drift_plus_that_of_the_gap() -> None:
    def measured(*, correct: bool) -> dict[str, Any]:
        with_operations = [record("a", 0, correct=correct, calls=correct)]
        return decompose(with_operations, [record("a", 0, correct=False)], lambda one: one.episode.correct)

    first, now = measured(correct=False), measured(correct=True)
    assert drift(first, now) == {"total": 1.0, "intrinsic": 0.0, "operations": 1.0}


def test_checkpoints_are_put_in_one_page_with_their_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        evaluate_striped(tmp_path / name, player, 4)
        for name, player in (("step-0", "Misled"), ("step-50", "Decorator"), ("step-100", "Reader"))
    ]
    assert main(["audit", *map(str, runs), "--protocol", "med"]) == 0
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert audit["steps"] == [0, 50, 100]
    gaps = [run["med"]["values"]["gap"] for run in audit["runs"]]
    # Misled: knows all without, errs with. Decorator: knows all. Reader: sees nothing without, all with.
    assert gaps == [-1.0, 0.0, 1.0]
    assert [one["operations"] for one in audit["drift"]] == [0.0, 1.0, 2.0]
    assert [one["intrinsic"] for one in audit["drift"]] == [0.0, 0.0, -1.0]
    page = (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 4
    assert "Over training" in page
    assert "step-50" in capsys.readouterr().out


def test_steps_come_from_names_or_are_given() -> None:
    runs = [Path("a/step-5"), Path("a/step-10")]
    assert steps_of(runs, None) == [5, 10]
    assert steps_of(runs, "1,2.5") == [1, 2.5]
    assert steps_of([Path("warm"), Path("trained")], None) == [0, 1]
    assert steps_of(runs[::-1], None) == [0, 1]
    for given_steps in ("1", "2,1", "a,b"):
        with pytest.raises(ValueError, match="expected"):
            steps_of(runs, given_steps)
