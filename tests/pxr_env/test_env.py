"""The environment as an agent meets it."""

import json
import pickle
import re

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pxr_env import Sample, VisualReasoningEnv
from pxr_env.errors import DataError, MediaError
from pxr_env.media import ImageSource, VideoSource, uniform_frames
from pxr_env.operations import register_operation, registry
from pxr_env.types import NoTurn

TASK = "pxr_env:pxr/SyntheticSearch-v0"
COUNTS = {
    "results",
    "clipped",
    "sample_id",
    "views",
    "usage",
    "failures",
    "duplicates",
    "vision_tokens",
    "reward_terms",
}
FACTS = COUNTS | {"needs_operation", "evidence_box", "category"}


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sample(sample_id="a", *, sizes=((200, 100),), answers=("B",), question="Which?"):
    sources = tuple(ImageSource(image=noise(*size, seed)) for seed, size in enumerate(sizes))
    return Sample(sample_id=sample_id, question=question, sources=sources, answers=answers)


def make(*samples, **arguments):
    arguments = {"min_pixels": 28 * 28, "max_pixels": 112 * 112} | arguments
    env = VisualReasoningEnv(samples or (sample(),), **arguments)
    env.reset(seed=0)
    return env


def call(name="zoom_in", **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def zoom(box, target=1):
    return call(bbox_2d=list(box), target_image=target)


def test_reset_shows_the_sample():
    env = gymnasium.make(TASK)
    observation, info = env.reset(options={"sample_id": "train-5"})
    task = env.unwrapped.sample
    assert observation["text"] == task.question
    assert [image.shape for image in observation["images"]] == [(84, 84, 3)]
    assert np.array_equal(observation["images"][0], np.asarray(task.sources[0].image.reduce(4)))
    assert info.keys() == FACTS | {"system_prompt", "tools"}
    assert info["sample_id"] == "train-5"
    assert info["views"] == [{"index": 1, "turn": 0, "source": 1, "box": (0, 0, 336, 336), "size": (84, 84)}]
    assert info["vision_tokens"] == 9
    assert info["usage"] == {"zoom_in": 0}
    assert info["failures"] == info["reward_terms"] == {}
    assert info["evidence_box"] == task.evidence_box
    assert info["tools"][0]["function"]["name"] == "zoom_in"
    assert json.dumps(info["tools"][0]) in info["system_prompt"]


def test_several_sources_are_shown_in_order():
    env = make(sample(sizes=[(200, 100), (56, 56)]))
    observation, info = env.reset()
    assert [image.shape for image in observation["images"]] == [(56, 140, 3), (56, 56, 3)]
    assert [view["source"] for view in info["views"]] == [1, 2]
    *_, info = env.step(zoom([0, 0, 0.5, 0.5], target=2))
    assert info["views"][2]["source"] == 2
    assert info["views"][2]["box"] == (0, 0, 28, 28)
    assert np.array_equal(np.asarray(env.source_image(2)), noise(56, 56, 1))
    with pytest.raises(ValueError, match="got source 3; expected 1 to 2"):
        env.source_image(3)


def test_two_calls_in_one_turn_are_one_observation():
    env = make()
    observation, reward, terminated, truncated, info = env.step(
        "Both corners." + zoom([0, 0, 0.5, 0.5]) + call("zoom_on", x=1) + zoom([0.5, 0.5, 1, 1])
    )
    assert observation["text"].splitlines() == [
        "Image 2 (112x56).",
        'Error in call 2: there is no operation "zoom_on"; expected zoom_in. Did you mean "zoom_in"?',
        "Image 3 (112x56).",
    ]
    assert (len(observation["images"]), reward, terminated, truncated) == (2, 0.0, False, False)
    assert (info["usage"], info["failures"]) == ({"zoom_in": 2}, {"malformed": 1})
    assert info["views"][2]["box"] == (100, 50, 200, 100)
    done = [(done.arguments["bbox_2d"], views) for done, views in env.calls]
    assert done == [([0, 0, 0.5, 0.5], (2,)), ([0.5, 0.5, 1, 1], (3,))]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dialect": "hermes"}, "\\boxed{answer}"),
        ({"dialect": "deepeyes", "coordinates": "pixel"}, "<answer>answer</answer>"),
    ],
)
def test_without_operations_nothing_says_that_there_are_any(arguments, expected):
    env = make(operations=(), **arguments)
    _, info = env.reset(seed=0)
    assert info["tools"] == []
    observation, *_ = env.step("I do not know.")
    assert observation["text"].endswith(f"the message has no final answer; expected {expected}.")
    for text in (info["system_prompt"], observation["text"]):
        assert not re.search("tool|zoom|operation|call", text)
    assert "expected no call at all" in env.step(zoom([0, 0, 1, 1]))[0]["text"]


