"""Why episodes have no score, counted: reasons that differ by an id or a number are one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

#: What differs from one question to the next: quoted text, and words that hold a digit (ids, paths, numbers). A status
#: tells kinds of failures apart.
_VARYING = re.compile(r"""("[^"]*"|(?<!status )(?<![\w./:-])[\w./:-]*\d[\w./:-]*)""")


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason came, the most frequent first.

    Reasons with equal words are counted together under the first of them, with "…" where they differ.
    """
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for reason in reasons:
        pieces = _VARYING.split(reason)
        groups.setdefault(tuple(pieces[::2]), []).append(pieces)
    counts: Counter[str] = Counter()
    for group in groups.values():
        columns = zip(*group, strict=True)
        counts["".join(column[0] if len(set(column)) == 1 else "…" for column in columns)] += len(group)
    return dict(counts.most_common())
