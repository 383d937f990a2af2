"""The benchmarks by name: a small table. A suite is an environment with the arguments of its published protocol."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from rich.table import Table

from eval.options import add_settings, open_console, say
from pxr_env.errors import did_you_mean, quote
from pxr_env.tasks import TASKS


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A benchmark.

    Args:
        name: for `--suite`.
        env_id: the environment that asks its questions.
        arguments: of the environment, where they differ from its defaults; `--set` overrides them.
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
    def needs_data(self) -> bool:
        """Whether it reads a directory (`--data`)."""
        task = TASKS.get(self.env_id.removeprefix("pxr_env:"))
        return task is not None and "data" in task.parameters()


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
    """The suite of that name; an environment id is a suite of its own.

    Raises:
        ValueError: it is neither.
    """
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
    return Suite(
        name=suite["name"],
        env_id=env_id,
        arguments=spec["kwargs"],
        protocol=suite["protocol"],
        source=suite["source"],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which of them, and where their data are."""
    parser.add_argument("names", nargs="*", metavar="SUITE", help="suites (default: all)")
    parser.add_argument("--data", metavar="DIR", help="data of the one suite that is named: its size is counted")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, and the size of a suite whose data are given."""
    suites = [get_suite(name) for name in arguments.names] or list(SUITES.values())
    if arguments.data is not None and (len(arguments.names) != 1 or not suites[0].needs_data):
        raise ValueError("got --data without the name of one suite that reads data, expected one, such as vstar")
    if arguments.env_args and len(arguments.names) != 1:
        raise ValueError("got --set without the name of one suite, expected one")
    console = open_console()
    table = Table("suite", "task", "data", "known by", "size", box=None)
    for suite in suites:
        given = dict(arguments.env_args) | ({} if arguments.data is None else {"data": arguments.data})
        task = suite.env_id.removeprefix("pxr_env:")
        size = "" if suite.needs_data and "data" not in given else _size(suite, given)
        table.add_row(suite.name, task, _data(suite), suite.metrics[0], size)
    console.print(table)
    for suite in suites if arguments.names else ():
        say(console, f"\n{suite.name}: {suite.protocol}\nSource: {suite.source}")
    return 0


def _data(suite: Suite) -> str:
    if not suite.needs_data:
        return "none: drawn"
    task = TASKS[suite.env_id.removeprefix("pxr_env:")]
    return f"--data DIR ({task.data.rpartition(':')[2]} in docs/data.md)"


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
