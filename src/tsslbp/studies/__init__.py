"""Studies of many runs: seeds, comparisons of learning rules, hyperparameter search."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
