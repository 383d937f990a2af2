"""Rewards of a group against values computed by hand, and what holds of all of them."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.group_rewards import table
from pxr_env.curiosity import GROUP_REWARDS, Look, Rollout, group_reward

PAGE = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text(encoding="utf-8")
ONTO, BESIDE, WHOLE, UNSEEN_FRAME = Look(1.0, 4.0), Look(0.0, 4.0), Look(1.0, 1.0), Look(1.0, math.inf)


def rollout(correct, *looks, **facts):
    return Rollout(**{"correct": bool(correct), "n_operations": len(looks), "looks": looks} | facts)


@pytest.mark.parametrize(
    ("name", "constants", "group", "expected"),
    [
        # A correct rollout without calls: correct ones with calls, executed or refused, get .25; wrong ones stay at 0.
        ("beacon", {}, [rollout(1), rollout(1, ONTO), rollout(0, ONTO), rollout(1, n_failed=1)], [0, -0.75, 0, -0.75]),
        ("beacon", {"reduced": 0.5}, [rollout(0), rollout(1, ONTO)], [0, 0]),
        # What a withdrawn rollout could do says nothing of what was chosen, and a probe is not taxed.
        ("beacon", {}, [rollout(1, free=False), rollout(1, ONTO)], [0, 0]),
        ("beacon", {}, [rollout(1), rollout(1, ONTO, free=False)], [0, 0]),
        # .2 * (1 - 1/2); .2 * (1 - (1 + 1)/3); nothing unhelpful is known: .2 * (1 - 1/2)
        (
            "faith-eyes",
            {},
            [rollout(0, ONTO, BESIDE), rollout(1, ONTO, BESIDE, n_failed=1), rollout(1, WHOLE), rollout(1),
             Rollout(correct=False, n_operations=1, n_failed=1)],
            [0.1, 0.2 / 3, 0.2, 0, 0.1],
        ),
        # The fewest calls of a correct rollout are 2, those of the wrong one do not count: sin(3 pi / 5) - 1
        ("productivity", {}, [rollout(1, ONTO, ONTO), rollout(1, *[ONTO] * 3), rollout(0, ONTO)],
         [0, math.sin(0.6 * math.pi) - 1, 0]),
        # The fewest are 0: cos(pi / 3) - 1, with alpha 2 and c 2 it is 2 cos(pi / 4) - 1
        ("productivity", {}, [rollout(1), rollout(1, ONTO)], [0, -0.5]),
        ("productivity", {"alpha": 2, "c": 2}, [rollout(1), rollout(1, ONTO)], [1, math.sqrt(2) - 1]),
        ("pyvision", {}, [rollout(1, ONTO, BESIDE, n_failed=3), rollout(0, ONTO), rollout(1)], [0.2, 0, 0]),
        # h is 1 and 0, mean .5
        ("evidence", {}, [rollout(0, BESIDE, ONTO), rollout(1, WHOLE), rollout(1)], [0.1, -0.1, 0]),
        # h is .5 * (1.5 - 1) / (2 - 1) = .25, 1, 0: mean 5/12. Probes are compared with probes: 1 and .5, mean .75.
        (
            "evidence",
            {"weight": 12},
            [rollout(0, Look(0.5, 1.5)), rollout(1, UNSEEN_FRAME), rollout(1, BESIDE),
             rollout(0, ONTO, free=False), rollout(0, Look(1.0, 1.5), free=False)],
            [-2, 7, -5, 3, -3],
        ),
        ("evidence", {"enough": 7}, [rollout(0, ONTO), rollout(1, WHOLE)], [0.05, -0.05]),
        ("evidence", {}, [Rollout(correct=True, n_operations=2), Rollout(correct=True, n_operations=0)], [0, 0]),
    ],
)  # fmt: skip
def test_by_hand(name, constants, group, expected):
    assert group_reward(name, **constants)(group) == [{name: pytest.approx(paid)} for paid in expected]


def test_what_counts_as_answered_at_once():
    group = [rollout(0), rollout(1, ONTO, n_turns=2), rollout(0, n_failed=1, truncated_by="max_turns")]
    assert [each.answered_at_once for each in group] == [True, False, False]


LOOKS = st.lists(st.builds(Look, st.floats(0, 1), st.floats(0, 1e9) | st.just(math.inf)), max_size=3).map(tuple)
ROLLOUTS = st.builds(
    lambda looks, known, **facts: Rollout(n_operations=len(looks), looks=looks if known else None, **facts),
    looks=LOOKS, known=st.booleans(), correct=st.booleans(), n_failed=st.integers(0, 3), free=st.booleans(),
)  # fmt: skip


@given(st.lists(ROLLOUTS, max_size=8))
def test_terms_are_finite_and_those_of_free_rollouts_do_not_depend_on_others(group):
    free = [each.free for each in group]
    for name in GROUP_REWARDS:
        paid = [terms[name] for terms in group_reward(name)(group)]
        assert all(map(math.isfinite, paid))
        alone = group_reward(name)([each for each in group if each.free])
        assert [each for each, own in zip(paid, free, strict=True) if own] == [terms[name] for terms in alone]


@given(st.lists(ROLLOUTS, max_size=8))
def test_evidence_neither_pays_nor_taxes_those_who_look(group):
    paid = [terms["evidence"] for terms in group_reward("evidence")(group)]
    for free in (True, False):
        assert sum(p for p, each in zip(paid, group, strict=True) if each.free is free) == pytest.approx(0, abs=1e-9)
    assert not any(p for p, each in zip(paid, group, strict=True) if not each.n_operations)


def test_alike_is_exactly_zero():
    group = [rollout(1, Look(0.1, 9.0))] * 7 + [rollout(1)]
    assert group_reward("evidence")(group) == [{"evidence": 0.0}] * 8


@pytest.mark.parametrize(
    ("name", "constants", "message"),
    [
        ("beacn", {}, 'got "beacn"; expected "module:function" or one of beacon, .*Did you mean "beacon"'),
        ("beacon", {"weight": 1}, "beacon with .*unexpected keyword argument 'weight'"),
        ("beacon", {"reduced": "x"}, 'got reduced="x"; expected a number'),
        ("evidence", {"enough": 1.0}, "enough is 1.0; expected a magnification above 1"),
        ("productivity", {"c": -1.0}, "c is -1.0; expected a number >= 0"),
        ("benchmarks.group_rewards:tabel", {}, 'no such function.*Did you mean "table"'),
    ],
)
def test_what_there_is_not(name, constants, message):
    with pytest.raises(ValueError, match=message):
        group_reward(name, **constants)


def test_what_are_no_terms_is_refused(monkeypatch):
    for returned in ([{}], {"a": 1.0}, [{"a": "1"}, {}], None):
        monkeypatch.setitem(GROUP_REWARDS, "mine", lambda rollouts, returned=returned: returned if rollouts else [])
        with pytest.raises(
            ValueError, match=r"mine returned .* for 2 rollouts; expected a list with a dict of numbers"
        ):
            group_reward("mine")([rollout(1)] * 2)


def test_the_page_has_every_reward_and_what_it_pays():
    assert table() in PAGE, "run: python -m benchmarks.group_rewards"
    listed = PAGE.partition("| reward | adds |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", listed, re.MULTILINE) == list(GROUP_REWARDS)
