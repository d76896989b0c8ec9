"""An experiment as data: one checked record, recipes, and random numbers from its seed."""

from .binning import Binning as Binning
from .experiment import Experiment as Experiment
from .experiment import ProtocolName as ProtocolName
from .recipe import load_recipe as load_recipe
from .recipe import recipe_names as recipe_names
from .recipe import save as save
from .recipe import with_settings as with_settings
