"""Will merging these hurt, and what mends it? Errors of a merge on the adapters' own inputs, and the best merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import as_adapters
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import Moments, additive, by_projection, factors_of, moment_of, row_basis, table_of
from asym_analysis.results import TableResult, settings_of
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import finite

__all__ = ["MergeCompensation", "best_merge", "merge_adapters", "merge_compensation"]


class MergeCompensation(TableResult):
    """What a weighted sum of adapters loses of each, before and after mending, beside the best update there is.

    An error is the mean over the adapters of E||(merged - dW_i) x||^2 / E||dW_i x||^2 on inputs x of adapter i: 0 where
    each adapter acts as before on its own inputs, 1 where it is as if there were none. Without moments the inputs of an
    adapter are the directions that it reads, all alike.

    Attributes
    ----------
    frame
        One row a module:

        - module, layer, projection, adapters
        - error: of the merge as it is
        - error_orthogonal: of adapters that read different inputs, mean of (1 - w_i)^2
        - scale, error_scaled: the best single factor for the merge, and the error with it
        - error_weighted: with the best weight for each adapter
        - error_optimum: of the best update of any rank, `best_merge`; no merge of any kind has less
        - retained_before, retained_after: mean over adapters of <merged, dW_i>/||dW_i||^2, without and with the scale
        - gap: sum of the merged update's singular values over the mean of the adapters' own sums
        - orthogonal_gap: the same if the adapters were orthogonal to each other, sum_i w_i ||dW_i||_* over the mean
        - direction_cosine: mean over adapters of the cosine between the merged update's leading input direction and the
          adapter's row space; direction_null: of a random direction, root mean square
    settings
        adapters, weights, with_inputs, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_merge_compensation"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules of each projection.

        Returns
        -------
        DataFrame
            `projection`, then `error, error_orthogonal, scale, error_scaled, error_weighted, error_optimum,
            retained_before, gap, orthogonal_gap`.
        """
        columns = ["error", "error_orthogonal", "scale", "error_scaled", "error_weighted", "error_optimum",
                   "retained_before", "gap", "orthogonal_gap"]  # fmt: skip
        return by_projection(self.frame, columns)


def merge_compensation(
    adapters: Any, weights: Sequence[float] | None = None, *, moments: Sequence[Moments] | None = None
) -> MergeCompensation:
    """Measure what a merge of adapters loses of each of them, what scales would mend, and the least any merge loses.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Two or more adapters of one base: an `AdapterSet`, adapters, or sources.
    weights : sequence of float, optional
        Weight of each update in the merge; by default 1/N each, the mean.
    moments : sequence of mappings, optional
        For each adapter, module -> second moment of its inputs on that adapter's task.

    Returns
    -------
    MergeCompensation
        The quantities are named by what they compute; they are not the coefficients of a published method.

    Raises
    ------
    AdapterError
        If fewer than two adapters share a module, or its shapes differ.
    ValueError
        If there is not one weight, or one mapping of moments, for each adapter.

    Notes
    -----
    A module counts over the adapters that have it and whose update is not zero.

    Without moments `error_scaled`, `error_weighted` and `error_optimum` hold for inputs that lie in the directions that
    one adapter reads and the others hardly touch. Real inputs do not: of four shipped adapters of one encoder
    (independent initializations; MRPC, SST-2 and STS-B, share of the gain that is lost) the mean loses .37, the mean
    with the best scale of the files .52, the sum .89 and `best_merge` of the files .96, where the files alone say .57,
    .15, .19 and 0. With moments of each task's inputs the errors are .80, .79 (scaled), 3.8 (sum) and .47 (best merge),
    and the losses .37, .44, .89 and .28: the order is right, and the best merge is better than the mean
    (benchmarks/minilm/merging.py).

    References
    ----------
    .. [1] X. Jin and others, Dataless knowledge fusion by merging weights of language models, arXiv 2212.09849: the
       best update has the closed form of `best_merge` when moments are given.

    Examples
    --------
    >>> pairs = [(torch.eye(4)[i : i + 1], torch.eye(3)[:, i : i + 1]) for i in range(2)]
    >>> runs = [Adapter.from_factors({"q": pair}, name=str(i)) for i, pair in enumerate(pairs)]
    >>> merge_compensation(runs).frame[["error", "scale", "error_scaled", "error_optimum"]].values.tolist()
    [[0.25, 2.0, 0.0, 0.0]]
    """
    runs = as_adapters(adapters)
    shares = _shares(runs, weights, 1 / max(len(runs), 1))
    rows = []
    for module in runs.modules:
        held = _held(runs, module, moments)
        if held is not None and len(held.pairs) > 1:
            found = _merge_row(held, [shares[i] for i in held.members])
            rows.append({**place(module), "adapters": len(held.pairs), **found})
    settings = settings_of(adapters=list(runs.names), weights=shares, with_inputs=moments is not None)
    return MergeCompensation(
        table_of(rows, {}, "merging", "no module is in two or more of the adapters with an update that is not zero"),
        settings,
    )


def merge_adapters(adapters: Any, weights: Sequence[float] | None = None, *, name: str = "merged") -> Adapter:
    """Add adapters: their factors laid side by side, so that the sum is exact.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Adapters of one base.
    weights : sequence of float, optional
        Weight of each update; by default 1 each, the sum.
    name : str, default "merged"
        Of the new adapter.

    Returns
    -------
    Adapter
        Its rank in a module is the sum of the adapters' ranks. Trained heads are left out.

    Raises
    ------
    AdapterError
        If the shapes of a module differ.
    ValueError
        If there is not one weight for each adapter.

    Examples
    --------
    >>> runs = [Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))}, name=str(i)) for i in range(2)]
    >>> merge_adapters(runs, [1.0, 2.0])["q"].delta().tolist()
    [[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]]
    """
    runs = as_adapters(adapters)
    shares = _shares(runs, weights, 1.0)
    pairs = {}
    for module in dict.fromkeys(module for run in runs for module in run):
        members, factors = _factors(runs, module)
        parts = [shares[i] * b for i, (_, b) in zip(members, factors, strict=True)]
        pairs[module] = (torch.cat([a for a, _ in factors]), torch.cat(parts, dim=1))
    return Adapter.from_factors(pairs, name=name)


def best_merge(adapters: Any, *, moments: Sequence[Moments] | None = None, name: str = "best merge") -> Adapter:
    """Find the one update that acts most like each adapter on that adapter's own inputs.

    It minimizes the mean over i of E||(X - dW_i) x||^2 / E||dW_i x||^2: X = (sum_i dW_i S_i)(sum_i S_i)^+, with S_i the
    second moment of adapter i's inputs divided by E||dW_i x||^2; without moments, S_i projects on the directions that
    adapter i reads.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Adapters of one base.
    moments : sequence of mappings, optional
        For each adapter, module -> second moment of its inputs on that adapter's task. Give them: without, the result
        is for inputs that real ones do not resemble, see the notes of `merge_compensation`.
    name : str, default "best merge"
        Of the new adapter.

    Returns
    -------
    Adapter
        Its rank in a module is the sum of the adapters' ranks; `truncate` cuts it. Trained heads are left out.

    Raises
    ------
    AdapterError
        If the shapes of a module differ, or a moment is missing.
    ValueError
        If there is not one mapping of moments for each adapter.

    References
    ----------
    .. [1] X. Jin and others, Dataless knowledge fusion by merging weights of language models, arXiv 2212.09849.

    Examples
    --------
    >>> pairs = [(torch.eye(4)[i : i + 1], torch.eye(3)[:, i : i + 1]) for i in range(2)]
    >>> runs = [Adapter.from_factors({"q": pair}, name=str(i)) for i, pair in enumerate(pairs)]
    >>> best_merge(runs)["q"].delta().tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    runs = as_adapters(adapters)
    pairs = {}
    for module in dict.fromkeys(module for run in runs for module in run):
        held = _held(runs, module, moments)
        if held is not None:
            A = held.stacked @ _inverse(held.total) @ held.directions
            pairs[module] = (A, torch.cat([b for _, b in held.pairs], dim=1))
    if not pairs:
        raise AdapterError("every update is zero: there is nothing to merge")
    return Adapter.from_factors(pairs, name=name)


