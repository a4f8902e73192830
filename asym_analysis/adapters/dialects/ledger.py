"""Bookkeeping while a dialect reads: every tensor ends up used, ignored or refused, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from asym_analysis.adapters.adapter import ModuleSource, TensorSource
from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.coverage import Coverage
from asym_analysis.errors import AdapterError

__all__ = ["Ledger"]


class Ledger:
    """What became of each tensor so far, in the file's order.

    Parameters
    ----------
    checkpoint
        The checkpoint that is being read.
    dialect
        The dialect that reads it, for messages.

    Examples
    --------
    >>> from asym_analysis.adapters.adapter import TensorSource
    >>> checkpoint = Checkpoint({"q.weight": TensorSource((2, 2), "float32", read=lambda: None)}, source="toy")
    >>> ledger = Ledger(checkpoint, "peft")
    >>> ledger.ignore("q.weight", "frozen base weight")
    >>> ledger.reading({})
    Traceback (most recent call last):
    asym_analysis.errors.AdapterError: toy: 0 of 1 tensors make a low-rank update in the peft dialect
    (q.weight: frozen base weight)
    """

    def __init__(self, checkpoint: Checkpoint, dialect: str) -> None:
        self.checkpoint = checkpoint
        self.dialect = dialect
        self._modules: dict[str, ModuleSource] = {}
        self._extras: dict[str, TensorSource] = {}
        self._used: dict[str, str] = {}
        self._ignored: dict[str, str] = {}
        self._refused: dict[str, str] = {}

    def add_module(self, module: str, source: ModuleSource, parts: Mapping[str, str]) -> None:
        """Record an adapted module; `parts` maps the part a tensor plays ("A", "B", "alpha") to its name."""
        if module in self._modules:
            self.refuse(parts.values(), f"second update of module {module}")
            return
        self._modules[module] = source
        for part, tensor in parts.items():
            self._used[tensor] = f"{part} of {module}"

    def keep(self, tensor: str, name: str, part: str) -> None:
        """Record a trained tensor that belongs to no pair (a head, a bias), under its clean name."""
        self._extras[name] = self.checkpoint.tensors[tensor]
        self._used[tensor] = part

    def ignore(self, tensors: str | Iterable[str], reason: str) -> None:
        """Record tensors that are soundly left out."""
        self._ignored.update(dict.fromkeys(_names(tensors), reason))

    def refuse(self, tensors: str | Iterable[str], reason: str) -> None:
        """Record tensors that belong to an adapter but cannot be used."""
        self._refused.update(dict.fromkeys(_names(tensors), reason))

    def reading(self, metadata: Mapping[str, Any]) -> Reading:
        """Close the books.

        Raises
        ------
        AdapterError
            If no module could be formed; the message gives the first reason.
        """
        known = self._used.keys() | self._ignored.keys() | self._refused.keys()
        strangers = [tensor for tensor in self.checkpoint.tensors if tensor not in known]
        self.refuse(strangers, f"no part of the {self.dialect} dialect")
        if not self._modules:
            reasons = {**self._refused, **self._ignored, **self._used}
            tensor, reason = next(iter(reasons.items()), ("the file", "holds no tensor"))
            raise AdapterError(
                f"{self.checkpoint.source}: 0 of {len(self.checkpoint.tensors)} tensors make a low-rank update "
                f"in the {self.dialect} dialect ({tensor}: {reason})"
            )
        coverage = Coverage(used=self._used, ignored=self._ignored, refused=self._refused)
        return Reading(self._modules, coverage, extras=self._extras, metadata=metadata)


def _names(tensors: str | Iterable[str]) -> Iterable[str]:
    return [tensors] if isinstance(tensors, str) else tensors
