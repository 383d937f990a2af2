"""Whether what operations showed contains the evidence.

X. Hou et al., "CodeV", arXiv 2511.19661, call the use of an operation faithful if its output contains what the question
asks about; there a model judges it. Here the evidence box says so, where a sample has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pxr_agents.statistics import contains, knows_evidence
from pxr_agents.types import Episode
from pxr_env.geometry import overlap


def is_faithful(episode: Episode) -> bool | None:
    """Whether some view of an operation contains the whole evidence, in its time; None if no evidence is known."""
    if not knows_evidence(episode):
        return None
    box = episode.evidence_box
    return any(box is None or contains(look["box"], box) for look in _looks(episode))


def coverage(episode: Episode) -> float | None:
    """The largest share of the evidence box that one view of an operation contains; None if no box is known."""
    box = episode.evidence_box
    if box is None:
        return None
    area = (box[2] - box[0]) * (box[3] - box[1])
    shared = [overlap(tuple(look["box"]), box) for look in _looks(episode)]
    return max((((x2 - x1) * (y2 - y1)) / area for x1, y1, x2, y2 in filter(None, shared)), default=0.0)


def _looks(episode: Episode) -> list[Mapping[str, Any]]:
    """What operations showed of source 1 while the evidence could be seen; a comparison shows two things."""
    looks = [part for view in episode.views if view["turn"] > 0 for part in view.get("panels", [view])]
    looks = [look for look in looks if look["source"] == 1]
    if episode.evidence_time is not None:
        start, end = episode.evidence_time
        looks = [look for look in looks if start <= look.get("time", float("nan")) < end]
    return looks
