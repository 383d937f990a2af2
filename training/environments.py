"""The environments of a run: one, or several that take turns behind one face, and which samples come next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from pxr_env.curiosity import ProbeOperations, WithdrawOperations
from .env_recipe import EnvRecipe, MixedEnvRecipe, by_name, shares_of
from .run_directory import SampleCursor


def make_env(recipe: EnvRecipe | tuple[MixedEnvRecipe, ...], *, arms: bool = False) -> gymnasium.Env[Any, Any]:
    """An environment to sample in; with `arms` the options of its `reset` say what an episode begins with ("probe"), or
    that it has one turn and no operations ("withdrawn")."""
    if not isinstance(recipe, EnvRecipe):
        return MixedEnv(recipe, arms=arms)
    env = gymnasium.make(recipe.id, **recipe.kwargs)
    return ProbeOperations(WithdrawOperations(env)) if arms else env


def tasks_of(env: gymnasium.Env[Any, Any]) -> Mapping[str, gymnasium.Env[Any, Any]]:
    """Name -> an environment of each task that `make_env` put into this one."""
    tasks: Mapping[str, Any] = env.get_wrapper_attr("tasks") if env.has_wrapper_attr("tasks") else {"": env}
    return tasks


class MixedEnv(gymnasium.Env[Any, Any]):
    """Several environments of which the sample chooses one: "NAME/ID" is the sample ID of NAME.

    In everything else (`unwrapped`, `spec`, what its steps return) it is the one that was chosen last, so that rollouts
    of all of them share a batch.
    """

    def __init__(self, recipes: Sequence[MixedEnvRecipe], *, arms: bool) -> None:
        self._recipes, self._arms = by_name(tuple(recipes)), arms
        self._made: dict[str, gymnasium.Env[Any, Any]] = {}
        self._choose(next(iter(self._recipes)))
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space

    @property
    def tasks(self) -> dict[str, gymnasium.Env[Any, Any]]:
        """Name -> environment, of all; they are made when they are needed."""
        return {name: self._task(name) for name in self._recipes}

    @property
    def unwrapped(self) -> gymnasium.Env[Any, Any]:
        return self._env.unwrapped

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin with the option "sample_id", which has to be there."""
        name, _, sample_id = str((options or {}).get("sample_id")).partition("/")
        if name not in self._recipes or not sample_id:
            raise ValueError(f"got sample_id {name}/{sample_id}; expected NAME/ID, NAME one of {list(self._recipes)}")
        self._choose(name)
        observation, info = self._env.reset(seed=seed, options={**(options or {}), "sample_id": sample_id})
        return observation, self._named(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._env.step(action)
        return observation, reward, terminated, truncated, self._named(info)

    def close(self) -> None:
        for env in self._made.values():
            env.close()

    def _task(self, name: str) -> gymnasium.Env[Any, Any]:
        if name not in self._made:
            self._made[name] = make_env(self._recipes[name], arms=self._arms)
        return self._made[name]

    def _choose(self, name: str) -> None:
        self._name, self._env = name, self._task(name)
        self.spec = self._env.spec

    def _named(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "sample_id": f"{self._name}/{info['sample_id']}"} if "sample_id" in info else info


class MixedCursor:
    """Which samples come next, of several environments by their shares: always of the one that is furthest behind, so
    that none is ever a whole group away from its part. Each goes through its own samples as `SampleCursor` does.

    Args:
        sample_ids: of each environment.
        shares: of each, of all together 1.
        seed: of the orders.
    """

    def __init__(self, sample_ids: Mapping[str, Sequence[str]], shares: Mapping[str, float], *, seed: int) -> None:
        self._shares = dict(shares)
        self._cursors = {name: SampleCursor(ids, seed=seed) for name, ids in sample_ids.items()}
        self._taken = dict.fromkeys(shares, 0)

    def take(self, n: int, besides: Sequence[str] = ()) -> list[str]:
        """The next `n`, all different and none of `besides`, as NAME/ID; raises ValueError if the data of one has fewer
        than its part."""
        names, ids = [self._next() for _ in range(n)], {}
        for name in dict.fromkeys(names):
            own = [each.removeprefix(f"{name}/") for each in besides if each.startswith(f"{name}/")]
            ids[name] = iter(self._cursors[name].take(names.count(name), own))
        return [f"{name}/{next(ids[name])}" for name in names]

    def _next(self) -> str:
        n_all = sum(self._taken.values()) + 1
        name = max(self._shares, key=lambda name: self._shares[name] * n_all - self._taken[name])
        self._taken[name] += 1
        return name

    def state_dict(self) -> dict[str, Any]:
        return {"taken": dict(self._taken), "cursors": {name: c.state_dict() for name, c in self._cursors.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._taken = dict(state["taken"])
        for name, cursor in self._cursors.items():
            cursor.load_state_dict(state["cursors"][name])


def sample_cursor(
    env: gymnasium.Env[Any, Any], recipe: EnvRecipe | tuple[MixedEnvRecipe, ...], *, seed: int
) -> SampleCursor | MixedCursor:
    """The cursor over the samples of an environment that `make_env` made."""
    ids = {name: _data(task).sample_ids() for name, task in tasks_of(env).items()}
    if isinstance(recipe, EnvRecipe):
        return SampleCursor(ids[""], seed=seed)
    return MixedCursor(ids, shares_of(recipe), seed=seed)


def n_bad_rows(env: gymnasium.Env[Any, Any]) -> int:
    """Rows that data sets left out."""
    return sum(len(getattr(_data(task), "skipped", ())) for task in tasks_of(env).values())


def _data(env: gymnasium.Env[Any, Any]) -> Any:
    unwrapped: Any = env.unwrapped
    return unwrapped.data
