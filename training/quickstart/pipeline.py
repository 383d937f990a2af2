"""The whole quick start, stage by stage. Every stage leaves a directory; what is there is not done again.

OUT/base/               the tiny model after stage A        OUT/warm/    after stage B
OUT/arms/plain/         PPO without curiosity (see training/rllib/run.py), with its evaluation in eval/
OUT/arms/curiosity/     PPO with it
OUT/summary.json        the figures of both arms            OUT/report.html
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import torch
from rich.console import Console
from rich.table import Table

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents import tiny
from pxr_agents.vlm import VLM
from training.config import CuriosityRecipe, PPORecipe, to_dict
from training.errors import RESUME
from training.progress import StageProgress
from training.quickstart.pretrain import pretrain
from training.quickstart.recipe import ARMS, QuickstartRecipe
from training.quickstart.texts import ATOM, fixed_texts, task_texts
from training.quickstart.warm_start import WarmStart
from training.run_directory import Interrupted

SUMMARY_KEYS = ("accuracy", "accuracy_needs_operation", "accuracy_easy", "usage_rate", "hit_rate")


class Quickstart:
    """One run of the quick start in one directory."""

    def __init__(self, recipe: QuickstartRecipe, console: Console) -> None:
        self.recipe, self.console = recipe, console
        self.out = Path(recipe.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self._check_recipe()
        self._stages_file = self.out / "stages.json"
        self.stages: dict[str, dict[str, float]] = (
            json.loads(self._stages_file.read_text()) if self._stages_file.exists() else {}
        )

    def run(self) -> Path:
        """Do what is missing; returns the path of the summary.

        Raises:
            Interrupted: after Ctrl-C.
        """
        try:
            with StageProgress(self.console) as progress:
                self._base(progress)
                self._warm(progress)
                self._arms(progress)
                self._evaluate(progress)
            summary = self._summarize()
            self._report()
        except KeyboardInterrupt:
            raise Interrupted(f"Interrupted; the stages that are finished are in {self.out}. {RESUME}") from None
        self._show(summary)
        return self.out / "summary.json"

    def _check_recipe(self) -> None:
        path, wanted = self.out / "recipe.json", to_dict(self.recipe)
        if path.exists() and (before := json.loads(path.read_text())) != wanted:
            changed = sorted(key for key in wanted if wanted[key] != before.get(key))
            raise ValueError(
                f"{self.out} holds a quick start with other settings ({', '.join(changed)}). Choose another out=..., "
                f"or remove the directory to start over."
            )
        path.write_text(json.dumps(wanted, indent=2) + "\n")

    def _done(self, stage: str, start: float, measured: dict[str, float]) -> None:
        self.stages[stage] = {**measured, "seconds": time.perf_counter() - start}
        self._stages_file.write_text(json.dumps(self.stages, indent=2) + "\n")

    def _envs(self, n: int) -> list[gymnasium.Env[Any, Any]]:
        return [gymnasium.make(self.recipe.env.id, **self.recipe.env.kwargs) for _ in range(n)]

    def _base(self, progress: StageProgress) -> None:
        if "base" in self.stages:
            progress.skip("A  pre-train a tiny VLM")
            return
        start, (env,) = time.perf_counter(), self._envs(1)
        report = progress.begin("A  pre-train a tiny VLM", self.recipe.pretrain.steps)
        partial = _partial(self.out / "base")
        vlm = tiny.build(partial, task_texts(env), ATOM, fixed_texts(env), seed=self.recipe.seed)
        torch.manual_seed(self.recipe.seed)
        measured = pretrain(vlm, env, self.recipe.pretrain, seed=self.recipe.seed, report=report)
        vlm.save(partial)
        _finish(partial)
        self._done("base", start, measured)
        progress.end(_note(measured, ("localization", "letters")))

    def _warm(self, progress: StageProgress) -> None:
        if "warm" in self.stages:
            progress.skip("B  warm start")
            return
        start, recipe = time.perf_counter(), self.recipe.warm_start
        limit = recipe.form.steps + recipe.clumsy.steps
        report = progress.begin("B  warm start", limit)
        vlm = VLM.from_pretrained(self.out / "base")
        torch.manual_seed(self.recipe.seed)
        envs = self._envs(2 * recipe.held_out)
        stage = WarmStart(vlm, envs, recipe, seed=self.recipe.seed, report=report)
        form = stage.form()
        measured = stage.clumsy(offset=int(form["steps"]))
        partial = _partial(self.out / "warm")
        vlm.save(partial)
        _finish(partial)
        self._done("warm", start, {**measured, "form_met": form["met"], "form_steps": form["steps"]})
        progress.end(_note(measured, ("usage", "forced_hit", "easy_direct", "forced_easy", "box")))

    def arm_recipe(self, arm: str) -> PPORecipe:
        """What one arm trains by."""
        return replace(
            self.recipe.ppo,
            model=str(self.out / "warm"),
            out=str(self.out / "arms" / arm),
            seed=self.recipe.seed,
            env=self.recipe.env,
            curiosity=self.recipe.ppo.curiosity if arm == "curiosity" else CuriosityRecipe(preset="off"),
        )

    def _arms(self, progress: StageProgress) -> None:
        """Both arms in one Ray session: starting it twice would take longer than an arm's first iterations."""
        from training.rllib.run import ray_session

        if all(f"ppo_{arm}" in self.stages for arm in ARMS):
            for arm in ARMS:
                self._arm(arm, progress)
            return
        with ray_session(self.arm_recipe("plain")):
            for arm in ARMS:
                self._arm(arm, progress)

    def _arm(self, arm: str, progress: StageProgress) -> None:
        title = f"C  PPO {'without' if arm == 'plain' else 'with'} curiosity"
        if f"ppo_{arm}" in self.stages:
            progress.skip(title)
            return
        from training.rllib.run import run_ppo

        start, recipe = time.perf_counter(), self.arm_recipe(arm)
        report = progress.begin(title, recipe.iterations)
        latest: dict[str, float] = {}

        def on_iteration(metrics: dict[str, float]) -> None:
            latest.update(metrics)
            report(int(metrics["iteration"]), recipe.iterations, metrics)

        run_ppo(recipe, on_iteration=on_iteration)
        self._done(f"ppo_{arm}", start, {"iterations": latest["iteration"]})
        progress.end(_note(latest, ("accuracy", "usage_rate")))

    def _evaluate(self, progress: StageProgress) -> None:
        """Both arms at once, each in a process of its own, exactly as a user would: `python -m eval run`."""
        missing = [arm for arm in ARMS if not (self.out / "arms" / arm / "eval" / "metrics.json").exists()]
        if not missing:
            progress.skip("D  evaluate")
            return
        start = time.perf_counter()
        report = progress.begin("D  evaluate", len(missing))
        running = {arm: subprocess.Popen(self._eval_command(arm), **_QUIET) for arm in missing}
        for k, (arm, process) in enumerate(running.items()):
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(f"The evaluation of arm {arm!r} failed (exit status {process.returncode}): {errors}")
            report(k + 1, len(missing), {})
        self._done("evaluate", start, {})
        progress.end("")

    def _eval_command(self, arm: str) -> list[str]:
        recipe, folder = self.recipe, self.out / "arms" / arm
        env_args = {**recipe.env.kwargs, "split": "test"}
        command = [sys.executable, "-m", "eval", "run", recipe.env.id, "--agent", "transformers"]
        command += ["--model", str(folder / "model"), "--out", str(folder / "eval")]
        command += [
            "--limit",
            str(recipe.eval_samples),
            "--max-tokens",
            str(recipe.ppo.max_tokens),
            "--envs",
            "400",
            "--no-report",
        ]
        for key, value in env_args.items():
            command += ["--env-arg", f"{key}={json.dumps(value)}"]
        return command

    def _summarize(self) -> dict[str, Any]:
        arms: dict[str, dict[str, float]] = {}
        for arm in ARMS:
            metrics = json.loads((self.out / "arms" / arm / "eval" / "metrics.json").read_text())["statistics"]
            arms[arm] = {key: metrics[key] for key in SUMMARY_KEYS if key in metrics}
            # Nobody zoomed, so nobody hit: the rate over no episode is reported as 0.
            arms[arm].setdefault("hit_rate", 0.0)
            arms[arm]["iterations"] = self.stages[f"ppo_{arm}"]["iterations"]
        seconds = {stage: values["seconds"] for stage, values in self.stages.items()}
        summary = {
            "seed": self.recipe.seed,
            "arms": arms,
            "seconds": {**seconds, "total": sum(seconds.values())},
            "targets": targets(arms),
            "notes": self._notes(),
            "stages": self.stages,
        }
        (self.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return summary

    def _notes(self) -> list[str]:
        """What a reader must know to judge the figures."""
        notes = [
            "The imbalance that plain reinforcement learning falls for is engineered: the warm start ends with clumsy "
            "demonstrations, most of whose zooms miss, so that zooming begins as a nascent skill that pays less than "
            "answering at once."
        ]
        if not self.stages["base"]["met"]:
            notes.append(
                "Stage A stopped at its limit of steps, before localization and reading reached their criteria."
            )
        if not (self.stages["warm"]["form_met"] and self.stages["warm"]["met"]):
            notes.append("Stage B stopped at its limit of steps, before its criteria were reached.")
        return notes

    def _report(self) -> None:
        command = [sys.executable, "-m", "eval", "report", str(self.out), "--out", str(self.out / "report.html")]
        done = subprocess.run(command, check=False, **_QUIET)
        if done.returncode:
            raise RuntimeError(f"The report could not be written (exit status {done.returncode}): {done.stderr}")

    def _show(self, summary: dict[str, Any]) -> None:
        table = Table(title=f"Held-out samples, seed {summary['seed']}")
        table.add_column("")
        for arm in ARMS:
            table.add_column(arm, justify="right")
        for key in SUMMARY_KEYS:
            table.add_row(key.replace("_", " "), *(f"{summary['arms'][arm][key]:.3f}" for arm in ARMS))
        self.console.print(table)
        for target in summary["targets"]:
            mark = "[green]met[/]" if target["met"] else "[red]not met[/]"
            self.console.print(f"{mark}  {target['name']}: {target['value']:.3f} (wanted {target['bound']})")
        self.console.print(f"{summary['seconds']['total']:.0f} s in all. Report: {self.out / 'report.html'}")


_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}


