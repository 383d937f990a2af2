"""Virtual environments of the packages that our adapters are for: build/adapters/NAME, made once for a declaration.

The packages, pinned, stand in packages.toml, which says what its keys mean.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VENVS = ROOT / "build" / "adapters"
PACKAGES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("packages.toml").read_text("utf-8"))
#: Not shown to them: this checkout, and what vLLM's build brings along that fits another torch.
_APART = ("pxr-gym", "torchaudio", "torchcodec", "torchvision")
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python")


def environment(name: str) -> Path:
    """The interpreter of a package's virtual environment, which is made if there is none for its declaration.

    Raises:
        RuntimeError: it cannot be installed; with pip's last words.
    """
    declaration = PACKAGES[name]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [*declaration["requires"], *project["dependencies"], *project["optional-dependencies"].get(name, ())]
    linked = {found.name: found.version for found in importlib.metadata.distributions() if found.name not in _APART}
    stamp = hashlib.sha256(json.dumps([declaration, needed, linked, sys.version]).encode()).hexdigest()
    VENVS.mkdir(parents=True, exist_ok=True)
    # Tests in other processes may want it, too.
    with (VENVS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if facts(name).get("stamp") != stamp:
            _make(name, needed, linked, stamp)
    return VENVS / name / "bin" / "python"


def _make(name: str, needed: list[str], linked: Mapping[str, str], stamp: str) -> None:
    venv = VENVS / name
    python, site = venv / "bin" / "python", venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    start = time.monotonic()
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    for package in linked:
        _link(package, venv / "linked")
    # Behind the packages of its own, in this order: those of this environment, which pip takes where they are what the
    # package requires, and this checkout.
    (site / "site-packages" / "pxr.pth").write_text(f"{venv / 'linked'}\n{ROOT}\n")
    # A newer torch would be a build for CUDA, of gigabytes.
    pinned = [f"{package}=={version}" for package, version in linked.items() if package == "torch"]
    if forced := PACKAGES[name].get("forced"):
        _pip(name, python, "--no-deps", "--ignore-requires-python", *forced)
    _pip(name, python, "pytest", *needed, *pinned)
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file() and not file.is_symlink()) // 2**20
    found = {"stamp": stamp, "seconds": round(time.monotonic() - start), "mb": size}
    (venv / "facts.json").write_text(json.dumps(found))


def facts(name: str) -> dict[str, Any]:
    """What is known of a made environment: "seconds" of the installation, "mb"; empty if there is none."""
    file = VENVS / name / "facts.json"
    return json.loads(file.read_text()) if file.exists() else {}


def version(name: str) -> str:
    """The version of the package that an environment was made for."""
    package = re.split("[<>=]", [*PACKAGES[name].get("forced", ()), *PACKAGES[name]["requires"]][0])[0]
    places = [str(path) for pattern in ("lib/*/*", "linked") for path in (VENVS / name).glob(pattern)]
    found = importlib.metadata.distributions(name=package, path=places)
    return next((distribution.version for distribution in found), "?")


def _pip(name: str, python: Path, *arguments: str) -> None:
    # Ray, torch and the like are compiled when they are first imported, and most of them never are.
    command = [*_PIP, str(python), "install", "--no-compile", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PIP_NO_INPUT": "1"})
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise RuntimeError(f"{name} cannot be installed here: {' '.join(words)[-800:]}")


def _link(package: str, folder: Path) -> None:
    """Show a package of this environment in a folder. pip never removes what lies outside of a virtual environment."""
    folder.mkdir(exist_ok=True)
    distribution = importlib.metadata.distribution(package)
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (folder / top).exists():
            (folder / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
