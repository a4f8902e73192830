"""Every measure against 60-digit arithmetic, on inputs of many kinds, in float64 and float32.

The formulas are written down again here, from singular value decompositions by mpmath; only the rule for the numerical
rank is the package's own.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch

from asym_analysis.subspaces.bases import rank_tolerance
from asym_analysis.subspaces.measures import MEASURES

DIGITS = 60
Matrix = mpmath.matrix
Numbers = list[mpmath.mpf]


def inputs(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of two matrices, float64."""
    generator = torch.Generator().manual_seed(sum(map(ord, kind)))

    def draw(rows: int, columns: int = 9) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    x, y = draw(3), draw(3)
    graded = torch.tensor([1.0, 1e-1, 1e-2], dtype=torch.float64)[:, None]
    match kind:
        case "unequal ranks":
            return draw(2), draw(4)
        case "one row":
            return draw(1), draw(1)
        case "one row and many":
            return draw(1), draw(5)
        case "must meet":
            return draw(6), draw(5)
        case "as many rows as columns":
            return draw(9), draw(4)
        case "more rows than columns":
            return draw(11), draw(3)
        case "close":
            return x, x + 0.01 * y
        case "one direction in common":
            return x, torch.cat([x[:1], y[1:]])
        case "graded":
            return graded * x, graded.flip(0) * y
        case "ill conditioned":
            return draw(3, 3) @ (graded**2 * x), draw(3, 3) @ (graded * y)
        case "dominating row":
            return torch.cat([1e4 * x[:1], x[1:]]), y
        case "deficient":
            return torch.cat([x[:2], x[:1]]), y
        case "both deficient":
            return torch.cat([x[:2], 2 * x[:1]]), torch.cat([y[:1], 0 * y[:1], y[2:]])
        case "a row of zeros":
            return torch.cat([x[:2], 0 * x[:1]]), y
        case "tiny":
            return 2.0**-90 * x, 2.0**-100 * y
        case "huge":
            return 2.0**90 * x, y
        case "half precision":
            return x.half().double(), y.bfloat16().double()
        case "signs":
            return x.sign(), y
        case "shifted":
            return x + 3, y + 3
    return x, y


KINDS = (
    *("random", "unequal ranks", "one row", "one row and many", "must meet", "as many rows as columns"),
    *("more rows than columns", "close", "one direction in common", "graded", "ill conditioned", "dominating row"),
    *("deficient", "both deficient", "a row of zeros", "tiny", "huge", "half precision", "signs", "shifted"),
)


