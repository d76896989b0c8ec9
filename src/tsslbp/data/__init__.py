"""Data sets as tensors, and the batches made from them.

`load` finds a data set by its name in `tsslbp.data.catalogue`, which ``tsslbp data list`` prints,
or by the path of your own ``.npz`` file or folder of images; see `tsslbp.data.npz` and
`tsslbp.data.folder`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
