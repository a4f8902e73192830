"""One row a module: the sizes, the scale and the norms that tell at a glance what an adapter learned."""

from __future__ import annotations

from typing import Any

import pandas as pd

from asym_analysis.adapters.load import as_adapter
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult, settings_of

__all__ = ["Inspection", "inspect_modules"]

MEASURED = ["norm_A", "norm_B", "norm", "spectral_norm", "stable_rank"]


class Inspection(TableResult):
    """Sizes, scale and norms of an adapter's modules.

    Attributes
    ----------
    frame
        One row a module:

        - module, layer, projection, d_out, d_in, rank, scaling, dtype: from the header
        - norm_A, norm_B, norm: Frobenius norms of A, of B and of the update scaling · B·A
        - spectral_norm: the update's largest singular value
        - stable_rank: (norm / spectral_norm)^2; NaN where the update is zero
          (these five are absent where only headers were read)
        - note: what is unusual: a zero factor, a DoRA magnitude, or why the module cannot be read
    settings
        adapter and versions.
    """


def inspect_modules(adapter: Any, *, headers_only: bool = False) -> Inspection:
    """Measure every module from its factors, one module in memory at a time.

    Parameters
    ----------
    adapter : Adapter or source
        An adapter, or anything that `load_adapter` reads.
    headers_only : bool, default False
        Whether to read no factor: sizes and scales without norms.

    Returns
    -------
    Inspection
        One row a module.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter
    >>> adapter = Adapter.from_factors({"q": (torch.eye(2, 3), torch.tensor([[3.0, 0.0], [0.0, 4.0]]))}, name="toy")
    >>> inspect_modules(adapter).frame[["norm", "spectral_norm", "stable_rank"]].round(4).values.tolist()
    [[5.0, 4.0, 1.5625]]
    """
    read = as_adapter(adapter)
    if headers_only:
        return Inspection(read.frame.assign(note=""), settings_of(adapter=read.name))
    rows = []
    for module in read:
        try:
            update = read[module]
        except AdapterError as error:
            rows.append((*[float("nan")] * len(MEASURED), str(error)))
            continue
        values = update.singular_values().double()
        norm, largest = values.norm().item(), values.max().item() if values.numel() else 0.0
        stable_rank = (norm / largest) ** 2 if largest > 0 else float("nan")
        notes = [f"{factor} is zero" for factor in ("A", "B") if not getattr(update, factor).any()]
        notes += [] if update.is_low_rank else ["DoRA: the magnitude is not in these norms"]
        notes += [] if read.base_changed is None else ["the base weight was changed too: not the whole change"]
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
    return Inspection(pd.concat([read.frame, measured], axis=1), settings_of(adapter=read.name))
