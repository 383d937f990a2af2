"""Runs side by side on the samples they share, what makes them unlike, and which is better."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pxr_env.errors import quote
from .differences import MODEL_FIELDS, Difference, describe, find_differences
from .intervals import PairedTest, holm, paired_test
from .manifest import score_name
from .metrics import by_sample, evaluation_metrics
from .options import open_console, say
from .records import RunFiles, RunRecord
from .tables import Cell, cell

#: Below this a difference is called significant.
ALPHA = 0.05
MATTERS = {"yes": "matters", "maybe": "may matter", "compared": "is compared", "no": "does not matter"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two of the runs: names, tests by metric, and the p-values adjusted for the number of pairs."""

    first: str
    second: str
    tests: Mapping[str, PairedTest]
    adjusted: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunComparison:
    """Runs on their common samples.

    Args:
        differences: of their manifests, those that matter first.
        n_common: samples that all runs have, the same ones by their digests, and with a score.
        n_changed, n_unscored: samples with other content under the same id, or without a score; they are left out.
        n_clusters: groups of the compared samples that belong together.
        metrics: of each run over the common samples, see `eval.metrics.evaluation_metrics`; those named `NAME_all`
            over the samples that some run could not score as well, where they count as wrong.
    """

    names: tuple[str, ...]
    differences: tuple[Difference, ...]
    n_samples: tuple[int, ...]
    n_common: int
    n_changed: int
    n_unscored: int
    n_clusters: int
    metrics: tuple[dict[str, Any], ...]
    pairs: tuple[Pair, ...]

    @property
    def metric(self) -> str:
        """What the runs are known by: the mean of their scorer where that grades, else accuracy."""
        return list(self.pairs[0].tests)[-1]

    @property
    def categories(self) -> list[str]:
        """Those that the samples of some run have."""
        return list(dict.fromkeys(name for of_run in self.metrics for name in of_run["by_category"]))

    def of_category(self, name: str) -> list[Cell | None]:
        """What the runs are known by, of the samples of one category."""
        return [cell(of_run["by_category"].get(name, {"statistics": {}}), self.metric) for of_run in self.metrics]

    @property
    def obstacles(self) -> list[str]:
        """Why the runs cannot be ranked; empty if they can."""
        matter = [difference.field for difference in self.differences if difference.matters == "yes"]
        obstacles = [f"they differ in {', '.join(matter)}"] if matter else []
        if self.n_changed:
            obstacles.append(f"{self.n_changed} samples have the same id and other content")
        return obstacles


def compare_runs(
    directories: Sequence[Path], *, compared: Collection[str] = MODEL_FIELDS, seed: int = 0
) -> RunComparison:
    """Compare finished runs on the samples they share.

    Args:
        compared: fields of the manifest that are meant to differ.
        seed: of random changes of sign, see `eval.intervals.sign_flip_p`.

    Raises:
        ValueError: fewer than two runs, or no common sample.
        FileNotFoundError: a run is not finished.
    """
    if len(directories) < 2:
        raise ValueError(f"got {len(directories)} run, expected two or more to compare")
    runs = [RunFiles(directory) for directory in directories]
    for run in runs:
        run.metrics()  # Raises for a run that is not finished.
    names = _names(directories)
    manifests = [run.manifest() for run in runs]
    recorded = [run.records() for run in runs]
    groups = [by_sample(of_run) for of_run in recorded]
    shared, scored, common = common_samples(groups)
    if not common:
        raise ValueError(
            f"the runs {', '.join(names)} have no sample in common that all of them scored; expected runs of one "
            "benchmark"
        )
    asked = set(shared) - (set(scored) - set(common))
    graded = {score_name(manifest) for manifest in manifests}
    metric = graded.pop() if len(graded) == 1 else "score"
    clusters = [groups[0][name][0].belongs_to for name in common]
    metrics = []
    for group, of_run in zip(groups, recorded, strict=True):
        kept = [record for name in common for record in group[name]]
        metrics.append(_metrics(kept, [one for one in of_run if one.episode.sample_id in asked], metric))
    return RunComparison(
        names=names,
        differences=tuple(find_differences(manifests, compared)),
        n_samples=tuple(map(len, groups)),
        n_common=len(common),
        n_changed=len(scored) - len(common),
        n_unscored=len(shared) - len(scored),
        n_clusters=len(set(clusters)),
        metrics=tuple(metrics),
        pairs=_pairs(names, [_scores(group, common, metric) for group in groups], clusters, seed),
    )


class _Scored(Protocol):
    @property
    def sample_sha256(self) -> str | None: ...


def common_samples(groups: Sequence[Mapping[str, Sequence[_Scored]]]) -> tuple[list[str], list[str], list[str]]:
    """The samples that all runs have; those of them that all scored; those of them that are the same by their digests.

    Args:
        groups: of each run, what has a score of every sample.
    """
    shared = [sample_id for sample_id in groups[0] if all(sample_id in other for other in groups[1:])]
    scored = [sample_id for sample_id in shared if all(group[sample_id] for group in groups)]
    same = [sample_id for sample_id in scored if len({group[sample_id][0].sample_sha256 for group in groups}) == 1]
    return shared, scored, same


def verdict(comparison: RunComparison, pair: Pair, metric: str) -> str:
    """One sentence about two runs: which one is better, that this is not known, or that they cannot be compared."""
    if comparison.obstacles:
        return f"{pair.first} and {pair.second} are not ranked: {'; '.join(comparison.obstacles)}."
    test, p_value = pair.tests[metric], pair.adjusted[metric]
    if p_value >= ALPHA:
        return f"{pair.first} and {pair.second} do not differ significantly in {metric} (p = {p_value:.3g})."
    better, worse = (pair.second, pair.first) if test.difference > 0 else (pair.first, pair.second)
    return f"{better} is better than {worse} in {metric} by {abs(test.difference):.3f} (p = {p_value:.2g})."


