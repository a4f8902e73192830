"""From the tensors of a file to the two factors of an update: read on demand, cast up, put the right way round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from asym_analysis.adapters.adapter import ModuleSource, Part
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterValueError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["Factorization", "Layout", "cast_up", "update_source"]

#: Makes (A, B), of shapes (rank, d_in) and (d_out, rank), from named tensors: a pure, hashable, picklable callable.
Factorization = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Layout:
    """How a model stores the weight that an update belongs to.

    Attributes
    ----------
    weight_shape
        Its shape where it is no matrix of shape (d_out, d_in).
    stored_transposed
        True where the model keeps it as (d_in, d_out).
    """

    weight_shape: tuple[int, ...] | None = None
    stored_transposed: bool = False


def cast_up(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one dtype that arithmetic is safe in: float64 where one of them is, otherwise float32.

    Parameters
    ----------
    *tensors : Tensor
        Floating-point tensors of any dtype.

    Returns
    -------
    tuple of Tensor
        In the same order.

    Raises
    ------
    AdapterValueError
        If a tensor holds integers, booleans or complex numbers.

    Examples
    --------
    >>> [t.dtype for t in cast_up(torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.float8_e4m3fn))]
    [torch.float32, torch.float32]
    """
    dtypes = {tensor.dtype for tensor in tensors}
    if dtypes == {torch.float32}:
        return tensors
    for dtype in dtypes:
        if not dtype.is_floating_point:
            raise AdapterValueError(f"a factor holds {dtype}, not floating-point numbers: dequantize it first")
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    return tuple(tensor.to(dtype) for tensor in tensors)


@dataclass(frozen=True)
class _Make:
    """Makes the update from values of its parts."""

    factorize: Factorization
    scaling: float
    layout: Layout

    def __call__(self, read: Mapping[str, Tensor]) -> LowRankUpdate:
        numbers = {part: tensor for part, tensor in read.items() if not part.endswith("indices")}
        tensors = {**read, **dict(zip(numbers, cast_up(*numbers.values()), strict=True))}
        magnitude = tensors.pop("magnitude", None)
        A, B = self.factorize(tensors)
        return LowRankUpdate(
            A=A.contiguous(),
            B=B.contiguous(),
            scaling=self.scaling,
            magnitude=None if magnitude is None else magnitude.reshape(-1),
            weight_shape=self.layout.weight_shape,
            stored_transposed=self.layout.stored_transposed,
        )


@dataclass(frozen=True)
class _Read:
    parts: Mapping[str, Part]
    make: _Make

    def __call__(self) -> LowRankUpdate:
        return self.make({name: part.read() for name, part in self.parts.items()})


def update_source(
    sources: Mapping[str, Part],
    factorize: Factorization,
    scaling: float,
    layout: Layout | None = None,
    trained: frozenset[str] | None = None,
) -> ModuleSource:
    """The module that some tensors of the file make, with its shapes known from their headers.

    Parameters
    ----------
    sources
        Part name -> tensor. A part named ``magnitude`` is DoRA's and no part of the factorization; one whose name ends
        in ``indices`` holds integers.
    factorize
        Makes the factors from the parts. It runs on empty tensors of the right shapes first.

    Raises
    ------
    AdapterValueError
        If the shapes do not fit together, or one of them is empty.
    """
    shapes = tuple((part, source.shape) for part, source in sources.items() if part != "magnitude")
    for part, shape in shapes:
        if 0 in shape:
            raise AdapterValueError(
                f"{part} is empty {shape}, as when DeepSpeed ZeRO-3 shards are saved without gathering them first"
            )
    for part, source in sources.items():
        if source.dtype.startswith(("int", "uint", "bool", "complex")) and not part.endswith("indices"):
            raise AdapterValueError(f"{part} holds {source.dtype}, not floating-point numbers: dequantize it first")
    (rank, d_in), (d_out, _) = _factor_shapes(factorize, shapes)
    layout = layout or Layout()
    if layout.weight_shape is not None and math.prod(layout.weight_shape) != d_out * d_in:
        raise AdapterValueError(f"factors of a {d_out} x {d_in} update do not fill a weight of {layout.weight_shape}")
    if "magnitude" in sources and sources["magnitude"].size != d_out:
        raise AdapterValueError(f"the DoRA magnitude has {sources['magnitude'].size} numbers for {d_out} outputs")
    first = next(source for part, source in sources.items() if not part.endswith("indices"))
    parts, make = dict(sources), _Make(factorize, scaling, layout)
    return ModuleSource(
        d_out=d_out,
        d_in=d_in,
        rank=rank,
        dtype=first.dtype,
        read=_Read(parts, make),
        scaling=scaling,
        trained=trained,
        parts=parts,
        make=make,
    )


@lru_cache(maxsize=4096)
def _factor_shapes(
    factorize: Factorization, shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of A and B, by running the factorization on tensors without memory."""
    described = ", ".join(f"{part} {shape}" for part, shape in shapes)
    of = dict(shapes)
    if isinstance(factorize, Pair) and set(of) == {"A", "B"} and len(of["A"]) == len(of["B"]) == 2:
        # The usual case, which needs no torch.
        (rank, d_in), (d_out, inner) = factorize.shapes(of["A"], of["B"])
        if rank != inner:
            raise AdapterValueError(f"factors that do not multiply: {described}")
        return (rank, d_in), (d_out, rank)
    try:
        A, B = factorize({part: torch.empty(shape, device="meta") for part, shape in shapes})
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        raise AdapterValueError(f"shapes that do not fit: {described}") from error
    if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
        raise AdapterValueError(f"factors that do not multiply: {described}")
    return (A.shape[0], A.shape[1]), (B.shape[0], B.shape[1])
