"""Train a Gaussian posterior around an adapter for the bound itself: means, noise scales, a path of KL weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.load import as_adapter
from asym_analysis.bounds.admissibility import checked_tuned, refuse_other_shapes
from asym_analysis.bounds.energies import scale_on_grid
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.model_losses import ModelLosses, Samples, logits_of
from asym_analysis.bounds.posterior import GaussianPosterior, fitted_posterior, gaussian_posterior, group_of
from asym_analysis.bounds.risk import kl_inverse_risk
from asym_analysis.bounds.trained import TensorKey, is_plain, with_tensors
from asym_analysis.vocabulary import Tuned, choose, finite, whole

__all__ = ["fit_posterior"]

Objective = Callable[[Tensor, Tensor], Tensor]
Make = Callable[[Adapter, Mapping[TensorKey, float | Tensor]], GaussianPosterior]

SIZES = (0.25, 0.5, 1.0, 2.0)  # of the noise to begin with, as shares of the update's norm
LIFTED = (1 / 64, 1 / 16)  # further sizes, for factors that join a trained posterior
GROUPS = ("B", "A", "rest")
PILOT_BLOCKS = 8  # draws in one pass over the pilot's samples, to compare candidates
PILOT_SAMPLES = 1024
WINDOW = 16  # batches whose samples are sorted by length
SHRUNK = (0.7, 0.5, 0.35)  # shares of the way from the prior's centre: KL falls faster than the gain
MOMENTUM, MEMORY = 0.9, 0.99  # of the gradient, and of its squared norm
STD_RATE = 0.2  # rate of the log standard deviations over that of the means


def fit_posterior(
    checkpoint: Any,
    model: torch.nn.Module,
    data: Iterable[Mapping[str, Any]] | Samples,
    *,
    tuned: Tuned | str = "auto",
    include_head: bool = True,
    prior: Adapter | None = None,
    prior_std: float | int | Mapping[str, float] | None = None,
    begin: GaussianPosterior | None = None,
    weights: Sequence[float | int] = (4.0, 1.0),
    epochs: float | int = 3,
    rate: float | int = 1.0,
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
    data : iterable of mapping, or Samples
        Labelled batches, as in `ModelLosses`: the n samples that the bound counts. Training runs where the model lies.
    tuned, include_head : {"B", "A", "both"} or str or bool, optional
        As in `compute_bound`.
    prior : Adapter, optional
        An adapter trained on other samples than these n: the prior's centre. By default the recorded initialization,
        or zero.
    prior_std : float or int or mapping, optional
        Standard deviation of the prior during training, put on the grid and kept: one number, or one for each of "B",
        "A" and "rest" (the head). By default the best of noises of .25 to 2 times the update, chosen anew before each
        of `weights`.
    begin : GaussianPosterior, optional
        A posterior to begin at in place of the adapter's values: an earlier one of the same adapter, with its means,
        standard deviations and prior scales. Tensors that it did not train begin at the prior with the noise that
        suits the data best.
    weights : sequence of float or int, optional
        The path: weights of KL/n, one after the other, each training continues from the end of the one before.
    epochs : float or int, default 3
        Passes over the data for each weight.
    rate : float or int, default 1.0
        Largest length of a step of the means, over all entries together, in units of the prior's standard deviation;
        it falls to zero along a cosine.
    batch_size : int, default 32
        Samples of one step.
    loss : str, default "zero-one"
        Of the bound, for the selection; as in `ModelLosses`.
    objective : Objective, optional
        Training loss of logits and labels, a mean over the batch; cross-entropy by default.
    scales : str, default "group"
        "group" or "tensor", as in `fitted_posterior`.
    select : bool, default True
        Return the candidate of lowest bound, estimated on up to 1,024 samples: the posterior before training, the end
        of each weight, the same with all standard deviations equal to the prior's, and the same at .7, .5 and .35 of
        the way from the prior's centre: a path of smaller KL without further training. Otherwise the end of the last.
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
    if prior is not None:
        refuse_other_shapes(adapter, prior, "the prior")
    choose(scales, ("group", "tensor"), "scales")
    weights = _positive(weights, "weights")
    (epochs,), (rate,) = _positive([epochs], "epochs"), _positive([rate], "rate")
    losses = ModelLosses(adapter, model, data, loss=loss, batch_size=whole(batch_size, "batch_size", least=1))
    pilot = _Pilot(losses, seed)
    made = partial(fitted_posterior, tuned=own, include_head=include_head, prior=prior, scales=scales)
    stds = _stds(prior_std)
    best = pilot.best(_begun(adapter, own, begin, stds, made, include_head=include_head, prior=prior))
    training = _Training(losses, best, objective or losses.cross_entropy, rate, seed)
    if stds is not None:
        training.scales = {key: stds.get(group_of(adapter, key), scale) for key, scale in training.scales.items()}
    steps = max(1, round(epochs * len(losses) / batch_size))
    candidates = [best]
    for number, weight in enumerate(weights):
        means, widths = training.run(weight, steps, number, progress=progress)
        fitted = made(with_tensors(best.adapter, means, name=adapter.name), widths)
        candidates.append(fitted)
        if stds is None:
            training.scales = dict(fitted.prior_stds)
        if select:
            candidates += _simpler(fitted, made)
    return pilot.best(candidates) if select else candidates[-1]


def _positive(values: Sequence[float | int], name: str) -> list[float]:
    if not values:
        raise ValueError(f"{name} needs at least one value")
    return [finite(value, name, above=0) for value in values]


def _simpler(fitted: GaussianPosterior, made: Make) -> Iterator[GaussianPosterior]:
    """Posteriors of smaller KL, without further training: the prior's noise, or means nearer to the prior's."""
    yield made(fitted.adapter, fitted.prior_stds)
    for share in SHRUNK:
        nearer = {
            key: fitted.prior_centre[key] + share * (mean - fitted.prior_centre[key])
            for key, mean in fitted.centre.items()
        }
        yield made(with_tensors(fitted.adapter, nearer), fitted.stds)


def _stds(given: float | int | Mapping[str, float] | None) -> dict[str, float] | None:
    """The prior's standard deviation of each group, on the grid."""
    if given is None:
        return None
    by_group = dict(given) if isinstance(given, Mapping) else dict.fromkeys(GROUPS, given)
    for group, value in by_group.items():
        choose(group, GROUPS, "prior_std")
        finite(value, "prior_std", above=0)
    return {group: scale_on_grid(value) for group, value in by_group.items()}