@pytest.mark.parametrize(
    ("turn", "counted", "message"),
    [
        ("I do not know.", "malformed", "no operation call and no final answer; expected <tool_call>"),
        ("", "malformed", "no operation call and no final answer"),
        (zoom([0, 0, 1, 1]) + r"\boxed{B}", "malformed", 'a call and the answer "B"; expected one of both'),
        (r"\boxed{B} or \boxed{C}", "malformed", '2 answers, "B" and "C"; expected one'),
        (r"\boxed{B", "malformed", "not closed"),
        (r"\boxed{B} <tool_call>", "malformed", "not closed"),
        ("<tool_call>{}</tool_call>", "malformed", "the call has no name"),
        (call("rotate"), "malformed", 'no operation "rotate"; expected zoom_in.'),
        (call("crop_image_normalized", bbox_2d=[0, 0, 1, 1], target_image=1), "malformed", "no operation"),
        (zoom([0, 0, 2, 2]), "zoom_in", "leaves image 1"),
        (zoom([0, 0, 1, 1], target=2), "zoom_in", "there is no image 2; only image 1 was shown"),
        (zoom([0, 0, 1, 0.5], target=0), "zoom_in", "target_image is 0"),
        (zoom([0, 0, 0.001, 1]), "zoom_in", "0.20x100.00 pixels"),
        ("<tool_call>" * 100_000, "malformed", "not closed"),
        (r"\boxed{}" * 100_000, "malformed", "the answer is empty"),
    ],
)
def test_mistakes_of_the_model_are_answered(turn, counted, message):
    env = make()
    observation, reward, terminated, truncated, info = env.step(turn)
    text = observation["text"]
    assert text.startswith("Error: ")
    assert message in text
    assert "\n" not in text
    assert len(text) < 400
    assert (observation["images"], reward, terminated, truncated) == ((), 0.0, False, False)
    assert (info["failures"], info["usage"], len(info["views"])) == ({counted: 1}, {"zoom_in": 0}, 1)
    assert env.step(r"Then \boxed{B}")[1:4] == (1.0, True, False)


@settings(max_examples=40)
@given(st.sampled_from(["", "<think>", "<tool_call>", "</tool_call>", r"\boxed{", "\ud800"]), st.text())
def test_any_text_is_answered(beginning, text):
    env = make()
    observation, *_ = env.step(beginning + text)
    assert observation in env.observation_space
    assert len(observation["text"]) < 3000


def test_a_narrow_box_is_refused():
    observation, *_, info = make(sample(sizes=[(4000, 100)])).step(zoom([0, 0, 1, 0.01]))
    assert "4000x1 pixels of the original image; expected sides with a ratio of at most 200" in observation["text"]
    assert info["failures"] == {"zoom_in": 1}


HALVES = ([0, 0, 0.5, 1], [0.5, 0, 1, 1], [0, 0, 1, 0.5])
# The sample is shown at 140x56, 10 tokens of 28x28 pixels; each half at 112x112, 16 tokens.
LIMITS = [
    ("max_operations", 1, "all 1 operations are used up"),
    ("max_images", 2, "1 image would be shown; expected at most 0, which are left of 2. Answer now."),
    (
        "max_shown_pixels",
        26 * 784,
        f"{16 * 784} pixels would be shown; expected at most 0, which are left of {26 * 784}",
    ),
    ("max_vision_tokens", 41, "16 vision tokens would be shown; expected at most 15, which are left of 41. Ask"),
]


