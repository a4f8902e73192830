"""Train a Gaussian posterior around an adapter for the bound itself: means, noise scales, a path of KL weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.applied import AppliedAdapter
from asym_analysis.adapters.load import as_adapter
from asym_analysis.bounds.admissibility import checked_tuned
from asym_analysis.bounds.energies import scale_on_grid
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.model_losses import ModelLosses, logits_of
from asym_analysis.bounds.posterior import GaussianPosterior, fitted_posterior, gaussian_posterior
from asym_analysis.bounds.risk import kl_inverse_risk
from asym_analysis.bounds.trained import TensorKey, with_tensors
from asym_analysis.vocabulary import Tuned, choose, finite, whole

__all__ = ["fit_posterior"]

Objective = Callable[[Tensor, Tensor], Tensor]

SIZES = (0.25, 0.5, 1.0, 2.0)  # of the noise to begin with, as shares of the update's norm
PILOT_BLOCKS = 8  # draws in one pass over the data, to compare candidates
STD_RATE = 0.2  # rate of the log standard deviations over that of the means


def fit_posterior(
    checkpoint: Any,
    model: torch.nn.Module,
    data: Iterable[Mapping[str, Any]],
    *,
    tuned: Tuned | str = "auto",
    include_head: bool = True,
    prior: Adapter | None = None,
    prior_std: float | int | None = None,
    weights: Sequence[float | int] = (4.0, 1.0),
    epochs: float | int = 3,
    rate: float | int = 0.05,
    batch_size: int = 32,
    loss: str = "zero-one",
    objective: Objective | None = None,
    scales: str = "group",
    select: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> GaussianPosterior:
    """Train a Gaussian posterior around an adapter to make its PAC-Bayes bound small.

    Means and standard deviations of every trained entry minimize training loss + weight · KL/n. The means begin at the
    adapter's values and the standard deviations at the prior's, so that entries of which the data say nothing cost
    nothing. The bound holds for all posteriors at once: neither the training nor the selection needs a charge. The
    prior's scales lie on a grid and are paid for.

    Parameters
    ----------
    checkpoint : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    model : Module
        The open base model with the adapter's head: its output has `logits` of shape (samples, classes). Its weights
        are as before afterwards, and gather no gradients.
    data : iterable of mapping
        Labelled batches, as in `ModelLosses`: the n samples that the bound counts.
    tuned, include_head : {"B", "A", "both"} or str or bool, optional
        As in `compute_bound`.
    prior : Adapter, optional
        An adapter trained on other samples than these n: the prior's centre. By default the recorded initialization,
        or zero.
    prior_std : float or int, optional
        Standard deviation of the prior during training, put on the grid and kept; by default the best of noises of .25
        to 2 times the update, chosen anew before each of `weights`.
    weights : sequence of float or int, optional
        The path: weights of KL/n, one after the other, each training continues from the end of the one before.
    epochs : float or int, default 3
        Passes over the data for each weight.
    rate : float or int, default 0.05
        Adam's step for the means, in units of the prior's standard deviation; it falls to zero along a cosine.
    batch_size : int, default 32
        Samples of one step.
    loss : str, default "zero-one"
        Of the bound, for the selection; as in `ModelLosses`.
    objective : Objective, optional
        Training loss of logits and labels, a mean over the batch; cross-entropy by default.
    scales : str, default "group"
        "group" or "tensor", as in `fitted_posterior`.
    select : bool, default True
        Return the candidate of lowest bound, estimated in one pass over the data: the untrained posteriors, the end of
        each weight, and each of these with all standard deviations equal to the prior's. Otherwise the end of the last.
    seed : int, default 0
        Of batches and noise, in streams of their own.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    GaussianPosterior
        For `certify(..., posterior=..., prior=prior)`.

    Raises
    ------
    ValueError
        If an argument lies outside its range, or training diverges.
    AdapterError
        If the model does not fit the adapter.

    References
    ----------
    .. [1] M. Perez-Ortiz and others, Tighter risk certificates for neural networks, arXiv 2007.12911 (2021).
    .. [2] docs/theory.md, section 5.7.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> class Classifier(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.q = torch.nn.Linear(2, 2, bias=False)
    ...     def forward(self, x):
    ...         return SimpleNamespace(logits=self.q(x))
    >>> adapter = Adapter.from_factors({"q": (torch.eye(2), torch.eye(2))})
    >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> posterior = fit_posterior(adapter, Classifier(), [{"x": x, "labels": x.argmax(1)}], tuned="B", epochs=1)
    >>> posterior.tuned, posterior.prior, posterior.kl < 40
    ('B', 'zero', True)
    """
    adapter = as_adapter(checkpoint).copy()
    own, _ = checked_tuned(adapter, tuned)
    choose(scales, ("group", "tensor"), "scales")
    for weight in weights:
        finite(weight, "weights", above=0)
    if not weights:
        raise ValueError("weights needs at least one value")
    finite(epochs, "epochs", above=0)
    finite(rate, "rate", above=0)
    if prior_std is not None:
        finite(prior_std, "prior_std", above=0)
    losses = ModelLosses(adapter, model, data, loss=loss, batch_size=whole(batch_size, "batch_size", least=1))
    pilot = _Pilot(losses, seed)
    sizes = SIZES if prior_std is None else (1.0,)
    begun = [
        gaussian_posterior(adapter, own, include_head=include_head, relative_noise=size, prior=prior) for size in sizes
    ]
    best = pilot.best(begun)
    training = _Training(losses, best, objective or torch.nn.functional.cross_entropy, rate, seed)
    steps = max(1, round(epochs * len(losses) / batch_size))
    fixed = None if prior_std is None else scale_on_grid(prior_std)
    candidates = [best] if select and prior_std is None else []
    for number, weight in enumerate(weights):
        posterior = training.run(weight, steps, fixed, number, progress=progress)
        fitted = fitted_posterior(
            with_tensors(best.adapter, posterior[0], name=adapter.name), posterior[1], own,
            include_head=include_head, prior=prior, scales=scales,
        )  # fmt: skip
        candidates.append(fitted)
        training.scales = dict(fitted.prior_stds)
        if select:
            candidates.append(
                fitted_posterior(
                    fitted.adapter, fitted.prior_stds, own, include_head=include_head, prior=prior, scales=scales
                )
            )
    return pilot.best(candidates) if select else candidates[-1]


class _Pilot:
    """Estimated bounds of candidates, on the same blocks of the data."""

    def __init__(self, losses: ModelLosses, seed: int) -> None:
        self.losses, self.seed = losses, seed
        self.blocks = np.array_split(np.arange(len(losses)), min(PILOT_BLOCKS, len(losses)))

    def best(self, candidates: Sequence[GaussianPosterior]) -> GaussianPosterior:
        if len(candidates) == 1:
            return candidates[0]
        return candidates[int(np.argmin([self._bound(one) for one in candidates]))]

    def _bound(self, posterior: GaussianPosterior) -> float:
        generator = generator_for(self.seed, "fit", "pilot")
        total = sum(float(self.losses.evaluate_some(posterior.draw(generator), block).sum()) for block in self.blocks)
        return kl_inverse_risk(total / len(self.losses), posterior.kl, len(self.losses))


class _Training:
    """Means and log standard deviations, in units of the prior's standard deviation."""

    def __init__(
        self, losses: ModelLosses, begun: GaussianPosterior, objective: Objective, rate: float | int, seed: int
    ) -> None:
        self.losses, self.objective, self.rate, self.seed = losses, objective, rate, seed
        self.adapter, self.origin = begun.adapter, begun.prior_centre
        self.means = {key: value.clone() for key, value in begun.centre.items()}
        self.scales = dict(begun.prior_stds)
        self.logs = {key: torch.full_like(value, math.log(self.scales[key])) for key, value in self.means.items()}
        self.applied = AppliedAdapter(begun.adapter, losses.model, head=losses.head)
        self.applied.remove()

    def run(
        self, weight: float | int, steps: int, fixed: float | None, number: int, *, progress: bool
    ) -> tuple[dict[TensorKey, Tensor], dict[TensorKey, Tensor]]:
        """One weight of the path; gives means and standard deviations."""
        if fixed is not None:
            self.scales = dict.fromkeys(self.means, fixed)
            if number == 0:
                self.logs = {key: torch.full_like(value, math.log(fixed)) for key, value in self.means.items()}
        scales, n = self.scales, len(self.losses)
        away = {key: ((m - self.origin[key]) / scales[key]).requires_grad_() for key, m in self.means.items()}
        wide = {key: (log - math.log(scales[key])).requires_grad_() for key, log in self.logs.items()}
        parameters = [*away.values(), *wide.values()]
        groups: list[dict[str, Any]] = [{"params": [*away.values()], "lr": self.rate}]
        groups.append({"params": [*wide.values()], "lr": STD_RATE * self.rate})
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        noise, order = (generator_for(self.seed, "fit", use, number) for use in ("noise", "batches"))
        batches: list[np.ndarray] = []
        size = self.losses.batch_size
        for _ in tqdm(range(steps), desc=f"weight {weight:g}", disable=not progress, leave=False):
            if not batches:
                shuffled = torch.randperm(n, generator=order).numpy()
                batches = [shuffled[at : at + size] for at in range(0, n, size)]
            inputs, labels = self.losses.batch(batches.pop())
            drawn = {
                key: self.origin[key]
                + scales[key]
                * (away[key] + wide[key].exp() * torch.randn(away[key].shape, generator=noise, dtype=away[key].dtype))
                for key in away
            }
            changed = self.applied.changed_weights(with_tensors(self.adapter, drawn))
            output = torch.func.functional_call(self.losses.model, changed, (), inputs)
            kl = sum((0.5 * ((2 * wide[key]).exp() - 1 - 2 * wide[key] + away[key].square())).sum() for key in away)
            value = self.objective(logits_of(output), labels) + weight / n * kl
            if not torch.isfinite(value):
                raise ValueError(f"training diverged at rate {self.rate:g}: give a smaller rate")
            # Only the posterior's own gradients: none is left in the model.
            for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
        self.means = {key: (self.origin[key] + scales[key] * u).detach() for key, u in away.items()}
        self.logs = {key: (v + math.log(scales[key])).detach() for key, v in wide.items()}
        return dict(self.means), {key: log.exp() for key, log in self.logs.items()}
