"""An account of every tensor while a dialect reads: each ends up used, ignored or refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from asym_analysis.adapters.adapter import ModuleSource, Part, TensorSource
from asym_analysis.adapters.assumption import Assumption
from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.coverage import Coverage
from asym_analysis.adapters.factorizations.module_source import Factorization, Layout, update_source
from asym_analysis.errors import AdapterError, AdapterValueError

__all__ = ["GIVE_SCALE", "Ledger"]

GIVE_SCALE = "give alpha= or scale= to load_adapter, or --alpha or --scale to asym"


class Ledger:
    """What became of each tensor so far, and what was assumed.

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
        self.tensors: Mapping[str, TensorSource] = checkpoint.tensors
        self.source = checkpoint.source
        self.alpha, self.scale = checkpoint.alpha, checkpoint.scale
        self.dialect = dialect
        self._scaling: str | None = None
        self._assumed: list[Assumption] = []
        self._modules: dict[str, ModuleSource] = {}
        self._extras: dict[str, TensorSource] = {}
        self._used: dict[str, str] = {}
        self._ignored: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._others_unknown = False

    def add(
        self,
        module: str,
        parts: Mapping[str, str],
        factorize: Factorization,
        scaling: float,
        *,
        layout: Layout | None = None,
        trained: frozenset[str] | None = None,
        also: Iterable[str] = (),
        more: Mapping[str, Part] | None = None,
        frozen: Iterable[str] = (),
    ) -> None:
        """Record an adapted module, or refuse its tensors where they do not fit together.

        Parameters
        ----------
        module
            The module's name.
        parts
            Part that the factorization reads -> tensor's name.
        factorize
            Makes the two factors from the parts.
        scaling
            The number that multiplies B·A; the user's replaces it.
        layout
            How the model stores the weight; a matrix (d_out, d_in) where it is omitted.
        trained
            The factors that training changed, where that is known.
        also
            Tensors that went into the scaling.
        more
            Further parts, which the module shares with others or which are not tensors of the file.
        frozen
            Names of parts that training never changes.
        """
        try:
            if not math.isfinite(scaling):
                raise AdapterValueError(f"the scaling is {scaling}")
            if module in self._modules:
                raise AdapterValueError(f"a second update of module {module}")
            if self.scale is not None:
                scaling = self.scale
            sources = {part: self.part(tensor, frozen=part in frozen) for part, tensor in parts.items()}
            sources |= dict(more or {})
            self._modules[module] = update_source(sources, factorize, scaling, layout, trained)
        except AdapterValueError as error:
            self.refuse([*parts.values(), *also], f"{module}: {error}")
            return
        self._used.update({tensor: f"{part} of {module}" for part, tensor in parts.items()})
        self._used.update(dict.fromkeys(also, f"scaling of {module}"))

    def part(self, tensor: str, *, frozen: bool = False) -> Part:
        """Give a tensor of the file as a part of a module.

        Parameters
        ----------
        tensor
            Its name in the file.
        frozen
            True where training never changes it.

        Returns
        -------
        Part
            The tensor, not read yet.
        """
        source = self.tensors[tensor]
        return Part(source.shape, source.dtype, source.read, tensor=tensor, frozen=frozen)

    def share(self, tensor: str, part: str) -> None:
        """Record a tensor that several modules use.

        Parameters
        ----------
        tensor
            Its name in the file.
        part
            The part it plays, for the coverage.
        """
        self._used[tensor] = part

    def keep(self, tensor: str, name: str, part: str) -> None:
        """Record a trained tensor that belongs to no pair: a head, a bias.

        Parameters
        ----------
        tensor
            Its name in the file.
        name
            Its name in the model.
        part
            The part it plays, for the coverage.
        """
        self._extras[name if name not in self._extras else tensor] = self.tensors[tensor]
        self._used[tensor] = part

    def ignore(self, tensors: str | Iterable[str], reason: str, *, may_be_trained: bool = False) -> None:
        """Record tensors that are left out.

        Parameters
        ----------
        tensors
            Their names in the file.
        reason
            Why leaving them out is sound.
        may_be_trained
            True where the file does not say that they are frozen.
        """
        self._ignored.update(dict.fromkeys(_names(tensors), reason))
        self._others_unknown |= may_be_trained

    def refuse(self, tensors: str | Iterable[str], reason: str) -> None:
        """Record tensors that belong to an adapter but cannot be used.

        Parameters
        ----------
        tensors
            Their names in the file.
        reason
            Why they cannot be used.
        """
        self._refused.update(dict.fromkeys(_names(tensors), reason))

    def scaling_from(self, source: str, *, recorded: bool = True, hint: str = "") -> None:
        """Say where the scales of the modules come from.

        Parameters
        ----------
        source
            The place, such as ``"adapter config"``, or the value taken where none is recorded.
        recorded
            False where the scale is assumed.
        hint
            What else is known of the right value.
        """
        self._scaling = source if recorded else f"assumed {source}"
        if not recorded:
            self.assume("scale", source, GIVE_SCALE + (f" ({hint})" if hint else ""))

    def assume(self, what: str, value: str, remedy: str) -> None:
        """Record a fact that the checkpoint leaves open.

        Parameters
        ----------
        what
            ``"scale"``, ``"orientation"`` or ``"layout"``.
        value
            The value taken, with the reason.
        remedy
            What to write to give the right one.
        """
        assumption = Assumption(what, value, remedy)
        if assumption not in self._assumed:
            self._assumed.append(assumption)

    def require_both(self, groups: Mapping[str, Mapping[str, str]]) -> None:
        """Check that a file of pairs does not hold one factor only.

        Parameters
        ----------
        groups
            Module -> part -> tensor's name.

        Raises
        ------
        AdapterError
            If no module has a B, or none has an A.
        """
        held = {part for parts in groups.values() for part in parts if part in ("A", "B")}
        if held == {"A"}:
            raise AdapterError(f"{self.source} holds A of {len(groups)} modules and no B: save both factors")
        if held == {"B"}:
            raise AdapterError(
                f"{self.source} holds B of {len(groups)} modules and no A: a frozen A was left out, and no seed that "
                "would draw it again is recorded; save both factors"
            )

    def number(self, tensor: str) -> float:
        """Read a tensor that holds one number, such as alpha: dialects read no others.

        Parameters
        ----------
        tensor
            Its name in the file.

        Returns
        -------
        float
            The number.

        Raises
        ------
        AdapterValueError
            If it holds several, or one that is not real.
        """
        if self.tensors[tensor].size != 1:
            raise AdapterValueError(f"{tensor} should hold one number, but has shape {self.tensors[tensor].shape}")
        if self.tensors[tensor].dtype.startswith("complex"):
            raise AdapterValueError(f"{tensor} holds a complex number: save it as a real one")
        return float(self.tensors[tensor].read().reshape(()).item())

    def reading(self, metadata: Mapping[str, Any]) -> Reading:
        """Build the reading.

        Parameters
        ----------
        metadata
            What is known of the adapter; where the scales come from is added.

        Returns
        -------
        Reading
            The modules, the account of every tensor, and what was assumed.

        Raises
        ------
        AdapterError
            If no module could be formed; the message gives the first reason.
        """
        known = self._used.keys() | self._ignored.keys() | self._refused.keys()
        self.refuse(
            [tensor for tensor in self.tensors if tensor not in known], f"no part of the {self.dialect} dialect"
        )
        if not self._modules:
            reasons = {**self._refused, **self._ignored, **self._used}
            tensor, reason = next(iter(reasons.items()), ("the file", "holds no tensor"))
            raise AdapterError(
                f"{self.source}: 0 of {len(self.tensors)} tensors make a low-rank update in the {self.dialect} "
                f"dialect ({tensor}: {reason})"
            )
        if self.scale is not None or self.alpha is not None:
            self._scaling, self._assumed = "given", [each for each in self._assumed if each.what != "scale"]
        if self._scaling is not None:
            metadata = {**metadata, "scaling": self._scaling}
        coverage = Coverage(self._used, self._ignored, self._refused, self._others_unknown)
        return Reading(self._modules, coverage, extras=self._extras, metadata=metadata, assumed=tuple(self._assumed))


def _names(tensors: str | Iterable[str]) -> Iterable[str]:
    return [tensors] if isinstance(tensors, str) else tensors
