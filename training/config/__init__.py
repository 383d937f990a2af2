"""Recipes: what a run is made of, as typed dataclasses. `load_recipe` reads them from TOML and the command line.

A recipe with nothing but its required keys is complete: every default and its meaning is stated in its class.
"""

from training.config.engine import EngineRecipe
from training.config.environment import CuriosityRecipe, EnvRecipe
from training.config.learner import LearnerRecipe
from training.config.ppo import PPORecipe
from training.config.probes import ProbesRecipe
from training.config.warm_start import ImagesRecipe, SFTRecipe, TracesRecipe
from training.recipe_reader import RecipeError, load_recipe, recipe_keys, to_dict

__all__ = [
    "CuriosityRecipe",
    "EngineRecipe",
    "EnvRecipe",
    "ImagesRecipe",
    "LearnerRecipe",
    "PPORecipe",
    "ProbesRecipe",
    "RecipeError",
    "SFTRecipe",
    "TracesRecipe",
    "load_recipe",
    "recipe_keys",
    "to_dict",
]
