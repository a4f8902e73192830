"""Gaussian posteriors centred on the trained tensors, Gaussian priors centred on their initialization, and KL.

With one standard deviation s for both, KL = sum ||W - W_0||^2/(2 s^2), whatever the dimension (docs/theory.md, section
5.7). The prior is fixed before the data; s is chosen from the grid 2^(-k/2), k = ..., -1, 0, 1, ..., by a union bound
whose price is in `scale_price`. The posterior may depend on the data, so that centring it on balanced factors of the
same update, where that makes KL smaller, costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.energies import factor_energies, noise_size, scale_on_grid, scale_price, with_head
from asym_analysis.bounds.report import Prior
from asym_analysis.bounds.trained import TensorKey, is_plain, trained_tensors, with_tensors
from asym_analysis.vocabulary import Tuned, choose

__all__ = ["GaussianPosterior", "divergence", "fitted_posterior", "gaussian_posterior", "group_of"]


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """Independent Gaussians around trained tensors, with the prior they are charged against.

    Attributes
    ----------
    adapter
        The adapter whose other tensors every draw keeps.
    stds
        Posterior standard deviation of each trained tensor: a number, or one for each entry.
    kl
        KL to the prior in nats, with everything charged that chose the prior.
    tuned, include_head
        The trained factors, and whether the head is perturbed and charged: what the posterior was made for.
    prior
        Where the prior is centred: "zero", "initialization" or "data" (an adapter trained on other samples).
    prior_name
        Name of that adapter; empty otherwise.
    centre, prior_centre, prior_stds
        Of each trained tensor: the posterior's mean, the prior's mean, and the prior's standard deviation.
    price
        Nats in `kl` that paid for the choice of the prior's scales.
    """

    adapter: Adapter
    stds: Mapping[TensorKey, float | Tensor]
    kl: float
    tuned: Tuned
    include_head: bool
    prior: Prior
    prior_name: str = ""
    centre: Mapping[TensorKey, Tensor] = field(repr=False, default_factory=dict)
    prior_centre: Mapping[TensorKey, Tensor] = field(repr=False, default_factory=dict)
    prior_stds: Mapping[TensorKey, float] = field(repr=False, default_factory=dict)
    price: float = 0.0

    def draw(self, generator: torch.Generator) -> Adapter:
        """Draw one adapter from the posterior.

        Parameters
        ----------
        generator : Generator
            Of the noise.

        Returns
        -------
        Adapter
            In memory.
        """
        return self._with({key: value for key, value, _ in self._values(generator)})

    def draw_with_density(self, generator: torch.Generator) -> tuple[Adapter, float]:
        """Draw one adapter, with the log of the density of the posterior over that of the prior at it.

        Parameters
        ----------
        generator : Generator
            Of the noise.

        Returns
        -------
        adapter, nats
            In memory; the log density ratio includes the price of the prior's scales. Its mean over draws is `kl`.
        """
        values, nats = {}, self.price
        for key, value, noise in self._values(generator):
            values[key] = value
            std = torch.as_tensor(self.stds[key], dtype=torch.float64)
            moved = value.double() - self.prior_centre[key].double()
            terms = (moved / self.prior_stds[key]).square() - noise.double().square()
            log_ratio = (self.prior_stds[key] / std).log().expand(value.shape)
            nats += (log_ratio + terms / 2).sum().item()
        return self._with(values), nats

    def _values(self, generator: torch.Generator) -> Iterator[tuple[TensorKey, Tensor, Tensor]]:
        """Each trained tensor of one draw, with the unit noise in it."""
        for key, centre in self.centre.items():
            noise = torch.randn(centre.shape, generator=generator, dtype=centre.dtype)
            yield key, centre + self.stds[key] * noise, noise

    def _with(self, values: Mapping[TensorKey, Tensor]) -> Adapter:
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

    Parameters
    ----------
    adapter : Adapter
        The trained adapter. Where both factors were trained and no initialization is recorded, the posterior is
        centred on the balanced factors of each update, with the prior at zero.
    tuned : {"B", "A", "both"}
        The trained factors.
    include_head : bool, default True
        Also perturb and charge the trained tensors outside the modules.
    relative_noise : float, default 1.0
        Size of the noise; positive.
    prior : Adapter, optional
        An adapter made without the samples that the bound counts: the prior's centre in place of the initialization.

    Returns
    -------
    GaussianPosterior
        With one scale for A, one for B and one for all other trained tensors, each from the grid and paid for.

    Raises
    ------
    ValueError
        If nothing was trained.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.randn(2, 6), torch.randn(5, 2))})
    >>> posterior = gaussian_posterior(adapter, "B", relative_noise=0.5)
    >>> posterior.draw(torch.Generator().manual_seed(0))["q"].shape
    (5, 6)
    """
    noise_size(relative_noise)
    start = prior if prior is not None else adapter.initial
    centred = _balanced(adapter) if tuned == "both" and start is None else adapter
    reference = centred.replaced(initial=start) if start is not None else centred
    energy = factor_energies(reference)[tuned]
    if include_head:
        energy = with_head(energy, reference)
    scales = energy.scales(tuned, relative_noise)
    centre, origin, stds = {}, {}, {}
    for tensor in trained_tensors(reference, tuned, include_head=include_head):
        centre[tensor.key] = value = tensor.read()
        origin[tensor.key] = _initial_value(tensor.read_initial, value)
        stds[tensor.key] = scales[group_of(reference, tensor.key)]
    if not centre:
        raise ValueError(f"{adapter.name} has no trained tensor: there is nothing to centre a posterior on")
    price = sum(map(scale_price, scales.values()))
    kl = price + sum(_squared_distance(value, origin[key]) / (2 * stds[key] ** 2) for key, value in centre.items())
    return GaussianPosterior(
        centred, stds, kl, tuned, include_head, _prior_kind(adapter, prior), "" if prior is None else prior.name,
        centre, origin, stds, price,
    )  # fmt: skip


