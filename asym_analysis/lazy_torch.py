"""torch, loaded when something of it is first used: reading the header of a file needs none of it.

`import torch` takes three times as long as all that `asym inspect --headers` does. Files on the way from a path to an
adapter import `torch`, `Tensor` and `Module` from here.
"""

from __future__ import annotations

import sys
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["Module", "Tensor", "torch"]

if TYPE_CHECKING or "torch" in sys.modules:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:

    class _Torch:
        """Gives what torch has, and remembers it, so that a second use costs nothing more."""

        def __getattr__(self, name: str) -> Any:
            import torch

            value = getattr(torch, name)
            setattr(self, name, value)
            return value

    class _Kind(type):
        """Makes a class that knows its instances: there are none where torch was not loaded."""

        def __instancecheck__(cls, value: Any) -> bool:
            return "torch" in sys.modules and isinstance(value, cls.real(sys.modules["torch"]))

    class Tensor(metaclass=_Kind):
        """Stands for `torch.Tensor` in annotations and in `isinstance`."""

        real = attrgetter("Tensor")

    class Module(metaclass=_Kind):
        """Stands for `torch.nn.Module` likewise."""

        real = attrgetter("nn.Module")

    torch = _Torch()
