"""Several runs side by side on the samples they share: what `python -m eval compare` says, as a page."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from eval.comparison import Comparison, compare_runs, verdict
from eval.differences import describe
from eval.tables import cell, metric_rows
from eval.view.library import Library, Run, signature
from eval.view.query import NotThere, Query, run_link

#: Most runs of one comparison: as many as there are colours. Comparisons that are kept, they take seconds.
MAX_RUNS, MAX_KEPT = 6, 12


class Comparisons:
    """Makes the page of a comparison."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._kept: OrderedDict[str, Comparison] = OrderedDict()

    def context(self, query: Query) -> dict[str, Any]:
        """The variables of `view_compare.html.jinja`.

        Raises:
            NotThere: fewer than two runs were chosen or too many, one is none or unfinished, or they share no sample.
        """
        known = self._library.runs()
        runs = [known[key] for key in query.runs if key in known and known[key].kind == "evaluation"]
        if not 2 <= len(runs) <= MAX_RUNS or len(runs) < len(query.runs):
            raise NotThere(
                f"{len(query.runs)} runs came, of which {len(runs)} are evaluations that are there; expected 2 to "
                f"{MAX_RUNS}. Choose them in the table of runs."
            )
        try:
            comparison = self._compared(runs)
        except (ValueError, FileNotFoundError) as error:
            raise NotThere(f"these runs cannot be compared: {error}") from error
        metric = comparison.metric
        return {
            "comparison": comparison,
            "describe": describe,
            "runs": [(name, run_link(run.key)) for name, run in zip(comparison.names, runs, strict=True)],
            "metric": metric,
            "rows": metric_rows(comparison.metrics, first=metric),
            "unscored": [
                int(self._library.read(run.path / "metrics.json").get("statistics", {}).get("n_errors", 0))
                for run in runs
            ],
            "categories": [
                (
                    name,
                    [cell(found["by_category"].get(name, {"statistics": {}}), metric) for found in comparison.metrics],
                )
                for name in comparison.categories
            ],
            "verdicts": [
                (pair, name, verdict(comparison, pair, name)) for pair in comparison.pairs for name in pair.tests
            ],
            "live": False,
        }

    def _compared(self, runs: list[Run]) -> Comparison:
        key = "|".join(f"{run.key} {signature(run.lines, run.path / 'manifest.json')}" for run in runs)
        if key not in self._kept:
            self._kept[key] = compare_runs([run.path for run in runs])
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]