@pytest.mark.parametrize(("limit", "most", "message"), LIMITS)
def test_limits_are_checked_before_an_operation_runs(limit, most, message):
    env = make(**{limit: most})
    observation, _, terminated, truncated, info = env.step(zoom(HALVES[0]) + zoom(HALVES[1]))
    first, second = observation["text"].splitlines()
    assert first == "Image 2 (112x112)."
    assert message in second
    assert (len(observation["images"]), terminated, truncated) == (1, False, False)
    assert (info["usage"], info["failures"], info["vision_tokens"]) == ({"zoom_in": 1}, {"zoom_in": 1}, 26)
    assert env.step(r"\boxed{B}")[1:4] == (1.0, True, False)


@pytest.mark.parametrize(("limit", "most", "message"), LIMITS)
def test_limits_can_end_the_episode(limit, most, message):
    env = make(**{limit: most}, on_limit="truncate")
    assert env.step(zoom(HALVES[0]))[2:4] == (False, False)
    observation, reward, terminated, truncated, info = env.step(zoom(HALVES[1]) + zoom(HALVES[2]))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert message in observation["text"]
    assert "\n" not in observation["text"]  # nothing after the limit
    assert (info["truncated_by"], info["answer"]) == (limit, None)
    with pytest.raises(ResetNeeded):
        env.step("x")


def test_a_call_that_was_made_before_is_refused():
    env = make()
    env.step(zoom([0, 0, 0.5, 1]))
    observation, *_, info = env.step(zoom([0.0, 0, 0.5, 1.0]))
    assert observation["text"].startswith("Error: the same call was made before, and its result is image 2; expected")
    assert observation["images"] == ()
    assert (info["usage"], info["failures"], info["duplicates"]) == ({"zoom_in": 1}, {"zoom_in": 1}, 1)
    assert env.step(zoom([0, 0, 0.5, 1], target=2))[0]["text"].startswith("Image 3")  # of another image
    # A call that failed may be made again.
    env.step(zoom([0, 0, 1, 0.5], target=9))
    assert "there is no image 9" in env.step(zoom([0, 0, 1, 0.5], target=9))[0]["text"]
    again = make(duplicates="execute")
    again.step(zoom([0, 0, 0.5, 1]))
    observation, *_, info = again.step(zoom([0, 0, 0.5, 1]))
    assert observation["text"].startswith("Image 3")
    assert (info["usage"], info["duplicates"]) == ({"zoom_in": 2}, 1)


def test_costs_are_terms_of_the_reward():
    weights = {"operation": 0.125, "duplicate": 0.5, "format": 0.25, "vision_token": 2**-10}
    env = make(costs=weights, duplicates="execute")
    env.step(zoom(HALVES[0]) + zoom(HALVES[0]) + zoom([0, 0, 2, 2]))
    env.step("hm")
    _, reward, *_, info = env.step(r"\boxed{B}")
    # Two executed zooms of 16 tokens, one of them twice; a refused box costs nothing, an unreadable turn does.
    costs = {"operation_cost": -0.25, "duplicate_cost": -0.5, "format_cost": -0.25, "vision_token_cost": -32 / 1024}
    assert info["reward_terms"] == {"correct": 1.0, **costs}
    assert reward == 1 - 0.25 - 0.5 - 0.25 - 32 / 1024
    assert make(costs={"operation": 1}).step(r"\boxed{B}")[1] == 1.0


def test_many_calls_in_one_turn_get_a_short_reply():
    env = make()
    observation, *_, info = env.step("<tool_call>x</tool_call>" * 30_000)
    assert len(observation["text"]) < 5000
    assert observation["text"].endswith("29984 more calls came; expected at most 16 at once.")
    assert info["failures"] == {"malformed": 17}


