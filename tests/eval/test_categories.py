"""What the terminal says by category."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from eval.compare import print_comparison
from eval.comparison import compare_runs
from eval.metrics import evaluation_metrics
from eval.records import RunDirectory
from eval.run_command import print_metrics
from eval.suites import SUITES


@pytest.mark.parametrize(("scorer", "metric"), [("anls", "anls"), ("exact", "accuracy")])
def test_a_run_is_told_by_its_own_metric_and_by_category(random_run: Path, scorer: str, metric: str) -> None:
    records = RunDirectory(random_run).records()
    for number, record in enumerate(records):
        record.episode.category = "even [b]" if number % 2 == 0 else "odd"
        record.episode.correct, record.score = number < 3, 0.5 if scorer == "anls" else float(number < 3)
    records[0].episode.error = "the server was away"
    records[0].score = None
    metrics = evaluation_metrics(records, score_name=metric if metric == "anls" else "score")
    out = io.StringIO()
    print_metrics({"scorer": {"name": scorer}}, metrics, SUITES["vstar"], Console(file=out, width=200))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[1][0] == metric
    [header] = [line for line in lines if line[:1] == ["category"]]
    assert header[1] == metric
    even, odd = (next(line for line in lines if line[0] == name) for name in ("even", "odd"))
    # Of the even ones number 0 has no score and number 2 is right, of the odd ones number 1.
    values = ("0.500", "0.500") if metric == "anls" else ("0.200", "0.167")
    assert (even[2], odd[1]) == values
    assert (even[1], even[-1], odd[-1]) == ("[b]", "1", "0")


def test_a_comparison_has_the_categories(random_run: Path, oracle_run: Path) -> None:
    comparison = compare_runs([random_run, oracle_run])
    out = io.StringIO()
    print_comparison(comparison, Console(file=out, width=200))
    assert "accuracy by category" in out.getvalue()
    for category in comparison.metrics[0]["by_category"]:
        value = comparison.metrics[1]["by_category"][category]["statistics"]["accuracy"]
        line = next(line for line in out.getvalue().splitlines() if line.strip().startswith(category))
        assert f"{value:.3f}" in line
