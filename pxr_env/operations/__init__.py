"""Pixel operations: what the model can do with the images it was shown, and the registry users add to."""

from pxr_env.operations import compare, drawing, frames, transforms, zoom
from pxr_env.operations.registry import (
    Operation,
    OperationContext,
    get_operation,
    operation_names,
    register_operation,
)
from pxr_env.operations.schema import BOX, TARGET_IMAGE, read_arguments

#: The modules that register the operations of this package.
MODULES = (zoom, frames, transforms, drawing, compare)

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
