"""Dialects: how a turn is written, and how the environment words its replies. docs/dialects.md describes them."""

from pxr_env.dialects.base import Dialect, Wording, same_call, tool_call
from pxr_env.dialects.registry import DialectFactory, dialect_names, get_dialect, register_dialect
from pxr_env.dialects.released import Hermes, deepeyes, glm_4_5v, hermes, mini_o3, pixel_reasoner, qwen3_5, qwen3_vl
from pxr_env.dialects.tags import Tags

for name, factory in (
    ("hermes", hermes),
    ("pixel-reasoner", pixel_reasoner),
    ("qwen3-vl", qwen3_vl),
    ("qwen3.5", qwen3_5),
    ("glm-4.5v", glm_4_5v),
    ("mini-o3", mini_o3),
    ("deepeyes", deepeyes),
    ("tags", lambda frame: Tags(frame=frame)),
):
    register_dialect(name, factory)

__all__ = [
    "Dialect",
    "DialectFactory",
    "Hermes",
    "Tags",
    "Wording",
    "dialect_names",
    "get_dialect",
    "pixel_reasoner",
    "register_dialect",
    "same_call",
    "tool_call",
]
