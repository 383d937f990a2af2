"""Every check of `check_task` fails on a task that breaks one promise, and it alone fails."""

from __future__ import annotations

import contextlib
import dataclasses

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Dict

from pxr_env import VisualReasoningEnv
from pxr_env.operations import get_operation, registry
from pxr_env.scoring import exact, register_scorer
from pxr_env.spaces import ImagesSpace, TextSpace
from pxr_env.testing import check_task
from pxr_env.testing.task import CHECKS

#: Check -> a test in this file that breaks it. The last test sees to it that none is forgotten.
BROKEN = set()


def breaks(check):
    """Marks the test that breaks a check."""
    BROKEN.add(check)
    return lambda test: test


def assert_only(check, make, message, **arguments):
    """Asserts that exactly this check fails, and says what it should."""
    report = check_task(make, samples=1, **arguments)
    assert [result.name for result in report.failed] == [check], str(report)
    [result] = report.failed
    assert message in "\n".join(result.failures)


class Altered(gymnasium.Wrapper):
    """What comes back is changed by a function of the wrapper, the turn (None: the reset) and a dict of the outcome."""

    def __init__(self, env, alter):
        super().__init__(env)
        self.alter, self.n_turns, self.n_resets, self.memory = alter, 0, 0, {}

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        self.n_turns, self.n_resets, self.seeded = 0, self.n_resets + 1, seed is not None
        step = self._alter(None, observation, 0.0, False, False, info)
        return step["observation"], step["info"]

    def step(self, action):
        self.n_turns += 1
        return tuple(self._alter(action, *super().step(action)).values())

    def _alter(self, turn, *outcome):
        step = dict(zip(("observation", "reward", "terminated", "truncated", "info"), outcome, strict=True))
        self.alter(self, turn, step)
        return step


@pytest.fixture
def altered(make_env):
    """A function that returns a maker of environments altered by a function (wrapper, turn, step)."""
    return lambda alter, **arguments: lambda: Altered(make_env(**arguments), alter)


def test_the_unbroken_task_passes(make_env, altered):
    report = check_task(make_env, samples=3)
    assert report.passed, str(report)
    assert [result.name for result in report.results if result.skipped] == ["the_spec_travels_as_json"]
    assert check_task(altered(lambda env, turn, step: None)).passed


@breaks("environments_can_be_made")
def test_no_environment():
    def make():
        raise FileNotFoundError("no such directory")

    assert_only("environments_can_be_made", make, "FileNotFoundError")
    assert_only("environments_can_be_made", lambda: gymnasium.make("CartPole-v1"), "wrappers around it")


def test_samples_that_are_not_there(make_env):
    report = check_task(make_env, samples=["sign-A", "sign-Z"])
    assert 'sample "sign-Z" was asked for' in str(report)
    assert not check_task(make_env, samples=[]).passed


@breaks("turns_raise_nothing")
def test_an_exception_in_the_midst_of_an_episode(altered):
    def alter(env, turn, step):
        if turn and step["terminated"] and env.memory.get("turn") == "I am not sure.":
            raise RuntimeError("lost")
        env.memory["turn"] = turn

    assert_only("turns_raise_nothing", altered(alter), "RuntimeError (test_broken_tasks.py")


@breaks("observations_are_in_their_space")
@pytest.mark.parametrize("part", ["text", "images", "more"])
def test_observations_of_another_kind(altered, part):
    def alter(env, turn, step):
        observation = step["observation"]
        if part == "text" and turn == "I am not sure.":
            observation["text"] += "\ud800"
        if part == "images" and turn:
            observation["images"] = tuple(image.astype(np.float32) for image in observation["images"])
        if part == "more" and step["terminated"]:
            observation["prompt"] = "Which?"

    message = {"text": "lone surrogate", "images": "float32 (", "more": "['images', 'prompt', 'text'] came"}[part]
    assert_only("observations_are_in_their_space", altered(alter), message)