def _begun(
    adapter: Adapter, own: Tuned, begin: GaussianPosterior | None, stds: dict[str, float] | None, made: Make,
    **charged: Any,
) -> list[GaussianPosterior]:  # fmt: skip
    """Posteriors to begin at, of which a pilot takes the best."""
    given = {} if begin is None else dict(begin.stds)
    moved = adapter
    if begin is not None:
        origin = gaussian_posterior(adapter, own, **charged).prior_centre
        moved = with_tensors(adapter, {**origin, **begin.centre})
    found: list[GaussianPosterior] = []
    for size in SIZES if begin is None else (*LIFTED, *SIZES):
        one = gaussian_posterior(moved, own, relative_noise=size, **charged)
        if stds is None and not given:
            found.append(one)
            continue
        noise = (
            dict(one.stds) if stds is None else {key: stds.get(group_of(moved, key), one.stds[key]) for key in one.stds}
        )
        noise |= {key: given[key] for key in noise.keys() & given.keys()}
        found.append(made(moved, noise))
        if stds is not None or noise.keys() <= given.keys():
            break
    return found


class _Pilot:
    """Estimated bounds of candidates, on the same blocks of some of the data."""

    def __init__(self, losses: ModelLosses, seed: int) -> None:
        self.losses, self.seed = losses, seed
        order = torch.randperm(len(losses), generator=generator_for(seed, "fit", "pilot samples")).numpy()
        some = order[:PILOT_SAMPLES]
        self.count, self.blocks = len(some), np.array_split(some, min(PILOT_BLOCKS, len(some)))

    def best(self, candidates: Sequence[GaussianPosterior]) -> GaussianPosterior:
        if len(candidates) == 1:
            return candidates[0]
        return candidates[int(np.argmin([self._bound(one) for one in candidates]))]

    def _bound(self, posterior: GaussianPosterior) -> float:
        generator = generator_for(self.seed, "fit", "pilot")
        total = sum(float(self.losses.evaluate_some(posterior.draw(generator), block).sum()) for block in self.blocks)
        return kl_inverse_risk(total / self.count, posterior.kl, len(self.losses))