def test_turns_run_out():
    env = make(max_turns=2)
    env.step("hm")
    observation, reward, terminated, truncated, info = env.step(zoom([0, 0, 1, 1]))
    assert (reward, terminated, truncated, info["truncated_by"]) == (0.0, False, True, "max_turns")
    assert observation["text"] == "Image 2 (140x56)."
    assert (info["answer"], info["correct"], info["target"]) == (None, False, "B")
    assert (info["usage"], info["reward_terms"]) == ({"zoom_in": 1}, {"correct": 0.0})


def test_an_agent_may_give_up():
    env = make(max_turns=3, costs={"format": 0.5})
    env.step("hm")
    observation, reward, terminated, truncated, info = env.step(pickle.loads(pickle.dumps(NoTurn("context"))))
    assert (observation, terminated, truncated) == ({"images": (), "text": ""}, False, True)
    assert (info["answer"], info["score"], info["correct"], info["target"]) == (None, 0.0, False, "B")
    assert (reward, info["truncated_by"], info["failures"]) == (-0.5, "context", {"malformed": 1})
    with pytest.raises(ResetNeeded):
        env.step("hm")


@pytest.mark.parametrize(("answer", "score"), [("C", 0.0), ("Bee", 1.0), ("B", 1.0)])
def test_answers_end_the_episode(answer, score):
    observation, reward, terminated, truncated, info = make(sample(answers=("B", "bee"))).step(rf"\boxed{{{answer}}}")
    assert (observation, reward, terminated, truncated) == ({"images": (), "text": ""}, score, True, False)
    assert (info["answer"], info["target"], info["correct"]) == (answer, "B", score == 1.0)
    assert (info["reward_terms"], info["usage"], info["failures"]) == ({"correct": score}, {"zoom_in": 0}, {})
    assert "truncated_by" not in info


def test_step_outside_an_episode_is_the_programmers_mistake():
    env = VisualReasoningEnv([sample()])
    with pytest.raises(ResetNeeded, match=r"no episode is running; expected reset\(\) first"):
        env.step("x")
    with pytest.raises(ResetNeeded):
        _ = env.sample
    env.reset()
    with pytest.raises(InvalidAction, match="got an action of type dict; expected str"):
        env.step({"text": "x"})
    env.step(r"\boxed{B}")
    with pytest.raises(ResetNeeded, match=r"got step\(\) after the end of the episode; expected reset"):
        env.step("x")


def test_reset_options_are_checked():
    env = gymnasium.make(TASK, num_samples=50)
    with pytest.raises(ValueError, match=r'"sampel_id"; expected only sample_id. Did you mean "sample_id"'):
        env.reset(options={"sampel_id": "train-1"})
    with pytest.raises(DataError, match=r'"train-50"; expected one of 50 ids, "train-0" to "train-49".*Did you mean'):
        env.reset(options={"sample_id": "train-50"})