@pytest.mark.parametrize(
    ("check", "alter", "message"),
    [
        (
            "info_has_its_keys",
            lambda info: info.update(vision_tokens=float(info["vision_tokens"])),
            'info["vision_tokens"] is of type float; expected int',
        ),
        ("info_has_its_keys", lambda info: info.pop("target"), 'lacks "target"'),
        ("info_tells_the_facts", lambda info: info.update(category="digits"), '"digits"; expected "letters"'),
        ("info_is_json", lambda info: info.update(extra=np.float32(1)), 'info["extra"] cannot be written as JSON'),
        ("images_match_their_views", lambda info: info["views"][0].update(index=7), "expected 1, 2, 3"),
        ("views_lie_in_their_sources", lambda info: info["views"][0].update(box=(-5, 0, 56, 56)), "inside the source"),
        (
            "views_lie_in_their_sources",
            lambda info: info["views"][0].update(source=2),
            "source 2 came; expected 1 to 1",
        ),
        ("counters_add_up", lambda info: info.update(vision_tokens=info["vision_tokens"] + 1), "vision tokens came"),
        ("counters_add_up", lambda info: info["usage"].update(zoom_in=-1), "usage"),
    ],
)
def test_infos_that_are_wrong_at_the_end(altered, check, alter, message):
    def at_the_end(env, turn, step):
        if step["terminated"]:
            alter(step["info"])

    assert_only(check, altered(at_the_end), message)


for _name in (
    "info_has_its_keys", "info_tells_the_facts", "info_is_json", "images_match_their_views",
    "views_lie_in_their_sources", "counters_add_up",
):  # fmt: skip
    BROKEN.add(_name)


@breaks("images_match_their_views")
def test_an_image_that_no_view_tells_of(altered):
    def alter(env, turn, step):
        if turn == "I am not sure.":
            step["observation"]["images"] = (np.zeros((28, 28, 3), dtype=np.uint8),)

    assert_only("images_match_their_views", altered(alter), "[(28, 28)] (width, height) came for new views of []")


@breaks("sizes_keep_the_pixel_budget")
@pytest.mark.parametrize(("size", "message"), [((55, 56), "multiples of 28"), ((84, 56), "at most 3136 pixels")])
def test_a_size_that_is_none(altered, size, message):
    def alter(env, turn, step):
        if turn is None:
            width, height = size
            step["observation"]["images"] = (np.zeros((height, width, 3), dtype=np.uint8),)
            step["info"]["views"][0]["size"] = size
            step["info"]["vision_tokens"] = width * height // 28**2

    assert_only("sizes_keep_the_pixel_budget", altered(alter), message)


@breaks("tools_describe_the_operations")
def test_tools_that_are_not_told(altered):
    def alter(env, turn, step):
        step["info"]["tools"] = []

    assert_only("tools_describe_the_operations", altered(alter), "tools [] came")


@breaks("samples_keep_their_ids")
def test_samples_that_change(make_env, signs):
    class Changing(signs):
        count = 0

        def get(self, sample_id):
            self.count += 1
            return dataclasses.replace(super().get(sample_id), options=(str(self.count),))

    assert_only("samples_keep_their_ids", lambda: make_env(Changing()), "another options the second time")


@breaks("samples_keep_their_ids")
def test_ids_that_come_twice(make_env, signs):
    class Twice(signs):
        def sample_ids(self):
            return ["sign-A", "sign-B", "sign-A"]

    assert_only("samples_keep_their_ids", lambda: make_env(Twice()), "came twice")


@breaks("seeds_choose_samples")
def test_a_seed_that_is_lost(make_env):
    class Deaf(gymnasium.Wrapper):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=None if seed is None else 0, options=options)

    assert_only("seeds_choose_samples", lambda: Deaf(make_env()), "20 seeds all gave sample")


