"""Serve a thousand adapters in how many bytes? Shared bases for clusters of adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.load import as_adapters
from asym_analysis.alignment.shapes import common_shape
from asym_analysis.alignment.sharing import joint_diagonalization
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import factors_of, turned_adapter
from asym_analysis.results import Result, settings_of
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import whole

__all__ = ["AdapterClusters", "clustered_diagonalization"]


@dataclass(frozen=True, eq=False, repr=False)
class AdapterClusters(Result):
    """Clusters of adapters that share a basis each.

    Attributes
    ----------
    frame
        One row an adapter: adapter, cluster, error (mean relative squared error over its modules).
    sizes
        One row a number of clusters tried:

        - clusters, error: mean over adapters; null_error: of adapters with the same singular values in random
          directions, mean over the draws (NaN without draws)
        - numbers: bases and cores of all clusters; separate_numbers: factors of all adapters; ratio
        - bytes, separate_bytes: the same at `settings["bytes_per_number"]`
        - each, separate_each: bytes that one more adapter costs, its cores or its factors
        - operations, separate_operations: multiplications for one token in all modules, with shared bases and a core or
          with the adapter's own factors
    settings
        rank, clusters, adapters, modules, rounds, draws, bytes_per_number, seed, versions.
    """

    frame: pd.DataFrame
    sizes: pd.DataFrame
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "questions:plot_clusters"

    def summary(self) -> pd.DataFrame:
        """Error against size for each number of clusters.

        Returns
        -------
        DataFrame
            The table `sizes`.
        """
        return self.sizes

    def __repr__(self) -> str:
        return f"AdapterClusters({len(self.frame)} adapters in {self.frame.cluster.nunique()} clusters)"


def clustered_diagonalization(
    adapters: Any,
    rank: int,
    clusters: Sequence[int] = (1, 2, 4),
    *,
    rounds: int = 5,
    draws: int = 1,
    bytes_per_number: int = 2,
    seed: int = 0,
) -> AdapterClusters:
    """Share one pair of bases in each cluster of adapters: error against numbers stored.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Two or more adapters of one base; modules that not all of them have are left out.
    rank : int
        Columns of the shared bases; in a module that is narrower, as many as it is wide.
    clusters : sequence of int, optional
        Numbers of clusters to try; the frame is of the last.
    rounds : int, default 5
        Rounds of assignment and fitting.
    draws : int, default 1
        Families in random directions for `null_error`; each costs as much as the adapters themselves.
    bytes_per_number : int, default 2
        Size of a stored number, 2 for float16.
    seed : int, default 0
        Of the initial assignment and of the random directions.

    Returns
    -------
    AdapterClusters
        Adapters go to the cluster whose bases represent them best; the error never rises over the rounds kept.

    Raises
    ------
    AdapterError
        If there are fewer adapters than clusters, they have no module in common, or a module's shapes differ.
    ValueError
        If a number is out of range.

    References
    ----------
    .. [1] R. Gabrielsson and others, Compress then Serve, arXiv 2407.00066, section 5 (clustering).

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> pairs = [(torch.randn(1, 12, generator=draw), torch.randn(10, 1, generator=draw)) for _ in range(2)]
    >>> runs = [Adapter.from_factors({"q": pairs[i % 2]}, name=str(i)) for i in range(4)]
    >>> found = clustered_diagonalization(runs, 1, (1, 2))
    >>> found.frame.cluster.nunique(), found.sizes.error.round(6).tolist()[-1]
    (2, 0.0)
    """
    rank, rounds = whole(rank, "rank", least=1), whole(rounds, "rounds", least=1)
    counts = [whole(count, "clusters", least=1) for count in clusters]
    if not counts:
        raise ValueError("clusters is empty: give the numbers of clusters to try")
    draws, size = whole(draws, "draws", least=0), whole(bytes_per_number, "bytes_per_number", least=1)
    runs = as_adapters(adapters)
    if max(counts, default=0) > len(runs):
        raise AdapterError(f"{len(runs)} adapters cannot make {max(counts)} clusters")
    members = _with_common_modules(list(runs))
    shapes = [(members[0].source(m).d_out, members[0].source(m).d_in) for m in members[0]]
    columns = [min(rank, *shape) for shape in shapes]
    bases, cores = sum(k * sum(shape) for k, shape in zip(columns, shapes, strict=True)), sum(k * k for k in columns)
    separate = sum(sum(r.source(m).rank * (r.source(m).d_in + r.source(m).d_out) for m in r) for r in members)
    generator = torch.Generator().manual_seed(whole(seed, "seed", least=0))
    nulls = [[turned_adapter(member, generator) for member in members] for _ in range(draws)]
    rows, labels, errors = [], np.zeros(len(members), dtype=int), np.zeros(len(members))
    for count in counts:
        labels, errors = _clustered(members, rank, count, rounds, seed)
        random = [_clustered(family, rank, count, rounds, seed)[1].mean() for family in nulls]
        numbers = len(np.unique(labels)) * bases + len(members) * cores
        rows.append(
            {
                "clusters": count, "error": float(errors.mean()),
                "null_error": float(np.mean(random)) if random else float("nan"), "numbers": numbers,
                "separate_numbers": separate, "ratio": numbers / separate, "bytes": numbers * size,
                "separate_bytes": separate * size, "each": cores * size,
                "separate_each": separate * size / len(members), "operations": bases + cores,
                "separate_operations": separate / len(members),
            }
        )  # fmt: skip
    frame = pd.DataFrame({"adapter": list(runs.names), "cluster": labels, "error": errors})
    settings = settings_of(
        rank=rank, clusters=counts, adapters=list(runs.names), modules=len(shapes), rounds=rounds, draws=draws,
        bytes_per_number=size, seed=seed,
    )  # fmt: skip
    return AdapterClusters(frame, pd.DataFrame(rows), settings)


def _with_common_modules(members: list[Adapter]) -> list[Adapter]:
    common = [m for m in members[0] if all(m in member for member in members)]
    common = [m for m in common if any(member[m].frobenius_norm() > 0 for member in members)]
    if not common:
        raise AdapterError("the adapters have no module in common with an update that is not zero")
    for module in common:
        common_shape(module, {f"{i}: {m.name}": m[module].shape for i, m in enumerate(members)})
    return [member.without({m: "not in all adapters" for m in member if m not in common}) for member in members]


def _clustered(members: list[Adapter], rank: int, count: int, rounds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = _farthest_first(members, count, seed)
    best = (labels, _errors(members, labels, rank)[0])
    for _ in range(rounds if count > 1 else 0):
        _, table = _errors(members, labels, rank)
        moved = table.argmin(1)
        if (moved == labels).all():
            break
        errors, _ = _errors(members, moved, rank)
        if errors.mean() >= best[1].mean():
            break
        labels, best = moved, (moved, errors)
    return best


def _farthest_first(members: list[Adapter], count: int, seed: int) -> np.ndarray:
    """Adapters to the nearest of `count` seeds, each seed the one farthest from those before, by squared cosine."""
    size = len(members)
    similar = np.zeros((size, size))
    for module in members[0]:
        pairs = [factors_of(m[module]) for m in members]
        norms = [max(updates.frobenius_norm(*pair).item(), 1e-300) for pair in pairs]
        for i in range(size):
            for j in range(i, size):
                cosine = updates.inner_product(*pairs[i], *pairs[j]).item() / norms[i] / norms[j]
                similar[i, j] = similar[j, i] = similar[i, j] + cosine**2
    seeds = [int(np.random.default_rng(seed).integers(size))]
    while len(seeds) < count:
        seeds.append(int(similar[:, seeds].max(1).argmin()))
    return similar[:, seeds].argmax(1)


def _errors(members: list[Adapter], labels: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Error of each adapter in its cluster, and in every cluster."""
    table = np.ones((len(members), labels.max() + 1))
    for cluster in np.unique(labels):
        chosen = [member for member, label in zip(members, labels, strict=True) if label == cluster]
        fit = joint_diagonalization(chosen if len(chosen) > 1 else [chosen[0], chosen[0]], rank, iterations=20)
        for index, member in enumerate(members):
            parts = []
            for module, shared in fit.modules.items():
                A, B = factors_of(member[module])
                energy = updates.frobenius_norm(A, B).item() ** 2
                core = (shared.U.double().mT @ B) @ (A @ shared.V.double())
                parts.append(1 - core.square().sum().item() / energy if energy > 0 else 0.0)
            table[index, cluster] = max(float(np.mean(parts)), 0.0)
    return table[np.arange(len(members)), labels], table
