"""What the report of one evaluation run shows."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from eval.cards import EpisodeCard, build_card, choose_samples, text_card
from eval.facts import ALWAYS, FILTERS, Facts, facts_of
from eval.records import Record, RunDirectory
from eval.rendering import render
from eval.replay import Replayer
from eval.tables import category_rows, headline, headlines, metric_rows
from pxr_agents.statistics import used

#: Episodes whose texts are compressed together: what a browser unpacks to show one of them.
CHUNK = 100
#: Most bytes of pictures in one file. Larger files open ever more slowly (docs/view.md).
PICTURE_BYTES = 200_000_000

NOT_CHOSEN = "This file holds the pictures of other episodes; `python -m eval view` shows those of all."


def run_context(directory: RunDirectory, *, n_episodes: int | None) -> dict[str, Any]:
    """The variables of `run.html.jinja`.

    Args:
        directory: a finished run.
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


def offered_filters(facts: Sequence[Facts]) -> dict[str, str]:
    """The filters that say something about these episodes."""
    present = {tag for each in facts for tag in each.tags}
    return {tag: text for tag, text in FILTERS.items() if tag in present or tag in ALWAYS}


def pictured_cards(
    manifest: dict[str, Any], records: Sequence[Record], chosen: Sequence[int], *, limit: int
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


def card_or_text(record: Record, replayer: Replayer) -> EpisodeCard:
    """The card of an episode; if it cannot be played again, one without pictures that says why."""
    if not record.episode.prompt and record.episode.error is not None:
        return text_card(record, "The question could not be shown.")
    try:
        return build_card(record, replayer)
    except Exception as error:
        # Data that moved, another version, a mistake in somebody's environment: the record is still worth reading.
        return text_card(record, str(error) or repr(error))


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


def _texts(records: Sequence[Record], cards: dict[int, EpisodeCard]) -> Iterator[str]:
    """What is shown of every episode that has no pictures; nothing for those that have."""
    for index, record in enumerate(records):
        yield "" if index in cards else render("episode.html.jinja", {"card": text_card(record, NOT_CHOSEN)})


def _kind(record: Record) -> tuple[object, ...]:
    episode = record.episode
    # Without a question there is nothing to see, so these come last.
    return not episode.prompt, episode.correct, used(episode), any(episode.failures.values()), episode.needs_operation