@breaks("seed_and_turns_fix_the_episode")
def test_an_episode_that_depends_on_the_environment(altered):
    numbers = iter(range(1000))

    def alter(env, turn, step):
        if env.seeded:
            step["info"]["number"] = env.memory.setdefault("number", next(numbers))

    assert_only("seed_and_turns_fix_the_episode", altered(alter), "info.number is")


@breaks("episodes_leave_nothing_behind")
def test_a_counter_that_survives_the_reset(altered):
    def alter(env, turn, step):
        step["info"]["n_episodes"] = env.n_resets

    assert_only("episodes_leave_nothing_behind", altered(alter), "info.n_episodes is")


@breaks("arrays_are_fresh")
def test_a_buffer_that_is_used_again(altered):
    def alter(env, turn, step):
        images = step["observation"]["images"]
        if turn and images:
            buffer = env.memory.setdefault(env.n_turns, np.zeros(28 * 56 * 3, dtype=np.uint8))
            part = buffer[: images[0].size].reshape(images[0].shape)
            part[...] = images[0]
            step["observation"]["images"] = (part, *images[1:])

    # The buffers are pixels that an environment keeps, too; small ones are not looked for.
    assert_only("arrays_are_fresh", altered(alter, max_pixels=28 * 56), "shares memory")


@breaks("changes_stay_with_the_caller")
def test_an_info_that_is_the_state_itself(altered):
    def alter(env, turn, step):
        step["info"]["usage"] = env.unwrapped._episode.usage

    assert_only("changes_stay_with_the_caller", altered(alter), "Return copies")


def replace_zoom(monkeypatch, function, **target_image):
    """Gives zoom_in another function, and its argument target_image another schema."""
    zoom = get_operation("zoom_in")
    properties = dict(zoom.parameters["properties"])
    if target_image:
        properties["target_image"] = target_image
    parameters = {**zoom.parameters, "properties": properties}
    monkeypatch.setitem(
        registry._OPERATIONS, "zoom_in", dataclasses.replace(zoom, function=function, parameters=parameters)
    )


@breaks("boxes_reach_the_edges")
def test_numbers_that_are_guessed_to_be_pixels(make_env, monkeypatch):
    """The released code takes a box for normalized only if all numbers are below 1."""

    def zoom_in(context, bbox_2d, target_image):
        view = context.view(target_image)
        region = context.frame.region(bbox_2d, view)
        if max(bbox_2d) < 1:
            return region
        width, height = view.region.quad.width, view.region.quad.height
        return view.region.part((0, 0, min(width, 2), min(height, 2)), (width, height))

    replace_zoom(monkeypatch, zoom_in)
    assert_only("boxes_reach_the_edges", make_env, "the whole image [0.0, 0.0, 1.0, 1.0] (unit): the box")


@breaks("zooms_of_zooms_are_cut_once")
def test_a_zoom_of_a_zoom_that_is_rounded(make_env, monkeypatch):
    def zoom_in(context, bbox_2d, target_image):
        view = context.view(target_image)
        region = context.frame.region(bbox_2d, view)
        if target_image == 1:
            return region
        x1, y1, x2, y2 = (round(number) for number in region.box)
        return view.region.from_box(view.source, (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))

    replace_zoom(monkeypatch, zoom_in)
    assert_only("zooms_of_zooms_are_cut_once", make_env, "of the source came; expected")


@breaks("zooms_of_zooms_are_cut_once")
def test_a_zoom_of_a_zoom_that_is_cut_from_what_was_shown(make_env):
    class Shrinking(VisualReasoningEnv):
        """Cuts from the picture at the size of its view, as it was shown."""

        def source_image(self, source, frame=None):
            return super().source_image(source, frame)

        def _pixels(self, views):
            pixels = super()._pixels(views)
            return tuple(
                image if view.box[0] == 0 or view.index < 3 else image // 2 * 2
                for image, view in zip(pixels, views, strict=True)
            )

    assert_only("zooms_of_zooms_are_cut_once", lambda: make_env(kind=Shrinking), "byte for byte. Cut from the source")


