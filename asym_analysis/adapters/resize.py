"""Smaller adapters: the leading singular directions of every update."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import replace

from jaxtyping import Float

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterError
from asym_analysis.lazy_torch import Tensor
from asym_analysis.vocabulary import finite, whole

__all__ = ["balanced", "truncate"]


def truncate(
    adapter: Adapter,
    *,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    budget: int | None = None,
) -> Adapter:
    """Keep the leading singular directions of every update dW: the best approximation of each rank (Eckart-Young).

    Parameters
    ----------
    adapter
        The adapter. DoRA magnitudes stay as they are.
    rank
        Largest rank of every module; or module -> rank, such as the `rank_pattern` of `allocate_rank`: modules that it
        does not name keep their rank, and a module with rank 0 is left out.
    energy
        Share of ||dW||_F^2 that every module keeps at least, in (0, 1].
    budget
        Most numbers in all pairs together: each module keeps one direction, and the others go, one by one, to the
        module that gains most energy a number.

    Returns
    -------
    Adapter
        In memory, with balanced factors and scaling 1; trained heads stay. Its metadata say what was done.

    Raises
    ------
    AdapterError
        If a module cannot be read, or the budget does not allow one direction for each module.
    ValueError
        If not exactly one of `rank`, `energy` and `budget` is given, or it is out of range.

    Examples
    --------
    >>> import torch
    >>> A, B = torch.eye(3, 5), torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    >>> adapter = Adapter.from_factors({"q": (A, B)})
    >>> truncate(adapter, rank=2).ranks, truncate(adapter, energy=0.9).ranks, truncate(adapter, budget=8).ranks
    ((2,), (2,), (1,))
    """
    given = {"rank": rank, "energy": energy, "budget": budget}
    named = [f"{name}={_short(value)}" for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(f"give one of rank, energy and budget, not {', '.join(named) or 'none'}")
    if isinstance(rank, Mapping):
        return _to_pattern(adapter, rank)
    if rank is not None:
        whole(rank, "rank", least=1)
    if energy is not None:
        finite(energy, "energy", above=0, most=1)
    if budget is not None:
        whole(budget, "budget", least=1)
    values = {module: adapter[module].singular_values().double() for module in adapter}
    if budget is not None:
        ranks = _within(adapter, values, budget)
    elif energy is not None:
        ranks = {module: _covering(spectrum, energy) for module, spectrum in values.items()}
    else:
        ranks = {module: min(rank or 1, len(spectrum)) for module, spectrum in values.items()}
    updates = {module: _leading(adapter[module], ranks[module]) for module in adapter}
    return _changed(adapter, updates, f"truncated to {named[0]}")


def _to_pattern(adapter: Adapter, pattern: Mapping[str, int]) -> Adapter:
    """Cut each named module to its own rank, and leave out those of rank 0."""
    unknown = [module for module in pattern if module not in adapter]
    if unknown:
        raise AdapterError(f"{adapter.name} has no module {unknown[0]!r}, which rank= names")
    ranks = {module: whole(rank, f"rank of {module}", least=0) for module, rank in pattern.items()}
    kept = [module for module in adapter if ranks.get(module) != 0]
    if not kept:
        raise AdapterError(f"rank= leaves no module of {adapter.name}")
    updates = {m: _leading(adapter[m], ranks.get(m, adapter.source(m).rank)) for m in kept}
    smaller = _changed(adapter, updates, f"truncated to a rank for each of {len(ranks)} modules")
    gone = {module: "truncated to rank 0" for module in adapter if module not in updates}
    return smaller.without(gone) if gone else smaller


def _short(value: object) -> str:
    return f"{len(value)} modules" if isinstance(value, Mapping) else f"{value:g}"


def balanced(adapter: Adapter) -> Adapter:
    """Give the same updates with balanced factors, B^T B = A A^T, and scaling 1.

    Parameters
    ----------
    adapter
        The adapter.

    Returns
    -------
    Adapter
        In memory. Its metadata say what was done.

    Raises
    ------
    AdapterError
        If a module cannot be read.

    Examples
    --------
    >>> import torch
    >>> even = balanced(Adapter.from_factors({"q": (torch.ones(1, 4), torch.ones(3, 1))}, scaling=5.0))["q"]
    >>> even.scaling, torch.allclose(even.A @ even.A.mT, even.B.mT @ even.B)
    (1.0, True)
    """
    return _changed(adapter, {module: adapter[module].balanced() for module in adapter}, "factors balanced")


def _leading(update: LowRankUpdate, rank: int) -> LowRankUpdate:
    even = update.balanced()
    return replace(even, A=even.A[:rank].contiguous(), B=even.B[:, :rank].contiguous())


def _covering(spectrum: Float[Tensor, "k"], energy: float) -> int:
    """The smallest rank that keeps a share of the energy; one for an update of zero."""
    squares = spectrum.square()
    total = squares.sum()
    if total == 0:
        return 1
    # The last sum may round below the total.
    short = squares.cumsum(0) < energy * total * (1 - 1e-12)
    return min(int(short.sum()) + 1, len(squares))


def _within(adapter: Adapter, values: Mapping[str, Float[Tensor, "k"]], budget: int) -> dict[str, int]:
    """Ranks that spend a budget of numbers where they keep most energy."""
    cost = {module: adapter.source(module).d_in + adapter.source(module).d_out for module in values}
    left = budget - sum(cost.values())
    if left < 0:
        raise AdapterError(
            f"{adapter.name} needs {sum(cost.values()):,} numbers for one direction in each of its {len(values)} "
            f"modules, more than the budget of {budget:,}"
        )
    ranks = dict.fromkeys(values, 1)
    waiting = [(-_gain(values[module], 1) / cost[module], module) for module in values]
    heapq.heapify(waiting)
    while waiting:
        gain, module = heapq.heappop(waiting)
        if gain == 0 or cost[module] > left:
            continue
        left -= cost[module]
        ranks[module] += 1
        heapq.heappush(waiting, (-_gain(values[module], ranks[module]) / cost[module], module))
    return ranks


def _gain(spectrum: Float[Tensor, "k"], rank: int) -> float:
    return spectrum[rank].item() ** 2 if rank < len(spectrum) else 0.0


def _changed(adapter: Adapter, updates: Mapping[str, LowRankUpdate], what: str) -> Adapter:
    changes = [*adapter.metadata.get("changes", ()), what]
    return adapter.with_updates(updates, changes=changes)
