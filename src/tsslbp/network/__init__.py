"""Networks of spiking layers, and the descriptions that they are made from."""

from .network import (
    Activity,
    Model,
    Network,
    SpikingLayer,
)

__all__ = [
    "Activity",
    "Model",
    "Network",
    "SpikingLayer",
]
