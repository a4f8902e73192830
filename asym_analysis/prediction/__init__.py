"""Which modules need A trained, predicted from activations and gradients: needs torch alone, no transformers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
