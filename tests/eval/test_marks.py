"""Boxes and their numbers on a source."""

from __future__ import annotations

import itertools
from typing import Any

from eval.marks import arrange
from pxr_agents.types import Episode


def view(index: int, turn: int, box: tuple[float, float, float, float], **more: Any) -> dict[str, Any]:
    return {"index": index, "turn": turn, "source": 1, "box": box, "size": (10, 10)} | more


def episode(*views: dict[str, Any], **changes: Any) -> Episode:
    return Episode(task="t", sample_id="s", views=list(views), **changes)


def test_boxes_in_order_then_the_evidence() -> None:
    played = episode(
        view(1, 0, (0.0, 0.0, 200.0, 100.0)),
        view(2, 1, (10.0, 20.0, 60.0, 70.0)),
        view(3, 7, (100.0, 0.0, 200.0, 50.0)),
        evidence_box=(20.0, 30.0, 40.0, 50.0),
    )
    first, second, evidence = arrange(played, 1, None, (200.0, 100.0))
    assert (first.label, first.x, first.y, first.width, first.height, first.points) == ("2", 10, 20, 50, 50, None)
    # The seventh turn has the first colour again: there are six.
    assert (first.turn, first.colour, second.label, second.colour) == (1, 1, "3", 1)
    assert (evidence.kind, evidence.label, evidence.x, evidence.height) == ("evidence", "", 20, 20)
    assert first.badge[:2] == (10, 20)


def test_only_the_boxes_of_this_source_and_frame() -> None:
    whole = (0.0, 0.0, 50.0, 50.0)
    part = (0.0, 0.0, 25.0, 25.0)
    played = episode(
        view(1, 0, whole, frame=0, time=0.0),
        view(2, 1, part, frame=8, time=2.0),
        view(3, 2, part, source=2),
        evidence_box=(1.0, 1.0, 5.0, 5.0),
        evidence_time=(1.0, 3.0),
    )
    assert [mark.label for mark in arrange(played, 1, 8, (50.0, 50.0))] == ["2", ""]
    # The evidence cannot be seen in a frame before it.
    assert arrange(played, 1, 0, (50.0, 50.0)) == ()
    assert [mark.label for mark in arrange(played, 2, None, (50.0, 50.0))] == ["3"]


def test_a_comparison_marks_both_of_its_regions_and_a_turned_one_its_corners() -> None:
    corners = [(5.0, 0.0), (10.0, 5.0), (5.0, 10.0), (0.0, 5.0)]
    panels = [
        {"source": 1, "box": (0.0, 0.0, 10.0, 10.0), "corners": corners},
        {"source": 1, "box": (30.0, 0.0, 40.0, 9.0)},
    ]
    turned, upright = arrange(episode(view(2, 1, (0.0, 0.0, 10.0, 10.0), panels=panels)), 1, None, (100.0, 100.0))
    assert turned.points == "5,0 10,5 5,10 0,5"
    assert (upright.x, upright.label, turned.label) == (30, "2", "2")


def test_badges_do_not_cover_each_other_and_stay_inside() -> None:
    corner = (90.0, 90.0, 100.0, 100.0)
    same = (10.0, 10.0, 60.0, 60.0)
    marks = arrange(episode(*(view(2 + k, 1, same) for k in range(3)), view(9, 1, corner)), 1, None, (100.0, 100.0))
    *stacked, last = [mark.badge for mark in marks]
    assert [badge[0] for badge in stacked] == sorted({badge[0] for badge in stacked})
    for left, right in itertools.pairwise(stacked):
        assert left[0] + left[2] <= right[0] + 1e-9
    assert last[0] + last[2] <= 100
    assert last[1] + last[3] <= 100


def test_a_badge_does_not_cover_a_small_box() -> None:
    below_the_edge = (40.0, 0.0, 60.0, 8.0)
    inside = (10.0, 50.0, 16.0, 90.0)
    high, low = arrange(episode(view(2, 1, below_the_edge), view(3, 2, inside)), 1, None, (100.0, 100.0))
    assert high.badge[1] == 8
    assert low.badge[1] + low.badge[3] <= 50
