"""Comparisons: common samples only, unlike manifests first, no ranking where a difference matters."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.__main__ import main
from eval.comparison import RunComparison, compare_runs, print_comparison, verdict
from eval.differences import changes_that_matter, find_differences
from eval.metrics import evaluation_metrics
from eval.records import RunFiles, RunRecord
from eval.run_command import print_metrics
from eval.suites import SUITES
from pxr_agents.engines.vllm.arguments import StartArguments
from pxr_agents.types import Episode
from tests.eval.conftest import ENV_ARGS, run_evaluation

MANIFEST: dict[str, Any] = {
    "env": {"id": "pxr/X-v0", "kwargs": {"data": "/a", "costs": None}},
    "n_samples": 4,
    "agent": "openai",
    "model": "m",
    "pixels": {"image": {"max_pixels": 7056}},
    "prompt": {"dialect": "hermes"},
    "sampling": {"temperature": 0.0},
    "scorer": {"name": "exact"},
    "versions": {"numpy": "2"},
}


def write_run(path: Path, scores: dict[str, float | None], manifest: Any = MANIFEST, **digests: str) -> Path:
    """A finished run: sample -> score, None for a sample that could not be scored."""
    records = [
        RunRecord(
            episode=Episode(
                task="t", sample_id=name, correct=score == 1, error="model: away" if score is None else None
            ),
            score=score,
            sample_sha256=digests.get(name, f"digest of {name}"),
        )
        for name, score in scores.items()
    ]
    directory = RunFiles(path)
    directory.start(manifest)
    directory.finish(records, {"statistics": {}})
    return path


def right(text: str) -> dict[str, float | None]:
    """Samples 0, 1, ...: "+" right, "-" wrong, "?" without a score."""
    return {str(index): {"+": 1.0, "-": 0.0, "?": None}[sign] for index, sign in enumerate(text)}


def sentences(comparison: RunComparison) -> list[str]:
    return [verdict(comparison, pair, metric) for pair in comparison.pairs for metric in pair.tests]


def test_the_better_one_of_two_models(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", right("+" * 10 + "-" * 10))
    b = write_run(tmp_path / "b", right("-" + "+" * 18 + "-"), MANIFEST | {"model": "n"})
    comparison = compare_runs([a, b])
    test = comparison.pairs[0].tests["accuracy"]
    # b alone is right on 9 samples, a alone on 1: 2 (1 + 10) / 1024.
    assert (test.n_first, test.n_second, test.p_value) == (1, 9, 22 / 1024)
    assert [metrics["statistics"]["accuracy"] for metrics in comparison.metrics] == [0.5, 0.9]
    [difference] = comparison.differences
    assert (difference.field, difference.values, difference.matters) == ("model", ("m", "n"), "compared")
    assert sentences(comparison) == ["b is better than a in accuracy by 0.400 (p = 0.021)."]
    # And one by chance.
    c, d = write_run(tmp_path / "c", right("++--")), write_run(tmp_path / "d", right("+++-"))
    assert sentences(compare_runs([c, d])) == ["c and d do not differ significantly in accuracy (p = 1)."]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pixels": {"image": {"max_pixels": 4014080}}}, "pixels.image.max_pixels"),
        ({"prompt": {"dialect": "tags"}}, "prompt.dialect"),
        ({"sampling": {"temperature": 1.0}}, "sampling.temperature"),
        ({"env": {"id": "pxr/X-v0", "kwargs": {"data": "/a", "costs": {"format": 1}}}}, "env.kwargs.costs.format"),
        ({"judge": {"model": "j"}}, "judge.model"),
        ({"scorer": {"name": "number"}}, "scorer.name"),
    ],
)
def test_what_matters_is_listed_and_nothing_is_ranked(change: dict[str, Any], field: str, tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", right("+" * 20))
    b = write_run(tmp_path / "b", right("-" * 20), MANIFEST | change)
    comparison = compare_runs([a, b])
    assert comparison.differences[0].matters == "yes"
    assert field in [difference.field for difference in comparison.differences]
    assert sentences(comparison)[0].startswith(f"a and b are not ranked: they differ in {field}")
    # Unless that is what the comparison is about.
    allowed = compare_runs([a, b], compared=[field.split(".")[0]])
    assert sentences(allowed)[0].startswith("a is better than b in accuracy by 1.000")


def test_what_does_not_matter_or_may_does_not_stop_a_ranking(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", right("+" * 20))
    moved = {"id": "pxr/X-v0", "kwargs": {"data": "/b", "costs": None}}
    b = write_run(tmp_path / "b", right("-" * 20), MANIFEST | {"env": moved, "versions": {"numpy": "3"}})
    comparison = compare_runs([a, b])
    assert [(one.field, one.matters) for one in comparison.differences] == [
        ("versions.numpy", "maybe"),
        ("env.kwargs.data", "no"),
    ]
    assert sentences(comparison)[0].startswith("a is better than b")


def test_only_common_samples_with_a_score_count(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", right("++-?+"))
    b = write_run(tmp_path / "b", right("+-?++++"))
    comparison = compare_runs([a, b])
    # Samples 0, 1 and 4; 2 and 3 lack a score in one run; 5 and 6 are in one run only.
    assert (comparison.n_samples, comparison.n_common, comparison.n_unscored) == ((5, 7), 3, 2)
    assert [metrics["statistics"]["accuracy"] for metrics in comparison.metrics] == [1.0, 2 / 3]
    # Samples 0 to 4, and what has no score is wrong.
    for metrics in comparison.metrics:
        assert (metrics["counts"]["accuracy_all"], metrics["statistics"]["accuracy_all"]) == ([3, 5], 3 / 5)
    # One with the same id and other content is left out, and stops the ranking.
    c, d = (write_run(tmp_path / name, right("+" * 20), **{"3": name}) for name in "cd")
    comparison = compare_runs([c, d])
    assert (comparison.n_common, comparison.n_changed) == (19, 1)
    assert "1 samples have the same id and other content" in sentences(comparison)[0]


def test_graded_scores_are_compared_beside_accuracy(tmp_path: Path) -> None:
    manifest = MANIFEST | {"scorer": {"name": "anls"}}
    a = write_run(tmp_path / "a", {str(k): 0.5 for k in range(30)}, manifest)
    b = write_run(tmp_path / "b", {str(k): 0.5 + k % 3 * 0.1 for k in range(30)}, manifest)
    comparison = compare_runs([a, b])
    test = comparison.pairs[0].tests["anls"]
    assert test.name == "sign-flip"
    assert test.difference == pytest.approx(0.1)
    assert sentences(comparison) == [
        "a and b do not differ significantly in accuracy (p = 1).",
        "b is better than a in anls by 0.100 (p = 0.0001).",
    ]


def test_questions_that_belong_together_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a", right("-" * 12 + "+" * 8)), write_run(tmp_path / "b", right("+" * 20))
    assert sentences(compare_runs([a, b]))[0].startswith("b is better than a")
    # Four each are one question.
    for directory in map(RunFiles, (a, b)):
        records = directory.records()
        for number, record in enumerate(records):
            record.cluster = f"question {number // 4}"
        directory.finish(records, {})
    comparison = compare_runs([a, b])
    assert (comparison.n_common, comparison.n_clusters) == (20, 5)
    assert comparison.pairs[0].tests["accuracy"].p_value == 0.25
    assert sentences(comparison) == ["a and b do not differ significantly in accuracy (p = 0.25)."]
    assert main(["compare", str(a), str(b)]) == 0
    assert "They belong to 5 images, videos or questions" in capsys.readouterr().out


def test_three_runs_have_their_p_values_adjusted(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", right("-" * 6 + "+")),
        write_run(tmp_path / "b", right("+" * 6 + "+")),
        write_run(tmp_path / "c", right("+" * 6 + "-")),
    ]
    comparison = compare_runs(runs)
    assert [(pair.first, pair.second) for pair in comparison.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    # 0 and 6; 1 and 6: 2 (1 + 7) / 128; 1 and 0.
    assert [pair.tests["accuracy"].p_value for pair in comparison.pairs] == pytest.approx([2 / 64, 16 / 128, 1])
    assert [pair.adjusted["accuracy"] for pair in comparison.pairs] == pytest.approx([6 / 64, 2 / 8, 1])


def test_wrong_calls_are_named(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", right("++"))
    with pytest.raises(ValueError, match="two or more"):
        compare_runs([a])
    with pytest.raises(ValueError, match="got the same run twice"):
        compare_runs([a, a])
    with pytest.raises(ValueError, match="no sample in common"):
        compare_runs([a, write_run(tmp_path / "b", {"x": 1.0})])
    RunFiles(tmp_path / "c").start(MANIFEST)
    with pytest.raises(FileNotFoundError, match="continue an interrupted evaluation"):
        compare_runs([a, tmp_path / "c"])


def test_real_runs_from_the_command_line(
    oracle_run: Path, random_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "comparison.json"
    assert main(["compare", str(oracle_run), str(random_run), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.index("Unlike manifests") < printed.index("12 samples are compared")
    assert "oracle is better than random in accuracy" in printed
    content = json.loads(out.read_text())
    assert content["obstacles"] == []
    assert content["pairs"][0]["tests"]["accuracy"]["n"] == 12
    run_evaluation(tmp_path / "fewer", agent="oracle", limit=5, env_args={**ENV_ARGS, "max_turns": 2})
    assert main(["compare", str(oracle_run), str(tmp_path / "fewer")]) == 0
    assert "not ranked: they differ in prompt.limits.max_turns" in capsys.readouterr().out


def test_the_fields_of_two_manifests() -> None:
    assert find_differences([MANIFEST, MANIFEST]) == []
    unknown = find_differences([MANIFEST, MANIFEST | {"colour": {"of": "paper"}}])
    assert [(one.field, one.values, one.matters) for one in unknown] == [("colour.of", (None, "paper"), "maybe")]


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"n_samples": 5}, True),
        ({"agent": "vllm"}, True),
        ({"model": "n"}, True),
        ({"pixels": {"image": {"max_pixels": 1}}}, True),
        ({"env": {"id": "pxr/X-v0", "kwargs": {"data": "/b", "costs": None}}}, True),
        ({"versions": {"numpy": "3"}}, False),
        ({"commit": {"id": "abc", "dirty": True}}, False),
    ],
)
def test_what_stops_an_interrupted_run_from_going_on(change: dict[str, Any], refused: bool) -> None:
    assert bool(changes_that_matter(MANIFEST, MANIFEST | change)) is refused


@pytest.mark.parametrize(
    ("started", "now", "refused"),
    [
        # Limits may be raised, not lowered; 0 and nothing stand for the checkpoint's context.
        ({"max_model_len": 512}, {"max_model_len": 1024}, False),
        ({"max_model_len": 512}, {"max_model_len": 0}, False),
        ({"max_model_len": 512}, {}, False),
        ({"max_model_len": 0}, {}, False),
        ({"max_model_len": 512}, {"max_model_len": 511}, True),
        ({}, {"max_model_len": 1024}, True),
        ({"images_per_prompt": 8}, {"images_per_prompt": 9}, False),
        ({}, {"images_per_prompt": 17}, False),
        ({}, {"images_per_prompt": 15}, True),
        # What only decides how much fits.
        *(
            ({}, {name: value}, False)
            for name, value in {
                "gpu_memory_utilization": 0.5,
                "kv_cache_memory_bytes": 1 << 30,
                "max_num_seqs": 8,
                "max_num_batched_tokens": 2048,
                "block_size": 32,
                "enforce_eager": True,
                "tensor_parallel_size": 2,
                "seed": 3,
                "weight_transfer": "ipc",
            }.items()
        ),
        # Other arithmetic, and what this version does not know.
        ({}, {"dtype": "float16"}, True),
        ({"attn_implementation": "sdpa"}, {"attn_implementation": "eager"}, True),
        ({}, {"device": "cuda:0"}, True),
        ({}, {"quantization": "fp8"}, True),
    ],
)
def test_which_arguments_of_an_engine_a_run_may_go_on_with(
    started: dict[str, Any], now: dict[str, Any], refused: bool
) -> None:
    assert bool(changes_that_matter(MANIFEST | {"engine": started}, MANIFEST | {"engine": now})) is refused


def test_every_start_argument_of_an_engine_was_thought_of() -> None:
    """Those that change answers by more than rounding are a short list."""
    names = [field.name for field in fields(StartArguments)]
    assert {name for name in names if find_differences([{"engine": {name: 1}}, {}])[0].matters != "no"} == {
        "max_model_len",
        "images_per_prompt",
        "dtype",
    }


@pytest.mark.parametrize(("scorer", "metric"), [("anls", "anls"), ("exact", "accuracy")])
def test_a_run_is_told_by_its_own_metric_and_by_category(random_run: Path, scorer: str, metric: str) -> None:
    records = RunFiles(random_run).records()
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