def fitted_posterior(
    adapter: Adapter,
    stds: Mapping[TensorKey, float | Tensor],
    tuned: Tuned,
    *,
    include_head: bool = True,
    prior: Adapter | None = None,
    scales: str = "tensor",
) -> GaussianPosterior:
    """A posterior with given standard deviations for each tensor, or each entry, and prior scales that fit it.

    Parameters
    ----------
    adapter : Adapter
        The posterior's centre.
    stds : mapping of TensorKey to float or Tensor
        Standard deviation of each trained tensor, by its key.
    tuned : {"B", "A", "both"}
        The trained factors.
    include_head : bool, default True
        Also perturb and charge the trained tensors outside the modules.
    prior : Adapter, optional
        An adapter made without the samples that the bound counts; by default the recorded initialization, or zero.
    scales : str, default "tensor"
        "tensor" for a prior scale of each tensor, or "group" for one of all A, one of all B and one of the rest: fixed
        before the data. A scale costs about 6 nats.

    Returns
    -------
    GaussianPosterior
        Each prior standard deviation is the one of the grid that makes the KL smallest, and is paid for.

    Raises
    ------
    ValueError
        If a trained tensor has no standard deviation, or one is not positive.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> round(fitted_posterior(adapter, {("q", "B"): 0.5}, "B").kl, 3)
    2.465
    """
    choose(scales, ("tensor", "group"), "scales")
    reference = adapter.replaced(initial=prior) if prior is not None else adapter
    centre: dict[TensorKey, Tensor] = {}
    origin: dict[TensorKey, Tensor] = {}
    members: dict[object, list[TensorKey]] = {}
    for tensor in trained_tensors(reference, tuned, include_head=include_head):
        if tensor.key not in stds:
            raise ValueError(f"no standard deviation is given for {tensor.key[1]} of {tensor.key[0]}")
        std = torch.as_tensor(stds[tensor.key], dtype=torch.float64)
        if not bool((std > 0).all()) or not bool(torch.isfinite(std).all()):
            raise ValueError(f"the standard deviation of {tensor.key[1]} of {tensor.key[0]} is not positive and finite")
        centre[tensor.key] = value = tensor.read()
        origin[tensor.key] = _initial_value(tensor.read_initial, value)
        label = tensor.key if scales == "tensor" else group_of(reference, tensor.key)
        members.setdefault(label, []).append(tensor.key)
    prior_stds: dict[TensorKey, float] = {}
    total = price = 0.0
    for keys in members.values():
        moved = torch.cat([(centre[key].double() - origin[key].double()).flatten() for key in keys])
        spread = [torch.as_tensor(stds[key], dtype=torch.float64).expand(centre[key].shape).flatten() for key in keys]
        variance = torch.cat(spread).square()
        best = scale_on_grid(math.sqrt((variance + moved.square()).mean().item()))
        candidates = [best * 2 ** (step / 2) for step in (-1, 0, 1)]
        nats = [_entrywise_kl(moved, variance, scale) + scale_price(scale) for scale in candidates]
        chosen = candidates[nats.index(min(nats))]
        total += min(nats)
        price += scale_price(chosen)
        prior_stds.update(dict.fromkeys(keys, chosen))
    return GaussianPosterior(
        adapter, dict(stds), total, tuned, include_head, _prior_kind(adapter, prior),
        "" if prior is None else prior.name, centre, origin, prior_stds, price,
    )  # fmt: skip


