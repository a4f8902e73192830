"""Multiply frozen weights in a lower precision: a copy made once, in place of a cast at every step."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["FrozenLinear", "multiply_frozen_maps_in"]


class _Multiply(torch.autograd.Function):
    """y = W x + b by low-precision copies of W and b, with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.dtype = x.dtype
        return nn.functional.linear(x.to(weight.dtype), weight, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        return (gradient.to(weight.dtype) @ weight).to(ctx.dtype), None, None


class FrozenLinear(nn.Linear):
    """A linear map whose weight is not trained, multiplied in a lower precision.

    The products are rounded as under autocast, which casts a frozen weight again at every use. Outputs and gradients
    are of the input's precision, so that attention and norms between two maps are not rounded: on a CPU the gradient of
    attention takes several times as long in bfloat16 as in float32.

    Parameters
    ----------
    base
        The map to stand for; its parameters are shared.
    dtype
        Of the products.
    """

    def __init__(self, base: nn.Linear, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.register_buffer("rounded", base.weight.detach().to(dtype), persistent=False)
        self.register_buffer(
            "rounded_bias", None if base.bias is None else base.bias.detach().to(dtype), persistent=False
        )

    def forward(self, input: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """The map of an input."""
        return cast(Tensor, _Multiply.apply(input, self.rounded, self.rounded_bias))


def multiply_frozen_maps_in(model: nn.Module, dtype: torch.dtype) -> int:
    """Replace every linear map of a model whose weight and bias are frozen by a `FrozenLinear`.

    Parameters
    ----------
    model : Module
        The model, with its adapter; what is trained stays as it is.
    dtype : dtype
        Of the products.

    Returns
    -------
    int
        How many maps were replaced.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).requires_grad_(False)
    >>> _ = model[1].requires_grad_()
    >>> multiply_frozen_maps_in(model, torch.bfloat16), type(model[0]).__name__, type(model[1]).__name__
    (1, 'FrozenLinear', 'Linear')
    """
    found = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if type(child) is nn.Linear
        and not any(parameter.requires_grad for parameter in child.parameters())
        # An adapter's own frozen factor is small, and is multiplied as it is.
        and not (name == "default" or isinstance(parent, nn.ModuleDict))
    ]
    for parent, name, child in found:
        setattr(parent, name, FrozenLinear(child, dtype))
    return len(found)
