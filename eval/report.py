"""Writes one self-contained HTML file about an evaluation run, or about a quick start: the same training with and
without curiosity, side by side."""

from __future__ import annotations

import argparse
import base64
import gzip
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from pxr_agents.statistics import used
from pxr_agents.types import Episode
from .cards import EpisodeCard, card_or_text, choose_samples, text_card
from .charts import Chart, line_chart
from .cost import cost_chart
from .facts import Facts, facts_of, offered_filters
from .records import RunFiles, RunRecord
from .rendering import file_size, render_episode, write_page
from .replay import Replayer
from .tables import cell, label, metric_rows, overview

#: The numbers that come first of every arm.
TILES = ("accuracy", "accuracy_needs_operation", "usage_rate", "first_turn_rate_easy")
#: Episodes that are shown with pictures, where nobody says how many.
PICTURED = 24
#: Episodes whose texts are compressed together: what a browser unpacks to show one of them.
CHUNK = 100
#: Most bytes of pictures in one file. Larger files open ever more slowly (docs/view.md).
PICTURE_BYTES = 200_000_000

NOT_CHOSEN = "This file holds the pictures of other episodes; `pxr eval view` shows those of all."

#: What the list of episodes holds of each, beside its tags.
_COLUMNS = (
    *("sample_id", "repeat", "category", "question", "answer", "target"),
    *("outcome", "score", "usage", "failures"),
)
#: Filters of a quick start.
FILTERS = {"differ": "arms differ", "needed": "operation needed", "easy": "easy", "failed": "had a failure"}
#: Rates that are drawn over the iterations, with what their caption says.
_RATE_CHARTS = {
    "accuracy": "share of correct rollouts",
    "usage_rate": "share of rollouts that executed an operation",
    "usage_rate_needs_operation": "of the samples unreadable at first sight",
    "usage_rate_easy": "of the others",
    "first_turn_rate_easy": "rollouts whose first turn is the answer, of samples that need no operation",
    "accuracy_needs_operation": "correct rollouts, of samples unreadable at first sight",
    "hit_rate": "of the rollouts that used an operation: it showed the evidence larger",
}


def write_report(directory: Path, out: Path, *, n_episodes: int | None = PICTURED) -> None:
    """Write the report of an evaluation run, or of a quick start (which has a `summary.json`), to the file `out`.

    Args:
        n_episodes: how many episodes are shown with their pictures, None for all; the others of an evaluation are
            there as text. For a quick start: how many samples.

    Raises:
        FileNotFoundError: `directory` is neither of the two, or its run is not finished.
    """
    if (directory / "summary.json").exists():
        write_page(out, "training.html.jinja", training_context(directory, n_episodes=n_episodes))
    elif RunFiles(directory).manifest_file.exists():
        write_page(out, "report.html.jinja", run_context(RunFiles(directory), n_episodes=n_episodes))
    else:
        raise FileNotFoundError(
            f'"{directory}" holds neither a manifest.json nor a summary.json. Expected a directory written by '
            "`pxr eval run` or by the quick start; check the path."
        )


def run_context(directory: RunFiles, *, n_episodes: int | None) -> dict[str, Any]:
    """The variables of `report.html.jinja`.

    Args:
        n_episodes: how many episodes have pictures, None for all that fit into `PICTURE_BYTES`.

    Raises:
        FileNotFoundError: the run is not finished.
    """
    manifest, metrics, records = directory.manifest(), directory.metrics(), directory.records()
    chosen = choose_samples([_kind(record) for record in records], len(records) if n_episodes is None else n_episodes)
    cards = _pictured_cards(manifest, records, chosen)
    facts = [facts_of(record) for record in records]
    pictured = {index for index, card in cards.items() if card.no_pictures is None}
    return overview(manifest, metrics) | {
        "task": manifest["env"]["id"],
        "manifest": manifest,
        "manifest_text": json.dumps(manifest, indent=2),
        "n_episodes": len(records),
        "cards": cards,
        "n_pictured": len(pictured),
        "picture_bytes": sum(card.n_picture_bytes for card in cards.values()),
        "n_asked": len(chosen),
        "no_pictures": sorted({card.no_pictures for card in cards.values() if card.no_pictures is not None})[:3],
        "filters": offered_filters(facts) | {"pictured": "with pictures"},
        "operations": sorted({name for each in facts for name in each.usage}),
        "categories": sorted({each.category for each in facts if each.category is not None}),
        "chunk": CHUNK,
        "list": [_row(each, index in pictured) for index, each in enumerate(facts)],
        "texts": _packed(_texts(records, cards)),
    }


