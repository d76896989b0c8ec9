"""Networks of spiking layers, and the descriptions that they are made from."""

from .network import Activity as Activity
from .network import Model as Model
from .network import Network as Network
from .network import SpikingLayer as SpikingLayer
