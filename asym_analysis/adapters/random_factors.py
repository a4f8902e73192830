"""Which factors of a module were initialized at random: what the file records, or else the spectra."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.known_initializations import laws_by_module
from asym_analysis.adapters.polar_factors import row_grams
from asym_analysis.lazy_torch import Tensor, torch
from asym_analysis.vocabulary import FACTORS, Factor

__all__ = ["random_factors"]

FLAT = 0.6  # participation of the singular values above which a factor may have been initialized at random
MOST_MODULES = 12  # read to judge an adapter's spectra; a training run initializes all its modules in one way


def random_factors(adapter: Adapter, modules: Iterable[str] | None = None) -> dict[str, frozenset[Factor]]:
    """Say which factors of each module were initialized at random: {"A"} for the usual LoRA.

    What is recorded decides where there is anything: the initial factors (those that are not zero), then the
    initialization that the config names, then the default of the library that wrote the file. Otherwise the spectra
    do. A factor that was zero at first holds the gradients' few directions; one that was random keeps nearly equal
    singular values. The participation (sum s^2)^2 / (rank sum s^4), at most 1, is taken as a median over modules. A was
    random unless the participation of B is the higher and above 0.6; both were where both are above 0.6 and B's is at
    least 0.9 of A's.

    Parameters
    ----------
    adapter
        The trained adapter.
    modules
        Modules to answer for; all of the adapter's by default.

    Returns
    -------
    dict
        Module -> the factors.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> start, ones = torch.randn(4, 64, generator=generator), torch.ones(32, 4)
    >>> random_factors(Adapter.from_factors({"q": (start, ones)}))
    {'q': frozenset({'A'})}
    """
    found: dict[str, frozenset[Factor]] = {}
    told: frozenset[Factor] | None = None
    laws = laws_by_module(adapter)
    for module in adapter if modules is None else modules:
        known = laws(module)
        if adapter.initial is not None and module in adapter.initial:
            update = adapter.initial[module]
            nonzero: dict[Factor, bool] = {"A": bool(update.A.any()), "B": bool(update.B.any())}
            found[module] = frozenset(factor for factor in FACTORS if nonzero[factor])
        elif known is not None:
            found[module] = known.random
        else:
            told = _flat_factors(adapter) if told is None else told
            found[module] = told
    return found


def _flat_factors(adapter: Adapter) -> frozenset[Factor]:
    names = list(adapter)
    chosen = names[:: math.ceil(len(names) / MOST_MODULES) or 1]
    updates = [adapter.view(module) for module in chosen if adapter.source(module).rank > 1]
    if not updates:
        return frozenset({"A"})
    of_A = np.median(_participations([update.A for update in updates]))
    of_B = np.median(_participations([update.B.mT for update in updates]))
    if of_A >= FLAT and of_B >= max(FLAT, 0.9 * of_A):
        return frozenset({"A", "B"})
    return frozenset({"B"}) if of_B > of_A and of_B >= FLAT else frozenset({"A"})


def _participations(factors: Sequence[Tensor]) -> list[float]:
    """(sum s^2)^2 / (rank sum s^4) of each factor's singular values s; 0 for a zero factor."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for factor in factors:
        by_shape.setdefault(factor.shape, []).append(factor)
    found: list[float] = []
    for alike in by_shape.values():
        gram = row_grams(alike).double()
        total = gram.diagonal(dim1=1, dim2=2).sum(1)
        squares = gram.square().sum((1, 2)) * gram.shape[1]
        found += torch.where(total > 0, total.square() / squares, 0.0).tolist()
    return found
