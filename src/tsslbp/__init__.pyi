from . import analysis as analysis
from . import data, losses
from . import experiment as experiment
from . import export as export
from . import figures as figures
from . import layers as layers
from . import models as models
from . import network as network
from . import neuron as neuron
from . import rules as rules
from . import training as training
from ._version import __version__
from .losses import predict
from .network import Network
from .neuron import Neuron, lif, psc, spikes
from .rules import NA, SLAYER, TSSLBP, EventProp, SpikeBP, Surrogate
from .run import results as results
from .training import load
from .training.module import fit

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
    "fit",
    "lif",
    "load",
    "losses",
    "predict",
    "psc",
    "spikes",
]
