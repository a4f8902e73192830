"""Gradients along the way from the base to the adapter, on a loss whose change is known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from asym_analysis import Adapter, direction_worth, path_gradients
from asym_analysis.errors import AdapterError


class Model(nn.Module):
    """A polynomial of degree four in the weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=self.second(self.first(x)).square().mean())


def test_effects_add_up_to_what_the_adapter_does_to_the_loss() -> None:
    model, x = Model(), torch.randn(20, 5)
    pairs = {name: (torch.randn(2, d_in), torch.randn(d_out, 2)) for name, d_in, d_out in (("first", 5, 4), ("second", 4, 3))}  # noqa: E501  # fmt: skip
    adapter = Adapter.from_factors(pairs, scaling=0.5)
    before = model(x).loss.item()
    weights = {
        name: layer.weight.detach().clone() for name, layer in (("first", model.first), ("second", model.second))
    }
    effects = direction_worth(adapter, path_gradients(adapter, model, [{"x": x}])).frame["effect"].sum()
    for name, weight in weights.items():
        torch.testing.assert_close(getattr(model, name).weight.detach(), weight)
        getattr(model, name).weight.data += adapter[name].delta()
    assert effects == pytest.approx(model(x).loss.item() - before, rel=1e-4)


def test_a_model_of_another_shape_is_refused() -> None:
    with pytest.raises(AdapterError):
        path_gradients(Adapter.from_factors({"first": (torch.ones(1, 7), torch.ones(4, 1))}), Model(), [])
