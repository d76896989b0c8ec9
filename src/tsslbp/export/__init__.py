"""Exchange of networks with other programs: NIR, ONNX and plain PyTorch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
