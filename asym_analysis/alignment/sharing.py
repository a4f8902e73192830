"""How well many adapters share one pair of bases: joint diagonalization (Compress then Serve, arXiv 2407.00066).

Full: dW_i ~ U Sigma_i V^T with orthonormal U, V of k columns and a k x k core for each adapter. Diagonal: the cores are
diagonal and U, V are free. Everything is computed from the factors: dW_i V = B_i (A_i V), so that a half-step costs
O(n d r k) and no d_out x d_in matrix is formed (docs/theory.md, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import Source
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.shapes import common_shape, sharing_adapters
from asym_analysis.alignment.side_by_side import side_by_side
from asym_analysis.errors import AdapterError
from asym_analysis.results import Result, settings_of
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import whole

__all__ = ["SharedFactors", "SharedModule", "joint_diagonalization"]

Pair = tuple[Tensor, Tensor]  # A (rank, d_in) and B (d_out, rank) with its scaling folded in


@dataclass(frozen=True, eq=False, repr=False)
class SharedModule:
    """One module's shared bases, cores and errors.

    Attributes
    ----------
    U, V
        (d_out, k) and (d_in, k). Orthonormal columns in the full form.
    cores
        (adapters, k, k), or (adapters, k) in the diagonal form, of the updates scaled to Frobenius norm 1.
    norms
        ||dW_i||_F of each adapter; 0 leaves an adapter out of the fit.
    errors
        ||dW_i - U Sigma_i V^T||_F^2 / ||dW_i||_F^2; NaN for a zero update.
    history
        Captured energy, sum_i of 1 - error_i over the nonzero updates, after every half-step: it never falls.
    """

    names: tuple[str, ...]
    U: Float[Tensor, "d_out k"]
    V: Float[Tensor, "d_in k"]
    cores: Float[Tensor, "adapters *core"]
    norms: Float[np.ndarray, "adapters"]
    errors: Float[np.ndarray, "adapters"]
    history: tuple[float, ...]

    def __repr__(self) -> str:
        kept = f"U {tuple(self.U.shape)}, V {tuple(self.V.shape)}, cores {tuple(self.cores.shape)}"
        return f"SharedModule({len(self.names)} adapters, {kept})"


@dataclass(frozen=True, eq=False, repr=False)
class SharedFactors(Result):
    """Joint diagonalization of several adapters, module by module.

    Attributes
    ----------
    modules
        Module name -> `SharedModule`.
    settings
        rank, form, iterations and versions.
    frame
        One row a module and adapter. Columns:

        - adapter, module, layer, projection
        - rank: columns of the shared bases
        - norm: Frobenius norm of the update
        - error, captured: ||dW - approximation||^2 / ||dW||^2, and one less that; missing for a zero update
    """

    modules: Mapping[str, SharedModule]
    settings: Mapping[str, Any]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a module and adapter: norm of the update, error and captured = 1 - error (relative, squared)."""
        rows = [
            {"adapter": name, **place(module), "rank": self.settings["rank"]}
            | {"norm": norm, "error": error, "captured": 1 - error}
            for module, fit in self.modules.items()
            for name, norm, error in zip(fit.names, fit.norms, fit.errors, strict=True)
        ]
        columns = ["adapter", "module", "layer", "projection", "rank", "norm", "error", "captured"]
        return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})

    def summary(self) -> pd.DataFrame:
        """One row an adapter: mean and largest error over the modules.

        Returns
        -------
        DataFrame
            adapter, mean_error, largest_error.
        """
        grouped = self.frame.groupby("adapter", sort=False).error
        return pd.DataFrame({"mean_error": grouped.mean(), "largest_error": grouped.max()}).reset_index()

    def __repr__(self) -> str:
        adapters = len(self.settings["adapters"])
        form = f"{self.settings['form']}, rank {self.settings['rank']}"
        return f"SharedFactors({adapters} adapters, {len(self.modules)} modules, {form})"


