"""Trained numbers of each parametrization against PEFT's own count, and the bound against the paper's ratio."""

from __future__ import annotations

import math

import pytest
import torch

from asym_analysis import Adapter, compute_bound
from asym_analysis.bounds.parametrizations import PARAMETRIZATIONS, compare_parametrizations, parameter_count

SHAPES = [(512, 256), (256, 512)]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for index, (d_out, d_in) in enumerate(SHAPES):
            self.add_module(f"layer{index}", torch.nn.Linear(d_in, d_out, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer1(self.layer0(x))


@pytest.mark.parametrize(
    ("method", "config", "options"),
    [
        ("LoRA", "LoraConfig", {"lora_alpha": 8}),
        ("DoRA", "LoraConfig", {"use_dora": True}),
        ("AdaLoRA", "AdaLoraConfig", {"init_r": 4, "target_r": 4, "total_step": 10}),
        ("LoHa", "LoHaConfig", {}),
        ("LoKr", "LoKrConfig", {}),
        ("VB-LoRA", "VBLoRAConfig", {"num_vectors": 256, "vector_length": 256}),
        ("Uni-LoRA", "UniLoraConfig", {"theta_d_length": 256}),
    ],
)
def test_count_is_that_of_peft(method: str, config: str, options: dict) -> None:
    peft = pytest.importorskip("peft")
    if not hasattr(peft, config):
        pytest.skip(f"PEFT {peft.__version__} has no {config}")
    options = options if method == "AdaLoRA" else {"r": 4, **options}
    made = getattr(peft, config)(target_modules=["layer0", "layer1"], **options)
    model = peft.get_peft_model(Model(), made)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    expected = parameter_count(method, SHAPES, 4)
    if method == "VB-LoRA":  # PEFT trains all 256 logits of a sub-vector, of which 255 are free
        expected += sum(4 * (o + i) // 256 for o, i in SHAPES)
    assert trained == expected


def test_vera_counts_are_those_of_peft() -> None:
    """VeRA shares its random factors, which PEFT draws for one shape only."""
    peft = pytest.importorskip("peft")
    square = torch.nn.Sequential(*(torch.nn.Linear(48, 48, bias=False) for _ in range(3)))
    model = peft.get_peft_model(square, peft.VeraConfig(r=4, target_modules=["0", "1", "2"]))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == parameter_count("VeRA", [(48, 48)] * 3, 4)


def test_the_modules_of_an_adapter() -> None:
    adapter = Adapter.from_factors(
        {"q": (torch.ones(2, 6), torch.ones(4, 2)), "k": (torch.ones(2, 3), torch.ones(5, 2))}
    )
    given, read = (compare_parametrizations(x, 2, 100).frame for x in ([(4, 6), (5, 3)], adapter))
    assert read.equals(given)


def test_small_cases_by_hand() -> None:
    assert parameter_count("LoRA-XS", [(9, 7)], 3) == 9
    assert parameter_count("VeRA", [(9, 7)], 3) == 12
    assert parameter_count("MoRA", [(10, 15)], 4) == 100
    assert parameter_count("LoRA (B only)", [(9, 7)], 3) + parameter_count("LoRA (A only)", [(9, 7)], 3) == 48
    assert parameter_count("SuperLoRA", [(8, 8), (6, 6)], 2) == 40
    assert parameter_count("Quantum-PEFT", [(64, 32)], 4) == 3 * 6 - 2 + 3 * 5 - 2 + 4


def test_the_table_agrees_with_compute_bound() -> None:
    adapter = Adapter.from_factors({"q": (torch.randn(4, 32), torch.randn(64, 4))})
    bound = compute_bound(adapter, 1000, bits=32, rungs=("parameter count",)).frame.set_index("tuned")["gap"]
    table = compare_parametrizations([adapter["q"].shape], 4, 1000, bits=32).frame.set_index("method")
    assert table.loc["LoRA", "gap"] == pytest.approx(bound["both"], rel=1e-12)
    assert table.loc["LoRA (B only)", "gap"] == pytest.approx(bound["B"], rel=1e-12)
    assert table.loc["LoRA (B only)", "relative"] == pytest.approx(math.sqrt(64 / 96), rel=1e-12)
    assert set(table.index) == set(PARAMETRIZATIONS)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="did you mean 'LoRA'"):
        parameter_count("Lora", [(4, 4)], 2)
    with pytest.raises(ValueError, match="rank is 0"):
        parameter_count("LoRA", [(4, 4)], 0)
    with pytest.raises(ValueError, match="shapes is empty"):
        parameter_count("LoRA", [], 2)
