"""One row a module: the sizes, the scale and the norms that tell at a glance what an adapter learned."""

from __future__ import annotations

import pandas as pd

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.errors import AdapterError

__all__ = ["inspect_modules"]

MEASURED = ["norm_A", "norm_B", "norm", "spectral_norm", "stable_rank"]


def inspect_modules(adapter: Adapter) -> pd.DataFrame:
    """Measure every module from its factors, one module in memory at a time.

    Parameters
    ----------
    adapter
        Any adapter.

    Returns
    -------
    DataFrame
        `Adapter.frame` with the Frobenius norms of A, B and of the update scaling · B·A ("norm"), the update's largest
        singular value ("spectral_norm") and its stable rank (norm / spectral_norm)^2, NaN where the update is zero;
        and "note", which says what is unusual: a zero factor, a DoRA magnitude, or why the module cannot be read.

    Examples
    --------
    >>> import torch
    >>> adapter = Adapter.from_factors({"q": (torch.eye(2, 3), torch.tensor([[3.0, 0.0], [0.0, 4.0]]))}, name="toy")
    >>> inspect_modules(adapter)[["norm", "spectral_norm", "stable_rank"]].round(4).values.tolist()
    [[5.0, 4.0, 1.5625]]
    """
    rows = []
    for module in adapter:
        try:
            update = adapter[module]
        except AdapterError as error:
            rows.append((*[float("nan")] * len(MEASURED), str(error)))
            continue
        values = update.singular_values().double()
        norm, largest = values.norm().item(), values.max().item() if values.numel() else 0.0
        stable_rank = (norm / largest) ** 2 if largest > 0 else float("nan")
        notes = [f"{factor} is zero" for factor in ("A", "B") if not getattr(update, factor).any()]
        notes += [] if update.is_low_rank else ["DoRA: the magnitude is not in these norms"]
        notes += [] if adapter.base_changed is None else ["the base weight was changed too: not the whole change"]
        rows.append(
            (
                update.A.double().norm().item(),
                update.B.double().norm().item(),
                norm,
                largest,
                stable_rank,
                "; ".join(notes),
            )
        )
    measured = pd.DataFrame(rows, columns=[*MEASURED, "note"])
    return pd.concat([adapter.frame, measured], axis=1)