@dataclass(frozen=True)
class _Held:
    """The nonzero updates of a module, in coordinates along `directions`, with the moments of their inputs."""

    members: list[int]
    pairs: list[tuple[Tensor, Tensor]]
    directions: Float[Tensor, "k d_in"]
    coordinates: list[Float[Tensor, "_rank k"]]
    moments: list[Float[Tensor, "k k"]]  # each over E||dW_i x||^2

    @property
    def total(self) -> Float[Tensor, "k k"]:
        return torch.stack(self.moments).sum(0)

    @property
    def stacked(self) -> Float[Tensor, "ranks k"]:
        """A_i S_i below each other: sum_i dW_i S_i is the B_i side by side times this."""
        return torch.cat([a @ S for a, S in zip(self.coordinates, self.moments, strict=True)])


def _factors(runs: AdapterSet, module: str) -> tuple[list[int], list[tuple[Tensor, Tensor]]]:
    """Numbers of the adapters that have a module, and their factors."""
    members = [i for i, run in enumerate(runs) if module in run]
    found = [_additive(runs[i], module) for i in members]
    if len({update.shape for update in found}) > 1:
        raise AdapterError(f"module {module}: the updates have different shapes; adapters of one base are needed")
    return members, [factors_of(update) for update in found]


def _held(runs: AdapterSet, module: str, moments: Sequence[Moments] | None) -> _Held | None:
    """What a merge of a module needs; None where all of its updates are zero."""
    if moments is not None and len(moments) != len(runs):
        raise ValueError(f"moments has {len(moments)} entries for {len(runs)} adapters: give one each")
    pairs = [(i, pair) for i, pair in zip(*_factors(runs, module), strict=True) if updates.frobenius_norm(*pair) > 0]
    members, factors = [i for i, _ in pairs], [pair for _, pair in pairs]
    if not factors:
        return None
    if moments is None:
        own = [_input_directions(*pair) for pair in factors]
        directions = row_basis(torch.cat(own))
        parts = [v @ directions.mT for v in own]
        measured = [part.mT @ part for part in parts]
    else:
        width = factors[0][0].shape[1]
        directions = torch.eye(width, dtype=torch.float64)
        measured = [moment_of(moments[i], module, width) for i in members]
    coordinates = [a @ directions.mT for a, _ in factors]
    scaled = []
    for (_, B), a, S in zip(factors, coordinates, measured, strict=True):
        size = ((B.mT @ B) * (a @ S @ a.mT)).sum()
        if not size > 0:
            raise AdapterError(f"module {module}: an update is zero on all inputs of its own moments")
        scaled.append(S / size)
    return _Held(members, factors, directions, coordinates, scaled)


