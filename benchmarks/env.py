"""What the environment costs beside the pixel work itself.

    python benchmarks/env.py [--steps 300]

- Zoom steps on a photograph of 1080p and of 12 megapixels, each against the bare Pillow crop and resize of the same box
  to the same size, timed side by side; the ratio is Pillow's time divided by the step's.
- A turn without pixel work: parsing, checking, accounting, in microseconds.
- Memory of live episodes, by the size of their image: what 1,000 environments with two views each hold.

The photograph is the one that scikit-learn carries, enlarged.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from pxr_env import Sample, VisualReasoningEnv
from pxr_env.media import ImageSource
from pxr_env.media.images import decoded_cache

SIZES = {"1080p": (1920, 1080), "12 MP": (4000, 3000)}
#: Widths of the boxes, as shares of the photograph's.
SHARES = (0.1, 0.25, 0.5)
LIVE_EPISODES = 1000


class OneSample:
    """A data set of one photograph."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def sample_ids(self) -> list[str]:
        return ["photograph"]

    def get(self, sample_id: str) -> Sample:
        return Sample(
            sample_id=sample_id, question="What is it?", sources=(ImageSource(path=self.path),), answers=("a temple",)
        )


def environment(path: Path) -> VisualReasoningEnv:
    """The environment with the default pixel budget, and no limit that ends the benchmark."""
    env = VisualReasoningEnv(
        OneSample(path), coordinates="pixel", max_turns=10**9, max_operations=10**9, duplicates="execute"
    )
    env.reset(seed=0)
    return env


def call(box: list[float]) -> str:
    """A turn that zooms into a box of image 1."""
    arguments = {"bbox_2d": box, "target_image": 1}
    return f"<tool_call>{json.dumps({'name': 'zoom_in', 'arguments': arguments})}</tool_call>"


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare_zoom(path: Path, share: float, steps: int) -> dict[str, float]:
    """Times zoom steps and the bare crop and resize in turn; quartiles of the ratio of each pair."""
    env = environment(path)
    width, height = env.views[0].size
    rng = np.random.default_rng(0)
    source = env.source_image(1)
    times: list[tuple[float, float]] = []
    for _ in range(steps):
        x, y = rng.uniform(0, 1 - share, 2)
        box = [round(x * width, 1), round(y * height, 1), round((x + share) * width, 1), round((y + share) * height, 1)]
        turn = f"I look closer. {call(box)}"
        stepped = seconds(lambda turn=turn: env.step(turn))  # type: ignore[misc]
        view = env.views[-1]
        bare = seconds(
            lambda view=view: np.asarray(source.resize(view.size, Image.Resampling.BICUBIC, box=view.box))  # type: ignore[misc]
        )
        times.append((bare, stepped))
        if len(env.views) > 64:
            env.reset()
    ratios = [bare / stepped for bare, stepped in times]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": round(middle, 3),
        "lower_quartile": round(low, 3),
        "upper_quartile": round(high, 3),
        "steps_per_second": round(1 / statistics.median(stepped for _, stepped in times), 1),
    }


def overhead(path: Path, steps: int) -> dict[str, float]:
    """Microseconds of turns without pixel work."""
    env = environment(path)
    texts = {
        "prose only": "I do not know yet.",
        "refused box": call([0, 0, 0, 1]),
    }
    return {
        name: round(1e6 * statistics.median(seconds(lambda text=text: env.step(text)) for _ in range(steps)), 1)  # type: ignore[misc]
        for name, text in texts.items()
    }


def memory(path: Path) -> float:
    """Bytes per live episode with two views, the shared cache of decoded pictures not counted."""
    data = OneSample(path)
    turn = (
        '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0.4, 0.4, 0.5, 0.5], "target_image": 1}}</tool_call>'
    )
    budget = {"min_pixels": 28**2, "max_pixels": 112**2}
    # What the first environment loads is shared by all.
    warm = VisualReasoningEnv(data, **budget)
    warm.reset(seed=0)
    warm.step(turn)
    gc.collect()
    tracemalloc.start()
    live = []
    for seed in range(LIVE_EPISODES):
        env = VisualReasoningEnv(data, **budget)
        env.reset(seed=seed)
        env.step(turn)
        live.append(env)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(live)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=300, help="timed steps of each kind")
    steps = parser.parse_args().steps
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            path = Path(folder) / f"{size[0]}.jpg"
            photograph.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
            for share in SHARES:
                print(
                    json.dumps({"image": name, "box": f"{share:.0%} of the width", **compare_zoom(path, share, steps)})
                )
            print(json.dumps({"image": name, "microseconds_per_turn": overhead(path, steps)}))
            held = memory(path)
            print(json.dumps({"image": name, "bytes_per_live_episode": round(held), "live": LIVE_EPISODES}))
            decoded_cache.clear()


if __name__ == "__main__":
    main()
