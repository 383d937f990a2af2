"""How many answers change with the number of episodes at once, and with an interruption: rounding is all that is left.

    python -m pxr_agents.random_checkpoint qwen3-vl runs/random
    OMP_NUM_THREADS=1 python -m benchmarks.sampling_noise --model runs/random --agent transformers

Every run asks the same 16 questions six times at temperature 1 and is compared, episode by episode and word for word,
with the first. The interrupted ones are stopped after a third of their episodes and continued.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console

from eval.agents import AgentChoice
from eval.records import RunFiles, RunRecord
from eval.runner import evaluate
from eval.suites import Choice
from pxr_agents.types import Sampling

ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"
ENV_ARGS = {"split": "test", "min_pixels": 1024, "max_pixels": 9216, "size_multiple": 32, "max_turns": 3}
N_QUESTIONS, N_REPEATS = 16, 6


class Stopped(Exception):
    """In the middle of a run."""


def turns(out: Path) -> dict[tuple[str, int], list[str]]:
    """What the model wrote, by sample and repeat."""
    return {record.key: [step.turn for step in record.episode.steps] for record in RunFiles(out).records()}


def play(out: Path, choice: AgentChoice, n_envs: int) -> None:
    """Begin a run, or continue it."""
    evaluate(
        ENV_ID,
        out=out,
        agent=choice,
        env_args=ENV_ARGS,
        choice=Choice(limit=N_QUESTIONS),
        repeats=N_REPEATS,
        n_envs=n_envs,
        console=Console(file=io.StringIO()),
    )


def main() -> None:
    """Print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--agent", default="transformers", choices=["transformers", "vllm"])
    parser.add_argument("--engine", type=json.loads, default={}, help="start arguments, as JSON")
    parser.add_argument("--max-tokens", type=int, default=32)
    arguments = parser.parse_args()
    sampling = Sampling(temperature=1.0, max_tokens=arguments.max_tokens)
    choice = AgentChoice(name=arguments.agent, model=arguments.model, sampling=sampling, engine=arguments.engine)
    first: dict[Any, list[str]] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for n_envs in (64, 7, 1):
            for interrupted in (False, True):
                out = Path(folder, f"{n_envs}-{interrupted}")
                if interrupted:
                    stop_a_third_in(out, choice, n_envs)
                play(out, choice, n_envs)
                found = turns(out)
                first = first or found
                equal = sum(found[key] == first[key] for key in first)
                kind = "interrupted" if interrupted else "in one go"
                print(f"{n_envs:>3} at once, {kind}: {equal} of {len(first)} episodes equal", flush=True)


def stop_a_third_in(out: Path, choice: AgentChoice, n_envs: int) -> None:
    """A run that has not got far."""
    append = RunFiles.append

    def append_or_stop(self: RunFiles, record: RunRecord) -> None:
        append(self, record)
        if len(self.records()) == N_QUESTIONS * N_REPEATS // 3:
            raise Stopped

    with patch.object(RunFiles, "append", append_or_stop), suppress(Stopped):
        play(out, choice, n_envs)


if __name__ == "__main__":
    main()
