"""Procedural samples that need no download, with evidence and certified need for an operation."""

from pxr_env.synthetic.count import SyntheticCount
from pxr_env.synthetic.infographic import SyntheticInfographic
from pxr_env.synthetic.scenes import COLOURS, LETTERS
from pxr_env.synthetic.search import SyntheticSearch, cell_box
from pxr_env.synthetic.video import SyntheticVideo

__all__ = [
    "COLOURS",
    "LETTERS",
    "SyntheticCount",
    "SyntheticInfographic",
    "SyntheticSearch",
    "SyntheticVideo",
    "cell_box",
]
