"""Terms of a function of one's own: paid by hand, asked side by side, and left out where nobody answers."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from pathlib import Path

import pytest

from pxr_agents.groups import Group
from pxr_agents.types import Episode, Step
from tests.eval.chat_server import ChatServer, serve, status
from training import judge_reward
from training.advantages import group_advantages
from training.config import EnvRecipe, PPORecipe
from training.loop import PlainPPO, plain_recipe, run_plain
from training.rewards import Rewards, scored, settled_groups
from training.run_directory import LostProcessError, NonFiniteError, TrainingError

DOCS = Path(__file__).resolve().parents[2] / "docs"
ME = "tests.training.test_rewards:{}"


def episode(answer="A", correct=0.0, used=0, probe=None):
    steps = [Step(turn="t", reply="", reward=0.0, reward_terms={"correct": 0.0})] * 2
    steps[1] = Step(turn="t", reply="", reward=correct, reward_terms={"correct": correct})
    usage = {"zoom_in": used}
    return Episode(task="t", sample_id="s", steps=steps, answer=answer, correct=bool(correct), usage=usage, probe=probe)


def recipe_of(reward, **changes):
    return PPORecipe(model="m", env=EnvRecipe(id="e"), reward=reward, **changes)


def by_letter(episode, *, away="Z"):
    if episode.answer in away:
        raise ConnectionError("nobody there")
    return {"letter": ord(episode.answer) - ord("A"), "correct": -0.5}


WAITING = asyncio.Condition()


async def together(episode):
    """Comes back once four of them wait; never, if they are asked one after the other."""
    async with WAITING:
        together.n += 1
        WAITING.notify_all()
        await WAITING.wait_for(lambda: together.n >= 4)
    return {"together": 1}


async def never(episode):
    await asyncio.sleep(1000 * (episode.answer == "Z"))
    return {}


def half_away(episode):
    if sum(map(ord, episode.steps[0].turn)) % 2:
        raise TimeoutError("half away")
    return {"half": 1.0}


async def all_away(episode):
    raise OSError("all away")


def nonsense(episode, *, said):
    return {"nan": {"x": float("nan")}, "text": {"x": "1"}, "list": [1.0]}[said]


@pytest.fixture
def settle():
    def settled(episodes, function, **changes):
        recipe = recipe_of(ME.format(function), group_size=len(episodes), **changes)
        rewards = Rewards(recipe)
        for each in episodes:
            rewards.begin(each)
        [group] = settled_groups(episodes, recipe, rewards)
        return group, scored(group, recipe)

    return settled


def test_terms_are_earned_by_the_last_turn_beside_curiosity(settle):
    group, known = settle([episode("A"), episode("C", 1.0, used=1), episode("D"), episode("E")], "by_letter")
    assert known == group
    # 1 of 4 used an operation: .5 * (.3 - .25).
    paid = {"correct": 0.5, "curiosity": pytest.approx(0.025), "penalty": 0.0, "letter": 2.0}
    assert group.episodes[1].steps[1].reward_terms == paid
    assert [each.reward for each in group.episodes] == pytest.approx([-0.5, 2.525, 2.5, 3.5])
    assert group.episodes[1].steps[0].reward_terms == {"correct": 0.0}


def last_turn(rollouts):
    return [{"mine": float("inf") if each.n_turns > 2 else each.n_turns} for each in rollouts]


def test_rewards_of_a_group_are_earned_beside_curiosity(settle):
    onto, beside = {"box": (0, 0, 50, 50)}, {"box": (50, 50, 100, 100)}
    users = [
        episode("A", 1.0, used=1),
        episode("B", used=1),
        episode("A", 1.0),
        episode("C", 1.0, used=1, probe="zoom_in"),
    ]
    for user, view in zip(users, [onto, beside, None, onto], strict=True):
        user.evidence_box = (0, 0, 25, 25)
        user.views = [{"turn": 0, "index": 1, "source": 1, "box": (0, 0, 100, 100), "size": (100, 100)}]
        user.views += [{"turn": 1, "index": 2, "source": 1, "size": (100, 100)} | view] if view else []
    mine = ME.format("last_turn")
    group, known = settle(users, "by_letter", group_rewards={"evidence": {"weight": 1.0}, "beacon": {}, mine: {}})
    assert known == group
    # by_letter pays -.5 under "correct", and 0, 1, 0, 2 for the letter. Curiosity: 2 of 3 look, which is enough.
    paid = [each.steps[1].reward_terms for each in group.episodes]
    assert [terms["evidence"] for terms in paid] == [0.5, -0.5, 0.0, 0.0]
    assert [terms["beacon"] for terms in paid] == [-0.75, 0.0, 0.0, 0.0]
    assert [terms["mine"] for terms in paid] == [2, 2, 2, 2]
    assert [each.reward for each in group.episodes] == pytest.approx([2.25, 2.0, 2.5, 4.5])
    users[0].steps.append(users[0].steps[0])
    with pytest.raises(NonFiniteError, match=r"last_turn gave a reward of inf for sample s"):
        settle(users, "by_letter", group_rewards={mine: {}})


def test_an_outage_leaves_an_episode_out_of_the_loss_and_of_the_mean_and_is_no_zero(settle):
    letters = [episode("B"), episode("Z"), episode("D"), episode("F")]
    group, known = settle(letters, "by_letter")
    assert [each.error for each in group.episodes] == [None, "reward: nobody there", None, None]
    assert [each.answer for each in known.episodes] == ["B", "D", "F"]
    rewards = [each.reward for each in known.episodes]
    # .5, 2.5, 4.5 without the fourth; a 0 in its place would make the mean 1.875.
    assert group_advantages(rewards, [False] * 3).tolist() == [-2.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("answers", "probes", "advantage", "left"),
    [
        ("ABZZ", (), "group", 2),
        ("AZZZ", (), "group", 0),
        ("AZZZ", (), "gae", 1),
        ("ZZZZ", (), "gae", 0),
        ("ABZZ", (0, 1), "group", 0),
    ],
)
def test_a_group_with_too_few_left_is_empty(settle, answers, probes, advantage, left):
    episodes = [episode(a, probe="zoom_in" if k in probes else None) for k, a in enumerate(answers)]
    _, known = settle(episodes, "by_letter", advantage=advantage)
    assert len(known.episodes) == left
    assert isinstance(known, Group)


def test_async_functions_wait_side_by_side_and_not_for_ever(settle):
    together.n = 0
    group, _ = settle([episode() for _ in range(4)], "together")
    assert [each.reward for each in group.episodes] == [1.0] * 4
    group, _ = settle([episode("A"), episode("Z")], "never", reward_timeout=0.2)
    assert [each.error for each in group.episodes] == [None, "reward: not known within reward_timeout=0.2 s"]


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ("nan", NonFiniteError, r"nonsense gave a reward of nan for sample s"),
        ("text", TrainingError, r'nonsense returned \{"x": "1"\}; expected a dict of numbers by name'),
        ("list", TrainingError, r"nonsense returned \[1\.0\]; expected a dict"),
    ],
)
def test_what_are_no_terms_ends_the_run(settle, said, error, message):
    with pytest.raises(error, match=message):
        settle([episode(), episode()], "nonsense", reward_kwargs={"said": said})


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("by_leter", {}, 'no such function.*"by_letter"'),
        ("by_letter", {"awya": "B"}, "unexpected keyword argument 'awya'"),
    ],
)
def test_a_wrong_name_is_refused_before_a_start(make_recipe, name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        run_plain(make_recipe(reward=ME.format(name), reward_kwargs=kwargs))
    with pytest.raises(ValueError, match='got "by_letter"; expected "module:function"'):
        recipe_of("by_letter")
    with pytest.raises(ValueError, match='got "beacn"; expected "module:function" or one of beacon'):
        recipe_of(None, group_rewards={"beacn": {}})


def test_the_functions_of_the_page_pay(make_recipe, tmp_path, monkeypatch):
    """Those in docs/rewards.md, in a real iteration and from a real server."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "rewards.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "my_rewards.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(str(tmp_path))
    server = ChatServer(lambda body: "YES." if "boxed" in body["messages"][0]["content"] else "NO")
    with serve(server) as url:
        recipe = make_recipe(reward="my_rewards:clarity", reward_kwargs={"base_url": url},
                             group_rewards={"my_rewards:brevity": {"weight": 0.5}, "beacon": {}})  # fmt: skip
        trainer = PlainPPO(plain_recipe(recipe))
        trainer.train()
    texts = ["\n".join(step.turn for step in each.steps) for each in trainer.last_episodes]
    assert len(server.bodies) == len(texts) == 16
    assert trainer.last_iteration["reward/clarity"] == pytest.approx(sum(0.1 * ("boxed" in t) for t in texts) / 16)
    turns = [len(each.steps) for each in trainer.last_episodes]
    size = trainer.recipe.group_size
    spent = sum(n - min(turns[k // size * size :][:size]) for k, n in enumerate(turns))
    assert trainer.last_iteration["reward/brevity"] == pytest.approx(-0.5 * spent / 16)
    assert "reward/beacon" in trainer.last_iteration
    assert trainer.last_iteration["reward/words"] == pytest.approx(sum(-1e-3 * len(t.split()) for t in texts) / 16)


def test_a_judge_is_asked_once_about_what_the_rule_did_not_find_correct(tmp_path):
    def rewards(answers, url, **changes):
        judge_reward._model.cache_clear()
        arguments = {"base_url": url, "model": "m", "weight": 0.25, "total": 0.1, "cache": str(cache)} | changes
        recipe = recipe_of("judge", reward_kwargs=arguments, group_size=len(answers))
        asked, episodes = Rewards(recipe), [episode(a, float(a == "A")) for a in answers]
        for each in episodes:
            asked.begin(each)
        [group] = settled_groups(episodes, recipe, asked)
        return [each.error or each.reward for each in group.episodes]

    cache = tmp_path / "said.jsonl"
    server = ChatServer(lambda body: "CORRECT" if "\nan a\n" in body["messages"][0]["content"] else "INCORRECT.")
    with serve(server) as url:
        # The rule found the first correct, and the last one is no answer.
        assert rewards(["A", "an a", "an a", "B", None], url) == [1.0, 0.25, 0.25, 0.0, 0.0]
        assert len(server.bodies) == len(cache.read_text().splitlines()) == 2
        server.faults = itertools.repeat(status(503))
        known, unknown = rewards(["an a", "C"], url)
        assert known == 0.25
        assert unknown.startswith("reward: 127.0.0.1")
        assert "status 503" in unknown
        server.faults, server.player = iter(()), lambda body: "Hard to tell."
        assert "said neither CORRECT nor INCORRECT, asked 3 times: Hard to tell" in rewards(["an a", "C"], url)[1]
        server.faults = itertools.repeat(status(401))
        with pytest.raises(TrainingError, match=r"judge got no answer: .*status 401"):
            rewards(["C", "D"], url)


def test_a_run_goes_on_without_what_is_unknown_and_ends_if_that_is_all(make_recipe):
    recipe = make_recipe(reward=ME.format("half_away"), iterations=1)
    run_plain(recipe)
    out = Path(recipe.out)
    [row] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    [fault] = [json.loads(line) for line in (out / "faults.jsonl").read_text().splitlines()]
    assert 0 < row["n_errors"] < 16
    assert row["n_errors"] + row["n_episodes"] == 16
    assert (row["faults/reward"], fault["kind"]) == (1, "reward")
    assert re.fullmatch(rf"{row['n_errors']:.0f} episodes of samples .* is unknown: half away", fault["text"])
    with pytest.raises(LostProcessError, match=r"16 of 16 .*all away.* and 0 groups are left of 1 that a step needs"):
        PlainPPO(plain_recipe(make_recipe(reward=ME.format("all_away")))).train()
