"""The dialects by name, and the registry users add to."""

from __future__ import annotations

from collections.abc import Callable

from pxr_env.coordinates import Frame
from pxr_env.dialects.base import Dialect
from pxr_env.errors import choose

#: Builds a dialect for a coordinate frame. Raises ValueError if it cannot speak of that frame.
DialectFactory = Callable[[Frame], Dialect]
_DIALECTS: dict[str, DialectFactory] = {}


def register_dialect(name: str, factory: DialectFactory) -> None:
    """Adds a dialect under a new name; raises ValueError if it is taken."""
    if name in _DIALECTS:
        raise ValueError(f'got the dialect "{name}" a second time; expected a new name. Choose another one.')
    _DIALECTS[name] = factory


def get_dialect(name: str, frame: Frame) -> Dialect:
    """Builds the dialect of that name for a coordinate frame.

    Raises:
        ValueError: there is no such dialect, or it cannot speak of this frame.
    """
    return choose(_DIALECTS, name, "dialect=", "Choose the one the model was trained with.")(frame)


def dialect_names() -> list[str]:
    return list(_DIALECTS)
