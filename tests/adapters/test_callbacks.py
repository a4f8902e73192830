"""Nothing that a user's function does to what it gets reaches the caller's adapter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from asym_analysis import Adapter, AdapterError, certify, intruder_dimensions


def test_an_evaluate_that_changes_what_it_gets() -> None:
    A = torch.randn(2, 16)
    start = Adapter.from_factors({"q": (A, torch.zeros(8, 2))})
    adapter = Adapter.from_factors({"q": (A, torch.randn(8, 2))}, initial=start)
    seen = []

    def evaluate(candidate: Adapter) -> np.ndarray:
        update = candidate["q"]
        seen.append(update.A.norm().item())
        update.A.mul_(0.5)
        candidate["q"].B.zero_()
        return np.zeros(200)

    certify(adapter, evaluate, 200, draws=3)
    assert adapter["q"].A.equal(A)
    assert seen[0] == pytest.approx(A.norm().item(), rel=1e-3)
    assert max(seen) == pytest.approx(min(seen), rel=0.2)  # it is not halved again each time


def test_one_bad_base_weight_costs_its_module_only() -> None:
    W = torch.randn(12, 16)
    bad = W.clone()
    bad[0, 0] = math.nan
    pair = lambda: (torch.randn(2, 16), torch.randn(12, 2))  # noqa: E731
    adapter = Adapter.from_factors({"q": pair(), "v": pair(), "lm_head": pair()}, name="toy")
    base = {"q.weight": W.to(torch.float8_e4m3fn), "v.weight": bad, "model.embed_tokens.weight": W}
    found = intruder_dimensions(adapter, base)
    assert found.modules.module.tolist() == ["q", "lm_head"]
    assert list(found.refused) == ["v"]
    assert "v.weight" in found.refused["v"]
    assert "holds NaN" in found.refused["v"]
    assert "share one weight" in found.settings["matched"]["lm_head"]
    with pytest.raises(AdapterError, match="holds NaN"):
        intruder_dimensions(adapter, {"q.weight": bad})
