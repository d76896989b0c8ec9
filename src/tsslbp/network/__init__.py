"""Networks of spiking layers, and the descriptions from which they are built."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
