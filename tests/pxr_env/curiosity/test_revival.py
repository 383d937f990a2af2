"""Who is probed: probabilities by hand, frequencies, and equal decisions everywhere."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.curiosity import Revival, UsageRates

ZOOM = ("zoom_in",)


def used(times, episodes, **others):
    """Rates of a task in which `times` of `episodes` zoomed; `others` are used as often as they say."""
    rates = UsageRates()
    for k in range(episodes):
        rates.record("A", str(k), {"zoom_in": int(k < times), **{name: int(k < n) for name, n in others.items()}})
    return rates


DEAD = used(0, 64)


def share(revival, rates, n=4000, **options):
    names = [revival.decide(rates, "A", str(k), rollout=0, **options) for k in range(n)]
    return {name: names.count(name) / n for name in set(names) - {None}}


class TestProbability:
    @pytest.mark.parametrize(
        ("times", "expected"),
        # floor .05 = 5 of 100: the ramp is 1, .8, .6, ... and 0 at the floor and above
        [(0, 1.0), (1, 0.8), (2, 0.6), (4, 0.2), (5, 0.0), (50, 0.0)],
    )
    def test_the_ramp(self, times, expected):
        revival = Revival(operations=ZOOM)
        assert revival.probe_probability(used(times, 100), "A", "zoom_in") == pytest.approx(expected)

    def test_of_what_was_never_counted(self):
        revival = Revival(operations=ZOOM, min_episodes=64)
        assert revival.probe_probability(UsageRates(), "A", "zoom_in") == 0.0
        assert revival.probe_probability(used(0, 63), "A", "zoom_in") == 0.0
        assert revival.probe_probability(used(0, 64), "A", "zoom_in") == 1.0

    def test_probes_do_not_revive_on_paper(self):
        revival, rates = Revival(operations=ZOOM), used(0, 100)
        for k in range(900):
            rates.record("A", str(k), {"zoom_in": 1}, probe="zoom_in")
        assert revival.probe_probability(rates, "A", "zoom_in") == 1.0
        # 900 probes with patience 90: .1
        tired = Revival(operations=ZOOM, patience=90)
        assert tired.probe_probability(rates, "A", "zoom_in") == pytest.approx(0.1)
        assert tired.probe_probability(used(0, 100), "A", "zoom_in") == 1.0


class TestDecide:
    def test_only_the_first_rollouts_of_a_group_are_probed(self):
        revival, rates = Revival(operations=ZOOM, share=0.25), used(0, 100)
        for group_size, n in ((8, 2), (7, 1), (4, 1), (3, 0), (16, 4)):
            decisions = [revival.decide(rates, "A", "1", rollout=k, group_size=group_size) for k in range(group_size)]
            assert decisions == ["zoom_in"] * n + [None] * (group_size - n)
        assert Revival(operations=ZOOM, share=1 / 3).n_candidates(3) == 1

    def test_frequencies(self):
        # Standard error at .5 and 4000 draws: .008
        revival = Revival(operations=ZOOM, probability=0.5)
        assert share(revival, used(0, 100), group_size=8) == pytest.approx({"zoom_in": 0.5}, abs=0.03)
        # half of the way to the floor: .5 * .6
        assert share(revival, used(2, 100), group_size=8) == pytest.approx({"zoom_in": 0.3}, abs=0.03)
        assert share(revival, used(5, 100), group_size=8) == {}
        # single episodes: each with probability share * .5
        assert share(revival, used(0, 100)) == pytest.approx({"zoom_in": 0.125}, abs=0.02)

    def test_the_deader_operation_is_probed_more_often(self):
        revival = Revival(operations=("zoom_in", "seek", "flip"))
        # p = 0, 1 and .4: one probe in every candidate, with odds 5 to 2
        rates = used(50, 100, seek=0, flip=3)
        assert share(revival, rates, group_size=8) == pytest.approx({"seek": 5 / 7, "flip": 2 / 7}, abs=0.03)

    @given(st.integers(0, 9), st.text(max_size=5), st.integers(0, 7), st.integers(0, 3))
    def test_decisions_depend_on_nothing_else(self, seed, sample_id, rollout, iteration):
        where = {"rollout": rollout, "group_size": 32, "iteration": iteration}
        first, second = (Revival(operations=ZOOM, probability=0.5, seed=seed) for _ in range(2))
        decision = first.decide(DEAD, "A", sample_id, **where)
        first.decide(DEAD, "A", "another", rollout=0)
        assert second.decide(DEAD, "A", sample_id, **where) == decision

    def test_seed_iteration_and_rollout_each_change_them(self):
        def decisions(seed=0, iteration=0, rollout=0):
            revival = Revival(operations=ZOOM, probability=0.5, seed=seed)
            where = {"rollout": rollout, "group_size": 32, "iteration": iteration}
            return [revival.decide(DEAD, "A", str(k), **where) for k in range(64)]

        different = [decisions(), decisions(seed=1), decisions(iteration=1), decisions(rollout=1)]
        assert len({tuple(d) for d in different}) == 4

    def test_another_process_decides_alike(self):
        code = (
            "import json, sys; from pxr_env.curiosity import Revival, UsageRates\n"
            "rates = UsageRates.from_dict(json.load(sys.stdin))\n"
            "revival = Revival(operations=('zoom_in', 'seek'), probability=.5, seed=3)\n"
            "print(json.dumps([revival.decide(rates, 'A', str(k), rollout=k % 8, group_size=32) for k in range(99)]))"
        )
        rates = used(1, 64, seek=0)
        result = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(rates.to_dict()), capture_output=True, text=True, check=True
        )
        revival = Revival(operations=("zoom_in", "seek"), probability=0.5, seed=3)
        here = [revival.decide(rates, "A", str(k), rollout=k % 8, group_size=32) for k in range(99)]
        assert json.loads(result.stdout) == here
        assert set(here) == {None, "zoom_in", "seek"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": ()}, "expected the names of one operation or more"),
        ({"operations": "zoom_in"}, "expected the names"),
        ({"floor": 0.0}, "floor is 0.0; expected a number above 0, at most 1"),
        ({"share": 0.6}, "share is 0.6; expected a number above 0, at most 0.5"),
        ({"probability": True}, "probability is True"),
        ({"min_episodes": 0}, "min_episodes is 0; expected an int >= 1"),
        ({"patience": 1.5}, "patience is 1.5; expected an int >= 1"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        Revival(**{"operations": ZOOM, **options})
