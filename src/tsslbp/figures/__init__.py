"""Figures of a run, of studies, and axes of parallel coordinates; drawn from arrays."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
