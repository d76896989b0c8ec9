"""What a trained network does: confusions, gradients beside the truth, conversion from ReLU."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
