from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest

import pxr_env  # noqa: F401
from pxr_agents.agents import EachEpisode, Oracle, Random, VLMAgent
from pxr_agents.chat import Conversation
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.rollout import rollout
from pxr_agents.types import Action, ContextFull, Job, Sampling, Tokens, episode_seed, turn_seed
from pxr_env.curiosity import ProbeOperations

ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"


def make(n, **kwargs):
    return [gymnasium.make(ENV_ID, **kwargs) for _ in range(n)]


def jobs(n, split="train"):
    return [Job(sample_id=f"{split}-{k}", group=k) for k in range(n)]


@pytest.mark.parametrize(
    ("coordinates", "dialect"), [("unit", "hermes"), ("permille", "hermes"), ("pixel", "pixel-reasoner")]
)
def test_the_oracle_is_always_right(coordinates, dialect):
    episodes = rollout(make(3, coordinates=coordinates, dialect=dialect), EachEpisode(Oracle), jobs(16))
    assert all(episode.correct for episode in episodes)
    for episode in episodes:
        assert episode.n_operations == int(episode.needs_operation)
        assert not any(episode.failures.values())
        assert episode.reward == 1.0
        assert episode.answer == episode.target
        assert {step.weights_version for step in episode.steps} == {None}


def test_episodes_come_in_the_order_of_jobs_whatever_their_length():
    class Lengths:
        """Sample k answers after k % 3 useless turns."""

        def __init__(self, env):
            self._left = int(env.unwrapped.sample.sample_id.split("-")[1]) % 3

        def act(self, observation):
            self._left -= 1
            return "hm" if self._left >= 0 else "\\boxed{A}"

    ended = []
    episodes = rollout(
        make(2, max_turns=3), EachEpisode(Lengths), jobs(7), on_episode=lambda episode: ended.append(episode.sample_id)
    )
    assert [episode.sample_id for episode in episodes] == [f"train-{k}" for k in range(7)]
    assert [len(episode.steps) for episode in episodes] == [1, 2, 3, 1, 2, 3, 1]
    assert sorted(ended) == [f"train-{k}" for k in range(7)]
    assert ended != [f"train-{k}" for k in range(7)]


def test_an_asynchronous_agent_is_served_as_turns_come():
    """An agent that finishes one turn a time, last submitted first, still gets every episode played to its end."""

    class OneByOne(EachEpisode):
        def collect(self):
            return [self._ready.pop()]

    episodes = rollout(make(4), OneByOne(Oracle), jobs(10))
    assert all(episode.correct for episode in episodes)


def test_records_what_happened():
    class Script:
        def __init__(self, env):
            self._turns = iter(
                [
                    '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}\n'
                    "</tool_call>",
                    '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 2, 2], "target_image": 1}}\n'
                    "</tool_call>",
                    "\\boxed{nothing}",
                ]
            )

        def act(self, observation):
            return next(self._turns)

    (episode,) = rollout(make(1), EachEpisode(Script), jobs(1))
    assert episode.usage == {"zoom_in": 1}
    assert sum(episode.failures.values()) == 1
    assert episode.unrepaired
    assert [view["box"] for view in episode.views] == [(0, 0, 336, 336), (0, 0, 168, 168)]
    assert episode.steps[-1].reward_terms == {"correct": 0.0}
    assert (episode.answer, episode.correct) == ("nothing", False)
    assert episode.tokens is None


def test_random_turns_repeat_with_their_seed():
    def turns(seed):
        episodes = rollout(make(1), EachEpisode(lambda env: Random(env, seed=seed)), jobs(5))
        return [step.turn for episode in episodes for step in episode.steps]

    assert turns(3) == turns(3)
    assert turns(3) != turns(4)


def test_jobs_without_environments_are_refused():
    with pytest.raises(ValueError, match="got 1 jobs with no environment"):
        rollout([], EachEpisode(Oracle), jobs(1))


