"""Gaussian posteriors centred on the trained tensors, Gaussian priors centred on their start, and KL between them.

With one standard deviation s for both, KL = sum ||W - W_0||^2/(2 s^2), whatever the dimension (theory notes, section
5.7). The prior is fixed before the data; s is chosen from the grid 2^(-k/2), k = ..., -1, 0, 1, ..., by a union bound
whose price is in `scale_price`. A posterior may be any law that the data suggest, so that centring it on balanced
factors of the same update, where that makes KL smaller, is free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.energies import factor_energies, scale_on_grid, scale_price, squared_norm, with_head
from asym_analysis.bounds.trained import TensorKey, Tuned, trained_tensors, with_tensors

__all__ = ["GaussianPosterior", "fitted_posterior", "gaussian_kl", "gaussian_posterior", "with_start"]


def gaussian_kl(deviation_squared: float, size: int, posterior_std: float, prior_std: float) -> float:
    """KL(N(w, s_q^2 I) || N(w_0, s_p^2 I)) in nats, from ||w - w_0||^2 and the dimension.

    Examples
    --------
    >>> gaussian_kl(8.0, size=1000, posterior_std=2.0, prior_std=2.0)
    1.0
    """
    if posterior_std <= 0 or prior_std <= 0:
        raise ValueError("standard deviations must be positive")
    ratio = (posterior_std / prior_std) ** 2
    return 0.5 * (size * (ratio - 1.0 - math.log(ratio)) + deviation_squared / prior_std**2)


@dataclass(frozen=True)
class GaussianPosterior:
    """Independent Gaussians around trained tensors, with the prior they are charged against.

    Attributes
    ----------
    adapter
        The centre; `draw` gives adapters around it.
    stds
        Posterior standard deviation of each trained tensor: a number, or one for each entry.
    kl
        KL to the prior in nats, with everything charged that chose the prior.
    """

    adapter: Adapter
    stds: Mapping[TensorKey, float | Tensor]
    kl: float
    centre: Mapping[TensorKey, Tensor] = field(repr=False, default_factory=dict)

    def draw(self, generator: torch.Generator) -> Adapter:
        """One adapter from the posterior, in memory."""
        values = {}
        for key, centre in self.centre.items():
            noise = torch.randn(centre.shape, generator=generator, dtype=centre.dtype)
            values[key] = centre + self.stds[key] * noise
        return with_tensors(self.adapter, values, name=f"{self.adapter.name}, drawn")


def gaussian_posterior(
    adapter: Adapter,
    tuned: Tuned,
    *,
    include_head: bool = True,
    relative_noise: float = 1.0,
    prior: Adapter | None = None,
) -> GaussianPosterior:
    """The posterior whose noise has about `relative_noise` times the norm of the update, and of the head.

    Both factors trained and no recorded initialization: it is centred on the balanced factors of each update, with the
    prior at zero. `prior`, an adapter made without the samples that the bound counts, is the centre of the prior in
    place of the initialization.

    Raises
    ------
    ValueError
        If nothing was trained: every update and the head are zero.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.randn(2, 6), torch.randn(5, 2))})
    >>> posterior = gaussian_posterior(adapter, "B", relative_noise=0.5)
    >>> posterior.draw(torch.Generator().manual_seed(0))["q"].shape
    (5, 6)
    """
    start = prior if prior is not None else adapter.initial
    centred = adapter
    if tuned == "both" and start is None:
        centred = _balanced(adapter)
    reference = with_start(centred, start) if start is not None else centred
    energy = factor_energies(reference)[tuned]
    if include_head:
        energy = with_head(energy, reference)
    scales = energy.scales(tuned, relative_noise)
    if not scales:
        raise ValueError(f"{adapter.name} holds only zeros: there is nothing to centre a posterior on")
    tensors = list(trained_tensors(reference, tuned, include_head=include_head))
    starts = {tensor.key: tensor.read_start for tensor in tensors if tensor.read_start is not None}
    stds = {tensor.key: scales[_group(tensor.key)] for tensor in tensors if _group(tensor.key) in scales}
    centre = {tensor.key: tensor.read() for tensor in tensors if tensor.key in stds}
    deviations = {key: value - (starts[key]().to(value) if key in starts else 0.0) for key, value in centre.items()}
    kl = sum(squared_norm(moved) / (2 * stds[key] ** 2) for key, moved in deviations.items())
    return GaussianPosterior(centred, stds, kl + sum(map(scale_price, scales.values())), centre)


def fitted_posterior(
    adapter: Adapter,
    stds: Mapping[TensorKey, float | Tensor],
    tuned: Tuned,
    *,
    include_head: bool = True,
    prior: Adapter | None = None,
) -> GaussianPosterior:
    """A posterior with standard deviations of its own for each tensor, or each entry, and a prior scale a tensor.

    Each tensor's prior standard deviation is the one of the grid that makes its KL smallest, and is paid for; the
    prior's centre is `prior`, or the recorded initialization, or zero.

    Raises
    ------
    ValueError
        If a trained tensor has no standard deviation.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> round(fitted_posterior(adapter, {("q", "B"): 0.5}, "B").kl, 3)
    2.465
    """
    reference = with_start(adapter, prior) if prior is not None else adapter
    centre, total = {}, 0.0
    for tensor in trained_tensors(reference, tuned, include_head=include_head):
        if tensor.key not in stds:
            raise ValueError(f"no standard deviation is given for {tensor.key[1]} of {tensor.key[0]}")
        value = tensor.read()
        moved = value.double() - (tensor.read_start().double() if tensor.read_start is not None else 0.0)
        variance = torch.as_tensor(stds[tensor.key], dtype=torch.float64).square().expand(value.shape)
        best = scale_on_grid(math.sqrt((variance + moved.square()).mean().item()))
        total += min(
            _entrywise_kl(moved, variance, scale) + scale_price(scale)
            for scale in (best * 2 ** (step / 2) for step in (-1, 0, 1))
        )
        centre[tensor.key] = value
    return GaussianPosterior(adapter, dict(stds), total, centre)


def with_start(adapter: Adapter, start: Adapter) -> Adapter:
    """The same adapter with `start` as what it began from."""
    sources = {module: adapter.source(module) for module in adapter}
    return Adapter(
        sources,
        name=adapter.name,
        metadata=adapter.metadata,
        extras=adapter.extras,
        coverage=adapter.coverage,
        initial=start,
    )


def _entrywise_kl(moved: Tensor, variance: Tensor, prior_std: float) -> float:
    ratio = variance / prior_std**2
    return 0.5 * (ratio - 1.0 - ratio.log() + moved.square() / prior_std**2).sum().item()


def _group(key: TensorKey) -> str:
    return key[1] if key[1] in ("A", "B") else "head"


def _balanced(adapter: Adapter) -> Adapter:
    values: dict[TensorKey, Tensor] = {}
    for module in adapter:
        update = adapter[module]
        balanced = update.balanced()
        # `balanced` has scaling 1; the adapter keeps its own, so that it is divided out of both factors evenly.
        root = math.sqrt(abs(update.scaling)) or 1.0
        pad = update.rank - balanced.rank
        A, B = balanced.A / root, balanced.B / math.copysign(root, update.scaling)
        values[(module, "A")] = torch.nn.functional.pad(A, (0, 0, 0, pad))
        values[(module, "B")] = torch.nn.functional.pad(B, (0, pad))
    return with_tensors(adapter, values)
