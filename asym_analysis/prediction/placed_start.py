"""A start for training B alone: A placed by the inputs, B zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.load import Source, as_adapter
from asym_analysis.errors import AdapterError
from asym_analysis.prediction.input_moments import InputCovariances, InputMoment, TokenFrequencies
from asym_analysis.vocabulary import whole

__all__ = ["placed_start"]


def placed_start(
    adapter: Adapter | Source,
    inputs: InputCovariances | Mapping[str, InputMoment | TokenFrequencies],
    *,
    rank: int | None = None,
    last: bool = False,
) -> Adapter:
    """Make an adapter to start from with A frozen: A in the directions of the inputs, as EVA places it, and B zero.

    Parameters
    ----------
    adapter : Adapter or source
        Whose modules, shapes and scaling the start has.
    inputs : InputCovariances or mapping of str to InputMoment or TokenFrequencies
        From `input_covariances`, for every module of the adapter.
    rank : int, optional
        Of the start; each module's own if None.
    last : bool, default False
        Take the directions in which the inputs are smallest, as LoRA-Null does with general inputs.

    Returns
    -------
    Adapter
        Rows of A are orthonormal.

    Raises
    ------
    AdapterError
        If a module has no moments, or is not as wide as the rank.
    ValueError
        If the rank is not a whole number of at least 1.

    References
    ----------
    Paischer et al. (2024), "One initialization to rule them all: fine-tuning via explained variance adaptation",
    arXiv 2410.07170.

    Examples
    --------
    >>> moment = InputMoment(torch.tensor([1.0, 9.0, 4.0]).double().diag(), torch.zeros(3).double(), 100)
    >>> adapter = Adapter.from_factors({"layer.0.query": (torch.ones(2, 3), torch.ones(4, 2))})
    >>> placed_start(adapter, {"layer.0.query": moment})["layer.0.query"].A.abs().tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if rank is not None:
        whole(rank, "rank", least=1)
    adapter = as_adapter(adapter)
    updates = {}
    for module in adapter:
        update = adapter[module]
        size, (d_out, d_in) = rank or update.rank, update.shape
        if module not in inputs or inputs[module].width != d_in:
            raise AdapterError(f"{adapter.name}: there are no moments of {d_in} inputs for module {module}")
        if size > d_in:
            raise AdapterError(f"{adapter.name}, module {module}: rank {size} is above its {d_in} inputs")
        A = inputs[module].principal_directions(size, last=last).T.to(update.A.dtype)
        updates[module] = replace(update, A=A.contiguous(), B=torch.zeros(d_out, size, dtype=update.B.dtype))
    return adapter.with_updates(updates)
