"""Squared norms of factors: what the divergence of a Gaussian posterior and the size of its noise are made of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.trained import is_plain, trained_tensors
from asym_analysis.vocabulary import TUNED, Tuned, finite

__all__ = ["FactorEnergy", "factor_energies", "scale_on_grid", "scale_price", "squared_norm", "with_head"]


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
    rest_squared, rest, rest_size
        Head and trained tensors that are neither A nor B: squared deviation from the initialization, squared norm and
        number of entries.
    factors
        Number of entries of A and B together in the modules that train them; 0 where none does.
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
    factors: int = 0

    def scales(self, tuned: Tuned, relative_noise: float) -> dict[str, float]:
        """Scales, on the grid, whose noise in the update has about `relative_noise` times the update's norm."""
        target = relative_noise**2 * self.update
        found: dict[str, float] = {}
        if target <= 0 and self.factors:
            # A zero update sets no size: noise as large as the factors, or 1/16, whatever the data gave.
            sizes = {"B": self.b_squared, "A": self.a_squared}
            count = max(self.factors, 1)
            for factor in ("B", "A") if tuned == "both" else (tuned,):
                found[factor] = relative_noise * (math.sqrt(sizes[factor] / count) or 1 / 16)
        elif target > 0 and tuned == "both":
            # from_b b + from_a a + from_both a b = target with equal shares of the first two.
            product = self.from_both / (self.from_b * self.from_a)
            share = 2 * target / (1 + math.sqrt(1 + product * target)) / 2
            found = {"B": math.sqrt(share / self.from_b), "A": math.sqrt(share / self.from_a)}
        elif target > 0:
            found = {tuned: math.sqrt(target / (self.from_b if tuned == "B" else self.from_a))}
        if self.rest_size:
            found["rest"] = relative_noise * (math.sqrt(self.rest / self.rest_size) or 1 / 16)
        return {group: scale_on_grid(scale) for group, scale in found.items()}

    def kl(self, scales: Mapping[str, float]) -> float:
        """KL in nats with the price of every scale included."""
        squared = {"B": self.b_squared, "A": self.a_squared, "rest": self.rest_squared}
        return sum(squared[group] / (2 * s**2) + scale_price(s) for group, s in scales.items())


def factor_energies(adapter: Adapter) -> dict[Tuned, FactorEnergy]:
    """The energies for each choice of trained factors, from one reading of the modules; the head is left out.

    Parameters
    ----------
    adapter
        The adapter.

    Returns
    -------
    dict
        "B", "A" and "both" -> `FactorEnergy`. Trained tensors that are neither A nor B are counted in `rest`.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"q": (torch.eye(1, 3), 2 * torch.eye(2, 1))})
    >>> energy = factor_energies(adapter)
    >>> energy["B"].b_squared, energy["both"].b_squared
    (4.0, 2.0)
    """
    start = adapter.initial
    rests: dict[Tuned, dict[str, float]] = {tuned: _sums() for tuned in TUNED}
    grams: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    facts: dict[int, list[list[float]]] = defaultdict(list)
    factors = 0
    for module in adapter:
        if not is_plain(adapter.source(module)):
            continue
        update = adapter[module]
        A, B = update.A, update.B
        factors += A.numel() + B.numel()
        moved = [math.nan, math.nan]
        if start is not None and module in start:
            initial = start[module]
            moved = [squared_norm(A - initial.A.to(A)), squared_norm(B - initial.B.to(B))]
        facts[update.rank].append([update.scaling**2, update.d_out, update.d_in, update.rank, *moved])
        grams[update.rank].append((_gram(A), _gram(B.mT)))
    for tuned, rest in rests.items():
        for tensor in trained_tensors(adapter, tuned, include_head=False):
            if tensor.key[1] not in ("A", "B") or not is_plain(adapter.source(tensor.key[0])):
                _add_rest(rest, tensor.read(), None if tensor.read_initial is None else tensor.read_initial())
    single, balanced = _sums(), _sums()
    for rank, group in grams.items():
        gram_a, gram_b = (torch.stack([gram.double() for gram in part]) for part in zip(*group, strict=True))
        _add_modules(single, balanced, gram_a, gram_b, torch.tensor(facts[rank], dtype=torch.float64))
    names = ("b_squared", "a_squared", "update", "from_b", "from_a", "from_both")
    return {
        tuned: FactorEnergy(
            **{name: (balanced if tuned == "both" else single)[name] for name in names},
            rest_squared=rest["moved"],
            rest=rest["whole"],
            rest_size=int(rest["size"]),
            factors=factors,
        )
        for tuned, rest in rests.items()
    }


def _gram(factor: Tensor) -> Tensor:
    """F F^T in the factor's own precision (casting first takes longer than reading), in double where that fails."""
    gram = factor @ factor.mT
    diagonal = gram.diagonal()
    tiny = torch.finfo(gram.dtype).tiny * 1e6
    if bool(torch.isfinite(gram).all()) and bool(((diagonal > tiny) | (factor == 0).all(1)).all()):
        return gram
    wide = factor.double()
    return wide @ wide.mT


def noise_size(value: float | int) -> float:
    """Check the size of a posterior's noise, as a share of the update's norm: beyond this range squares are 0 or inf.

    Examples
    --------
    >>> noise_size(0.5)
    0.5
    """
    return finite(value, "relative_noise", least=1e-12, most=1e12)


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
    root, failed = torch.linalg.cholesky_ex(gram_a)
    if failed.any():  # a row of A is zero, or depends on others
        values, vectors = torch.linalg.eigh(gram_a)
        root = vectors * values.clamp_min(0).sqrt()[..., None, :]
    return torch.linalg.eigvalsh(root.mT @ gram_b @ root).clamp_min(0).sqrt().sum(-1)


def _add_rest(sums: dict[str, float], value: Tensor, initial: Tensor | None) -> None:
    value = value.double()
    sums["moved"] += squared_norm(value if initial is None else value - initial.double())
    sums["whole"] += squared_norm(value)
    sums["size"] += value.numel()


def _sums() -> dict[str, float]:
    return defaultdict(float)


def squared_norm(value: Tensor) -> float:
    """Squared norm of a tensor, summed in double precision."""
    return torch.linalg.vector_norm(value, dtype=torch.float64).item() ** 2
