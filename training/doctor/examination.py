"""All of the doctor's questions, asked of the running Python and this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.config import PPORecipe
from training.doctor.findings import Finding
from training.doctor.machine import check_machine, this_machine
from training.doctor.memory import check_memory
from training.doctor.recipe import check_recipe, load_any, parts_of
from training.doctor.versions import check_versions, installed, load_error

#: Modules that are known to be installed and not to load.
FRAGILE = ("torchvision", "decord")


def examine(source: str | Path | None = None, overrides: Sequence[str] = ()) -> list[Finding]:
    """Everything that can be found out before a start. Imports of fragile packages are tried in processes of their own.

    Args:
        source: a recipe, by path or name; None to look at the installation and the machine only.
        overrides: "key=value", as for `load_recipe`.

    Raises:
        RecipeError: the recipe cannot be read.
    """
    recipe = None if source is None else load_any(source, overrides)
    packages, machine = installed(), this_machine()
    reasons = {name: load_error(name) for name in FRAGILE if name in packages}
    broken = {name: reason for name, reason in reasons.items() if reason is not None}
    findings = [
        *check_versions(packages, parts_of(recipe), broken=broken),
        *check_machine(machine, packages),
    ]
    if recipe is not None:
        findings += check_recipe(recipe, machine, packages)
    if isinstance(recipe, PPORecipe):
        findings += check_memory(recipe, machine)
    return findings
