"""The alarm about looking that is not needed: sums by hand, and agents that are known to have the habit, or not."""

from __future__ import annotations

import json
from random import Random

import pytest

from pxr_agents.types import Episode, Step
from training.alarm import AlarmRule, AlarmState
from training.habit import looking_rate, solved_sums, watch_habit

RULE = AlarmRule(iterations=3)


def rollout(sample="s", *, look=False, correct=True, own=True, broken=False, **terms):
    """One that answers at once or looks first; `own` is False where it had to answer."""
    rewards = {"correct": float(correct), **terms}
    last = Step(turn="", reply="", reward=sum(rewards.values()), reward_terms=rewards)
    return Episode(
        task="t",
        sample_id=sample,
        steps=[*[Step(turn="", reply="", reward=0.0, reward_terms={})] * look, last],
        usage={"zoom_in": int(look and not broken)},
        failures={"zoom_in": int(broken)},
        answer="x",
        correct=correct,
        probe=None if own else "answer",
    )


def test_sums_of_two_samples_by_hand():
    first = [
        *[rollout(look=True, correct=k > 0, curiosity=0.5) for k in range(3)],
        rollout(),
        rollout(own=False),
        rollout(own=False, correct=False),
    ]
    # Four own rollouts, three look; of k = 3 answers at once two are right, so the sample weighs 2/3. Beside the own
    # right one 3 of 3 others look, beside the other 3 of 4; of the two other answers one is right, both times.
    alone = solved_sums(first)
    assert alone["samples"] == pytest.approx(2 / 3)
    assert alone["looked"] == pytest.approx((1 + 3 / 4) / 3)
    assert alone["users/correct"] / alone["users/episodes"] == pytest.approx(2 / 3)
    assert alone["others/correct"] / alone["others/episodes"] == pytest.approx(1 / 2)
    assert alone["users/term/curiosity"] / alone["users/episodes"] == pytest.approx(1 / 2)
    assert looking_rate(alone) == pytest.approx(7 / 8)
    # No sample: one answer at once, none that is right, nobody but those who had to, one that broke.
    silent = [rollout("a"), rollout("a", look=True), *[rollout("b", correct=False)] * 3]
    silent += [rollout("c", own=False), rollout("c", own=False), Episode(task="t", sample_id="s", error="away")]
    assert solved_sums([*first, *silent]) == alone
    # Another one where nobody looks: two of two right.
    both = solved_sums([*first, rollout("d"), rollout("d")])
    assert looking_rate(both) == pytest.approx((7 / 12) / (5 / 3))


def iteration(rng, *, hard=0.5, look_hard, look_easy, luck=0.45, eyes=0.97, forced=0, **kind):
    """24 samples of 8, a share of them `hard`: without looking they are right by `luck`, with it by `eyes`."""
    episodes = []
    for k in range(24):
        is_hard = rng.random() < hard
        for member in range(8):
            look = member >= forced and rng.random() < (look_hard if is_hard else look_easy)
            right = eyes if look else luck if is_hard else 0.97
            row = rollout(
                f"s{k}", look=look, correct=rng.random() < right, own=member >= forced, **(kind if look else {})
            )
            episodes.append(row)
    return episodes


def run(state, episodes, first=1):
    said = []
    for number, made in enumerate(episodes, first):
        state, notices = watch_habit(state, made, iteration=number, rule=RULE)
        said += [(number, notice) for notice in notices]
    return state, said


@pytest.mark.parametrize(
    ("agent", "habit"),
    [
        ({"look_hard": 0.92, "look_easy": 0.01}, False),
        ({"look_hard": 1, "look_easy": 0, "forced": 3}, False),
        ({"look_hard": 1, "look_easy": 0, "forced": 3, "hard": 0.9}, False),
        ({"look_hard": 0.9, "look_easy": 0, "hard": 1}, False),  # wherever it looks, it has to
        ({"look_hard": 1, "look_easy": 0, "hard": 1, "forced": 3, "eyes": 0.5}, False),  # clumsy
        ({"look_hard": 0.22, "look_easy": 0.22, "eyes": 0.5}, False),
        ({"look_hard": 1, "look_easy": 1, "forced": 3, "hard": 0.9}, False),  # silent: too many guesses
        ({"look_hard": 0.7, "look_easy": 0.7}, True),
        ({"look_hard": 1, "look_easy": 1, "forced": 2}, True),
        ({"look_hard": 1, "look_easy": 0.8, "forced": 2}, True),
        ({"look_hard": 1, "look_easy": 1, "forced": 2, "broken": True}, True),  # broken calls are no restraint
    ],
)
def test_who_looks_although_it_need_not_is_warned_of_once(agent, habit):
    for seed in range(3):
        rng = Random(seed)
        state, said = run(AlarmState(), [iteration(rng, **agent) for _ in range(8)])
        assert [notice.kind for _, notice in said] == ["habit"] * habit
        assert state.flags() == {"alarm/habit": float(habit)}


def test_a_habit_recovers_once_and_the_state_goes_through_json():
    def solved(look):
        return [rollout(f"s{k}", look=m < look, curiosity=0.1 * (m < look)) for k in range(4) for m in range(8)]

    # Beside an answer at once 6 of 7 look, then 3 of 7. Three iterations of 6, 3, 3 have a rate of 4/7; 3, 3, 8 one of
    # 3/7, since where all look, nobody says that they need not. 3, 8, 8 and 8, 8, 3 are too few samples.
    made = [solved(look) for look in (6, 6, 6, 6, 3, 3, 8, 8, 3, 3, 3, 3)]
    straight, said = run(AlarmState(), made)
    assert [(number, notice.kind) for number, notice in said] == [(3, "habit"), (12, "recovered")]
    assert straight.flags() == {"alarm/habit": 0.0}
    assert len(straight.history["habit"]) == 2 * RULE.iterations
    for cut in (2, 3, 8):
        state, before = run(AlarmState(), made[:cut])
        resumed, after = run(AlarmState.from_dict(json.loads(json.dumps(state.to_dict()))), made[cut:], cut + 1)
        assert (resumed, before + after) == (straight, said)
    lines = said[0][1].text.splitlines()
    assert lines[0].startswith("iteration 3: a habit: 85.7% of the rollouts look first where answers at once are right")
    rows = {line.rsplit(maxsplit=2)[0].strip(): line.split()[-2:] for line in lines[2:-1]}
    assert rows["samples"] == ["12", "12"]
    assert rows["answered correctly"] == ["1.000", "1.000"]
    assert rows["curiosity"] == ["0.100", "0.000"]
    assert "by the term curiosity (+0.100)" in lines[-1]
    assert watch_habit(AlarmState(), made[0], iteration=1, rule=AlarmRule(habit=1.0)) == (AlarmState(), [])


@pytest.mark.parametrize(
    ("broken", "cause"), [(True, "100% of those that look execute nothing"), (False, "no reward tells the two apart")]
)
def test_the_likely_cause(broken, cause):
    episodes = [rollout(f"s{k}", look=m < 6, broken=broken and m < 6) for k in range(8) for m in range(8)]
    _, said = run(AlarmState(), [episodes] * RULE.iterations)
    assert cause in said[0][1].text
