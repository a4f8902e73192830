"""Gaussian posteriors centred on the trained tensors, Gaussian priors centred on their start, and KL between them.

With one standard deviation s for both, KL = sum ||W - W_0||^2/(2 s^2), whatever the dimension (theory notes, section
5.7). The prior is fixed before the data; s is chosen from the grid 2^(-k/2), k = ..., -1, 0, 1, ..., by a union bound
whose price is in `scale_price`. A posterior may be any law that the data suggest, so that centring it on balanced
factors of the same update, where that makes KL smaller, is free.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.trained import TensorKey, Tuned, trained_tensors, with_tensors

__all__ = [
    "FactorEnergy",
    "GaussianPosterior",
    "factor_energies",
    "fitted_posterior",
    "gaussian_kl",
    "gaussian_posterior",
    "scale_on_grid",
    "scale_price",
    "with_head",
    "with_start",
]


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


def scale_on_grid(scale: float) -> float:
    """The scale of the form 2^(-k/2) that lies nearest in ratio.

    Examples
    --------
    >>> scale_on_grid(0.27), scale_on_grid(1.0)
    (0.25, 1.0)
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"a scale must be positive and finite, not {scale}")
    return 2.0 ** (round(2 * math.log2(scale)) / 2)


def scale_price(scale: float) -> float:
    """Nats that choosing `scale` from the grid costs: -ln of weights that sum to 1 over all integers k.

    The weight of k is proportional to 1/(1 + |k|)^2, the constant being pi^2/3 - 1.

    Examples
    --------
    >>> round(scale_price(1.0), 4), round(scale_price(2**-4), 4)
    (0.8286, 5.223)
    """
    k = round(-2 * math.log2(scale))
    if not math.isclose(2.0 ** (-k / 2), scale, rel_tol=1e-9):
        raise ValueError(f"{scale} is not of the form 2^(-k/2): only scales of the grid have a price")
    return 2 * math.log1p(abs(k)) + math.log(math.pi**2 / 3 - 1)


@dataclass(frozen=True)
class FactorEnergy:
    """Squared norms, summed over modules, that decide KL and the size of the noise; each tensor read once.

    Attributes
    ----------
    b_squared, a_squared
        ||B||^2, and ||A - A_0||^2 (of balanced factors where A_0 is not recorded): what KL charges.
    update
        ||scaling B A||^2.
    from_b, from_a, from_both
        Expected squared norm of the update's noise for unit noise on B, on A, and their product.
    rest_squared, rest
        Head and other trained tensors: squared deviation from the start, and squared norm of the tensors.
    """

    b_squared: float
    a_squared: float
    update: float
    from_b: float
    from_a: float
    from_both: float
    rest_squared: float
    rest: float
    rest_size: int

    def scales(self, tuned: Tuned, relative_noise: float) -> dict[str, float]:
        """Scales, on the grid, whose noise in the update has about `relative_noise` times the update's norm."""
        target = relative_noise**2 * self.update
        found: dict[str, float] = {}
        if target > 0 and tuned == "both":
            # from_b b + from_a a + from_both a b = target with equal shares of the first two.
            product = self.from_both / (self.from_b * self.from_a)
            share = 2 * target / (1 + math.sqrt(1 + product * target)) / 2
            found = {"B": math.sqrt(share / self.from_b), "A": math.sqrt(share / self.from_a)}
        elif target > 0:
            found = {tuned: math.sqrt(target / (self.from_b if tuned == "B" else self.from_a))}
        if self.rest > 0:
            found["head"] = relative_noise * math.sqrt(self.rest / self.rest_size)
        return {group: scale_on_grid(scale) for group, scale in found.items()}

    def kl(self, scales: Mapping[str, float]) -> float:
        """KL in nats with the price of every scale included."""
        squared = {"B": self.b_squared, "A": self.a_squared, "head": self.rest_squared}
        return sum(squared[group] / (2 * s**2) + scale_price(s) for group, s in scales.items())