@breaks("impossible_boxes_are_refused")
def test_boxes_that_are_clipped(make_env, monkeypatch):
    def zoom_in(context, bbox_2d, target_image):
        clipped = [min(max(number, 0), 1) for number in bbox_2d]
        return context.frame.region(clipped, context.view(target_image))

    replace_zoom(monkeypatch, zoom_in)
    assert_only("impossible_boxes_are_refused", make_env, "the box [-0.5, 0, 0.5, 0.5] (unit): 1 images came")


@breaks("image_numbers_count_from_one")
def test_numbers_that_count_from_the_end(make_env, monkeypatch):
    def zoom_in(context, bbox_2d, target_image):
        number = target_image if target_image > 0 else len(context.views)
        return context.frame.region(bbox_2d, context.view(number))

    replace_zoom(monkeypatch, zoom_in, type="integer")
    assert_only("image_numbers_count_from_one", make_env, "zoom_in with target_image 0: 1 images came")


@breaks("malformed_turns_are_answered")
@pytest.mark.parametrize("reply", ["", "x" * 2000, "Traceback (most recent call last):", None])
def test_replies_that_help_nobody(altered, reply):
    def alter(env, turn, step):
        if turn == "\ud800":
            turn.encode() if reply is None else step["observation"].update(text=reply)

    message = "UnicodeEncodeError" if reply is None else "came; expected"
    assert_only("malformed_turns_are_answered", altered(alter), message)


@breaks("failures_are_no_usage")
def test_failures_that_count_as_usage(altered):
    def alter(env, turn, step):
        step["info"]["usage"]["zoom_in"] += step["info"]["failures"].get("malformed", 0)

    assert_only("failures_are_no_usage", altered(alter), "{'zoom_in': 1} came; expected {")


@breaks("failures_are_no_usage")
def test_failures_that_are_not_counted(altered):
    def alter(env, turn, step):
        step["info"]["failures"].pop("malformed", None)

    assert_only("failures_are_no_usage", altered(alter), "no failure was counted")


@breaks("prose_around_a_call_is_ignored")
def test_a_line_break_that_hides_a_call(make_env):
    class Strict(gymnasium.Wrapper):
        def step(self, action):
            return super().step("" if action.endswith("\n") else action)

    assert_only("prose_around_a_call_is_ignored", lambda: Strict(make_env()), "a call with a line break after it")


@breaks("many_calls_get_a_short_reply")
def test_a_reply_to_every_call(altered):
    def alter(env, turn, step):
        if turn and turn.count("<tool_call>") == 200:
            step["observation"]["text"] = "Error: no.\n" * 1000

    assert_only("many_calls_get_a_short_reply", altered(alter), "11000 characters came; expected at most 8000")


@breaks("the_end_is_final")
def test_an_end_that_is_none(make_env):
    class Endless(gymnasium.Wrapper):
        def step(self, action):
            with contextlib.suppress(ResetNeeded):
                self.last = super().step(action)
            return self.last

        def reset(self, **arguments):
            self.last = None
            return super().reset(**arguments)

    assert_only(
        "the_end_is_final", lambda: Endless(make_env()), "no exception came; expected gymnasium.error.ResetNeeded"
    )


@breaks("drawn_calls_are_executed_or_refused")
def test_calls_that_fail_twice(altered):
    def alter(env, turn, step):
        failures = step["info"]["failures"]
        failures.update(zoom_in=2 * failures.get("zoom_in", 0))

    assert_only("drawn_calls_are_executed_or_refused", altered(alter), "0 executed and 2 failed; expected one of both")


@breaks("repeated_calls_are_counted")
def test_duplicates_that_are_not_counted(altered):
    def alter(env, turn, step):
        step["info"]["duplicates"] = 0

    assert_only("repeated_calls_are_counted", altered(alter), "duplicates [0, 0, 0] came; expected [0, 0, 1]")


