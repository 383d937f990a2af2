"""The curiosity reward: keeps pixel operations alive while a policy still uses them worse than plain text.

- `curiosity_terms`, `settle_group`: the terms of a finished group, exactly as published.
- `group_reward`, `GROUP_REWARDS`: other rewards of a finished group, published ones and ours (docs/rewards.md).
- `CuriosityReward`: the same for single episodes of any Gymnasium learner, with the running rates of `UsageRates`.
- `Revival`, `ProbeOperations`: how an operation that has died out comes back.
- `gate`, `solved`, `relocation`, `WithdrawOperations`: how a policy learns when not to use one.
"""

from pxr_env.curiosity.formulas import (
    PRESETS,
    CuriosityFormula,
    CuriosityTerms,
    curiosity_formula,
    curiosity_terms,
    settle_group,
)
from pxr_env.curiosity.group_rewards import GROUP_REWARDS, Look, Rollout, group_reward
from pxr_env.curiosity.selective import Attempts, gate, relocation, solved
from pxr_env.curiosity.usage import Revival, UsageRates
from pxr_env.curiosity.wrappers import (
    ANSWER,
    WITHDRAWN,
    CuriosityReward,
    ProbeOperations,
    WithdrawOperations,
    followed_probe,
)

__all__ = [
    "ANSWER",
    "GROUP_REWARDS",
    "PRESETS",
    "WITHDRAWN",
    "Attempts",
    "CuriosityFormula",
    "CuriosityReward",
    "CuriosityTerms",
    "Look",
    "ProbeOperations",
    "Revival",
    "Rollout",
    "UsageRates",
    "WithdrawOperations",
    "curiosity_formula",
    "curiosity_terms",
    "followed_probe",
    "gate",
    "group_reward",
    "relocation",
    "settle_group",
    "solved",
]
