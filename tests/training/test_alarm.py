from __future__ import annotations

import json

import pytest

from pxr_agents.engines.vllm.arguments import StartArguments
from pxr_agents.types import Episode, Step
from training.alarm import (
    AlarmRule,
    AlarmState,
    add,
    likely_cause,
    mean,
    tally,
    usage_rate,
    usage_rates,
    watch_gap,
    watch_usage,
)  # fmt: skip
from training.config import EngineRecipe, EnvRecipe, LearnerRecipe, PPORecipe

RULE = AlarmRule(rate=0.1, iterations=2)


def episode(sample="s", *, usage=None, terms=None, failures=None, truncated_by=None, error=None, probe=None):
    terms = {"correct": 1.0} if terms is None else terms
    return Episode(
        task="t",
        sample_id=sample,
        steps=[Step(turn="", reply="", reward=sum(terms.values()), reward_terms=terms)],
        usage={"zoom_in": 0} if usage is None else usage,
        failures=failures or {},
        correct=terms.get("correct", 0.0) == 1.0,
        truncated_by=truncated_by,
        error=error,
        probe=probe,
    )


def iteration(users, n=20, **kind):
    """`users` of `n` episodes zoom in; what `kind` says holds for them."""
    return [episode(f"s{k % 5}", usage={"zoom_in": 1}, **kind) for k in range(users)] + [
        episode(f"s{k % 5}") for k in range(users, n)
    ]


def run(usage, rule=RULE, state=None, first=1):
    """The state after iterations with these numbers of users, and what was said."""
    state, said = state or AlarmState(), []
    for number, users in enumerate(usage, start=first):
        state, notices = watch_usage(state, iteration(users), iteration=number, rule=rule)
        said += [(number, notice.kind, notice.operation) for notice in notices]
    return state, said


def test_usage_that_dies_warns_once_and_a_recovery_is_reported_once():
    #        20% ...  5%  5%  0   0   20% 5%  20% 20% 20% 0  0
    counts = [4, 4, 4, 1, 1, 0, 0, 4, 1, 4, 4, 4, 0, 0]
    state, said = run(counts)
    assert said == [(5, "low", "any"), (11, "recovered", "any"), (14, "low", "any")]
    assert state.flags() == {"alarm/any": 1.0}


def test_one_bad_iteration_is_no_alarm_and_neither_is_the_rate_itself():
    assert run([1, 4, 1, 4, 1, 4])[1] == []
    assert run([2, 2, 2, 2, 2])[1] == []  # 10% is not below 10%
    assert run([0, 0, 0, 0], rule=AlarmRule(rate=0.0, iterations=2))[1] == []


def test_probes_are_no_users():
    probes = [episode(f"s{k}", usage={"zoom_in": 1}, probe="zoom_in") for k in range(5)]
    state, said = AlarmState(), []
    for number in (1, 2):
        state, notices = watch_usage(state, [*iteration(0), *probes], iteration=number, rule=RULE)
        said += notices
    assert [notice.kind for notice in said] == ["low"]
    assert "In none of the last 10 groups did anybody use it" in said[0].text
    assert usage_rates([*iteration(5), *probes])["usage/zoom_in"] == 0.25


def test_the_state_goes_through_json_at_any_point_and_does_not_grow():
    counts = [4, 4, 1, 1, 0, 4, 4, 4]
    straight, said = run(counts)
    assert [len(rows) for rows in straight.history.values()] == [2 * RULE.iterations]
    for cut in range(1, len(counts)):
        state, before = run(counts[:cut])
        read = AlarmState.from_dict(json.loads(json.dumps(state.to_dict())))
        assert read == state
        resumed, after = run(counts[cut:], state=read, first=cut + 1)
        assert before + after == said
        assert resumed == straight


def test_operations_are_watched_one_by_one():
    state = AlarmState()
    for number in range(1, 3):
        episodes = [episode(usage={"zoom_in": 1, "seek": 0}), episode(usage={"zoom_in": 0, "seek": 0})]
        state, notices = watch_usage(state, episodes, iteration=number, rule=RULE)
    assert [(notice.kind, notice.operation) for notice in notices] == [("low", "seek")]
    assert state.flags() == {"alarm/any": 0.0, "alarm/zoom_in": 0.0, "alarm/seek": 1.0}
    assert "seek is used by 0.0% of the episodes" in notices[0].headline
    assert "docs/curiosity.md" in notices[0].text


def test_broken_episodes_count_nowhere():
    broken = [episode(error="the engine died") for _ in range(50)]
    assert watch_usage(AlarmState(), broken, iteration=1, rule=RULE) == (AlarmState(), [])
    with_broken, _ = watch_usage(AlarmState(), [*iteration(4), *broken], iteration=1, rule=RULE)
    assert with_broken == run([4])[0]
    assert usage_rates(broken) == {}


def test_a_notice_shows_users_and_others_side_by_side():
    state = AlarmState()
    wrong = {"correct": 0.0, "curiosity": 0.1, "penalty": -0.05}
    for number, users in enumerate([8, 8, 1, 1], start=1):
        episodes = iteration(users, terms=wrong)
        state, notices = watch_usage(state, episodes, iteration=number, rule=RULE)
    [notice] = notices
    rows = {line.rsplit(maxsplit=2)[0].strip(): line.split()[-2:] for line in notice.text.splitlines()[1:8]}
    # 8 + 8 + 1 + 1 users and 12 + 12 + 19 + 19 others.
    assert rows["episodes"] == ["18", "62"]
    assert rows["answered correctly"] == ["0.000", "1.000"]
    assert rows["reward"] == ["0.050", "1.000"]
    assert rows["curiosity"] == ["0.100", "0.000"]
    assert rows["penalty"] == ["-0.050", "0.000"]
    assert "operations are used by 5.0% of the episodes, below 10.0% for 2 iterations; 40.0% before" in notice.headline
    assert "the learning trap: users are less often right (-1.000) and curiosity makes up for +0.100" in notice.text
    assert "docs/curiosity.md" not in notice.text  # somebody still uses it