def joint_diagonalization(
    adapters: AdapterSet | Adapter | Source | Iterable[Adapter | Source],
    rank: int,
    *,
    diagonal: bool = False,
    iterations: int = 100,
    tolerance: float = 1e-8,
) -> SharedFactors:
    """Fit one pair of bases of `rank` columns to the updates of all adapters, module by module.

    Updates are scaled to Frobenius norm 1 first, so that a strong adapter counts no more than a weak one. The full form
    alternates leading singular subspaces (HOOI) from the leading input directions of all adapters; it is exact where
    the ranks of the adapters sum to `rank` or less. The diagonal form alternates least squares from the strongest
    rank-one terms of all adapters.

    Parameters
    ----------
    adapters : AdapterSet, Adapter, source or iterable of these
        One or more, or anything that `load_adapters` reads; ranks may differ.
    rank : int
        Columns k of U and V; cut to the number of directions that the updates have, in the full form.
    diagonal : bool, default False
        Fit diagonal cores.
    iterations : int, default 100
        Most pairs of half-steps.
    tolerance : float, default 1e-08
        Stop when an iteration captures less than this share more of the energy.

    Returns
    -------
    SharedFactors
        See there for the columns.

    Raises
    ------
    AdapterError
        If no module is shared, one has different shapes in different adapters, or all its updates are zero.
    ValueError
        If `rank` or `iterations` is below 1.

    References
    ----------
    Brüel-Gabrielsson et al. 2024, Compress then Serve, arXiv 2407.00066; docs/theory.md, section 3.

    Examples
    --------
    >>> A, B = torch.eye(2, 8), torch.eye(4, 2)
    >>> runs = [Adapter.from_factors({"q": (A, (i + 1) * B)}, name=str(i)) for i in range(3)]
    >>> joint_diagonalization(runs, rank=2).frame.error.round(6).tolist()
    [0.0, 0.0, 0.0]
    """
    rank, iterations = whole(rank, "rank", least=1), whole(iterations, "iterations", least=1)
    runs = sharing_adapters(adapters)
    fitted = dict(
        side_by_side(lambda module: _shared(runs, module, rank, diagonal, iterations, tolerance), runs.modules)
    )
    settings = settings_of(
        adapters=list(runs.names),
        rank=rank,
        form="diagonal" if diagonal else "full",
        iterations=iterations,
        tolerance=tolerance,
    )
    return SharedFactors({module: fitted[module] for module in runs.modules}, settings)


def _shared(
    runs: AdapterSet, module: str, rank: int, diagonal: bool, iterations: int, tolerance: float
) -> SharedModule:
    names, pairs, norms = unit_updates(runs, module)
    where = [index for index, norm in enumerate(norms) if norm > 0]
    if not where:
        raise AdapterError(f"module {module}: the updates of all adapters are zero; there is nothing to share")
    kept, left, right = _compressed([pairs[index] for index in where])
    fit = _fit_diagonal if diagonal else _fit_full
    U, V, cores, history = fit(kept, rank, iterations, tolerance)
    every = cores.new_zeros((len(names), *cores.shape[1:]))
    every[where] = cores
    errors = np.full(len(names), np.nan)
    errors[where] = _errors(kept, U, V, cores)
    return SharedModule(names, left @ U, right @ V, every, np.asarray(norms), errors, history)


def _compressed(pairs: list[Pair]) -> tuple[list[Pair], Tensor, Tensor]:
    """The updates in orthonormal coordinates of the outputs and inputs that any of them has, with both bases.

    The best U and V lie in these spans, and a half-step costs the number of rows of all A in place of d_in.
    """
    right = torch.linalg.qr(torch.cat([A for A, _ in pairs]).mT).Q
    left = torch.linalg.qr(torch.cat([B for _, B in pairs], dim=1)).Q
    return [(A @ right, left.mT @ B) for A, B in pairs], left, right


def unit_updates(runs: AdapterSet, module: str) -> tuple[tuple[str, ...], list[Pair], list[float]]:
    """The updates of one module in float64, each scaled to Frobenius norm 1, with the adapters' names and the norms.

    Raises
    ------
    AdapterError
        If the shapes differ.
    """
    held = [(name, run[module]) for name, run in zip(runs.names, runs, strict=True) if module in run]
    common_shape(module, {name: update.shape for name, update in held})
    pairs, norms = [], []
    for _, update in held:
        A, B = update.A.double(), update.scaling * update.B.double()
        norm = updates.frobenius_norm(A, B).item()
        pairs.append((A, B / norm if norm > 0 else B))
        norms.append(norm)
    return tuple(name for name, _ in held), pairs, norms


