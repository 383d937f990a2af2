"""An episode played by tool calls or messages is the one that `step` plays, and nothing secret comes out of it."""

import asyncio
import json

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pxr_env import AsyncToolSession, OperationCall, Sample, ToolSession, VisualReasoningEnv
from pxr_env.media import ImageSource
from pxr_env.messages import for_agent, read_observation
from pxr_env.session import shared_session

SEARCH = "pxr_env:pxr/SyntheticSearch-v0"
ZOOM = {"bbox_2d": [0.0, 0.0, 0.5, 0.5], "target_image": 1}
DIALECTS = [
    ("hermes", "unit"), ("tags", "unit"), ("pixel-reasoner", "unit"), ("qwen3-vl", "permille"),
    ("qwen3.5", "permille"), ("glm-4.5v", "permille"), ("mini-o3", "unit"), ("deepeyes", "pixel"),
]  # fmt: skip


def native(env, call):
    """Name and arguments of a canonical zoom as the schema of the dialect's only tool has them."""
    [tool] = env.dialect.tools(list(env.operations.values()))
    arguments = dict(call.arguments)
    image = arguments.pop("target_image")
    if "target_image" in tool["function"]["parameters"]["properties"]:
        arguments["target_image"] = image
    if "source" in tool["function"]["parameters"]["properties"]:
        arguments["source"] = "original_image" if image == 1 else f"observation_{image - 1}"
    return tool["function"]["name"], arguments


@pytest.mark.parametrize(("dialect", "coordinates"), DIALECTS)
def test_tool_calls_play_what_step_plays(dialect, coordinates):
    """20 episodes: a call that is good, one that is not, one that is no JSON or several at once, and an answer."""
    kwargs = {"dialect": dialect, "coordinates": coordinates, "max_turns": 6, "max_operations": 4}
    session, env = ToolSession(SEARCH, images="array", **kwargs), gymnasium.make(SEARCH, **kwargs)
    rewards = []
    for number in range(20):
        seen = [read_observation({"content": session.reset(seed=number)})[0]]
        call = session.base.dialect.parse(env.unwrapped.dialect.render_call(drawn(session.base, number))).calls[0]
        name, arguments = native(session.base, call)
        results = [session.call(name, arguments)]
        results += session.calls([(name, arguments), (name, {})], text="Again:")
        if number % 2:
            results.append(session.call(name, '{"bbox_2d": [0, '))
        assert [result.ok for result in results] == [True] + [False] * (len(results) - 1)
        seen += [read_observation({"content": result.content})[0] for result in results]
        target = env.unwrapped.data.get(session.info["sample_id"]).answers[0]
        outcome = session.end() if number % 5 == 0 else session.answer(target if number % 5 < 4 else "no letter")
        rewards.append(outcome.reward)
        # The same turns through `step`; an end without an answer is no turn.
        observation, info = env.reset(seed=number)
        shown, told, total = list(observation["images"]), [observation["text"]], 0.0
        for turn in session.turns:
            observation, reward, terminated, truncated, info = env.step(turn)
            shown += observation["images"]
            told += [observation["text"]] if observation["text"] else []
            total += reward
        assert terminated or truncated
        assert (total, info) == (outcome.reward, outcome.info)
        assert "\n".join(told) == "\n".join(piece["text"] for piece in seen)
        assert [image.tobytes() for image in shown] == [image.tobytes() for one in seen for image in one["images"]]
    assert rewards == [0.0, 1.0, 1.0, 1.0, 0.0] * 4


def drawn(env, seed):
    """A zoom into the middle, a little different for each seed."""
    width, height = env.frame.extent((84, 84))
    box = [0.1 * width, 0.1 * height, (0.5 + seed / 100) * width, 0.6 * height]
    numbers = box if env.frame.decimals else [round(number) for number in box]
    return OperationCall(name="zoom_in", arguments={"bbox_2d": numbers, "target_image": 1})