def _pictured_cards(
    manifest: Mapping[str, Any], records: Sequence[RunRecord], chosen: Sequence[int]
) -> dict[int, EpisodeCard]:
    """Cards of the chosen episodes by their index, until the pictures have `PICTURE_BYTES`; one that cannot be played
    again has a card without pictures that says why."""
    cards: dict[int, EpisodeCard] = {}
    if not chosen:
        # Making an environment runs its code: who asked for no pictures wants none of it.
        return cards
    try:
        replayer = Replayer(manifest)
    except Exception as error:
        # Whatever an environment raises: its data may lie elsewhere by now. The texts can be shown all the same.
        reason = f"The environment could not be made again: {error}"
        return {index: text_card(records[index], reason) for index in chosen}
    n_bytes = 0
    with closing(replayer):
        for index in chosen:
            card = card_or_text(records[index], replayer)
            n_bytes += card.n_picture_bytes
            if n_bytes > PICTURE_BYTES:
                break
            cards[index] = card
    return cards


def _row(facts: Facts, is_pictured: bool) -> list[Any]:
    """One episode for the script of the page, which calls the values the same in its `COLUMNS`."""
    return [*(getattr(facts, name) for name in _COLUMNS), [*facts.tags, "pictured"] if is_pictured else facts.tags]


def _texts(records: Sequence[RunRecord], cards: Mapping[int, EpisodeCard]) -> Iterator[str]:
    """What is shown of every episode that has no pictures; nothing for those that have."""
    for index, record in enumerate(records):
        yield "" if index in cards else render_episode(text_card(record, NOT_CHOSEN))


def _packed(fragments: Iterator[str]) -> Iterator[str]:
    """Texts for a page that unpacks what it shows: JSON arrays of `CHUNK` strings, gzip, base64."""
    while chunk := list(itertools.islice(fragments, CHUNK)):
        # Stamped with no time: the same run gives the same file.
        packed = gzip.compress(json.dumps(chunk).encode("ascii"), compresslevel=6, mtime=0)
        yield base64.b64encode(packed).decode("ascii")


def _kind(record: RunRecord) -> tuple[object, ...]:
    episode = record.episode
    # Without a question there is nothing to see, so these come last.
    return not episode.prompt, episode.correct, used(episode), any(episode.failures.values()), episode.needs_operation


class TrainedArm(NamedTuple):
    """One training of a quick start: its metrics by iteration, and of its evaluation the metrics, the records by sample
    and the manifest. Without an evaluation the metrics are those of the summary, and there is no manifest."""

    name: str
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    records: dict[str, RunRecord]
    manifest: dict[str, Any] | None


def training_context(directory: Path, *, n_episodes: int | None) -> dict[str, Any]:
    """The variables of `training.html.jinja`.

    Args:
        directory: with `summary.json`, and for each of its arms `arms/NAME/metrics.jsonl` and an evaluation run in
            `arms/NAME/eval`. The summary may hold `targets` (each with `name`, `value`, `bound`, `met`), `seconds`
            (of each stage) and `notes` (sentences the reader has to know).

    Raises:
        ValueError: the summary has no arms, or a file in it cannot be read.
    """
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or not summary.get("arms"):
        raise ValueError(
            f'"{directory / "summary.json"}" has no arms. Expected what the quick start writes; run it again.'
        )
    arms = [_load_arm(directory / "arms" / name, name, values) for name, values in summary["arms"].items()]
    targets, rows = summary.get("targets", []), metric_rows([arm.metrics for arm in arms])
    shared = [name for name in arms[0].records if all(name in arm.records for arm in arms[1:])]
    pairs = _pairs(arms, shared, n_episodes)
    return {
        "summary": summary,
        "arms": arms,
        "targets": targets,
        "n_missed": sum(not target["met"] for target in targets),
        "tiles": [(name, [(arm.name, cell(arm.metrics, name)) for arm in arms]) for name in TILES],
        "charts": _charts(arms),
        "rows": rows,
        "cost": cost_chart([arm.name for arm in arms], rows),
        "pairs": pairs,
        # The first sample on which the arms differ and the last one found the evidence.
        "opened": next((index for index, (cards, _) in enumerate(pairs) if _is_telling(cards)), 0),
        "n_shared": len(shared),
        "filters": FILTERS,
    }


