"""One A for all experts? A thousand adapters in how many bytes? Energy in shared spaces, by expert and by cluster."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.load import as_adapter, as_adapters
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.sharing import joint_diagonalization
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import factors_of, row_basis, table_of
from asym_analysis.results import Result, TableResult, settings_of
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import whole

__all__ = ["AdapterClusters", "ExpertSharing", "MeanAdapterBaseline", "clustered_diagonalization", "expert_sharing",
           "mean_adapter_baseline"]  # fmt: skip

EXPERT = re.compile(r"^(?P<before>.*\bexperts?)\.(?P<number>\d+)\.(?P<after>.+)$")


class ExpertSharing(TableResult):
    """Energy of the experts' factors in one shared space.

    Attributes
    ----------
    frame
        One row a group of experts, factor and rank:

        - group: the experts' common name; layer, projection; experts: their number
        - factor: "A" (row spaces) or "B" (column spaces)
        - rank: dimension k of the shared space
        - energy: share of the experts' energy, each scaled to 1, in their best common space of that dimension
        - null_mean, null_std: of random directions with each expert's own singular values
        - parameters, shared_parameters: numbers of the separate factors, and of one shared factor of width k with an
          r x k core for each expert
    settings
        draws, seed, adapter, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_expert_sharing"

    def summary(self) -> pd.DataFrame:
        """Medians over the groups, one row a factor and rank.

        Returns
        -------
        DataFrame
            `factor, rank, energy, null_mean, parameters, shared_parameters`.
        """
        columns = ["energy", "null_mean", "parameters", "shared_parameters"]
        return self.frame.groupby(["factor", "rank"], sort=False)[columns].median().reset_index()


def expert_sharing(
    adapter: Any, ranks: tuple[int, ...] = (4, 8, 16), *, draws: int = 20, seed: int = 0
) -> ExpertSharing:
    """Measure how much of the experts of one adapter lies in a space that they could share.

    Parameters
    ----------
    adapter : Adapter or source
        An adapter of a mixture of experts: modules named `...experts.N...`.
    ranks : tuple of int, optional
        Dimensions of the shared space.
    draws : int, default 20
        Random families for the null distribution.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    ExpertSharing
        With the numbers that sharing would save.

    Raises
    ------
    AdapterError
        If no two modules are experts of one place.

    References
    ----------
    .. [1] MALoRA: Mixture of asymmetric low-rank adaptation, arXiv 2410.22782.
    .. [2] HydraLoRA, arXiv 2404.19245.

    Examples
    --------
    >>> A = torch.eye(2, 8)
    >>> modules = {f"layers.0.experts.{i}.up": (A, torch.randn(6, 2)) for i in range(3)}
    >>> found = expert_sharing(Adapter.from_factors(modules), (2,), draws=5).frame
    >>> found.loc[found.factor == "A", "energy"].round(6).tolist()
    [1.0]
    """
    read = as_adapter(adapter)
    groups: dict[str, list[str]] = defaultdict(list)
    for module in read:
        match = EXPERT.match(module)
        if match:
            groups[f"{match['before']}.*.{match['after']}"].append(module)
    groups = {name: members for name, members in groups.items() if len(members) > 1}
    if not groups:
        raise AdapterError(f"{read.name} has no experts: no two modules are named ...experts.N...")
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for name, members in groups.items():
        for factor in ("A", "B"):
            pairs = [factors_of(read[module]) for module in members]
            scaled = [_unit(a if factor == "A" else b.mT) for a, b in pairs]
            d, own = scaled[0].shape[1], sum(part.numel() for part in scaled)
            energies = _energies(scaled)
            nulls = np.stack([_energies([_turned(part, generator) for part in scaled]) for _ in range(draws)])
            for rank in ranks:
                k = min(whole(rank, "ranks", least=1), len(energies))
                rows.append(
                    {
                        "group": name, **{key: place(members[0])[key] for key in ("layer", "projection")},
                        "experts": len(members), "factor": factor, "rank": rank, "energy": energies[k - 1],
                        "null_mean": nulls[:, k - 1].mean(), "null_std": nulls[:, k - 1].std(ddof=1),
                        "parameters": own, "shared_parameters": k * d + sum(len(part) * k for part in scaled),
                    }
                )  # fmt: skip
    return ExpertSharing(table_of(rows, {}, "sharing"), settings_of(adapter=read.name, draws=draws, seed=seed))


