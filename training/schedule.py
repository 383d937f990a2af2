"""Learning rates over the course of a run."""

from __future__ import annotations


def lr_factor(step: int, steps: int, *, warmup: int, decay_fraction: float) -> float:
    """Linear warm-up over `warmup` steps, and linear decay towards 0 over the last share of the steps.

    Args:
        step: from 0.
        steps: of the whole run.
        warmup: steps until the full rate is reached; the first one has 1 / warmup of it.
        decay_fraction: share of the steps, in [0, 1]; the last one has 1 / (decay_fraction * steps) of the rate.
    """
    up = min(1.0, (step + 1) / max(warmup, 1))
    decay = decay_fraction * steps
    return up * (min(1.0, (steps - step) / decay) if decay >= 1 else 1.0)
