"""Train deep spiking neural networks that need only a few time steps, with TSSL-BP."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
