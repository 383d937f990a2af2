"""The table of tasks: id -> what it is and what builds it. Importing `pxr_env` registers them with Gymnasium."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium

from pxr_env.datasets import RLData
from pxr_env.env import VisualReasoningEnv
from pxr_env.synthetic import SyntheticSearch, overview_budget


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One registered id.

    Args:
        id: the Gymnasium id.
        entry_point: "module:function" that builds the environment.
        summary: one line for `python -m pxr_env list`.
    """

    id: str
    entry_point: str
    summary: str


TASKS: dict[str, Task] = {
    task.id: task
    for task in (
        Task(
            id="pxr/SyntheticSearch-v0",
            entry_point="pxr_env.tasks:synthetic_search",
            summary="procedural images: read a letter in a coloured box, half of them only after a zoom (certified)",
        ),
        Task(
            id="pxr/RLData-v0",
            entry_point="pxr_env.tasks:rl_data",
            summary='a directory in the released RL format (parquet + images), given as data="DIR"',
        ),
    )
}


def register_tasks() -> None:
    """Registers all tasks that Gymnasium does not know yet."""
    for task in TASKS.values():
        if task.id not in gymnasium.registry:
            gymnasium.register(id=task.id, entry_point=task.entry_point)


def synthetic_search(
    *,
    split: str = "train",
    num_samples: int = 100_000,
    hard_fraction: float = 0.5,
    letter_prior: float = 0.3,
    grid: int = 3,
    n_boxes: int = 3,
    coordinates: str = "unit",
    dialect: str = "hermes",
    operations: Sequence[str] = ("zoom_in",),
    max_turns: int = 3,
    max_operations: int = 2,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    size_multiple: int = 28,
    render_mode: str | None = None,
) -> VisualReasoningEnv:
    """Builds `pxr/SyntheticSearch-v0`: the arguments of `SyntheticSearch` and of `VisualReasoningEnv`.

    The pixel budget is that of `overview_budget`: by default 84x84 pixels with the default grid and multiple.
    """
    min_pixels, max_pixels = overview_budget(
        grid=grid, min_pixels=min_pixels, max_pixels=max_pixels, size_multiple=size_multiple
    )
    data = SyntheticSearch(
        split=split,
        num_samples=num_samples,
        hard_fraction=hard_fraction,
        letter_prior=letter_prior,
        grid=grid,
        n_boxes=n_boxes,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        size_multiple=size_multiple,
    )
    return VisualReasoningEnv(
        data,
        scorer="exact",
        coordinates=coordinates,
        dialect=dialect,
        operations=operations,
        max_turns=max_turns,
        max_operations=max_operations,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        size_multiple=size_multiple,
        render_mode=render_mode,
    )


def rl_data(
    *,
    data: str,
    skip_bad_rows: bool = False,
    scorer: str = "auto",
    coordinates: str = "unit",
    dialect: str = "hermes",
    operations: Sequence[str] = ("zoom_in",),
    max_turns: int = 6,
    max_operations: int = 4,
    min_pixels: int = 401_408,
    max_pixels: int = 4_014_080,
    size_multiple: int = 28,
    render_mode: str | None = None,
) -> VisualReasoningEnv:
    """Builds `pxr/RLData-v0`: the arguments of `RLData` (`data` is its directory) and of `VisualReasoningEnv`.

    The pixel budget is the one the released models were evaluated with.
    """
    return VisualReasoningEnv(
        RLData(data, skip_bad_rows=skip_bad_rows),
        scorer=scorer,
        coordinates=coordinates,
        dialect=dialect,
        operations=operations,
        max_turns=max_turns,
        max_operations=max_operations,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        size_multiple=size_multiple,
        render_mode=render_mode,
    )
