"""What became of every tensor of a checkpoint: nothing is skipped silently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

__all__ = ["Coverage"]


@dataclass(frozen=True)
class Coverage:
    """Every tensor of a file, by what was done with it.

    Attributes
    ----------
    used
        Tensor name -> the part it plays, such as ``"A of layer.0.query"``.
    ignored
        Tensor name -> why it is sound to leave it out, such as ``"base weight"``.
    refused
        Tensor name -> why it could not be used though it belongs to an adapter, such as ``"A without its B"``.
    others_unknown
        True where the file is the state dict of a whole model: weights outside the adapter may have been trained, and
        nothing in the file says which.

    Examples
    --------
    >>> coverage = Coverage(used={"q.lora_A": "A of q", "q.lora_B": "B of q"}, refused={"v.lora_A": "A without its B"})
    >>> coverage.complete
    False
    >>> print(coverage)
    2 tensors used, 0 ignored, 1 refused (A without its B: v.lora_A)
    """

    used: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    others_unknown: bool = False

    @property
    def complete(self) -> bool:
        """True when nothing that belongs to an adapter was refused."""
        return not self.refused

    @property
    def frame(self) -> pd.DataFrame:
        """One row a tensor: tensor, status ("used", "ignored" or "refused"), reason."""
        rows = [
            (tensor, status, reason)
            for status in ("used", "ignored", "refused")
            for tensor, reason in getattr(self, status).items()
        ]
        return pd.DataFrame(rows, columns=["tensor", "status", "reason"])

    def __str__(self) -> str:
        text = f"{len(self.used)} tensors used, {len(self.ignored)} ignored, {len(self.refused)} refused"
        if self.refused:
            tensor, reason = next(iter(self.refused.items()))
            more = f" and {len(self.refused) - 1} more" if len(self.refused) > 1 else ""
            text += f" ({reason}: {tensor}{more})"
        return text
