"""What the two factors of a LoRA adapter learned, whether A needed training, and what a checkpoint is guaranteed.

Every public name is imported when it is first used (the list is `__init__.pyi`): `import asym_analysis` alone loads
neither torch, nor transformers, nor matplotlib.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]