def _additive(run: Adapter, module: str) -> LowRankUpdate:
    try:
        return additive(run[module])
    except AdapterError as error:
        raise AdapterError(f"{run.name}, module {module}: {error}") from None


def _input_directions(A: Tensor, B: Tensor) -> Tensor:
    """Orthonormal rows that span the inputs which an update reads."""
    _, S, Vh = updates.thin_svd(A, B)
    return Vh[S.max() * 1e-10 < S]


def _inverse(moment: Tensor) -> Tensor:
    return torch.linalg.pinv(moment, rtol=1e-9, hermitian=True)


def _merge_row(held: _Held, weights: list[float]) -> dict[str, float]:
    factors, w = held.pairs, np.array(weights)
    total, stacked = held.total, held.stacked
    B_all, A_all = torch.cat([b for _, b in factors], dim=1), torch.cat([a for a, _ in factors])
    gram = B_all.mT @ B_all
    # Inner products of the updates and of the target, in the sum of the moments.
    rank_of = np.repeat(np.arange(len(factors)), [len(a) for a, _ in factors])
    coordinates = torch.cat(held.coordinates)
    quadratic = _blocks(gram * (coordinates @ total @ coordinates.mT), rank_of)
    linear = _blocks(gram * (coordinates @ stacked.mT), rank_of).sum(1)
    count = len(factors)
    error = (w @ quadratic @ w - 2 * w @ linear + count) / count
    merged_size, crossed = w @ quadratic @ w, w @ linear
    scale = crossed / merged_size if merged_size > 0 else np.nan
    best = np.linalg.lstsq(quadratic, linear, rcond=1e-10)[0]
    explained = (gram * (stacked @ _inverse(total) @ stacked.mT)).sum().item()
    merged = torch.cat([share * b for (_, b), share in zip(factors, weights, strict=True)], dim=1)
    nuclear = np.array([updates.singular_values(*pair).sum().item() for pair in factors])
    norms = np.array([updates.frobenius_norm(*pair).item() ** 2 for pair in factors])
    inner = np.array([updates.inner_product(A_all, merged, *pair).item() for pair in factors])
    kept = float(np.mean(inner / norms))
    _, strengths, Vh = updates.thin_svd(A_all, merged)
    own = [_input_directions(*pair) for pair in factors]
    leading = [(v @ Vh[0]).norm().item() for v in own] if strengths[0] > 0 else [np.nan]
    return {
        "error": max(float(error), 0.0),
        "error_orthogonal": float(np.mean((1 - w) ** 2)),
        "scale": float(scale),
        "error_scaled": _left(count, crossed * scale) if merged_size > 0 else 1.0,
        "error_weighted": _left(count, float(best @ linear)),
        "error_optimum": _left(count, explained),
        "retained_before": kept,
        "retained_after": float(kept * scale),
        "gap": strengths.sum().item() / nuclear.mean(),
        "orthogonal_gap": float(w @ nuclear / nuclear.mean()),
        "direction_cosine": float(np.mean(leading)),
        "direction_null": float(np.mean([len(v) / v.shape[1] for v in own])) ** 0.5,
    }


def _blocks(products: Tensor, owner: np.ndarray) -> np.ndarray:
    """Sums of a matrix over the blocks of each pair of owners."""
    marks = torch.nn.functional.one_hot(torch.from_numpy(owner)).to(products)
    return (marks.mT @ products @ marks).numpy()


def _left(count: int, explained: float) -> float:
    left = float(1 - explained / count)
    return left if left > 1e-12 else 0.0


def _shares(runs: AdapterSet, weights: Sequence[float] | None, default: float) -> list[float]:
    shares = [default] * len(runs) if weights is None else [finite(weight, "weights") for weight in weights]
    if len(shares) != len(runs):
        raise ValueError(f"{len(shares)} weights for {len(runs)} adapters: give one each")
    return shares
