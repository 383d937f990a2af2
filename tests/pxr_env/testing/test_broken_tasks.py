"""Every check of a task fails on a task that breaks one promise, and it alone fails."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
from unittest import mock

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Dict

from pxr_env import VisualReasoningEnv
from pxr_env.operations import get_operation
from pxr_env.operations import registry as operations
from pxr_env.scoring import exact, register_scorer
from pxr_env.scoring import registry as scorers
from pxr_env.spaces import ImagesSpace, TextSpace
from pxr_env.testing import Report, check_task, plugin, test_contract, test_determinism, test_turns
from pxr_env.testing.playing import PROSE, TaskSubject
from tests.pxr_env.testing.signs import Signs, make_env

pytestmark = pytest.mark.slow

#: Name -> the check, its message, and a function that makes the task.
CASES = {}


def broken(check, message, name=None):
    """Declares a function that makes a task of which this check alone fails, with this in its report."""

    def declare(make):
        CASES[f"{check}: {name or make.__name__}"] = check, message, make
        return make

    return declare


def altered(check, message, name=None, **arguments):
    """Declares a task that is altered by a function of the wrapper, the turn (None: the reset) and the outcome."""

    def declare(alter):
        broken(check, message, name or alter.__name__)(lambda: Altered(make_env(**arguments), alter))
        return alter

    return declare


class Altered(gymnasium.Wrapper):
    """What comes back is changed by a function; the outcome is a dict."""

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


def black(width, height):
    return np.zeros((height, width, 3), dtype=np.uint8)


def resize(width, height, step):
    step["observation"]["images"] = (black(width, height),)
    step["info"]["views"][0]["size"] = (width, height)
    step["info"]["vision_tokens"] = width * height // 28**2


def small_image(images):
    return (black(28, 28),)


def as_floats(images):
    return tuple(map(np.float32, images))


def encode_surrogate(text):
    return SURROGATE.encode()


def double(count):
    return 2 * count


SURROGATE = "\ud800"
TRACEBACK = "Traceback (most recent call last):"
LONG = "Error: no.\n" * 1000
#: When what comes back is changed: after the reset, after turns, after one turn, at the end, whenever.
MOMENTS = {
    "reset": lambda turn, step: turn is None,
    "turns": lambda turn, step: turn is not None,
    "prose": lambda turn, step: turn == PROSE,
    "surrogate": lambda turn, step: turn == SURROGATE,
    "many": lambda turn, step: turn is not None and turn.count("<tool_call>") == 200,
    "end": lambda turn, step: step["terminated"],
    "limit": lambda turn, step: step["truncated"],
    "always": lambda turn, step: True,
}
#: Check, message, moment, part of the outcome, and its new values, or functions of the old ones (None: it goes).
CHANGES = [
    ("observations_are_in_their_space", "lone surrogate", "prose", "observation", {"text": SURROGATE}),
    ("observations_are_in_their_space", "float32 (", "turns", "observation", {"images": as_floats}),
    ("observations_are_in_their_space", "['images', 'prompt', 'text'] ==", "end", "observation", {"prompt": "Which?"}),
    ("info_has_its_keys", '"vision_tokens"] is of type float; expected int', "end", "info", {"vision_tokens": float}),
    ("info_has_its_keys", 'lacks "target"', "end", "info", {"target": None}),
    ("info_tells_the_facts", "'digits'} != {'category': 'letters'}", "end", "info", {"category": "digits"}),
    ("info_is_json", 'info["extra"] cannot be written as JSON', "end", "info", {"extra": np.float32(1)}),
    ("images_match_their_views", "expected views numbered 1, 2, 3", "end", "info.views.0", {"index": 7}),
    ("images_match_their_views", "assert [(28, 28)] == []", "prose", "observation", {"images": small_image}),
    ("views_lie_in_their_sources", "inside the source", "end", "info.views.0", {"box": (-5, 0, 56, 56)}),
    ("views_lie_in_their_sources", "got source 2; expected 1 to 1", "end", "info.views.0", {"source": 2}),
    ("counters_add_up", "as vision tokens the", "end", "info", {"vision_tokens": lambda old: old + 1}),
    ("counters_add_up", 'got usage {"zoom_in": -1}', "end", "info.usage", {"zoom_in": -1}),
    ("tools_describe_the_operations", "got tools []; expected", "reset", "info", {"tools": []}),
    ("malformed_turns_are_answered", "got an empty text; expected", "surrogate", "observation", {"text": ""}),
    ("malformed_turns_are_answered", "of 2000 characters; expected", "surrogate", "observation", {"text": "x" * 2000}),
    ("malformed_turns_are_answered", f'got "{TRACEBACK}"; expected', "surrogate", "observation", {"text": TRACEBACK}),
    ("malformed_turns_are_answered", "UnicodeEncodeError", "surrogate", "observation", {"text": encode_surrogate}),
    ("failures_are_no_usage", "no failure was counted", "always", "info.failures", {"malformed": None}),
    ("many_calls_get_a_short_reply", "11000 characters; expected at most 8000", "many", "observation", {"text": LONG}),
    ("drawn_calls_are_executed_or_refused", "0 executed and 2 failed", "always", "info.failures", {"zoom_in": double}),
    ("repeated_calls_are_counted", "[0, 0, 0] == [0, 0, 1]", "always", "info", {"duplicates": 0}),
    ("unanswered_episodes_are_incorrect", "{'score': 1.0} != {'score': 0.0}", "limit", "info", {"score": 1.0}),
    ("the_reward_is_the_sum_of_its_terms", "got reward 1.1 with terms", "end", "", {"reward": lambda old: old + 0.1}),
    ("max_turns_truncates", "(5, True, False) ==", "limit", "", {"terminated": True, "truncated": False}),
    ("wrappers_work", "RecordEpisodeStatistics gave", "end", "info", {"episode": 3}),
]


def change(moment, path, values, turn, step):
    if not MOMENTS[moment](turn, step):
        return
    part = step
    for key in filter(None, path.split(".")):
        part = part[int(key) if key.isdigit() else key]
    for key, value in values.items():
        if value is None:
            part.pop(key, None)
        elif not callable(value):
            part[key] = value
        elif key in part:
            part[key] = value(part[key])


for _number, (_check, _message, *_what) in enumerate(CHANGES):
    altered(_check, _message, f"change {_number}")(lambda env, turn, step, what=_what: change(*what, turn, step))


@altered("sizes_keep_the_pixel_budget", "multiples of 28")
def a_size_that_is_no_multiple(env, turn, step):
    if turn is None:
        resize(55, 56, step)


@altered("sizes_keep_the_pixel_budget", "at most 3136 pixels")
def a_size_that_is_too_large(env, turn, step):
    if turn is None:
        resize(84, 56, step)


@altered("failures_are_no_usage", 'Count it under "failures"')
def failures_that_count_as_usage(env, turn, step):
    step["info"]["usage"]["zoom_in"] += step["info"]["failures"].get("malformed", 0)


@altered("turns_raise_nothing", "RuntimeError (test_broken_tasks.py")
def an_exception_in_the_midst_of_an_episode(env, turn, step):
    if turn and step["terminated"] and env.memory.get("turn") == PROSE:
        raise RuntimeError("lost")
    env.memory["turn"] = turn


@broken("samples_keep_their_ids", "another options the second time")
def samples_that_change():
    class Changing(Signs):
        count = 0

        def get(self, sample_id):
            self.count += 1
            return dataclasses.replace(super().get(sample_id), options=(str(self.count),))

    return make_env(Changing())


@broken("samples_keep_their_ids", "given twice")
def ids_that_come_twice():
    class Twice(Signs):
        def sample_ids(self):
            return ["sign-A", "sign-B", "sign-A"]

    return make_env(Twice())


@broken("seeds_choose_samples", "6 seeds all gave sample")
def a_seed_that_is_lost():
    class Deaf(gymnasium.Wrapper):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=None if seed is None else 0, options=options)

    return Deaf(make_env())


NUMBERS = itertools.count()


@altered("seed_and_turns_fix_the_episode", "info.number'")
def an_episode_that_depends_on_the_environment(env, turn, step):
    if env.seeded:
        step["info"]["number"] = env.memory.setdefault("number", next(NUMBERS))


@altered("episodes_leave_nothing_behind", "info.n_episodes'")
def a_counter_that_survives_the_reset(env, turn, step):
    step["info"]["n_episodes"] = env.n_resets


# The buffers are pixels that an environment keeps, too; small ones are not looked for.
@altered("arrays_are_fresh", "shares memory", max_pixels=28 * 56)
def a_buffer_that_is_used_again(env, turn, step):
    images = step["observation"]["images"]
    if turn and images:
        buffer = env.memory.setdefault(env.n_turns, np.zeros(28 * 56 * 3, dtype=np.uint8))
        part = buffer[: images[0].size].reshape(images[0].shape)
        part[...] = images[0]
        step["observation"]["images"] = (part, *images[1:])


@altered("changes_stay_with_the_caller", "Return copies")
def an_info_that_is_the_state_itself(env, turn, step):
    step["info"]["usage"] = env.unwrapped._episode.usage


def zooming(check, message, **target_image):
    """Declares another function of zoom_in, whose argument target_image may have another schema."""

    def declare(function):
        @broken(check, message, function.__name__)
        def make():
            zoom = get_operation("zoom_in")
            properties = zoom.parameters["properties"] | ({"target_image": target_image} if target_image else {})
            parameters = {**zoom.parameters, "properties": properties}
            other = dataclasses.replace(zoom, function=function, parameters=parameters)
            with mock.patch.dict(operations._OPERATIONS, zoom_in=other):
                return make_env()

    return declare


@zooming("boxes_reach_the_edges", "the whole image [0.0, 0.0, 1.0, 1.0] (unit): got the box")
def numbers_that_are_guessed_to_be_pixels(context, bbox_2d, target_image):
    """The released code takes a box for normalized only if all numbers are below 1."""
    view = context.view(target_image)
    region = context.frame.region(bbox_2d, view)
    if max(bbox_2d) < 1:
        return region
    width, height = view.region.quad.width, view.region.quad.height
    return view.region.part((0, 0, min(width, 2), min(height, 2)), (width, height))


@zooming("zooms_of_zooms_are_cut_once", "of the source; expected")
def a_zoom_of_a_zoom_that_is_rounded(context, bbox_2d, target_image):
    view = context.view(target_image)
    region = context.frame.region(bbox_2d, view)
    if target_image == 1:
        return region
    x1, y1, x2, y2 = (round(number) for number in region.box)
    return view.region.from_box(view.source, (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


@zooming("impossible_boxes_are_refused", "the box [-0.5, 0, 0.5, 0.5] (unit): got 1 images")
def boxes_that_are_clipped(context, bbox_2d, target_image):
    clipped = [min(max(number, 0), 1) for number in bbox_2d]
    return context.frame.region(clipped, context.view(target_image))


@zooming("image_numbers_count_from_one", "zoom_in with target_image 0: got 1 images", type="integer")
def numbers_that_count_from_the_end(context, bbox_2d, target_image):
    number = target_image if target_image > 0 else len(context.views)
    return context.frame.region(bbox_2d, context.view(number))


@broken("zooms_of_zooms_are_cut_once", "byte for byte. Cut from the source")
def a_zoom_of_a_zoom_that_is_cut_from_what_was_shown():
    class Shrinking(VisualReasoningEnv):
        """Cuts from the picture at the size of its view, as it was shown."""

        def _pixels(self, sample, views):
            pixels = super()._pixels(sample, views)
            return tuple(
                image if view.box[0] == 0 or view.index < 3 else image // 2 * 2
                for image, view in zip(pixels, views, strict=True)
            )

    return make_env(kind=Shrinking)


@broken("prose_around_a_call_is_ignored", "a call with a line break after it")
def a_line_break_that_hides_a_call():
    class Strict(gymnasium.Wrapper):
        def step(self, action):
            return super().step("" if action.endswith("\n") else action)

    return Strict(make_env())


@broken("the_end_is_final", "DID NOT RAISE")
def an_end_that_is_none():
    class Endless(gymnasium.Wrapper):
        def step(self, action):
            with contextlib.suppress(ResetNeeded):
                self.last = super().step(action)
            return self.last

        def reset(self, **arguments):
            self.last = None
            return super().reset(**arguments)

    return Endless(make_env())


class Garbling:
    """A dialect that loses something on the way: capitals of labels, or of answers."""

    def __init__(self, dialect):
        self.dialect = dialect

    def __getattr__(self, name):
        return getattr(self.dialect, name)


class LoweringLabels(Garbling):
    def render_call(self, call):
        arguments, labels = dict(call.arguments), call.arguments.get("labels")
        if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
            arguments["labels"] = [label.lower() for label in labels]
        return self.dialect.render_call(dataclasses.replace(call, arguments=arguments))


class LoweringAnswers(Garbling):
    def parse(self, text):
        turn = self.dialect.parse(text)
        return dataclasses.replace(turn, answers=tuple(answer.lower() for answer in turn.answers))


@broken("calls_survive_the_dialect", "was read as the call")
def a_dialect_that_loses_capitals_of_labels():
    env = make_env(operations=["zoom_in", "mark"])
    env.dialect = LoweringLabels(env.dialect)
    return env


@broken("answers_survive_the_dialect", 'the answer "A" was read as the answer "a"; expected itself')
def a_dialect_that_loses_capitals_of_answers():
    env = make_env()
    env.dialect = LoweringAnswers(env.dialect)
    return env


NEEDED, EVIDENCE = "needed_operations_show_the_evidence", "evidence_lies_in_its_source"
WHOLE = (0.0, 0.0, 112.0, 112.0)
#: Check, message, what the samples say of themselves, arguments.
FACTS = [
    ("the_oracle_scores_one", "expected score 1.0", {"answers": ("A", *"BBBBBBBBB")}, {"scorer": "vqa_accuracy"}),
    (EVIDENCE, "evidence_box ", {"evidence_box": (100.0, 100.0, 130.0, 130.0), "needs_operation": None}, {}),
    (EVIDENCE, "evidence_box ", {"evidence_box": (0.1, 0.1, 0.5, 0.5), "needs_operation": None}, {}),
    (EVIDENCE, "evidence_time ", {"evidence_time": (0.0, 1.0), "needs_operation": None}, {}),
    (NEEDED, "expected evidence_box, evidence_time or", {"evidence_box": None}, {}),
    (NEEDED, "0.50 shown pixels per source pixel; expected more than at first, 0.50", {"evidence_box": WHOLE}, {}),
    (NEEDED, "the oracle executed none", {}, {"max_turns": 1}),
    ("wrong_answers_score_less", 'the answer "zqxj" got score 1.0', {}, {"scorer": "generous"}),
    ("hostile_answers_are_scored", 'the answer "1/0": got ZeroDivisionError', {}, {"scorer": "dividing"}),
]
for _number, (_check, _message, _facts, _arguments) in enumerate(FACTS):
    broken(_check, _message, f"facts {_number}")(
        lambda facts=_facts, arguments=_arguments: make_env(Signs(**facts), **arguments)
    )


def divide(answer, sample):
    if answer == "1/0":
        raise ZeroDivisionError("division by zero")
    return exact(answer, sample)


@broken("operations_stop_at_their_limit", "max_operations=1: got 2 operations and 1 images; expected 1 and none")
def a_limit_that_lets_one_more_pass():
    class Late(VisualReasoningEnv):
        @property
        def limits(self):
            return super().limits

        @limits.setter
        def limits(self, limits):
            one_more = dataclasses.replace(limits, max_operations=limits.max_operations + 1)
            self.rules = dataclasses.replace(self.rules, limits=one_more)

    return make_env(kind=Late)


@altered(
    "episodes_keep_no_pixels",
    "an array of shape (56, 56, 3) is kept as Altered.memory['observation']['images'][0]",
)
def an_environment_that_keeps_pictures(env, turn, step):
    env.memory["observation"] = step["observation"]


CASES["the_spec_travels_as_json: no JSON"] = "the_spec_travels_as_json", "ValueError", "test/Signs-v0"


@broken("gymnasium_accepts_it", "expected no warning")
def a_method_of_old_gym():
    class Old(VisualReasoningEnv):
        def seed(self, seed):
            return [seed]

    return make_env(kind=Old)


@broken("vector_environments_work", "use `observation_mode='different'` instead")
def a_space_of_its_own():
    class Odd(ImagesSpace):
        def __eq__(self, other):
            return self is other

        __hash__ = None

    env = make_env()
    env.observation_space = Dict({"images": Odd(), "text": TextSpace()})
    return env


def drawing(message):
    """Declares a task whose pictures are changed by a function of the environment and the picture."""

    def declare(change):
        class Drawing(VisualReasoningEnv):
            def render(self):
                return change(self, super().render())

        broken("episodes_can_be_drawn", message, change.__name__)(lambda: make_env(kind=Drawing))
        return change

    return declare


@drawing("Use one canvas")
def pictures_that_grow(env, picture):
    return None if picture is None else picture[: 100 + len(env.views)]


@drawing("float64 (720, 960, 3)")
def pictures_of_floats(env, picture):
    return None if picture is None else picture / 255


@drawing("expected None")
def pictures_that_nobody_asked_for(env, picture):
    return "picture" if picture is None else picture


class Batch(Report):
    """Checks many tasks in one run of pytest. `failures`: the name of a task -> check -> what pytest says."""

    def __init__(self, makers):
        subjects = (TaskSubject.of(make, arguments={}, samples=["sign-A"], seed=0) for make in makers.values())
        self.subjects = dict(zip(makers, subjects, strict=True))
        self.failures = {name: {} for name in makers}
        super().__init__(self.subjects["nothing"], "all")

    def pytest_generate_tests(self, metafunc):
        if "task" in metafunc.fixturenames:
            metafunc.parametrize("task", self.subjects.values(), ids=list(self.subjects), scope="session")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        if report.failed:
            [name] = [name for name, one in self.subjects.items() if one is item.callspec.params["task"]]
            self.failures[name][item.originalname.removeprefix("test_")] = report.longreprtext
        return report


@pytest.fixture(scope="module")
def failures():
    """What fails of each task that is broken, and of one that is not."""
    batch = Batch(
        {name: make for name, (_, _, make) in CASES.items()} | {"nothing": lambda: Altered(make_env(), pass_on)}
    )
    tables = (operations._OPERATIONS, scorers._SCORERS, gymnasium.registry)
    with contextlib.ExitStack() as stack:
        for table in tables:
            stack.enter_context(mock.patch.dict(table))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        # The others are for the scorers of this package, and for tasks with many samples.
        stack.enter_context(mock.patch.object(test_contract, "HOSTILE", ("nan", "1/0")))
        stack.enter_context(mock.patch.object(test_determinism, "SEEDS", 6))
        register_scorer("generous", source="here")(lambda answer, sample: 1.0)
        register_scorer("dividing", source="here")(divide)
        gymnasium.register("test/Signs-v0", entry_point=lambda **arguments: make_env(**arguments))
        # The fastest way to show a failure, and without what looks at every test.
        options = [*plugin._QUICK, "-s", "--tb=native", "-pno:logging", "-pno:threadexception", "-pno:warnings"]
        assert plugin._pytest(batch, options) == pytest.ExitCode.TESTS_FAILED
    return batch.failures


def pass_on(env, turn, step):
    pass


@pytest.mark.parametrize("case", CASES)
def test_a_broken_task(case, failures):
    check, message, _ = CASES[case]
    assert list(failures[case]) == [check], failures[case]
    assert message in failures[case][check]


def test_the_unbroken_task_passes(failures):
    assert failures["nothing"] == {}
    report = check_task(make_env, samples=3)
    assert report.passed, str(report)
    assert set(report.skipped) == {"the_spec_travels_as_json"}


def no_directory():
    raise FileNotFoundError("no such directory")


def another_environment():
    return gymnasium.make("CartPole-v1")


@pytest.mark.parametrize(
    ("make", "samples", "message"),
    [
        (no_directory, 1, "FileNotFoundError"),
        (another_environment, 1, "wrappers around it"),
        (make_env, ["sign-A", "sign-Z"], "without ['sign-Z']"),
        (make_env, [], "expected at least one sample"),
    ],
)
def test_environments_that_cannot_be_made(make, samples, message):
    """Nothing else is checked."""
    report = check_task(make, samples=samples)
    assert list(report.failed) == ["environments_can_be_made"], str(report)
    assert message in str(report)
    assert report.n_passed == 0


def test_every_check_is_broken():
    modules = (test_contract, test_determinism, test_turns)
    checks = {name.removeprefix("test_") for module in modules for name in vars(module) if name.startswith("test_")}
    # Those that start processes are broken in test_check_command.py.
    elsewhere = {check.partition("::test_")[2] for check in plugin.PROCESS_CHECKS} | {"environments_can_be_made"}
    assert checks == {check for check, _, _ in CASES.values()} | elsewhere
