"""Statistics of hand-made episodes against values computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_agents.statistics import (
    answered_at_once,
    contains,
    episode_counts,
    episode_statistics,
    evidence_shown,
    is_hit,
    n_cut_turns,
    view_scale,
)
from pxr_agents.types import Episode, Step

# A 400x200 source first shown at half its size: 0.5 shown pixels per source pixel.
WHOLE = {"index": 1, "turn": 0, "source": 1, "box": (0.0, 0.0, 400.0, 200.0), "size": (200, 100)}
EVIDENCE = (100.0, 50.0, 120.0, 70.0)


def crop(box: tuple[float, float, float, float], size: tuple[int, int], source: int = 1) -> dict[str, Any]:
    return {"index": 2, "turn": 1, "source": source, "box": box, "size": size}


def step(reward_terms: dict[str, float]) -> Step:
    return Step(turn="", reply="", reward=sum(reward_terms.values()), reward_terms=reward_terms)


def episode(**fields: Any) -> Episode:
    return Episode(**{"task": "pxr/SyntheticSearch-v0", "sample_id": "0", "views": [WHOLE], **fields})


def five_scored_and_one_broken() -> list[Episode]:
    hit = [WHOLE, crop((80.0, 40.0, 180.0, 90.0), (200, 100))]
    miss = [WHOLE, crop((200.0, 100.0, 300.0, 150.0), (200, 100))]
    return [
        # used where needed, twice, hit, correct
        episode(
            needs_operation=True,
            evidence_box=EVIDENCE,
            usage={"zoom_in": 2},
            views=hit,
            correct=True,
            steps=[step({"curiosity": 0.125}), step({"correct": 1.0, "penalty": -0.05})],
        ),
        # not used where needed, answered at once, wrong
        episode(
            needs_operation=True,
            evidence_box=EVIDENCE,
            usage={"zoom_in": 0},
            answer="teal",
            steps=[step({"correct": 0.0})],
        ),
        # used where not needed, missed, one failed call, correct
        episode(
            needs_operation=False,
            evidence_box=EVIDENCE,
            usage={"zoom_in": 1},
            views=miss,
            correct=True,
            failures={"zoom_in": 1},
            answer="red",
            steps=[step({}), step({}), step({"correct": 1.0})],
        ),
        # not used where not needed, truncated
        episode(
            needs_operation=False,
            usage={"zoom_in": 0},
            truncated_by="max_turns",
            failures={"malformed": 0},
            steps=[step({})],
        ),
        # nothing known about the sample; used, correct
        episode(usage={"zoom_in": 1}, correct=True, steps=[step({"correct": 1.0})]),
        # the run broke: no score, whatever else it says
        episode(
            needs_operation=True,
            usage={"zoom_in": 3},
            correct=True,
            error="engine died",
            steps=[step({"correct": 1.0})],
        ),
    ]


def test_every_value_of_a_hand_made_set() -> None:
    assert episode_statistics(five_scored_and_one_broken()) == pytest.approx(
        {
            "n_episodes": 5,
            "n_errors": 1,
            "accuracy": 3 / 5,
            "accuracy_needs_operation": 1 / 2,
            "accuracy_easy": 1 / 2,
            "usage_rate": 3 / 5,
            "usage_rate_needs_operation": 1 / 2,
            "usage_rate_easy": 1 / 2,
            "first_turn_rate": 1 / 5,
            "first_turn_rate_needs_operation": 1 / 2,
            "first_turn_rate_easy": 0,
            "hit_rate": 1 / 2,
            "operations_per_episode": 4 / 5,
            "failure_rate": 1 / 5,
            "needless_rate": 1 / 4,
            "missing_rate": 1 / 4,
            "truncated_rate": 1 / 5,
            "truncated/max_turns": 1 / 5,
            "reward": (1.075 + 0 + 1 + 0 + 1) / 5,
            "reward/correct": 3 / 5,
            "reward/curiosity": 0.125 / 5,
            "reward/penalty": -0.05 / 5,
        }
    )


def test_only_an_answer_in_the_first_turn_is_an_answer_at_once() -> None:
    answer = step({"correct": 0.0})
    first = episode(answer="", steps=[answer])
    refused = episode(answer="red", failures={"zoom_in": 1}, steps=[step({}), answer])
    broken = episode(failures={"malformed": 1}, truncated_by="max_turns", steps=[step({})])
    zoomed = episode(answer="red", usage={"zoom_in": 1}, steps=[step({}), answer])
    none = episode(truncated_by="context")
    assert [answered_at_once(one) for one in (first, refused, broken, zoomed, none)] == [True, *[False] * 4]
    # By itself: neither probes nor runs that broke.
    others = [episode(answer="red", steps=[answer], **why) for why in ({"probe": "zoom_in"}, {"error": "away"})]
    assert episode_counts([first, zoomed, *others])["first_turn_rate"] == (1, 2)


def test_probes_are_counted_apart() -> None:
    probes = [
        episode(usage={"zoom_in": 1}, probe="zoom_in", correct=True, steps=[step({"correct": 1.0, "penalty": -0.25})]),
        episode(usage={"zoom_in": 1}, probe="zoom_in", failures={"zoom_in": 1}, steps=[step({"correct": 0.0})]),
    ]
    without = episode_statistics(five_scored_and_one_broken())
    assert episode_statistics([*five_scored_and_one_broken(), *probes]) == without | {
        "n_episodes": 7,
        "probe_rate": 2 / 7,
        "probe_accuracy": 1 / 2,
        "probe_reward": 0.375,
    }
    assert "usage_rate" not in episode_statistics(probes)


def test_without_scored_episodes_only_the_counts_remain() -> None:
    assert episode_statistics([]) == {"n_episodes": 0, "n_errors": 0}
    assert episode_statistics([episode(error="judge was away")]) == {"n_episodes": 0, "n_errors": 1}


def test_rates_over_unknown_facts_are_absent() -> None:
    statistics = episode_statistics([episode(usage={"zoom_in": 1})])
    absent = {"accuracy_needs_operation", "accuracy_easy", "hit_rate", "needless_rate", "missing_rate"}
    assert not absent & statistics.keys()
    assert statistics["usage_rate"] == 1.0


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ([WHOLE], False),
        ([WHOLE, crop((100.0, 50.0, 120.0, 70.0), (56, 56))], True),  # exactly the evidence, 2.8 instead of 0.5
        ([WHOLE, crop((101.0, 50.0, 121.0, 70.0), (56, 56))], False),  # one source pixel of it is cut off
        ([WHOLE, crop((0.0, 0.0, 400.0, 200.0), (200, 100))], False),  # the whole image again: nothing became larger
        ([WHOLE, crop((0.0, 0.0, 200.0, 200.0), (200, 100))], False),  # larger across, not larger down
        ([WHOLE, crop((0.0, 0.0, 200.0, 100.0), (200, 100), source=2)], False),  # another source
        ([WHOLE, crop((300.0, 0.0, 400.0, 50.0), (200, 100)), crop((90.0, 45.0, 130.0, 75.0), (112, 84))], True),
        ([], False),
    ],
)
def test_hit(views: list[dict[str, Any]], expected: bool) -> None:
    assert is_hit(episode(evidence_box=EVIDENCE, views=views)) is expected


def test_hit_compares_with_the_first_view_of_the_same_source() -> None:
    other = {"index": 1, "turn": 0, "source": 2, "box": (0.0, 0.0, 10.0, 10.0), "size": (100, 100)}  # scale 10
    views = [other, WHOLE, crop((80.0, 40.0, 180.0, 90.0), (200, 100))]  # scale 2 after 0.5
    assert is_hit(episode(evidence_box=EVIDENCE, views=views))


def test_a_turned_view_has_its_own_sides() -> None:
    # 40x20 source pixels, turned: shown 56 wide and 112 high, 2.8 pixels per source pixel on both axes.
    corners = [(90.0, 70.0), (90.0, 50.0), (130.0, 50.0), (130.0, 70.0)]
    turned = {**crop((90.0, 50.0, 130.0, 70.0), (56, 112)), "corners": corners}
    assert view_scale(turned) == 2.8
    assert is_hit(episode(evidence_box=EVIDENCE, views=[WHOLE, turned]))


def test_a_comparison_can_hit_with_either_picture() -> None:
    place = (204, 0, 404, 100)
    panels = [
        {"place": (0, 0, 200, 100), "source": 1, "box": (0.0, 0.0, 400.0, 200.0)},
        {"place": place, "source": 1, "box": (80.0, 40.0, 180.0, 90.0)},
    ]
    pair = {**crop((0.0, 0.0, 400.0, 200.0), (404, 100)), "panels": panels}
    assert is_hit(episode(evidence_box=EVIDENCE, views=[WHOLE, pair]))
    panels[1]["source"] = 2
    assert not is_hit(episode(evidence_box=EVIDENCE, views=[WHOLE, pair]))


def frame(number: int, time: float, size: tuple[int, int] = (56, 28), turn: int = 1) -> dict[str, Any]:
    return {**crop((0.0, 0.0, 400.0, 200.0), size), "turn": turn, "frame": number, "time": time}


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([], False),
        ([frame(22, 2.2)], True),  # a frame inside the span that was not shown before
        ([frame(24, 2.4)], False),  # just after it
        ([frame(20, 2.0)], False),  # inside, but shown with the question, no larger now
        ([frame(20, 2.0, (112, 56))], True),  # the same frame, larger
        ([frame(0, 0.0, (112, 56)), frame(23, 2.3)], True),
    ],
)
def test_a_hit_in_a_video(looks: list[dict[str, Any]], expected: bool) -> None:
    first = [frame(0, 0.0, turn=0), frame(20, 2.0, turn=0)]
    assert is_hit(episode(evidence_time=(2.0, 2.4), views=[*first, *looks])) is expected
    assert is_hit(episode(evidence_time=(2.0, 2.4), evidence_box=EVIDENCE, views=[*first, *looks])) is expected
    corner = [{**look, "box": (0.0, 0.0, 110.0, 60.0)} for look in looks]
    assert not is_hit(episode(evidence_time=(2.0, 2.4), evidence_box=EVIDENCE, views=[*first, *corner]))


def test_no_evidence_box_is_no_hit() -> None:
    assert not is_hit(episode(views=[WHOLE, crop((0.0, 0.0, 10.0, 10.0), (100, 100))]))


def test_view_scale_is_the_smaller_axis() -> None:
    assert view_scale(crop((10.0, 10.0, 20.0, 30.0), (40, 60))) == 3.0


def test_contains_forgives_rounding_of_floats_only() -> None:
    assert contains((0.1 + 0.2, 0.0, 1.0, 1.0), (0.3, 0.0, 1.0, 1.0))
    assert not contains((0.301, 0.0, 1.0, 1.0), (0.3, 0.0, 1.0, 1.0))


@given(
    st.lists(
        st.builds(
            episode,
            correct=st.booleans(),
            needs_operation=st.sampled_from([None, False, True]),
            usage=st.fixed_dictionaries({"zoom_in": st.integers(0, 4)}),
            error=st.sampled_from([None, None, "broken"]),
        ),
        max_size=30,
    )
)
def test_rates_are_finite_and_splits_recombine(episodes: list[Episode]) -> None:
    statistics = episode_statistics(episodes)
    assert all(math.isfinite(value) for value in statistics.values())
    known = [e for e in episodes if e.error is None and e.needs_operation is not None]
    if known:
        n_needing = sum(e.needs_operation is True for e in known)
        n_easy = len(known) - n_needing
        wrong_decisions = statistics["needless_rate"] + statistics["missing_rate"]
        needless = n_easy * statistics.get("usage_rate_easy", 0.0)
        missing = n_needing * (1 - statistics.get("usage_rate_needs_operation", 0.0))
        assert wrong_decisions == pytest.approx((needless + missing) / len(known))


def test_cut_turns_are_told_apart_from_what_was_written_wrong():
    def ended(*reasons: str | None, **fields: Any) -> Episode:
        steps = [Step(turn="", reply="", reward=0.0, reward_terms={}, finish_reason=reason) for reason in reasons]
        return episode(steps=steps, failures={"malformed": len(steps)}, **fields)

    episodes = [
        ended("length", "length", truncated_by="context"),
        ended("stop", None, "length", truncated_by="max_turns"),
        ended("stop", truncated_by="context"),
        ended("stop"),
        # Of an older version, of a scripted agent, and without a score: nobody knows.
        ended(None, None),
        ended(),
        ended("length", error="the server was away"),
    ]
    counts = episode_counts(episodes)
    assert counts["cut_turn_rate"] == (2, 4)
    assert counts["failure_rate"] == (5, 6)
    assert (counts["truncated/context"], counts["truncated/max_turns"]) == ((2, 6), (1, 6))
    assert counts["truncated_rate"] == (3, 6)
    assert [n_cut_turns(one) for one in episodes] == [2, 1, 0, 0, 0, 0, 1]
    assert "cut_turn_rate" not in episode_counts(episodes[4:])


def test_what_operations_showed_of_the_evidence() -> None:
    # All of it at 2 / .5; a quarter of it at 10 / .5; another source; two frames of one call.
    views = [
        WHOLE,
        crop((80.0, 40.0, 180.0, 90.0), (200, 100)),
        crop((110.0, 60.0, 130.0, 80.0), (200, 200)),
        crop((100.0, 50.0, 120.0, 70.0), (20, 20), source=2),
    ]
    assert evidence_shown(episode(evidence_box=EVIDENCE, views=views)) == ((1.0, 4.0), (0.25, 20.0), (0.0, 0.0))
    frames = [WHOLE | {"frame": number, "time": float(number)} for number in range(4)]
    film = [frames[0], frames[3], *({**frame, "turn": 1} for frame in frames[1:3]), {**frames[3], "turn": 2}]
    assert evidence_shown(episode(evidence_time=(2.0, 3.0), views=film)) == ((1.0, math.inf), (0.0, 1.0))
    panels = [{"place": (0, 0, 100, 100), **views[1]}, {"place": (104, 0, 200, 100), **views[2]}]
    pair = {**views[1], "panels": panels}
    # Half the width shows a source of 100 pixels: (100 / 100) / .5
    assert evidence_shown(episode(evidence_box=EVIDENCE, views=[WHOLE, pair])) == ((1.0, 2.0),)
    assert evidence_shown(episode(views=views)) is None
