"""Questions that the works building on the asymmetry paper let one ask of a checkpoint, a family or a chain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