class Garbling:
    """A dialect that loses something on the way."""

    def __init__(self, dialect):
        self.dialect = dialect

    def __getattr__(self, name):
        return getattr(self.dialect, name)


@breaks("calls_survive_the_dialect")
def test_a_dialect_that_loses_capitals_of_labels(make_env):
    class Lowering(Garbling):
        def render_call(self, call):
            arguments, labels = dict(call.arguments), call.arguments.get("labels")
            if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
                arguments["labels"] = [label.lower() for label in labels]
            return self.dialect.render_call(dataclasses.replace(call, arguments=arguments))

    def make():
        env = make_env(operations=["zoom_in", "mark"])
        env.dialect = Lowering(env.dialect)
        return env

    assert_only("calls_survive_the_dialect", make, "was read as the call")


@breaks("answers_survive_the_dialect")
def test_a_dialect_that_loses_capitals_of_answers(make_env):
    class Lowering(Garbling):
        def parse(self, text):
            turn = self.dialect.parse(text)
            return dataclasses.replace(turn, answers=tuple(answer.lower() for answer in turn.answers))

    def make():
        env = make_env()
        env.dialect = Lowering(env.dialect)
        return env

    assert_only("answers_survive_the_dialect", make, 'the answer "A" was read as the answer "a"; expected itself')


@breaks("the_oracle_scores_one")
def test_an_answer_that_most_people_do_not_give(make_env, signs):
    class Opinions(signs):
        def sample(self, number):
            return super().sample(number, answers=("A", "B", "B", "B", "B", "B", "B", "B", "B", "B"))

    assert_only("the_oracle_scores_one", lambda: make_env(Opinions(), scorer="vqa_accuracy"), "expected score 1.0")


@breaks("evidence_lies_in_its_source")
@pytest.mark.parametrize(
    "evidence",
    [
        {"evidence_box": (100.0, 100.0, 130.0, 130.0)},
        {"evidence_box": (0.1, 0.1, 0.5, 0.5)},
        {"evidence_time": (0.0, 1.0)},
    ],
)
def test_evidence_that_is_elsewhere(make_env, signs, evidence):
    class Elsewhere(signs):
        def sample(self, number):
            return super().sample(number, needs_operation=None, **evidence)

    assert_only("evidence_lies_in_its_source", lambda: make_env(Elsewhere()), f"{next(iter(evidence))} ")


@breaks("needed_operations_show_the_evidence")
def test_a_need_without_evidence(make_env, signs):
    class Claims(signs):
        def sample(self, number):
            return super().sample(number, evidence_box=None)

    assert_only("needed_operations_show_the_evidence", lambda: make_env(Claims()), "no evidence came")


@breaks("needed_operations_show_the_evidence")
def test_a_need_that_no_operation_meets(make_env):
    name = "needed_operations_show_the_evidence"
    assert_only(name, lambda: make_env(max_turns=1), "the oracle executed none")


@breaks("needed_operations_show_the_evidence")
def test_a_need_that_the_first_view_meets(make_env, signs):
    class Whole(signs):
        def sample(self, number):
            return super().sample(number, evidence_box=(0.0, 0.0, 112.0, 112.0))

    name = "needed_operations_show_the_evidence"
    assert_only(
        name, lambda: make_env(Whole()), "0.50 shown pixels per source pixel; expected more than at first, 0.50"
    )


@breaks("wrong_answers_score_less")
def test_a_scorer_that_takes_anything(make_env):
    register_scorer("generous", source="here")(lambda answer, sample: 1.0)
    assert_only("wrong_answers_score_less", lambda: make_env(scorer="generous"), 'the answer "zqxj" got score 1.0')


@breaks("hostile_answers_are_scored")
def test_a_scorer_that_raises(make_env):
    def divide(answer, sample):
        if answer == "1/0":
            raise ZeroDivisionError("division by zero")
        return exact(answer, sample)

    register_scorer("dividing", source="here")(divide)
    assert_only(
        "hostile_answers_are_scored", lambda: make_env(scorer="dividing"), 'the answer "1/0": ZeroDivisionError'
    )


