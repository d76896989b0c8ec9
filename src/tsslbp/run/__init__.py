"""A run's folder and records, and what runs have reached."""

from .run import CHECKPOINTS as CHECKPOINTS
from .run import Run as Run
from .run import count_epochs as count_epochs
from .run import to_json as to_json
from .run import write_json as write_json
