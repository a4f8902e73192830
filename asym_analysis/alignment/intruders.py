"""Intruder dimensions: leading singular vectors of W0 + dW that no singular vector of W0 resembles.

Everything happens in the coordinates of W0's own singular vectors, W0 = U diag(S) V^T. There W0 + s B A is
diag(S) + s (U^T B)(A V), a diagonal matrix plus one of rank r: a product with a vector costs (d_out + d_in) r
operations instead of d_out d_in, and the cosines with W0's singular vectors are the entries of the result. Parts of B
or A outside the spans of U and V get coordinates of their own, so that nothing is left out. The leading singular
vectors come from Lanczos iterations on these products; the sum is never decomposed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.integrate import quad
from scipy.sparse.linalg import LinearOperator, svds
from scipy.special import ndtr
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.base_change import refuse_changed_base
from asym_analysis.adapters.base_weights import Base, as_base
from asym_analysis.adapters.load import Source, as_adapter
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.weight_svd import weight_svd
from asym_analysis.errors import AdapterError
from asym_analysis.results import Result, settings_of
from asym_analysis.vocabulary import finite, whole

__all__ = ["IntruderDimensions", "intruder_dimensions", "leading_vectors", "random_level", "spike_threshold"]

DENSE = 4  # below this many times top_k rows or columns the small matrix is decomposed outright


@dataclass(frozen=True, eq=False, repr=False)
class IntruderDimensions(Result):
    """The leading singular vectors of W0 + dW, and which of them are intruders.

    Attributes
    ----------
    frame
        One row a module and index. Columns:

        - adapter, module, layer, projection
        - index: from 1, in descending order of the singular values of W0 + dW
        - singular_value: of W0 + dW
        - largest_cosine: max_i |<y, x_i>| over all left singular vectors x_i of W0
        - nearest: that i
        - intruder: whether largest_cosine is below the threshold
    modules
        One row a module. Columns:

        - adapter, module, layer, projection
        - intruders: their number
        - energy_share: their part of the squares of the top singular values
        - update_norm: ||dW||_2
        - spike_threshold: see `spike_threshold`
        - base_norm: ||W0||_2
        - random_level: see `random_level`
    refused
        Module -> why it could not be measured.
    settings
        adapter, base, top_k, threshold, refused and versions.
    """

    frame: pd.DataFrame
    modules: pd.DataFrame
    refused: Mapping[str, str]
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "intruders:plot_intruders"

    def __repr__(self) -> str:
        found = int(self.modules.intruders.sum())
        return f"IntruderDimensions({self.settings['adapter']}: {found} intruders in {len(self.modules)} modules)"

    def summary(self) -> pd.DataFrame:
        """One row a projection: modules, intruders among their leading vectors, and the mean share of energy.

        Returns
        -------
        DataFrame
            projection, modules, intruders, examined, energy_share, update_over_threshold (median), random_level.
        """
        grouped = self.modules.groupby("projection", sort=False)
        return pd.DataFrame(
            {
                "modules": grouped.size(),
                "intruders": grouped.intruders.sum(),
                "examined": self.frame.groupby("projection", sort=False).size(),
                "energy_share": grouped.energy_share.mean(),
                "update_over_threshold": (self.modules.update_norm / self.modules.spike_threshold)
                .groupby(self.modules.projection)
                .median(),
                "random_level": grouped.random_level.mean(),
            }
        ).reset_index()


def intruder_dimensions(
    adapter: Adapter | AdapterSet | Source,
    base: Base,
    *,
    top_k: int = 10,
    threshold: float = 0.5,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> IntruderDimensions:
    """Find the intruder dimensions that an adapter adds to its base model (Shuttleworth et al., arXiv 2410.21228).

    A left singular vector y_j of W0 + dW, j <= top_k, is an intruder if |cos(y_j, x_i)| is below `threshold` for every
    left singular vector x_i of W0. A vector of random direction stays below 0.5 always and near `random_level`: 0.5
    means spread over more than four vectors of W0, not outside of their span. Counts saturate; `energy_share` does not.

    Parameters
    ----------
    adapter : Adapter, AdapterSet or source
        An adapter, or anything that `load_adapter` reads. DoRA modules are refused, since their change of the weight
        is not of low rank.
    base : path, mapping, Module or BaseWeights
        What `BaseWeights` reads: a folder, a file, a hub id, an open model or a mapping.
    top_k : int, default 10
        Leading singular vectors examined in each module.
    threshold : float, default 0.5
        Cosine below which a vector is an intruder.
    cache : path, optional
        Folder that keeps the singular vectors of the base weights between calls; two d x d matrices a module.
    progress : bool, default False
        Show a bar, one step a module.

    Returns
    -------
    IntruderDimensions
        See there for the columns.

    Raises
    ------
    AdapterError
        If no module could be measured; the message gives the first reason.
    ValueError
        If `top_k` or `threshold` is out of range.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> W0 = torch.randn(40, 30, generator=generator)
    >>> A, B = torch.randn(1, 30, generator=generator), torch.randn(40, 1, generator=generator)
    >>> adapter = Adapter.from_factors({"q": (A, B)})
    >>> intruder_dimensions(adapter, {"q.weight": W0}, top_k=4).modules.intruders.tolist()
    [1]
    """
    top_k = whole(top_k, "top_k", least=1)
    finite(threshold, "threshold", above=0, most=1)
    adapter = as_adapter(adapter)
    weights = as_base(base)
    refuse_changed_base(adapter, "intruder dimensions of W0 + dW")
    frames, rows, refused = [], [], {}
    for module in tqdm(adapter, disable=not progress, desc="intruders", unit="module"):
        try:
            update = adapter[module]
            if not update.is_low_rank:
                raise AdapterError(f"module {module} has a DoRA magnitude, whose change of the weight is not low rank")
            weight = weights.matrix(module, update.shape, transposed=update.stored_transposed)
        except AdapterError as error:
            refused[module] = str(error)
            continue
        frame, row = _examine(weight, update, top_k, threshold, cache)
        position = {"adapter": adapter.name} | place(module)
        frames.append(pd.DataFrame({**position, **frame}))
        rows.append({**position, **row})
    if not rows:
        reason = next(iter(refused.values()), "it has no modules")
        raise AdapterError(f"no module of {adapter.name} could be compared with {weights.source}: {reason}")
    settings = settings_of(
        adapter=adapter.name,
        base=weights.source,
        top_k=top_k,
        threshold=threshold,
        refused=refused,
        matched=weights.matched,
    )
    return IntruderDimensions(
        pd.concat(frames, ignore_index=True).astype({"layer": "Int64"}),
        pd.DataFrame(rows).astype({"layer": "Int64"}),
        refused,
        settings,
    )


def _examine(
    weight: Tensor, update: LowRankUpdate, top_k: int, threshold: float, cache: str | os.PathLike[str] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    U, S, Vh = weight_svd(weight, cache)
    values, vectors = leading_vectors(U, S, Vh, update, top_k)
    cosines = np.abs(vectors[: len(S)])
    largest = cosines.max(axis=0)
    intruder = largest < threshold
    table = {
        "index": np.arange(1, len(values) + 1),
        "singular_value": values,
        "largest_cosine": largest,
        "nearest": cosines.argmax(axis=0) + 1,
        "intruder": intruder,
    }
    row = {
        "intruders": int(intruder.sum()),
        "energy_share": float((values[intruder] ** 2).sum() / (values**2).sum()),
        "update_norm": update.singular_values().max().item(),
        "spike_threshold": spike_threshold(weight),
        "base_norm": S[0].item(),
        "random_level": random_level(len(S), weight.shape[0]),
    }
    return table, row


def leading_vectors(
    U: Float[Tensor, "d_out k"], S: Float[Tensor, "k"], Vh: Float[Tensor, "k d_in"], update: LowRankUpdate, top_k: int
) -> tuple[Float[np.ndarray, "top_k"], Float[np.ndarray, "coordinates top_k"]]:
    """Leading singular values and left singular vectors of U diag(S) Vh + dW.

    The vectors are given in coordinates: the first k entries of a column are its cosines with the columns of U, further
    ones belong to directions of B outside of their span. At most min(d_out, d_in) vectors are given.

    Examples
    --------
    >>> eye = torch.eye(3)
    >>> update = LowRankUpdate(A=torch.tensor([[0.0, 0.0, 9.0]]), B=torch.tensor([[0.0], [1.0], [0.0]]))
    >>> values, vectors = leading_vectors(eye, torch.tensor([3.0, 2.0, 1.0]), eye, update, top_k=1)
    >>> values.round(3), abs(vectors[:, 0]).round(2)
    (array([9.271]), array([0.  , 0.99, 0.11]))
    """
    left = _coordinates(U.mT, update.scaling * update.B)
    right = _coordinates(Vh, update.A.mT)
    diagonal = S.double().numpy()
    shape = (len(left), len(right))
    count = len(diagonal)

    def times(vector: np.ndarray) -> np.ndarray:
        product = left @ (right.T @ vector)
        product[:count] += (diagonal * vector[:count].T).T
        return product

    def transposed_times(vector: np.ndarray) -> np.ndarray:
        product = right @ (left.T @ vector)
        product[:count] += (diagonal * vector[:count].T).T
        return product

    top_k = min(top_k, *shape)
    if min(shape) <= max(DENSE * top_k, 64):
        dense = left @ right.T
        dense[np.arange(count), np.arange(count)] += diagonal
        vectors, values, _ = np.linalg.svd(dense, full_matrices=False)
        return values[:top_k], vectors[:, :top_k]
    operator = LinearOperator(shape, matvec=times, rmatvec=transposed_times, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(min(shape))
    vectors, values, _ = svds(operator, k=top_k, ncv=min(4 * top_k + 20, min(shape) - 1), v0=start)
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]


def _coordinates(basis: Tensor, columns: Tensor) -> Float[np.ndarray, "coordinates rank"]:
    """Coordinates of `columns` along the rows of `basis`, and along an orthonormal basis of what lies outside."""
    inside = basis @ columns.to(basis)
    if basis.shape[0] == basis.shape[1]:
        return inside.double().numpy()
    outside = columns.double() - basis.mT.double() @ inside.double()
    _, rest = torch.linalg.qr(outside)
    return torch.cat([inside.double(), rest]).numpy()


def spike_threshold(weight: Float[Tensor, "d_out d_in"]) -> float:
    """Spectral norm below which an update of random direction stays hidden in a random weight of the same variance v.

    sqrt(v) (d_out d_in)^{1/4}: the threshold of Benaych-Georges and Nadakuditi (2012) for independent entries, quoted
    in docs/theory.md, section 3, and checked in the tests by simulation. A trained weight is not random: read it as
    a scale.

    Examples
    --------
    >>> round(spike_threshold(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])), 6)
    1.414214
    """
    d_out, d_in = weight.shape
    return math.sqrt(weight.double().square().mean().item()) * (d_out * d_in) ** 0.25


def random_level(count: int, dimension: int) -> float:
    """Mean of the largest |cosine| between a random direction and `count` orthonormal vectors of R^dimension.

    The cosines are taken as independent normals of variance 1/dimension; about sqrt(2 ln(2 count) / dimension).

    Examples
    --------
    >>> round(random_level(1024, 1024), 3)
    0.108
    """
    scale = math.sqrt(dimension)
    mean, _ = quad(lambda cosine: 1 - (2 * ndtr(cosine * scale) - 1) ** count, 0, 12 / scale, limit=200)
    return min(float(mean), 1.0)
