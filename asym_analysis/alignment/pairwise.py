"""compare_subspaces: all pairs of adapters, all modules, A and B, in batch."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.known_initializations import KnownLaws, initial_squares, laws_by_module
from asym_analysis.adapters.load import Source
from asym_analysis.adapters.random_factors import random_factors
from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.alignment.digests import module_digests
from asym_analysis.alignment.module_pairs import (
    ModulePairs,
    ModuleTask,
    batches,
    compare_module,
    compare_modules,
    initialization_marks,
    stacked_spectra,
)
from asym_analysis.alignment.shapes import sharing_adapters
from asym_analysis.alignment.side_by_side import side_by_side
from asym_analysis.alignment.streaming import ComparisonStore
from asym_analysis.errors import AdapterError
from asym_analysis.results import settings_of
from asym_analysis.subspaces.measures import FACTORS, Measure, measure_named
from asym_analysis.vocabulary import Factor, checked_device

__all__ = ["compare_subspaces"]

IN_FLIGHT = 8  # modules handed to an executor at a time, so that their factors never fill the memory


def compare_subspaces(
    adapters: AdapterSet | Adapter | Source | Iterable[Adapter | Source],
    *,
    factors: tuple[str, ...] | None = None,
    measure: str = "overlap",
    subtract_initial: bool = False,
    executor: Executor | None = None,
    device: str | None = None,
    progress: bool = False,
    store: str | os.PathLike[str] | None = None,
) -> SubspaceComparison:
    """Compare the subspaces of all pairs of adapters: the row space of A and the column space of B, module by module.

    Bases are orthonormalized once an adapter; then a module and side costs one matrix product, of which only the
    blocks on and above the diagonal are computed. Ranks may differ. Rank is decided by `bases.rank_tolerance`.

    Parameters
    ----------
    adapters : AdapterSet, Adapter, source or iterable of these
        At least two adapters, aligned by module name: a set, or anything that `load_adapters` reads.
    factors : tuple of str, optional
        "A" (row space, of the input) and "B" (column space, of the output), as stored; "right" and "left", the same of
        the update B·A in its balanced gauge; "update", the product itself. By default the measure's own: A and B for
        measures of subspaces, right and left where the gauge would change the value, update for "cosine".
    measure : str, default "overlap"
        A name of `asym_analysis.subspaces.measures.MEASURES`; by default the paper's, the mean squared cosine of the
        principal angles.
    subtract_initial : bool, default False
        Compare A - A0 and B - B0, what training added, instead of A and B. The initialization of an adapter is its own
        recorded one, or that of an adapter with which it shares it.
    executor : executor, optional
        Any `concurrent.futures.Executor`, such as `dask.distributed.Client(...).get_executor()`; modules are shared
        out over it. None computes here, modules side by side, each on one of torch's threads.
    device : str, optional
        Where to multiply; the CPU by default.
    progress : bool, default False
        Show a bar, one step a module.
    store : path, optional
        A folder to write every module to as it is done, so that thousands of adapters never fill the memory. Called
        again with the same folder, an interrupted comparison goes on where it stopped; the folder is refused where an
        adapter has changed since.

    Returns
    -------
    SubspaceComparison
        Values have the dtype of the factors: float32 agrees with float64 to 1e-6 in the overlap.

    Raises
    ------
    AdapterError
        If fewer than two adapters are given, they share no module, two have a module in different sizes, a factor holds
        NaN or infinity, an initialization is to be subtracted and not known, or `store` holds another comparison or
        one of other weights.
    ValueError
        If the measure is unknown, or is not one of that factor.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> draw = lambda: (torch.randn(4, 64, generator=generator), torch.randn(48, 4, generator=generator))
    >>> comparison = compare_subspaces([Adapter.from_factors({"layer.0.q": draw()}, name=f"run {i}") for i in range(3)])
    >>> comparison.frame[["adapter_i", "adapter_j", "factor", "rank_i"]].head(3).values.tolist()
    [['run 0', 'run 1', 'A', 4], ['run 0', 'run 2', 'A', 4], ['run 1', 'run 2', 'A', 4]]
    """
    chosen = _factors(measure_named(measure), factors)
    device = str(checked_device(device))
    runs = sharing_adapters(adapters, least=2)
    modules = runs.modules
    if subtract_initial and not set(chosen) <= {"A", "B"}:
        raise ValueError(f"only A and B have an initialization to subtract, not {', '.join(chosen)}")
    settings = {
        "factors": list(chosen),
        "measure": measure,
        "subtract_initial": subtract_initial,
        "adapters": runs.table.to_dict(orient="list"),
        "modules": list(modules),
    }
    randomly = [random_factors(run) for run in runs]
    laws_of_each = [laws_by_module(run) for run in runs]
    tasks = {
        module: ModuleTask(
            module=module,
            names=runs.names,
            sources=tuple(run.source(module) if module in run else None for run in runs),
            initial=tuple(
                run.initial.source(module)
                if module in run and run.initial is not None and module in run.initial
                else None
                for run in runs
            ),
            factors=chosen,
            measure=measure,
            subtract_initial=subtract_initial,
            device=device,
            random=tuple(of_run.get(module, frozenset()) for of_run in randomly),
            initial_squares=tuple(
                _initial_squares(run, laws, module) for run, laws in zip(runs, laws_of_each, strict=True)
            ),
        )
        for module in modules
    }
    bar = partial(tqdm, total=len(modules), unit="module", disable=not progress)
    if store is None:
        found = dict(bar(_results(tasks.values(), executor, device)))
        parts = [found[module] for module in modules]
        values = np.stack([part.values for part in parts])
    else:
        shape = (len(modules), len(chosen), len(runs) * (len(runs) - 1) // 2)
        kept = ComparisonStore(store, settings, shape, _dtype(runs))
        parts, values = _through_store(kept, runs, tasks, executor, device, bar), kept.values
    return SubspaceComparison(
        adapters=runs.table,
        modules=modules,
        factors=chosen,
        measure=measure,
        values=values,
        ranks=np.stack([part.ranks for part in parts]),
        shapes=np.stack([part.shape for part in parts]),
        spectra=stacked_spectra([part.spectra for part in parts]),
        initialization_marks=initialization_marks([part.initialization for part in parts]),
        settings=settings_of(**settings, device=device),
    )


def _through_store(
    kept: ComparisonStore,
    runs: AdapterSet,
    tasks: Mapping[str, ModuleTask],
    executor: Executor | None,
    device: str,
    bar: Callable[..., Any],
) -> list[ModulePairs]:
    """Compare the modules that the store lacks, and give all.

    Raises
    ------
    AdapterError
        If an adapter has changed since a module was stored.
    """
    order = {module: index for index, module in enumerate(tasks)}
    for module, index in order.items():
        changed = kept.changed(index, module_digests(runs, module)) if index in kept else []
        if changed:
            names = ", ".join(runs.names[place] for place in changed)
            raise AdapterError(
                f"{kept.folder} holds a comparison with other weights of {names}: give an empty folder, or delete this "
                "one"
            )
    left = [task for module, task in tasks.items() if order[module] not in kept]
    for module, found in bar(_results(left, executor, device, singly=True), initial=len(tasks) - len(left)):
        kept.write(order[module], found, module_digests(runs, module))
    return [kept.read(index) for index in range(len(tasks))]


def _initial_squares(
    run: Adapter, laws: Callable[[str], KnownLaws | None], module: str
) -> Mapping[Factor, tuple[float, ...]]:
    if module not in run:
        return {}
    source = run.source(module)
    return initial_squares(laws(module), source.rank, source.d_in, source.d_out)


def _dtype(runs: AdapterSet) -> np.dtype:
    """The dtype that the values of every module fit in, told from the headers."""
    wide = any(run.source(module).dtype == "float64" for run in runs for module in run)
    return np.dtype(np.float64 if wide else np.float32)


def _factors(measure: Measure, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    if asked is None:
        return measure.default_factors
    allowed = FACTORS[measure.kind]
    if not asked or any(factor not in allowed for factor in asked):
        raise ValueError(
            f"{measure.name} cannot be taken of {', '.join(asked) or 'nothing'}: choose among {', '.join(allowed)}"
        )
    return tuple(asked)


def _results(
    tasks: Iterable[ModuleTask], executor: Executor | None, device: str, *, singly: bool = False
) -> Iterator[tuple[str, ModulePairs]]:
    """Module names with their results, as they are done; small modules together, unless each is to be kept at once."""
    if executor is None:
        together = ([task] for task in tasks) if singly else batches(tasks)
        # One after the other on an accelerator: torch's first decompositions there fail in two threads at once.
        one_by_one = ((batch, compare_modules(batch)) for batch in together)
        on_cpu = device.startswith("cpu")
        for batch, parts in side_by_side(compare_modules, together) if on_cpu else one_by_one:
            for task, found in zip(batch, parts, strict=True):
                yield task.module, found
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
