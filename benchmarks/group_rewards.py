"""What each reward of a group pays for ten typical episodes of one: the table of docs/rewards.md.

python -m benchmarks.group_rewards [my_module:my_reward ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pxr_env.curiosity import GROUP_REWARDS, Look, Rollout, group_reward, settle_group

ONTO, BESIDE, WHOLE = Look(1.0, 4.0), Look(0.0, 4.0), Look(1.0, 1.0)
CURIOSITY = ("paper", "released-code")


def _used(correct: bool, *looks: Look, **facts: Any) -> Rollout:
    return Rollout(
        **{"correct": correct, "n_operations": len(looks), "n_turns": 1 + len(looks), "looks": looks} | facts
    )


GROUP: tuple[tuple[str, int, Rollout], ...] = (
    ("right at once", 16, _used(True)),
    ("wrong at once", 8, _used(False)),
    ("right after a zoom onto the evidence", 1, _used(True, ONTO)),
    ("right after a zoom beside it, and one onto it", 1, _used(True, BESIDE, ONTO)),
    ("right after a zoom beside it", 1, _used(True, BESIDE)),
    ("right after a zoom that shows everything again", 1, _used(True, WHOLE)),
    ("right after a broken call", 1, _used(True, n_failed=1, n_turns=2)),
    ("wrong after a zoom onto the evidence", 1, _used(False, ONTO)),
    ("wrong after a zoom beside it", 1, _used(False, BESIDE)),
    ("no answer after four zooms beside it", 1, _used(False, *[BESIDE] * 4, n_turns=4, truncated_by="max_turns")),
)
"""Episodes, how many of them the group has, and their facts. 7 of 32 use an operation."""


def table(rewards: Sequence[str] = tuple(GROUP_REWARDS)) -> str:
    """Markdown: what curiosity and the rewards add for each kind of episode, to 1 if it is right and 0 if not."""
    kinds = [name for name, count, _ in GROUP for _ in range(count)]
    rollouts = [rollout for _, count, rollout in GROUP for _ in range(count)]
    added = {preset: _curiosity(rollouts, preset) for preset in CURIOSITY}
    added |= {name: [sum(terms.values()) for terms in group_reward(name)(rollouts)] for name in rewards}
    lines = [
        f"| episode | in the group | {' | '.join(f'`{name}`' for name in added)} |",
        "|---|--:|" + "--:|" * len(added),
    ]
    for name, count, _ in GROUP:
        cells = [_shown(paid[kinds.index(name)]) for paid in added.values()]
        lines.append(f"| {name} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _curiosity(rollouts: Sequence[Rollout], preset: str) -> list[float]:
    correct = [{"correct": float(each.correct)} for each in rollouts]
    unrepaired = [each.n_failed > 0 for each in rollouts]  # all failures here are the last calls
    settled = settle_group([each.n_operations for each in rollouts], correct, unrepaired=unrepaired, preset=preset)
    return [sum(terms.values()) - before["correct"] for terms, before in zip(settled, correct, strict=True)]


def _shown(paid: float) -> str:
    return f"{paid:+.3f}".replace("0.", ".") if abs(paid) > 5e-4 else "0"


if __name__ == "__main__":
    print(table([*GROUP_REWARDS, *sys.argv[1:]]))
