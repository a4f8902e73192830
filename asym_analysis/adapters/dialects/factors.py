"""Read a pair of factors when it is asked for: any dtype and layout becomes A (rank, d_in) and B (d_out, rank)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import ModuleSource, TensorSource
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterValueError

__all__ = ["Layout", "cast_up", "pair_source"]


def cast_up(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one dtype that arithmetic is safe in: float64 where one of them is, otherwise float32.

    Raises
    ------
    AdapterValueError
        If a tensor holds integers, booleans or complex numbers.

    Examples
    --------
    >>> [t.dtype for t in cast_up(torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.float8_e4m3fn))]
    [torch.float32, torch.float32]
    """
    for tensor in tensors:
        if not tensor.dtype.is_floating_point:
            raise AdapterValueError(f"a factor holds {tensor.dtype}, not floating-point numbers: dequantize it first")
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return tuple(tensor.to(dtype) for tensor in tensors)


@dataclass(frozen=True)
class Layout:
    """How a model stores the weight that a pair adapts.

    Attributes
    ----------
    weight_shape
        Its shape where it is no matrix of shape (d_out, d_in).
    stored_transposed
        True where the model keeps it as (d_in, d_out).
    """

    weight_shape: tuple[int, ...] | None = None
    stored_transposed: bool = False


@dataclass(frozen=True)
class _PairReader:
    A: TensorSource
    B: TensorSource
    scaling: float
    layout: Layout
    transposed: bool
    magnitude: TensorSource | None = field(default=None)

    def __call__(self) -> LowRankUpdate:
        read = [source.read() for source in (self.A, self.B, self.magnitude) if source is not None]
        A, B, *magnitude = cast_up(*read)
        if self.transposed:
            A, B = A.mT, B.mT
        return LowRankUpdate(
            A=A.reshape(A.shape[0], -1).contiguous(),
            B=B.reshape(B.shape[0], -1).contiguous(),
            scaling=self.scaling,
            magnitude=magnitude[0].reshape(-1) if magnitude else None,
            weight_shape=self.layout.weight_shape,
            stored_transposed=self.layout.stored_transposed,
        )


def pair_source(
    A: TensorSource,
    B: TensorSource,
    scaling: float,
    *,
    layout: Layout | None = None,
    transposed: bool = False,
    magnitude: TensorSource | None = None,
    trained: frozenset[str] | None = None,
) -> ModuleSource:
    """The module whose factors are two tensors of the file.

    Parameters
    ----------
    A, B
        A of shape (rank, d_in) or (rank, channels, height, width), B of shape (d_out, rank) or (d_out, rank, 1, 1);
        with `transposed`, (d_in, rank) and (rank, d_out).
    """
    a, b = (A.shape[::-1], B.shape[::-1]) if transposed else (A.shape, B.shape)
    return ModuleSource(
        d_out=b[0],
        d_in=torch.Size(a[1:]).numel(),
        rank=a[0],
        dtype=A.dtype,
        read=_PairReader(A, B, scaling, layout or Layout(), transposed, magnitude),
        scaling=scaling,
        trained=trained,
    )
