"""Fine-tune the variants of an adapter on any Hugging Face model, and judge the results.

The only part of the package that imports transformers, peft, datasets and accelerate (the `finetune` extra), when a
run starts. `results` judges tables of finished runs and needs none of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