def _metrics(scored: Sequence[RunRecord], asked: Sequence[RunRecord], graded: str) -> dict[str, Any]:
    """Metrics over what all runs scored; those named `NAME_all` over what all were asked."""
    metrics, of_all = (evaluation_metrics(records, score_name=graded) for records in (scored, asked))
    for part in ("statistics", "intervals", "counts"):
        metrics[part] |= {name: value for name, value in of_all[part].items() if name.endswith("_all")}
    return metrics


def _pairs(
    names: Sequence[str], scores: Sequence[Mapping[str, list[float]]], clusters: Sequence[str], seed: int
) -> tuple[Pair, ...]:
    couples = list(itertools.combinations(range(len(names)), 2))
    tests = [
        {metric: paired_test(scores[i][metric], scores[j][metric], clusters, seed=seed) for metric in scores[i]}
        for i, j in couples
    ]
    adjusted = {metric: holm([of_pair[metric].p_value for of_pair in tests]) for metric in tests[0]}
    return tuple(
        Pair(
            first=names[i],
            second=names[j],
            tests=tests[index],
            adjusted={metric: values[index] for metric, values in adjusted.items()},
        )
        for index, (i, j) in enumerate(couples)
    )


def _scores(groups: Mapping[str, list[RunRecord]], common: Sequence[str], graded: str) -> dict[str, list[float]]:
    """One number per sample and metric: the mean over its repeats."""
    scores = {"accuracy": [fmean(record.episode.correct for record in groups[name]) for name in common]}
    if graded != "score":
        scores[graded] = [fmean(record.score or 0.0 for record in groups[name]) for name in common]
    return scores


def _names(directories: Sequence[Path]) -> tuple[str, ...]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [directory.resolve().parts for directory in directories]
    for length in range(1, max(map(len, parts)) + 1):
        names = tuple("/".join(part[-length:]) for part in parts)
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"got the same run twice: {quote(', '.join(map(str, directories)), 200)}; expected different ones")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and what is meant to differ."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="two or more finished runs")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="FIELD",
        help="field of the manifest that is meant to differ besides the model, such as prompt or pixels.image; may be "
        "repeated",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random changes of sign (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison."""
    comparison = compare_runs(arguments.runs, compared=(*MODEL_FIELDS, *arguments.allow), seed=arguments.seed)
    print_comparison(comparison)
    if arguments.json is not None:
        content = asdict(comparison) | {"obstacles": comparison.obstacles}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def print_comparison(comparison: RunComparison, console: Console | None = None) -> None:
    """Print all of it; differences on a line each, so that no terminal is too narrow."""
    console, names = console or open_console(), comparison.names
    alike = f"Unlike manifests ({' | '.join(names)}):" if comparison.differences else "The manifests are alike."
    say(console, alike)
    for difference in comparison.differences:
        matters = MATTERS[difference.matters]
        say(console, f"  {matters:<16} {difference.field}: {describe(difference)} ({difference.why})")
    counts = ", ".join(f"{name} {n}" for name, n in zip(names, comparison.n_samples, strict=True))
    left_out = f"{comparison.n_unscored} that a run could not score, {comparison.n_changed} with other content"
    say(console, "", f"{comparison.n_common} samples are compared (of {counts}; left out: {left_out}).")
    if comparison.n_clusters < comparison.n_common:
        n_clusters = comparison.n_clusters
        say(console, f"They belong to {n_clusters} images, videos or questions; intervals and tests go by these.")
    statistics = dict.fromkeys(name for metrics in comparison.metrics for name in metrics["statistics"])
    rows = {name: [cell(metrics, name) for metrics in comparison.metrics] for name in statistics}
    console.print(_table("metric", names, rows))
    if comparison.categories:
        by_category = {category: comparison.of_category(category) for category in comparison.categories}
        console.print(_table(f"{comparison.metric} by category", names, by_category))
    tests = [(pair, metric) for pair in comparison.pairs for metric in pair.tests]
    say(console, *(_test_line(pair, metric, len(comparison.pairs)) for pair, metric in tests), "")
    verdicts = [verdict(comparison, pair, metric) for pair, metric in tests]
    # Why two runs are not ranked is the same for all metrics and pairs.
    n_first = len(comparison.pairs[0].tests)
    say(console, *(verdicts[:n_first] if comparison.obstacles else verdicts))


def _test_line(pair: Pair, metric: str, n_pairs: int) -> str:
    test = pair.tests[metric]
    return (
        f"{pair.second} - {pair.first}: {metric} {test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f}), "
        f"better on {test.n_second} samples, worse on {test.n_first}; p = {test.p_value:.3g} "
        f"({'exact McNemar' if test.name == 'mcnemar' else 'sign-flip test'})"
        + (f", {pair.adjusted[metric]:.3g} after Holm" if n_pairs > 1 else "")
    )


def _table(title: str, names: Sequence[str], rows: Mapping[str, Sequence[Cell | None]]) -> Table:
    """A table with a column for every run."""
    table = Table(title, *names, box=None)
    for label, cells in rows.items():
        texts = ("" if one is None else one.text + (f" ({one.interval})" if one.interval else "") for one in cells)
        table.add_row(Text(label), *texts)
    return table
