"""One module, all pairs of adapters: the unit of work that executors share out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from asym_analysis.adapters.adapter import ModuleSource
from asym_analysis.adapters.initialization import marks
from asym_analysis.adapters.initialization_evidence import CERTAIN, Evidence, PairSums, initialization_evidence
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_evidence import modules_evidence
from asym_analysis.alignment.initialization_sums import InitializationSums
from asym_analysis.alignment.shapes import common_shape
from asym_analysis.errors import AdapterError, AdapterValueError
from asym_analysis.subspaces.angles import cross_gram
from asym_analysis.subspaces.bases import numerical_rank, rank_tolerance, scaled
from asym_analysis.subspaces.measures import Frames, Measure, measure_named
from asym_analysis.subspaces.measures.principal import smaller_rank
from asym_analysis.subspaces.updates import thin_svd
from asym_analysis.vocabulary import FACTORS, Factor

__all__ = [
    "ModulePairs",
    "ModuleTask",
    "all_pairs",
    "batches",
    "compare_module",
    "compare_modules",
    "factor_frames",
    "initialization_marks",
    "stacked_spectra",
]

Source = ModuleSource | LowRankUpdate | None

BLOCK_ENTRIES = 2**22  # entries of one block of pairwise products: 16 MB in float32, which stays near the processor
LEAST_ROWS = 192  # of one block
MOST_ROWS_TOGETHER = 512  # of one module, up to which modules are multiplied together, lower triangles included
BATCH_ENTRIES = 2**20  # of one factor of all adapters, up to which modules are compared together: 4 MB in float32
ABSENT = -1


@dataclass(frozen=True)
class ModuleTask:
    """What one module's comparison needs; it can be sent to another process.

    `sources` holds, for each adapter in order, its factors still in their file, the factors themselves, or None where
    the adapter lacks the module; `initial` the same of the recorded initial factors.
    `random` holds the factors of each adapter that were initialized at random; where it is empty, nothing is said of
    shared initializations. `initial_squares` holds, for each adapter, the squared lengths that its factors may have
    had at their initialization, where any are known.
    """

    module: str
    names: tuple[str, ...]
    sources: tuple[Source, ...]
    factors: tuple[str, ...]
    measure: str
    device: str
    initial: tuple[Source, ...] = ()
    subtract_initial: bool = False
    random: tuple[frozenset[Factor], ...] = ()
    initial_squares: tuple[Mapping[Factor, tuple[float, ...]], ...] = ()

    def kind(self) -> Hashable:
        """What is alike in modules that `compare_modules` takes together; None for one that needs its own turn.

        Modules of one shape, that the same adapters have, with one dtype for all, and no recorded initializations.
        """
        held = [source for source in self.sources if source is not None]
        shapes = {(source.d_out, source.d_in) for source in held}
        if len(shapes) > 1 or any(start is not None for start in self.initial):
            return None
        wide = any(_is_wide(source) for source in held)
        return *shapes, wide, tuple(source is None for source in self.sources), self.random

    @property
    def entries(self) -> int:
        """Entries of the larger factor of all adapters together."""
        return sum(source.rank * max(source.d_out, source.d_in) for source in self.sources if source is not None)

    def with_factors_read(self) -> ModuleTask:
        """The same task with every tensor in memory, for workers that cannot open the files."""
        return replace(self, sources=self._all(self.sources), initial=self._all(self.initial))

    def updates(self) -> dict[int, LowRankUpdate]:
        """Read the module of every adapter that has it: index -> update."""
        return {index: update for index, update in enumerate(self._all(self.sources)) if update is not None}

    def initial_updates(self) -> dict[int, LowRankUpdate]:
        """Read the recorded initial factors: index -> update."""
        return {index: start for index, start in enumerate(self._all(self.initial)) if start is not None}

    def _all(self, sources: tuple[Source, ...]) -> tuple[LowRankUpdate | None, ...]:
        return tuple(self._read(index, source) for index, source in enumerate(sources))

    def _read(self, index: int, source: Source) -> LowRankUpdate | None:
        if source is None or isinstance(source, LowRankUpdate):
            return source
        try:
            return source.view()
        except AdapterValueError as error:
            raise AdapterValueError(f"{self.names[index]}, module {self.module}: {error}") from error


def _is_wide(source: ModuleSource | LowRankUpdate) -> bool:
    return source.A.dtype == torch.float64 if isinstance(source, LowRankUpdate) else source.dtype == "float64"


def batches(tasks: Iterable[ModuleTask]) -> Iterator[list[ModuleTask]]:
    """Put modules together that are alike, next to each other or not, up to `BATCH_ENTRIES`.

    Parameters
    ----------
    tasks
        One a module.

    Returns
    -------
    iterator of list
        For `compare_modules`; a module that is as large as that, or like no other, is alone.
    """
    waiting: dict[Hashable, list[ModuleTask]] = {}
    for task in tasks:
        entries = task.entries
        kind = None if 2 * entries > BATCH_ENTRIES else task.kind()
        if kind is None:
            yield [task]
            continue
        batch = waiting.setdefault(kind, [])
        batch.append(task)
        if (len(batch) + 1) * entries > BATCH_ENTRIES:
            yield waiting.pop(kind)
    yield from waiting.values()


@dataclass(frozen=True)
class ModulePairs:
    """All pairs of one module. Pairs i < j stand in the order of `numpy.triu_indices(n, 1)`.

    Attributes
    ----------
    values
        One row a factor; NaN where an adapter lacks the module or its factor is zero.
    ranks
        Numerical rank by factor and adapter; -1 where the adapter lacks the module.
    shape
        d_out and d_in.
    spectra
        Singular values by factor and adapter, zero beyond the rank, for measures whose null distribution depends on
        them; without columns for others.
    initialization
        What the module says of a shared initialization of A, then of B: trace, square, level and expected of
        `adapters.initialization_evidence.Evidence`, as one array.
    """

    values: Float[np.ndarray, "factors pairs"]
    ranks: Int[np.ndarray, "factors adapters"]
    shape: Int[np.ndarray, "2"]
    spectra: Float[np.ndarray, "factors adapters k"]
    initialization: Float[np.ndarray, "2 4 pairs"]


def compare_module(task: ModuleTask) -> ModulePairs:
    """Compare one module among all adapters.

    Raises
    ------
    AdapterError
        As `compare_modules`.
    """
    return compare_modules([task])[0]


def compare_modules(tasks: Sequence[ModuleTask]) -> list[ModulePairs]:
    """Compare modules among all adapters: bases once an adapter, then one product a block of pairs.

    Parameters
    ----------
    tasks
        One a module, of which any two are alike: see `ModuleTask.kind`.

    Returns
    -------
    list
        One a module. Modules together cost hardly more steps than one, which is what few small adapters spend.

    Raises
    ------
    AdapterError
        If two adapters have the module in different sizes, a factor holds NaN or infinity, or an initialization that is
        to be subtracted is not known.
    """
    original, updates = zip(*map(_read_updates, tasks), strict=True)
    first = tasks[0]
    members = list(updates[0])
    count, measure = len(first.sources), measure_named(first.measure)
    upper = pair_places(count)
    shapes = [
        common_shape(task.module, {task.names[index]: update.shape for index, update in held.items()})
        for task, held in zip(tasks, updates, strict=True)
    ]
    values: list[list[np.ndarray]] = [[] for _ in tasks]
    spectra: list[list[np.ndarray]] = [[] for _ in tasks]
    known: dict[Factor, PairSums] = {}
    ranks = np.full((len(tasks), len(first.factors), count), ABSENT, dtype=np.int16)
    trained = all(one is other for one, other in zip(original, updates, strict=True))
    flat = [held[index] for held in updates for index in members]
    for row, factor in enumerate(first.factors):
        frames = factor_frames(measure, factor, flat, first.device).by_module(len(tasks))
        sums = None
        if first.random and trained and sum(factor in first.random[index] for index in members) > 1:
            sums = InitializationSums.beside(measure, frames, [update.rank for update in flat])
        pairs = all_pairs(measure, frames, sums)
        if sums is not None:
            known["A" if factor == "A" else "B"] = sums.found(pairs)
        ranks[:, row, members] = frames.rank.cpu().numpy()
        for at, of_module in enumerate(pairs.cpu().numpy()):
            values[at].append(_over_all(of_module, members, count).take(upper))
        for at in range(len(tasks)):
            spectrum = frames.other["spectrum"][at].double().cpu().numpy() if measure.sees_strengths else None
            whole = np.zeros((count, 0 if spectrum is None else spectrum.shape[1]))
            if spectrum is not None:
                whole[members] = spectrum
            spectra[at].append(whole)
    told = _initialization(tasks, original, known)
    return [
        ModulePairs(
            np.stack(values[at]), ranks[at], np.array(shape, dtype=np.int64), stacked_spectra(spectra[at]), told[at]
        )
        for at, shape in enumerate(shapes)
    ]


def _read_updates(task: ModuleTask) -> tuple[dict[int, LowRankUpdate], dict[int, LowRankUpdate]]:
    """The factors that tell of initializations, recorded ones where there are any, and those that are compared."""
    updates, initial = task.updates(), task.initial_updates()
    original = updates | initial if initial else updates
    return original, _movements(task, updates, initial) if task.subtract_initial else updates


@lru_cache(maxsize=4)
def pair_places(count: int) -> Int[np.ndarray, "pairs"]:
    """Where the pairs i < j stand in a flattened square array, in the order of `numpy.triu_indices(count, 1)`."""
    return np.ravel_multi_index(np.triu_indices(count, 1), (count, count))


def _over_all(pairs: Float[np.ndarray, "k k"], members: Sequence[int], count: int) -> Float[np.ndarray, "count count"]:
    """Values of some of `count` adapters in the place of all, NaN for the others."""
    if len(members) == count:
        return pairs
    whole = np.full((count, count), np.nan, dtype=pairs.dtype)
    whole[np.ix_(members, members)] = pairs
    return whole


def stacked_spectra(spectra: Sequence[Float[np.ndarray, "*batch k"]]) -> Float[np.ndarray, "n *batch k"]:
    """Spectra of different lengths in one array, padded with zeros.

    Parameters
    ----------
    spectra
        Arrays that differ in their last axis only.

    Returns
    -------
    array
        With one more axis, the first.
    """
    longest = max(part.shape[-1] for part in spectra)
    stacked = np.zeros((len(spectra), *spectra[0].shape[:-1], longest), dtype=np.result_type(*spectra))
    for row, part in zip(stacked, spectra, strict=True):
        row[..., : part.shape[-1]] = part
    return stacked


def factor_frames(measure: Measure, factor: str, updates: Sequence[LowRankUpdate], device: str) -> Frames:
    """Prepare one factor of every update; those of one shape in one batch, all in the widest of their dtypes."""
    dtype = torch.float64 if any(update.A.dtype == torch.float64 for update in updates) else torch.float32
    by_rank: dict[int, list[int]] = {}
    for index, update in enumerate(updates):
        by_rank.setdefault(update.rank, []).append(index)
    parts = []
    for indices in by_rank.values():
        alike = [updates[i] for i in indices]
        A = _stacked([update.A for update in alike], dtype).to(device) if factor != "B" else None
        B = _stacked([update.B for update in alike], dtype).to(device) if factor != "A" else None
        parts.append(_prepare(measure, factor, A, B, [update.scaling < 0 for update in alike]))
    return Frames.joined(parts, torch.tensor([index for indices in by_rank.values() for index in indices]))


def _stacked(factors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack([factor if factor.dtype == dtype else factor.to(dtype) for factor in factors])


def _prepare(measure: Measure, factor: str, A: Tensor | None, B: Tensor | None, negative: Sequence[bool]) -> Frames:
    if B is None:
        assert A is not None
        return measure.prepare(A)
    if A is None:
        return measure.prepare(B.mT)
    if measure.kind == "update":
        signs = 1 - 2 * torch.tensor(negative).to(B)
        return measure.prepare(A, signs[:, None, None] * B)
    U, S, Vh = thin_svd(scaled(A), scaled(B))
    # Rank is decided here: roots of singular values that are rounding would exceed the tolerance of what follows.
    kept = numerical_rank(S, rank_tolerance((A.shape[-1], B.shape[-2]), S.dtype))
    S = S * (torch.arange(S.shape[-1], device=S.device) < kept[:, None])
    # The balanced factors carry the root of the singular values, the update's own spectrum the values themselves.
    weights = S.sqrt() if measure.kind == "matrix" else S
    return measure.prepare(weights[:, :, None] * (Vh if factor == "right" else U.mT))


def all_pairs(measure: Measure, frames: Frames, sums: InitializationSums | None = None) -> Float[Tensor, "modules n n"]:
    """Values of all pairs i <= j of each module; what lies below the diagonal may be NaN.

    Parameters
    ----------
    measure
        What is compared.
    frames
        Of several modules, as `Frames.by_module` gives them.
    sums
        Takes what it needs of the products.

    Returns
    -------
    Tensor
        One square a module.
    """
    modules, count, rank, _ = frames.rows.shape
    if modules > 1 and measure.of_products is not None and count * rank <= MOST_ROWS_TOGETHER:
        flat = frames.rows.flatten(1, 2)
        products = (flat @ flat.mT).unflatten(1, (count, rank)).unflatten(3, (count, rank))
        if sums is not None:
            sums.add(slice(None), slice(None), slice(None), products)
        return measure.of_products(products) / smaller_rank(frames, frames)
    values = torch.full((modules, count, count), torch.nan, dtype=frames.rows.dtype, device=frames.rows.device)
    for at in range(modules):
        of_module = frames[at]
        for first, second in _blocks(count, rank):
            left, right = of_module[first], of_module[second]
            if measure.of_products is None:
                values[at, first, second] = measure.compare(left, right)
                continue
            products = cross_gram(left.rows, right.rows)
            if sums is not None:
                sums.add(at, first, second, products)
            values[at, first, second] = measure.of_products(products)
    return values if measure.of_products is None else values / smaller_rank(frames, frames)


def _blocks(count: int, rank: int) -> Iterator[tuple[slice, slice]]:
    """Cover the pairs i <= j: some adapters at a time, each against all from the first of them on.

    The Gram matrix of all adapters is symmetric, so only blocks on and above its diagonal are computed. Halves against
    each other would leave out more of what lies below it, but read the bases more often: they are a tenth slower.
    """
    # An eighth of the adapters at a time wastes a sixteenth of the products on the lower triangle; few rows at a time
    # cost more than they waste.
    step = max(1, min(max(-(-count // 8), LEAST_ROWS // rank), BLOCK_ENTRIES // (count * rank * rank)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count)), slice(start, count)


def _movements(
    task: ModuleTask, updates: dict[int, LowRankUpdate], initial: dict[int, LowRankUpdate]
) -> dict[int, LowRankUpdate]:
    """Each update with A - A0 and B - B0 for its factors; an initialization not recorded is that of a relative.

    Raises
    ------
    AdapterError
        If an adapter has no recorded initialization and shares it with none that has.
    """
    moved = {}
    for index, update in updates.items():
        start = initial.get(index) or _borrowed(update, list(initial.values()))
        if start is None or start.A.shape != update.A.shape or start.B.shape != update.B.shape:
            raise AdapterError(
                f"{task.names[index]} has no recorded initialization for {task.module}, and shares it with no adapter "
                "that has one: give its initial factors, or compare without subtract_initial"
            )
        moved[index] = replace(update, A=update.A - start.A.to(update.A), B=update.B - start.B.to(update.B))
    return moved


def _borrowed(update: LowRankUpdate, starts: list[LowRankUpdate]) -> LowRankUpdate | None:
    alike = [start for start in starts if start.A.shape == update.A.shape]
    if not alike:
        return None
    _, evidence = initialization_evidence([update.A, *(start.A for start in alike)])
    found = np.flatnonzero(evidence.level[0, 1:] == CERTAIN)
    return alike[int(found[0])] if len(found) else None


def _initialization(
    tasks: Sequence[ModuleTask], held: Sequence[dict[int, LowRankUpdate]], known: dict[Factor, PairSums]
) -> Float[np.ndarray, "modules 2 4 pairs"]:
    """What each module says of shared initializations, with recorded ones in place of the trained factors."""
    first = tasks[0]
    count = len(first.sources)
    upper = pair_places(count)
    found = np.full((len(tasks), len(FACTORS), 4, len(upper)), np.nan, dtype=np.float16)
    found[:, :, 2] = ABSENT
    if not first.random:
        return found
    lengths: list[dict[int, Mapping[Factor, tuple[float, ...]]]] = []
    for task, updates in zip(tasks, held, strict=True):
        lengths.append(dict(enumerate(task.initial_squares)))
        for index, start in enumerate(task.initial):
            if start is not None and index in updates:
                lengths[-1][index] = {factor: (updates[index].factor_norm(factor) ** 2,) for factor in FACTORS}
    evidence = modules_evidence(held, dict(enumerate(first.random)), count, lengths, known)
    for at, of_module in enumerate(evidence):
        for factor, (_, told) in of_module.items():
            row = found[at, FACTORS.index(factor)]
            for place, part in enumerate((told.trace, told.square, told.level, told.expected)):
                row[place] = part.take(upper)
    return found


def initialization_marks(modules: Sequence[Float[np.ndarray, "2 4 pairs"]]) -> Int[np.ndarray, "modules pairs"]:
    """Decide from what all modules say which pairs share an initialization, of A or of B, in which module.

    Parameters
    ----------
    modules
        `ModulePairs.initialization` of every module.

    Returns
    -------
    ndarray
        int8: 1 where it is shared, 0 where that is ruled out, -1 where it is unknown.
    """
    whole = np.stack(modules)
    return np.maximum(*(_marks_of(whole[:, row]) for row in range(len(FACTORS))))


def _marks_of(factor: Float[np.ndarray, "modules 4 pairs"]) -> Int[np.ndarray, "modules pairs"]:
    return marks([Evidence(trace, square, level.astype(np.int8), least) for trace, square, level, least in factor])
