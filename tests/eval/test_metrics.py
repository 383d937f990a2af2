"""Scores and intervals against values computed by hand or by a second method."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.intervals import wilson_interval
from eval.metrics import count_reasons, evaluation_metrics, evidence_iou, majority, pass_at_k
from eval.records import RunRecord
from pxr_agents.statistics import episode_counts
from pxr_agents.types import Episode


def record(sample_id: str, *, run: dict[str, Any] | None = None, **fields: Any) -> RunRecord:
    return RunRecord(episode=Episode(task="pxr/SyntheticSearch-v0", sample_id=sample_id, **fields), **(run or {}))


def test_metrics_overall_and_by_category() -> None:
    metrics = evaluation_metrics(
        [
            record("a", category="colour", correct=True, usage={"zoom_in": 1}),
            record("b", category="colour", correct=False),
            record("c", category="shape", correct=True),
            record("d", correct=True),
            record("e", category="shape", correct=True, error="engine died"),
        ]
    )
    statistics, categories = metrics["statistics"], metrics["by_category"]
    assert (statistics["accuracy"], statistics["n_errors"], metrics["n_clusters"]) == (3 / 4, 1, 4)
    assert (metrics["counts"]["accuracy"], metrics["errors"]) == ([3, 4], {"engine died": 1})
    assert metrics["intervals"]["accuracy"] == pytest.approx(wilson_interval(3, 4))
    assert categories.keys() == {"colour", "shape"}
    shares = {"accuracy": [1, 2], "accuracy_all": [1, 2], "usage_rate": [1, 2], "first_turn_rate": [0, 2]}
    assert categories["colour"]["counts"] == shares | {"failure_rate": [0, 2], "truncated_rate": [0, 2]}
    assert categories["shape"]["intervals"]["accuracy"] == pytest.approx(wilson_interval(1, 1))
    assert categories["shape"]["counts"]["accuracy"] == [1, 1]
    assert categories["shape"]["statistics"]["n_errors"] == 1


def test_accuracy_is_given_with_unscored_episodes_counted_as_wrong_as_well() -> None:
    away = {"error": "model: away", "category": "b"}
    records = [
        record("0", correct=True, run={"score": 1.0}, category="a"),
        record("1", correct=False, run={"score": 0.5}, category="a"),
        record("2", **away),
        # Right, and then the judge was away.
        record("3", correct=True, run={"score": 1.0}, **away),
    ]
    metrics = evaluation_metrics(records, score_name="anls")
    expected = {"accuracy": 1 / 2, "accuracy_all": 1 / 4, "anls": 3 / 4, "anls_all": 3 / 8}
    assert {name: metrics["statistics"][name] for name in expected} == expected
    assert (metrics["counts"]["accuracy"], metrics["counts"]["accuracy_all"]) == ([1, 2], [1, 4])
    assert metrics["intervals"]["accuracy_all"] == pytest.approx(wilson_interval(1, 4))
    assert metrics["by_category"]["a"]["statistics"]["accuracy_all"] == 1 / 2
    # Nothing was scored: there is no accuracy, and it is 0 of 2 all the same.
    unscored = metrics["by_category"]["b"]
    assert "accuracy" not in unscored["statistics"]
    assert (unscored["statistics"]["accuracy_all"], unscored["counts"]["accuracy_all"]) == (0.0, [0, 2])
    assert evaluation_metrics([])["counts"] == {}


def view(turn: int, box: tuple[float, ...], **other: Any) -> dict[str, Any]:
    return {"index": turn + 1, "turn": turn, "source": 1, "box": box, "size": (28, 28), **other}


WHOLE = view(0, (0.0, 0.0, 100.0, 100.0))


def test_means_per_episode_by_hand() -> None:
    first = {"vision_tokens": 9, "prompt_tokens": 100, "completion_tokens": 10, "seconds": 2.0, "score": 0.5}
    second = {"vision_tokens": 27, "prompt_tokens": 300, "seconds": 4.0, "duplicates": 1, "clipped": 3, "score": 1.0}
    records = [
        record("a", usage={"zoom_in": 2, "rotate": 0}, failures={"malformed": 1}, run=first),
        record("b", usage={"zoom_in": 1, "rotate": 3}, run=second),
        record("c", error="model: away", usage={"zoom_in": 9}, run={"vision_tokens": 1000, "seconds": 1000.0}),
    ]
    metrics = evaluation_metrics(records, score_name="anls")
    expected = {
        "anls": 0.75,
        "operations_per_episode": 3.0,
        "operations/zoom_in": 1.5,
        "operations/rotate": 1.5,
        "failures/malformed": 0.5,
        "duplicates": 0.5,
        "clipped": 1.5,
        "vision_tokens": 18.0,
        "prompt_tokens": 200.0,
        # Nobody counted those of b.
        "completion_tokens": 10.0,
        "seconds": 3.0,
    }
    assert {name: metrics["statistics"][name] for name in expected} == expected
    # Two samples, 9 to either side of the mean: Student's t of one degree of freedom is 12.706; nothing is below 0.
    assert metrics["intervals"]["vision_tokens"] == pytest.approx([0.0, 18 + 12.7062 * 9], abs=1e-3)
    # One sample counted.
    assert "completion_tokens" not in metrics["intervals"]
    assert "evidence_iou" not in metrics["statistics"]


def test_samples_of_one_image_are_taken_together() -> None:
    # Ten images with two questions each, of which both are right, or none.
    records = [
        record(f"{image}-{k}", correct=image < 7, run={"cluster": f"image {image}", "seconds": float(image)})
        for image in range(10)
        for k in range(2)
    ]
    metrics = evaluation_metrics(records)
    assert (metrics["n_clusters"], metrics["counts"]["accuracy"]) == (10, [14, 20])
    assert metrics["intervals"]["accuracy"] == pytest.approx(wilson_interval(7, 10))
    singles = evaluation_metrics([r for r in records if r.episode.sample_id.endswith("0")])
    assert metrics["intervals"]["seconds"] == pytest.approx(singles["intervals"]["seconds"])
    # Without clusters each sample stands alone.
    for r in records:
        r.cluster = None
    assert evaluation_metrics(records)["intervals"]["accuracy"] == pytest.approx(wilson_interval(14, 20))


def test_repeats_of_a_sample_are_taken_together() -> None:
    records = [record(str(s), answer="x", correct=s < 6, run={"repeat": k}) for s in range(10) for k in range(4)]
    metrics = evaluation_metrics(records)
    for name in ("accuracy", "pass@1", "pass@4", "majority_accuracy"):
        assert metrics["intervals"][name] == pytest.approx(wilson_interval(6, 10))


def test_scores_of_right_and_wrong_are_the_accuracy_and_no_further_statistic() -> None:
    assert "score" not in evaluation_metrics([record("a", correct=True, run={"score": 1.0})])["statistics"]
    assert evaluation_metrics([record("a", run={"score": 0.25})])["statistics"]["score"] == 0.25


def test_evidence_iou_by_hand() -> None:
    evidence = (10.0, 10.0, 30.0, 30.0)
    # 20 x 20 inside 40 x 40; an overlap of 10 x 10 of 2 x 400 - 100; beside it.
    views = [
        WHOLE,
        view(1, (0.0, 0.0, 40.0, 40.0)),
        view(2, (20.0, 20.0, 40.0, 40.0)),
        view(2, (50.0, 50.0, 60.0, 60.0)),
    ]
    episode = record("a", evidence_box=evidence, views=views, usage={"zoom_in": 3}).episode
    assert evidence_iou(episode) == pytest.approx(400 / 1600)
    episode.views = [WHOLE, views[2]]
    assert evidence_iou(episode) == pytest.approx(100 / 700)
    # The first view is nobody's merit, and neither is a view of another source.
    episode.views = [WHOLE, {**view(1, evidence), "source": 2}]
    assert evidence_iou(episode) == 0.0
    # Either half of a comparison counts.
    halves = [{"source": 2, "box": evidence}, {"source": 1, "box": (10.0, 10.0, 30.0, 20.0)}]
    episode.views = [WHOLE, {**view(1, (0.0, 0.0, 1.0, 1.0)), "panels": halves}]
    assert evidence_iou(episode) == pytest.approx(0.5)


def test_in_a_video_only_frames_of_the_evidence_time_count() -> None:
    evidence = (10.0, 10.0, 30.0, 30.0)
    views = [view(1, evidence, time=5.0, frame=5), view(1, (10.0, 10.0, 30.0, 20.0), time=2.0, frame=2)]
    episode = record("a", evidence_box=evidence, evidence_time=(1.0, 3.0), views=views).episode
    assert evidence_iou(episode) == pytest.approx(0.5)


def test_evidence_iou_is_a_mean_over_those_who_looked() -> None:
    evidence = (0.0, 0.0, 10.0, 10.0)
    metrics = evaluation_metrics(
        [
            record("a", evidence_box=evidence, views=[WHOLE, view(1, evidence)], usage={"zoom_in": 1}),
            record("b", evidence_box=evidence, views=[WHOLE, view(1, (0.0, 0.0, 10.0, 5.0))], usage={"zoom_in": 1}),
            record("c", evidence_box=evidence, views=[WHOLE], usage={"zoom_in": 0}),
            record("d", views=[WHOLE, view(1, evidence)], usage={"zoom_in": 1}),
        ]
    )
    assert metrics["statistics"]["evidence_iou"] == pytest.approx(0.75)
    assert metrics["statistics"]["hit_rate"] == 0.5


@given(st.integers(0, 2**32 - 1))
def test_rates_with_intervals_are_those_that_training_logs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    needs: list[bool | None] = [True, False, None]
    records = [
        record(
            str(k // 2),
            run={"repeat": k % 2},
            correct=bool(generator.integers(2)),
            usage={"zoom_in": int(generator.integers(3))},
            failures={"malformed": int(generator.integers(2))},
            needs_operation=needs[generator.integers(3)],
            truncated_by="max_turns" if generator.integers(2) else None,
            error="away" if generator.integers(5) == 0 else None,
        )
        for k in range(12)
    ]
    metrics = evaluation_metrics(records)
    for name, (count, total) in metrics["counts"].items():
        assert metrics["statistics"][name] == count / total
        low, high = metrics["intervals"][name]
        assert 0 <= low <= high <= 1
    # A training has no episodes without a score.
    assert metrics["counts"].pop("accuracy_all")[1] == 12
    assert metrics["counts"] == {
        name: list(pair) for name, pair in episode_counts([r.episode for r in records]).items()
    }


def repeated(sample_id: str, repeat: int, answer: str | None, correct: bool, error: str | None = None) -> RunRecord:
    episode = Episode(task="t", sample_id=sample_id, answer=answer, correct=correct, error=error)
    return RunRecord(episode=episode, repeat=repeat, score=float(correct))


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(correct: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(correct)))
    subsets = [any(subset) for subset in itertools.combinations(correct, k)]
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(sum(subsets) / len(subsets))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, 1, 0), (3, 1, 4), (3, -1, 1)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= correct <= n"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a", "b", "b"], True),
        (["a", "a", "b"], False),
        # Normalized texts are compared.
        (["a", " B. ", "b"], True),
        # A tie goes to the answer that came first.
        (["b", "a"], True),
        (["a", "b"], False),
        # Who did not answer does not vote.
        ([None, None, "b"], True),
        ([None, None], False),
    ],
)
def test_majority(answers: list[str | None], expected: bool) -> None:
    records = [
        repeated("s", repeat, answer, answer is not None and answer.strip(" .").lower() == "b")
        for repeat, answer in enumerate(answers)
    ]
    assert majority(records[::-1]) is expected


def test_statistics_over_samples_with_repeats() -> None:
    records = [
        *(repeated("1", repeat, answer, answer == "b") for repeat, answer in enumerate("aabb")),
        *(repeated("2", repeat, "b", True) for repeat in range(4)),
        repeated("3", 0, "b", True),
        repeated("3", 1, None, False, error="model: away"),
    ]
    metrics = evaluation_metrics(records)
    statistics = metrics["statistics"]
    assert (statistics["n_episodes"], statistics["n_errors"]) == (9, 1)
    assert statistics["accuracy"] == pytest.approx(7 / 9)
    # Sample 3 has one answer: it counts for k = 1 only. Sample 1: 1 - C(2, 2) / C(4, 2) = 5/6 for k = 2.
    assert statistics["pass@1"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert statistics["pass@2"] == pytest.approx((5 / 6 + 1) / 2)
    assert statistics["pass@4"] == 1.0
    # "a" and "b" have two votes in sample 1, and "a" came first.
    assert statistics["majority_accuracy"] == pytest.approx(2 / 3)
    assert metrics["intervals"]["pass@4"] == pytest.approx(wilson_interval(2, 2))


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([], {}),
        # What does not differ stays word for word.
        (["status 400: At most 1 image(s) may be provided"] * 3, {"status 400: At most 1 image(s) may be provided": 3}),
        (
            ["model: h:80: status 500: no (request req_a1b)", "model: h:80: status 500: no (request req_c2)"],
            {"model: h:80: status 500: no (request …)": 2},
        ),
        (
            ['data: image "a/one.jpg" is cut off', 'data: image "b/two.jpg" is cut off', "data: nothing"],
            {"data: image … is cut off": 2, "data: nothing": 1},
        ),
        (["17 tokens of 16", "18 tokens of 16"], {"… tokens of 16": 2}),
        # Another status is another reason.
        (["status 500: no", "status 502: no"], {"status 500: no": 1, "status 502: no": 1}),
        (["a", "b", "b"], {"b": 2, "a": 1}),
        (["chatcmpl-9f8a-77 lost", "chatcmpl-11-aa lost"], {"… lost": 2}),
    ],
)
def test_reasons_are_counted_without_what_varies(reasons: list[str], expected: dict[str, int]) -> None:
    counted = count_reasons(reasons)
    assert counted == expected
    assert list(counted) == list(expected)


def test_a_long_reason_is_read_in_linear_time() -> None:
    # A slow pattern would not come back.
    assert count_reasons(["a" * 200_000, '"' * 200_001]) != {}