ZOOMED = {"zoom_in": 1}
PLAIN = [episode() for _ in range(8)]


@pytest.mark.parametrize(
    ("users", "others", "cause"),
    [
        ([], [episode(failures={"zoom_in": 2})] * 3 + PLAIN, "calls fail rather than being avoided: 27% of"),
        ([], [episode(failures={"malformed": 2})] * 3 + PLAIN, "it was not used in any"),
        ([], PLAIN, "it was not used in any of these episodes"),
        ([episode(usage=ZOOMED, truncated_by="max_turns")] * 2, PLAIN, "cut off 100% more often"),
        ([episode(usage=ZOOMED, terms={"correct": 0.0})] * 2, PLAIN, "the learning trap"),
        (
            [episode(usage=ZOOMED, terms={"correct": 1.0, "operation_cost": -0.3})] * 2,
            PLAIN,
            "most of it by the term operation_cost (-0.300)",
        ),
        (
            [episode(usage=ZOOMED, terms={"correct": 1.0, "curiosity": 0.1})] * 2,
            PLAIN,
            "users earned +0.100 against the others",
        ),
    ],
)
def test_the_likely_cause_follows_from_the_episodes(users, others, cause):
    assert cause in likely_cause([tally([*users, *others], "zoom_in")], RULE)


def test_any_counts_malformed_turns_as_failures_and_an_operation_its_own_calls_only():
    episodes = [episode(failures={"malformed": 1}), episode(failures={"zoom_in": 1}), episode()]
    assert tally(episodes, "any")["others/failed"] == 2
    assert tally(episodes, "zoom_in")["others/failed"] == 1


def test_iterations_add_up():
    one = tally([episode(terms={"correct": 1.0}), episode(terms={"correct": 0.0, "cost": -1.0})], "any")
    both = add([one, tally([episode("t", terms={"cost": -3.0})], "any")])
    assert (both["groups"], both["live_groups"], usage_rate(both)) == (2, 0, 0.0)
    names = ("episodes", "correct", "term/correct", "term/cost")
    assert [both[f"others/{name}"] for name in names] == [3, 1, 1.0, -4.0]
    assert mean(both, "others", "term/cost") == pytest.approx(-4 / 3)
    assert mean(both, "others", "reward") == -1.0
    assert mean(both, "users", "reward") is None


def test_rates_by_operation_are_shares_of_episodes():
    episodes = [
        episode(usage={"zoom_in": 3, "seek": 0}, failures={"malformed": 1}),
        episode(usage={"zoom_in": 1, "seek": 0}, failures={"seek": 2}),
        episode(usage={"zoom_in": 0, "seek": 0}),
        episode(usage={"zoom_in": 0, "seek": 1}, failures={"seek": 1}),
    ]
    assert usage_rates(episodes) == {
        "usage/seek": 0.25,
        "usage/zoom_in": 0.5,
        "failures/malformed": 0.25,
        "failures/seek": 0.5,
        "failures/zoom_in": 0.0,
    }


def gap_notices(gaps, **recipe):
    """What is said of these mean gaps, and the state after them."""
    made, state, said = PPORecipe(model="m", env=EnvRecipe(id="e"), **recipe), AlarmState(), []
    for number, gap in enumerate(gaps, start=1):
        state, notices = watch_gap(state, gap, iteration=number, recipe=made)
        said += [(number, notice.kind, notice.text) for notice in notices]
    return said, state


def test_a_gap_warns_once_until_it_is_below_half_the_limit_and_outlives_a_checkpoint():
    said, state = gap_notices([2e-6, None, 3e-4, 4e-4, 8e-5, 3e-5, None, 2e-4])
    assert [(number, kind) for number, kind, _ in said] == [(3, "gap"), (6, "recovered"), (8, "gap")]
    assert "differ by 0.0003 nats per action id, above 0.0001; 2e-06 at best before" in said[0][2].splitlines()[0]
    assert state.flags() == {"alarm/logprob_gap": 1.0}
    assert AlarmState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    assert watch_usage(state, iteration(0), iteration=9, rule=RULE)[0].least_gap == 2e-6
    assert gap_notices([None])[1].flags() == {}


BFLOAT16, VLLM = LearnerRecipe(dtype="bfloat16"), EngineRecipe(kind="vllm")
HALF = EngineRecipe(kind="vllm", vllm=StartArguments(dtype="bfloat16"))


@pytest.mark.parametrize(
    ("gaps", "recipe", "first"),
    [
        ([0.035], {"engine": HALF}, "the engine computes in bfloat16, the learner in float32: leave engine.vllm.dtype"),
        ([0.035], {"learner": BFLOAT16}, "the engine computes in float32, the learner in bfloat16."),
        ([0.035], {"learner": BFLOAT16, "engine": VLLM}, "the engine sees other ids or pixels"),
        ([0.035], {}, "the engine sees other ids or pixels"),
        ([1e-5, 0.035], {}, "new weights do not reach the engine"),
        ([0.009], {"learner": BFLOAT16, "engine": HALF}, None),
        ([0.009], {"alarm_gap": 0.01}, None),
        ([9.0], {"alarm_gap": 0.0}, None),
    ],
)
def test_the_likeliest_cause_of_a_gap_comes_first(gaps, recipe, first):
    said, _ = gap_notices(gaps, **recipe)
    assert [text.splitlines()[2].startswith(f"1. {first}") for _, _, text in said] == ([] if first is None else [True])
