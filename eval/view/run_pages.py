"""The pages of one run: its episodes as a list or by question, one episode, one group, the curves of a training.

Pictures are made on demand: episodes are played again when somebody looks, and their cards kept for a while.
"""

from __future__ import annotations

import base64
import importlib
import json
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
from PIL import Image

from pxr_env.errors import MediaError
from pxr_env.media import ImageSource
from pxr_env.media.images import probe
from ..cards import EpisodeCard, SourcePicture, card_or_text, encode, shorten, text_card
from ..facts import offered_filters
from ..records import RunRecord
from ..replay import Replayer
from ..report import training_context
from ..tables import overview
from .curves import History
from .files import EpisodeIndex, Library, OpenFiles, Run, accuracy_so_far, signature
from .query import NotThere, Query, run_link
from .runs_page import agent_name, env_name, model_name, n_expected

#: Episodes, and groups, on one page; episodes of a group that are shown side by side.
EPISODES, GROUPS, SIDE_BY_SIDE = 50, 40, 16
#: Samples of a quick start that are shown with pictures: all are made while the reader waits.
PAIRS = 8
#: Environments and cards that are kept. A card holds its pictures.
MAX_ENVIRONMENTS, MAX_CARDS = 6, 48
#: Most bytes of a picture that a training run drew.
MAX_DRAWN = 20_000_000
#: Numbers of a training that come first.
_TILES = ("accuracy", "usage_rate", "reward", "hit_rate", "failure_rate", "learner/entropy", "seconds/total", "loss")


class Shelf(NamedTuple):
    """The episodes of an evaluation, or of one `iteration` of a training; `room` is the file that says which
    environment they were played in: the manifest, or the recipe."""

    run: Run
    iteration: int | None
    file: Path
    episodes: EpisodeIndex
    room: Path


class _Room:
    """The environment that the episodes of a run were played in, used by one request at a time; `state` is that of the
    file that describes it."""

    def __init__(self, file: Path, state: str) -> None:
        self.lock = threading.Lock()
        self.replayer: Replayer | None = None
        self.reason = ""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            self.replayer = Replayer(content if file.name == "manifest.json" else recipe_manifest(content))
        except Exception as error:
            # Data that lie elsewhere, a package that is not installed, somebody's own environment.
            self.reason = f"The environment could not be made again: {error or repr(error)}"
        else:
            weakref.finalize(self, self.replayer.close)


