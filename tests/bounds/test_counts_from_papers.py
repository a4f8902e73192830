"""Counts of parametrizations that PEFT lacks: each is built from its paper's definition, and its numbers counted.

Every module makes its update from what it trains, so that a wrong shape fails, and a number that is counted but does
not reach the update shows as a gradient that is always zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from asym_analysis.bounds.parametrizations import parameter_count

Shape = tuple[int, int]


def frozen(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape), requires_grad=False)


def trained(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


class XS(nn.Module):
    """Of LoRA-XS: a square matrix between the leading singular directions of the weight, which stay as they are."""

    def __init__(self, d_out: int, d_in: int, rank: int) -> None:
        super().__init__()
        u, s, vh = torch.linalg.svd(torch.randn(d_out, d_in), full_matrices=False)
        self.left = nn.Parameter(u[:, :rank] * s[:rank], requires_grad=False)
        self.right = nn.Parameter(vh[:rank], requires_grad=False)
        self.middle = trained(self.left.shape[1], self.right.shape[0])

    def update(self) -> Tensor:
        return self.left @ self.middle @ self.right


class Mini(nn.Module):
    """Of LoRA-Mini: four factors, of which the outer two are frozen; inner widths are the rank."""

    def __init__(self, d_out: int, d_in: int, rank: int) -> None:
        super().__init__()
        self.outer_b, self.inner_b = frozen(d_out, rank), trained(rank, rank)
        self.inner_a, self.outer_a = trained(rank, rank), frozen(rank, d_in)

    def update(self) -> Tensor:
        return self.outer_b @ self.inner_b @ self.inner_a @ self.outer_a


class Square(nn.Module):
    """Of MoRA: the largest square matrix with no more numbers than LoRA, between fixed sums and copies of entries."""

    def __init__(self, d_out: int, d_in: int, rank: int) -> None:
        super().__init__()
        side = 0
        while (side + 1) * (side + 1) <= rank * d_out + rank * d_in:
            side += 1
        self.shape, self.matrix = (d_out, d_in), trained(side, side)

    def update(self) -> Tensor:
        d_out, d_in = self.shape
        side = len(self.matrix)
        # Input j is added to entry j mod side, output i copies entry i mod side.
        return self.matrix[torch.arange(d_out) % side][:, torch.arange(d_in) % side]


class Group(nn.Module):
    """Of SuperLoRA: the weights of all modules end to end, folded into the smallest square that holds them."""

    def __init__(self, shapes: Sequence[Shape], rank: int) -> None:
        super().__init__()
        self.sizes = [d_out * d_in for d_out, d_in in shapes]
        side = 1
        while side * side < sum(self.sizes):
            side += 1
        self.b, self.a = trained(side, rank), trained(rank, side)

    def update(self) -> Tensor:
        return (self.b @ self.a).reshape(-1)[: sum(self.sizes)]


class Orthogonal(nn.Module):
    """Of Quantum-PEFT: a rotation of every qubit, then controlled signs on neighbours, each with two rotations more."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.qubits = 0
        while 2**self.qubits < size:
            self.qubits += 1
        self.size, self.rank = size, rank
        self.pairs = [(q, q + 1) for begin in (0, 1) for q in range(begin, self.qubits - 1, 2)]
        self.first, self.then = trained(self.qubits), trained(len(self.pairs), 2)

    def forward(self) -> Tensor:
        columns = torch.eye(2**self.qubits)[:, : self.rank]
        for qubit, angle in enumerate(self.first):
            columns = self.rotated(columns, qubit, angle)
        for (one, two), angles in zip(self.pairs, self.then, strict=True):
            index = torch.arange(2**self.qubits)
            columns = columns * (1 - 2.0 * ((index >> one) & (index >> two) & 1))[:, None]
            columns = self.rotated(self.rotated(columns, one, angles[0]), two, angles[1])
        return columns[: self.size]

    def rotated(self, columns: Tensor, qubit: int, angle: Tensor) -> Tensor:
        index = torch.arange(2**self.qubits)
        sign = torch.where((index >> qubit) & 1 == 0, -1.0, 1.0)[:, None]
        return torch.cos(angle / 2) * columns + sign * torch.sin(angle / 2) * columns[index ^ (1 << qubit)]


class Quantum(nn.Module):
    """Two such factors, and singular values between them."""

    def __init__(self, d_out: int, d_in: int, rank: int) -> None:
        super().__init__()
        rank = min(rank, d_out, d_in)  # of orthonormal columns
        self.left, self.right, self.values = Orthogonal(d_out, rank), Orthogonal(d_in, rank), trained(rank)

    def update(self) -> Tensor:
        return self.left() * self.values @ self.right().mT


def built(make: Callable[[int, int, int], nn.Module]) -> Callable[[Sequence[Shape], int], nn.ModuleList]:
    return lambda shapes, rank: nn.ModuleList(make(d_out, d_in, rank) for d_out, d_in in shapes)


BUILT: dict[str, Callable[[Sequence[Shape], int], nn.ModuleList]] = {
    "LoRA-XS": built(XS),
    "LoRA-Mini": built(Mini),
    "MoRA": built(Square),
    "SuperLoRA": lambda shapes, rank: nn.ModuleList([Group(shapes, rank)]),
    "Quantum-PEFT": built(Quantum),
}


@pytest.mark.parametrize("method", sorted(BUILT))
@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    rank=st.integers(1, 6),
)
def test_the_count_is_that_of_the_parametrization_as_its_paper_defines_it(
    method: str, shapes: list[Shape], rank: int
) -> None:
    model = BUILT[method](shapes, rank)
    counted = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert parameter_count(method, shapes, rank) == counted
    entries = sum(part.update().numel() for part in model)
    assert entries == sum(d_out * d_in for d_out, d_in in shapes)


@pytest.mark.parametrize("method", sorted(BUILT))
def test_everything_that_is_counted_reaches_the_update(method: str) -> None:
    torch.manual_seed(0)
    model = BUILT[method]([(24, 32), (16, 40)], 4)
    sum((part.update() ** 2 * torch.randn(part.update().shape)).sum() for part in model).backward()
    used = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    assert len(used) == parameter_count(method, [(24, 32), (16, 40)], 4)
    assert bool((used != 0).all())


def test_the_factors_of_quantum_peft_are_orthonormal() -> None:
    torch.manual_seed(0)
    columns = Orthogonal(32, 5)()
    torch.testing.assert_close(columns.mT @ columns, torch.eye(5))
