"""`training` and `eval` in a checkout are `pxr_training` and `pxr_eval` where they are installed: one package each."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def join_names(folder: str) -> None:
    """For the package in `folder` of a checkout, as it is imported under that name: its installed name, `pxr_FOLDER`,
    means the same modules from now on. If that was imported first, both names mean what it stands for.

    Otherwise each of its classes would exist twice, and an instance of one would not be an instance of the other.
    """
    installed = f"pxr_{folder}"
    if installed not in sys.modules:
        sys.meta_path.insert(0, _OtherName(installed, folder))
        return
    sys.modules[folder] = sys.modules[installed]
    sys.meta_path.insert(0, _OtherName(folder, installed))


class _OtherName(MetaPathFinder, Loader):
    """Finds `alias` and what is below it among the modules of the package `name`."""

    def __init__(self, alias: str, name: str) -> None:
        self.alias, self.name = alias, name

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if f"{fullname}.".startswith(f"{self.alias}.") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name + spec.name.removeprefix(self.alias))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It ran under its own name. The import system has just exchanged its spec, which it gets back.
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state
