"""Adapters in a row: freeze a random factor, train the other, merge, draw again; or train the two in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.chain import chain_residual
from asym_analysis.least_squares.arguments import each_tuned
from asym_analysis.least_squares.comparison import TheoryComparison, agreement
from asym_analysis.least_squares.dynamics import LossPath, path_of
from asym_analysis.least_squares.problem import LeastSquaresProblem, check_rank
from asym_analysis.results import settings_of
from asym_analysis.vocabulary import FACTORS, Factor, choose, whole

__all__ = ["alternating_path", "chain_path", "compare_chain"]


def chain_path(problem: LeastSquaresProblem, rank: int, blocks: int, tuned: Factor = "B") -> LossPath:
    """Expected loss after each block of a chain: freeze a random factor, train the other, merge, draw again.

    Parameters
    ----------
    problem : LeastSquaresProblem
        The least-squares problem.
    rank, blocks : int
        Of each block, and how many there are.
    tuned : {"A", "B"}, default "B"
        The trained factor of every block, "B" or "A".

    Returns
    -------
    LossPath
        `step` counts blocks; `stated_error` is zero where the loss is exact: for "A" always, for "B" with flat inputs.
        `limit` is the loss of full training.

    Raises
    ------
    ValueError
        If `tuned` is neither, the rank is not possible, or `blocks` is not positive.

    References
    ----------
    RAC-LoRA, arXiv:2410.08305; docs/theory.md, section 6.9.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(4), torch.ones(4))
    >>> chain_path(problem, 1, 2).frame.loss.tolist()
    [4.0, 3.0, 2.25]
    """
    left, error = _chain(problem, rank, blocks, tuned)
    losses = problem.irreducible + np.concatenate([[problem.signal], left])
    settings = settings_of(
        along="block", limit=problem.irreducible, problem=problem.description, rank=rank, blocks=blocks, tuned=tuned
    )
    path = path_of(problem, losses, [tuned] * len(losses), settings)
    return LossPath(path.frame.assign(stated_error=np.concatenate([[0.0], error])), settings)


def compare_chain(
    problem: LeastSquaresProblem,
    rank: int,
    blocks: int,
    *,
    tuned: Factor | Sequence[Factor] = ("A", "B"),
    draws: int = 200,
    seed: int = 0,
) -> TheoryComparison:
    """Simulated chains with the theory of `chain_path` beside them, one row for each block.

    Parameters
    ----------
    problem, rank, blocks : LeastSquaresProblem or int
        As in `chain_path`.
    tuned : {"A", "B"} or sequence of {"A", "B"}, optional
        The trained factor of every block: "A", "B", or both in turn of the table.
    draws, seed : int, optional
        Chains that are simulated, and the seed.

    Returns
    -------
    TheoryComparison
        Columns `blocks, tuned, rank, draws, seed, theory, stated_error, method, loss, standard_error, difference,
        tolerance, z, agrees`.

    Raises
    ------
    ValueError
        As `chain_path`, or if `draws` is below 2.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.diag(torch.arange(1.0, 9.0)), torch.arange(1.0, 9.0))
    >>> bool(compare_chain(problem, 2, 3, draws=100).frame.agrees.all())
    True
    """
    choices = cast(tuple[Factor, ...], each_tuned(tuned, FACTORS))
    draws, seed = whole(draws, "draws", least=2), whole(seed, "seed", least=0)
    rows: list[dict[str, Any]] = []
    for choice in choices:
        left, stated = _chain(problem, rank, blocks, choice)
        losses = problem.irreducible + _simulated_chain(problem, rank, blocks, choice, draws, seed)
        rounding = 1e-9 * (problem.signal + problem.irreducible)
        for block in range(blocks):
            mean, error = float(losses[:, block].mean()), float(losses[:, block].std(ddof=1)) / draws**0.5
            theory = problem.irreducible + float(left[block])
            rows.append(
                {
                    "blocks": block + 1,
                    "tuned": choice,
                    "rank": rank,
                    "draws": draws,
                    "seed": seed,
                    "theory": theory,
                    "stated_error": float(stated[block]),
                    "method": "exact" if stated[block] == 0 else "deterministic equivalent",
                    "loss": mean,
                    "standard_error": error,
                }
                | agreement(mean, theory, float(stated[block]), error, draws, rounding)
            )
    settings = settings_of(
        along="blocks",
        problem=problem.description,
        rank=rank,
        blocks=blocks,
        tuned=list(choices),
        draws=draws,
        seed=seed,
    )
    return TheoryComparison(pd.DataFrame(rows), settings)


def alternating_path(
    problem: LeastSquaresProblem,
    rank: int,
    half_steps: int = 10,
    *,
    A: Float[Tensor, "rank d_in"] | None = None,
    seed: int = 0,
) -> LossPath:
    """Loss after each half-step of alternating training: B to its optimum, then A, then B, and so on.

    The first half-step is training B with A frozen; the path tends to the optimum of joint training.

    Parameters
    ----------
    problem, rank : LeastSquaresProblem or int
        The problem, and the rank of the update.
    half_steps : int, default 10
        How many times a factor is trained to its optimum.
    A : float Tensor of shape (rank, d_in), optional
        The initial A, shape (rank, d_in); random when omitted.
    seed : int, default 0
        Of the random initial A.

    Returns
    -------
    LossPath
        `step` counts half-steps, `tuned` says which factor was trained in it (B in the odd ones). `limit` is the loss
        of joint training.

    Raises
    ------
    ValueError
        If the rank is not possible, `A` has another shape, or a number is out of range.

    Notes
    -----
    With M = delta covariance^(1/2), a pair of half-steps is one step of orthogonal iteration with M M^T on the range of
    B, so the loss never rises.

    References
    ----------
    RoLoRA, arXiv:2502.01755; docs/theory.md, section 6.10.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.diag(torch.tensor([2.0, 1.0])), torch.ones(2))
    >>> path = alternating_path(problem, 1, 40, A=torch.ones(1, 2))
    >>> path.frame.loss[[0, 1, 40]].round(9).tolist(), path.settings["limit"]
    ([5.0, 2.5, 1.0], 1.0)
    """
    check_rank(problem, rank, "both")
    half_steps = whole(half_steps, "half_steps", least=0)
    rng = np.random.default_rng(whole(seed, "seed", least=0))
    first = torch.from_numpy(rng.standard_normal((rank, problem.d_in))) if A is None else torch.as_tensor(A)
    if first.shape != (rank, problem.d_in):
        raise ValueError(f"A has shape {tuple(first.shape)}; give ({rank}, {problem.d_in})")
    M = problem.weighted_delta
    rows = (first.to(M) @ problem.eigenvectors) * problem.eigenvalues.sqrt()
    losses, basis = [problem.irreducible + problem.signal], _orthonormal(rows.T)
    for step in range(half_steps):
        captured = M @ basis if step % 2 == 0 else M.T @ basis
        losses.append(problem.irreducible + max(0.0, problem.signal - float(captured.square().sum())))
        basis = _orthonormal(captured)
    settings = settings_of(
        along="half-step",
        limit=problem.joint(rank).loss,
        problem=problem.description,
        rank=rank,
        half_steps=half_steps,
        seed=seed if A is None else None,
    )
    return path_of(problem, np.array(losses), ["AB"[step % 2] for step in range(half_steps + 1)], settings)


def _chain(
    problem: LeastSquaresProblem, rank: int, blocks: int, tuned: Factor
) -> tuple[Float[np.ndarray, " blocks"], Float[np.ndarray, " blocks"]]:
    """Signal left after each block, and its stated error."""
    choose(tuned, FACTORS, "tuned")
    check_rank(problem, rank, tuned)
    blocks = whole(blocks, "blocks", least=1)
    if tuned == "A":
        # Each random B removes the share rank / d_out of whatever is left, in any directions.
        return problem.signal * (1 - rank / problem.d_out) ** np.arange(1.0, blocks + 1), np.zeros(blocks)
    return chain_residual(problem.eigenvalues.cpu().numpy(), problem.signal_energy.cpu().numpy(), rank, blocks)


def _simulated_chain(
    problem: LeastSquaresProblem, rank: int, blocks: int, tuned: Factor, draws: int, seed: int
) -> Float[np.ndarray, "draws blocks"]:
    rng = np.random.default_rng([seed, FACTORS.index(tuned)])
    roots = problem.eigenvalues.sqrt()
    left = np.empty((draws, blocks))
    for draw in range(draws):
        remaining = problem.weighted_delta
        for block in range(blocks):
            if tuned == "B":
                basis = _orthonormal(roots[:, None] * torch.from_numpy(rng.standard_normal((problem.d_in, rank))))
                remaining = remaining - (remaining @ basis) @ basis.T
            else:
                basis = _orthonormal(torch.from_numpy(rng.standard_normal((problem.d_out, rank))))
                remaining = remaining - basis @ (basis.T @ remaining)
            left[draw, block] = float(remaining.square().sum())
    return left


def _orthonormal(columns: Float[Tensor, "d rank"]) -> Float[Tensor, "d rank"]:
    """An orthonormal basis of the column space; zero columns where the rank falls short."""
    left, scales, _ = torch.linalg.svd(columns, full_matrices=False)
    smallest_kept = scales[0] * max(columns.shape) * torch.finfo(scales.dtype).eps
    return left * (scales > smallest_kept)
