"""Exact values as a message: it decodes, its length is what is charged, and few values cost few bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asym_analysis import compute_bound, load_adapter
from asym_analysis.adapters import Adapter
from asym_analysis.bounds.exact_values import decode_values, encode_values, values_length


def grid(rows: int, columns: int, bits: int, *, by_row: bool, seed: int = 0) -> torch.Tensor:
    """Entries on a grid of 2^bits values, with one scale or one for each row."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(0, 1 << bits, (rows, columns), generator=generator).float() - (1 << bits) / 2
    scale = torch.rand(rows if by_row else 1, 1, generator=generator) + 0.1
    return steps * scale


def stored(A: torch.Tensor, B: torch.Tensor) -> Adapter:
    return load_adapter({"q.lora_A.weight": A, "q.lora_B.weight": B}, config={"r": len(A), "lora_alpha": len(A)})


CASES = {
    "float32": (torch.randn(4, 100), torch.randn(60, 4)),
    "bfloat16": (torch.randn(4, 100).bfloat16(), torch.randn(60, 4).bfloat16()),
    "float16 and float32": (torch.randn(4, 100).half(), torch.randn(60, 4)),
    "fp8": (torch.randn(4, 100).to(torch.float8_e4m3fn), torch.randn(60, 4).to(torch.float8_e5m2)),
    "double": (torch.randn(4, 100).double(), torch.randn(60, 4).double()),
    "2 bits": (grid(4, 100, 2, by_row=False), grid(60, 4, 2, by_row=False)),
    "4 bits by row": (grid(4, 1000, 4, by_row=True), torch.zeros(60, 4)),
    "one entry": (torch.ones(1, 1), torch.zeros(1, 1)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tuned", ["B", "both"])
def test_every_value_comes_back(name: str, tuned: str) -> None:
    run = stored(*CASES[name])
    code = encode_values(run, tuned)
    assert (code.bits, code.kinds) == values_length(run, tuned)
    assert len(code.message) == -(-code.bits // 8)
    A, B = CASES[name]
    zero_a, zero_b = (torch.zeros(part.shape).to(part.dtype) for part in (A, B))
    known = stored(A if tuned == "B" else zero_a, zero_b)
    for message in (code.message, code.message + b"more"):
        again = decode_values(message, known)
        assert all(torch.equal(getattr(again["q"], f), getattr(run["q"], f)) for f in ("A", "B"))
    with pytest.raises(ValueError, match="ends before"):
        decode_values(code.message[:-5] if len(code.message) > 6 else b"", known)


def test_few_values_cost_their_entropy_and_a_table() -> None:
    run = stored(grid(8, 4096, 4, by_row=False), grid(4096, 8, 4, by_row=False, seed=1))
    entries = 2 * 8 * 4096
    bits, kinds = values_length(run)
    assert kinds == {"one table": 2}
    assert 4 * entries < bits < 4.05 * entries + 2 * (16 * 32 + 16 * 16 + 64)


def test_a_scale_for_each_row_is_found_by_the_row() -> None:
    run = stored(grid(8, 4096, 4, by_row=True), grid(16, 8, 4, by_row=False))
    bits, kinds = values_length(run)
    assert kinds["a table for each row"] >= 1
    assert bits < 8 * (4 * 4096 + 16 * 32 + 20) + 16 * 8 * 32 + 10


def test_ordinary_training_gets_nothing() -> None:
    """Float32 values are all different: no row, since the count says it already."""
    run = stored(torch.randn(8, 512), torch.randn(512, 8))
    assert values_length(run)[1] == {"raw": 2}
    assert "few values" not in set(compute_bound(run, 1000).frame["rung"])


def test_the_ladder_charges_the_grid_and_not_the_dtype() -> None:
    run = stored(grid(8, 512, 2, by_row=False), grid(512, 8, 2, by_row=False))
    frame = compute_bound(run, 100_000, tuned="both", rungs=("parameter count", "few values")).frame
    row = frame[(frame["rung"] == "few values") & (frame["tuned"] == "both")].iloc[0]
    count = frame[(frame["rung"] == "parameter count") & (frame["tuned"] == "both")].iloc[0]
    assert row["predictor"] == "adapter"
    assert row["kind"] == "certificate"
    assert row["statement"] == "with probability 0.95"
    assert row["bits"] == values_length(run)[0]
    assert row["bits"] < count["bits"] / 10
    assert row["gap"] == pytest.approx(0.5 * math.sqrt(2 * (row["nats"] + math.log(1 / 0.05)) / 100_000))


def test_bits_of_a_grid_that_the_file_shows_is_no_rounding() -> None:
    """bits=2 of values that take four each is this adapter, with its table charged; bits=1 is another one."""
    run = stored(grid(8, 512, 2, by_row=False), grid(512, 8, 2, by_row=False))
    two, one = (
        compute_bound(run, 100_000, tuned="both", bits=bits, rungs=("parameter count",)).frame.set_index("tuned")
        for bits in (2, 1)
    )
    assert two.loc["both", "kind"] == "certificate"
    assert two.loc["both", "bits"] == 2 * 2 * 8 * 512 + 2 * 4 * 32
    assert one.loc["both", "kind"] == "diagnostic"


def test_nothing_is_taken_from_the_base_model() -> None:
    """QLoRA keeps the base in 4 bits; its adapter is in bfloat16, and is charged as such but for its entropy."""
    run = stored(torch.randn(8, 64).bfloat16(), torch.randn(64, 8).bfloat16())
    bits, _ = values_length(run)
    assert bits > 2 * 8 * 64 * 8
    assert np.isclose(bits, 2 * 8 * 64 * 16 + 2 * 2 + 3, rtol=0.35)


EXTREMES = {
    "float32": [0.0, -0.0, 1e-45, -1.17e-38, 3.4e38, -3.4e38, 1.0, 1.0 + 2**-23],
    "float16": [0.0, -0.0, 6e-8, -6.1e-5, 65504.0, 1.0, 1.0 + 2**-10],
    "bfloat16": [0.0, -0.0, 1e-40, -3.3e38, 1.0, 1.0 + 2**-7],
    "float64": [0.0, -0.0, 5e-324, -1.7e308, 1.0, 1.0 + 2**-52],
    "float8_e4m3fn": [0.0, -0.0, 2**-9, 448.0, -448.0],
    "float8_e5m2": [0.0, -0.0, 2**-16, 57344.0, -1.0],
}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_extreme_values_come_back_bit_for_bit(data: st.DataObject) -> None:
    """The price is the message's length, and -0 is not 0."""
    pair = []
    shapes = [(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 80)))]
    shapes.append((data.draw(st.integers(1, 80)), shapes[0][0]))
    for shape in shapes:
        dtype = data.draw(st.sampled_from(sorted(EXTREMES)))
        few = data.draw(st.lists(st.sampled_from(EXTREMES[dtype]), min_size=1, max_size=4))
        drawn = data.draw(st.lists(st.sampled_from(few), min_size=math.prod(shape), max_size=math.prod(shape)))
        pair.append(torch.tensor(drawn, dtype=torch.float64).reshape(shape).to(getattr(torch, dtype)))
    run = stored(*pair)
    code = encode_values(run)
    assert (code.bits, len(code.message)) == (values_length(run)[0], -(-code.bits // 8))
    again = decode_values(code.message, stored(*(torch.zeros(part.shape).to(part.dtype) for part in pair)))
    for factor in ("A", "B"):
        one, other = (getattr(adapter["q"], factor) for adapter in (run, again))
        assert one.dtype == other.dtype
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    # Any other message of the same prefix would be read alike: nothing after the counted bits is looked at.
    flipped = bytearray(code.message)
    for position in range(code.bits, 8 * len(code.message)):
        flipped[position // 8] ^= 1 << (7 - position % 8)
    assert torch.equal(decode_values(bytes(flipped), run)["q"].B, run["q"].B)