class Exact:
    """What the formulas need of one matrix: its rows, singular values and right singular vectors, up to its rank."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = Matrix(rows.double().tolist())
        _, values, right = mpmath.svd_r(self.rows, full_matrices=False)
        tolerance = rank_tolerance((rows.shape[0], rows.shape[1]), rows.dtype) * values[0]
        self.values = [value for value in values if value > tolerance]
        self.basis = right[: len(self.values), :]


def total(matrix: Matrix) -> mpmath.mpf:
    return mpmath.fsum(entry**2 for entry in matrix)


def trace(matrix: Matrix) -> mpmath.mpf:
    return mpmath.fsum(matrix[i, i] for i in range(matrix.rows))


def cosines(x: Exact, y: Exact) -> Numbers:
    values = mpmath.svd_r(x.basis * y.basis.T, compute_uv=False)
    return [min(value, mpmath.mpf(1)) for value in values][: min(len(x.values), len(y.values))]


def of_angles(function: Callable[[Numbers], mpmath.mpf]) -> Callable[[Exact, Exact], mpmath.mpf]:
    return lambda x, y: function([mpmath.acos(value) for value in cosines(x, y)])


def linear_cka(x: Exact, y: Exact) -> mpmath.mpf:
    return total(x.rows * y.rows.T) / mpmath.sqrt(total(x.rows * x.rows.T) * total(y.rows * y.rows.T))


def centred(x: Exact) -> Matrix:
    size = x.rows.cols
    means = [mpmath.fsum(x.rows[i, :]) / size for i in range(x.rows.rows)]
    return Matrix([[x.rows[i, j] - means[i] for j in range(size)] for i in range(x.rows.rows)])


def rv(x: Exact, y: Exact) -> mpmath.mpf:
    first, second = centred(x), centred(y)
    return total(first * second.T) / mpmath.sqrt(total(first * first.T) * total(second * second.T))


def debiased_cka(x: Exact, y: Exact) -> mpmath.mpf:
    size = x.rows.cols

    def gram(rows: Matrix) -> Matrix:
        product = rows.T * rows
        for i in range(size):
            product[i, i] = 0
        return product

    def hsic(first: Matrix, second: Matrix) -> mpmath.mpf:
        one = mpmath.ones(size, 1)
        sums = (one.T * first * one)[0] * (one.T * second * one)[0] / ((size - 1) * (size - 2))
        mixed = (one.T * first * second * one)[0] * mpmath.mpf(2) / (size - 2)
        return (trace(first * second) + sums - mixed) / (size * (size - 3))

    first, second = gram(x.rows), gram(y.rows)
    return hsic(first, second) / mpmath.sqrt(hsic(first, first) * hsic(second, second))


def svcca(x: Exact, y: Exact) -> mpmath.mpf:
    def leading(one: Exact) -> Matrix:
        energy = [value**2 for value in one.values]
        needed = mpmath.mpf("0.99") * mpmath.fsum(energy)
        kept = next(k for k in range(1, len(energy) + 1) if mpmath.fsum(energy[:k]) >= needed)
        return one.basis[:kept, :]

    values = mpmath.svd_r(leading(x) * leading(y).T, compute_uv=False)
    return mpmath.fsum(values) / len(values)


def pwcca(x: Exact, y: Exact) -> mpmath.mpf:
    left, values, _ = mpmath.svd_r(x.basis * y.basis.T, full_matrices=False)
    coordinates = x.rows * x.basis.T * left
    count = min(len(x.values), len(y.values))
    weights = [mpmath.fsum(abs(coordinates[i, j]) for i in range(coordinates.rows)) for j in range(count)]
    return mpmath.fsum(w * values[j] for j, w in enumerate(weights)) / mpmath.fsum(weights)


def nuclear(matrix: Matrix) -> mpmath.mpf:
    return mpmath.fsum(mpmath.svd_r(matrix, compute_uv=False))


FORMULAS: dict[str, Callable[[Exact, Exact], mpmath.mpf]] = {
    "overlap": lambda x, y: mpmath.fsum(c**2 for c in cosines(x, y)) / len(cosines(x, y)),
    "mean_cosine": lambda x, y: mpmath.fsum(cosines(x, y)) / len(cosines(x, y)),
    "geodesic": of_angles(lambda t: mpmath.sqrt(mpmath.fsum(a**2 for a in t))),
    "chordal": of_angles(lambda t: mpmath.sqrt(mpmath.fsum(mpmath.sin(a) ** 2 for a in t))),
    "projection": of_angles(lambda t: max(mpmath.sin(a) for a in t)),
    "fubini_study": of_angles(lambda t: mpmath.acos(mpmath.fprod(mpmath.cos(a) for a in t))),
    "procrustes": of_angles(lambda t: 2 * mpmath.sqrt(mpmath.fsum(mpmath.sin(a / 2) ** 2 for a in t))),
    "martin": of_angles(lambda t: mpmath.sqrt(-2 * mpmath.fsum(mpmath.log(mpmath.cos(a)) for a in t))),
    "linear_cka": linear_cka,
    "rv": rv,
    "debiased_cka": debiased_cka,
    "svcca": svcca,
    "pwcca": pwcca,
    "linear_regression": lambda x, y: total(x.rows * y.basis.T) / total(x.rows),
    "angular_procrustes": lambda x, y: mpmath.acos(
        min(nuclear(x.rows * y.rows.T) / mpmath.sqrt(total(x.rows) * total(y.rows)), mpmath.mpf(1))
    ),
    "weighted_overlap": linear_cka,  # of the rows scaled by singular values, as a comparison gives them to it
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_measures_equal_sixty_digit_arithmetic(kind: str, dtype: torch.dtype) -> None:
    """To 1e-12 in float64 and 1e-5 in float32, where the input is that of the test rounded to the dtype.

    Bases of ill-conditioned rows hold so many digits fewer as the condition number has.
    """
    assert set(FORMULAS) == {name for name, measure in MEASURES.items() if measure.kind != "update"}
    first, second = (rows.to(dtype) for rows in inputs(kind))
    wrong = {}
    with mpmath.workdps(DIGITS):
        x, y = Exact(first), Exact(second)
        condition = max(float(one.values[0] / one.values[-1]) for one in (x, y))
        for name, formula in FORMULAS.items():
            expected, found = formula(x, y), MEASURES[name](first, second)
            if name == "pwcca" and kind in ("must meet", "as many rows as columns", "more rows than columns"):
                continue  # equal cosines: the weights depend on the basis that the definition leaves open
            allowed = (1e-12 if dtype == torch.float64 else 4e-6) * max(1.0, min(condition, 1e4) / 10)
            # Angles near 0 lose digits by arccos in the formula, not at 60 digits; near pi/2 martin's logarithm grows.
            if not np.isclose(found, float(expected), rtol=allowed, atol=allowed, equal_nan=True):
                wrong[name] = (found, float(expected))
    assert not wrong


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_cosine_of_updates_equals_sixty_digit_arithmetic(kind: str, dtype: torch.dtype) -> None:
    first, second = (rows.to(dtype) for rows in inputs(kind))
    generator = torch.Generator().manual_seed(1)
    outputs = [
        torch.randn(7, len(rows), generator=generator, dtype=torch.float64).to(dtype) for rows in (first, second)
    ]
    measure = MEASURES["cosine"]
    x, y = (measure.prepare(A[None], B[None]) for A, B in zip((first, second), outputs, strict=True))
    with mpmath.workdps(DIGITS):
        dW, other = (
            Matrix(B.double().tolist()) * Matrix(A.double().tolist())
            for A, B in zip((first, second), outputs, strict=True)
        )
        expected = mpmath.fsum(a * b for a, b in zip(dW, other, strict=True)) / mpmath.sqrt(total(dW) * total(other))
    allowed = 1e-13 if dtype == torch.float64 else 1e-6
    assert measure.compare(x, y).item() == pytest.approx(float(expected), abs=allowed)


@pytest.mark.parametrize("shift", [3.0, 1e3])
def test_debiased_cka_keeps_its_digits_whatever_all_coordinates_have_in_common(shift: float) -> None:
    first, second = inputs("random")
    measure = MEASURES["debiased_cka"]
    assert measure(first + shift, second - shift) == pytest.approx(measure(first, second), abs=1e-15 * max(10, shift))
