"""A run's folder and records, and what runs have reached."""

from .run import (
    CHECKPOINTS,
    Run,
    count_epochs,
    to_json,
    write_json,
)

__all__ = [
    "CHECKPOINTS",
    "Run",
    "count_epochs",
    "to_json",
    "write_json",
]
