"""Writes one self-contained HTML file about an evaluation run or a quick start."""

from __future__ import annotations

import argparse
import base64
import gzip
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.cards import EpisodeCard, card_or_text, choose_samples, text_card
from eval.facts import Facts, facts_of, offered_filters
from eval.records import RunFiles, RunRecord
from eval.rendering import file_size, render, write_page
from eval.replay import Replayer
from eval.tables import category_rows, headline, headlines, metric_rows
from eval.training_page import training_context
from pxr_agents.statistics import used

#: Episodes that are shown with pictures, where nobody says how many.
PICTURED = 24
#: Episodes whose texts are compressed together: what a browser unpacks to show one of them.
CHUNK = 100
#: Most bytes of pictures in one file. Larger files open ever more slowly (docs/view.md).
PICTURE_BYTES = 200_000_000

NOT_CHOSEN = "This file holds the pictures of other episodes; `python -m eval view` shows those of all."


def write_report(directory: Path, out: Path, *, n_episodes: int | None = PICTURED) -> None:
    """Write the report of `directory` to the file `out`.

    Args:
        directory: an evaluation run (`python -m eval run`), or a quick start (which has a `summary.json`).
        out: the HTML file; it needs nothing else, neither other files nor the network.
        n_episodes: how many episodes are shown with their pictures, None for all; the others of an evaluation are
            there as text. For a quick start: how many samples.

    Raises:
        FileNotFoundError: `directory` is neither of the two, or its run is not finished.
    """
    if (directory / "summary.json").exists():
        write_page(out, "training.html.jinja", training_context(directory, n_episodes=n_episodes))
    elif RunFiles(directory).manifest_file.exists():
        write_page(out, "run.html.jinja", run_context(RunFiles(directory), n_episodes=n_episodes))
    else:
        raise FileNotFoundError(
            f'"{directory}" holds neither a manifest.json nor a summary.json. Expected a directory written by '
            "`python -m eval run` or by the quick start; check the path."
        )


def run_context(directory: RunFiles, *, n_episodes: int | None) -> dict[str, Any]:
    """The variables of `run.html.jinja`.

    Args:
        n_episodes: how many episodes have pictures, None for all that fit into `PICTURE_BYTES`.

    Raises:
        FileNotFoundError: the run is not finished.
    """
    manifest, metrics, records = directory.manifest(), directory.metrics(), directory.records()
    chosen = choose_samples([_kind(record) for record in records], len(records) if n_episodes is None else n_episodes)
    cards = pictured_cards(manifest, records, chosen, limit=PICTURE_BYTES)
    facts = [facts_of(record) for record in records]
    pictured = {index for index, card in cards.items() if card.no_pictures is None}
    return {
        "task": manifest["env"]["id"],
        "manifest": manifest,
        "manifest_text": json.dumps(manifest, indent=2),
        "headlines": headlines(manifest, metrics),
        "metric": headline(manifest, metrics),
        "rows": metric_rows([metrics], first=headline(manifest, metrics)),
        "categories": category_rows(manifest, metrics),
        "metrics": metrics,
        "n_episodes": len(records),
        "cards": cards,
        "n_pictured": len(pictured),
        "picture_bytes": sum(card.n_picture_bytes for card in cards.values()),
        "n_asked": len(chosen),
        "no_pictures": sorted({card.no_pictures for card in cards.values() if card.no_pictures is not None})[:3],
        "filters": offered_filters(facts) | {"pictured": "with pictures"},
        "operations": sorted({name for each in facts for name in each.usage}),
        "sample_categories": sorted({each.category for each in facts if each.category is not None}),
        "chunk": CHUNK,
        "list": [row(each, index in pictured) for index, each in enumerate(facts)],
        "texts": pack(_texts(records, cards)),
    }


def pictured_cards(
    manifest: dict[str, Any], records: Sequence[RunRecord], chosen: Sequence[int], *, limit: int
) -> dict[int, EpisodeCard]:
    """Cards of the chosen episodes by their index, until the pictures have `limit` bytes.

    An episode that cannot be played again has a card without pictures that says why.
    """
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
    try:
        for index in chosen:
            card = card_or_text(records[index], replayer)
            n_bytes += card.n_picture_bytes
            if n_bytes > limit:
                break
            cards[index] = card
    finally:
        replayer.close()
    return cards


def row(facts: Facts, is_pictured: bool) -> list[Any]:
    """One episode for the script of the page; `COLUMNS` of report.js names the values."""
    shown = [*facts.tags, "pictured"] if is_pictured else list(facts.tags)
    return [
        facts.sample_id,
        facts.repeat,
        facts.category,
        facts.question,
        facts.answer,
        facts.target,
        facts.outcome,
        facts.score,
        facts.usage,
        facts.failures,
        shown,
    ]


def pack(fragments: Iterator[str]) -> Iterator[str]:
    """Texts for a page that unpacks what it shows: JSON arrays of `CHUNK` strings, gzip, base64."""
    while chunk := list(itertools.islice(fragments, CHUNK)):
        # Sorted by nothing, stamped with nothing: the same run gives the same file.
        packed = gzip.compress(json.dumps(chunk).encode("ascii"), compresslevel=6, mtime=0)
        yield base64.b64encode(packed).decode("ascii")


def _texts(records: Sequence[RunRecord], cards: dict[int, EpisodeCard]) -> Iterator[str]:
    """What is shown of every episode that has no pictures; nothing for those that have."""
    for index, record in enumerate(records):
        yield "" if index in cards else render("episode.html.jinja", {"card": text_card(record, NOT_CHOSEN)})


def _kind(record: RunRecord) -> tuple[object, ...]:
    episode = record.episode
    # Without a question there is nothing to see, so these come last.
    return not episode.prompt, episode.correct, used(episode), any(episode.failures.values()), episode.needs_operation


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