@dataclass(frozen=True, eq=False, repr=False)
class AdapterClusters(Result):
    """Clusters of adapters that share a basis each.

    Attributes
    ----------
    frame
        One row an adapter: adapter, cluster, error (mean relative squared error over its modules).
    sizes
        One row a number of clusters tried: clusters, error (mean over adapters), numbers (bases and cores of all
        clusters), separate_numbers (factors of all adapters), ratio.
    settings
        rank, clusters, adapters, seed, versions.
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
    adapters: Any, rank: int, clusters: tuple[int, ...] = (1, 2, 4), *, rounds: int = 5, seed: int = 0
) -> AdapterClusters:
    """Share one pair of bases in each cluster of adapters: error against numbers stored.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Three or more adapters of one base.
    rank : int
        Columns of the shared bases.
    clusters : tuple of int, optional
        Numbers of clusters to try; the frame is of the last.
    rounds : int, default 5
        Rounds of assignment and fitting.
    seed : int, default 0
        Of the initial assignment.

    Returns
    -------
    AdapterClusters
        Adapters go to the cluster whose bases represent them best; the error never rises over the rounds kept.

    Raises
    ------
    AdapterError
        If there are fewer adapters than clusters.

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
    runs = as_adapters(adapters)
    members = list(runs)
    if max(clusters) > len(members):
        raise AdapterError(f"{len(members)} adapters cannot make {max(clusters)} clusters")
    rows, labels, errors = [], np.zeros(len(members), dtype=int), np.zeros(len(members))
    separate = sum(sum(r.source(m).rank * (r.source(m).d_in + r.source(m).d_out) for m in r) for r in members)
    for count in clusters:
        labels, errors = _clustered(members, rank, count, rounds, seed)
        used = len(np.unique(labels))
        bases = sum(rank * (members[0].source(m).d_in + members[0].source(m).d_out) for m in members[0])
        numbers = used * bases + len(members) * len(members[0]) * rank * rank
        rows.append(
            {
                "clusters": count, "error": float(errors.mean()), "numbers": numbers, "separate_numbers": separate,
                "ratio": numbers / separate,
            }
        )  # fmt: skip
    frame = pd.DataFrame({"adapter": list(runs.names), "cluster": labels, "error": errors})
    settings = settings_of(rank=rank, clusters=list(clusters), adapters=list(runs.names), rounds=rounds, seed=seed)
    return AdapterClusters(frame, pd.DataFrame(rows), settings)


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


class MeanAdapterBaseline(TableResult):
    """How much of each adapter the mean of the others already explains, beside the best common space.

    Attributes
    ----------
    frame
        One row a module and adapter:

        - adapter, module, layer, projection
        - by_mean: share of ||dW_i||^2 along the mean of the other adapters' updates (one direction)
        - by_mean_space: share within the row and column spaces of that mean, cut to `rank`
        - by_shared_space: share within the `rank` leading common input directions of the others
        - random_share: of a random space of that dimension, rank/d_in
        - noise_edge: largest eigenvalue that independent random adapters would show, over the number of adapters
          (Marchenko and Pastur)
        - top_eigenvalue: the largest eigenvalue of the mean of the adapters' input projectors
    settings
        rank, adapters, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_mean_baseline"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules, one row an adapter.

        Returns
        -------
        DataFrame
            `adapter, by_mean, by_mean_space, by_shared_space, random_share, top_eigenvalue, noise_edge`.
        """
        columns = ["by_mean", "by_mean_space", "by_shared_space", "random_share", "top_eigenvalue", "noise_edge"]
        return self.frame.groupby("adapter", sort=False)[columns].median().reset_index()


