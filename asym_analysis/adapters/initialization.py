"""What the factors started from, told from the files alone: which began at random, and who began from the same one.

A moves little in training, so that two runs with the same seed keep similar A however different their tasks are: a
shared initialization explains the similarity, and a comparison has to know of it.

The test. Each factor F (rank x d) is replaced by its polar factor (F F^T)^{-1/2} F, whose rows are orthonormal: the
few directions along which a factor grew count no more than those where it still is what it was. Let K = F_i F_j^T for
two adapters. Training treats the rows of a factor alike: permuting them or changing their signs permutes and changes
what is trained, for SGD and for Adam, and a random start is as likely as its permuted, sign-changed copy. Between
independent starts every entry of K therefore has mean zero and one spread, on and off the diagonal, whatever the two
runs learned. With a shared start row k of one still resembles row k of the other: only the diagonal is large. The
cosine tr K / rank is compared with the standard deviation that the entries off the diagonal show, never with less than
1/sqrt(rank d), its value for independent entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.results import Result, versions

__all__ = ["SharedInitialization", "random_factors", "same_start", "shared_initialization"]

DEVIATIONS = 6.0  # of the null; two-sided p = 2e-9, so that half a million comparisons give no false mark
LEAST_COSINE = 0.1  # a factor that moved three times its own length from a shared start still keeps this much
LEAST_COSINE_RANK_ONE = 0.5  # one row has no off-diagonal entries to measure the null by
BLOCK = 64  # adapters whose rows are multiplied with all others at once
FLAT = 0.6  # participation of the singular values above which a factor may have begun at random
MOST_MODULES = 12  # read to judge an adapter's spectra; a training run begins all its modules in one way


def same_start(
    factors: Float[Tensor, "adapters rank d"],
) -> tuple[Float[Tensor, "adapters adapters"], Bool[Tensor, "adapters adapters"]]:
    """Say which factors of one module began from the same random factor, and give their cosines.

    Parameters
    ----------
    factors
        A of several adapters as (rank, d_in), or B^T as (rank, d_out), all of one shape.

    Returns
    -------
    cosine, shared
        `shared` is true where the cosine exceeds 6 standard deviations of its null (the module's docstring) and 0.1
        (0.5 for rank 1, which offers no null of its own). A zero factor has cosine NaN and shares nothing.

    Examples
    --------
    >>> start = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    >>> other, move = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(1))
    >>> cosine, shared = same_start(torch.stack([start, start + 0.5 * move, other]))
    >>> shared[0].tolist()
    [True, True, False]
    """
    count, rank, size = factors.shape
    rows = _polar(factors)
    flat = rows.reshape(count, -1) / rank**0.5
    cosine = flat @ flat.mT
    zero = ~factors.flatten(1).any(1)
    cosine[zero], cosine[:, zero] = torch.nan, torch.nan
    least = max(DEVIATIONS / (rank * size) ** 0.5, LEAST_COSINE if rank > 1 else LEAST_COSINE_RANK_ONE)
    candidate = cosine > least  # False for NaN
    shared = torch.zeros_like(candidate)
    for first in range(0, count if candidate.any() else 0, BLOCK):
        block = rows[first : first + BLOCK]
        crossed = (block.flatten(0, 1) @ rows.flatten(0, 1).mT).square().reshape(len(block), rank, count, rank)
        diagonal = crossed.diagonal(dim1=1, dim2=3).sum(-1)
        # rank times the mean square of the rank (rank - 1) entries off the diagonal: the variance of the trace
        variance = (crossed.sum((1, 3)) - diagonal).clamp_min(0) / max(rank - 1, 1)
        above = cosine[first : first + BLOCK] > DEVIATIONS * variance.sqrt() / rank
        shared[first : first + BLOCK] = candidate[first : first + BLOCK] & above
    shared.diagonal().copy_(~zero)
    return cosine, shared


def _polar(factors: Float[Tensor, "adapters rank d"]) -> Float[Tensor, "adapters rank d"]:
    """(F F^T)^{-1/2} F of each factor; directions without length stay out."""
    values, vectors = torch.linalg.eigh((factors @ factors.mT).double())
    kept = values > 1e-10 * values[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    inverse = torch.where(kept, values.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
    return ((vectors * inverse[:, None, :]) @ vectors.mT).to(factors) @ factors


def random_factors(adapter: Adapter) -> frozenset[str]:
    """Say which factors began at random: {"A"} for the usual LoRA, {"B"} or {"A", "B"} for other schemes.

    Recorded initial factors decide where there are some: those that are not zero began at random. Otherwise the spectra
    do. A factor that began at zero holds the gradients' few directions; one that began at random keeps nearly equal
    singular values. The participation (sum s^2)^2 / (rank sum s^4), at most 1, is taken as a median over modules.
    A began at random unless the participation of B is the higher and above 0.6; both did where both are above 0.6 and
    B's is at least 0.9 of A's.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> start, ones = torch.randn(4, 64, generator=generator), torch.ones(32, 4)
    >>> sorted(random_factors(Adapter.from_factors({"q": (start, ones)})))
    ['A']
    """
    source = adapter.initial if adapter.initial is not None else adapter
    names = list(source)
    updates = [source[module] for module in names[:: math.ceil(len(names) / MOST_MODULES) or 1]]
    if adapter.initial is not None:
        begun = {"A": any(bool(u.A.any()) for u in updates), "B": any(bool(u.B.any()) for u in updates)}
        return frozenset(factor for factor, random in begun.items() if random)
    return _flat_factors(updates)


def _flat_factors(updates: Iterable[LowRankUpdate]) -> frozenset[str]:
    flatness = [(_participation(u.A), _participation(u.B.mT)) for u in updates if u.rank > 1]
    if not flatness:
        return frozenset({"A"})
    of_A, of_B = np.median(np.asarray(flatness), axis=0)
    if of_A >= FLAT and of_B >= max(FLAT, 0.9 * of_A):
        return frozenset({"A", "B"})
    return frozenset({"B"}) if of_B > of_A and of_B >= FLAT else frozenset({"A"})


def _participation(factor: Tensor) -> float:
    gram = factor @ factor.mT
    total = gram.diagonal().sum()
    if total <= 0:
        return 0.0
    gram = gram / total
    return 1.0 / (len(gram) * gram.square().sum().item())


@dataclass(frozen=True, eq=False)
class SharedInitialization(Result):
    """Who began from the same random factor, module by module.

    Attributes
    ----------
    names
        The adapters, in order.
    cosines, marks
        (module, factor) -> adapters x adapters: the cosine of `same_start` (NaN where the factor did not begin at
        random in both, or the shapes differ) and whether the start is shared. Factors that no pair can share are left
        out.
    sizes
        (module, factor) -> rank x d of each adapter's factor, 0 where it has none to compare.
    settings
        How the test was made.
    """

    names: tuple[str, ...]
    cosines: Mapping[tuple[str, str], Float[np.ndarray, "adapters adapters"]]
    marks: Mapping[tuple[str, str], Bool[np.ndarray, "adapters adapters"]]
    sizes: Mapping[tuple[str, str], tuple[int, ...]]
    settings: Mapping[str, Any]

    def shared(self, module: str, factor: str | None = None) -> Bool[np.ndarray, "adapters adapters"]:
        """True where two adapters began from the same A (factor="A") or B, by default from the same A or the same B."""
        factors = ("A", "B") if factor is None else (factor,)
        found = np.zeros((len(self.names),) * 2, dtype=bool)
        for name in factors:
            found |= self.marks.get((module, name), False)
        return found

    @cached_property
    def agreement(self) -> Float[np.ndarray, "adapters adapters"]:
        """Share of the modules comparable between two adapters in which they began from the same factor."""
        same = np.zeros((len(self.names),) * 2)
        comparable = np.zeros_like(same)
        for key, cosine in self.cosines.items():
            comparable += np.isfinite(cosine)
            same += self.marks[key]
        return np.divide(same, comparable, out=np.zeros_like(same), where=comparable > 0)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Groups of two or more adapters, linked where they share their start in at least half of the modules."""
        return self._components(self.agreement >= 0.5)

    def groups_of(self, module: str, factor: str | None = None) -> tuple[tuple[str, ...], ...]:
        """Groups of two or more adapters that share their start in one module."""
        return self._components(self.shared(module, factor))

    def _components(self, linked: Bool[np.ndarray, "adapters adapters"]) -> tuple[tuple[str, ...], ...]:
        from scipy.sparse.csgraph import connected_components

        _, labels = connected_components(linked, directed=False)
        members = [
            [name for name, own in zip(self.names, labels, strict=True) if own == label] for label in set(labels)
        ]
        return tuple(
            sorted((tuple(group) for group in members if len(group) > 1), key=lambda g: self.names.index(g[0]))
        )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a pair, module and factor that began at random in both: cosine, null_std = 1/sqrt(rank d), shared."""
        upper = np.triu_indices(len(self.names), 1)
        names = np.asarray(self.names, dtype=object)
        parts = []
        for (module, factor), cosine in self.cosines.items():
            values = cosine[upper]
            keep = np.isfinite(values)
            first, second = upper[0][keep], upper[1][keep]
            entries = np.asarray(self.sizes[module, factor])[first]
            part = pd.DataFrame({"adapter_i": names[first], "adapter_j": names[second], **place(module)})
            part["factor"] = factor
            part["cosine"] = values[keep].astype(float)
            part["null_std"] = entries**-0.5
            part["shared"] = self.marks[module, factor][first, second]
            parts.append(part)
        columns = ["adapter_i", "adapter_j", "module", "layer", "projection", "factor", "cosine", "null_std", "shared"]
        whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
        return whole.astype({"layer": "Int64"})

    def summary(self) -> pd.DataFrame:
        """One row a group: the adapters and the least share of modules on which a pair of them agrees."""
        rows = []
        for group in self.groups:
            members = [self.names.index(name) for name in group]
            within = self.agreement[np.ix_(members, members)]
            rows.append((", ".join(group), len(group), within[np.triu_indices(len(members), 1)].min()))
        return pd.DataFrame(rows, columns=["adapters", "count", "least_share_of_modules"])


def shared_initialization(adapters: AdapterSet | Iterable[Adapter]) -> SharedInitialization:
    """Find the adapters that began from the same random A (or B, where B began at random), from the files alone.

    Recorded initial factors stand in for the trained ones where an adapter has them. Only factors of one shape are
    compared. The test is the one of `same_start`; a rank above 1 and rank x d above about 100 let it see shared starts
    after a movement of 70 percent.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> start, other = torch.randn(2, 4, 64, generator=generator)
    >>> run = lambda name, A: Adapter.from_factors({"q": (A, torch.ones(16, 4))}, name=name)
    >>> shared_initialization([run("a", start), run("b", start), run("c", other)]).groups
    (('a', 'b'),)
    """
    runs = adapters if isinstance(adapters, AdapterSet) else AdapterSet(adapters)
    sources = [adapter.initial if adapter.initial is not None else adapter for adapter in runs]
    begun = [random_factors(adapter) for adapter in runs]
    cosines: dict[tuple[str, str], np.ndarray] = {}
    marks: dict[tuple[str, str], np.ndarray] = {}
    sizes: dict[tuple[str, str], tuple[int, ...]] = {}
    for module in runs.modules:
        held = {index: source[module] for index, source in enumerate(sources) if module in source}
        for factor in ("A", "B"):
            rows = {
                index: update.A if factor == "A" else update.B.mT
                for index, update in held.items()
                if factor in begun[index]
            }
            if len(rows) > 1:
                cosines[module, factor], marks[module, factor] = _compare(rows, len(runs))
                sizes[module, factor] = tuple(rows[i].numel() if i in rows else 0 for i in range(len(runs)))
    settings = {
        "null_standard_deviations": DEVIATIONS,
        "least_cosine": LEAST_COSINE,
        "least_cosine_rank_one": LEAST_COSINE_RANK_ONE,
        "random_factors": {name: sorted(factors) for name, factors in zip(runs.names, begun, strict=True)},
        "recorded": [name for name, run in zip(runs.names, runs, strict=True) if run.initial is not None],
        "versions": versions(),
    }
    return SharedInitialization(runs.names, cosines, marks, sizes, settings)


def _compare(rows: Mapping[int, Tensor], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Compare the factors of one module among all `count` adapters, shape by shape."""
    cosine = np.full((count, count), np.nan, dtype=np.float32)
    shared = np.zeros((count, count), dtype=bool)
    for shape in {tuple(factor.shape) for factor in rows.values()}:
        members = [index for index, factor in rows.items() if tuple(factor.shape) == shape]
        of_pairs, same = same_start(torch.stack([rows[index].float() for index in members]))
        grid = np.ix_(members, members)
        cosine[grid], shared[grid] = of_pairs.numpy(), same.numpy()
    return cosine, shared
