from __future__ import annotations

import pytest

from pxr_env.dialects import registry as dialects
from pxr_env.operations import registry as operations
from pxr_env.scoring import registry as scorers


@pytest.fixture(autouse=True)
def own_registries(monkeypatch):
    """What a test registers is gone after it."""
    for module, name in ((operations, "_OPERATIONS"), (dialects, "_DIALECTS"), (scorers, "_SCORERS")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