def _charts(arms: Sequence[TrainedArm]) -> list[Chart]:
    """Rates first, then the reward and one chart for each of its terms; what no arm recorded is left out."""
    terms = sorted({key for arm in arms for row in arm.history for key in row if key.startswith("reward/")})
    wanted: list[tuple[str, str, tuple[float, float] | None]]
    wanted = [(name, caption, (0.0, 1.0)) for name, caption in _RATE_CHARTS.items()]
    wanted += [(name, "mean per rollout", None) for name in ("reward", *terms)]
    drawn = []
    for name, caption, limits in wanted:
        series = {
            arm.name: [
                (float(row.get("iteration", index)), float(row[name]))
                for index, row in enumerate(arm.history, start=1)
                if isinstance(row.get(name), int | float)
            ]
            for arm in arms
        }
        drawn.append(line_chart(label(name), series, caption=caption, y_limits=limits))
    return [chart for chart in drawn if chart is not None]


def _load_arm(directory: Path, name: str, summary: Mapping[str, Any]) -> TrainedArm:
    history, run = _read_history(directory / "metrics.jsonl"), RunFiles(directory / "eval")
    if not run.metrics_file.exists():
        numbers = {key: float(value) for key, value in summary.items() if isinstance(value, int | float)}
        return TrainedArm(name, history, {"statistics": numbers}, {}, None)
    records = {record.episode.sample_id: record for record in run.records()}
    return TrainedArm(name, history, run.metrics(), records, run.manifest())


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}. Expected one JSON object per iteration.") from error
    return rows


def _pairs(
    arms: Sequence[TrainedArm], shared: Sequence[str], n_episodes: int | None
) -> list[tuple[list[EpisodeCard], list[str]]]:
    """For every chosen sample the episode of each arm, with the filters it passes."""
    rows = [[arm.records[sample_id] for arm in arms] for sample_id in shared]
    kinds = [
        (row[0].episode.needs_operation, *((one.episode.correct, used(one.episode)) for one in row)) for row in rows
    ]
    chosen = choose_samples(kinds, len(rows) if n_episodes is None else n_episodes)
    with ExitStack() as stack:
        manifests = [arm.manifest for arm in arms if arm.manifest is not None]
        replayers = [stack.enter_context(closing(Replayer(manifest))) for manifest in manifests]
        return [
            (
                [card_or_text(*pair) for pair in zip(rows[index], replayers, strict=True)],
                _tags([record.episode for record in rows[index]]),
            )
            for index in chosen
        ]


def _is_telling(cards: Sequence[EpisodeCard]) -> bool:
    return bool(cards[-1].hit) and cards[-1].episode.correct and not cards[0].episode.correct


def _tags(episodes: Sequence[Episode]) -> list[str]:
    holds = {
        "differ": len({episode.correct for episode in episodes}) > 1,
        "needed": episodes[0].needs_operation is True,
        "easy": episodes[0].needs_operation is False,
        "failed": any(any(episode.failures.values()) for episode in episodes),
    }
    return [tag for tag in FILTERS if holds[tag]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where the page goes."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="of an evaluation or of a quick start")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: DIR/report.html")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument(
        "--episodes", type=int, default=PICTURED, metavar="N", help="episodes to show with their pictures (default: 24)"
    )
    how_many.add_argument("--all", action="store_true", help="show all with pictures, as far as a file can hold them")


def run(arguments: argparse.Namespace) -> int:
    """Write the page."""
    if arguments.episodes < 0:
        raise ValueError(f"got --episodes {arguments.episodes}, expected 0 or more")
    out = arguments.out or arguments.directory / "report.html"
    write_report(arguments.directory, out, n_episodes=None if arguments.all else arguments.episodes)
    print(f"Written to {out} ({file_size(out.stat().st_size)})")
    return 0
