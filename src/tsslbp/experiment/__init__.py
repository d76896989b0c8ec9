"""An experiment as data: one checked record, recipes, and random numbers derived from its seed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
