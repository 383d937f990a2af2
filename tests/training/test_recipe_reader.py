"""Recipes from files and the command line: what they become, and what a mistake is told."""

import json
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from training import recipe_reader
from training.recipe_reader import RECIPE, RecipeError, load_recipe, recipe_keys, to_dict


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class Phase:
    """A phase."""

    steps: PositiveInt
    """How long
    it lasts."""
    length: int = 1
    """How long it is."""
    rate: float = 0.5
    """How fast: in steps per second."""

    def __post_init__(self) -> None:
        if self.rate > self.length:
            raise ValueError("too fast")


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class Plan:
    """No attributes are described."""

    name: str
    folder: Path = Path("runs")
    kind: Literal["plain", "fancy"] = "plain"
    limit: float | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    sizes: tuple[int, ...] = ()
    active: bool = False
    options: dict[str, Any] = field(default_factory=lambda: {"kept": 1, "changed": 2})
    weights: dict[str, float] = field(default_factory=dict)
    # Not the defaults of the class: a table must leave these alone.
    first: Phase = field(default_factory=lambda: Phase(steps=7, length=9, rate=8.0))


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides, recipe_class=Plan, suffix=".toml"):
        path = tmp_path / f"plan{suffix}"
        path.write_text(text)
        return load_recipe(path, recipe_class, overrides)

    return load


FULL = """
name = "n"
folder = "out"
kind = "fancy"
limit = 3
betas = [0, 0.5]
sizes = [1, 2, 3]
active = true
options = {changed = "x", new = [1]}
weights.a = 1
[first]
rate = 2
"""


