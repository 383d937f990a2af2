from __future__ import annotations

import os
from pathlib import Path

from training.doctor.machine import GIB, GPU, Machine, check_machine, free_disk, this_machine
from training.doctor.versions import Package

H100 = GPU(name="NVIDIA H100", memory=80 * GIB)
CPU_TORCH, CUDA_TORCH = {"torch": Package(version="2.13.0+cpu")}, {"torch": Package(version="2.13.0")}


def problems(packages=None, **changes):
    machine = {"cpus": 8, "memory": 100 * GIB, "shared_memory": 60 * GIB, "gpus": ()} | changes
    found = list(check_machine(Machine(**machine), packages or {}))
    assert all(finding.remedy for finding in found if finding.level != "ok")
    return [(finding.level, finding.text) for finding in found if finding.level != "ok"]


def test_an_ordinary_machine_is_fine():
    assert problems(CPU_TORCH) == []
    assert problems(CUDA_TORCH | {"vllm": Package(version="0.32.0")}, gpus=(H100,)) == []
    assert problems(shared_memory=None) == []


def test_what_there_is_is_told():
    machine = Machine(cpus=8, memory=100 * GIB, shared_memory=60 * GIB, gpus=(H100, H100))
    [first, second] = check_machine(machine, {})
    assert first.text == "8 CPUs, 100 GiB memory, NVIDIA H100 (80 GiB), NVIDIA H100 (80 GiB)"
    assert second.text == "/dev/shm has 60 GiB"


def test_a_torch_that_cannot_use_the_gpus_is_an_error():
    [(level, text)] = problems(CPU_TORCH, gpus=(H100, H100))
    assert (level, text) == ("error", "torch 2.13.0+cpu cannot use the 2 GPUs; expected a CUDA build.")


def test_vllm_without_a_gpu_is_a_warning():
    [(level, text)] = problems({"vllm": Package(version="0.32.0")})
    assert level == "warning"
    assert "there is no GPU" in text


def test_little_shared_memory_is_a_warning_with_its_size():
    """Docker gives a container 64 MiB."""
    [(level, text)] = problems(shared_memory=64 * 2**20)
    assert level == "warning"
    assert text.startswith("/dev/shm has 0.1 GiB; Ray's object store wants 30.0 GiB")
    assert problems(shared_memory=30 * GIB) == []


def test_threads_that_spin_or_are_too_many_are_warnings():
    [(_, spinning)] = problems(environment={"OMP_WAIT_POLICY": "active"})
    assert "OMP_WAIT_POLICY=ACTIVE" in spinning
    [(_, many)] = problems(environment={"OMP_NUM_THREADS": "16"})
    assert "OMP_NUM_THREADS=16 on 8 CPUs" in many
    assert problems(environment={"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "8"}) == []


def test_this_machine_can_be_read():
    machine = this_machine()
    assert 1 <= machine.cpus <= (os.cpu_count() or 1)
    assert GIB / 4 < machine.memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.environment == dict(os.environ)


def test_the_disk_of_a_directory_that_is_still_to_be_made(tmp_path):
    assert free_disk(tmp_path / "runs" / "a" / "b") > 0
    assert free_disk(Path("surely/not/there")) > 0
