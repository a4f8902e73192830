"""Mean gradient of the loss on the straight way from the base weights to the adapted ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.applied import apply_to
from asym_analysis.prediction.weight_gradients import weight_gradients

__all__ = ["path_gradients"]

# Simpson's rule: exact where the loss along the way is a polynomial of degree four or less.
WEIGHTS = {0.0: 1 / 6, 0.5: 4 / 6, 1.0: 1 / 6}


def path_gradients(
    adapter: Adapter, model: nn.Module, batches: Iterable[Mapping[str, Any]], modules: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """The gradient of the loss by each module's weight, averaged over W0 + t dW for t from 0 to 1.

    The inner products of the updates with it add up to the change of the loss that the adapter makes, so that the
    worth of a direction is its share of that change. At the adapted weights alone they tell little: a trained adapter
    stands where the gradient along its own directions is small.

    Parameters
    ----------
    adapter : Adapter
        The adapter.
    model : Module
        Its base model, with the head that it was trained with; changed in place and put back.
    batches : iterable of mapping
        Keyword arguments of the model, with labels.
    modules : sequence of str, optional
        The modules; by default all of the adapter's.

    Returns
    -------
    dict
        Module -> gradient on the CPU in float32, shape of the weight as the model stores it.

    Raises
    ------
    AdapterError
        If the model does not fit the adapter, gives no loss, or there is no batch.

    References
    ----------
    .. [1] M. Sundararajan, A. Taly, Q. Yan, Axiomatic attribution for deep networks, arXiv 1703.01365, for gradients
       averaged along a straight way.

    Examples
    --------
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.q = nn.Linear(1, 1, bias=False)
    ...         nn.init.zeros_(self.q.weight)
    ...
    ...     def forward(self, x):
    ...         return type("Output", (), {"loss": self.q(x).square().mean()})
    >>> import torch
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 1), torch.full((1, 1), 3.0))})
    >>> path_gradients(adapter, Model(), [{"x": torch.ones(1, 1)}])["q"].tolist()
    [[3.0]]
    """
    held = list(batches)
    chosen = list(adapter) if modules is None else list(modules)
    total: dict[str, Tensor] = {}
    for share, weight in WEIGHTS.items():
        part = adapter.with_updates(
            {module: replace(adapter[module], scaling=share * adapter[module].scaling) for module in adapter}
        )
        with apply_to(part, model, head=False):
            found = weight_gradients(model, held, chosen)
        total = {name: total.get(name, 0.0) + weight * gradient for name, gradient in found.items()}
    return total
