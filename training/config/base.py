"""What all recipes are made of. A field's type says what it may be, and the text below it what it means."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

#: Unknown keys, "1" for 1 and infinite numbers are refused.
RECIPE = ConfigDict(use_attribute_docstrings=True, extra="forbid", strict=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise a ValueError, which names the key first, unless what depends on several keys `holds`."""
    if not holds:
        raise ValueError(f"{name} is {value!r}; expected {expected}")
