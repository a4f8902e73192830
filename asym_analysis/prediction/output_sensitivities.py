"""Sensitivity of the loss to each direction of a module's output: second moments of output gradients, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from torch import Tensor, nn

from asym_analysis.errors import AdapterError
from asym_analysis.prediction.by_module import ByModule
from asym_analysis.prediction.module_inputs import adapted_module, output_rows
from asym_analysis.prediction.moment_sums import MomentSum, loss_of, on_device_of
from asym_analysis.prediction.padding import RealPositions
from asym_analysis.results import settings_of

__all__ = ["OutputSensitivities", "output_sensitivities"]


@dataclass(frozen=True, eq=False, repr=False)
class OutputSensitivities(ByModule[Tensor]):
    """The second moments of the output gradients of several modules: a mapping of module names.

    Columns of `frame`, a row a module: `module`; `positions`, how many were read; `width`; `mean_square`, the trace of
    G; and `participation`, (Tr G)^2 / Tr G^2, the number of output directions over which the sensitivity is spread.

    Attributes
    ----------
    moments
        Module -> G = E[g g^T], float64, up to one factor for all modules.
    positions
        Module -> how many positions were read.
    settings
        Arguments and versions.
    """

    moments: dict[str, Tensor]
    positions: dict[str, int]
    settings: Mapping[str, Any]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a module; see the class for its columns."""
        rows = []
        for name, moment in self.moments.items():
            total = float(moment.trace())
            spread = total**2 / (float(moment.square().sum()) or 1.0)
            row = {"module": name, "positions": self.positions[name], "width": len(moment)}
            rows.append(row | {"mean_square": total, "participation": spread})
        return pd.DataFrame(rows)


def output_sensitivities(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], modules: Sequence[str]
) -> OutputSensitivities:
    """Stream G = E[g g^T], g the gradient of the loss with respect to a module's output at one position.

    To second order the loss of a change E of the weights is about Tr[G E S E^T] with S the inputs' second moment, the
    Kronecker factorization of the empirical Fisher information [1]_. The least-squares model of the paper is the case
    G = identity, in which a frozen random B is worse because it never depends on the loss.

    Parameters
    ----------
    model : Module
        A model whose output has a `loss`; its parameters get no gradients. It is run in evaluation mode.
    batches : iterable of mapping
        Keyword arguments of the model, with labels. Padding is left out as `input_covariances` does.
    modules : sequence of str
        Names of modules as the model, or the adapter of it, calls them.

    Returns
    -------
    OutputSensitivities
        Module -> G on the CPU in float64, up to one factor for all modules: gradients are of the mean loss of a batch,
        times the positions in it.

    Raises
    ------
    AdapterError
        If the model has no such module, gives no loss, or the loss does not depend on a module.

    References
    ----------
    .. [1] Martens and Grosse (2015), "Optimizing neural networks with Kronecker-factored approximate curvature",
       section 3.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.q = nn.Linear(2, 2, bias=False)
    ...     def forward(self, x):
    ...         return SimpleNamespace(loss=self.q(x)[:, 0].mean())
    >>> output_sensitivities(Model(), [{"x": torch.eye(2)}], ["q"])["q"].tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    found = {name: adapted_module(model, name) for name in modules}
    sums = {name: MomentSum() for name in modules}
    real = [RealPositions(None, None)]

    def hook(name: str) -> Callable[..., None]:
        def watch(module: nn.Module, inputs: Any, output: Any) -> None:
            def add(gradient: Tensor) -> None:
                rows = output_rows(name, module, gradient, real[0])
                sums[name].add(rows * len(rows))

            output = output[0] if isinstance(output, tuple) else output
            if not output.requires_grad:
                output.requires_grad_()
            output.register_hook(add)

        return watch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    handles = [module.register_forward_hook(hook(name)) for name, module in found.items()]
    try:
        model.eval().requires_grad_(False)
        for batch in batches:
            placed = on_device_of(model, batch)
            real[0] = RealPositions.of_batch(placed, model)
            loss_of(model, placed).backward()
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
        for parameter in trained:
            parameter.requires_grad_()
    if unused := [name for name, total in sums.items() if not total.count]:
        raise AdapterError(f"the loss does not depend on {len(unused)} modules, {unused[0]} among them")
    moments = {name: total.second_moment() for name, total in sums.items()}
    return OutputSensitivities(moments, {name: total.count for name, total in sums.items()}, settings_of())
