"""What a set of episodes amounts to: the numbers that training logs and evaluation reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pxr_agents.types import Episode
from pxr_env.curiosity import ANSWER, WITHDRAWN, Look
from pxr_env.views import overlap

Condition = Callable[[Episode], bool]

_BOX_TOLERANCE = 1e-6  # source pixels; boxes went through floats and JSON


def episode_statistics(episodes: Iterable[Episode]) -> dict[str, float]:
    """Rates and means over `episodes`, as a flat dict of finite floats.

    An episode whose `error` is set has no score: it is counted in `n_errors` and nowhere else. "Used" means that at
    least one operation was executed (`usage_rate` over one group is the RaPR of arXiv 2505.15966); failed operations
    do not count as use. Probes and withdrawn operations say nothing of what the policy does by itself: all rates and
    means but those named `probe_...` and `arm/...` are over the other episodes. A key whose denominator would be 0 is
    absent.

    ==============================  ================================================================================
    `n_episodes`, `n_errors`        scored episodes, probes included, and those without a score
    `accuracy`                      share of correct episodes; with suffix `_needs_operation` and `_easy` over the
                                    episodes whose `needs_operation` is True and False
    `usage_rate`                    share of episodes that used an operation; same suffixes
    `first_turn_rate`               share whose first turn is the answer (a refused call or a broken turn is neither
                                    this nor use); same suffixes
    `hit_rate`                      see `is_hit`; over episodes that used an operation and know their evidence box
    `operations_per_episode`        mean number of executed operations
    `failure_rate`                  share with at least one failed operation or malformed turn
    `needless_rate`                 used although not needed, share of the episodes that know `needs_operation`
    `missing_rate`                  not used although needed, share of the same episodes
    `truncated_rate`                share cut off before an answer, by whatever limit
    `truncated/NAME`                share cut off by the limit NAME, such as "max_turns" or "context", if any was
    `cut_turn_rate`                 share with at least one turn that the token limit cut (see `n_cut_turns`); over
                                    episodes of which it is known why their turns ended
    `reward`, `reward/NAME`         mean return of an episode, and the part of it that term NAME paid (0 where absent)
    `probe_rate`                    share of the scored episodes that were made to begin with an operation, if any was
    `probe_accuracy`                share of correct probes
    `probe_reward`                  mean return of a probe
    `arm/answer/...`                of the episodes that were made to begin with an answer, and of those without
    `arm/withdrawn/...`             operations: `rate`, their share of the scored ones, `accuracy`, and `at_once`, the
                                    share of them that answered in the first turn
    ==============================  ================================================================================
    """
    every = list(episodes)
    scored = [episode for episode in every if episode.error is None]
    statistics = {"n_episodes": float(len(scored)), "n_errors": float(len(every) - len(scored))}
    for name, (count, total) in episode_counts(every).items():
        statistics[name] = count / total
    probes = [episode for episode in scored if episode.probe not in (None, ANSWER)]
    if probes:
        statistics["probe_rate"] = len(probes) / len(scored)
        statistics["probe_accuracy"] = _mean([episode.correct for episode in probes])
        statistics["probe_reward"] = _mean([episode.reward for episode in probes])
    arms = {
        ANSWER: [episode for episode in scored if episode.probe == ANSWER],
        WITHDRAWN: [episode for episode in scored if episode.withdrawn],
    }
    for name, members in arms.items():
        if members:
            statistics[f"arm/{name}/rate"] = len(members) / len(scored)
            statistics[f"arm/{name}/accuracy"] = _mean([episode.correct for episode in members])
            statistics[f"arm/{name}/at_once"] = _mean([answered_at_once(episode) for episode in members])
    scored = own_episodes(scored)
    if not scored:
        return statistics
    statistics["operations_per_episode"] = _mean([episode.n_operations for episode in scored])
    statistics["reward"] = _mean([episode.reward for episode in scored])
    returns = [term_returns(episode) for episode in scored]
    for name in sorted({name for terms in returns for name in terms}):
        statistics[f"reward/{name}"] = _mean([terms.get(name, 0.0) for terms in returns])
    return statistics


def episode_counts(episodes: Iterable[Episode]) -> dict[str, tuple[int, int]]:
    """The rates of `episode_statistics` as (how many, out of how many); a rate over no episode is absent."""
    scored = own_episodes(episodes)
    counts = {}
    for name, (applies, holds) in rates(scored).items():
        among = [episode for episode in scored if applies(episode)]
        if among:
            counts[name] = (sum(map(holds, among)), len(among))
    return counts


def rates(episodes: Iterable[Episode]) -> dict[str, tuple[Condition, Condition]]:
    """Every rate that these episodes may have: a condition on them, and what is counted among those that meet it."""
    limits = sorted({episode.truncated_by for episode in episodes} - {None}, key=str)
    return {
        "accuracy": (_always, lambda e: e.correct),
        "usage_rate": (_always, used),
        "first_turn_rate": (_always, answered_at_once),
        "accuracy_needs_operation": (lambda e: e.needs_operation is True, lambda e: e.correct),
        "usage_rate_needs_operation": (lambda e: e.needs_operation is True, used),
        "first_turn_rate_needs_operation": (lambda e: e.needs_operation is True, answered_at_once),
        "accuracy_easy": (lambda e: e.needs_operation is False, lambda e: e.correct),
        "usage_rate_easy": (lambda e: e.needs_operation is False, used),
        "first_turn_rate_easy": (lambda e: e.needs_operation is False, answered_at_once),
        "hit_rate": (lambda e: used(e) and knows_evidence(e), is_hit),
        "failure_rate": (_always, lambda e: any(e.failures.values())),
        "needless_rate": (lambda e: e.needs_operation is not None, lambda e: e.needs_operation is False and used(e)),
        "missing_rate": (lambda e: e.needs_operation is not None, lambda e: e.needs_operation is True and not used(e)),
        "truncated_rate": (_always, lambda e: e.truncated_by is not None),
        **{f"truncated/{limit}": (_always, partial(_is_cut_off, limit)) for limit in limits},
        "cut_turn_rate": (_knows_ends, lambda e: n_cut_turns(e) > 0),
    }


def _always(episode: Episode) -> bool:
    return True


def _is_cut_off(limit: str | None, episode: Episode) -> bool:
    return episode.truncated_by == limit


def _knows_ends(episode: Episode) -> bool:
    """Whether it is known of any turn why it ended."""
    return any(step.finish_reason is not None for step in episode.steps)


def own_episodes(episodes: Iterable[Episode]) -> list[Episode]:
    """The scored episodes in which the policy chose everything by itself (see `is_free`)."""
    return [episode for episode in episodes if episode.error is None and is_free(episode)]


def is_free(episode: Episode) -> bool:
    """Whether it was left alone: it is no probe, and had its operations."""
    return episode.probe is None and not episode.withdrawn


def n_cut_turns(episode: Episode) -> int:
    """Turns that the token limit cut. Few of them can be read, but that is the limit's doing, not the model's."""
    return sum(step.finish_reason == "length" for step in episode.steps)


def used(episode: Episode) -> bool:
    """Whether at least one operation was executed."""
    return episode.n_operations > 0


def answered_at_once(episode: Episode) -> bool:
    """Whether the first turn is the answer; a refused call, a turn that cannot be read or none at all is no answer."""
    return len(episode.steps) == 1 and episode.answer is not None


def knows_evidence(episode: Episode) -> bool:
    """Whether it is known where, or when, the sample shows what decides the answer."""
    return episode.evidence_box is not None or episode.evidence_time is not None


def term_returns(episode: Episode) -> dict[str, float]:
    """Sum over the turns of every named reward term of `episode`."""
    totals: dict[str, float] = {}
    for step in episode.steps:
        for name, value in step.reward_terms.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals


def is_hit(episode: Episode) -> bool:
    """Whether an operation showed the evidence better than the views that came with the question.

    The evidence is a box in pixels of source 1, and in a video also a span of seconds. An operation hits it with a
    view that contains the whole box, in a frame inside the span, either at a larger scale (shown pixels per source
    pixel, the smaller of the two axes) than the first view of the source, or in a frame that was not shown with the
    question. False if the episode knows no evidence.
    """
    return any(look.shows and look.magnification > 1.0 for look in evidence_shown(episode) or ())


def evidence_shown(episode: Episode) -> tuple[Look, ...] | None:
    """What each executed operation showed of the evidence; None if it is not known where that is.

    An episode does not say which call a view belongs to: views of one turn that show the same box are taken for those
    of one call, as frames of a video are.
    """
    if not knows_evidence(episode):
        return None
    first = [look for look in looks(episode, 1) if look["turn"] == 0]
    shown: dict[tuple[Any, ...], Look] = {}
    for look in looks(episode):
        if look["turn"] > 0:
            place = (look["index"],) if "place" in look else (look["source"], *look["box"])
            call = (look["turn"], *place)
            shown[call] = max(shown.get(call, Look(0.0, 0.0)), _shown_by(look, episode, first))
    return tuple(shown.values())


def _shown_by(look: Mapping[str, Any], episode: Episode, first: Sequence[Mapping[str, Any]]) -> Look:
    """What a look of an operation shows of the evidence, beside the looks that came with the question."""
    if look["source"] != 1 or not first:
        magnification = 0.0
    elif look.get("frame") not in {each.get("frame") for each in first}:
        magnification = math.inf
    else:
        magnification = view_scale(look) / view_scale(first[0])
    box, share = episode.evidence_box, 0.0
    if look["source"] == 1 and _in_time(look, episode):
        if box is None or contains(look["box"], box):
            share = 1.0
        elif (shared := overlap(tuple(look["box"]), box)) is not None:
            share = _area(shared) / _area(box)
    return Look(share, magnification)


def _in_time(look: Mapping[str, Any], episode: Episode) -> bool:
    """Whether what it shows is of the time in which the evidence can be seen."""
    if episode.evidence_time is None:
        return True
    start, end = episode.evidence_time
    return bool(start <= look.get("time", math.nan) < end)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def looks(episode: Episode, source: int | None = None) -> list[Mapping[str, Any]]:
    """The views of an episode, of one source if it is given; in place of a comparison the two that it shows, each with
    the turn, the index and the size of the whole."""
    found: list[Mapping[str, Any]] = []
    for view in episode.views:
        whole: dict[str, Any] = {name: view[name] for name in ("turn", "index", "size") if name in view}
        found += [{**panel, **whole} for panel in view.get("panels", ())] or [view]
    return [look for look in found if source in (None, look["source"])]


def evidence_looks(episode: Episode) -> list[Mapping[str, Any]]:
    """What operations showed of source 1, in a video only while the evidence could be seen."""
    return [look for look in looks(episode, 1) if look["turn"] > 0 and _in_time(look, episode)]


def view_scale(view: Mapping[str, Any]) -> float:
    """Shown pixels per source pixel of a view (a dict as in `info["views"]`), the smaller axis."""
    x1, y1, x2, y2 = view["box"]
    across, down = x2 - x1, y2 - y1
    if "corners" in view:
        top_left, top_right, _, bottom_left = view["corners"]
        across, down = math.dist(top_left, top_right), math.dist(top_left, bottom_left)
    width, height = view["size"]
    if "place" in view:
        # One of two in a comparison.
        width = view["place"][2] - view["place"][0]
    return float(min(width / across, height / down))


def contains(outer: Sequence[float], inner: Sequence[float]) -> bool:
    """Whether box `outer` (x1,y1,x2,y2) contains box `inner`, edges included."""
    return (
        outer[0] <= inner[0] + _BOX_TOLERANCE
        and outer[1] <= inner[1] + _BOX_TOLERANCE
        and outer[2] >= inner[2] - _BOX_TOLERANCE
        and outer[3] >= inner[3] - _BOX_TOLERANCE
    )


def _mean(values: Sequence[float]) -> float:
    return float(sum(values)) / len(values)
