"""Tensors and adapted modules that are still in their file: what the header says, and how to read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterValueError
from asym_analysis.lazy_torch import Tensor

__all__ = ["InMemory", "ModuleSource", "Part", "TensorSource"]


@dataclass(frozen=True)
class TensorSource:
    """A tensor that is still in its file: what the header says of it, and how to read it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor] = field(repr=False)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Part(TensorSource):
    """One tensor that a module's update is made of, as the file stores it.

    Attributes
    ----------
    tensor
        Its name in the file. Modules whose parts have one name share that tensor: count it once.
    frozen
        True where training never changes it: VeRA's random projections, DeLoRA's norms of the base weight.
    """

    tensor: str = ""
    frozen: bool = False


@dataclass(frozen=True)
class InMemory:
    """Reads an update from factors in memory: in copies, so that nobody changes what others read.

    Attributes
    ----------
    view
        Gives the update in the very factors.
    """

    view: Callable[[], LowRankUpdate]

    def __call__(self) -> LowRankUpdate:
        """Give the update in copies."""
        return self.view().copy()


@dataclass(frozen=True)
class ModuleSource:
    """An adapted module that is still in its file: shapes known from the header, factors read on demand.

    Attributes
    ----------
    d_out, d_in, rank
        Shapes of the update's factors: A (rank, d_in), B (d_out, rank).
    dtype
        The dtype that the file stores its first part in ("float16"); each part has its own.
    read
        Reads the update, with factors cast up to float32 or float64. An `InMemory` where the factors are in memory.
    scaling
        The number that multiplies B·A.
    trained
        Which factors training changed ("A", "B" or both), where the file or its config records it.
    parts
        Part name -> `Part`: every tensor that the update is made of. A plain LoRA has ``A`` and ``B``; ``magnitude``
        is DoRA's, ``E`` AdaLoRA's, ``d`` and ``b`` are VeRA's vectors beside its frozen ``A`` and ``B``, and so on, as
        the module's factorization names them.
    make
        Makes the update from values of all parts, as the file stores them; None where there are no parts.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> source = adapter.source("q")
    >>> {name: part.shape for name, part in source.parts.items()}
    {'A': (1, 3), 'B': (2, 1)}
    >>> source.read_with({"B": torch.zeros(2, 1)}).frobenius_norm()
    0.0
    """

    d_out: int
    d_in: int
    rank: int
    dtype: str
    read: Callable[[], LowRankUpdate] = field(repr=False)
    scaling: float = 1.0
    trained: frozenset[str] | None = None
    parts: Mapping[str, Part] = field(default_factory=dict, repr=False)
    make: Callable[[Mapping[str, Tensor]], LowRankUpdate] | None = field(default=None, repr=False)

    def view(self) -> LowRankUpdate:
        """Read the update to look at only: factors in memory are not copied, and must not be changed.

        Examples
        --------
        >>> import torch
        >>> from asym_analysis import Adapter
        >>> source = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))}).source("q")
        >>> source.view().A is source.view().A, source.read().A is source.read().A
        (True, False)
        """
        return self.read.view() if isinstance(self.read, InMemory) else self.read()

    def trained_parts(self, factors: Iterable[str] = ("A", "B")) -> dict[str, Part]:
        """The parts that training may have changed, of which the plain factors only where they are named.

        Parameters
        ----------
        factors
            The trained factors: "A", "B" or both. A part that is neither of them, such as DoRA's magnitude, was
            trained whatever the factors.

        Returns
        -------
        dict
            Part name -> `Part`, in the order of `parts`.

        Examples
        --------
        >>> import torch
        >>> from asym_analysis import Adapter
        >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
        >>> list(adapter.source("q").trained_parts("B"))
        ['B']
        """
        left_out = {"A", "B"} - set(factors)
        return {name: part for name, part in self.parts.items() if not part.frozen and name not in left_out}

    def read_with(self, values: Mapping[str, Tensor]) -> LowRankUpdate:
        """Read the update with other values for some of its parts.

        Parameters
        ----------
        values
            Part name -> tensor of the part's shape, in any floating-point dtype.

        Raises
        ------
        AdapterValueError
            If there is no such part, or a value has another shape.
        """
        for name, value in values.items():
            if self.make is None or name not in self.parts:
                raise AdapterValueError(f"there is no part {name!r}: the parts are {', '.join(self.parts) or 'none'}")
            if tuple(value.shape) != self.parts[name].shape:
                raise AdapterValueError(
                    f"part {name} has shape {self.parts[name].shape}, the value given for it {tuple(value.shape)}"
                )
        if self.make is None:
            return self.read()
        return self.make({name: values[name] if name in values else p.read() for name, p in self.parts.items()})
