from . import microscope as microscope
from . import run as run
from . import sample as sample
from . import study as study
from . import svg as svg
