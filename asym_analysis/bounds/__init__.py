"""Guarantee: what a checkpoint is bound to do on new data, and under which assumptions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
