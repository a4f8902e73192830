"""One module, all pairs of adapters: the unit of work that executors share out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from asym_analysis.adapters.adapter import ModuleSource
from asym_analysis.adapters.initialization import same_start
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterError, AdapterValueError
from asym_analysis.subspaces.measures import Frames, Measure, measure_named
from asym_analysis.subspaces.updates import thin_svd

__all__ = ["ModulePairs", "ModuleTask", "all_pairs", "compare_module", "factor_frames"]

Source = ModuleSource | LowRankUpdate | None

BLOCK_ENTRIES = 2**22  # entries of one block of pairwise products: 16 MB in float32, which stays near the processor
ABSENT = -1
FLAT = 0.6  # flatness that tells a factor that began at random from one that began at zero


@dataclass(frozen=True)
class ModuleTask:
    """What one module's comparison needs; it can be sent to another process.

    `sources` holds, for each adapter in order, its factors still in their file, the factors themselves, or None where
    the adapter lacks the module; `starts` the same of the factors from which training started, and is empty where they
    are not asked for. `mark_starts` asks which pairs began from the same factor.
    """

    module: str
    names: tuple[str, ...]
    sources: tuple[Source, ...]
    factors: tuple[str, ...]
    measure: str
    device: str
    starts: tuple[Source, ...] = ()
    subtract_initial: bool = False
    mark_starts: bool = True

    def with_factors_read(self) -> ModuleTask:
        """The same task with every tensor in memory, for workers that cannot open the files."""
        return replace(self, sources=self._all(self.sources), starts=self._all(self.starts))

    def updates(self) -> dict[int, LowRankUpdate]:
        """Read the module of every adapter that has it: index -> update."""
        return {index: update for index, update in enumerate(self._all(self.sources)) if update is not None}

    def initial(self) -> dict[int, LowRankUpdate]:
        """Read the recorded starts: index -> update."""
        return {index: start for index, start in enumerate(self._all(self.starts)) if start is not None}

    def _all(self, sources: tuple[Source, ...]) -> tuple[LowRankUpdate | None, ...]:
        return tuple(self._read(index, source) for index, source in enumerate(sources))

    def _read(self, index: int, source: Source) -> LowRankUpdate | None:
        if source is None or isinstance(source, LowRankUpdate):
            return source
        try:
            return source.read()
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
    sizes
        Dimension d of the space that each factor's subspaces lie in; d_in times d_out for the whole update.
    spreads
        (Tr C, Tr C^3) by factor and adapter, for measures whose law under chance depends on it; NaN for others.
    same_start
        1 where two adapters began from the same factor, 0 where not, -1 where that cannot be told or was not asked for.
    """

    values: Float[np.ndarray, "factors pairs"]
    ranks: Int[np.ndarray, "factors adapters"]
    sizes: Int[np.ndarray, "factors"]
    spreads: Float[np.ndarray, "factors adapters 2"]
    same_start: Int[np.ndarray, "pairs"]


def compare_module(task: ModuleTask) -> ModulePairs:
    """Compare one module among all adapters: bases once an adapter, then one product a block of pairs.

    Raises
    ------
    AdapterError
        If two adapters have the module in different sizes, a factor holds NaN or infinity, or a start that is to be
        subtracted is not known.
    """
    updates = task.updates()
    members = list(updates)
    started = _same_start([updates[index] for index in members]) if task.mark_starts else -1
    if task.subtract_initial:
        updates = _movements(task, updates)
    count = len(task.sources)
    measure = measure_named(task.measure)
    upper = np.triu_indices(count, 1)
    values, sizes = [], []
    ranks = np.full((len(task.factors), count), ABSENT, dtype=np.int16)
    spreads = np.full((len(task.factors), count, 2), np.nan)
    shapes = {index: update.shape for index, update in updates.items()}
    for row, factor in enumerate(task.factors):
        sizes.append(_common_size(task, factor, shapes))
        frames = factor_frames(measure, factor, [updates[index] for index in members], task.device)
        square = np.full((count, count), np.nan, dtype=np.float64 if frames.rows.dtype == torch.float64 else np.float32)
        square[np.ix_(members, members)] = all_pairs(measure, frames).cpu().numpy()
        values.append(square[upper])
        ranks[row, members] = frames.rank.cpu().numpy()
        if "spread" in frames.other:
            spreads[row, members] = frames.other["spread"].cpu().numpy()
    marks = np.full((count, count), -1, dtype=np.int8)
    marks[np.ix_(members, members)] = started
    return ModulePairs(np.stack(values), ranks, np.array(sizes, dtype=np.int64), spreads, marks[upper])


def factor_frames(measure: Measure, factor: str, updates: Sequence[LowRankUpdate], device: str) -> Frames:
    """Prepare one factor of every update; those of one shape in one batch, all in the widest of their dtypes."""
    dtype = torch.float64 if any(update.A.dtype == torch.float64 for update in updates) else torch.float32
    by_rank: dict[int, list[int]] = {}
    for index, update in enumerate(updates):
        by_rank.setdefault(update.rank, []).append(index)
    parts = []
    for indices in by_rank.values():
        A = torch.stack([updates[i].A.to(device, dtype) for i in indices]) if factor != "B" else None
        B = torch.stack([updates[i].B.to(device, dtype) for i in indices]) if factor != "A" else None
        signs = torch.tensor([-1.0 if updates[i].scaling < 0 else 1.0 for i in indices]).to(device, dtype)
        parts.append(_prepare(measure, factor, A, B, signs))
    return Frames.joined(parts, torch.tensor([index for indices in by_rank.values() for index in indices]))