def test_messages_play_what_step_plays():
    session, env = ToolSession(SEARCH, images="png"), gymnasium.make(SEARCH)
    assert read_observation({"content": session.reset(seed=3)})[0]["text"] == env.reset(seed=3)[0]["text"]
    turn = env.unwrapped.dialect.render_call(drawn(env.unwrapped, 0))
    reply, observation = read_observation({"content": session.say(turn)})[0], env.step(turn)[0]
    assert reply["text"] == observation["text"]
    np.testing.assert_array_equal(reply["images"][0], observation["images"][0])
    assert session.say(r"\boxed{A}") == []
    assert session.is_over
    with pytest.raises(ResetNeeded):
        session.say("more")


def test_every_call_has_a_result():
    session = ToolSession(SEARCH, max_turns=3, max_operations=9, duplicates="execute")
    session.reset(seed=0)
    results = session.calls([("zoom_in", ZOOM)] * 18)
    assert [result.ok for result in results] == [True] * 9 + [False] * 9
    assert [result.views for result in results[:9]] == [(number,) for number in range(2, 11)]
    assert results[16].text == "Error: 2 more calls came; expected at most 16 at once." == results[17].text
    assert [result["ok"] for result in session.info["results"]] == [True] * 9 + [False] * 7
    assert session.calls([]) == []
    # Beside an answer nothing counts, as in `step`.
    [refused] = session.calls([("zoom_in", ZOOM)], text=r"\boxed{A}")
    assert "Nothing was executed" in refused.text
    assert session.info["results"] == []
    session.call("zoom", ZOOM)
    assert session.outcome.info["truncated_by"] == "max_turns"
    [late] = session.calls([("zoom_in", ZOOM)])
    assert (late.ok, late.text) == (False, "The episode is over.")
    assert len(session.turns) == 3


def test_a_limit_that_ends_the_episode_leaves_no_call_without_a_result():
    session = ToolSession(SEARCH, on_limit="truncate", max_operations=1, duplicates="execute")
    session.reset(seed=0)
    results = session.calls([("zoom_in", ZOOM)] * 3)
    assert [result.ok for result in results] == [True, False, False]
    assert results[2].text == "The episode is over."
    assert session.outcome.info["truncated_by"] == "max_operations"


def test_the_end_is_scored_once_whatever_the_last_message_is():
    session = ToolSession(SEARCH, costs={"operation": 0.25})
    target = _target(session, 0)
    session.call("zoom_in", ZOOM)
    outcome = session.end(rf"I see: \boxed{{{target}}}")
    assert (outcome.reward, outcome.reward_terms) == (0.75, {"correct": 1.0, "operation_cost": -0.25})
    assert session.end("again") is session.answer("X") is outcome
    _target(session, 1)
    cut = session.end("I think that it is", limit="context")
    assert (cut.reward, cut.info["answer"], cut.info["truncated_by"]) == (0.0, None, "context")
    _target(session, 2)
    unwritable = session.answer("</answer>}")
    assert (unwritable.info["answer"], unwritable.info["truncated_by"]) == (None, "length")
    assert session.answer(rf"It is \boxed{{{_target(session, 3)}}}.").reward == 0.75 + 0.25


def _target(session, seed):
    session.reset(seed=seed)
    return session.base.sample.answers[0]