def targets(arms: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What the quick start has to show: the trap without curiosity, and the way out with it."""
    plain, curiosity = arms["plain"], arms["curiosity"]
    wanted: list[tuple[str, float, str, Callable[[float], bool]]] = [
        ("usage rate without curiosity", plain["usage_rate"], "below 0.05", lambda v: v < 0.05),
        ("usage rate with curiosity", curiosity["usage_rate"], "above 0.5", lambda v: v > 0.5),
        ("gain in accuracy", curiosity["accuracy"] - plain["accuracy"], "at least 0.15", lambda v: v >= 0.15),
        (
            "gain on samples that need the operation",
            curiosity["accuracy_needs_operation"] - plain["accuracy_needs_operation"],
            "at least 0.30",
            lambda v: v >= 0.30,
        ),
    ]
    return [{"name": name, "value": value, "bound": bound, "met": met(value)} for name, value, bound, met in wanted]


def _note(measured: dict[str, float], keys: tuple[str, ...]) -> str:
    missed = "" if measured.get("met", 1.0) else "[yellow]criterion not reached[/] "
    return missed + ", ".join(f"{key} {measured[key]:.2f}" for key in keys if key in measured)


def _partial(path: Path) -> Path:
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def _finish(partial: Path) -> None:
    final = partial.with_suffix("")
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
