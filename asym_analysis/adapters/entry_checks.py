"""Which factors the inference of a movement from entries does not hold for, whatever their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["effective_dtype", "evenness", "lopsided", "unequal_scales", "unfit"]

FEWEST = 256  # entries below which the stated errors hold in 16 to 92 % of modules instead of 95
PRUNED = 0.01  # share of exact zeros, which neither a random initialization nor training gives
BLOCK, COARSE = 64, 32  # entries that lie side by side; different values among them that a coarse format leaves at most
LOPSIDED = 5.0  # standard deviations by which the mean sign may exceed what the movement can cause
# Part of the squared movement that unequal lines may explain: scales of them explain .25 to .8, what is added .06.
UNEQUAL = 0.12
UNEQUAL_SEEN = 4.0  # standard deviations of it, all modules together
LEAST_LINES = 4  # rows or columns, to compare their lengths
SHORT, NEAR_THE_EDGE = 0.25, 0.8  # share of the columns that are looked at, and from which part of the edge on
BELOW_THE_FLOOR = 3.5  # standard deviations, all modules together; no real adapter, no simulated movement has 2.4

Entries = Float[np.ndarray, "rank d"]


def unfit(entries: Entries, dtype: str) -> str:
    """Why a factor cannot be looked at, or "".

    Parameters
    ----------
    entries
        The factor, (rank, d).
    dtype
        In which the file stores it.
    """
    if not entries.any():
        return "the factor is zero: it was not initialized at random"
    if "float8" in dtype or dtype.startswith(("int", "uint")):
        return f"stored as {dtype}: too coarse to see an edge"
    zeros = float((entries == 0).mean())
    if zeros > PRUNED:
        return f"{zeros:.0%} of the entries are exactly zero: the factor was pruned"
    if entries.size < FEWEST:
        return "the factor has too few entries to tell"
    if _coarse(entries) or _coarse(entries.T):
        return "the entries take few values, as those of a quantized factor do: too coarse to see an edge"
    return ""


def _coarse(entries: np.ndarray) -> bool:
    """Whether few values differ among entries that lie side by side; in bfloat16, some 57 of 64 do."""
    blocks = np.abs(entries.reshape(-1)[: entries.size // BLOCK * BLOCK].reshape(-1, BLOCK))
    ordered = np.sort(blocks[:: max(len(blocks) // BLOCK, 1)], axis=1)
    return bool(np.median((np.diff(ordered, axis=1) > 0).sum(1) + 1) <= COARSE)


def effective_dtype(entries: Entries, dtype: str) -> str:
    """The coarsest of float32, float16 and bfloat16 that holds the entries: files widen what was trained in half."""
    if dtype not in ("float32", "float64"):
        return dtype
    single = np.ascontiguousarray(entries, dtype=np.float32)
    if not (single.view(np.uint32) & 0xFFFF).any():
        return "bfloat16"
    with np.errstate(over="ignore"):
        return "float16" if (single.astype(np.float16) == single).all() else dtype


def lopsided(entries: Entries, value: float) -> bool:
    """Whether more entries have one sign than a symmetric law and a movement by `value` of its length can give."""
    excess = abs(float(np.sign(entries).mean())) - LOPSIDED / math.sqrt(entries.size)
    return excess > value / math.sqrt(3)  # the root mean square of what was added, in units of the bound


def evenness(entries: Entries, edge: float) -> float:
    """How evenly what lies beyond the edge is spread over rows and columns: 1, or the share of them that it is in.

    Parameters
    ----------
    entries
        The factor.
    edge
        Where the uniform law ends, in units of the entries.
    """
    sizes = np.abs(entries) / edge
    turns = np.floor((sizes + 1) / 2)
    beyond = turns * (sizes - turns)
    shuffled = np.random.default_rng(0).permutation(beyond.reshape(-1)).reshape(beyond.shape)
    found = 1.0
    for axis in (0, 1):
        taken, expected = (_participating(part.sum(axis)) for part in (beyond, shuffled))
        found *= min(1.0, taken / expected) if expected else 1.0
    return found


def _participating(sums: Float[np.ndarray, "lines"]) -> float:
    square = float((sums**2).sum())
    return float(sums.sum()) ** 2 / square if square else 0.0


def unequal_scales(
    factors: Sequence[Entries],
    bounds: Sequence[float],
    values: Float[np.ndarray, "modules"],
    edges: Float[np.ndarray, "modules"],
) -> bool:
    """Whether rows or columns were multiplied by different factors, all modules together.

    What training adds makes some rows and columns longer than the others. A multiplication also makes some shorter: the
    squared lengths below their median then spread further than those of the same entries in random order.

    Columns, which have few entries, are also held to a floor. Whatever e is added to an entry u that is uniform up to
    the edge c, P(|u + e| > t c) = max(1 - t, (1 - t + |e|/c) / 2), at least 1 - t. So it is in the columns whose other
    entries are short, unless what made them short is a scale.

    Parameters
    ----------
    factors
        One a module.
    bounds
        Of the uniform law, of each; entries beyond it count as if they lay there.
    values, edges
        The relative movement that each seems to have, and the edge in units of the bound.
    """
    cut = [np.minimum(np.abs(entries), bound) ** 2 for entries, bound in zip(factors, bounds, strict=True)]
    squares = np.square(values)
    for axis in (0, 1):
        spreads = [_spread_below(part, axis) for part in cut if part.shape[1 - axis] >= LEAST_LINES]
        if not spreads:
            continue
        excess, error = np.array(spreads).T
        weight = sum(square for square, part in zip(squares, cut, strict=True) if part.shape[1 - axis] >= LEAST_LINES)
        enough = excess.sum() > UNEQUAL_SEEN * math.sqrt((error**2).sum())
        if enough and excess.sum() > UNEQUAL * weight:
            return True
    sums = [
        _above_the_floor(entries, bound * edge)
        for entries, bound, edge in zip(factors, bounds, edges, strict=True)
        if len(entries) > 1
    ]
    total, square = np.sum(sums, axis=0) if sums else (0.0, 0.0)
    return bool(total < -BELOW_THE_FLOOR * math.sqrt(square))


def _spread_below(squares: Entries, axis: int) -> tuple[float, float]:
    """Relative semivariance of the means below their median, less that in random order, and its standard error."""
    shuffled = np.random.default_rng(0).permutation(squares.reshape(-1)).reshape(squares.shape)
    found, expected = (_below(part.mean(axis)) for part in (squares, shuffled))
    return found - expected, expected * math.sqrt(8 / squares.shape[1 - axis])


def _below(means: np.ndarray) -> float:
    middle = np.median(means)
    return float(np.square(middle - means[means <= middle]).mean() / middle**2)


def _above_the_floor(entries: Entries, edge: float) -> tuple[float, float]:
    """Entries near the edge, less those that are the least possible, in short columns; and the variance of that."""
    sizes = np.abs(entries) / edge
    near = (sizes > NEAR_THE_EDGE) - (1 - NEAR_THE_EDGE)
    squares = np.minimum(sizes, 1.0) ** 2
    others = squares.sum(0) - squares
    place = int(SHORT * others.size)
    excess = np.where(others <= np.partition(others, place, axis=None)[place], near, 0.0).sum(0)
    return float(excess.sum()), float((excess**2).sum())