class Bonus(gymnasium.Wrapper):
    """Pays a tenth for each turn."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        terms = {**info["reward_terms"], "bonus": 0.1}
        return observation, reward + 0.1, terminated, truncated, {**info, "reward_terms": terms, "secret": "bonus"}


def test_wrappers_pay_and_their_infos_stay_behind():
    session = ToolSession(Bonus(gymnasium.make(SEARCH)))
    target = _target(session, 0)
    session.call("zoom_in", ZOOM)
    outcome = session.answer(target)
    assert outcome.reward == pytest.approx(1.2)
    assert outcome.reward_terms == {"bonus": pytest.approx(0.2), "correct": 1.0}
    assert "secret" not in session.info
    assert outcome.info["secret"] == "bonus"


CANARY = "CANARY-42"


def test_nothing_secret_reaches_the_agent():
    photograph = ImageSource(image=Image.new("RGB", (640, 480), "navy"))
    sample = Sample(
        sample_id="1", question="Which?", sources=(photograph,), answers=(CANARY,), needs_operation=True,
        evidence_box=(123.0, 234.0, 345.0, 456.0), category="CANARY-category",
    )  # fmt: skip
    session = ToolSession(VisualReasoningEnv([sample]), images="png")
    handed = [session.reset(), session.info, session.tools, session.system_prompt, session.native_prompt]
    handed += [session.call("zoom_in", ZOOM).content, session.info, session.say("Hm."), session.info]
    handed += [session.respond({"role": "assistant", "content": "Hm."}), session.info]
    outcome = session.end(r"\boxed{no}")
    handed.append(session.info)
    text = json.dumps(handed, default=str)
    assert "CANARY" not in text
    assert "123.0" not in text
    assert not {"target", "evidence_box", "needs_operation", "category", "reward_terms", "score"} & set(session.info)
    assert outcome.info["target"] == CANARY
    assert for_agent({"new_fact": 1, "sample_id": "1"}) == {"sample_id": "1"}


def test_functions_say_what_the_schemas_say():
    json_schema = pytest.importorskip("transformers.utils").get_json_schema
    operations = ["zoom_in", "select_frames", "seek", "rotate", "flip", "enhance", "mark", "grid", "compare"]
    session = ToolSession("pxr_env:pxr/SyntheticVideo-v0", operations=operations, max_turns=9)
    session.reset(seed=0)
    for tool, function in zip(session.tools, session.functions, strict=True):
        wanted, got = tool["function"], json_schema(function)["function"]
        assert (got["name"], got["description"]) == (wanted["name"], wanted["description"])
        assert got["parameters"].get("required", []) == wanted["parameters"]["required"]
        for name, schema in wanted["parameters"]["properties"].items():
            assert got["parameters"]["properties"][name]["type"] == schema["type"], (wanted["name"], name)
    seek = session.functions[2]
    assert seek(0.0, 1.0)[-1]["text"].startswith("Image 9 (")
    assert seek(start=1.0, end=2.0, target_video=None)[-1]["type"] == "text"
    assert session.info["usage"]["seek"] == 2
    assert 'has "begin"; expected only start, end' in seek(end=1.0, begin=0.0)[-1]["text"]


def test_a_loop_with_native_calls_takes_five_lines():
    session = ToolSession(SEARCH, images="png")
    target = _target(session, 0)
    arguments = json.dumps(ZOOM)
    call = {"id": "7", "type": "function", "function": {"name": "zoom_in", "arguments": arguments}}
    message = {"role": "assistant", "content": "I look.", "tool_calls": [call]}
    [reply] = session.respond(message)
    assert (reply["role"], reply["tool_call_id"]) == ("tool", "7")
    assert [part["type"] for part in reply["content"]] == ["image_url", "text"]
    assert session.turns[0].startswith("I look.\n<tool_call>")
    other = {**call, "id": "8", "function": {"name": "zoom_in", "arguments": arguments.replace("0.5", "0.25")}}
    told, wrong, shown = session.respond({**message, "tool_calls": [other, call]}, images_apart=True)
    assert (told["content"], told["tool_call_id"]) == ("Image 3 (84x84).", "8")
    assert wrong["content"].startswith("Error in call 2: all 2 operations are used up")
    assert [part["type"] for part in shown["content"]] == ["image_url", "text"]
    assert session.respond({"role": "assistant", "content": [{"type": "text", "text": rf"\boxed{{{target}}}"}]}) == []
    assert session.outcome.reward == 1.0


def test_calls_at_once_are_played_in_the_order_of_their_awaits():
    async def play():
        session = AsyncToolSession(SEARCH, max_operations=4, duplicates="execute", max_turns=9)
        await session.reset(seed=0)
        results = await asyncio.gather(*[session.call("zoom_in", ZOOM) for _ in range(4)])
        await session.calls([("zoom_in", ZOOM)])
        await session.say("Hm.")
        outcome = await session.answer(session.session.base.sample.answers[0])
        return results, outcome, await session.end("late")

    results, outcome, same = asyncio.run(play())
    assert [result.views for result in results] == [(2,), (3,), (4,), (5,)]
    assert outcome is same
    assert outcome.reward == 1.0


def test_prompts_with_and_without_the_syntax_of_calls():
    session = ToolSession(SEARCH)
    assert "<tools>" in session.system_prompt
    assert "<tool" not in session.native_prompt
    assert all(text in session.native_prompt for text in (r"\boxed{answer}", "fractions", "At most 2 operations"))
    assert ToolSession(SEARCH, system_prompt="Look.").native_prompt == "Look."


def test_what_it_cannot_play_is_an_error():
    env = gymnasium.make(SEARCH)
    with pytest.raises(TypeError, match=r"got an environment with coordinates; expected those only with an id"):
        ToolSession(env, coordinates="pixel")
    with pytest.raises(TypeError, match="got CartPoleEnv; expected a VisualReasoningEnv"):
        ToolSession("CartPole-v1")
    with pytest.raises(ValueError, match=r'got images="gif"; expected one of pil, array, png, jpeg'):
        ToolSession(env, images="gif")
    with pytest.raises(ResetNeeded):
        ToolSession(env).call("zoom_in", ZOOM)


def test_sessions_share_data_and_nothing_else():
    first = ToolSession(SEARCH, images="array")
    others = [ToolSession(first, images="array") for _ in range(2)]
    shown = [session.reset(seed=3) for session in (first, *others)]
    assert others[0].base.data is others[1].base.data is first.base.data
    assert all(np.array_equal(parts[0]["image"], shown[0][0]["image"]) for parts in shown)
    others[0].call("zoom_in", ZOOM)
    others[1].reset(seed=4)
    assert [len(session.base.views) for session in (first, *others)] == [1, 2, 1]
    # Who resets without a seed goes on with draws of its own.
    drawn = [
        session.reset(seed=5) and [session.reset() and session.info["sample_id"] for _ in range(3)]
        for session in (first, *others)
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    with pytest.raises(ResetNeeded):
        ToolSession(first).call("zoom_in", ZOOM)
    with pytest.raises(TypeError, match="got an environment with coordinates"):
        ToolSession(first, coordinates="pixel")
    with pytest.raises(TypeError, match=r"got Bonus without a spec; expected an environment of gymnasium.make"):
        ToolSession(ToolSession(Bonus(VisualReasoningEnv(first.base.data))))
    once, again, other = (shared_session(SEARCH, coordinates=frame) for frame in ("unit", "unit", "pixel"))
    assert once.base.data is again.base.data is not other.base.data
    assert (once.base.frame.name, other.base.frame.name) == ("unit", "pixel")


def nested(depth):
    """Lists in lists, which JSON readers and writers of Python give up on."""
    inner = []
    for _ in range(depth):
        inner = [inner]
    return {"bbox_2d": inner, "target_image": 1}


@pytest.mark.parametrize(("dialect", "coordinates"), DIALECTS)
def test_whatever_a_model_calls_is_answered(dialect, coordinates):
    session = ToolSession(SEARCH, dialect=dialect, coordinates=coordinates, max_turns=10_000)
    values = st.one_of(st.text(), st.dictionaries(st.text(), st.floats() | st.text() | st.none(), max_size=3))
    deep = ['{"bbox_2d": ' + "[" * 100_000, nested(100_000), {"bbox_2d": {1, 2}}, "</tool_call></grounding><zoom_in/>"]
    session.reset(seed=0)

    def is_answered(name, arguments):
        [result] = session.calls([(name, arguments)])
        assert not result.ok
        assert result.text
        assert not session.is_over

    for arguments in deep:
        is_answered("zoom_in", arguments)
    settings(max_examples=40)(given(name=st.text() | st.just("zoom_in"), arguments=values)(is_answered))()
    assert session.info["usage"] == {"zoom_in": 0}
