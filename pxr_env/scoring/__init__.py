"""Scorers: how good is the model's answer?

A scorer has a name, is called with the answer and the sample, and returns a score from 0 to 1. The ones here never
raise on an answer, whatever it is, and always give the same answer the same score. docs/scoring.md has the rules.
"""

from pxr_env.scoring.choice import auto, multiple_choice
from pxr_env.scoring.mathematics import math
from pxr_env.scoring.numeric import iou, number, number_strict
from pxr_env.scoring.registry import Scorer, ScoringFunction, get_scorer, register_scorer, scorer_names
from pxr_env.scoring.text import anls, exact, normalize, vqa_accuracy

__all__ = [
    "Scorer",
    "ScoringFunction",
    "anls",
    "auto",
    "exact",
    "get_scorer",
    "iou",
    "math",
    "multiple_choice",
    "normalize",
    "number",
    "number_strict",
    "register_scorer",
    "scorer_names",
    "vqa_accuracy",
]
