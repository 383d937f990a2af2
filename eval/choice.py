"""Which samples of an environment's data a run is over."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium

from pxr_env.datasets import Dataset
from pxr_env.errors import DataError, MediaError, did_you_mean, quote
from pxr_env.synthetic.scenes import ProceduralSamples


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How samples are chosen; all of them by default, in the order of the data.

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
        for name in ("limit", "first"):
            value = getattr(self, name)
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
            return stratified(ids, _category_of(data), self.limit)
        return list(islice(ids, self.limit or self.first))

    def as_manifest(self, chosen: Sequence[str]) -> dict[str, Any]:
        """What a manifest says of it; `chosen` are the ids, which are written down where no number says which."""
        names = {"limit": "stratified", "first": "first", "sample_ids": "ids"}
        how = next((text for name, text in names.items() if getattr(self, name) is not None), "all")
        return {"chosen": how, "ids": list(chosen) if how in ("stratified", "ids") else None}


def stratified(ids: Sequence[str], category_of: Callable[[str], str | None], count: int) -> list[str]:
    """`count` of the samples, from each category as many as are its share, in the order of the data.

    Within a category samples stand in the order of the SHA-256 of their ids: a random order that is the same in every
    run over the same data, whatever its seed. The samples of a smaller choice are in every larger one.

    Args:
        ids: all samples.
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
    path = Path(text)
    try:
        is_file = path.is_file()
    except OSError:
        # Too long for a path.
        is_file = False
    if not is_file:
        return tuple(name for part in text.split(",") if (name := part.strip()))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'"{path}" cannot be read as text: {error}; expected one id a line') from error
    return tuple(name for line in lines if (name := line.strip()))


def _category_of(data: Any) -> Callable[[str], str | None]:
    if isinstance(data, Dataset):
        return lambda name: data.record(name).category

    def category(name: str) -> str | None:
        try:
            found: str | None = data.get(name).category
        except (DataError, MediaError, OSError):
            # It has no score either; that is for the run to say.
            return None
        return found

    return category
