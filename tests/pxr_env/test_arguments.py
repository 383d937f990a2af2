"""Arguments of the wrong type: every one is named, with its value and what was expected."""

import contextlib
import functools
import inspect
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from pxr_env import TASKS, Sample, VisualReasoningEnv
from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from pxr_env.errors import DataError, plain, quote, represent, show
from pxr_env.media import ImageSource
from pxr_env.operations import get_operation
from pxr_env.rules import Limits
from pxr_env.scoring import get_scorer

TASK = "pxr_env:pxr/SyntheticSearch-v0"
pytestmark = pytest.mark.filterwarnings("ignore")


def some_function():
    """A value that is none."""


class Broken:
    """Its repr raises."""

    def __repr__(self):
        raise RuntimeError


WRONG = {
    "None": None, "int": 3, "bool": True, "float": 1.5, "nan": float("nan"), "str": "no such thing", "list": [1],
    "dict": {"a": []}, "function": some_function, "path": Path("no/such/place"), "np.int64": np.int64(3),
    "np.bool_": np.bool_(True), "np.str_": np.str_("no such thing"), "np.array": np.zeros(3), "bytes": b"x",
    "broken": Broken(),
}  # fmt: skip


def sample(sample_id="a"):
    image = ImageSource(image=Image.new("RGB", (60, 60), "white"))
    return Sample(sample_id=sample_id, question="What is it?", sources=(image,), answers=("white",))


def refusal(make, arguments):
    """The message with which an environment is refused; None where it is made and begins an episode."""
    try:
        env = make(**arguments)
    except (ValueError, TypeError) as error:
        return str(error)
    # Limits hold from the first image on.
    with contextlib.suppress(DataError):
        env.reset(seed=0)
    return None


@functools.cache
def parameters(task):
    return TASKS[task].parameters()


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("task", TASKS)
def test_every_argument_of_every_task_names_itself(task, kind, tmp_path):
    """Whatever comes is accepted and works, or is refused with a text about this very argument.

    Those of the environment are tried on one task.
    """
    needs_data = "data" in parameters(task)
    make = functools.partial(gymnasium.make, f"pxr_env:{task}", disable_env_checker=True)
    tried = set() if TASK.endswith(task) else set(inspect.signature(VisualReasoningEnv).parameters) - {"data"}
    for name in parameters(task).keys() - tried:
        message = refusal(make, ({"data": str(tmp_path)} if needs_data else {}) | {name: WRONG[kind]})
        # An empty directory is named where the argument itself is right.
        if message is None or (needs_data and name != "data" and str(tmp_path) in message):
            continue
        assert name in message
        assert "expected" in message
        assert len(message) < 1000


@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind not in ("str", "np.str_")])
@pytest.mark.parametrize("name", inspect.signature(VisualReasoningEnv).parameters)
def test_every_argument_of_the_environment_names_itself(name, kind):
    message = refusal(VisualReasoningEnv, {"data": [sample()], name: WRONG[kind]})
    if message is not None:
        assert name in message
        assert "expected" in message
        came = (represent(WRONG[kind]), represent(plain(WRONG[kind])))
        assert any(text in message for text in came) or name in ("costs", "operations")


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize(
    ("find", "what"),
    [
        (get_frame, "coordinates="),
        (lambda name: get_dialect(name, get_frame("unit")), "dialect="),
        (get_operation, "the operation "),
        (get_scorer, "scorer="),
    ],
)
def test_names_that_are_none(find, what, kind):
    with pytest.raises(ValueError, match=r"^got .*; expected one of") as caught:
        find(WRONG[kind])
    assert str(caught.value).startswith(f"got {what}{represent(WRONG[kind])}; expected one of ")


@pytest.mark.parametrize("kind", WRONG)
def test_messages_can_hold_anything(kind):
    for describe in (quote, show, represent):
        text = describe(WRONG[kind])
        assert text
        assert len(text) <= 81
        assert " at 0x" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "None"), (True, "True"), (1.5, "1.5"), ("a\nb", '"a\\nb"')),
        ([None, {"a": True}], '[None, {"a": True}]'),
        (some_function, "<function some_function>"),
        (Path("a/b"), "PosixPath('a/b')"),
        (np.int64(3), "np.int64(3)"),
        (Broken(), "<Broken>"),
        (b"x" * 10**6, "b'" + "x" * 78 + "…"),
    ],
)
def test_values_as_a_programmer_writes_them(value, text):
    assert represent(value) == text
    assert quote(value) == (value.replace("\n", " ") if isinstance(value, str) else text)


