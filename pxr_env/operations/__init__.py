"""Pixel operations: what the model can do with the images it was shown, and the registry users add to."""

from pxr_env.operations import pixels  # noqa: F401  (registers the operations of this package)
from pxr_env.operations.registry import (
    BOX,
    TARGET_IMAGE,
    Operation,
    OperationContext,
    get_operation,
    operation_names,
    read_arguments,
    register_operation,
)

__all__ = [
    "BOX",
    "TARGET_IMAGE",
    "Operation",
    "OperationContext",
    "get_operation",
    "operation_names",
    "read_arguments",
    "register_operation",
]
