from . import convert as convert
from . import inspection as inspection
from . import microscope as microscope
