"""Train deep spiking neural networks in few time steps with TSSL-BP."""

from . import data, losses
from .losses import predict
from .network import Network
from .neuron import lif, psp, spikes
from .rules import NA, SLAYER, TSSLBP, EventProp, SpikeBP, Surrogate
from .training import load

__version__ = "0.1.0"

__all__ = [
    "NA",
    "SLAYER",
    "TSSLBP",
    "EventProp",
    "Network",
    "SpikeBP",
    "Surrogate",
    "data",
    "lif",
    "load",
    "losses",
    "predict",
    "psp",
    "spikes",
]