def test_a_model_trains_on_what_it_said(tiny_vlm):
    """The text of every turn is the decoding of its trained ids, and every image of the episode is in its tokens."""
    engine = TransformersEngine(tiny_vlm)
    agent = VLMAgent(tiny_vlm.chat, engine, Sampling(max_tokens=6))
    episodes = rollout(make(4, coordinates="pixel", max_turns=3), agent, [Job(sample_id="train-1")] * 4)
    for episode in episodes:
        tokens = episode.tokens
        start, turns = 0, []
        for end in tokens.turn_ends:
            part = slice(start, end + 1)
            turns.append(tiny_vlm.chat.decode(tokens.ids[part][tokens.action[part]].tolist()))
            start = end + 1
        assert turns == [step.turn for step in episode.steps]
        assert len(tokens.images) == len(episode.views)
        # The spans tell the same, without the tokens.
        mask = [kind == "written" for kind, count in episode.token_spans for _ in range(count)]
        assert mask == tokens.action.tolist()
        assert [kind for kind, _ in episode.token_spans] == ["read", "written"] * len(turns) + ["read"] * (
            not tokens.action[-1]
        )
    # One array for the image they all began with.
    assert len({id(episode.tokens.images[0]) for episode in episodes}) == 1


@pytest.mark.parametrize(
    ("action", "forced", "spans"),
    [
        ([], None, ()),
        ([0, 0, 1, 1, 1, 0], None, (("read", 2), ("written", 3), ("read", 1))),
        ([1], None, (("written", 1),)),
        ([0, 1, 1, 0, 1], [0, 1, 0, 0, 0], (("read", 1), ("forced", 1), ("written", 1), ("read", 1), ("written", 1))),
    ],
)
def test_spans_of_tokens(action, forced, spans):
    count = len(action)
    tokens = Tokens(
        ids=np.zeros(count, np.int32),
        action=np.array(action, bool),
        logprobs=np.zeros(count, np.float32),
        positions=np.zeros((3, count), np.int32),
        images=(),
        turn_ends=(),
        forced=None if forced is None else np.array(forced, bool),
    )
    assert tokens.spans() == spans


def test_an_opening_is_forced_in_the_first_turn_only(tiny_vlm):
    agent = VLMAgent(tiny_vlm.chat, TransformersEngine(tiny_vlm), Sampling(max_tokens=4), opening="\\boxed{")
    (episode,) = rollout(make(1, max_turns=2), agent, jobs(1))
    assert episode.steps[0].turn.startswith("\\boxed{")
    if len(episode.steps) > 1:
        assert not episode.steps[1].turn.startswith("\\boxed{")


def probing(n, **kwargs):
    return [ProbeOperations(env) for env in make(n, **kwargs)]


def test_a_probe_begins_with_its_opening_and_its_forced_ids_are_marked(tiny_vlm):
    """Beside it the rollouts that are left alone: nothing is forced on them."""
    agent = VLMAgent(tiny_vlm.chat, TransformersEngine(tiny_vlm), Sampling(max_tokens=40))
    wanted = ["zoom_in", None, "zoom_in", None]
    todo = [Job(sample_id="train-1", options={"probe": operation}) for operation in wanted]
    envs = probing(4, max_turns=2)
    episodes = rollout(envs, agent, todo)
    opening = envs[0].unwrapped.dialect.call_opening("zoom_in").rstrip()
    assert [episode.probe for episode in episodes] == wanted
    assert {episode.task for episode in episodes} == {"pxr/SyntheticSearch-v0"}
    for episode in episodes:
        tokens = episode.tokens
        if episode.probe is None:
            assert tokens.forced is None
            continue
        assert episode.steps[0].turn.startswith(opening)
        assert tokens.action[tokens.forced].all()
        assert tokens.ids[tokens.forced].tolist() == list(tiny_vlm.chat.encode_text(opening))
        # The policy's own, which are not those of something that was certain.
        assert (tokens.logprobs[tokens.forced] < -1e-3).any()


def test_an_opening_must_leave_room_for_the_model(tiny_vlm):
    agent = VLMAgent(tiny_vlm.chat, TransformersEngine(tiny_vlm), Sampling(max_tokens=1))
    with pytest.raises(ValueError, match="may have max_tokens=1; expected more"):
        rollout(probing(1), agent, [Job(sample_id="train-1", options={"probe": "zoom_in"})])


