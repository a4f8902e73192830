"""Trained tensors of any dtype beside the pairs are charged by their size, and do not stop a certificate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asym_analysis import certify, compute_bound, load_adapter
from asym_analysis.bounds.ladder import bits_of_dtype

EXTRAS = {
    "counter of batches": torch.tensor(7),
    "fp8": torch.ones(3, 3).to(torch.float8_e4m3fn),
    "complex": torch.ones(3, dtype=torch.complex64),
    "mask": torch.tensor([True, False]),
}


@pytest.mark.parametrize("kind", EXTRAS)
def test_extras_of_any_dtype(kind: str) -> None:
    pair = {"q.lora_A.weight": torch.randn(2, 16), "q.lora_B.weight": torch.randn(8, 2)}
    adapter = load_adapter({**pair, "head.value": EXTRAS[kind]}, scale=1.0)
    dtype = str(EXTRAS[kind].dtype).removeprefix("torch.")
    assert bits_of_dtype(dtype) == 8 * EXTRAS[kind].element_size()
    assert len(compute_bound(adapter, 1000).frame) > 0

    def evaluate(candidate) -> np.ndarray:
        head = candidate.extras["head.value"].read()
        return np.full(200, 0.5 if head.to(torch.complex64).abs().sum() > 0 else 0.25)

    assert len(certify(adapter, evaluate, 200, draws=2).frame) > 0
