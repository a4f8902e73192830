"""Laws under chance that have no closed form: sampled once for each pair of ranks and dimension, and kept.

Rotating both matrices together changes none of these measures. Of a random pair only the products of its rows matter,
and those are drawn without ever drawing the d coordinates (Bartlett 1933): samples in R^4096 cost what they do in R^20.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.null import SampledNull

__all__ = ["full_matrix_null", "matrix_null", "subspace_null"]

SAMPLES = 4000
GROUP = 50  # second matrices drawn for each first one
SEED = 20240226

Prepare = Callable[..., object]
Compare = Callable[..., Tensor]


@lru_cache(maxsize=512)
def subspace_null(
    prepare: Prepare, compare: Compare, larger_is_more_similar: bool, p: int, q: int, d: int
) -> SampledNull:
    """Law of a measure of row spaces, for independent uniform subspaces, of which one may as well be fixed."""
    generator = torch.Generator().manual_seed(SEED)
    first = torch.eye(p, min(p + q, d), dtype=torch.float64)[None]
    second = _completed(torch.randn(SAMPLES, q, p, generator=generator, dtype=torch.float64), q, d - p, generator)
    values = compare(prepare(first), prepare(second))[0]
    return SampledNull.of(values.numpy(), larger_is_more_similar)


@lru_cache(maxsize=512)
def matrix_null(
    prepare: Prepare, compare: Compare, larger_is_more_similar: bool, lost: int, p: int, q: int, d: int
) -> SampledNull:
    """Law of a measure of two independent matrices of Gaussian entries; `lost` dimensions go to centering."""
    generator = torch.Generator().manual_seed(SEED)
    size = d - lost
    values = []
    for _ in range(SAMPLES // GROUP):
        first = _bartlett(1, p, size, generator)
        width = first.shape[-1]
        beyond = torch.randn(GROUP, q, width, generator=generator, dtype=torch.float64)
        second = _completed(beyond, q, size - width, generator)
        padded = torch.zeros(1, p, second.shape[-1], dtype=torch.float64)
        padded[..., :width] = first
        values.append(compare(prepare(padded), prepare(second))[0])
    return SampledNull.of(torch.cat(values).numpy(), larger_is_more_similar)


@lru_cache(maxsize=128)
def full_matrix_null(
    prepare: Prepare, compare: Compare, larger_is_more_similar: bool, p: int, q: int, d: int
) -> SampledNull:
    """The same for measures that single out a direction of R^d: a quarter of the samples, with all d coordinates."""
    generator = torch.Generator().manual_seed(SEED)
    values = []
    for _ in range(SAMPLES // 4 // GROUP):
        first = torch.randn(1, p, d, generator=generator, dtype=torch.float64)
        second = torch.randn(GROUP, q, d, generator=generator, dtype=torch.float64)
        values.append(compare(prepare(first), prepare(second))[0])
    return SampledNull.of(torch.cat(values).numpy(), larger_is_more_similar)


def _completed(known: Float[Tensor, "n q p"], q: int, rest: int, generator: torch.Generator) -> Float[Tensor, "n q k"]:
    """Rows of a Gaussian matrix whose first coordinates are known, up to a rotation of the `rest` others."""
    return torch.cat([known, _bartlett(len(known), q, rest, generator)], dim=-1)


def _bartlett(count: int, rows: int, size: int, generator: torch.Generator) -> Float[Tensor, "count rows k"]:
    """`rows` Gaussian vectors of R^size up to a common rotation; k = min(rows, size)."""
    if size <= rows:
        return torch.randn(count, rows, size, generator=generator, dtype=torch.float64)
    lower = torch.randn(count, rows, rows, generator=generator, dtype=torch.float64).tril(-1)
    freedom = torch.arange(size, size - rows, -1, dtype=torch.float64).expand(count, rows)
    squares = 2 * torch._standard_gamma(freedom / 2, generator=generator)
    return lower + torch.diag_embed(squares.sqrt())
