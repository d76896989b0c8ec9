from .custom import CustomNetwork as CustomNetwork
from .description import plan as plan
from .description import summary as summary
from .network import Activity as Activity
from .network import LayeredModel as LayeredModel
from .network import Model as Model
from .network import Network as Network
from .network import SpikingLayer as SpikingLayer
