"""Mean gradient of the loss by the weights under an adapter's modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asym_analysis.errors import AdapterError
from asym_analysis.prediction.module_inputs import adapted_module, base_layer
from asym_analysis.prediction.moment_sums import loss_of

__all__ = ["weight_gradients"]


def weight_gradients(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], modules: Sequence[str]
) -> dict[str, Tensor]:
    """The gradient of the loss by each module's weight, averaged over batches.

    Parameters
    ----------
    model : Module
        A model whose output has a `loss`; run in evaluation mode, with its weights as they are. Before training the
        result is the first full gradient; with an adapter in the weights (`apply_to`), that at the adapter.
    batches : iterable of mapping
        Keyword arguments of the model, with labels.
    modules : sequence of str
        Names of modules as the model, or the adapter of it, calls them.

    Returns
    -------
    dict
        Module -> gradient on the CPU in float32, shape of the weight as the model stores it.

    Raises
    ------
    AdapterError
        If the model has no such module, gives no loss, or there is no batch.

    Examples
    --------
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.q = nn.Linear(2, 1, bias=False)
    ...
    ...     def forward(self, x, labels):
    ...         return type("Output", (), {"loss": (self.q(x)[:, 0] * labels).mean()})
    >>> weight_gradients(Model(), [{"x": torch.eye(2), "labels": torch.tensor([1.0, 3.0])}], ["q"])["q"].tolist()
    [[0.5, 1.5]]
    """
    weights: dict[str, Any] = {name: base_layer(adapted_module(model, name)).weight for name in modules}
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    was_training = model.training
    sums = {name: torch.zeros(weight.shape) for name, weight in weights.items()}
    count = 0
    try:
        model.eval().requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad_()
        for batch in batches:
            loss = loss_of(model, batch)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    sums[name] += gradient.detach().float().cpu()
            count += 1
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
        model.train(was_training)
    if not count:
        raise AdapterError("there is no batch: a gradient needs data")
    return {name: total / count for name, total in sums.items()}