class _Training:
    """Means and log standard deviations, in units of the prior's standard deviation.

    All tensors lie in one vector, where the model lies: on an accelerator the calls of a step take the time, not the
    arithmetic.
    """

    def __init__(
        self, losses: ModelLosses, begun: GaussianPosterior, objective: Objective, rate: float | int, seed: int
    ) -> None:
        self.losses, self.objective, self.rate, self.seed = losses, objective, rate, seed
        adapter = begun.adapter
        # Parts other than factors are combined where the adapter lies.
        self.device = losses.device if all(is_plain(adapter.source(m)) for m in adapter) else torch.device("cpu")
        there = {} if self.device.type == "cpu" else {module: adapter[module].on(self.device) for module in adapter}
        self.adapter = adapter.with_updates(there) if there else adapter
        self.shapes = {key: value.shape for key, value in begun.centre.items()}
        self.origin, self.scales = begun.prior_centre, dict(begun.prior_stds)
        self.means = dict(begun.centre)
        self.logs = {
            key: torch.as_tensor(begun.stds[key]).to(value).expand(value.shape).log()
            for key, value in self.means.items()
        }

    def run(
        self, weight: float | int, steps: int, number: int, *, progress: bool
    ) -> tuple[dict[TensorKey, Tensor], dict[TensorKey, Tensor]]:
        """One weight of the path; gives means and standard deviations."""
        scales, n = self.scales, len(self.losses)
        origin = self.flat(self.origin)
        scale = self.flat({key: torch.full_like(mean, scales[key]) for key, mean in self.means.items()})
        away = self.flat({key: (m - self.origin[key]) / scales[key] for key, m in self.means.items()}).requires_grad_()
        wide = self.flat({key: log - math.log(scales[key]) for key, log in self.logs.items()}).requires_grad_()
        steppers = [_Steps(away, self.rate), _Steps(wide, STD_RATE * self.rate)]
        noise, order = (generator_for(self.seed, "fit", use, number) for use in ("noise", "batches"))
        batches: list[np.ndarray] = []
        for step in tqdm(range(steps), desc=f"weight {weight:g}", disable=not progress, leave=False):
            if not batches:
                batches = self.batches(order)
            inputs, labels = self.losses.batch(batches.pop())
            drawn = origin + scale * (away + wide.exp() * self.flat(self.noise(noise)))
            with self.losses.adapted.using(with_tensors(self.adapter, self.parts(drawn))) as run:
                output = run(inputs)
            kl = (0.5 * ((2 * wide).exp() - 1 - 2 * wide + away.square())).sum()
            value = self.objective(logits_of(output), labels) + weight / n * kl.to(labels.device)
            # Only the posterior's own gradients: none is left in the model.
            gradients = torch.autograd.grad(value, (away, wide))
            squares = [part.sum() for g in gradients for part in self.parts(g.square()).values()]
            # The one number of a step that is waited for: whether it is finite, and how long its gradients are.
            found, *norms = torch.stack([value.detach().to(self.device), *squares]).tolist()
            if not math.isfinite(found):
                raise ValueError(f"training diverged at rate {self.rate:g}: give a smaller rate")
            share = 0.5 + 0.5 * math.cos(math.pi * step / steps)
            half = len(norms) // 2
            for stepper, gradient, own in zip(steppers, gradients, (norms[:half], norms[half:]), strict=True):
                stepper.step(gradient, sum(own), share)
        means, logs = (self.parts(value.detach().cpu()) for value in (away, wide))
        self.means = {key: self.origin[key] + scales[key] * u for key, u in means.items()}
        self.logs = {key: v + math.log(scales[key]) for key, v in logs.items()}
        return dict(self.means), {key: log.exp() for key, log in self.logs.items()}

    def flat(self, values: Mapping[TensorKey, Tensor]) -> Float[Tensor, "entries"]:
        """Values of all trained tensors as one vector."""
        return torch.cat([values[key].reshape(-1) for key in self.shapes]).to(self.device)

    def parts(self, vector: Float[Tensor, "entries"]) -> dict[TensorKey, Tensor]:
        """The trained tensors in one vector."""
        pieces = vector.split([shape.numel() for shape in self.shapes.values()])
        return {key: piece.view(shape) for (key, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def noise(self, generator: torch.Generator) -> dict[TensorKey, Tensor]:
        """Standard normal numbers for all entries; the generator's own, on whichever device they are used."""
        return {
            key: torch.randn(shape, generator=generator, dtype=self.means[key].dtype)
            for key, shape in self.shapes.items()
        }

    def batches(self, generator: torch.Generator) -> list[Int[np.ndarray, "_"]]:
        """One pass over the samples in random order; of each window of batches, those of about one length together."""
        size, lengths = self.losses.batch_size, self.losses.lengths
        shuffled = torch.randperm(len(self.losses), generator=generator).numpy()
        if len(set(lengths.tolist())) > 1:
            for at in range(0, len(shuffled), WINDOW * size):
                window = shuffled[at : at + WINDOW * size]
                shuffled[at : at + WINDOW * size] = window[np.argsort(lengths[window], kind="stable")]
        parts = [shuffled[at : at + size] for at in range(0, len(shuffled), size)]
        return [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]


class _Steps:
    """Gradient steps with momentum, of a length that one number sets for all tensors together.

    In units of the prior's standard deviation, the gradient is the direction that lowers the loss most for its KL.
    Steps scaled entry by entry, as Adam's, move the many entries of which the data say nothing as far as the others.
    """

    def __init__(self, values: Tensor, rate: float) -> None:
        self.values, self.rate, self.count = values, rate, 0
        self.mean, self.square = torch.zeros_like(values), 0.0

    @torch.no_grad()
    def step(self, gradient: Tensor, norm: float, share: float) -> None:
        """One step of `share` times the rate, along a gradient of squared norm `norm`."""
        self.count += 1
        self.square = MEMORY * self.square + (1 - MEMORY) * norm
        size = math.sqrt(self.square / (1 - MEMORY**self.count)) * (1 - MOMENTUM**self.count)
        self.mean.mul_(MOMENTUM).add_(gradient, alpha=1 - MOMENTUM)
        if size > 0:
            self.values.add_(self.mean, alpha=-share * self.rate / size)