@breaks("unanswered_episodes_are_incorrect")
def test_silence_that_is_rewarded(altered):
    def alter(env, turn, step):
        if step["truncated"]:
            step["info"]["score"] = 1.0

    assert_only("unanswered_episodes_are_incorrect", altered(alter), "expected answer None, score 0.0")


@breaks("the_reward_is_the_sum_of_its_terms")
def test_a_reward_without_a_name(altered):
    def alter(env, turn, step):
        step["reward"] += 0.1 * step["terminated"]

    assert_only("the_reward_is_the_sum_of_its_terms", altered(alter), "reward 1.1 came with terms")


@breaks("max_turns_truncates")
def test_a_limit_that_terminates(altered):
    def alter(env, turn, step):
        if step["truncated"]:
            step["terminated"], step["truncated"] = True, False

    assert_only("max_turns_truncates", altered(alter), "terminated=True and truncated=False came")


@breaks("operations_stop_at_their_limit")
def test_a_limit_that_lets_one_more_pass(make_env):
    class Late(VisualReasoningEnv):
        @property
        def limits(self):
            return super().limits

        @limits.setter
        def limits(self, limits):
            one_more = dataclasses.replace(limits, max_operations=limits.max_operations + 1)
            self.rules = dataclasses.replace(self.rules, limits=one_more)

    name = "operations_stop_at_their_limit"
    assert_only(
        name, lambda: make_env(kind=Late), "max_operations=1: 2 operations and 1 images came; expected 1 and none"
    )


@breaks("episodes_keep_no_pixels")
def test_an_environment_that_keeps_pictures(altered):
    def alter(env, turn, step):
        env.memory["observation"] = step["observation"]

    message = "an array of shape (56, 56, 3) is kept as Altered.memory['observation']['images'][0]"
    assert_only("episodes_keep_no_pixels", altered(alter), message)


@breaks("gymnasium_accepts_it")
def test_a_method_of_old_gym(make_env):
    class Old(VisualReasoningEnv):
        def seed(self, seed):
            return [seed]

    assert_only("gymnasium_accepts_it", lambda: make_env(kind=Old), "a warning came:")


@breaks("the_spec_travels_as_json")
def test_a_spec_that_is_no_json(make_env, monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("test/Signs-v0", entry_point=lambda **arguments: make_env(**arguments))
    assert_only("the_spec_travels_as_json", "test/Signs-v0", "ValueError")


@breaks("vector_environments_work")
def test_a_space_of_its_own(make_env):
    class Odd(ImagesSpace):
        def __eq__(self, other):
            return self is other

        __hash__ = None

    def make():
        env = make_env()
        env.observation_space = Dict({"images": Odd(), "text": TextSpace()})
        return env

    assert_only("vector_environments_work", make, "came; expected no exception")


@breaks("wrappers_work")
def test_a_key_that_wrappers_need(altered):
    def alter(env, turn, step):
        if step["terminated"]:
            step["info"]["episode"] = 3

    assert_only("wrappers_work", altered(alter), "RecordEpisodeStatistics gave")


@breaks("episodes_can_be_drawn")
@pytest.mark.parametrize("kind", ["size", "dtype", "mode"])
def test_pictures_that_no_recorder_takes(make_env, kind):
    class Drawing(VisualReasoningEnv):
        def render(self):
            if self.render_mode is None:
                return "picture" if kind == "mode" else None
            picture = super().render()
            if kind == "mode":
                return picture
            return picture / 255 if kind == "dtype" else picture[: 100 + len(self.views)]

    message = {"size": "Use one canvas", "dtype": "float64 (720, 960, 3)", "mode": "expected None"}[kind]
    assert_only("episodes_can_be_drawn", lambda: make_env(kind=Drawing), message)


def test_every_check_is_broken_by_a_test():
    assert {check.__name__ for check in CHECKS} <= BROKEN
