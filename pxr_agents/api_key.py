"""A key that is sent and never written."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

#: Shorter ones, such as the "EMPTY" of local servers, are words that texts hold by chance.
_SHORTEST_SECRET = 8


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The key of a server, from an environment variable: nowhere else does it come from, and nowhere else does it go.

    Args:
        value: the key, "" if there is none.
    """

    value: str = field(repr=False)

    @staticmethod
    def from_environment(variable: str) -> ApiKey:
        """The key in an environment variable.

        Raises:
            ValueError: it holds what no header can carry. The message does not quote it.
        """
        value = os.environ.get(variable, "").strip()
        if not re.fullmatch(r"[!-~]*", value):
            raise ValueError(
                f"the environment variable {variable} holds blanks, line ends or other characters that are not "
                "printable ASCII; expected an API key alone. Set it again."
            )
        return ApiKey(value)

    @property
    def is_set(self) -> bool:
        return bool(self.value)

    def headers(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self.value}"} if self.value else {}

    def redact(self, text: str) -> str:
        """`text` without the key: servers echo what they were sent."""
        if len(self.value) < _SHORTEST_SECRET:
            return text
        return text.replace(self.value, "[API key]")
