"""A grammar that the user gives: where the two factors are, which way round, and their scale."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.errors import AdapterError, AdapterValueError

__all__ = ["PatternDialect"]


@dataclass(frozen=True)
class PatternDialect:
    """Patterns for the names of the factors, for a file that no known library wrote.

    Parameters
    ----------
    A, B
        Regular expressions that match the whole name of each factor; their group ``module``, or their first group, is
        the module's name, and pairs the two.
    transposed
        The factors that the file keeps the other way round, ``"A"``, ``"B"`` or ``"AB"``: A as (d_in, rank), B as
        (rank, d_out).
    alpha
        A number, or a regular expression for the tensor that holds each module's alpha. None: the scale is 1.
    rank_stabilized
        True for alpha / sqrt(rank) instead of alpha / rank.

    Raises
    ------
    AdapterError
        If a pattern is no regular expression, or names no module; if `transposed` names anything but A and B.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis.adapters.adapter import TensorSource
    >>> tensors = {"net/q/left": torch.ones(5, 2), "net/q/right": torch.ones(2, 3)}
    >>> sources = {name: TensorSource(tuple(t.shape), "float32", t.clone) for name, t in tensors.items()}
    >>> grammar = PatternDialect(A="(.*)/left", B="(.*)/right", transposed="AB", alpha=4)
    >>> grammar.read(Checkpoint(sources)).modules["net/q"].scaling
    2.0
    """

    A: str
    B: str
    transposed: str = ""
    alpha: float | int | str | None = None
    rank_stabilized: bool = False
    name: str = "patterns"

    def __post_init__(self) -> None:
        if set(self.transposed) - {"A", "B"}:
            raise AdapterError(f"transposed is {self.transposed!r}: name the factors A, B or both")
        for pattern in (self.A, self.B, self.alpha):
            if isinstance(pattern, str):
                _compiled(pattern)

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether any tensor matches the pattern of a factor."""
        return any(_module(pattern, name) is not None for name in checkpoint.tensors for pattern in (self.A, self.B))

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the tensors that match with the same module; all others are kept as trained beside the adapter."""
        ledger = Ledger(checkpoint, self.name)
        patterns = {"A": self.A, "B": self.B} | ({"alpha": self.alpha} if isinstance(self.alpha, str) else {})
        groups: dict[str, dict[str, str]] = {}
        for tensor in checkpoint.tensors:
            found = [(part, module) for part, pattern in patterns.items() if (module := _module(pattern, tensor))]
            if not found:
                ledger.keep(tensor, tensor, "matches no pattern")
            for part, module in found[:1]:
                groups.setdefault(module, {})[part] = tensor
        for module, parts in groups.items():
            try:
                self._add_module(ledger, module, dict(parts))
            except AdapterValueError as error:
                ledger.refuse(parts.values(), f"{module}: {error}")
        ledger.scaling_from(
            "given" if self.alpha is not None else "1: no alpha is given", recorded=self.alpha is not None
        )
        return ledger.reading({})

    def _add_module(self, ledger: Ledger, module: str, parts: dict[str, str]) -> None:
        recorded = parts.pop("alpha", None)
        if parts.keys() != {"A", "B"}:
            raise AdapterValueError(f"{', '.join(parts) or 'alpha'} without its partner")
        shape = ledger.tensors[parts["A"]].shape
        rank = (shape[-1] if "A" in self.transposed else shape[0]) if shape else 0
        alpha = self.alpha if recorded is None else ledger.number(recorded)
        scaling = 1.0
        if isinstance(alpha, int | float) and rank:
            scaling = alpha / (math.sqrt(rank) if self.rank_stabilized else rank)
        elif isinstance(alpha, str):
            raise AdapterValueError("no tensor matches the pattern of its alpha")
        pair = Pair("A" in self.transposed, "B" in self.transposed)
        ledger.add(module, parts, pair, scaling, also=[recorded] if recorded is not None else [])


def _module(pattern: str, name: str) -> str | None:
    compiled = _compiled(pattern)
    found = compiled.fullmatch(name)
    if found is None:
        return None
    return found["module"] if "module" in compiled.groupindex else found[1]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise AdapterError(f"the pattern {pattern!r} is no regular expression: {error}") from error
    if not compiled.groups:
        raise AdapterError(f"the pattern {pattern!r} has no group for the module's name: write (?P<module>.+)")
    return compiled
