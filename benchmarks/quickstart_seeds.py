"""The quick start on several seeds, as the table of the README.

    python benchmarks/quickstart_seeds.py 0 1 2 3 4

Every seed is a whole chain: tiny model, warm start, PPO without and with curiosity, evaluation on 400 held-out samples.
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
    "| seed | accuracy without | with curiosity | needs a zoom: without | with curiosity | "
    "usage without | with curiosity | hits with curiosity | targets | minutes |"
)


def run(seed: int, folder: Path) -> dict[str, Any]:
    """The summary of one seed's quick start."""
    command = [sys.executable, "-m", "training", "quickstart", f"seed={seed}", f"out={folder / str(seed)}"]
    subprocess.run(command, check=True)
    summary: dict[str, Any] = json.loads((folder / str(seed) / "summary.json").read_text())
    return summary


def row(summary: dict[str, Any]) -> str:
    plain, curiosity = summary["arms"]["plain"], summary["arms"]["curiosity"]
    met = sum(target["met"] for target in summary["targets"])
    cells = [str(summary["seed"])]
    for key in ("accuracy", "accuracy_needs_operation", "usage_rate"):
        cells += [f"{plain[key]:.3f}", f"{curiosity[key]:.3f}"]
    cells += [f"{curiosity['hit_rate']:.2f}", f"{met} of {len(summary['targets'])}"]
    cells.append(f"{summary['seconds']['total'] / 60:.1f}")
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