def _leading(columns: Tensor, rank: int) -> Tensor:
    """Leading left singular vectors, from the smaller of the two Gram matrices."""
    if columns.shape[0] <= columns.shape[1]:
        _, vectors = torch.linalg.eigh(columns @ columns.mT)
        return vectors[:, -rank:].flip(1)
    # Householder QR first: squaring the condition number would lose the weak directions.
    q, upper = torch.linalg.qr(columns)
    left, _, _ = torch.linalg.svd(upper)
    return q @ left[:, :rank]


def _fit_full(
    pairs: list[Pair], rank: int, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, tuple[float, ...]]:
    k = min(rank, pairs[0][0].shape[1], pairs[0][1].shape[0])
    # The input side of each update carries its singular values, so that the start is the best V by itself.
    V = _leading(torch.cat([_weighted_rows(A, B).mT for A, B in pairs], dim=1), k)
    history: list[float] = []
    for _ in range(iterations):
        U = _leading(torch.cat([B @ (A @ V) for A, B in pairs], dim=1), k)
        inputs = torch.cat([A.mT @ (B.mT @ U) for A, B in pairs], dim=1)
        history.append(sum((U.mT @ B @ (A @ V)).square().sum().item() for A, B in pairs))
        V = _leading(inputs, k)
        k = min(k, V.shape[1])
        history.append(sum((U.mT @ B @ (A @ V)).square().sum().item() for A, B in pairs))
        if len(history) > 2 and history[-1] - history[-3] < tolerance * history[-1]:
            break
    cores = torch.stack([(U.mT @ B) @ (A @ V) for A, B in pairs])
    return U, V, cores, tuple(history)


def _weighted_rows(A: Tensor, B: Tensor) -> Tensor:
    """diag(S) Vh of B A: its rows span the inputs, with their strength."""
    _, S, Vh = updates.thin_svd(A, B)
    return S[:, None] * Vh


def _fit_diagonal(
    pairs: list[Pair], rank: int, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, tuple[float, ...]]:
    terms = [updates.thin_svd(A, B) for A, B in pairs]
    strength = torch.cat([S for _, S, _ in terms])
    order = strength.argsort(descending=True)[:rank]
    U = torch.cat([left for left, _, _ in terms], dim=1)[:, order]
    V = torch.cat([right.mT for _, _, right in terms], dim=1)[:, order]
    history: list[float] = []
    total = float(len(pairs))
    cores = _diagonal_cores(pairs, U, V)
    for _ in range(iterations):
        outputs = sum(B @ (A @ (V * core)) for (A, B), core in zip(pairs, cores, strict=True))
        U = _solved((V.mT @ V) * (cores.mT @ cores), outputs)
        history.append(total - _errors(pairs, U, V, cores).sum())
        inputs = sum(A.mT @ (B.mT @ (U * core)) for (A, B), core in zip(pairs, cores, strict=True))
        V = _solved((U.mT @ U) * (cores.mT @ cores), inputs)
        # Lengths belong in the cores alone, or U, V and the cores drift apart in scale.
        U, V = (x / torch.linalg.vector_norm(x, dim=0).clamp_min(torch.finfo(x.dtype).tiny) for x in (U, V))
        cores = _diagonal_cores(pairs, U, V)
        history.append(total - _errors(pairs, U, V, cores).sum())
        if len(history) > 2 and history[-1] - history[-3] < tolerance * history[-1]:
            break
    return U, V, cores, tuple(history)


def _diagonal_cores(pairs: list[Pair], U: Tensor, V: Tensor) -> Tensor:
    """Least-squares diagonal cores for given U and V."""
    right = torch.stack([((U.mT @ B).mT * (A @ V)).sum(0) for A, B in pairs])
    return _solved((U.mT @ U) * (V.mT @ V), right)


def _solved(gram: Tensor, rows: Tensor) -> Tensor:
    """Rows times the pseudo-inverse of a symmetric Gram matrix."""
    return rows @ torch.linalg.pinv(gram, hermitian=True, rtol=1e-12)


def _errors(pairs: list[Pair], U: Tensor, V: Tensor, cores: Tensor) -> Float[np.ndarray, "adapters"]:
    """||dW_i - U Sigma_i V^T||^2 of unit updates, from the factors side by side, without cancellation."""
    errors = []
    for (A, B), core in zip(pairs, cores, strict=True):
        left = U @ core if core.ndim == 2 else U * core
        errors.append(updates.frobenius_norm(torch.cat([A, V.mT]), torch.cat([B, -left], dim=1)).item() ** 2)
    return np.asarray(errors)
