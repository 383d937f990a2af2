"""The quick start on several seeds, as the table of the README.

    python benchmarks/quickstart_seeds.py 0 1 2 3 4

Every seed is a whole chain: tiny model, warm start, PPO in three arms, evaluation on 400 held-out samples.
Runs lie in runs/seeds/SEED and are reused; the seconds in the table are of the stages, whenever they ran.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HEADER = (
    "| seed | accuracy: plain | curiosity | selective | usage: plain | curiosity | selective, needed | easy | "
    "easy at once: curiosity | selective | easy, withdrawn: curiosity | selective | targets | minutes |"
)


def run(seed: int, folder: Path) -> dict[str, Any]:
    """The summary of one seed's quick start."""
    command = [sys.executable, "-m", "training", "quickstart", f"seed={seed}", f"out={folder / str(seed)}"]
    subprocess.run(command, check=True)
    summary: dict[str, Any] = json.loads((folder / str(seed) / "summary.json").read_text())
    return summary


def row(summary: dict[str, Any]) -> str:
    arms = summary["arms"]
    met = sum(target["met"] for target in summary["targets"])
    numbers = [arm["accuracy"] for arm in arms.values()]
    numbers += [arms["plain"]["usage_rate"], arms["curiosity"]["usage_rate"]]
    numbers += [arms["selective"]["usage_rate_needs_operation"], arms["selective"]["usage_rate_easy"]]
    for key in ("first_turn_rate_easy", "accuracy_easy_withdrawn"):
        numbers += [arms[arm][key] for arm in ("curiosity", "selective")]
    cells = [str(summary["seed"]), *(f"{number:.3f}" for number in numbers)]
    cells += [f"{met} of {len(summary['targets'])}", f"{summary['seconds']['total'] / 60:.1f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs", "seeds"))
    arguments = parser.parse_args()
    summaries = [run(seed, arguments.out) for seed in arguments.seeds]
    print(HEADER)
    print("|" + "---:|" * HEADER.count(" | ") + "---:|")
    for summary in summaries:
        print(row(summary))
    shown = sum(all(target["met"] for target in summary["targets"]) for summary in summaries)
    print(f"\n{shown} of {len(summaries)} seeds met all targets.")


if __name__ == "__main__":
    main()