def test_a_recalled_turn_stands_in_the_conversation_as_if_it_had_been_written(tiny_vlm):
    """Ids of a played episode, and of one whose turns were recalled, are equal; nothing is asked of the engine."""

    class Silent:
        weights_version = 0

        def submit(self, request, sampling):
            raise AssertionError("a recalled turn was generated")

        def collect(self):
            return []

        def forget(self, key):
            pass

    chat = tiny_vlm.chat
    (env,) = make(1, coordinates="pixel")
    turn = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 30, 30], "target_image": 1}}</tool_call>'
    agent = VLMAgent(chat, Silent(), Sampling())
    agent.start(0, env)
    first, info = env.reset(options={"sample_id": "train-1"})
    agent.recall(0, first, info, turn)
    second, _, _, _, later = env.step(turn)
    agent.recall(0, second, later, "\\boxed{A}")
    tokens = agent.finish(0)

    conversation = Conversation()
    chat.prompt(conversation, info["system_prompt"], first)
    conversation.append_turn([*chat.encode_text(turn), chat.stop_id], train=True)
    chat.reply(conversation, second)
    # A turn that the model ended and one that was cut read the same once something follows.
    assert tokens.ids.tolist()[: len(conversation.ids)] == conversation.ids
    assert tokens.ids.tolist()[len(conversation.ids) :] == list(chat.encode_text("\\boxed{A}"))
    assert not tokens.action.any()
    assert [image.shape for image in tokens.images] == [image.shape for image in (*first["images"], *second["images"])]


def test_a_player_is_told_a_recalled_turn_if_it_can_be():
    class Asked:
        def __init__(self, env):
            self.log = []

        def act(self, observation):
            self.log.append(observation["text"])
            return "own"

    class Told(Asked):
        def recall(self, observation, turn):
            self.log.append(turn)

    for player, expected in ((Asked, ["question", "reply"]), (Told, ["turn", "reply"])):
        players = []
        agent = EachEpisode(lambda env, player=player, players=players: players.append(player(env)) or players[-1])
        agent.start(0, None)
        agent.recall(0, {"text": "question", "images": ()}, {}, "turn")
        assert agent.collect() == []
        agent.submit(0, {"text": "reply", "images": ()}, {})
        assert [action.text for _, action in agent.collect()] == ["own"]
        assert players[0].log == expected


@pytest.mark.parametrize("n_turns", [0, 1, 2])
def test_a_full_context_ends_the_episode_without_an_answer(n_turns):
    zoom = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}</tool_call>'

    class Zooming:
        """Zooms into quarters until the context is full."""

        def __init__(self, env):
            self._n = 0

        def act(self, observation):
            self._n += 1
            if self._n > n_turns:
                return ContextFull()
            return Action(text=zoom.replace("0, 0,", f"0, 0.{self._n},"), finish_reason="length")

    envs = make(1, costs={"operation": 0.25}, coordinates="unit")
    first, second = rollout(envs, EachEpisode(Zooming), jobs(2))
    for episode in (first, second):
        assert (episode.truncated_by, episode.answer, episode.correct, episode.error) == ("context", None, False, None)
        assert episode.target is not None
        assert [step.finish_reason for step in episode.steps] == ["length"] * n_turns
        assert episode.n_operations == n_turns
        # What the end costs is earned by the last turn.
        assert episode.reward == -0.25 * n_turns
        assert [bool(step.reward_terms) for step in episode.steps] == [*[False] * (n_turns - 1), True][:n_turns]


def test_seeds_differ_by_run_sample_repeat_and_turn():
    runs = (0, 1, (0, 3, 1), (0, 31))
    episodes = [episode_seed(*parts) for parts in itertools.product(runs, ("a", "b", "1", "b\ud800"), (0, 1, 12))]
    turns = [turn_seed(episode, turn) for episode in episodes for turn in range(3)]
    assert len({*episodes, *turns}) == len(episodes) + len(turns)
    assert all(0 <= seed < 2**31 for seed in (*episodes, *turns))


def test_no_two_ways_to_read_an_identity():
    assert episode_seed(1, "2:3", 0) != episode_seed(1, "3", 2)
    assert episode_seed((1, 2), "a", 3) != episode_seed(1, "a", 2)


def test_seeds_never_change():
    """Of a run that is continued with a later version: SHA-256 of "episode:7:1:a" and "turn:5:2", by hand."""
    assert (episode_seed(7, "a", 1), turn_seed(5, 2)) == (1944989369, 1628768561)
