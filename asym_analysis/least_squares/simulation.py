"""Draw frozen factors at random, many at a time, and measure the losses that theory predicts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.least_squares.problem import LeastSquaresProblem, check_rank
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import Tuned, checked_device, whole

__all__ = ["Simulation", "simulate"]

_STREAM = {"A": 0, "B": 1, "both": 2}
_NUMBERS_A_BATCH = 2**20
_SWEEPS = 200


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(TableResult):
    """Losses of many draws of the frozen factor.

    Attributes
    ----------
    frame
        One row a draw: `draw`, `loss` (squared outputs), `gain` (loss removed), `gain_fraction` (of the signal).
    settings
        `problem` (its description), `tuned, rank, draws, seed`; the same settings give the same table.
    """

    def summary(self) -> pd.DataFrame:
        """One row over all draws.

        Returns
        -------
        DataFrame
            `tuned, rank, draws, seed`; mean `loss`, its Monte-Carlo `standard_error`, the `standard_deviation` over
            draws, mean `gain_fraction`.
        """
        loss, draws = self.frame["loss"], len(self.frame)
        spread = float(loss.std()) if draws > 1 else math.nan
        return pd.DataFrame(
            {
                **{name: [self.settings[name]] for name in ("tuned", "rank", "draws", "seed")},
                "loss": [float(loss.mean())],
                "standard_error": [spread / math.sqrt(draws)],
                "standard_deviation": [spread],
                "gain_fraction": [float(self.frame["gain_fraction"].mean())],
            }
        )


def simulate(
    problem: LeastSquaresProblem,
    rank: int,
    tuned: Tuned,
    draws: int = 1000,
    seed: int = 0,
    *,
    device: torch.device | str | None = None,
) -> Simulation:
    """Losses of many independent fits, each with its own random frozen factor.

    Parameters
    ----------
    problem : LeastSquaresProblem
        The least-squares problem.
    rank : int
        Rank of the update.
    tuned : {"B", "A", "both"}
        The trained factors. "B": A has uniformly random row space and B is fitted; "A": B has uniformly random column
        space and A is fitted; "both": B is initialized at random and the factors are fitted in turn, 200 times, as
        alternating least squares.
    draws, seed : int, optional
        How many, and of which stream. Random numbers are drawn on the CPU, so the losses do not depend on the device;
        "A" and "B" with one seed are independent.
    device : device or str, optional
        Where to multiply; the problem's own device when omitted.

    Returns
    -------
    Simulation
        `.frame` has one row a draw: `draw, loss, gain, gain_fraction`; `.summary()` the mean and its standard error.

    Raises
    ------
    ValueError
        `rank` is not possible for `tuned`, or `draws` or `seed` is out of range.

    Notes
    -----
    Only the subspace of the frozen factor matters, so the draws are Gaussian sketches and r x r Cholesky factors in
    place of Haar matrices: the same distribution at a fraction of the cost (docs/theory.md, section 1.2 (a)).

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(16), torch.ones(16))
    >>> table = simulate(problem, 4, "A", draws=100).summary()
    >>> bool(abs(table.loss[0] - 12.0) < 1e-9)
    True
    """
    check_rank(problem, rank, tuned)
    draws, seed = whole(draws, "draws", least=1), whole(seed, "seed", least=0)
    place = problem.delta.device if device is None else torch.device(checked_device(device))
    rng = np.random.default_rng([seed, _STREAM[tuned]])
    if tuned == "A":
        gains = _gains_frozen_B(problem, rank, draws, rng, place)
    elif tuned == "B":
        gains = _gains_frozen_A(problem, rank, draws, rng, place)
    else:
        gains = _gains_joint(problem, rank, draws, rng, place)
    gain = gains.cpu().numpy()
    signal = problem.signal
    frame = pd.DataFrame(
        {
            "draw": np.arange(draws),
            "loss": problem.irreducible + np.maximum(0.0, signal - gain),
            "gain": gain,
            "gain_fraction": gain / signal if signal > 0 else np.full(draws, math.nan),
        }
    )
    return Simulation(frame, settings_of(problem=problem.description, tuned=tuned, rank=rank, draws=draws, seed=seed))


def _sketches(
    rng: np.random.Generator, draws: int, rank: int, dimension: int, device: torch.device
) -> Iterator[Float[Tensor, "batch rank dimension"]]:
    """Gaussian (rank, dimension) matrices in batches that fit a processor's cache."""
    batch = max(1, _NUMBERS_A_BATCH // (rank * dimension))
    for start in range(0, draws, batch):
        numbers = rng.standard_normal((min(batch, draws - start), rank, dimension))
        yield torch.from_numpy(numbers).to(device)


def _gains_frozen_B(
    problem: LeastSquaresProblem, rank: int, draws: int, rng: np.random.Generator, device: torch.device
) -> Float[Tensor, " draws"]:
    # In the left singular basis of M the captured energy is Tr[(G G^T)^-1 G diag(sigma^2) G^T].
    squares = problem.singular_values.square().to(device)
    return torch.cat(
        [
            _trace_ratio(sketch @ sketch.mT, (sketch[..., : len(squares)] * squares) @ sketch[..., : len(squares)].mT)
            for sketch in _sketches(rng, draws, rank, problem.d_out, device)
        ]
    )


def _gains_frozen_A(
    problem: LeastSquaresProblem, rank: int, draws: int, rng: np.random.Generator, device: torch.device
) -> Float[Tensor, " draws"]:
    support = problem.eigenvalues > 0
    spectrum = problem.eigenvalues[support].to(device)
    weighted = problem.weighted_delta[:, support].to(device)
    if rank >= len(spectrum):
        return torch.full((draws,), problem.signal, dtype=torch.float64, device=device)
    outputs, scales, _ = torch.linalg.svd(weighted.T, full_matrices=False)
    kept = scales > scales[0] * torch.finfo(scales.dtype).eps * max(weighted.shape)
    factor = outputs[:, kept] * scales[kept]  # K = M^T M = factor @ factor.T, as thin as the rank of M allows
    # Where few directions dwarf all others the r x r Gram matrix loses digits that a QR keeps.
    graded = float(spectrum[0]) > 1e6 * float(spectrum[rank - 1 :].sum())
    roots = spectrum.sqrt()
    gains = []
    for sketch in _sketches(rng, draws, rank, len(spectrum), device):
        if graded:
            basis, _ = torch.linalg.qr((sketch * roots).mT)
            gains.append((basis.mT @ factor).square().sum((1, 2)))
        else:
            projected = sketch @ (roots[:, None] * factor)
            gains.append(_trace_ratio((sketch * spectrum) @ sketch.mT, projected @ projected.mT))
    return torch.cat(gains)


def _gains_joint(
    problem: LeastSquaresProblem, rank: int, draws: int, rng: np.random.Generator, device: torch.device
) -> Float[Tensor, " draws"]:
    # Fitting A for a given B and B for a given A is one step of orthogonal iteration with M M^T on the range of B.
    weighted = problem.weighted_delta.to(device)
    gram = weighted @ weighted.T
    gains = []
    for sketch in _sketches(rng, draws, rank, problem.d_out, device):
        basis = sketch.mT
        for _ in range(_SWEEPS):
            basis, _ = torch.linalg.qr(gram @ basis)
        gains.append((basis.mT @ weighted).square().sum((1, 2)))
    return torch.cat(gains)


def _trace_ratio(
    gram: Float[Tensor, "batch rank rank"], captured: Float[Tensor, "batch rank rank"]
) -> Float[Tensor, " batch"]:
    """Tr[gram^-1 captured] for symmetric positive matrices."""
    lower = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(captured, lower).diagonal(dim1=-2, dim2=-1).sum(-1)
