"""Dialects: how a turn is written, and how the environment words its replies. docs/dialects.md describes them."""

from pxr_env.dialects.base import Dialect, Wording
from pxr_env.dialects.hermes import Hermes, glm_4_5v, hermes, pixel_reasoner, qwen3_5, qwen3_vl
from pxr_env.dialects.registry import DialectFactory, dialect_names, get_dialect, register_dialect
from pxr_env.dialects.released import deepeyes, mini_o3
from pxr_env.dialects.tags import Tags, tags

register_dialect("hermes", hermes)
register_dialect("pixel-reasoner", pixel_reasoner)
register_dialect("qwen3-vl", qwen3_vl)
register_dialect("qwen3.5", qwen3_5)
register_dialect("glm-4.5v", glm_4_5v)
register_dialect("mini-o3", mini_o3)
register_dialect("deepeyes", deepeyes)
register_dialect("tags", tags)

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
]
