"""What crowding means for a real merge: least-squares clients with known optima, merged, and measured on every client.

Eight clients share 16 inputs and have 10 inputs of their own each. Two of the four rank-one parts of a client's target
read the shared inputs, the other two its own inputs, which no other client sees. All parts have the same energy
whether the first two are written to common output directions (crowded) or to private ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from asym_analysis import Adapter, crowding
from asym_analysis.least_squares import LeastSquaresProblem

CLIENTS, D_OUT, SHARED_INPUTS, OWN_INPUTS, RANK = 8, 64, 16, 10, 4
D_IN = SHARED_INPUTS + CLIENTS * OWN_INPUTS
SEEDS = range(6)


def orthonormal(rows: int, columns: int, draw: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=draw, dtype=torch.float64)).Q


def clients(seed: int, *, crowded: bool, coherent: bool) -> list[LeastSquaresProblem]:
    draw = torch.Generator().manual_seed(seed)
    common_outputs = orthonormal(D_OUT, 2, draw)
    common_rows = torch.randn(2, SHARED_INPUTS, generator=draw, dtype=torch.float64)
    found = []
    for client in range(CLIENTS):
        outputs = orthonormal(D_OUT, RANK, draw)
        if crowded:
            rest = outputs[:, 2:] - common_outputs @ (common_outputs.mT @ outputs[:, 2:])
            outputs = torch.cat([common_outputs, torch.linalg.qr(rest).Q], dim=1)
        own = slice(SHARED_INPUTS + client * OWN_INPUTS, SHARED_INPUTS + (client + 1) * OWN_INPUTS)
        rows = torch.zeros(RANK, D_IN, dtype=torch.float64)
        private = torch.randn(2, SHARED_INPUTS, generator=draw, dtype=torch.float64)
        rows[:2, :SHARED_INPUTS] = common_rows + 0.3 * private if coherent else private
        rows[2:, own] = torch.randn(2, OWN_INPUTS, generator=draw, dtype=torch.float64)
        rows = torch.nn.functional.normalize(rows, dim=1)
        variances = torch.zeros(D_IN, dtype=torch.float64)
        variances[:SHARED_INPUTS] = variances[own] = 1.0
        found.append(LeastSquaresProblem(outputs @ rows, variances))
    return found


@dataclass
class Measured:
    """Loss relative to that of no adapter, a mean over the clients, of one merge and of its dampings."""

    crowded_directions: int
    plain: float
    damped: float
    random: float  # the same factors on random directions of the merged update's own column space
    scaled: float  # one factor for the whole merge that leaves the same Frobenius norm as damping


def merge(seed: int, *, crowded: bool, coherent: bool, weight: float = 1.0) -> Measured:
    problems = clients(seed, crowded=crowded, coherent=coherent)
    fits = [problem.joint(RANK) for problem in problems]
    assert all(fit.loss < 1e-9 for fit in fits)  # each adapter alone solves its client's problem
    runs = [Adapter.from_factors({"q": (fit.A, fit.B)}, name=str(i)) for i, fit in enumerate(fits)]
    reported = crowding(runs, seed=seed).frame.query("crowded")
    # The directions, independently of the code under test: eigenvectors of the sum of the projectors.
    projectors = sum(fit.B @ torch.linalg.pinv(fit.B) for fit in fits)
    vectors = torch.linalg.eigh(projectors).eigenvectors.flip(1)[:, (reported["index"] - 1).tolist()]
    factors = torch.tensor(reported.damping.tolist(), dtype=torch.float64)
    merged = weight * sum(fit.update for fit in fits)

    def loss(update: Tensor) -> float:
        return float(np.mean([problem.loss(update) / problem.signal for problem in problems]))

    def damp(directions: Tensor) -> Tensor:
        return merged - directions @ ((1 - factors)[:, None] * (directions.mT @ merged))

    columns = torch.linalg.svd(merged, full_matrices=False).U[:, : torch.linalg.matrix_rank(merged)]
    draw = torch.Generator().manual_seed(1000 + seed)
    controls = [loss(damp(columns @ orthonormal(columns.shape[1], len(factors), draw))) for _ in range(20)]
    damped = damp(vectors)
    return Measured(
        crowded_directions=len(reported),
        plain=loss(merged),
        damped=loss(damped),
        random=min(controls),
        scaled=loss(merged * damped.norm() / merged.norm()),
    )


@pytest.fixture(scope="module")
def sums() -> dict[tuple[bool, bool], list[Measured]]:
    """Plain sums of the adapters, by (crowded, coherent), one a seed."""
    return {
        (crowded, coherent): [merge(seed, crowded=crowded, coherent=coherent) for seed in SEEDS]
        for crowded in (True, False)
        for coherent in (True, False)
    }


def test_the_shared_directions_are_reported_and_few_others(sums: dict[tuple[bool, bool], list[Measured]]) -> None:
    for (crowded, _), found in sums.items():
        counts = [one.crowded_directions for one in found]
        assert counts == [2] * len(counts) if crowded else max(counts) <= 1


def test_a_sum_loses_more_where_adapters_share_directions_and_agree(
    sums: dict[tuple[bool, bool], list[Measured]],
) -> None:
    for shared, private in zip(sums[True, True], sums[False, True], strict=True):
        assert shared.plain > 4 * private.plain


def test_sharing_directions_alone_does_not_make_a_sum_lose_more(sums: dict[tuple[bool, bool], list[Measured]]) -> None:
    # Half of each of the seven other updates disturbs a client when their signs are independent: 7 / 2.
    for crowded in (True, False):
        assert np.mean([one.plain for one in sums[crowded, False]]) == pytest.approx(3.5, abs=0.8)


@pytest.mark.parametrize("coherent", [True, False])
def test_damping_the_reported_directions_mends_a_sum(
    sums: dict[tuple[bool, bool], list[Measured]], coherent: bool
) -> None:
    for one in sums[True, coherent]:
        assert one.damped < 0.5 * one.plain
        assert one.damped < 0.7 * one.random  # the best of twenty draws
        assert one.damped < 0.8 * one.scaled


def test_damping_hurts_a_mean_whose_shared_part_is_right_already(
    sums: dict[tuple[bool, bool], list[Measured]],
) -> None:
    for seed in SEEDS:
        mean = merge(seed, crowded=True, coherent=True, weight=1 / CLIENTS)
        assert mean.plain < mean.damped < sums[True, True][seed].damped
