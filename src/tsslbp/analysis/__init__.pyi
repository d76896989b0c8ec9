from . import convert as convert
from . import energy as energy
from . import inspection as inspection
from . import microscope as microscope
from . import operations as operations
from .operations import cost as cost
