"""How large the house is, and how far one has to walk in it.

    python benchmarks/house.py                  # the table
    python benchmarks/house.py --rooms          # with the rooms that a box and a reward visit

Lines are counted as `wc -l` does, of Python, JavaScript, style sheets and templates that git knows. A class name means
two things if two modules define it. The rooms of a box are the project's files entered between a text with a zoom and
the pixels of its crop; those of a reward are the files whose code names a reward or an advantage, in the packages that
it passes from the environment to the loss.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pxr_env", "pxr_agents", "training", "eval")
SUFFIXES = {".py", ".js", ".css", ".jinja", ".html"}
# Beside the way from the environment to the loss: screens, reports, checks and demonstrations.
ASIDE = ("play", "testing", "quickstart", "doctor", "config")
SMALL = 30


class Function(NamedTuple):
    lines: int
    name: str


def tracked(*folders: str) -> list[Path]:
    """Files of the folders that git knows and that exist."""
    listed = subprocess.run(["git", "ls-files", "--", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def public_methods(node: ast.ClassDef) -> int:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return sum(isinstance(item, kinds) and not item.name.startswith("_") for item in node.body)


def functions(path: Path, tree: ast.Module) -> list[Function]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    where = path.relative_to(ROOT)
    return [Function((node.end_lineno or 0) - node.lineno + 1, f"{where}:{node.name}") for node in found]


def rooms_of_a_box() -> list[str]:
    """The project's files in the order they are entered, from the text of a turn to the pixels it asks for."""
    import gymnasium

    import pxr_env  # noqa: F401  (registers the tasks)

    env: Any = gymnasium.make("pxr/SyntheticSearch-v0").unwrapped
    env.reset(seed=0)
    call = {"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}
    text = f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    entered: dict[str, None] = {}

    def enter(frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES:
            entered[str(path.relative_to(ROOT))] = None

    sys.setprofile(enter)
    try:
        _, _, _, _, info = env.step(text)
    finally:
        sys.setprofile(None)
    if len(info["views"]) != 2:
        raise RuntimeError(f"the zoom was refused: {info}")
    return list(entered)


def rooms_of_a_reward(trees: dict[Path, ast.Module]) -> list[str]:
    """Files with a name that has the word reward or advantage in it, of variables, arguments and attributes."""
    found = []
    for path, tree in trees.items():
        where = path.relative_to(ROOT)
        if where.parts[0] == "eval" or set(ASIDE) & {*where.parts, where.stem}:
            continue
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        if any(word in name.lower().split("_") for name in names for word in ("reward", "rewards", "advantages")):
            found.append(str(where))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", action="store_true", help="list the rooms of a box and of a reward")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    files = [path for path in tracked(*PACKAGES) if path.suffix in SUFFIXES]
    trees = {path: ast.parse(path.read_text()) for path in files if path.suffix == ".py"}
    counts = Counter(node.name for tree in trees.values() for node in classes(tree))
    twice = sorted(name for name, n in counts.items() if n > 1)
    longest = max(function for path, tree in trees.items() for function in functions(path, tree))
    largest = max(trees, key=lines)
    methods = max((public_methods(node), node.name) for tree in trees.values() for node in classes(tree))
    small = [path for path in trees if lines(path) < SMALL]
    box, reward = rooms_of_a_box(), rooms_of_a_reward(trees)
    rows = [
        ("product lines", sum(map(lines, files)), ""),
        *((f"  {package}", sum(lines(path) for path in files if path.is_relative_to(ROOT / package)), "")
          for package in PACKAGES),
        ("files of product lines", len(files), ""),
        (f"  under {SMALL} lines", len(small), ""),
        ("class names that mean two things", len(twice), ", ".join(twice)),
        ("rooms of a box", len(box), ""),
        ("rooms of a reward", len(reward), ""),
        ("largest function", longest.lines, longest.name),
        ("largest file", lines(largest), str(largest.relative_to(ROOT))),
        ("most public methods", *methods),
        ("lines of tests", sum(map(lines, (path for path in tracked("tests") if path.suffix == ".py"))), ""),
    ]  # fmt: skip
    for name, number, remark in rows:
        print(f"{name:<34}{number:>8,}  {remark}".rstrip())
    if args.rooms:
        for name, rooms in (("box", box), ("reward", reward)):
            print(f"\nrooms of a {name}:", *(f"  {room}" for room in rooms), sep="\n")


if __name__ == "__main__":
    main()
