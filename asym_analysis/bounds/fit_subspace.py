"""Train an adapter in a random subspace of few coordinates, with the quantizer of its message in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.applied import AppliedAdapter
from asym_analysis.adapters.load import as_adapter
from asym_analysis.bounds.admissibility import checked_tuned
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.model_losses import ModelLosses, Samples, class_cross_entropy, logits_of
from asym_analysis.bounds.quantization import k_means_levels
from asym_analysis.bounds.subspace import Subspace, SubspaceCode, encode_subspace
from asym_analysis.bounds.trained import with_tensors
from asym_analysis.vocabulary import Tuned, finite, whole

__all__ = ["fit_subspace"]

Objective = Callable[[Tensor, Tensor], Tensor]

LEVEL_RATE = 0.1  # rate of the codebook over that of the coordinates


def fit_subspace(
    checkpoint: Any,
    model: torch.nn.Module,
    data: Iterable[Mapping[str, Any]] | Samples,
    *,
    dimension: int = 100,
    levels: int = 4,
    tuned: Tuned | str = "auto",
    include_head: bool = True,
    prior: Adapter | None = None,
    epochs: float | int = 5,
    quantized_epochs: float | int = 2,
    rate: float | int = 0.02,
    batch_size: int = 32,
    objective: Objective | None = None,
    subspace_seed: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> SubspaceCode:
    """Train `dimension` numbers that move all trained factors through a fixed random projection, and code them.

    First the coordinates alone are trained, then coordinates and codebook together while every forward pass uses the
    quantized coordinates (gradients pass through the rounding). What is coded is what was trained. The number of
    coordinates and of levels is in the message; learning rates, epochs and `seed` need no charge, because the bound
    holds for all messages at once. Each further `subspace_seed`, set of modules or rank that was tried counts in
    `tried` of `certify`.

    Parameters
    ----------
    checkpoint : Adapter or source
        An adapter with its recorded initialization, where the subspace is centred; its trained values do not matter.
        Without one the centre is zero, which trains nothing where both factors are reached.
    model : Module
        The open base model with the adapter's head: its output has `logits` of shape (samples, classes). Its weights
        are as before afterwards, and gather no gradients.
    data : iterable of mapping, or Samples
        Labelled batches, as in `ModelLosses`: the n samples that the bound counts.
    dimension : int, default 100
        Number of coordinates; about 1.5 to 2 bits each.
    levels : int, default 4
        Levels of the quantizer.
    tuned, include_head : {"B", "A", "both"} or str or bool, optional
        Factors that the coordinates reach; as in `compute_bound`.
    prior : Adapter, optional
        An adapter trained on other samples than these n: the centre in place of the initialization.
    epochs, quantized_epochs : float or int, optional
        Passes over the data before and with the quantizer.
    rate : float or int, default 0.02
        Adam's step for the coordinates, in units of the size that one coordinate has where each entry moves by .05; it
        falls to zero along a cosine in each of the two trainings.
    batch_size : int, default 32
        Samples of one step.
    objective : Objective, optional
        Training loss of logits and labels, a mean over the batch; cross-entropy by default.
    subspace_seed : int, default 0
        Of the projection, fixed before the data.
    seed : int, default 0
        Of the batches.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    SubspaceCode
        For `certify(..., subspace=[code])`.

    Raises
    ------
    ValueError
        If an argument lies outside its range, or training diverges.
    AdapterError
        If the model does not fit the adapter.

    References
    ----------
    .. [1] S. Lotfi and others, arXiv 2211.13609 (2022), and SubLoRA in arXiv 2312.17173 (2024).
    .. [2] docs/theory.md, section 5.6.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> class Classifier(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.q = torch.nn.Linear(8, 2, bias=False)
    ...     def forward(self, x):
    ...         return SimpleNamespace(logits=self.q(x))
    >>> adapter = Adapter.from_factors({"q": (torch.eye(8), torch.zeros(2, 8))})
    >>> x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    >>> code = fit_subspace(adapter, Classifier(), [{"x": x, "labels": (x[:, 0] > 0).long()}], tuned="B", dimension=8)
    >>> code.dimension, code.bits < 200
    (8, True)
    """
    adapter = as_adapter(checkpoint).copy()
    own, _ = checked_tuned(adapter, tuned)
    finite(epochs, "epochs", above=0)
    finite(quantized_epochs, "quantized_epochs", above=0)
    finite(rate, "rate", above=0)
    whole(levels, "levels", least=2)
    losses = ModelLosses(adapter, model, data, batch_size=whole(batch_size, "batch_size", least=1))
    start = adapter if prior is None else adapter.replaced(initial=prior)
    space = Subspace(start, dimension, tuned=own, include_head=include_head, seed=subspace_seed)
    training = _Training(space, losses, objective or class_cross_entropy, seed, progress)
    unit = 0.05 * (space.size / space.dimension) ** 0.5
    steps = [max(1, round(passes * len(losses) / batch_size)) for passes in (epochs, quantized_epochs)]
    coordinates = training.run(torch.zeros(space.dimension), None, rate * unit, steps[0])[0]
    book = torch.from_numpy(k_means_levels(coordinates.numpy() / unit, levels)) * unit
    coordinates, book = training.run(coordinates, book, 0.5 * rate * unit, steps[1])
    return encode_subspace(space, coordinates, codebook=book.tolist())


class _Training:
    """Coordinates, and with a codebook their quantized values, trained on labelled batches."""

    def __init__(self, space: Subspace, losses: ModelLosses, objective: Objective, seed: int, progress: bool) -> None:
        self.space, self.losses, self.objective, self.progress = space, losses, objective, progress
        self.order = generator_for(seed, "subspace", "batches")
        self.applied = AppliedAdapter(space.start, losses.model, head=losses.head)
        self.applied.remove()

    def run(
        self, begun: Float[Tensor, "d"], book: Float[Tensor, "levels"] | None, rate: float, steps: int
    ) -> tuple[Float[Tensor, "d"], Float[Tensor, "levels"]]:
        """One training; gives coordinates and codebook."""
        coordinates = begun.clone().requires_grad_()
        levels = (torch.zeros(1) if book is None else book).clone().requires_grad_(book is not None)
        groups: list[dict[str, Any]] = [{"params": [coordinates], "lr": rate}]
        if book is not None:
            groups.append({"params": [levels], "lr": LEVEL_RATE * rate})
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        batches: list[np.ndarray] = []
        n, size = len(self.losses), self.losses.batch_size
        for _ in tqdm(range(steps), desc="subspace", disable=not self.progress, leave=False):
            if not batches:
                shuffled = torch.randperm(n, generator=self.order).numpy()
                batches = [shuffled[at : at + size] for at in range(0, n, size)]
            inputs, labels = self.losses.batch(batches.pop())
            used = coordinates if book is None else _rounded(coordinates, levels)
            moved = with_tensors(self.space.start, self.space.tensors(used))
            output = torch.func.functional_call(self.losses.model, self.applied.changed_weights(moved), (), inputs)
            value = self.objective(logits_of(output), labels)
            if not torch.isfinite(value):
                raise ValueError(f"training diverged at rate {rate:g}: give a smaller rate")
            parameters = [coordinates, *([] if book is None else [levels])]
            for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
        return coordinates.detach(), levels.detach()


def _rounded(coordinates: Float[Tensor, "d"], levels: Float[Tensor, "levels"]) -> Float[Tensor, "d"]:
    """The nearest level of each coordinate; gradients reach the level, and the coordinate as if it were not rounded."""
    nearest = (coordinates.detach()[:, None] - levels.detach()).abs().argmin(1)
    chosen = levels[nearest]
    return chosen + coordinates - coordinates.detach()
