"""New directions or old ones? The factors of an adapter against the singular directions of its base weight."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.base_weights import Base, as_base
from asym_analysis.adapters.load import as_adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.weight_svd import weight_svd
from asym_analysis.chance import overlap_null
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import by_projection, factors_of, p_value_of, spectrum_of, table_of
from asym_analysis.results import Result, settings_of
from asym_analysis.vocabulary import whole

__all__ = ["BaseAlignment", "base_alignment"]

SIDES = ("A", "B")


@dataclass(frozen=True, eq=False, repr=False)
class BaseAlignment(Result):
    """Where an adapter's update lies in the singular directions of the weights it stands on.

    Attributes
    ----------
    frame
        One row a module:

        - module, layer, projection, k
        - A_top, A_bottom: overlap of A's row space with the k leading and k last right singular directions of W0
          (it has min(d_out, d_in) of them)
        - A_null_mean, A_null_std: of a random row space; A_top_p_value: probability of as much or more by chance
        - B_top, B_bottom, B_null_mean, B_null_std, B_top_p_value: the same of B's column space, left directions
        - spectral_share: share of ||dW||^2 in the diagonal u_i^T dW v_i; spectral_null_mean: 1/max(d_out, d_in)
        - top_share: share of ||dW||^2 within the k leading directions of both sides; top_null_mean: k^2/(d_out d_in)
        - amplification: ||dW||_F / ||U^T W0 V||_F, with the singular directions U, V of dW; random_amplification: the
          same with random directions in the mean
        - relative_norm: ||dW||_F / ||W0||_F
        - A_condition, B_condition: ratio of the largest to the smallest singular value of A and of B
    refused
        Module -> why it could not be measured.
    settings
        k, adapter, base, versions.
    """

    frame: pd.DataFrame
    refused: Mapping[str, str]
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "questions:plot_base_alignment"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules of each projection.

        Returns
        -------
        DataFrame
            `projection`, then `A_top, A_bottom, A_null_mean, B_top, B_bottom, B_null_mean, spectral_share,
            amplification, relative_norm`.
        """
        columns = [
            "A_top", "A_bottom", "A_null_mean", "B_top", "B_bottom", "B_null_mean", "spectral_share", "amplification",
            "relative_norm",
        ]  # fmt: skip
        return by_projection(self.frame, columns)

    def __repr__(self) -> str:
        return f"BaseAlignment({len(self.frame)} modules, k = {self.settings['k']})"


def base_alignment(
    adapter: Any,
    base: Base,
    *,
    k: int = 16,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> BaseAlignment:
    """Compare an adapter's directions with the leading and the last singular directions of its base weights.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    base : path, mapping, Module or BaseWeights
        The base model, as `BaseWeights` reads it.
    k : int, default 16
        Number of leading, and of last, singular directions.
    cache : path, optional
        Folder that keeps the singular vectors of the base weights between calls.
    progress : bool, default False
        Show a bar, one step a module.

    Returns
    -------
    BaseAlignment
        With a null beside every number.

    Raises
    ------
    AdapterError
        If no module could be measured; the message gives the first reason.

    References
    ----------
    .. [1] E. Hu and others, LoRA, arXiv 2106.09685, section 7.3 (amplification).
    .. [2] docs/theory.md, section 4.2, for the null distribution of the overlap.

    Examples
    --------
    >>> W0 = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]))
    >>> adapter = Adapter.from_factors({"q": (torch.eye(4)[:1], torch.eye(4)[:, :1])})
    >>> base_alignment(adapter, {"q.weight": W0}, k=1).frame[["A_top", "B_top", "amplification"]].values.tolist()
    [[1.0, 1.0, 0.3333333333333333]]
    """
    whole(k, "k", least=1)
    read, weights = as_adapter(adapter), as_base(base)
    rows, refused = [], {}
    for module in tqdm(read, disable=not progress, desc="base alignment", unit="module", leave=False):
        try:
            update = read[module]
            weight = weights.matrix(module, update.shape, transposed=update.stored_transposed).double()
            rows.append({**place(module), **_row(read, module, weight, k, cache)})
        except AdapterError as error:
            refused[module] = str(error)
    frame = table_of(rows, refused, "alignment with the base")
    return BaseAlignment(frame, refused, settings_of(adapter=read.name, base=weights.source, k=k))


def _row(adapter: Adapter, module: str, weight: Tensor, k: int, cache: str | os.PathLike[str] | None) -> dict[str, Any]:
    update = adapter[module]
    A, B = factors_of(update)
    U, S, Vh = spectrum_of(update)
    if not weight.any():
        raise AdapterError("its base weight is zero: it has no singular directions")
    left, _, right = weight_svd(weight, cache)
    k = min(k, left.shape[1])
    found: dict[str, Any] = {"k": k}
    for side, factor, directions in (("A", A, right.mT), ("B", B.mT, left)):
        rows = torch.linalg.svd(factor, full_matrices=False)
        kept = rows.S.max() * 1e-12 < rows.S
        basis = rows.Vh[kept]
        d, rank = basis.shape[1], len(basis)
        least = min(rank, k)
        null = overlap_null(rank, k, d)
        top = (basis @ directions[:, :k]).square().sum().item() / least
        found[f"{side}_top"] = top
        found[f"{side}_bottom"] = (basis @ directions[:, -k:]).square().sum().item() / least
        found[f"{side}_null_mean"], found[f"{side}_null_std"] = float(null.mean), float(null.std)
        found[f"{side}_top_p_value"] = p_value_of(null, top)
        found[f"{side}_condition"] = (rows.S[0] / rows.S[kept][-1]).item() if kept.all() else float("inf")
    whole_energy = S.square().sum().item()
    in_left, in_right = left.mT @ (U * S), Vh @ right.mT  # coordinates of dW in W0's singular directions
    diagonal = (in_left * in_right.mT).sum(1)
    inside = (in_left[:k] @ in_right[:, :k]).square().sum().item()
    seen = (U.mT @ weight @ Vh.mT).norm().item()
    d_out, d_in = weight.shape
    size = weight.norm().item()
    return found | {
        "spectral_share": diagonal.square().sum().item() / whole_energy,
        "spectral_null_mean": 1 / max(d_out, d_in),
        "top_share": inside / whole_energy,
        "top_null_mean": k * k / (d_out * d_in),
        "amplification": whole_energy**0.5 / seen if seen else float("inf"),
        "random_amplification": whole_energy**0.5 / (size * len(S) / (d_out * d_in) ** 0.5),
        "relative_norm": whole_energy**0.5 / size,
    }
