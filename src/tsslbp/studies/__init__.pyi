from . import compare as compare
from . import driver as driver
from . import jobs as jobs
from . import space as space
from . import sweep as sweep
from . import trials as trials
