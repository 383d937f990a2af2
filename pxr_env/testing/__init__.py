"""The conformance suite: does a task, or an operation, keep what pxr promises? For ours and for yours.

from pxr_env.testing import check_task

def test_task():
    check_task("my_module:my/Task-v0").raise_if_failed()

The checks are pytest tests: `pytest --pyargs pxr_env.testing --task my_module:my/Task-v0` runs them as well.
"""

from pxr_env.testing.plugin import Report, check_operation, check_task

__all__ = ["Report", "check_operation", "check_task"]
