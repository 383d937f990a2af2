"""The scorer for data with answers of several kinds."""

from __future__ import annotations

from pxr_env.scoring.choice import lone_letter, multiple_choice, sample_options
from pxr_env.scoring.numeric import as_number, number
from pxr_env.scoring.registry import register_scorer
from pxr_env.scoring.text import exact
from pxr_env.types import Sample


@register_scorer("auto", source="the scorer that fits the sample: multiple_choice, number or exact")
def auto(answer: str, sample: Sample) -> float:
    """`multiple_choice` if the sample has options or accepts letters only, `number` if it accepts numbers only, else
    `exact`.
    """
    if sample_options(sample) or all(map(lone_letter, sample.answers)):
        return multiple_choice(answer, sample)
    if all(as_number(accepted) is not None for accepted in sample.answers):
        return number(answer, sample)
    return exact(answer, sample)
