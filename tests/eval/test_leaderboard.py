"""Leaderboards: the order, what audits add, and runs that cannot be ranked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.leaderboard import leaderboard
from eval.records import RunFiles
from tests.eval.test_audit_med import evaluate_striped
from tests.eval.test_compare import MANIFEST, right, write_run


def test_agents_are_put_in_order_with_what_their_audits_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [evaluate_striped(tmp_path / player, player, 10) for player in ("ByTable", "Reader", "Decorator")]
    for run in runs[:2]:
        assert main(["audit", str(run), "--change", "blank"]) == 0
    capsys.readouterr()
    out = tmp_path / "board.json"
    assert main(["leaderboard", *map(str, runs), "--json", str(out), "--markdown"]) == 0
    board = json.loads(out.read_text(encoding="utf-8"))
    # Two know or read everything; by table five of ten are right. Of equal ones the order is that of the command.
    assert list(board["rows"]) == ["Reader", "Decorator", "ByTable"]
    of_table = {name: found and found["value"] for name, found in board["rows"]["ByTable"].items()}
    del of_table["vision_tokens"]
    assert of_table == {
        "accuracy": 0.5, "usage_rate": 0.5, "first_turn_rate": 0.4,
        "mode_accuracy": 0.6, "tool_gain": 0.3, "tool_harm": 0.3, "faithful": 1.0, "causal": 0.0,
    }  # fmt: skip
    # Without operations nothing can be seen: nothing is solvable, and there is no mode accuracy.
    assert board["rows"]["Reader"]["mode_accuracy"] is None
    assert board["rows"]["Reader"]["causal"]["value"] == 1.0
    assert board["rows"]["Decorator"]["causal"] is None
    printed = capsys.readouterr().out
    assert printed.index("| Reader | 1.000 (0.722 to 1.000) |") < printed.index("| ByTable | 0.500 (")
    # Five are right in the first alone: p = 2 / 32 before Holm.
    assert "Not significantly below the first in accuracy (p >= 0.05 after Holm): ByTable, Decorator." in printed
    # An audit of other episodes says nothing of these.
    files = RunFiles(runs[1])
    files.finish(files.records()[::-1], files.metrics())
    assert main(["leaderboard", *map(str, runs)]) == 0
    printed = capsys.readouterr().out
    assert "Reader: its audit is of another version or of other episodes, and left out" in printed


def test_scripted_agents_stand_beside_models_and_other_rules_do_not(tmp_path: Path) -> None:
    model = write_run(tmp_path / "model", right("+" * 9 + "-"))
    scripted = write_run(tmp_path / "scripted", right("+" * 10), MANIFEST | {"agent": "oracle", "sampling": None})
    assert list(leaderboard([model, scripted]).rows) == ["scripted", "model"]
    warm = write_run(tmp_path / "warm", right("+" * 10), MANIFEST | {"sampling": {"temperature": 1.0}})
    with pytest.raises(ValueError, match=r"not comparable: they differ in sampling\.temperature"):
        leaderboard([model, scripted, warm])
    assert list(leaderboard([model, warm], compared=("sampling",)).rows) == ["warm", "model"]
