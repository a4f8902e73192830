"""The forward pass with an adapter beside the maps, held to the one with the adapter in the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from asym_analysis import Adapter
from asym_analysis.adapters.applied import AppliedAdapter
from asym_analysis.bounds.adapted_model import AdaptedModel
from asym_analysis.bounds.trained import with_tensors


class Model(torch.nn.Module):
    """Maps that are called, a map whose weight is read, and two maps with one weight."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q = torch.nn.Linear(5, 5)
        self.read = torch.nn.Linear(5, 5)
        self.tied, self.again = torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)
        self.again.weight = self.tied.weight
        self.score = torch.nn.Linear(5, 2)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.q(x))
        x = torch.tanh(torch.nn.functional.linear(x, self.read.weight))
        return self.score(self.again(torch.tanh(self.tied(x))))


def adapter(*modules: str, rank: int = 2) -> Adapter:
    generator = torch.Generator().manual_seed(1)
    factors = {
        m: (torch.randn(rank, 5, generator=generator), torch.randn(5, rank, generator=generator)) for m in modules
    }
    return Adapter.from_factors(factors, scaling=1.5)


@pytest.mark.parametrize(
    ("modules", "beside"), [(("q",), True), (("q", "read"), False), (("q", "tied"), False), (("tied",), False)]
)
def test_the_output_is_that_of_the_changed_weights(modules: tuple[str, ...], beside: bool) -> None:
    model, given = Model(), adapter(*modules)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
    adapted = AdaptedModel(given, model, head=False)
    with torch.no_grad(), adapted.using(given) as run:
        found = [run({"x": x}), run({"x": x})]
    assert bool(adapted._maps) == beside
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad(), AppliedAdapter(given, model, head=False):
        expected = model(x)
    assert (expected - model(x)).abs().max() > 0.01
    for output in found:
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_changed_weights() -> None:
    model = Model()
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
    gradients: list[Any] = []
    for forced in (False, True):
        A, B = torch.ones(1, 5, requires_grad=True), torch.full((5, 1), 0.5, requires_grad=True)
        given = with_tensors(adapter("q", rank=1), {("q", "A"): A, ("q", "B"): B})
        adapted = AdaptedModel(given, model, head=False)
        assert adapted._maps
        if forced:
            adapted._maps = {}
        with adapted.using(given) as run:
            gradients.append(torch.autograd.grad(run({"x": x}).square().sum(), (A, B)))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_sixteen_bits_go_into_the_weights() -> None:
    assert not AdaptedModel(adapter("q"), Model(torch.bfloat16), head=False)._maps
