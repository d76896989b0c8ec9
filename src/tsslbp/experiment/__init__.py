"""An experiment as data: one checked record, recipes, and random numbers from its seed."""

from .binning import Binning
from .experiment import Experiment, ProtocolName
from .recipe import load_recipe, recipe_names, save, with_settings

__all__ = [
    "Binning",
    "Experiment",
    "ProtocolName",
    "load_recipe",
    "recipe_names",
    "save",
    "with_settings",
]
