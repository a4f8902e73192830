"""The curvature of the loss in the trained factors, by products with the Hessian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from asym_analysis.errors import AdapterError
from asym_analysis.prediction.moment_sums import loss_of
from asym_analysis.vocabulary import whole

__all__ = ["Curvature", "training_curvature"]


@dataclass(frozen=True)
class Curvature:
    """How the loss bends in the numbers that are trained, where they are now.

    Parameters
    ----------
    largest : float
        The Hessian's eigenvalue of largest absolute value, as far as the power iteration came.
    residual : float
        |H v - largest v| for the vector v that it came to, of length 1: some eigenvalue lies within so much of
        `largest`. That this is the largest one is not certain.
    sign_step : float
        The learning rate at which one step along the signs of the gradient, as Adam's first one, lowers the quadratic
        model of the loss most; infinite where the loss does not bend upwards along it.
    gradient_norm : float
        Euclidean norm of the gradient.
    """

    largest: float
    residual: float
    sign_step: float
    gradient_norm: float


def training_curvature(
    model: nn.Module, batches: Sequence[Mapping[str, Any]], *, iterations: int = 20, seed: int = 0
) -> Curvature:
    """Measure the curvature of the mean loss in the parameters that require gradients, by power iteration.

    Parameters
    ----------
    model : Module
        A model whose output has a `loss`, twice differentiable; run in evaluation mode.
    batches : sequence of mapping
        Keyword arguments of the model, with labels.
    iterations : int, default 20
        Steps of the power iteration, each one product with the Hessian.
    seed : int, default 0
        Of its first vector.

    Returns
    -------
    Curvature
        Largest eigenvalue with its error, best first step and gradient norm.

    Raises
    ------
    AdapterError
        If nothing is trained, there is no batch, or the model gives no loss.
    ValueError
        If `iterations` is not a whole number of at least 1.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> class Bowl(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.w = nn.Parameter(torch.tensor([1.0, 1.0]))
    ...     def forward(self, scale):
    ...         return SimpleNamespace(loss=(scale * self.w.square()).sum() / 2)
    >>> found = training_curvature(Bowl(), [{"scale": torch.tensor([9.0, 1.0])}], iterations=30)
    >>> round(found.largest, 3), found.residual < 1e-6, found.sign_step
    (9.0, True, 1.0)
    """
    whole(iterations, "iterations", least=1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained or not batches:
        raise AdapterError("the curvature needs a parameter that requires gradients, and at least one batch")

    def product(vector: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The gradient, and the Hessian's product with a vector, both means over the batches."""
        gradient, bent = ([torch.zeros_like(parameter) for parameter in trained] for _ in range(2))
        for batch in batches:
            loss = loss_of(model, batch)
            first = torch.autograd.grad(loss, trained, create_graph=True)
            second = torch.autograd.grad(_dot(first, vector), trained, allow_unused=True)
            for i, (one, two) in enumerate(zip(first, second, strict=True)):
                gradient[i] += one.detach() / len(batches)
                bent[i] += (torch.zeros_like(one) if two is None else two) / len(batches)
        return gradient, bent

    generator = torch.Generator().manual_seed(seed)
    vector = [torch.randn(p.shape, generator=generator).to(p) for p in trained]
    was_training = model.training
    model.eval()
    try:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            value = residual = 0.0
            for _ in range(iterations):
                length = _dot(vector, vector).sqrt()
                vector = [part / length for part in vector]
                gradient, bent = product(vector)
                value = float(_dot(vector, bent))
                apart = [one - value * part for one, part in zip(bent, vector, strict=True)]
                residual = float(_dot(apart, apart).sqrt())
                if not any(part.any() for part in bent):
                    break
                vector = bent
            signs = [part.sign() for part in gradient]
            along = float(_dot(signs, product(signs)[1]))
    finally:
        model.train(was_training)
    slope = float(sum(part.abs().sum() for part in gradient))
    return Curvature(
        value, residual, slope / along if along > 0 else float("inf"), float(_dot(gradient, gradient).sqrt())
    )


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(one * two).sum() for one, two in zip(left, right, strict=True)]).sum()
