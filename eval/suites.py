"""What is asked: the benchmarks by name, the recipes of released models, and which samples a run is over.

A suite is an environment with the arguments of its published protocol; a recipe is a TOML file with how a model wants
to be asked. The command line overrides recipes, and recipes override suites.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
from rich.table import Table

from pxr_env.datasets import Dataset
from pxr_env.errors import DataError, MediaError, did_you_mean, quote
from pxr_env.synthetic.scenes import ProceduralSamples
from pxr_env.tasks import TASKS
from .options import add_settings, open_console, say


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A benchmark.

    Args:
        name: for `--suite`.
        env_id: the environment that asks its questions.
        arguments: of the environment, where they differ from its defaults.
        metrics: the statistics its papers report, first the one it is known by.
        protocol: what is asked, how it is scored, and what this leaves open.
        source: where that is described.
    """

    name: str
    env_id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("accuracy",)
    protocol: str = ""
    source: str = ""

    @property
    def task(self) -> str:
        """The id without the module that registers it."""
        return self.env_id.removeprefix("pxr_env:")

    @property
    def parameters(self) -> Mapping[str, Any] | None:
        """What its environment takes; None for one that is in no table."""
        task = TASKS.get(self.task)
        return None if task is None else task.parameters()

    @property
    def needs_data(self) -> bool:
        """Whether it reads a directory (`--data`)."""
        return "data" in (self.parameters or ())


def _synthetic(name: str, text: str) -> Suite:
    return Suite(
        name=f"synthetic-{name.lower()}",
        env_id=f"pxr_env:pxr/Synthetic{name}-v0",
        arguments={"split": "test"},
        metrics=("accuracy", "accuracy_needs_operation", "usage_rate"),
        protocol=f"{text} Test split, exact answers. Whether a question needs an operation is certified, so that "
        "needless and missing operations can be counted.",
        source="pxr_env.synthetic, this repository",
    )


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="vstar",
            env_id="pxr_env:pxr/VStar-v0",
            protocol="191 multiple-choice questions (115 direct_attributes, 76 relative_position), asked as published; "
            "accuracy over all and by category. The questions end with an instruction to answer with the letter "
            "directly; `--set instruction=false` drops it.",
            source="Wu and Xie, V*: Guided Visual Search, arXiv 2312.14135, section 5; data craigwu/vstar_bench",
        ),
        Suite(
            name="tallyqa-complex",
            env_id="pxr_env:pxr/TallyQA-v0",
            arguments={"subset": "complex"},
            protocol="The complex questions of the test split; the answer has to be the number. Papers that draw a "
            "part of them (Pixel Reasoner: 3,200) are compared with by giving that part as data.",
            source="Acharya et al., TallyQA, AAAI 2019, arXiv 1810.12440",
        ),
        Suite(
            name="infographicvqa",
            env_id="pxr_env:pxr/InfographicVQA-v0",
            arguments={"split": "val"},
            metrics=("anls", "accuracy"),
            protocol="Validation split (answers of the test split are not public); ANLS with threshold 0.5, the best "
            "over the accepted answers. Accuracy counts answers that were read without a mistake.",
            source="Mathew et al., InfographicVQA, WACV 2022, arXiv 2104.12756; ANLS: Biten et al., arXiv 1905.13648",
        ),
        Suite(
            name="mvbench",
            env_id="pxr_env:pxr/MVBench-v0",
            protocol="Multiple choice about videos; accuracy over all and by task (20 tasks of 200). The published "
            "score is the mean of the tasks, which is that over all where all tasks are there. 16 frames at first, as "
            "`video_frames` says.",
            source="Li et al., MVBench, CVPR 2024, arXiv 2311.17005",
        ),
        Suite(
            name="hrbench",
            env_id="pxr_env:pxr/HRBench-v0",
            protocol="Multiple choice about photographs of 4K or 8K (`--set name=hr_bench_8k`), 200 questions in four "
            "orders of their options each; accuracy over all 800 and by category (single, cross).",
            source="Wang et al., Divide, Conquer and Combine, arXiv 2408.15556; data DreamMr/HR-Bench",
        ),
        _synthetic("Search", "A letter in a coloured box."),
        _synthetic("Count", "How many objects of a kind there are."),
        _synthetic("Infographic", "Text, charts and small print."),
        _synthetic("Video", "An event in a few frames of a video."),
    )
}


def get_suite(name: str) -> Suite:
    """The suite of that name; an environment id is a suite of its own. What is neither is a ValueError."""
    if name in SUITES:
        return SUITES[name]
    # Ids end with their version, as Gymnasium wants it.
    if name.rpartition("-v")[2].isdecimal():
        return Suite(name=name, env_id=name, protocol="an environment with its own defaults", source="its own page")
    raise ValueError(
        f'got the suite "{quote(name)}", expected one of {", ".join(SUITES)}, or the id of an environment such as '
        f"pxr_env:pxr/JSONL-v0.{did_you_mean(name, SUITES)}"
    )


