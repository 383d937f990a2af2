"""Rows of similar length together, so that short ones do not pay for long ones."""

from __future__ import annotations

from collections.abc import Sequence


def split_by_length(lengths: Sequence[int], *, slack: float = 1.25, max_tokens: int = 65536) -> list[list[int]]:
    """Indices in groups: in each the longest is at most `slack` times the shortest.

    A group padded to its longest row holds at most `max_tokens` ids; a single longer row gets a group of its own.
    """
    groups: list[list[int]] = []
    shortest = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        full = bool(groups) and length * (len(groups[-1]) + 1) > max_tokens
        if not groups or length > slack * shortest or full:
            groups.append([])
            shortest = length
        groups[-1].append(index)
    return groups
