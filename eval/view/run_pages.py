"""The pages of one run: its episodes as a list or by group, one episode, one group, the curves of a training."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.cards import EpisodeCard, encode
from eval.facts import offered_filters
from eval.tables import category_rows, headline, headlines, metric_rows
from eval.training_page import training_context
from eval.view.curves import History
from eval.view.index import EpisodeIndex, OpenFiles, accuracy_so_far
from eval.view.library import Library, Run, signature
from eval.view.pictures import Pictures, drawn_card
from eval.view.query import NotThere, Query, run_link
from eval.view.runs_page import agent_name, env_name, model_name

#: Episodes, and groups, on one page; episodes of a group that are shown side by side.
EPISODES, GROUPS, SIDE_BY_SIDE = 50, 40, 16
#: Samples of a quick start that are shown with pictures: all are made while the reader waits.
PAIRS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """The episodes of an evaluation, or of one iteration of a training.

    Args:
        run: where they are from.
        iteration: of the training; None for an evaluation.
        file: the episodes.
        index: of the file.
    """

    run: Run
    iteration: int | None
    file: Path
    index: EpisodeIndex


class RunPages:
    """Makes what the templates show of one run."""

    def __init__(
        self, library: Library, indexes: OpenFiles[EpisodeIndex], histories: OpenFiles[History], pictures: Pictures
    ) -> None:
        self._library, self._indexes, self._histories = library, indexes, histories
        self._pictures = pictures

    def page(self, run: Run, query: Query) -> tuple[str, dict[str, Any]]:
        """The template and its variables.

        Raises:
            NotThere: there is no such episode, group or iteration.
        """
        if run.kind == "quick start":
            return "training.html.jinja", self._quick_start(run)
        if run.kind == "training" and query.get("iteration") is None:
            return "view_training.html.jinja", self._training(run, query)
        shelf = self._shelf(run, query)
        if query.get("episode") is not None:
            return "view_episode.html.jinja", self._episode(shelf, query)
        if query.get("group") is not None:
            return "view_group.html.jinja", self._group(shelf, query)
        if query.get("view") == "groups":
            return "view_groups.html.jinja", self._groups(shelf, query)
        return "view_list.html.jinja", self._list(shelf, query)

    def version(self, run: Run, query: Query) -> str:
        """Changes when a page would: what browsers compare to know whether to ask for it."""
        files = [run.path / name for name in ("manifest.json", "metrics.json", "recipe.json", "model", "episodes")]
        # "running" turns into "interrupted" as time goes by.
        return f"{signature(run.lines, *files)}-{run.is_running:d}"

    def _shelf(self, run: Run, query: Query) -> Shelf:
        iteration = None
        file = run.lines
        if run.kind == "training":
            iteration = query.number("iteration")
            if iteration not in run.iterations():
                raise NotThere(
                    f"got iteration {iteration}, expected one whose episodes were written down. Choose one on the "
                    "page of the run."
                )
            file = run.path / "episodes" / str(iteration) / "episodes.jsonl"
        return Shelf(run=run, iteration=iteration, file=file, index=self._indexes.get(file))

    def _common(self, shelf: Shelf, query: Query) -> dict[str, Any]:
        run = shelf.run
        manifest = self._library.read(run.path / "manifest.json")
        recipe = self._library.read(run.path / "recipe.json")
        named = agent_name(manifest) if run.kind == "evaluation" else model_name(recipe.get("model"))
        return {
            "run": run,
            "link": run_link(run.key),
            "query": query,
            "iteration": shelf.iteration,
            "task": env_name(manifest if run.kind == "evaluation" else recipe),
            "agent": named,
            "manifest": manifest,
            "live": run.is_running,
            "n_episodes": len(shelf.index),
            "n_unreadable": len(shelf.index.unreadable),
            "unreadable": list(shelf.index.unreadable.items())[:3],
            "has_groups": any(facts.repeat for facts in shelf.index.facts),
        }

    def _list(self, shelf: Shelf, query: Query) -> dict[str, Any]:
        index = shelf.index
        found = index.select(query.selection)
        page, pages = _page(query, len(found), EPISODES)
        shown = found[page * EPISODES : (page + 1) * EPISODES]
        metrics = self._library.read(shelf.run.path / "metrics.json") if shelf.iteration is None else {}
        finished = isinstance(metrics.get("statistics"), dict)
        manifest = self._library.read(shelf.run.path / "manifest.json")
        return self._common(shelf, query) | {
            "headlines": headlines(manifest, metrics) if finished else [],
            "metric": headline(manifest, metrics) if finished else "accuracy",
            "metric_rows": metric_rows([metrics], first=headline(manifest, metrics)) if finished else [],
            "categories_found": category_rows(manifest, metrics) if finished else [],
            "metrics": metrics if finished else {},
            "so_far": accuracy_so_far(index.facts),
            "n_expected": self._n_expected(shelf.run),
            "manifest_text": json.dumps(manifest, indent=2),
            "rows": [(number, index.facts[number], self._episode_link(index, query, number)) for number in shown],
            "n_found": len(found),
            "first": page * EPISODES + 1,
            "page": page,
            "n_pages": pages,
            "filters": offered_filters(index.facts),
            "operations": index.operations(),
            "categories": index.categories(),
        }

    def _n_expected(self, run: Run) -> int:
        manifest = self._library.read(run.path / "manifest.json")
        samples, repeats = manifest.get("n_samples"), manifest.get("repeats")
        return samples * max(repeats, 1) if isinstance(samples, int) and isinstance(repeats, int) else 0

    def _episode_link(self, index: EpisodeIndex, query: Query, number: int | None) -> str | None:
        if number is None:
            return None
        nth = index.nth(number)
        return query.link(episode=index.facts[number].sample_id, nth=nth or None, page=None, group=None, view=None)

    def _environment(self, shelf: Shelf) -> tuple[Path, str]:
        """What the environment of these episodes is made from, and its state."""
        file = shelf.run.path / ("manifest.json" if shelf.run.kind == "evaluation" else "recipe.json")
        return file, signature(file)

    def _card(self, shelf: Shelf, number: int) -> EpisodeCard:
        card = self._pictures.card(shelf.index, signature(shelf.file), number, *self._environment(shelf))
        return drawn_card(card, shelf.file.parent / f"{number + 1}.png") if shelf.iteration is not None else card

    def _number(self, shelf: Shelf, query: Query) -> int:
        """The episode that is asked for."""
        number = shelf.index.find(query.get("episode") or "", query.number("nth"))
        if number is None:
            raise NotThere(f"the run has no episode {query.get('episode')!r} of that number; choose one from its list.")
        return number

    def _episode(self, shelf: Shelf, query: Query) -> dict[str, Any]:
        index, number = shelf.index, self._number(shelf, query)
        found = index.select(query.selection)
        if number not in found:
            # A link that was shared may come with filters that another state of the run passed.
            found = list(range(len(index)))
        place = found.index(number)
        facts = index.facts[number]
        return self._common(shelf, query) | {
            "card": self._card(shelf, number),
            "facts": facts,
            "nth": index.nth(number),
            "n_of_sample": len(index.group(facts.sample_id)),
            "place": place + 1,
            "n_found": len(found),
            "earlier": self._episode_link(index, query, found[place - 1] if place else None),
            "later": self._episode_link(index, query, found[place + 1] if place + 1 < len(found) else None),
            "here": self._episode_link(index, query, number),
            "up": query.link(episode=None, nth=None, page=place // EPISODES or None) + f"#episode-{number}",
        }

    def picture(self, run: Run, query: Query) -> tuple[str, bytes]:
        """The type and the bytes of a whole source of an episode: what a page shows in small.

        Raises:
            NotThere: there is no such episode or source, or it cannot be made again.
        """
        shelf = self._shelf(run, query)
        record = shelf.index.record(self._number(shelf, query))
        source, frame = query.number("picture"), query.number("frame")
        try:
            return encode(self._pictures.source(record, source, frame, *self._environment(shelf)))
        except LookupError as error:
            raise NotThere(f"got the picture {source}, frame {frame}; {error}") from error

    def _group(self, shelf: Shelf, query: Query) -> dict[str, Any]:
        index, sample_id = shelf.index, query.get("group") or ""
        group = index.group(sample_id)
        if not group:
            raise NotThere(f"the run has no episodes of {sample_id!r}; choose one from its list.")
        page, pages = _page(query, len(group), SIDE_BY_SIDE)
        shown = group[page * SIDE_BY_SIDE : (page + 1) * SIDE_BY_SIDE]
        samples = index.grouped()
        place = samples.index(sample_id) if sample_id in samples else 0
        return self._common(shelf, query) | {
            "sample_id": sample_id,
            "question": index.facts[group[0]].question,
            "facts": [index.facts[number] for number in group],
            "cards": [
                (self._card(shelf, number), index.nth(number) + 1, self._episode_link(index, query, number))
                for number in shown
            ],
            "so_far": accuracy_so_far([index.facts[number] for number in group]),
            "n_used": sum("used" in index.facts[number].tags for number in group),
            "page": page,
            "n_pages": pages,
            "place": place + 1,
            "n_groups": max(1, len(samples)),
            "earlier": query.link(group=samples[place - 1], page=None) if place else None,
            "later": query.link(group=samples[place + 1], page=None) if place + 1 < len(samples) else None,
            "up": query.link(group=None, view="groups", page=place // GROUPS or None) + f"#group-{group[0]}",
        }

    def _groups(self, shelf: Shelf, query: Query) -> dict[str, Any]:
        index = shelf.index
        passing = set(index.select(query.selection))
        groups = [members for members in index.samples().values() if passing.intersection(members)]
        page, pages = _page(query, len(groups), GROUPS)
        rows = []
        for members in groups[page * GROUPS : (page + 1) * GROUPS]:
            facts = [index.facts[number] for number in members]
            link = query.link(group=facts[0].sample_id, view=None, page=None)
            links = [self._episode_link(index, query, number) for number in members]
            rows.append((members[0], facts[0], link, list(zip(facts, links, strict=True)), accuracy_so_far(facts)))
        return self._common(shelf, query) | {
            "rows": rows,
            "n_groups": len(groups),
            "page": page,
            "n_pages": pages,
            "filters": offered_filters(index.facts),
            "operations": index.operations(),
            "categories": index.categories(),
            "n_found": len(groups),
        }

    def _training(self, run: Run, query: Query) -> dict[str, Any]:
        history, recipe = self._histories.get(run.lines), self._library.read(run.path / "recipe.json")
        last = history.rows[-1] if history.rows else {}
        return {
            "run": run,
            "link": run_link(run.key),
            "query": query,
            "task": env_name(recipe),
            "recipe_text": json.dumps(recipe, indent=2) if recipe else "",
            "model": str(recipe.get("model", "")),
            "counter": history.counter,
            "done": int(last.get(history.counter, len(history.rows))),
            "total": recipe.get("iterations") or recipe.get("steps"),
            "n_unreadable": history.n_unreadable,
            "tiles": [(name, last[name]) for name in _TILES if name in last],
            "charts": history.charts(),
            "alarms": history.alarms(),
            "iterations": [(number, query.link(iteration=number)) for number in run.iterations()],
            "live": run.is_running,
        }

    def _quick_start(self, run: Run) -> dict[str, Any]:
        shown = training_context(run.path, n_episodes=PAIRS if self._pictures.replay else 0)
        return shown | {"run": run, "live": False}


_TILES = ("accuracy", "usage_rate", "reward", "hit_rate", "failure_rate", "learner/entropy", "seconds/total", "loss")


def _page(query: Query, count: int, size: int) -> tuple[int, int]:
    """Which page is asked for, from 0, and how many there are."""
    pages = max(1, math.ceil(count / size))
    return min(query.number("page"), pages - 1), pages
