"""Stage B: the warm start of the quick start, in two phases that end by measurement on held-out samples.

*Form* teaches to write an operation: direct answers, single-pass zooms and self-corrections, until calls are
well formed, the most likely box is right and easy questions are still answered directly.

*Clumsy* demonstrations then make zooming a nascent skill, as it is for a real VLM after its warm start (arXiv
2505.15966, section 5): most demonstrated zooms miss, and the answer is read off whatever the view shows. It ends
as soon as sampled zooms hit rarely enough that zooming costs accuracy on easy questions, while the most likely
box is still right: worse than answering directly today, with the skill latent. This imbalance is engineered,
and is what plain reinforcement learning falls for.
"""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import numpy as np

from pxr_agents.agents import VLMAgent
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.rollout import rollout
from pxr_agents.statistics import episode_statistics
from pxr_agents.types import Episode, Job, Sampling, Tokens, episode_seed
from pxr_agents.vlm import VLM
from training.quickstart.pretrain import Report, SceneRows, coordinate_ids, held_out_ids
from training.quickstart.recipe import PhaseRecipe, WarmStartRecipe
from training.sft import Optimizers, TokenWeights, cross_entropy, token_accuracy
from training.traces import TraceRecipe, search_trace

OPENING = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": ['
"""How every zoom begins in the hermes dialect."""

Check = Callable[[], tuple[dict[str, float], bool, list[Tokens]]]
"""Measures; returns the measurements, whether the phase is over, and the demonstrations to go on with."""


class WarmStart:
    """The two phases over one model; what they share is the held-out samples and the ways to measure."""

    def __init__(
        self, vlm: VLM, envs: list[gymnasium.Env], recipe: WarmStartRecipe, *, seed: int, report: Report
    ) -> None:
        self.vlm, self.recipe, self._envs, self._report = vlm, recipe, envs, report
        self._held_out = held_out_ids(envs[0])[: recipe.held_out]
        self._seed, self._rng = seed, np.random.default_rng([seed, 2])
        self._rows = SceneRows(envs[0], vlm, self._rng)
        self._coordinates = coordinate_ids(envs[0], vlm)
        self._engine = TransformersEngine(vlm)
        clean = TraceRecipe(zoom=1.0, correction=0.0)
        held_out = SceneRows(envs[0], vlm, self._rng, held_out=True)
        self._clean_zooms = self._traces(clean, 128, held_out)
        self._pointing = [self._rows.where() for _ in range(recipe.pool)]

    def _traces(self, recipe: TraceRecipe, n: int, rows: SceneRows | None = None) -> list[Tokens]:
        env, chat, rows = self._envs[0], self.vlm.chat, rows or self._rows
        return [search_trace(env, chat, rows.sample_id(), recipe, self._rng) for _ in range(n)]

    def form(self) -> dict[str, float]:
        """Teach the form of an operation; returns the last measurements and `met`."""
        recipe, phase = self.recipe, self.recipe.form
        pool = self._form_pool = self._traces(phase.traces, recipe.pool)

        def check() -> tuple[dict[str, float], bool, list[Tokens]]:
            measured = self.measure()
            direct = measured.get("easy_direct", 0.0) >= recipe.direct
            return measured, direct and measured["valid"] >= recipe.valid and measured["box"] >= recipe.box, pool

        weights = TokenWeights(groups={"coordinates": (self._coordinates, 1.0)})
        return self._train(phase, pool, weights, check, done=0, total=phase.steps + recipe.clumsy.steps)

    def clumsy(self, offset: int) -> dict[str, float]:
        """Make zooming nascent after `offset` steps of form; returns the last measurements and `met`."""
        recipe, phase = self.recipe, self.recipe.clumsy
        pool = self._traces(phase.traces, recipe.pool)
        low, high = recipe.hit_window

        def check() -> tuple[dict[str, float], bool, list[Tokens]]:
            measured = {**self.measure(), **self.measure_forced()}
            met = (
                measured["valid"] >= recipe.valid
                and measured["box"] >= recipe.latent_box
                and low <= measured["forced_hit"] <= high
                and measured.get("easy_direct", 0.0) - measured["forced_easy"] >= recipe.gap
            )
            too_clumsy = measured["box"] < recipe.latent_box + 0.1 or measured["forced_hit"] < low
            return measured, met, self._form_pool if too_clumsy else pool

        return self._train(phase, pool, TokenWeights(), check, done=offset, total=offset + phase.steps)

    def _train(
        self, phase: PhaseRecipe, pool: list[Tokens], weights: TokenWeights, check: Check, *, done: int, total: int
    ) -> dict[str, float]:
        """Steps on rows of `pool` until `check` is content or their limit is reached."""
        optimizers = Optimizers(self.vlm, lr=phase.lr)
        measured: dict[str, float] = {}
        for step in range(1, phase.steps + 1):
            n_pointing = int(self.recipe.batch_size * phase.pointing)
            n_traces = self.recipe.batch_size - n_pointing
            rows = [pool[i] for i in self._rng.integers(0, len(pool), n_traces)]
            rows += [self._pointing[i] for i in self._rng.integers(0, len(self._pointing), n_pointing)]
            optimizers.step(cross_entropy(self.vlm, rows, weights), min(1.0, step / 10))
            if step % phase.measure_every == 0:
                measured, met, pool = check()
                if met:
                    return {**measured, "steps": step, "met": 1.0}
            self._report(done + step, total, measured)
        return {**measured, "steps": phase.steps, "met": 0.0}

    def measure(self) -> dict[str, float]:
        """Sampled rollouts on held-out samples, and how often the most likely box is right."""
        episodes = self._roll()
        called = [e for e in episodes if e.steps and "<tool_call>" in e.steps[0].turn]
        direct = [
            e for e in episodes if e.needs_operation is False and not e.n_operations and not any(e.failures.values())
        ]
        statistics = episode_statistics(episodes)
        measured = {
            "box": token_accuracy(self.vlm, self._clean_zooms, self._coordinates, run=4),
            # As long as nobody calls anything, nothing shows that calls would be valid.
            "valid": float(np.mean([e.n_operations > 0 for e in called])) if called else 0.0,
            "usage": statistics["usage_rate"],
            "accuracy": statistics["accuracy"],
        }
        if direct:
            measured["easy_direct"] = float(np.mean([e.correct for e in direct]))
        return measured

    def measure_forced(self) -> dict[str, float]:
        """The same with the first token forced to begin an operation: less noise in what zooming is worth."""
        episodes = [e for e in self._roll(forced=True, repeats=2) if e.n_operations]
        statistics = episode_statistics(episodes) if episodes else {}
        return {"forced_hit": statistics.get("hit_rate", 0.0), "forced_easy": statistics.get("accuracy_easy", 0.0)}

    def _roll(self, *, forced: bool = False, repeats: int = 1) -> list[Episode]:
        self._engine.set_weights_version(self._engine.weights_version + 1)
        sampling = Sampling(max_tokens=self.recipe.max_tokens)
        agent = VLMAgent(self.vlm.chat, self._engine, sampling, opening=OPENING if forced else "")
        jobs = [
            Job(sample_id=sample_id, seed=episode_seed(self._seed, sample_id, repeat))
            for sample_id in self._held_out
            for repeat in range(repeats)
        ]
        return rollout(self._envs, agent, jobs)
