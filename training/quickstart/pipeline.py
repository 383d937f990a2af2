"""The whole quick start, stage by stage. Every stage leaves a directory; what is there is not done again.

OUT/base/               the tiny model after stage A        OUT/warm/    after stage B
OUT/arms/plain/         PPO without curiosity (see training/rllib/run.py), with its evaluation in eval/, and the same
                        without operations in withdrawn/
OUT/arms/curiosity/     PPO with curiosity
OUT/arms/selective/     PPO with curiosity, and with what teaches when not to zoom (docs/selective_use.md)
OUT/summary.json        the figures of the arms             OUT/report.html
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection
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
from ..config import CuriosityRecipe, PPORecipe, to_dict
from ..logs import Report, StageProgress
from ..run_directory import RESUME, Interrupted, RunDirectory, write_whole
from .recipe import ARMS, QuickstartRecipe
from .side_by_side import train_side_by_side
from .stages import ATOM, WarmStart, fixed_texts, pretrain, task_texts

SUMMARY_KEYS = (
    "accuracy", "accuracy_needs_operation", "accuracy_easy", "usage_rate", "usage_rate_needs_operation",
    "usage_rate_easy", "first_turn_rate_easy", "hit_rate",
)  # fmt: skip
EASY_WITHDRAWN = "accuracy_easy_withdrawn"
"""The figure of an arm that is measured without operations."""

# What a reader must know to judge the figures: always, if stage A was cut off, if stage B was.
NOTES = (
    "The imbalance that plain reinforcement learning falls for is engineered: the warm start ends with clumsy "
    "demonstrations, most of whose zooms miss, so that zooming begins as a nascent skill that pays less than "
    "answering at once.",
    "Stage A stopped at its limit of steps, before localization and reading reached their criteria.",
    "Stage B stopped at its limit of steps, before its criteria were reached.",
)

EVALUATIONS: dict[str, dict[str, Any]] = {"eval": {}, "withdrawn": {"operations": []}}
"""Directory of an evaluation -> what its environment has besides."""

Stage = Callable[[Report], tuple[dict[str, float], str]]
"""Does a stage; returns what stages.json keeps of it, and what is shown of it."""


class Quickstart:
    """One run of the quick start in one directory."""

    def __init__(self, recipe: QuickstartRecipe, console: Console) -> None:
        self.recipe, self.console = recipe, console
        self.out = Path(recipe.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self._check_recipe()
        self._stages_file = self.out / "stages.json"
        done = self._stages_file.read_text() if self._stages_file.exists() else "{}"
        self.stages: dict[str, dict[str, float]] = json.loads(done)
        self._progress = StageProgress(console)

    def run(self) -> Path:
        """Do what is missing; returns the path of the summary. Raises Interrupted after Ctrl-C."""
        warm_start = self.recipe.warm_start
        try:
            with self._progress:
                self._stage("base", "A  pre-train a tiny VLM", self.recipe.pretrain.steps, self._base)
                self._stage("warm", "B  warm start", warm_start.form.steps + warm_start.clumsy.steps, self._warm)
                self._stage("ppo", "C  PPO without, with curiosity, selective", self._n_iterations(ARMS), self._train)
                if not self._to_evaluate():
                    self._progress.skip("D  evaluate")
                else:
                    self.stages.pop("evaluate", None)
                    self._stage("evaluate", "D  evaluate", len(self._to_evaluate()), self._evaluate)
            summary = self._summarize()
            report = _start_eval("report", str(self.out), "--out", str(self.out / "report.html"))
            _finish(report, "The report could not be written")
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

    def _stage(self, name: str, title: str, n_steps: int, do: Stage) -> None:
        if name in self.stages:
            self._progress.skip(title)
            return
        start = time.perf_counter()
        kept, shown = do(self._progress.begin(title, n_steps))
        self.stages[name] = {**kept, "seconds": time.perf_counter() - start}
        self._stages_file.write_text(json.dumps(self.stages, indent=2) + "\n")
        self._progress.end(shown)

    def _envs(self, n: int) -> list[gymnasium.Env]:
        return [gymnasium.make(self.recipe.env.id, **self.recipe.env.kwargs) for _ in range(n)]

    def _base(self, report: Report) -> tuple[dict[str, float], str]:
        (env,), seed = self._envs(1), self.recipe.seed
        measured: dict[str, float] = {}

        def save(path: Path) -> None:
            vlm = tiny.build(path, task_texts(env), ATOM, fixed_texts(env), seed=seed)
            torch.manual_seed(seed)
            measured.update(pretrain(vlm, env, self.recipe.pretrain, seed=seed, report=report))
            vlm.save(path)

        write_whole(self.out / "base", save)
        return measured, _note(measured, ("localization", "letters"))

    def _warm(self, report: Report) -> tuple[dict[str, float], str]:
        recipe = self.recipe.warm_start
        vlm = VLM.from_pretrained(self.out / "base")
        torch.manual_seed(self.recipe.seed)
        stage = WarmStart(vlm, self._envs(2 * recipe.held_out), recipe, seed=self.recipe.seed, report=report)
        form = stage.form()
        measured = stage.clumsy(offset=int(form["steps"]))
        write_whole(self.out / "warm", vlm.save)
        kept = {**measured, "form_met": form["met"], "form_steps": form["steps"]}
        return kept, _note(measured, ("usage", "forced_hit", "easy_direct", "forced_easy", "box"))

    def arm_recipe(self, arm: str) -> PPORecipe:
        """What one arm trains by."""
        recipe = replace(
            self.recipe.ppo,
            model=str(self.out / "warm"),
            out=str(self.out / "arms" / arm),
            seed=self.recipe.seed,
            env=self.recipe.env,
        )
        if arm == "plain":
            return replace(recipe, curiosity=CuriosityRecipe(preset="off"))
        if arm == "selective":
            return replace(recipe, selective=self.recipe.selective, iterations=self.recipe.selective_iterations)
        return recipe

    def _n_iterations(self, arms: Collection[str]) -> int:
        return sum(self.arm_recipe(arm).iterations for arm in arms)

    def _train(self, report: Report) -> tuple[dict[str, float], str]:
        """All arms at once; what an interrupted one left goes on."""
        runs = {arm: RunDirectory(self.arm_recipe(arm).out) for arm in ARMS}
        missing = {arm: self.arm_recipe(arm) for arm, run in runs.items() if not run.model.exists()}
        n, done, usage = self._n_iterations(missing), itertools.count(1), dict[str, float]()

        def on_iteration(arm: str, metrics: dict[str, float]) -> None:
            usage[f"usage_{arm}"] = metrics["usage_rate"]
            report(next(done), n, usage)

        train_side_by_side(missing, on_iteration)
        latest = {arm: json.loads(run.metrics.read_text().splitlines()[-1]) for arm, run in runs.items()}
        shown = (f"{arm}: {_note(metrics, ('accuracy', 'usage_rate'))}" for arm, metrics in latest.items())
        return {f"iterations_{arm}": metrics["iteration"] for arm, metrics in latest.items()}, "; ".join(shown)

    def _evaluation(self, arm: str, kind: str) -> Path:
        return self.out / "arms" / arm / kind

    def _to_evaluate(self) -> list[tuple[str, str]]:
        """Arm and kind of the evaluations that are missing."""
        every = [(arm, kind) for kind in EVALUATIONS for arm in ARMS]
        return [each for each in every if not (self._evaluation(*each) / "metrics.json").exists()]

    def _evaluate(self, report: Report) -> tuple[dict[str, float], str]:
        """All arms at once, each in a process of its own, exactly as a user would: `python -m eval run`."""
        missing = self._to_evaluate()
        for first in range(0, len(missing), len(ARMS)):
            running = {each: self._start_evaluation(*each) for each in missing[first : first + len(ARMS)]}
            for k, ((arm, _), process) in enumerate(running.items(), start=first + 1):
                _finish(process, f"The evaluation of arm {arm!r} failed")
                report(k, len(missing), {})
        return {}, ""

    def _start_evaluation(self, arm: str, kind: str) -> subprocess.Popen[str]:
        recipe, folder = self.recipe, self.out / "arms" / arm
        env_args = {**recipe.env.kwargs, "split": "test", **EVALUATIONS[kind]}
        return _start_eval(
            "run", recipe.env.id, "--agent", "transformers", "--no-report", "--envs", "400",
            "--model", str(folder / "model"), "--out", str(self._evaluation(arm, kind)),
            "--limit", str(recipe.eval_samples), "--max-tokens", str(recipe.ppo.max_tokens),
            *(part for key, value in env_args.items() for part in ("--env-arg", f"{key}={json.dumps(value)}")),
        )  # fmt: skip

    def _summarize(self) -> dict[str, Any]:
        arms: dict[str, dict[str, float]] = {}
        for arm in ARMS:
            metrics, withdrawn = (
                json.loads((self._evaluation(arm, kind) / "metrics.json").read_text())["statistics"]
                for kind in EVALUATIONS
            )
            # Nobody zoomed, so nobody hit: the rate over no episode is reported as 0.
            arms[arm] = {"hit_rate": 0.0, **{key: metrics[key] for key in SUMMARY_KEYS if key in metrics}}
            arms[arm][EASY_WITHDRAWN] = withdrawn["accuracy_easy"]
            arms[arm]["iterations"] = self.stages["ppo"][f"iterations_{arm}"]
        seconds = {stage: values["seconds"] for stage, values in self.stages.items()}
        base, warm = self.stages["base"], self.stages["warm"]
        holding = (True, not base["met"], not (warm["form_met"] and warm["met"]))
        summary = {
            "seed": self.recipe.seed,
            "arms": arms,
            "seconds": {**seconds, "total": sum(seconds.values())},
            "targets": targets(arms),
            "notes": list(itertools.compress(NOTES, holding)),
            "stages": self.stages,
        }
        (self.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return summary

    def _show(self, summary: dict[str, Any]) -> None:
        table = Table(title=f"Held-out samples, seed {summary['seed']}")
        table.add_column("")
        for arm in ARMS:
            table.add_column(arm, justify="right")
        for key in (*SUMMARY_KEYS, EASY_WITHDRAWN):
            table.add_row(key.replace("_", " "), *(f"{summary['arms'][arm][key]:.3f}" for arm in ARMS))
        self.console.print(table)
        for target in summary["targets"]:
            mark = "[green]met[/]" if target["met"] else "[red]not met[/]"
            self.console.print(f"{mark}  {target['name']}: {target['value']:.3f} (wanted {target['bound']})")
        self.console.print(f"{summary['seconds']['total']:.0f} s in all. Report: {self.out / 'report.html'}")


def targets(arms: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What the quick start has to show: the trap without curiosity, the way out with it, and judgement on top."""
    usage, of_plain = arms["curiosity"]["usage_rate"], arms["plain"]["usage_rate"]
    gain, gain_where_needed = (
        arms["curiosity"][key] - arms["plain"][key] for key in ("accuracy", "accuracy_needs_operation")
    )
    rows = [
        ("usage rate without curiosity", of_plain, "below 0.05", of_plain < 0.05),
        ("usage rate with curiosity", usage, "above 0.5", usage > 0.5),
        ("gain in accuracy", gain, "at least 0.15", gain >= 0.15),
        ("gain on samples that need the operation", gain_where_needed, "at least 0.30", gain_where_needed >= 0.30),
    ]
    # Of the arm "selective", what is at least, or for usage where none is needed, below.
    for name, key, bound in (
        ("accuracy", "accuracy", 0.97),
        ("usage where it is needed", "usage_rate_needs_operation", 0.95),
        ("usage where it is not", "usage_rate_easy", 0.10),
        ("easy questions answered at once", "first_turn_rate_easy", 0.90),
        ("the same without operations: accuracy", EASY_WITHDRAWN, 0.95),
    ):
        value, below = arms["selective"][key], key == "usage_rate_easy"
        met = value < bound if below else value >= bound
        rows.append((f"selective: {name}", value, f"{'below' if below else 'at least'} {bound:.2f}", met))
    return [dict(zip(("name", "value", "bound", "met"), row, strict=True)) for row in rows]


def _note(measured: dict[str, float], keys: tuple[str, ...]) -> str:
    missed = "" if measured.get("met", 1.0) else "[yellow]criterion not reached[/] "
    return missed + ", ".join(f"{key} {measured[key]:.2f}" for key in keys if key in measured)


def _start_eval(*arguments: str) -> subprocess.Popen[str]:
    # Beside this package: `eval` in a checkout, `pxr_eval` where it is installed.
    package = f"{__name__.partition('training')[0]}eval"
    command = [sys.executable, "-m", package, *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str], failure: str) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{failure} (exit status {process.returncode}): {errors}")
