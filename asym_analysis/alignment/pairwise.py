"""compare_subspaces: all pairs of adapters, all modules, A and B, in batch."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait

import numpy as np
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.alignment.module_pairs import ModulePairs, ModuleTask, compare_module
from asym_analysis.errors import AdapterError
from asym_analysis.results import versions
from asym_analysis.subspaces.measures import measure_named

__all__ = ["compare_subspaces"]

FACTORS = ("A", "B")
IN_FLIGHT = 8  # modules handed to an executor at a time, so that their factors never fill the memory


def compare_subspaces(
    adapters: AdapterSet | Iterable[Adapter],
    *,
    factors: tuple[str, ...] = FACTORS,
    measure: str = "overlap",
    executor: Executor | None = None,
    device: str | None = None,
    progress: bool = False,
) -> SubspaceComparison:
    """Compare the subspaces of all pairs of adapters: the row space of A and the column space of B, module by module.

    Bases are orthonormalized once an adapter; then a module and side costs one matrix product, of which only the
    blocks on and above the diagonal are computed. Ranks may differ. Rank is decided by `bases.rank_tolerance`.

    Parameters
    ----------
    adapters
        At least two adapters, aligned by module name.
    factors
        "A" (row space, of the input) and "B" (column space, of the output).
    measure
        A name of `asym_analysis.subspaces.measures.MEASURES`; by default the paper's, the mean squared cosine of the
        principal angles.
    executor
        Any `concurrent.futures.Executor`, such as `dask.distributed.Client(...).get_executor()`; modules are shared
        out over it. None computes here, with torch's own threads.
    device
        Where to multiply; the CPU by default.
    progress
        Show a bar, one step a module.

    Returns
    -------
    SubspaceComparison
        Values have the dtype of the factors: float32 agrees with float64 to 1e-6 in the overlap.

    Raises
    ------
    AdapterError
        If fewer than two adapters are given, they share no module, two have a module in different sizes, or a factor
        holds NaN or infinity.
    ValueError
        If the measure or a factor is unknown.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> draw = lambda: (torch.randn(4, 64, generator=generator), torch.randn(48, 4, generator=generator))
    >>> comparison = compare_subspaces([Adapter.from_factors({"layer.0.q": draw()}, name=f"run {i}") for i in range(3)])
    >>> comparison.frame[["adapter_i", "adapter_j", "factor", "rank_i"]].head(3).values.tolist()
    [['run 0', 'run 1', 'A', 4], ['run 0', 'run 2', 'A', 4], ['run 1', 'run 2', 'A', 4]]
    """
    runs = adapters if isinstance(adapters, AdapterSet) else AdapterSet(adapters)
    measure_named(measure)
    unknown = [factor for factor in factors if factor not in FACTORS]
    if unknown or not factors:
        raise ValueError(f"factors {factors} cannot be compared: choose among {', '.join(FACTORS)}")
    if len(runs) < 2:
        raise AdapterError(f"a comparison needs at least two adapters; only {runs.names[0]} was given")
    modules = runs.modules
    if not modules:
        raise AdapterError("no two adapters share a module name: were they trained on the same base model?")
    tasks = (_task(runs, module, factors, measure, device or "cpu") for module in modules)
    found = dict(tqdm(_results(tasks, executor), total=len(modules), unit="module", disable=not progress))
    parts = [found[module] for module in modules]
    settings = {
        "factors": list(factors),
        "measure": measure,
        "device": device or "cpu",
        "adapters": runs.table.to_dict(orient="list"),
        "versions": versions(),
    }
    return SubspaceComparison(
        adapters=runs.table,
        modules=modules,
        factors=tuple(factors),
        measure=measure,
        values=np.stack([part.values for part in parts]),
        ranks=np.stack([part.ranks for part in parts]),
        sizes=np.stack([part.sizes for part in parts]),
        same_start=np.stack([part.same_start for part in parts]),
        settings=settings,
    )


def _task(runs: AdapterSet, module: str, factors: tuple[str, ...], measure: str, device: str) -> ModuleTask:
    sources = tuple(run.source(module) if module in run else None for run in runs)
    return ModuleTask(module, runs.names, sources, factors, measure, device)


def _results(tasks: Iterable[ModuleTask], executor: Executor | None) -> Iterator[tuple[str, ModulePairs]]:
    """Module names with their results, as they are done."""
    if executor is None:
        for task in tasks:
            yield task.module, compare_module(task)
        return
    waiting: dict[Future[ModulePairs], str] = {}
    try:
        for task in tasks:
            if len(waiting) >= IN_FLIGHT:
                yield from _finished(waiting)
            waiting[executor.submit(compare_module, _portable(task))] = task.module
        while waiting:
            yield from _finished(waiting)
    finally:
        for future in waiting:
            future.cancel()


def _finished(waiting: dict[Future[ModulePairs], str]) -> Iterator[tuple[str, ModulePairs]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()


def _portable(task: ModuleTask) -> ModuleTask:
    """The task itself where it can be pickled, and with its factors in memory where it cannot."""
    try:
        pickle.dumps(task)
    except Exception:  # pickle raises whatever the object's own code does
        return task.with_factors_read()
    return task
