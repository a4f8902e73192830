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

__all__ = ["ModulePairs", "ModuleTask", "compare_module"]

BLOCK_ENTRIES = 2**22  # entries of one block of pairwise products: 16 MB in float32, which stays near the processor
ABSENT = -1


@dataclass(frozen=True)
class ModuleTask:
    """What one module's comparison needs; it can be sent to another process.

    `sources` holds, for each adapter in order, its factors still in their file, the factors themselves, or None where
    the adapter lacks the module.
    """

    module: str
    names: tuple[str, ...]
    sources: tuple[ModuleSource | LowRankUpdate | None, ...]
    factors: tuple[str, ...]
    measure: str
    device: str

    def with_factors_read(self) -> ModuleTask:
        """The same task with every tensor in memory, for workers that cannot open the files."""
        return replace(self, sources=tuple(self._read(index) for index in range(len(self.sources))))

    def updates(self) -> dict[int, LowRankUpdate]:
        """Read the module of every adapter that has it: index -> update."""
        read = {index: self._read(index) for index in range(len(self.sources))}
        return {index: update for index, update in read.items() if update is not None}

    def _read(self, index: int) -> LowRankUpdate | None:
        source = self.sources[index]
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
        Dimension d of the space that each factor's subspaces lie in.
    same_start
        1 where two adapters began from the same factor, 0 where not, -1 where that cannot be told.
    """

    values: Float[np.ndarray, "factors pairs"]
    ranks: Int[np.ndarray, "factors adapters"]
    sizes: Int[np.ndarray, "factors"]
    same_start: Int[np.ndarray, "pairs"]


def compare_module(task: ModuleTask) -> ModulePairs:
    """Compare one module among all adapters: bases once an adapter, then one product a block of pairs.

    Raises
    ------
    AdapterError
        If two adapters have the module in different sizes, or a factor holds NaN or infinity.
    """
    updates = task.updates()
    members = list(updates)
    count = len(task.sources)
    measure = measure_named(task.measure)
    upper = np.triu_indices(count, 1)
    values, ranks, sizes = [], np.full((len(task.factors), count), ABSENT, dtype=np.int16), []
    for row, factor in enumerate(task.factors):
        matrices = [_rows(updates[index], factor).to(task.device) for index in members]
        _require_one_size(task, factor, matrices, members)
        frames = prepare_ragged(measure, matrices)
        square = np.full((count, count), np.nan, dtype=np.float64 if frames.rows.dtype == torch.float64 else np.float32)
        square[np.ix_(members, members)] = all_pairs(measure, frames).cpu().numpy()
        values.append(square[upper])
        ranks[row, members] = frames.rank.cpu().numpy()
        sizes.append(matrices[0].shape[1])
    started = _same_start([updates[index].A for index in members])
    marks = np.full((count, count), -1, dtype=np.int8)
    marks[np.ix_(members, members)] = started
    return ModulePairs(np.stack(values), ranks, np.array(sizes, dtype=np.int64), marks[upper])


def prepare_ragged(measure: Measure, matrices: Sequence[Float[Tensor, "_rank d"]]) -> Frames:
    """Prepare matrices of different ranks, those of one rank in one batch; all in the widest of their dtypes."""
    dtype = torch.float64 if any(matrix.dtype == torch.float64 for matrix in matrices) else torch.float32
    by_rank: dict[int, list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_rank.setdefault(matrix.shape[0], []).append(index)
    parts = [measure.prepare(torch.stack([matrices[i].to(dtype) for i in indices])) for indices in by_rank.values()]
    return Frames.joined(parts, torch.tensor([index for indices in by_rank.values() for index in indices]))


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


def _rows(update: LowRankUpdate, factor: str) -> Tensor:
    return update.A if factor == "A" else update.B.mT


def _require_one_size(task: ModuleTask, factor: str, matrices: list[Tensor], members: list[int]) -> None:
    first = matrices[0].shape[1]
    for index, matrix in zip(members, matrices, strict=True):
        if matrix.shape[1] != first:
            raise AdapterError(
                f"module {task.module} has {factor} of size {first} in {task.names[members[0]]} and "
                f"{matrix.shape[1]} in {task.names[index]}: they adapt different base models; compare them apart"
            )


def _same_start(factors: list[Tensor]) -> np.ndarray:
    """1, 0 or -1 for each pair; factors of different shapes cannot have begun as one."""
    marks = np.zeros((len(factors), len(factors)), dtype=np.int8)
    by_shape: dict[torch.Size, list[int]] = {}
    for index, factor in enumerate(factors):
        by_shape.setdefault(factor.shape, []).append(index)
    for indices in by_shape.values():
        cosine, shared = same_start(torch.stack([factors[i].float() for i in indices]))
        marks[np.ix_(indices, indices)] = torch.where(cosine.isnan(), -1, shared.to(torch.int8)).cpu().numpy()
    return marks