def mean_adapter_baseline(adapters: Any, rank: int = 8) -> MeanAdapterBaseline:
    """Hold every shared-subspace claim against the mean of the other adapters, and against random adapters.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Three or more adapters of one base.
    rank : int, default 8
        Dimension of the spaces.

    Returns
    -------
    MeanAdapterBaseline
        Leave-one-out: an adapter never helps to explain itself.

    Raises
    ------
    AdapterError
        If there are fewer than three adapters.

    References
    ----------
    .. [1] The universal weight subspace hypothesis, arXiv 2512.05117.
    .. [2] docs/theory.md, section 4.2; V. Marchenko, L. Pastur, Math. USSR Sbornik 1, 457 (1967).

    Examples
    --------
    >>> A, B = torch.eye(2, 8), torch.eye(6, 2)
    >>> runs = [Adapter.from_factors({"q": (A, B)}, name=str(i)) for i in range(3)]
    >>> mean_adapter_baseline(runs, 2).frame[["by_mean", "by_shared_space"]].round(6).values.tolist()[0]
    [1.0, 1.0]
    """
    runs = as_adapters(adapters)
    if len(runs) < 3:
        raise AdapterError("a leave-one-out mean needs at least three adapters")
    rank = whole(rank, "rank", least=1)
    rows = []
    for module in runs.modules:
        held = [(name, factors_of(run[module])) for name, run in zip(runs.names, runs, strict=True) if module in run]
        if len(held) < 3:
            continue
        bases = [row_basis(A) for _, (A, _) in held]
        d = bases[0].shape[1]
        top = torch.linalg.svdvals(torch.cat(bases)).square()[0].item() / len(held)
        ratio = sum(len(basis) for basis in bases) / d
        edge = (1 + ratio**0.5) ** 2 / len(held)
        for index, (name, (A, B)) in enumerate(held):
            others = [pair for j, (_, pair) in enumerate(held) if j != index]
            rows.append(
                {
                    "adapter": name, **place(module), **_explained(A, B, others, rank),
                    "random_share": min(rank / d, 1.0), "noise_edge": min(edge, 1.0), "top_eigenvalue": top,
                }
            )  # fmt: skip
    return MeanAdapterBaseline(
        table_of(rows, {}, "the mean's share"), settings_of(rank=rank, adapters=list(runs.names))
    )


def _explained(A: Tensor, B: Tensor, others: list[tuple[Tensor, Tensor]], rank: int) -> dict[str, float]:
    energy = updates.inner_product(A, B, A, B).item()
    if energy <= 0:
        return dict.fromkeys(("by_mean", "by_mean_space", "by_shared_space"), float("nan"))
    A_mean, B_mean = torch.cat([a for a, _ in others]), torch.cat([b for _, b in others], dim=1) / len(others)
    size = updates.inner_product(A_mean, B_mean, A_mean, B_mean).item()
    along = updates.inner_product(A, B, A_mean, B_mean).item() ** 2 / size if size > 0 else 0.0
    U, _, Vh = updates.thin_svd(A_mean, B_mean)
    inside = ((U[:, :rank].mT @ B) @ (A @ Vh[:rank].mT)).square().sum().item()
    scaled = torch.cat([_unit(a) for a, _ in others])
    shared = torch.linalg.svd(scaled, full_matrices=False).Vh[:rank]
    common = updates.frobenius_norm(A @ shared.mT @ shared, B).item() ** 2
    return {"by_mean": along / energy, "by_mean_space": inside / energy, "by_shared_space": common / energy}


def _unit(factor: Tensor) -> Tensor:
    norm = factor.norm()
    return factor / norm if norm > 0 else factor


def _energies(parts: list[Tensor]) -> np.ndarray:
    """Share of the energy in the best common space of each dimension."""
    values = torch.linalg.svdvals(torch.cat(parts)).square().numpy()
    return np.cumsum(values) / max(values.sum(), np.finfo(float).tiny)


def _turned(factor: Tensor, generator: torch.Generator) -> Tensor:
    """The same singular values in random directions."""
    rank, d = factor.shape
    strengths = torch.linalg.svdvals(factor)
    directions = torch.linalg.qr(torch.randn(d, min(rank, d), generator=generator, dtype=torch.float64))[0]
    return strengths[:, None] * directions.mT
