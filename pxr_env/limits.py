"""What an episode may use up, and what it costs: limits are checked before an operation runs, never after."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from pxr_env.arguments import plain
from pxr_env.errors import OperationError, did_you_mean, quote, represent
from pxr_env.views import View

#: What a cost can be put on, as `costs={name: weight}`.
COSTS = {
    "format": "turns and calls that could not be read",
    "operation": "executed operations",
    "duplicate": "calls that had been made before",
    "vision_token": "vision tokens of the images that operations showed",
}


class LimitReached(OperationError):
    """An operation would exceed a limit of the episode.

    Args:
        limit: name of the limit, as it stands in `info["truncated_by"]`.
        message: for the model to read.
    """

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of an episode; None is no limit.

    Args:
        max_turns: messages of the model.
        max_operations: executed operations.
        max_images: images shown, those of the sample included.
        max_shown_pixels: pixels of all images shown.
        max_vision_tokens: vision tokens of all images shown, one per `size_multiple` squared pixels.
        size_multiple: side of the square of pixels that becomes one vision token.

    Raises:
        ValueError: a limit is no integer, or too small to begin an episode.
    """

    max_turns: int
    max_operations: int
    max_images: int | None = None
    max_shown_pixels: int | None = None
    max_vision_tokens: int | None = None
    size_multiple: int = 28

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "max_operations" else 1
            if value is None and field.default is None:
                continue
            value = plain(value)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{field.name}={represent(value)} came; expected an integer of at least {least}.")
            object.__setattr__(self, field.name, value)

    def vision_tokens(self, views: Sequence[View]) -> int:
        """Returns the number of vision tokens of some views."""
        return sum(view.size[0] * view.size[1] for view in views) // self.size_multiple**2

    def check(self, shown: Sequence[View], new: Sequence[View], n_operations: int) -> None:
        """Checks whether one more operation may show new views beside those shown already.

        Raises:
            LimitReached: it may not. The text is for the model.
        """
        if n_operations >= self.max_operations:
            raise LimitReached(
                "max_operations", f"all {self.max_operations} operations are used up; expected an answer. Answer now."
            )
        self.check_views([*shown, *new])

    def check_views(self, views: Sequence[View]) -> None:
        """Checks whether an episode may show these views.

        Raises:
            LimitReached: it may not. The text is for the model.
        """
        pixels = sum(view.size[0] * view.size[1] for view in views)
        for limit, most, count, unit in (
            ("max_images", self.max_images, len(views), "images"),
            ("max_shown_pixels", self.max_shown_pixels, pixels, "pixels"),
            ("max_vision_tokens", self.max_vision_tokens, self.vision_tokens(views), "vision tokens"),
        ):
            if count > (math.inf if most is None else most):
                raise LimitReached(
                    limit,
                    f"with this there would be {count} {unit} in the episode; expected at most {most}. "
                    "Ask for less, or answer now.",
                )


def check_costs(costs: Mapping[str, float]) -> dict[str, float]:
    """Returns the costs as a dict.

    Raises:
        ValueError: a name is unknown, or a weight is no finite number of at least 0.
    """
    for name, weight in costs.items():
        if name not in COSTS:
            raise ValueError(f'costs has "{quote(name)}"; expected only {", ".join(COSTS)}.{did_you_mean(name, COSTS)}')
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f'the cost of "{name}" is {represent(weight)}; expected a finite number of at least 0.')
    return dict(costs)