class RunPages:
    """Makes what the templates show of one run.

    Args:
        replay: whether environments may be made; their code is that which the manifest names.
    """

    def __init__(
        self, library: Library, indexes: OpenFiles[EpisodeIndex], histories: OpenFiles[History], *, replay: bool
    ) -> None:
        self._library, self._indexes, self._histories, self._replay = library, indexes, histories, replay
        self._room = lru_cache(maxsize=MAX_ENVIRONMENTS)(_Room)
        self._card = lru_cache(maxsize=MAX_CARDS)(self._new_card)

    def page(self, run: Run, query: Query) -> tuple[str, dict[str, Any]]:
        """The template and its variables.

        Raises:
            NotThere: there is no such episode, group or iteration.
        """
        places: list[tuple[str, str | None]] = [(run.key, run_link(run.key))]
        common = {"run": run, "link": run_link(run.key), "query": query, "live": run.is_running, "crumbs": places}
        if run.kind == "quick start":
            context = training_context(run.path, n_episodes=PAIRS if self._replay else 0)
            return "training.html.jinja", common | context | {"live": False}
        if run.kind == "training" and query.get("iteration") is None:
            return "view_training.html.jinja", common | self._training(run, query)
        shelf = self._shelf(run, query)
        if shelf.iteration is not None:
            places.append((f"iteration {shelf.iteration}", f"{run_link(run.key)}?iteration={shelf.iteration}"))
        kinds: dict[str, Callable[[Shelf, Query], dict[str, Any]]]
        kinds = {"episode": self._episode, "group": self._group, "groups": self._groups, "list": self._list}
        kind = next((name for name in ("episode", "group") if query.get(name) is not None), "list")
        if kind == "list" and query.get("view") == "groups":
            kind = "groups"
        shown = kinds[kind](shelf, query)
        if "here" in shown:
            places.append((shown["here"], None))
        return "view_run.html.jinja", common | self._of_shelf(shelf) | {"kind": kind, "here": ""} | shown

    def version(self, run: Run) -> str:
        """Changes when a page would: what browsers compare to know whether to ask for it."""
        files = [run.path / name for name in ("manifest.json", "metrics.json", "recipe.json", "model", "episodes")]
        # "running" turns into "interrupted" as time goes by.
        return f"{signature(run.lines, *files)}-{run.is_running:d}"

    def picture(self, run: Run, query: Query) -> tuple[str, bytes]:
        """The type and the bytes of a whole source of an episode: what a page shows in small.

        Raises:
            NotThere: there is no such episode or source, or it cannot be made again.
        """
        shelf = self._shelf(run, query)
        record = shelf.episodes.record(self._number(shelf, query))
        number, frame = query.number("picture"), query.number("frame")
        try:
            return encode(self._source(shelf.room, record, number, frame))
        except LookupError as error:
            raise NotThere(f"got the picture {number}, frame {frame}; {error}") from error

    def _source(self, file: Path, record: RunRecord, number: int, frame: int) -> Image.Image:
        """A source of an episode as it is, by its number from 1; `frame` by its index where it is a video."""
        if not self._replay:
            raise LookupError("the viewer was started with --no-pictures.")
        room = self._room(file, signature(file))
        with room.lock:
            if room.replayer is None:
                raise LookupError(room.reason)
            sources = room.replayer.replay(record.episode).sources
            if not 1 <= number <= len(sources):
                raise LookupError(f"the episode has {len(sources)} of them.")
            found = sources[number - 1]
            return found.image if isinstance(found, ImageSource) else found.frame(frame)

    def _new_card(self, shelf: Shelf, number: int, *states: str) -> EpisodeCard:
        """The card of an episode, for as long as its file and its environment's are in these states."""
        record = shelf.episodes.record(number)
        if not self._replay:
            return text_card(record, "The viewer was started with --no-pictures.")
        room = self._room(shelf.room, states[-1])
        with room.lock:
            return text_card(record, room.reason) if room.replayer is None else card_or_text(record, room.replayer)

    def _shown(self, shelf: Shelf, number: int) -> EpisodeCard:
        card = self._card(shelf, number, signature(shelf.file), signature(shelf.room))
        return drawn_card(card, shelf.file.parent / f"{number + 1}.png") if shelf.iteration is not None else card

    def _shelf(self, run: Run, query: Query) -> Shelf:
        if run.kind == "evaluation":
            return Shelf(run, None, run.lines, self._indexes.get(run.lines), run.path / "manifest.json")
        iteration = query.number("iteration")
        if iteration not in run.iterations():
            raise NotThere(
                f"got iteration {iteration}, expected one whose episodes were written down. Choose one on the page of "
                "the run."
            )
        file = run.path / "episodes" / str(iteration) / "episodes.jsonl"
        return Shelf(run, iteration, file, self._indexes.get(file), run.path / "recipe.json")

    def _of_shelf(self, shelf: Shelf) -> dict[str, Any]:
        """What all pages of these episodes show."""
        content = self._library.read(shelf.room)
        return {
            "iteration": shelf.iteration,
            "task": env_name(content),
            "agent": agent_name(content) if shelf.iteration is None else model_name(content.get("model")),
            "n_episodes": len(shelf.episodes.facts),
        }

    def _of_list(self, shelf: Shelf, query: Query, found: Sequence[Any], size: int) -> dict[str, Any]:
        """What the pages share that list episodes or groups, with filters."""
        episodes = shelf.episodes
        return query.paged(found, size) | {
            "filters": offered_filters(episodes.facts),
            "operations": episodes.operations(),
            "categories": episodes.categories(),
        }

    def _list(self, shelf: Shelf, query: Query) -> dict[str, Any]:
        episodes = shelf.episodes
        manifest = self._library.read(shelf.run.path / "manifest.json")
        metrics = self._library.read(shelf.run.path / "metrics.json") if shelf.iteration is None else {}
        finished = isinstance(metrics.get("statistics"), dict)
        listed = self._of_list(shelf, query, episodes.select(query.selection), EPISODES)
        rows = [(number, episodes.facts[number], _episode_link(shelf, query, number)) for number in listed["shown"]]
        return (
            listed
            | (overview(manifest, metrics) if finished else {"metrics": None})
            | {
                "rows": rows,
                "so_far": accuracy_so_far(episodes.facts),
                "n_expected": n_expected(manifest),
                "manifest_text": json.dumps(manifest, indent=2),
                "unreadable": list(episodes.unreadable.items()),
                "has_groups": any(facts.repeat for facts in episodes.facts),
            }
        )

    def _groups(self, shelf: Shelf, query: Query) -> dict[str, Any]:
        episodes = shelf.episodes
        passing = set(episodes.select(query.selection))
        groups = [members for members in episodes.samples().values() if passing.intersection(members)]
        listed = self._of_list(shelf, query, groups, GROUPS)
        rows = []
        for members in listed["shown"]:
            facts = [episodes.facts[number] for number in members]
            link = query.link(group=facts[0].sample_id, view=None, page=None)
            links = [_episode_link(shelf, query, number) for number in members]
            rows.append((members[0], facts[0], link, list(zip(facts, links, strict=True)), accuracy_so_far(facts)))
        return listed | {"rows": rows, "here": "by question"}

    def _number(self, shelf: Shelf, query: Query) -> int:
        """The episode that is asked for."""
        number = shelf.episodes.find(query.get("episode") or "", query.number("nth"))
        if number is None:
            raise NotThere(f"the run has no episode {query.get('episode')!r} of that number; choose one from its list.")
        return number

    def _episode(self, shelf: Shelf, query: Query) -> dict[str, Any]:
        episodes, number = shelf.episodes, self._number(shelf, query)
        found = episodes.select(query.selection)
        if number not in found:
            # A link that was shared may come with filters that another state of the run passed.
            found = list(range(len(episodes.facts)))
        place = found.index(number)
        facts = episodes.facts[number]
        return {
            "card": self._shown(shelf, number),
            "facts": facts,
            "here": facts.sample_id,
            "n_of_sample": len(episodes.group(facts.sample_id)),
            "place": place + 1,
            "n_found": len(found),
            "earlier": _episode_link(shelf, query, found[place - 1]) if place else None,
            "later": _episode_link(shelf, query, found[place + 1]) if place + 1 < len(found) else None,
            "address": _episode_link(shelf, query, number),
            "up": query.link(episode=None, nth=None, page=place // EPISODES or None) + f"#episode-{number}",
        }

    def _group(self, shelf: Shelf, query: Query) -> dict[str, Any]:
        episodes, sample_id = shelf.episodes, query.get("group") or ""
        group = episodes.group(sample_id)
        if not group:
            raise NotThere(f"the run has no episodes of {sample_id!r}; choose one from its list.")
        facts = [episodes.facts[number] for number in group]
        samples = [name for name, members in episodes.samples().items() if len(members) > 1 or name == sample_id]
        place = samples.index(sample_id)
        paged = query.paged(group, SIDE_BY_SIDE)
        return paged | {
            "here": f"{shorten(sample_id, 40)}, {len(group)} episodes",
            "facts": facts,
            "cards": [
                (self._shown(shelf, number), episodes.nth(number) + 1, _episode_link(shelf, query, number))
                for number in paged["shown"]
            ],
            "so_far": accuracy_so_far(facts),
            "n_used": sum("used" in each.tags for each in facts),
            "place": place + 1,
            "n_found": len(samples),
            "earlier": query.link(group=samples[place - 1], page=None) if place else None,
            "later": query.link(group=samples[place + 1], page=None) if place + 1 < len(samples) else None,
            "up": query.link(group=None, view="groups", page=place // GROUPS or None) + f"#group-{group[0]}",
        }

    def _training(self, run: Run, query: Query) -> dict[str, Any]:
        history, recipe = self._histories.get(run.lines), self._library.read(run.path / "recipe.json")
        last = history.rows[-1] if history.rows else {}
        return {
            "history": history,
            "recipe": recipe,
            "recipe_text": json.dumps(recipe, indent=2) if recipe else "",
            "task": env_name(recipe),
            "done": int(last.get(history.counter, len(history.rows))),
            "tiles": [(name, last[name]) for name in _TILES if name in last],
            "iterations": [(number, query.link(iteration=number)) for number in run.iterations()],
        }


def _episode_link(shelf: Shelf, query: Query, number: int) -> str:
    sample_id, nth = shelf.episodes.facts[number].sample_id, shelf.episodes.nth(number)
    return query.link(episode=sample_id, nth=nth or None, page=None, group=None, view=None)


def recipe_manifest(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What `Replayer` needs, from the recipe of a training run.

    Raises:
        ValueError: the recipe names no environment.
        gymnasium.error.Error: it names one that is not registered here.
        ImportError: the module that registers it is not installed.
    """
    env = recipe.get("env")
    if not isinstance(env, Mapping) or not isinstance(env.get("id"), str):
        raise ValueError('recipe.json names no environment; expected "env" with an "id".')
    module, _, name = env["id"].rpartition(":")
    if module:
        importlib.import_module(module)
    content = json.loads(gymnasium.spec(name).to_json())
    content["kwargs"] = {**content["kwargs"], **(env.get("kwargs") or {})}
    return {"env": content}


def drawn_card(card: EpisodeCard, picture: Path) -> EpisodeCard:
    """`card` with the picture that the training run drew, where it has none of its own."""
    if card.no_pictures is None or not picture.is_file() or picture.stat().st_size > MAX_DRAWN:
        return card
    try:
        width, height = probe(picture)
    except MediaError:
        return card
    href = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
    return replace(card, sources=[SourcePicture(href, 1, None, width, height, marks=())])