def suite_of(manifest: Mapping[str, Any]) -> Suite:
    """The suite of a run, with the environment's arguments as they were."""
    spec, suite = manifest["env"], manifest["suite"]
    try:
        # With the module that registers it, which a spec does not name.
        env_id = get_suite(suite["name"]).env_id
    except ValueError:
        env_id = spec["id"]
    return Suite(env_id=env_id, arguments=spec["kwargs"], **suite)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of an evaluation that belong to a model.

    Args:
        name: of the recipe, or the path of its file; `sha256` of its bytes.
        model: what the model is called by those who published it; `source` is where the settings come from.
        env: arguments of every environment; `suites` those for single suites by name, which override them.
        sampling: `temperature`, `max_tokens` and `stop`, where it says so.
        body: further fields of a server's requests.
    """

    name: str
    sha256: str
    model: str | None = None
    source: str = ""
    env: Mapping[str, Any] = field(default_factory=dict)
    suites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def environment(self, suite: Suite) -> dict[str, Any]:
        """What it wants of a suite's environment. Own environments that are in no table are given everything.

        Raises:
            ValueError: the environment has no such argument.
        """
        wanted = {**self.env, **self.suites.get(suite.name, {})}
        known = suite.parameters
        for name in wanted:
            if known is not None and name not in known:
                raise ValueError(
                    f"the recipe {self.name} gives {suite.name} the argument {name!r}, which it does not have."
                    f"{did_you_mean(name, known)} Change the recipe."
                )
        return wanted


#: The keys of a recipe, and of those of its tables that have a fixed set.
_KEYS = {
    "": ("model", "source", "env", "suites", "sampling", "server"),
    "sampling": ("temperature", "max_tokens", "stop"),
    "server": ("body",),
}


def recipe_names() -> list[str]:
    """The recipes that come with this package."""
    files = resources.files(__package__).joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_recipe(name: str) -> Recipe:
    """Read a recipe of this package by its name, or any by the path of its file.

    Raises:
        ValueError: there is none, it is no TOML, or it says what no recipe says.
    """
    if name in recipe_names():
        content = resources.files(__package__).joinpath("recipes", f"{name}.toml").read_bytes()
    elif Path(name).is_file():
        content = Path(name).read_bytes()
    else:
        raise ValueError(
            f"got --recipe {quote(name)}, expected one of {', '.join(recipe_names())}, or the path of a TOML file."
            f"{did_you_mean(name, recipe_names())}"
        )
    try:
        told = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the recipe {name} is no TOML: {error}") from error
    _check_keys(name, "", told)
    tables = {key: _table(name, key, told.get(key, {})) for key in ("env", "suites", "sampling", "server")}
    for key in ("sampling", "server"):
        _check_keys(name, key, tables[key])
    return Recipe(
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        model=told.get("model"),
        source=str(told.get("source", "")),
        env=tables["env"],
        suites={suite: _table(name, f"suites.{suite}", given) for suite, given in tables["suites"].items()},
        sampling=tables["sampling"],
        body=_table(name, "server.body", tables["server"].get("body", {})),
    )


def _table(name: str, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"the recipe {name} has {key} = {quote(repr(value))}; expected a table [{key}]")
    return value


def _check_keys(name: str, table: str, given: Iterable[str]) -> None:
    known = _KEYS[table]
    for key in given:
        if key not in known:
            where = f"[{table}] of the recipe {name}" if table else f"the recipe {name}"
            raise ValueError(f"{where} has {key!r}; expected only {', '.join(known)}.{did_you_mean(key, known)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which samples of an environment's data a run is over; all of them by default, in the order of the data.

    Args:
        limit: so many, drawn alike from all categories (see `stratified`).
        first: so many from the beginning of the data.
        sample_ids: these, in this order.

    Raises:
        ValueError: more than one of them came, a number below 1, or ids that are none or come twice.
    """

    limit: int | None = None
    first: int | None = None
    sample_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("limit", "first", "sample_ids") if getattr(self, name) is not None]
        if len(given) > 1:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"got {names}, expected at most one of --limit, --first and --sample-ids")
        for name, value in (("limit", self.limit), ("first", self.first)):
            if value is not None and value < 1:
                raise ValueError(f"got --{name} {value}, expected at least 1, or no limit for all samples")
        if self.sample_ids is not None and len(set(self.sample_ids)) != max(1, len(self.sample_ids)):
            raise ValueError("got --sample-ids without ids, or with the same one twice; expected different ids")

    def choose(self, env: gymnasium.Env) -> list[str]:
        """The ids of the samples, in the order they are run.

        Raises:
            ValueError: the data are empty, or have no sample of an id.
        """
        data: Any = env.unwrapped.data  # type: ignore[attr-defined]
        ids: Sequence[str] = data.sample_ids()
        if len(ids) == 0:
            raise ValueError("the environment has no samples to evaluate on; check the data it was given")
        if self.sample_ids is not None:
            for name in self.sample_ids:
                if name not in ids:
                    near = did_you_mean(name, ids) if len(ids) < 100_000 else ""
                    raise ValueError(f'--sample-ids has "{quote(name)}", which is no sample of these data.{near}')
            return list(self.sample_ids)
        # Of procedural samples any are as good as any others.
        if self.limit is not None and self.limit < len(ids) and not isinstance(data, ProceduralSamples):
            return stratified(ids, lambda name: _category(data, name), self.limit)
        return list(islice(ids, self.limit or self.first))

    def as_manifest(self, chosen: Sequence[str]) -> dict[str, Any]:
        """What a manifest says of it; `chosen` are the ids, which are written down where no number says which."""
        names = {"limit": "stratified", "first": "first", "sample_ids": "ids"}
        how = next((text for name, text in names.items() if getattr(self, name) is not None), "all")
        return {"chosen": how, "ids": list(chosen) if how in ("stratified", "ids") else None}