class TestValues:
    def test_every_kind(self, load):
        plan = load(FULL)
        assert plan == Plan(
            name="n",
            folder=Path("out"),
            kind="fancy",
            limit=3.0,
            betas=(0.0, 0.5),
            sizes=(1, 2, 3),
            active=True,
            options={"kept": 1, "changed": "x", "new": [1]},
            weights={"a": 1.0},
            first=Phase(steps=7, length=9, rate=2.0),
        )
        assert [type(number) for number in (plan.limit, *plan.betas, plan.weights["a"])] == [float] * 4

    def test_what_is_left_out_keeps_its_default(self, load):
        assert load('name = "n"') == load_recipe(None, Plan, ["name=n"]) == Plan(name="n")
        # A value cannot smuggle in another key.
        assert load('name = "n"', "name=1\nactive=true") == Plan(name="1\nactive=true")

    def test_overrides_come_after_the_file(self, load):
        plan = load(
            FULL, "name=runs/some path", "limit=1e-3", "betas=[0.25, 1]", "first.steps=3", "options.new=false",
            "options.deep.er=1", 'weights={b = 2.0}', "folder = 'quoted'", "sizes=[]",
        )  # fmt: skip
        assert (plan.name, plan.limit, plan.betas) == ("runs/some path", 0.001, (0.25, 1.0))
        assert plan.first == Phase(steps=3, length=9, rate=2.0)
        assert plan.options == {"kept": 1, "changed": "x", "new": False, "deep": {"er": 1}}
        assert plan.weights == {"a": 1.0, "b": 2.0}
        assert (plan.folder, plan.sizes) == (Path("quoted"), ())

    def test_written_and_read_again(self, load):
        plan = load(FULL)
        written = to_dict(plan)
        assert json.loads(json.dumps(written)) == written
        assert (written["folder"], written["betas"], written["first"]["steps"]) == ("out", [0.0, 0.5], 7)
        assert load(json.dumps(written), suffix=".json") == plan
        assert load(json.dumps(to_dict(Plan(name="n"))), suffix=".json") == Plan(name="n")

    def test_a_recipe_by_name(self, tmp_path, monkeypatch):
        monkeypatch.setattr(recipe_reader, "RECIPES", tmp_path)
        (tmp_path / "quick.toml").write_text('name = "q"')
        (tmp_path / "slow.toml").write_text('name = "s"')
        assert load_recipe("quick", Plan).name == "q"
        with pytest.raises(RecipeError, match=r'quikc: there is no .* package: quick, slow\. Did you mean "quick"\?'):
            load_recipe("quikc", Plan)


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("nmae = 'n'", r'plan\.toml: nmae: there is no such key\. Did you mean "name"\?'),
            ("name = 'n'\n[first]\nsetps = 1", r'plan\.toml: first\.setps: .* Did you mean "first\.steps"\?'),
            ("name = 'n'\nrate = 1", r'rate: .* Did you mean "first\.rate"\?'),
            ("name = 'n'\nxyzzy = 1", "xyzzy: there is no such key. Expected one of name, folder, kind"),
            ("active = true", "name: is missing"),
            ("name = 3", "name: got 3; expected a valid string"),
            ("name = 'n'\nsizes = [1, 2.5]", r"sizes\[1\]: got 2.5; expected a valid integer"),
            ("name = 'n'\nbetas = [1]", r"betas\[1\]: is missing"),
            ("name = 'n'\nlimit = true", "limit: got true; expected a valid number"),
            ("name = 'n'\nactive = 1", "active: got 1; expected a valid boolean"),
            ("name = 'n'\nactive = 2024-01-01", 'active: got "2024-01-01"; expected a valid boolean'),
            ("name = 'n'\nkind = 'fanzy'", r"kind: got .* expected 'plain' or 'fancy'\. Did you mean \"fancy\"\?"),
            ("name = 'n'\nweights.a = 'x'", r"weights\.a: got \"x\"; expected a valid number"),
            ("name = 'n'\nfirst = 1", "first: got 1; expected an object"),
            ("name = 'n'\noptions = 1", "options: got 1; expected an object"),
            ("name = 'n'\nfirst.steps = 0", r"plan\.toml: first\.steps: got 0; expected greater than 0"),
            ("name = 'n'\nfirst.length = 1", r"plan\.toml: first: too fast"),
            ("\nname = x", r"plan\.toml: cannot be parsed: .*line 2"),
        ],
    )
    def test_in_a_file(self, load, text, message):
        with pytest.raises(RecipeError, match=message):
            load(text)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("limti=1", r'^command line: limti: .* Did you mean "limit"\?'),
            ("limit=1e-6x", '^command line: limit: got "1e-6x"; expected a valid number'),
            ("sizes=[1, 'a']", r"^command line: sizes\[1\]"),
            ("active=True", '^command line: active: got "True"; expected a valid boolean'),
            ("first.steps=0", r"^command line: first\.steps: got 0"),
            ("first.length=1", r"plan\.toml and command line: first: too fast"),
            ("sizes=[1", r"^command line: sizes: .* no TOML value"),
            ("name.x=1", "^command line: name.x: name is \"n\"; expected a table"),
            ("limit", "^command line: got 'limit'; expected key=value"),
            ("=1", "^command line: got '=1'; expected key=value"),
        ],
    )  # fmt: skip
    def test_on_the_command_line(self, load, override, message):
        with pytest.raises(RecipeError, match=message):
            load('name = "n"', override)

    def test_all_at_once_each_with_its_origin(self, load):
        with pytest.raises(RecipeError) as caught:
            load("name = 3\nlimti = 1", "first.steps=x", "active=true")
        places = [line.split(": ")[:2] for line in str(caught.value).splitlines()]
        assert [key for _, key in places] == ["name", "first.steps", "limti"]
        assert [place.endswith("plan.toml") for place, _ in places] == [True, False, True]

    def test_no_such_file_and_no_table(self, load, tmp_path):
        with pytest.raises(RecipeError, match=r"none\.toml: there is no such recipe .*No such file"):
            load_recipe(tmp_path / "none.toml", Plan)
        with pytest.raises(RecipeError, match=r"holds \[1\]"):
            load("[1]", suffix=".json")


def test_keys_for_a_help_text():
    keys = dict(recipe_keys(Plan))
    assert list(keys)[-4:] == ["weights", "first.steps", "first.length", "first.rate"]
    assert (keys["first.steps"], keys["first.length"]) == ("How long it lasts.", "How long it is.")
    assert keys["first.rate"] == "How fast: in steps per second."
    assert keys["name"] == ""
