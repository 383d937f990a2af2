"""What a recipe checks of its own values: the name of the key comes first in every message (see `recipe_reader`)."""

from __future__ import annotations


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise a ValueError that says what came and what was expected unless it `holds`."""
    if not holds:
        raise ValueError(f"{name} is {value!r}; expected {expected}")


def at_least(recipe: object, low: float, *names: str) -> None:
    """Numbers from `low` up, neither infinite nor nan (comparisons are written so that nan fails)."""
    for name in names:
        value = getattr(recipe, name)
        require(low <= value < float("inf"), name, value, f"{low:g} or more")


def above_zero(recipe: object, *names: str) -> None:
    """Numbers above 0, neither infinite nor nan."""
    for name in names:
        value = getattr(recipe, name)
        require(0 < value < float("inf"), name, value, "a number above 0")


def one_of(recipe: object, name: str, *choices: str) -> None:
    """One of some words."""
    value = getattr(recipe, name)
    require(value in choices, name, value, " or ".join(map(repr, choices)))


def share(recipe: object, *names: str) -> None:
    """Numbers above 0, neither infinite nor nan."""
    for name in names:
        value = getattr(recipe, name)
        require(0 <= value <= 1, name, value, "a number from 0 to 1")