def choice_of(manifest: Mapping[str, Any]) -> Choice:
    """How the samples of a run were chosen, so that the same ones come again."""
    chosen = manifest["samples"]
    if chosen["ids"] is not None:
        return Choice(sample_ids=tuple(chosen["ids"]))
    return Choice(first=manifest["n_samples"]) if chosen["chosen"] == "first" else Choice()


def stratified(ids: Sequence[str], category_of: Callable[[str], str | None], count: int) -> list[str]:
    """`count` of the samples, from each category as many as are its share, in the order of the data.

    Within a category samples stand in the order of the SHA-256 of their ids: a random order that is the same in every
    run over the same data, whatever its seed. The samples of a smaller choice are in every larger one.

    Args:
        category_of: the category of each; None is one as well.
        count: at most as many as there are.
    """
    groups: dict[str | None, list[str]] = defaultdict(list)
    for name in ids:
        groups[category_of(name)].append(name)
    places: list[tuple[float, str, str]] = []
    for members in groups.values():
        drawn = sorted((hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest(), name) for name in members)
        # The middle of each one's share of its category: the first k of all places hold each category's part of k.
        places += [((rank + 0.5) / len(drawn), digest, name) for rank, (digest, name) in enumerate(drawn)]
    chosen = {name for _, _, name in sorted(places)[:count]}
    return [name for name in ids if name in chosen]


def read_sample_ids(text: str) -> tuple[str, ...]:
    """The ids of `--sample-ids`: one a line of a file, or separated by commas.

    Raises:
        ValueError: the file is no text.
    """
    if os.path.isfile(text):
        try:
            names = Path(text).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f'"{text}" cannot be read as text: {error}; expected one id a line') from error
    else:
        names = text.split(",")
    return tuple(name for part in names if (name := part.strip()))


def _category(data: Any, name: str) -> str | None:
    if isinstance(data, Dataset):
        return data.record(name).category
    try:
        category: str | None = data.get(name).category
    except (DataError, MediaError, OSError):
        # It has no score either; that is for the run to say.
        return None
    return category


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which of them, and where their data are."""
    parser.add_argument("names", nargs="*", metavar="SUITE", help="suites (default: all)")
    parser.add_argument("--data", metavar="DIR", help="data of the one suite that is named: its size is counted")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table of suites, and the size of one whose data are given."""
    suites = [get_suite(name) for name in arguments.names] or list(SUITES.values())
    if arguments.data is not None and (len(arguments.names) != 1 or not suites[0].needs_data):
        raise ValueError("got --data without the name of one suite that reads data, expected one, such as vstar")
    if arguments.env_args and len(arguments.names) != 1:
        raise ValueError("got --set without the name of one suite, expected one")
    console = open_console()
    table = Table("suite", "task", "data", "known by", "size", box=None)
    for suite in suites:
        given = dict(arguments.env_args) | ({} if arguments.data is None else {"data": arguments.data})
        size, data = "", "none: drawn"
        if suite.needs_data:
            data = f"--data DIR ({TASKS[suite.task].data.rpartition(':')[2]} in docs/data.md)"
        if not suite.needs_data or "data" in given:
            size = _size(suite, given)
        table.add_row(suite.name, suite.task, data, suite.metrics[0], size)
    console.print(table)
    for suite in suites if arguments.names else ():
        say(console, f"\n{suite.name}: {suite.protocol}\nSource: {suite.source}")
    return 0


def _size(suite: Suite, given: dict[str, Any]) -> str:
    env = gymnasium.make(suite.env_id, **{**suite.arguments, **given})
    try:
        data: Any = env.unwrapped.data  # type: ignore[attr-defined]
        if not suite.needs_data:
            return f"{len(data):,} samples"
        samples = [data.record(name) for name in data.sample_ids()]
    finally:
        env.close()
    counts = Counter(sample.category for sample in samples if sample.category is not None)
    clusters = len({sample.cluster for sample in samples})
    size = f"{len(samples):,} samples about {clusters:,} images or videos"
    return size + "".join(f", {count:,} {name}" for name, count in sorted(counts.items()))
