from . import data, losses
from ._version import __version__
from .losses import predict
from .network import Network
from .neuron import Neuron, lif, psc, spikes
from .rules import NA, SLAYER, TSSLBP, EventProp, SpikeBP, Surrogate
from .training import load

__all__ = [
    "NA",
    "SLAYER",
    "TSSLBP",
    "EventProp",
    "Network",
    "Neuron",
    "SpikeBP",
    "Surrogate",
    "__version__",
    "data",
    "lif",
    "load",
    "losses",
    "predict",
    "psc",
    "spikes",
]