def divergence(posterior: GaussianPosterior) -> tuple[float, float]:
    """KL of a posterior from its own centre, standard deviations and prior, and the price of the prior's scales.

    Parameters
    ----------
    posterior : GaussianPosterior
        A posterior, as it is now.

    Returns
    -------
    kl, price
        In nats; `kl` includes `price`. A prior scale that all tensors of one group share (all A, all B, or all others)
        is paid once.

    Raises
    ------
    ValueError
        If a scale of the prior is not on the grid 2^(-k/2), or a standard deviation is not positive.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> posterior = fitted_posterior(adapter, {("q", "B"): 0.5}, "B")
    >>> kl, price = divergence(posterior)
    >>> abs(kl - posterior.kl) < 1e-9, price == posterior.price
    (True, True)
    """
    groups: dict[str, list[float]] = {}
    total = 0.0
    for key, value in posterior.centre.items():
        std = torch.as_tensor(posterior.stds[key], dtype=torch.float64).expand(value.shape)
        if not bool((std > 0).all()):
            raise ValueError(f"the standard deviation of {key[1]} of {key[0]} is not positive")
        scale = posterior.prior_stds[key]
        total += _entrywise_kl(value.double() - posterior.prior_centre[key].double(), std.square(), scale)
        groups.setdefault(group_of(posterior.adapter, key), []).append(scale)
    price = sum((sum(map(scale_price, [s[0]] if len(set(s)) == 1 else s)) for s in groups.values()), 0.0)
    return total + price, price


def _prior_kind(adapter: Adapter, prior: Adapter | None) -> Prior:
    if prior is not None:
        return "data"
    return "zero" if adapter.initial is None else "initialization"


def _initial_value(read: object, value: Tensor) -> Tensor:
    return read().to(value) if callable(read) else torch.zeros_like(value)


def _squared_distance(value: Tensor, origin: Tensor) -> float:
    return torch.linalg.vector_norm((value - origin), dtype=torch.float64).item() ** 2


def _entrywise_kl(moved: Tensor, variance: Tensor, prior_std: float) -> float:
    ratio = variance / prior_std**2
    return 0.5 * (ratio - 1.0 - ratio.log() + moved.square() / prior_std**2).sum().item()


def group_of(adapter: Adapter, key: TensorKey) -> str:
    """The group that shares a prior scale with a trained tensor: "A", "B" or "rest".

    Parameters
    ----------
    adapter
        The adapter.
    key
        Of the tensor.

    Returns
    -------
    str
        "rest" for heads and for trained parts that are neither A nor B.
    """
    owner, part = key
    return part if part in ("A", "B") and owner in adapter and is_plain(adapter.source(owner)) else "rest"


def _balanced(adapter: Adapter) -> Adapter:
    values: dict[TensorKey, Tensor] = {}
    for module in adapter:
        if not is_plain(adapter.source(module)):
            continue
        update = adapter[module]
        # In double: singular values of very small or large factors leave the range of float32.
        balanced = replace(update, A=update.A.double(), B=update.B.double()).balanced()
        # `balanced` has scaling 1; the adapter keeps its own, so that it is divided out of both factors evenly.
        root = math.sqrt(abs(update.scaling)) or 1.0
        pad = update.rank - balanced.rank
        A, B = balanced.A / root, balanced.B / math.copysign(root, update.scaling)
        values[(module, "A")] = torch.nn.functional.pad(A, (0, 0, 0, pad))
        values[(module, "B")] = torch.nn.functional.pad(B, (0, pad))
    return with_tensors(adapter, values)