def test_a_sample_that_cannot_be_shown_is_a_data_mistake(tmp_path):
    Image.fromarray(noise(200, 100)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:9000])

    def broken(index):
        raise MediaError(f"frame {index} is broken")

    film = VideoSource(key="broken", load_frame=broken, n_frames=9, fps=1.0, size=(64, 48))
    images = [(name, ImageSource(path=tmp_path / name)) for name in ("no.png", "cut.png")]
    for name, source in (*images, ("frame 0 is broken", film)):
        env = VisualReasoningEnv([sample(), Sample(sample_id="m", question="?", answers=("A",), sources=(source,))])
        env.reset(options={"sample_id": "a"})
        with pytest.raises(MediaError, match=name):
            env.reset(options={"sample_id": "m"})
        with pytest.raises(ResetNeeded):
            env.step("x")
    with pytest.raises(DataError, match=r'sample "a" cannot be shown: 10 vision tokens .* at most 9. Change it'):
        make(max_vision_tokens=9)
    with pytest.raises(DataError, match=r'sample "long" cannot be shown.*2010x10.*Change it or leave it out'):
        make(sample("long", sizes=[(2010, 10)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinates": "pixels"}, 'Did you mean "pixel"'),
        ({"dialect": "xml"}, "expected one of hermes"),
        ({"operations": ("zoom",)}, 'Did you mean "zoom_in"'),
        ({"operations": "zoom_in"}, r'expected a list, of which each item is text. Write \["zoom_in"\]'),
        ({"scorer": "exakt"}, 'Did you mean "exact"'),
        ({"max_turns": 0}, "got max_turns=0; expected an integer of at least 1"),
        ({"max_turns": 2.0}, "max_turns=2.0"),
        ({"max_operations": -1}, "at least 0"),
        ({"min_pixels": 2000, "max_pixels": 1000}, "0 <= min_pixels <= max_pixels"),
        ({"max_pixels": 100}, "784"),
        ({"render_mode": "human"}, 'expected None or "rgb_array"'),
        ({"on_limit": "stop"}, 'got on_limit="stop"; expected "refuse" or "truncate"'),
        ({"duplicates": "keep"}, 'expected "refuse" or "execute"'),
        ({"max_images": 0}, "got max_images=0; expected an integer of at least 1"),
        ({"max_vision_tokens": 1.5}, "max_vision_tokens=1.5"),
        ({"video_frames": 0}, "video_frames=0"),
        ({"max_call_pixels": 783}, "got max_call_pixels=783; expected an integer of at least 784"),
        ({"max_frame_pixels": 100}, "got max_frame_pixels=100; expected size_multiple[*][*]2 = 784 to max_pixels"),
        ({"costs": {"operations": 1}}, 'costs has "operations".*Did you mean "operation"'),
        ({"costs": {"operation": -1}}, 'cost of "operation" is -1; expected a finite number of at least 0'),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_render_draws_the_boxes_onto_the_source():
    env = make(sample(sizes=[(400, 300)]), render_mode="rgb_array", max_pixels=28**2 * 100)
    before = env.render()
    env.step(zoom([0.25, 0.25, 0.75, 0.75]))
    after = env.render()
    assert before.shape == after.shape == (720, 960, 3)
    assert before.dtype == np.uint8
    changed = np.argwhere((before != after).any(axis=2))
    # The picture of 400x300 fills 952x714 at (4, 3): the box lies from (242, 181) to (718, 538), its line 3 wide.
    assert changed.min(axis=0) == pytest.approx([181, 242], abs=4)
    assert changed.max(axis=0) == pytest.approx([538, 718], abs=4)
    assert not np.any((before != after)[300:400, 400:600])  # nothing inside
    assert make().render() is None


@pytest.fixture
def own_registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_OPERATIONS", dict(registry._OPERATIONS))


@pytest.mark.usefixtures("own_registry")
def test_an_operation_of_the_user():
    @register_operation("halves", "Show both halves.", {})
    def halves(context):
        whole = context.view(1).only_region()
        return [whole.part((0, 0, 1, 2), (2, 2)), whole.part((1, 0, 2, 2), (2, 2))]

    env = make(operations=["zoom_in", "halves"])
    observation, *_, info = env.step(call("halves"))
    # Both halves share the 16 tokens of one image.
    assert observation["text"] == "Image 2 (56x56).\nImage 3 (56x56)."
    assert [view["box"] for view in info["views"][1:]] == [(0, 0, 100, 100), (100, 0, 200, 100)]
    assert info["usage"] == {"zoom_in": 0, "halves": 1}
    assert "its result is images 2 to 3" in env.step(call("halves"))[0]["text"]
    assert "expected zoom_in or halves" in env.step(call("third"))[0]["text"]


def movie(index):
    """Frame `index`: one colour, its red channel counting."""
    return np.full((48, 64, 3), (index, 100, 200), dtype=np.uint8)


def film(sample_id="film", n_frames=60, pictures=0):
    video = VideoSource(key=("film", n_frames), load_frame=movie, n_frames=n_frames, fps=10.0, size=(64, 48))
    images = tuple(ImageSource(image=noise(200, 100, seed)) for seed in range(pictures))
    return Sample(sample_id=sample_id, question="What happens?", sources=(*images, video), answers=("B",))


VIDEO = {"operations": ["zoom_in", "select_frames", "seek"], "video_frames": 4, "max_pixels": 112 * 112}


def test_a_video_is_shown_as_numbered_frames():
    env = make(film(), **VIDEO)
    observation, info = env.reset()
    # 60 frames in 4 parts of 15: the middle of each. 112**2 / 4 = 56**2 pixels for each frame of 64x48.
    assert uniform_frames(60, 4) == [7, 22, 37, 52]
    assert [view["frame"] for view in info["views"]] == [7, 22, 37, 52]
    assert [view["time"] for view in info["views"]] == pytest.approx([0.7, 2.2, 3.7, 5.2])
    assert [image.shape for image in observation["images"]] == [(56, 56, 3)] * 4
    assert [int(image[0, 0, 0]) for image in observation["images"]] == [7, 22, 37, 52]
    assert [view["frame"] for view in make(film(n_frames=3), **VIDEO).reset()[1]["views"]] == [0, 1, 2]
    introduction, question = observation["text"].splitlines()
    assert question == "What happens?"
    assert "mages 1 to 4" in introduction
    assert "6.00 s" in introduction
    assert "2.20" in introduction


@pytest.mark.parametrize(
    ("frames", "arguments", "size"),
    [
        # As it is: 69x39 tokens of at most 5120.
        ([2], {}, (1932, 1092)),
        # 5120 / 8 = 640 tokens: 16:9 are 33x18 of them.
        (list(range(1, 9)), {}, (924, 504)),
        (list(range(1, 9)), {"max_call_pixels": 8 * 4_014_080}, (1932, 1092)),
    ],
)
def test_frames_that_one_call_shows_share_the_room_of_an_image(frames, arguments, size):
    picture = np.zeros((1080, 1920, 3), np.uint8)
    video = VideoSource(key="hd", load_frame=lambda index: picture, n_frames=8, fps=1.0, size=(1920, 1080))
    hd = Sample(sample_id="hd", question="?", sources=(video,), answers=("B",))
    env = VisualReasoningEnv([hd], operations=["select_frames"], **arguments)
    env.reset()
    *_, info = env.step(call("select_frames", target_frames=frames))
    assert [view["size"] for view in info["views"][8:]] == [size] * len(frames)


def test_frames_can_be_selected_sought_and_zoomed_into():
    env = make(film(pictures=1), **VIDEO, max_turns=9, max_operations=9)
    observation, _, _, _, info = env.step(call("select_frames", target_frames=[3, 5]))
    assert [view["frame"] for view in info["views"][5:]] == [22, 52]
    assert [view["source"] for view in info["views"][5:]] == [2, 2]
    assert [image.shape for image in observation["images"]] == [(56, 56, 3)] * 2  # 64x48, rounded to 2x2 tokens
    observation, _, _, _, info = env.step(call("seek", start=1.0, end=1.25))
    assert [int(image[0, 0, 0]) for image in observation["images"]] == [10, 11, 12]
    assert [view["time"] for view in info["views"][7:]] == pytest.approx([1.0, 1.1, 1.2])
    observation, _, _, _, info = env.step(zoom([0.5, 0, 1, 0.5], target=9))
    where = {"index": 11, "turn": 3, "source": 2, "box": (32, 0, 64, 24), "frame": 11, "time": pytest.approx(1.1)}
    assert info["views"][-1] == {**where, "size": (28, 28)}
    assert int(observation["images"][0][0, 0, 0]) == 11
    assert "image 1 is no frame" in env.step(call("select_frames", target_frames=[1]))[0]["text"]
    assert info["usage"] == {"zoom_in": 1, "select_frames": 1, "seek": 1}
    assert np.array_equal(np.asarray(env.source_image(2, 11)), movie(11))
    with pytest.raises(ValueError, match="got source 2, a video, without a frame; expected 0 to 59"):
        env.source_image(2)
