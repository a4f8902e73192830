"""What is measured of a posterior: its certificate, by factor what it costs, and its true risk over the whole pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from phrases import Pool, Top
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis import Adapter
from asym_analysis.atomic import replacing
from asym_analysis.bounds import GaussianPosterior
from asym_analysis.bounds.energies import scale_price
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.risk import chernoff_risk, kl_inverse_risk, sampled_mean_upper_bound

DRAWS = 2_500  # adapters drawn from a Gibbs posterior
BLOCK, BLOCK_OF_POOL = 32, 16  # phrases of the sample, and of the pool, for each of them
TOGETHER = 16  # drawn adapters in one forward pass
DELTA, SAMPLING = 0.05, 0.1  # of a certificate, and the share of it for the draws of the Gibbs posterior


class Population:
    """The pool as the population, and the margins without an adapter."""

    def __init__(self, pool: Pool, top: Top, cache: Path) -> None:
        self.pool, self.top, stored = pool, top, cache / "margins.npy"
        if not stored.exists():
            with replacing(stored) as part, part.open("wb") as file:
                np.save(file, self._margins())
        self.margins = np.load(stored)

    def __len__(self) -> int:
        return len(self.pool)

    @torch.no_grad()
    def _margins(self) -> np.ndarray:
        order, found = np.argsort(self.pool.lengths, kind="stable"), np.empty(len(self))
        for at in tqdm(range(0, len(order), self.pool.batch), desc="no adapter"):
            inputs, labels = self.pool.padded(order[at : at + self.pool.batch])
            logits = self.top(**inputs).logits
            apart = logits[:, 1] - logits[:, 0]
            found[order[at : at + self.pool.batch]] = torch.where(labels == 1, apart, -apart).cpu().numpy()
        return found


@contextmanager
def beside(top: Top, adapters: Sequence[Adapter]) -> Iterator[None]:
    """Adapters beside the maps, W x + B (A x), in bfloat16: the first for the first rows of a batch, and so on."""

    def hook_of(module: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        updates = [adapter[module] for adapter in adapters]
        device = top.head.weight.device
        A = torch.stack([update.A.mT for update in updates]).to(device).bfloat16()
        B = torch.stack([update.scaling * update.B.mT for update in updates]).to(device).bfloat16()

        def hook(linear: torch.nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x, own = (value.reshape(len(updates), -1, value.shape[-1]) for value in (given[0], output))
            return torch.baddbmm(own, x @ A, B).view_as(output)

        return hook

    hooks = [top.get_submodule(module).register_forward_hook(hook_of(module)) for module in adapters[0]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def errors(population: Population, adapters: Sequence[Adapter], phrases: np.ndarray) -> np.ndarray:
    """The zero-one loss of each adapter on phrases of its own: shape (adapters, phrases)."""
    found = np.empty(phrases.shape)
    order = np.argsort(population.pool.lengths[phrases], axis=1, kind="stable")
    width = max(1, population.pool.batch // len(adapters))
    with beside(population.top, adapters):
        for at in range(0, phrases.shape[1], width):
            columns = order[:, at : at + width]
            inputs, labels = population.pool.padded(np.take_along_axis(phrases, columns, 1).ravel())
            wrong = population.top(**inputs).logits.argmax(-1) != labels
            np.put_along_axis(found, columns, wrong.double().cpu().numpy().reshape(columns.shape), 1)
    return found


def gibbs_errors(
    population: Population, posterior: GaussianPosterior, sample: np.ndarray, centre: np.ndarray, seed: int, draws: int
) -> dict[str, float]:
    """The Gibbs posterior's error on the sample, its upper confidence bound as in `certify`, and its true risk.

    Each drawn adapter is evaluated on phrases of the sample chosen for it at random, so that the means are independent
    and have the error on the whole sample as their expectation. The true risk is the centre's over the whole pool
    (`centre` holds its losses) plus the mean difference from the centre of the drawn adapters on random phrases.
    """
    generator, chosen = generator_for(seed, "draws"), np.random.default_rng((seed, 1))
    own, others = [], []
    for at in range(0, draws, TOGETHER):
        drawn = [posterior.draw(generator) for _ in range(min(TOGETHER, draws - at))]
        block = sample[chosen.integers(0, len(sample), (len(drawn), BLOCK))]
        other = chosen.integers(0, len(population), (len(drawn), BLOCK_OF_POOL))
        losses = errors(population, drawn, np.concatenate([block, other], 1))
        own.append(losses[:, :BLOCK].mean(1))
        others.append((losses[:, BLOCK:] - centre[other]).mean(1))
    on_sample, apart = np.concatenate(own), np.concatenate(others)
    return {
        "draws": draws,
        "gibbs_error": float(on_sample.mean()),
        "gibbs_error_at_most": min(1.0, sampled_mean_upper_bound(on_sample, 1 - SAMPLING * DELTA)),
        "gibbs_true": float(centre.mean() + apart.mean()),
        "gibbs_true_error": float(apart.std(ddof=1) / math.sqrt(draws)),
    }


def gibbs_risk(error: float, kl: float, n: int) -> float:
    """The certificate of a Gibbs posterior from the upper bound on its error on the sample, as `certify` gives it."""
    return kl_inverse_risk(error, kl, n, 1 - (1 - SAMPLING) * DELTA)


def measured(
    population: Population, posterior: GaussianPosterior, sample: np.ndarray, seed: int, draws: int
) -> dict[str, float]:
    """The certificate and the true risk of the Gibbs posterior, and the errors of its centre, which has none."""
    n, everything = len(sample), np.arange(len(population))[None]
    centre = errors(population, [posterior.adapter], everything)[0]
    found = {"centre_error": float(centre[sample].mean()), "centre_true": float(centre.mean())}
    found |= gibbs_errors(population, posterior, sample, centre, seed, draws)
    found["risk"] = gibbs_risk(found["gibbs_error_at_most"], posterior.kl, n)
    found["risk_at_mean"] = kl_inverse_risk(found["gibbs_error"], posterior.kl, n, 1 - DELTA)
    return found | kl_parts(posterior)


def held_out(population: Population, adapter: Adapter, rest: np.ndarray) -> dict[str, float]:
    """The certificate of an adapter from phrases that it was not trained on, its error there, and its true risk."""
    losses = errors(population, [adapter], np.arange(len(population))[None])[0]
    error = float(losses[rest].mean())
    return {
        "hold_out": chernoff_risk(error, 0.0, len(rest), 1 - DELTA),
        "hold_out_error": error,
        "hold_out_true": float(losses.mean()),
    }


def kl_parts(posterior: GaussianPosterior) -> dict[str, float]:
    """KL by factor: what the means cost, what the noise costs, and the price of the scales."""
    found: dict[str, float] = {}
    for factor in "AB":
        keys = [key for key in posterior.centre if key[1] == factor]
        means = scales = 0.0
        for key in keys:
            prior = posterior.prior_stds[key]
            ratio = (torch.as_tensor(posterior.stds[key]).double() / prior).square().expand(posterior.centre[key].shape)
            means += ((posterior.centre[key] - posterior.prior_centre[key]).double() / prior).square().sum().item() / 2
            scales += (0.5 * (ratio - 1 - ratio.log())).sum().item()
        prices = sum(scale_price(s) for s in {posterior.prior_stds[key] for key in keys})
        found |= {f"{factor}_means": means, f"{factor}_scales": scales, f"{factor}_price": prices}
    return found
