"""Addresses: what a page's query asks for, and the links that pages are connected by."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode

from ..facts import FILTERS, Selection

#: Most fields of a query that are looked at, and most characters of one.
MAX_FIELDS, MAX_VALUE = 60, 2000
#: What a query may ask for; anything else is ignored.
NAMES = frozenset({"operation", "category", "q", "page", "view", "episode", "nth", "group", "iteration", "file"}) | {
    *("sort", "order", "baseline", "picture", "frame")
}


class NotThere(LookupError):
    """An address that names nothing. The message says what was got and expected."""


class Query(NamedTuple):
    """The query of an address: the last value of every field, all values of "show" that are filters, and of "run"."""

    values: Mapping[str, str] = {}
    show: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Query:
        """Reads what a browser sent; what makes no sense is left out."""
        try:
            pairs = parse_qsl(text, errors="surrogatepass", max_num_fields=MAX_FIELDS)
        except ValueError:
            return cls()
        values = {name: value[:MAX_VALUE] for name, value in pairs if name in NAMES and value}
        if (page := _number(dict(pairs).get("go", ""))) is not None:
            # People count pages from 1.
            values["page"] = str(max(0, page - 1))
        runs = dict.fromkeys(value[:MAX_VALUE] for name, value in pairs if name == "run")
        return cls(values, tuple(tag for tag in FILTERS if ("show", tag) in pairs), tuple(runs))

    def get(self, name: str) -> str | None:
        """The value of a field, None without one."""
        return self.values.get(name)

    def number(self, name: str) -> int:
        """The value of a field as a whole number, 0 without one."""
        return _number(self.values.get(name, "")) or 0

    @property
    def selection(self) -> Selection:
        """The filters."""
        text = (self.get("q") or "").strip()
        return Selection(tags=self.show, operation=self.get("operation"), category=self.get("category"), text=text)

    @property
    def is_filtered(self) -> bool:
        return bool(self.show) or any(self.get(name) for name in ("q", "operation", "category"))

    def link(self, **changes: object) -> str:
        """A relative address with some fields changed; None takes a field out."""
        merged: dict[str, object] = {**self.values, **changes}
        pairs = [(name, str(value)) for name, value in merged.items() if value is not None]
        return "?" + urlencode([("show", tag) for tag in self.show] + pairs, errors="surrogatepass")

    def paged(self, found: Sequence[Any], size: int) -> dict[str, Any]:
        """What is `shown` of what was found: the `page`, from 0, of `n_pages`."""
        n_pages = max(1, math.ceil(len(found) / size))
        page = min(self.number("page"), n_pages - 1)
        shown = found[page * size : (page + 1) * size]
        return {"page": page, "n_pages": n_pages, "n_found": len(found), "shown": shown}

    def fields(self) -> list[tuple[str, str]]:
        """All of it but the page, for a form that asks for another one."""
        kept = [(name, value) for name, value in self.values.items() if name != "page"]
        return [("show", tag) for tag in self.show] + kept

    def without_filters(self) -> Query:
        """The same place, unfiltered."""
        return Query({name: value for name, value in self.values.items() if name in ("iteration", "view")})


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def run_link(key: str) -> str:
    """The address of a run; its name may have any characters that a file system allows."""
    return "/run/" + quote(os.fsencode(key))


def run_key(path: str) -> str:
    """The run that an address names: the inverse of `run_link`."""
    return os.fsdecode(unquote_to_bytes(path.removeprefix("/run/")))
