"""Dialects: how a turn is written, and how the environment words its replies. docs/dialects.md describes them."""

from pxr_env.dialects.base import Dialect
from pxr_env.dialects.deepeyes import DeepEyes, deepeyes
from pxr_env.dialects.hermes import Hermes, glm_4_5v, hermes, qwen3_5, qwen3_vl
from pxr_env.dialects.mini_o3 import MiniO3, mini_o3
from pxr_env.dialects.pixel_reasoner import pixel_reasoner
from pxr_env.dialects.registry import DialectFactory, dialect_names, get_dialect, register_dialect
from pxr_env.dialects.tags import Tags, tags
from pxr_env.dialects.wording import Wording

register_dialect("hermes", hermes)
register_dialect("pixel-reasoner", pixel_reasoner)
register_dialect("qwen3-vl", qwen3_vl)
register_dialect("qwen3.5", qwen3_5)
register_dialect("glm-4.5v", glm_4_5v)
register_dialect("mini-o3", mini_o3)
register_dialect("deepeyes", deepeyes)
register_dialect("tags", tags)

__all__ = [
    "DeepEyes",
    "Dialect",
    "DialectFactory",
    "Hermes",
    "MiniO3",
    "Tags",
    "Wording",
    "dialect_names",
    "get_dialect",
    "pixel_reasoner",
    "register_dialect",
]
