"""How much the loss feels each direction of a module's output: second moments of output gradients, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.covariance import adapted_module
from asym_analysis.finetuning.moment_sums import MomentSums, on_device_of
from asym_analysis.finetuning.padding import RealPositions

__all__ = ["output_sensitivities"]


def output_sensitivities(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], modules: Sequence[str]
) -> dict[str, Float[Tensor, "d_out d_out"]]:
    """Stream G = E[g g^T], g the gradient of the loss with respect to a module's output at one position.

    To second order the loss of a change E of the weights is about Tr[G E S E^T] with S the inputs' second moment, the
    Kronecker factorization of the empirical Fisher information (Martens and Grosse, 2015). The least-squares model of
    the paper is the case G = identity, in which a frozen random B is the worse for never seeing what the loss needs.

    Parameters
    ----------
    model
        A model whose output has a `loss`; its parameters get no gradients. It is run in evaluation mode.
    batches
        Keyword arguments of the model, with labels. Padding is left out as `input_covariances` does.
    modules
        Names of modules as the model, or the adapter of it, calls them.

    Returns
    -------
    dict
        Module -> G on the CPU in float64, up to one factor for all modules: gradients are of the mean loss of a batch,
        times the positions in it.

    Raises
    ------
    AdapterError
        If the model has no such module, gives no loss, or a module has no part in it.
    """
    found = {name: adapted_module(model, name) for name in modules}
    sums = MomentSums(modules)
    real = [RealPositions(None, None)]

    def hook(name: str) -> Callable[..., None]:
        def add(gradient: Tensor) -> None:
            rows = real[0].rows(name, gradient)
            sums.add(name, rows * len(rows))

        def watch(_: nn.Module, inputs: Any, output: Tensor) -> None:
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
            loss = getattr(model(**placed), "loss", None)
            if loss is None:
                raise AdapterError("the model gave no loss; put the labels into the batches")
            loss.backward()
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
        for parameter in trained:
            parameter.requires_grad_()
    if unused := sums.unseen():
        raise AdapterError(f"the loss does not depend on {len(unused)} modules, {unused[0]} among them")
    return {name: sums.second_moment(name) for name in modules}
