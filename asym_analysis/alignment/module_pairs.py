"""One module, all pairs of adapters: the unit of work that executors share out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from asym_analysis.adapters.module_evidence import module_evidence
from asym_analysis.alignment.initialization_sums import InitializationSums
from asym_analysis.alignment.shapes import common_shape
from asym_analysis.errors import AdapterError, AdapterValueError
from asym_analysis.subspaces.angles import cross_gram
from asym_analysis.subspaces.bases import numerical_rank, rank_tolerance, scaled
from asym_analysis.subspaces.measures import Frames, Measure, measure_named
from asym_analysis.subspaces.updates import thin_svd
from asym_analysis.vocabulary import FACTORS, Factor

__all__ = [
    "ModulePairs",
    "ModuleTask",
    "all_pairs",
    "compare_module",
    "factor_frames",
    "initialization_marks",
    "stacked_spectra",
]

Source = ModuleSource | LowRankUpdate | None

BLOCK_ENTRIES = 2**22  # entries of one block of pairwise products: 16 MB in float32, which stays near the processor
LEAST_ROWS = 192  # of one block
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
    """Compare one module among all adapters: bases once an adapter, then one product a block of pairs.

    Raises
    ------
    AdapterError
        If two adapters have the module in different sizes, a factor holds NaN or infinity, or an initialization that is
        to be subtracted is not known.
    """
    updates = task.updates()
    members = list(updates)
    initial = task.initial_updates()
    original = updates | initial if initial else updates
    if task.subtract_initial:
        updates = _movements(task, updates, initial)
    count = len(task.sources)
    measure = measure_named(task.measure)
    upper = pair_places(count)
    values, spectra = [], []
    known: dict[Factor, PairSums] = {}
    ranks = np.full((len(task.factors), count), ABSENT, dtype=np.int16)
    shape = common_shape(task.module, {task.names[index]: update.shape for index, update in updates.items()})
    for row, factor in enumerate(task.factors):
        frames = factor_frames(measure, factor, [updates[index] for index in members], task.device)
        sums = None
        if task.random and original is updates and sum(factor in task.random[index] for index in members) > 1:
            sums = InitializationSums.beside(measure, frames, [updates[index].rank for index in members])
        pairs = all_pairs(measure, frames, sums)
        if sums is not None:
            known["A" if factor == "A" else "B"] = sums.found(pairs)
        values.append(_over_all(pairs.cpu().numpy(), members, count).take(upper))
        ranks[row, members] = frames.rank.cpu().numpy()
        held = (
            frames.other["spectrum"].double().cpu().numpy() if measure.sees_strengths else np.empty((len(members), 0))
        )
        spectra.append(np.zeros((count, held.shape[1])))
        spectra[-1][members] = held
    return ModulePairs(
        np.stack(values),
        ranks,
        np.array(shape, dtype=np.int64),
        stacked_spectra(spectra),
        _initialization(task, original, known),
    )


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
        A = torch.stack([update.A.to(dtype) for update in alike]).to(device) if factor != "B" else None
        B = torch.stack([update.B.to(dtype) for update in alike]).to(device) if factor != "A" else None
        parts.append(_prepare(measure, factor, A, B, [update.scaling < 0 for update in alike]))
    return Frames.joined(parts, torch.tensor([index for indices in by_rank.values() for index in indices]))


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


def all_pairs(measure: Measure, frames: Frames, sums: InitializationSums | None = None) -> Float[Tensor, "n n"]:
    """Values of all pairs i <= j; the lower triangle is NaN below the blocks that the upper one needs.

    The Gram matrix of all adapters is symmetric, so only blocks on and above its diagonal are computed. `sums` takes
    what it needs of every block.
    """
    count, rank = len(frames), frames.rows.shape[1]
    # An eighth of the adapters at a time wastes a sixteenth of the products on the lower triangle; few rows at a time
    # cost more than they waste.
    step = max(1, min(max(-(-count // 8), LEAST_ROWS // rank), BLOCK_ENTRIES // (count * rank * rank)))
    values = torch.full((count, count), torch.nan, dtype=frames.rows.dtype, device=frames.rows.device)
    for start in range(0, count, step):
        stop = min(start + step, count)
        left, right = frames[start:stop], frames[start:]
        if sums is None or measure.of_products is None:
            values[start:stop, start:] = measure.compare(left, right)
            continue
        products = cross_gram(left.rows, right.rows)
        sums.add(start, stop, products)
        values[start:stop, start:] = measure.of_products(products, left, right)
    return values


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
    task: ModuleTask, held: dict[int, LowRankUpdate], known: dict[Factor, PairSums]
) -> Float[np.ndarray, "2 4 pairs"]:
    """What this module says of shared initializations, with recorded ones in place of the trained factors."""
    count = len(task.sources)
    upper = pair_places(count)
    found = np.full((len(FACTORS), 4, len(upper)), np.nan, dtype=np.float16)
    found[:, 2] = ABSENT
    if not task.random:
        return found
    lengths: dict[int, Mapping[Factor, tuple[float, ...]]] = dict(enumerate(task.initial_squares))
    for index, start in enumerate(task.initial):
        if start is not None and index in held:
            lengths[index] = {factor: (held[index].factor_norm(factor) ** 2,) for factor in FACTORS}
    evidence = module_evidence(held, dict(enumerate(task.random)), count, known, lengths)
    for factor, (_, told) in evidence.items():
        parts = (told.trace, told.square, told.level, told.expected)
        found[FACTORS.index(factor)] = [part.take(upper) for part in parts]
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
