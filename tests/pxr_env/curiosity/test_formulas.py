"""The curiosity terms and settled groups against values computed by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.curiosity import (
    PRESETS,
    CuriosityFormula,
    CuriosityTerms,
    curiosity_formula,
    curiosity_terms,
    settle_group,
)

GROUPS = st.lists(st.integers(0, 6), max_size=16)


def column(terms, name):
    return [term[name] for term in terms]


RELEASED = {"preset": "released-code"}


@pytest.mark.parametrize(
    ("counts", "options", "curiosity", "penalty"),
    [
        # RaPR = 1/8 = .125; .5 * (.3 - .125) = .5 * .175 = .0875, for the user only
        ([1, 0, 0, 0, 0, 0, 0, 0], {}, [0.0875] + [0] * 7, [0] * 8),
        # RaPR = .25; .5 * (.3 - .25) = .025 for both; n = 4: .05 * min(1 - 4, 0) = -.15
        ([0, 4, 0, 1, 0, 0, 0, 0], {}, [0, 0.025, 0, 0.025, 0, 0, 0, 0], [0, -0.15, 0, 0, 0, 0, 0, 0]),
        # RaPR = .375 > .3: no bonus; n = 2: .05 * (1 - 2) = -.05
        ([2, 1, 1, 0, 0, 0, 0, 0], {}, [0] * 8, [-0.05] + [0] * 7),
        # Nobody is paid at rate zero.
        ([0] * 8, {}, [0] * 8, [0] * 8),
        ([0] * 4, RELEASED, [0] * 4, [0] * 4),
        # RaPR = .5; 1 * (.75 - .5) = .25; .1 * (2 - 3) = -.1
        ([1, 3, 0, 0], {"alpha": 1.0, "H": 0.75, "N": 2, "beta": 0.1}, [0.25, 0.25, 0, 0], [0, -0.1, 0, 0]),
        # (.3 - .125) / 2 / .125 * .25 = .0875 / .125 * .25 = .7 * .25 = .175; -.05 * (3 - 1) = -.1
        ([3, 0, 0, 0, 0, 0, 0, 0], RELEASED, [0.175] + [0] * 7, [-0.1] + [0] * 7),
        # (.3 - .25) / 1.5 / .25 * .25 = .05 / 1.5 = .0333...; one operation costs nothing
        ([1, 1, 0, 0, 0, 0, 0, 0], RELEASED | {"media": "video"}, [1 / 30, 1 / 30] + [0] * 6, [0] * 8),
        # Running rates have a floor, large groups have not: (.3 - .0625) / 2 / .0625 * .25 = .11875 * 4 = .475
        ([1] + [0] * 15, RELEASED, [0.475] + [0] * 15, [0] * 16),
        ([0, 5, 1], {"preset": "off"}, [0] * 3, [0] * 3),
    ],
)
def test_by_hand(counts, options, curiosity, penalty):
    terms = curiosity_terms(counts, **options)
    assert column(terms, "curiosity") == pytest.approx(curiosity)
    assert column(terms, "penalty") == pytest.approx(penalty)


class TestPaper:
    def test_counts_of_numpy(self):
        assert curiosity_terms(np.array([1, 0, 0, 0, 0, 0, 0, 0])) == curiosity_terms([1, 0, 0, 0, 0, 0, 0, 0])

    @given(GROUPS)
    def test_is_the_formula(self, group):
        users = len([n for n in group if n])
        for n, term in zip(group, curiosity_terms(group), strict=True):
            expected = 0.0
            if n and users / len(group) < 0.3:
                expected = 0.15 - 0.5 * users / len(group)
            assert term["curiosity"] == pytest.approx(expected)
            assert term["penalty"] == pytest.approx(-0.05 * (n - 1) if n > 1 else 0)

    @given(GROUPS, st.randoms())
    def test_rollouts_may_be_permuted(self, group, random):
        order = list(range(len(group)))
        random.shuffle(order)
        terms = curiosity_terms(group)
        assert curiosity_terms([group[i] for i in order]) == [terms[i] for i in order]


class TestProbed:
    def test_a_probe_is_neither_paid_nor_counted(self):
        terms = curiosity_terms([3, 1, 1, 0, 0, 0, 0, 0], probed=[True, True] + [False] * 6)
        # RaPR of the six others = 1/6: .5 * (.3 - 1/6) = 1/15 for the third; with the probes it would be 3/8: nothing
        assert column(terms, "curiosity") == pytest.approx([0, 0, 1 / 15, 0, 0, 0, 0, 0])
        # the first went on to call two more: .05 * (1 - 3)
        assert column(terms, "penalty") == pytest.approx([-0.1] + [0.0] * 7)

    @given(GROUPS, st.lists(st.integers(1, 4), max_size=4), st.sampled_from(["paper", "released-code", "off"]))
    def test_others_are_settled_as_if_there_were_no_probes(self, own, probes, preset):
        flags = [True] * len(probes) + [False] * len(own)
        terms = curiosity_terms(probes + own, probed=flags, preset=preset)
        assert terms[len(probes) :] == curiosity_terms(own, preset=preset)
        assert column(terms[: len(probes)], "curiosity") == [0.0] * len(probes)

    def test_one_flag_per_rollout(self):
        with pytest.raises(ValueError, match="1 flags in probed for 2 rollouts"):
            curiosity_terms([1, 0], probed=[True])


class TestSettleGroup:
    def test_adds_terms_and_changes_nothing_given(self):
        given_terms = [{"correct": 1.0, "format": 0.5}] + [{"correct": 0.0}] * 7
        settled = settle_group([1] + [0] * 7, given_terms)
        # the user's reward: 1 + .5 + .0875 + 0 = 1.5875
        assert settled[0] == pytest.approx({"correct": 1.0, "format": 0.5, "curiosity": 0.0875, "penalty": 0.0})
        assert sum(settled[0].values()) == pytest.approx(1.5875)
        assert settled[1] == {"correct": 0.0, "curiosity": 0.0, "penalty": 0.0}
        assert given_terms[0] == {"correct": 1.0, "format": 0.5}

    def test_an_unrepaired_failure_takes_the_reward_of_its_own_rollout_only(self):
        correct = [{"correct": 1.0}] * 3
        first = settle_group([0, 1, 2], correct, unrepaired=[False, True, False], preset="released-code")
        second = settle_group([0, 1, 2], correct, unrepaired=[False, False, False], preset="released-code")
        assert column(first, "correct") == [1.0, 0.0, 1.0]
        assert column(second, "correct") == [1.0, 1.0, 1.0]

    def test_the_paper_does_not_look_at_failures(self):
        settled = settle_group([0, 1], [{"correct": 1.0}] * 2, unrepaired=[True, True])
        assert column(settled, "correct") == [1.0, 1.0]

    @given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=8), GROUPS)
    def test_groups_do_not_know_each_other(self, rollouts, other):
        counts, correct, unrepaired = zip(*rollouts, strict=True)
        terms = [{"correct": float(c)} for c in correct]
        alone = settle_group(counts, terms, unrepaired=unrepaired, preset="released-code")
        settle_group(other, [{"correct": 1.0}] * len(other), unrepaired=[True] * len(other), preset="released-code")
        assert settle_group(counts, terms, unrepaired=unrepaired, preset="released-code") == alone
        assert column(alone, "correct") == [float(c and not u) for c, u in zip(correct, unrepaired, strict=True)]

    def test_a_probe_keeps_its_reward_without_bonus(self):
        settled = settle_group([1, 0, 0], [{"correct": 1.0}] * 3, probed=[True, False, False])
        assert settled == [{"correct": 1.0, "curiosity": 0.0, "penalty": 0.0}] * 3

    def test_mistakes(self):
        with pytest.raises(ValueError, match=r"unrepaired is missing.*void_unrepaired=False"):
            settle_group([1], [{"correct": 1.0}], preset="released-code")
        settle_group([1], [{"correct": 1.0}], preset="released-code", void_unrepaired=False)
        with pytest.raises(ValueError, match="group of 2 n_operations, 1 reward_terms"):
            settle_group([1, 0], [{"correct": 1.0}])
        with pytest.raises(ValueError, match="already hold"):
            settle_group([1], settle_group([1], [{"correct": 1.0}]))


class TestMistakes:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"preset": "papr"}, 'Did you mean "paper"'),
            ({"preset": "released_code"}, 'Did you mean "released-code"'),
            ({"preset": "zzz"}, r"expected one of 'paper', 'released-code', 'off'\.$"),
            ({"alpha": -0.1}, "alpha is -0.1; expected a number >= 0"),
            ({"H": 1.5}, "H is 1.5; expected a number from 0 to 1"),
            ({"beta": float("nan")}, "beta is nan"),
            ({"preset": "released-code", "media": "audio"}, "expected 'image' or 'video'"),
        ],
    )
    def test_value(self, overrides, message):
        with pytest.raises(ValueError, match=message):
            curiosity_terms([1, 0], **overrides)

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"alhpa": 1.0}, r"has no 'alhpa'; .* Did you mean \"alpha\""),
            ({"media": "video"}, "preset 'paper' has no 'media'"),
            ({"alpha": "1"}, r"alpha is '1' \(str\); expected a number"),
            ({"N": True}, r"N is True \(bool\)"),
        ],
    )
    def test_type(self, overrides, message):
        with pytest.raises(TypeError, match=message):
            curiosity_terms([1, 0], **overrides)

    @pytest.mark.parametrize(
        ("counts", "error"), [([0, -1], ValueError), ([0, 1.0], TypeError), ([0, True], TypeError)]
    )
    def test_counts(self, counts, error):
        with pytest.raises(error, match=r"n_operations\[1\]"):
            curiosity_terms(counts)


def test_a_formula_of_the_user(monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Flat(CuriosityFormula):
        amount: float = 0.1

        def terms(self, n_operations: int, rate: float) -> CuriosityTerms:
            return {"curiosity": self.amount * n_operations, "penalty": 0.0}

    monkeypatch.setitem(PRESETS, "flat", Flat())
    assert column(curiosity_terms([2, 0], preset="flat", amount=0.5), "curiosity") == [1.0, 0.0]
    assert curiosity_formula("flat").amount == 0.1
