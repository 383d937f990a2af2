"""The counts of operations against values computed by hand and a naive recount."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.curiosity import UsageRates

# What happens in one process: an episode with its probe, or a step to the next tick.
STEPS = st.lists(
    st.one_of(
        st.just("next tick"),
        st.tuples(
            st.sampled_from(["A", "B"]),
            st.sampled_from(["1", "2", "3"]),
            st.dictionaries(st.sampled_from(["zoom_in", "seek"]), st.integers(0, 2)),
            st.sampled_from([None, None, "zoom_in"]),
        ),
    ),
    max_size=20,
)
WINDOWS = st.sampled_from([None, 1, 2, 3])


def lived(steps, rates=None, **options):
    rates = rates or UsageRates(**options)
    for step in steps:
        if step == "next tick":
            rates.advance(rates.tick + 1)
        else:
            *episode, probe = (*step, None)[:4]
            rates.record(*episode, probe=probe)
    return rates


class TestUsageRates:
    def test_by_hand(self):
        rates = UsageRates()
        rates.record("A", "1", {"zoom_in": 2, "select_frames": 0})
        rates.record("A", "1", {"zoom_in": 0, "select_frames": 0})
        rates.record("A", "2", {"zoom_in": 1, "select_frames": 3})
        rates.record("A", "2", {"zoom_in": 0, "select_frames": 1})
        assert rates.rate("A", "1") == 1 / 2
        assert rates.rate("A", "2") == 2 / 2
        assert rates.rate("A") == 3 / 4
        assert rates.rate("A", operation="zoom_in") == 2 / 4
        assert rates.rate("A", "2", operation="select_frames") == 2 / 2
        assert rates.rate("A", "1", operation="select_frames") == 0.0
        assert (rates.episodes("A"), rates.episodes("A", "1"), rates.episodes("B")) == (4, 2, 0)
        # Unseen is None, not zero.
        assert rates.rate("A", "3") is rates.rate("B") is None

    def test_probes_are_counted_apart(self):
        rates = lived([("A", "1", {"zoom_in": 1}), ("A", "1", {})])
        rates.record("A", "1", {"zoom_in": 1, "seek": 2}, probe="seek")
        rates.record("A", "2", {"zoom_in": 1}, probe="zoom_in")
        assert rates.rate("A") == rates.rate("A", operation="zoom_in") == 1 / 2
        assert rates.rate("A", operation="seek") == 0.0
        assert rates.episodes("A") == 2
        assert rates.rate("A", "2") is None
        assert (rates.probes("A"), rates.probes("A", operation="seek"), rates.probes("A", "2")) == (2, 1, 1)

    @given(STEPS, WINDOWS)
    def test_recount(self, steps, window):
        rates = lived(steps, window=window)
        ticks = [sum(other == "next tick" for other in steps[:number]) for number in range(len(steps) + 1)]
        seen = [
            step
            for step, tick in zip(steps, ticks, strict=False)
            if step != "next tick" and (window is None or tick > ticks[-1] - window)
        ]
        own = [step for step in seen if step[3] is None]
        for task in "AB":
            mine = [step for step in own if step[0] == task]
            assert rates.episodes(task) == len(mine)
            assert rates.probes(task) == sum(step[0] == task for step in seen) - len(mine)
            for sample in "123":
                usages = [usage for _, name, usage, _ in mine if name == sample]
                used = [[any(usage.values()), usage.get("seek", 0) > 0] for usage in usages]
                expected = [sum(column) / len(column) for column in zip(*used, strict=True)] or [None, None]
                assert [rates.rate(task, sample), rates.rate(task, sample, operation="seek")] == expected

    @given(STEPS, STEPS, STEPS, WINDOWS)
    def test_merging_is_exact_in_every_order(self, first, second, third, window):
        a, b, c = (lived(steps, window=window) for steps in (first, second, third))
        assert a.merge(b) == b.merge(a)
        assert a.merge(b).merge(c) == a.merge(b.merge(c)) == c.merge(a).merge(b)
        assert a.merge(UsageRates(window=window)) == a == lived(first, window=window)
        if "next tick" not in first + second:
            assert a.merge(b) == lived(first + second, window=window)

    @given(STEPS, STEPS, st.sampled_from([None, 0, 1, 4]), WINDOWS)
    def test_json_round_trip_goes_on_identically(self, first, second, max_samples, window):
        rates = lived(first, max_samples=max_samples, window=window)
        copy = UsageRates.from_dict(json.loads(json.dumps(rates.to_dict(), sort_keys=True)))
        assert copy == rates
        assert lived(second, copy).to_dict() == lived(second, rates).to_dict()

    def test_the_sample_met_longest_ago_is_forgotten_but_the_task_is_exact(self):
        rates = lived([("A", str(i % 3), {"zoom_in": i % 2}) for i in range(4)], max_samples=2)
        # met in the order 0, 1, 2, 0: at the third sample 0 goes, and the fourth brings it back in place of 1
        assert [rates.episodes("A", str(i)) for i in range(3)] == [1, 0, 1]
        assert rates.episodes("A") == 4
        assert rates.rate("A") == 2 / 4

    def test_merge_forgets_the_samples_with_fewest_episodes(self):
        often = lived([("A", "often", {})] * 2, max_samples=1)
        merged = often.merge(lived([("A", "seldom", {}), ("A", "never", {})], max_samples=1))
        assert merged.max_samples == 1
        assert len(merged.to_dict()["samples"]) == 1
        assert (merged.episodes("A", "often"), merged.episodes("A", "seldom"), merged.episodes("A")) == (2, 0, 4)
        assert often.merge(UsageRates(max_samples=2)).max_samples == 2
        assert often.merge(UsageRates(max_samples=None)).max_samples is None

    @pytest.mark.parametrize(
        "state",
        [{}, {"tasks": [["A", 3]]}, {"tasks": [["A", [[0, {}]]]]}, {"samples": None}, {"tick": None}, {"window": 0}],
    )
    def test_from_dict_names_what_it_is_not(self, state):
        with pytest.raises(ValueError, match="not usage rates"):
            UsageRates.from_dict({**UsageRates().to_dict(), **state} if state else {})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_samples": -1}, "max_samples is -1"),
            ({"window": 0}, "window is 0; expected an int >= 1"),
            ({"window": 2.5}, "window is 2.5"),
        ],
    )
    def test_limits_are_checked(self, options, message):
        with pytest.raises(ValueError, match=message):
            UsageRates(**options)


class TestWindow:
    def test_by_hand(self):
        rates = UsageRates(window=2)
        rates.record("A", "1", {"zoom_in": 1})
        rates.advance(1)
        rates.record("A", "1", {})
        rates.record("A", "1", {})
        assert rates.rate("A") == rates.rate("A", "1") == 1 / 3
        rates.advance(2)
        # ticks 1 and 2 count: two episodes without an operation
        assert rates.rate("A") == rates.rate("A", operation="zoom_in") == rates.rate("A", "1") == 0.0
        rates.advance(3)
        assert rates.rate("A") is None
        assert rates.episodes("A", "1") == 0

    def test_it_notices_at_once_what_the_whole_past_hides(self):
        window, whole = UsageRates(window=3), UsageRates()
        for tick in range(30):
            for rates in (window, whole):
                rates.advance(tick)
                for k in range(10):
                    rates.record("A", str(k), {"zoom_in": int(tick < 20 and k < 2)})
        # 2 of 10 in 20 of 30 ticks: 40 of 300; in the last three nobody
        assert whole.rate("A") == 40 / 300
        assert window.rate("A") == 0.0

    def test_memory_is_bounded_by_the_window(self):
        rates = UsageRates(window=3)
        for tick in range(50):
            rates.advance(tick)
            rates.record("A", str(tick), {"zoom_in": 1})
            rates.record("A", "again and again", {"zoom_in": 1})
        state = rates.to_dict()
        assert [len(ticks) for _, ticks in state["tasks"]] == [3]
        assert len(state["samples"]) <= 4
        assert all(len(ticks) <= 3 for *_, ticks in state["samples"])

    def test_time_goes_forward_only(self):
        rates = UsageRates(window=2)
        rates.advance(5)
        rates.advance(5)
        with pytest.raises(ValueError, match="got tick 4 at tick 5"):
            rates.advance(4)

    def test_windows_do_not_mix(self):
        with pytest.raises(ValueError, match=r"window=None to merge into counts with window=2; expected the same"):
            UsageRates(window=2).merge(UsageRates())
