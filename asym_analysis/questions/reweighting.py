"""An adapter with its singular directions reweighted, or some of them left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.load import as_adapter
from asym_analysis.errors import AdapterError
from asym_analysis.vocabulary import finite

__all__ = ["reweight_directions"]


def reweight_directions(adapter: Any, weights: Mapping[str, Sequence[float]]) -> Adapter:
    """Multiply the rank-one parts of every update by weights; parts with weight 0 are left out.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    weights : mapping of str to sequence of float
        Module -> weight of each singular direction, the strongest first, as `DirectionWorth.kept` gives them.
        Directions beyond the sequence are left out; modules that are not named stay as they are.

    Returns
    -------
    Adapter
        In memory; modules without any direction left are left out, and trained heads stay.

    Raises
    ------
    AdapterError
        If a module is unknown, has fewer directions than weights, or no module is left.
    ValueError
        If a weight is not finite.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.eye(2, 3), torch.diag(torch.tensor([2.0, 1.0])))})
    >>> reweight_directions(adapter, {"q": [0.0, 3.0]})["q"].delta().tolist()
    [[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]
    """
    read = as_adapter(adapter)
    changed, gone = {}, {}
    for module, given in weights.items():
        if module not in read:
            raise AdapterError(f"{read.name} has no module {module!r}, which weights= names")
        update = read[module].balanced()
        if len(given) > update.rank:
            raise AdapterError(f"module {module} has {update.rank} directions, weights= gives {len(given)}")
        values = torch.zeros(update.rank, dtype=update.B.dtype)
        values[: len(given)] = torch.tensor([finite(value, "weights") for value in given], dtype=update.B.dtype)
        chosen = values != 0
        if not chosen.any():
            gone[module] = "all directions have weight 0"
            continue
        changed[module] = replace(update, A=update.A[chosen], B=update.B[:, chosen] * values[chosen])
    if len(gone) == len(read):
        raise AdapterError(f"weights= leaves no module of {read.name}")
    changes = [*read.metadata.get("changes", ()), f"directions reweighted in {len(weights)} modules"]
    made = read.with_updates(changed, changes=changes)
    return made.without(gone) if gone else made