def factor_energies(adapter: Adapter) -> dict[Tuned, FactorEnergy]:
    """The energies under each way of tuning, from one reading of the modules; the head is left out.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.eye(1, 3), 2 * torch.eye(2, 1))})
    >>> energy = factor_energies(adapter)
    >>> energy["B"].b_squared, energy["both"].b_squared
    (4.0, 2.0)
    """
    rest, start = _sums(), adapter.initial
    grams: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
    for module in adapter:
        update = adapter[module]
        A, B = update.A, update.B
        moved = torch.full((2,), torch.nan, dtype=torch.float64)
        if start is not None and module in start:
            begun = start[module]
            moved = torch.tensor([_squared(A - begun.A.to(A)), _squared(B - begun.B.to(B))], dtype=torch.float64)
        shape = torch.tensor([update.scaling**2, update.d_out, update.d_in, update.rank], dtype=torch.float64)
        # In the factors' own precision: casting them up first would take longer than reading the file.
        grams[update.rank].append((A @ A.mT, B.mT @ B, torch.cat([shape, moved])))
        if update.magnitude is not None:
            _add_rest(rest, update.magnitude, None)
    single, balanced = _sums(), _sums()
    for group in grams.values():
        _add_modules(single, balanced, *(torch.stack(part).double() for part in zip(*group, strict=True)))
    alone, both = (
        FactorEnergy(
            **{name: sums[name] for name in ("b_squared", "a_squared", "update", "from_b", "from_a", "from_both")},
            rest_squared=rest["moved"],
            rest=rest["whole"],
            rest_size=int(rest["size"]),
        )
        for sums in (single, balanced)
    )
    return {"B": alone, "A": alone, "both": both}


def with_head(energy: FactorEnergy, adapter: Adapter) -> FactorEnergy:
    """The same energies with the trained tensors that belong to no module."""
    rest, start = _sums(), adapter.initial
    for name, extra in adapter.extras.items():
        _add_rest(rest, extra.read(), start.extras[name].read() if start is not None and name in start.extras else None)
    return replace(
        energy,
        rest_squared=energy.rest_squared + rest["moved"],
        rest=energy.rest + rest["whole"],
        rest_size=energy.rest_size + int(rest["size"]),
    )


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
    kl = sum(_squared(moved) / (2 * stds[key] ** 2) for key, moved in deviations.items())
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
    2.991
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


def _add_modules(
    single: dict[str, float], balanced: dict[str, float], gram_a: Tensor, gram_b: Tensor, facts: Tensor
) -> None:
    """Add all modules of one rank, from A A^T, B^T B and (scaling^2, d_out, d_in, rank, moved A, moved B)."""
    squared_scaling, d_out, d_in, rank, moved_a, moved_b = facts.T
    a, b = (gram.diagonal(dim1=-2, dim2=-1).sum(-1) for gram in (gram_a, gram_b))
    recorded = moved_a.isfinite()
    even = _nuclear_norms(gram_a, gram_b)
    change = squared_scaling * (gram_a * gram_b).sum((-2, -1))
    for sums, size_a, size_b in (
        (single, a, b),
        (balanced, torch.where(recorded, a, even), torch.where(recorded, b, even)),
    ):
        for name, values in (
            ("a_squared", torch.where(recorded, moved_a, size_a)),
            ("b_squared", torch.where(recorded, moved_b, size_b)),
            ("update", change),
            ("from_b", squared_scaling * d_out * size_a),
            ("from_a", squared_scaling * d_in * size_b),
            ("from_both", squared_scaling * rank * d_in * d_out),
        ):
            sums[name] += values.sum().item()


def _nuclear_norms(gram_a: Tensor, gram_b: Tensor) -> Tensor:
    """Sum of the singular values of each B A, from A A^T and B^T B."""
    values, vectors = torch.linalg.eigh(gram_a)
    root = vectors * values.clamp_min(0).sqrt()[..., None, :]
    return torch.linalg.eigvalsh(root.mT @ gram_b @ root).clamp_min(0).sqrt().sum(-1)


def _add_rest(sums: dict[str, float], value: Tensor, begun: Tensor | None) -> None:
    value = value.double()
    sums["moved"] += _squared(value if begun is None else value - begun.double())
    sums["whole"] += _squared(value)
    sums["size"] += value.numel()


def _sums() -> dict[str, float]:
    return defaultdict(float)


def _squared(value: Tensor) -> float:
    return torch.linalg.vector_norm(value, dtype=torch.float64).item() ** 2
