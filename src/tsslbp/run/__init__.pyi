from . import results as results
from .environment import describe_environment as describe_environment
from .run import AVERAGED as AVERAGED
from .run import CHECKPOINTS as CHECKPOINTS
from .run import Run as Run
from .run import count_epochs as count_epochs
from .run import to_json as to_json
from .run import write_json as write_json