def _prepare(measure: Measure, factor: str, A: Tensor | None, B: Tensor | None, signs: Tensor) -> Frames:
    if B is None:
        assert A is not None
        return measure.prepare(A)
    if A is None:
        return measure.prepare(B.mT)
    if measure.kind == "update":
        return measure.prepare(A, signs[:, None, None] * B)
    U, S, Vh = thin_svd(A, B)
    # The balanced factors carry the root of the singular values, the update's own spectrum the values themselves.
    weights = S.sqrt() if measure.kind == "matrix" else S
    return measure.prepare(weights[:, :, None] * (Vh if factor == "right" else U.mT))


def all_pairs(measure: Measure, frames: Frames) -> Float[Tensor, "n n"]:
    """Values of all pairs i <= j; the lower triangle is NaN below the blocks that the upper one needs.

    The Gram matrix of all adapters is symmetric, so only blocks on and above its diagonal are computed.
    """
    count, rank = len(frames), frames.rows.shape[1]
    # An eighth of the adapters at a time wastes a sixteenth of the products on the lower triangle.
    step = max(1, min(-(-count // 8), BLOCK_ENTRIES // (count * rank * rank)))
    values = torch.full((count, count), torch.nan, dtype=frames.rows.dtype, device=frames.rows.device)
    for start in range(0, count, step):
        stop = min(start + step, count)
        values[start:stop, start:] = measure.compare(frames[start:stop], frames[start:])
    return values


def _movements(task: ModuleTask, updates: dict[int, LowRankUpdate]) -> dict[int, LowRankUpdate]:
    """Each update with A - A0 and B - B0 for its factors; starts that were not recorded are those of a relative.

    Raises
    ------
    AdapterError
        If an adapter has no recorded start and shares its start with none that has.
    """
    known = task.initial()
    moved = {}
    for index, update in updates.items():
        start = known.get(index) or _borrowed(update, list(known.values()))
        if start is None or start.A.shape != update.A.shape or start.B.shape != update.B.shape:
            raise AdapterError(
                f"{task.names[index]} has no recorded start for {task.module}, and began as no adapter that has one: "
                "give its initial factors, or compare without subtract_initial"
            )
        moved[index] = replace(update, A=update.A - start.A.to(update.A), B=update.B - start.B.to(update.B))
    return moved


def _borrowed(update: LowRankUpdate, starts: list[LowRankUpdate]) -> LowRankUpdate | None:
    alike = [start for start in starts if start.A.shape == update.A.shape]
    if not alike:
        return None
    _, shared = same_start(torch.stack([update.A.float(), *(start.A.float() for start in alike)]))
    found = shared[0, 1:].nonzero()
    return alike[int(found[0])] if len(found) else None


def _common_size(task: ModuleTask, factor: str, shapes: dict[int, tuple[int, int]]) -> int:
    """Dimension of the space that one factor of every adapter lives in.

    Raises
    ------
    AdapterError
        If two adapters have the module in different sizes.
    """
    first = next(iter(shapes))
    for index, shape in shapes.items():
        if shape != shapes[first]:
            (d_out, d_in), (other_out, other_in) = shapes[first], shape
            raise AdapterError(
                f"module {task.module} is {d_out} x {d_in} in {task.names[first]} and {other_out} x {other_in} in "
                f"{task.names[index]}: they adapt different base models; compare them apart"
            )
    d_out, d_in = shapes[first]
    return {"A": d_in, "right": d_in, "B": d_out, "left": d_out, "update": d_in * d_out}[factor]


def _same_start(updates: list[LowRankUpdate]) -> np.ndarray:
    """1, 0 or -1 for each pair: whether their random factors, A as a rule, began as one.

    A factor that began at zero holds a few directions of the gradients, one that began at random has nearly equal
    singular values. Factors of different shapes cannot have begun as one, nor an A and a B.
    """
    marks = np.zeros((len(updates), len(updates)), dtype=np.int8)
    alike: dict[tuple[str, torch.Size], list[int]] = {}
    rows = []
    for index, update in enumerate(updates):
        of_A, of_B = _flatness(update.A), _flatness(update.B.mT)
        factor = "B" if of_A < FLAT < of_B else "A"
        rows.append((update.A if factor == "A" else update.B.mT).float())
        alike.setdefault((factor, rows[-1].shape), []).append(index)
    for indices in alike.values():
        cosine, shared = same_start(torch.stack([rows[i] for i in indices]))
        marks[np.ix_(indices, indices)] = torch.where(cosine.isnan(), -1, shared.to(torch.int8)).cpu().numpy()
    return marks


def _flatness(rows: Float[Tensor, "rank d"]) -> float:
    """(sum s^2)^2 / (rank sum s^4) of the singular values: 1 where they are equal, 0 for a zero factor."""
    gram = rows @ rows.mT
    size = gram.square().sum().item()
    return gram.diagonal().sum().item() ** 2 / (len(gram) * size) if size > 0 else 0.0
