"""Was the answer visible at step one? An adapter's spaces against the first full gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.load import as_adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.chance import overlap_null
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import factors_of, gradient_of, p_value_of, row_basis, table_of
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import whole

__all__ = ["GradientAlignment", "gradient_alignment"]


class GradientAlignment(TableResult):
    """Overlap of an adapter's spaces with the leading singular spaces of a full gradient.

    Attributes
    ----------
    frame
        One row a module and factor: module, layer, projection, factor, k, overlap, null_mean, null_std, p_value.
    settings
        k, adapter, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_gradient_alignment"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules, one row a factor.

        Returns
        -------
        DataFrame
            `factor, overlap, null_mean`.
        """
        return self.frame.groupby("factor", sort=False)[["overlap", "null_mean"]].median().reset_index()


def gradient_alignment(adapter: Any, gradients: Mapping[str, Tensor], *, k: int | None = None) -> GradientAlignment:
    """Was the answer visible at step one? The adapter's spaces against the first full gradient's leading spaces.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    gradients : mapping of str to Tensor
        Module -> gradient of the loss by the module's weight before training, shape (d_out, d_in).
    k : int, optional
        Leading directions of the gradient; by default the adapter's rank.

    Returns
    -------
    GradientAlignment
        A's row space against the gradient's right singular directions, B's column space against the left ones.

    Raises
    ------
    AdapterError
        If no module has a gradient of its shape.

    References
    ----------
    .. [1] Y. Zhang and others, LoRA-One, arXiv 2502.01235.
    .. [2] S. Wang, L. Yu, J. Li, LoRA-GA, arXiv 2407.05000.
    .. [3] docs/theory.md, section 4.2, for the null distribution.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> adapter = Adapter.from_factors({"q": (torch.eye(1, 4), torch.eye(3, 1))})
    >>> gradient_alignment(adapter, {"q": torch.diag(torch.tensor([5.0, 1.0, 1.0, 1.0]))[:3]}).frame.overlap.tolist()
    [1.0, 1.0]
    """
    read = as_adapter(adapter)
    if k is not None:
        whole(k, "k", least=1)
    rows, refused = [], {}
    for module in read:
        try:
            update = read[module]
            G = gradient_of(gradients, module, update)
        except AdapterError as error:
            refused[module] = str(error)
            continue
        if not G.any():
            refused[module] = "its gradient is zero"
            continue
        A, B = factors_of(update)
        left, strengths, right = torch.linalg.svd(G, full_matrices=False)
        top = min(k or update.rank, int((strengths > strengths.max() * 1e-10).sum()))
        for factor, own, directions in (("A", A, right[:top]), ("B", B.mT, left[:, :top].mT)):
            basis = row_basis(own)
            if not len(basis) or not top:
                continue
            null = overlap_null(len(basis), top, basis.shape[1])
            overlap = (basis @ directions.mT).square().sum().item() / min(len(basis), top)
            rows.append(
                {
                    **place(module), "factor": factor, "k": top, "overlap": overlap, "null_mean": float(null.mean),
                    "null_std": float(null.std), "p_value": p_value_of(null, overlap),
                }
            )  # fmt: skip
    return GradientAlignment(
        table_of(rows, refused, "alignment with the gradient"), settings_of(adapter=read.name, k=k)
    )