def test_numpy_numbers_are_numbers():
    exact = gymnasium.make(TASK, max_turns=5, grid=2, hard_fraction=0.25, images_in_text=True, zoom_padding=1)
    odd = gymnasium.make(
        TASK, max_turns=np.int64(5), grid=np.int32(2), hard_fraction=np.float64(0.25), images_in_text=np.bool_(True),
        zoom_padding=np.uint8(1),
    )  # fmt: skip
    seen = [json.dumps(env.reset(seed=seed)[1]) for env, seed in ((exact, 3), (odd, np.int64(3)))]
    assert seen[0] == seen[1]
    assert odd.spec.to_json() == exact.spec.to_json()
    assert type(Limits(max_turns=np.int64(3), max_operations=np.int64(0)).max_turns) is int


@pytest.mark.parametrize("seed", [-1, 1.5, True, "3", np.float64(1), np.bool_(True)])
def test_seeds_that_are_none(seed):
    with pytest.raises(ValueError, match=r"^got seed=.*; expected an integer of at least 0"):
        gymnasium.make(TASK).unwrapped.reset(seed=seed)


@pytest.mark.parametrize("options", ["train-0", 3, ["train-0"], some_function])
def test_options_that_are_no_dict(options):
    with pytest.raises(ValueError, match=r'^got options=.*; expected a dict, such as \{"sample_id": id\}'):
        gymnasium.make(TASK).reset(options=options)


@pytest.mark.parametrize("sample_id", [None, True, 1.0, [], {}, np.zeros(2), "7.0", 8, some_function])
def test_ids_that_are_none(sample_id):
    env = VisualReasoningEnv([sample("7"), sample("x")])
    with pytest.raises(DataError, match=r'^got sample_id=.*; expected one of 2 ids, "7" to "x"'):
        env.reset(options={"sample_id": sample_id})


def test_an_integer_id_of_a_data_set(tmp_path):
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    row = {"id": 7, "question": "Which?", "images": ["a.png"], "answers": ["1"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    env = gymnasium.make("pxr_env:pxr/JSONL-v0", data=tmp_path)
    for sample_id in (7, "7", np.int32(7), np.str_("7")):
        assert env.reset(options={"sample_id": sample_id})[1]["sample_id"] == "7"
    # A path travels as text.
    spec = gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json())
    assert spec.kwargs["data"] == str(tmp_path)
    assert gymnasium.make(spec).reset(seed=0)[1]["sample_id"] == "7"


def test_a_source_may_count_its_samples():
    class Counted:
        def __len__(self):
            return 2

        def sample_ids(self):
            return range(2)

        def get(self, sample_id):
            return sample(str(sample_id))

    assert VisualReasoningEnv(Counted()).reset(options={"sample_id": 1})[1]["sample_id"] == "1"


def test_samples_in_a_list():
    env = VisualReasoningEnv([sample("a"), sample("b")])
    assert env.data.sample_ids() == ("a", "b")
    assert {env.reset(seed=seed)[1]["sample_id"] for seed in range(20)} == {"a", "b"}
    assert env.step(r"\boxed{white}")[1] == 1.0
    with pytest.raises(DataError, match='got the id "a" twice; expected another one'):
        VisualReasoningEnv([sample("a"), sample("a")])
    with pytest.raises(DataError, match="without samples"):
        VisualReasoningEnv([])


@pytest.mark.parametrize("data", [None, 3, "DIR", [1], [sample(), "b"], sample(), {"a": sample()}, object, Path("x")])
def test_data_that_are_no_samples_are_refused_at_once(data):
    with pytest.raises(TypeError, match=r"^got data=.*; expected a list of Sample, or an object with __len__"):
        VisualReasoningEnv(data)
