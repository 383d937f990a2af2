"""These tests run where their package is, see `__main__`: anywhere else they are left out."""

import sys
from pathlib import Path

_venv = Path(sys.prefix)
_own = f"test_{_venv.name}.py" if _venv.parent.name == "adapters" else ""
collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != _own]
