"""The message is real: it decodes to the quantized adapter, ends by itself, and its length is what entropy allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from asym_analysis.adapters import Adapter, TensorSource
from asym_analysis.bounds.bits import BitReader, BitWriter
from asym_analysis.bounds.description import decode_adapter, encode_adapter, relative_error
from asym_analysis.bounds.quantization import even_levels, k_means_levels, nearest_level


def make(seed: int = 0, *, start: bool = False, zero: bool = False, head: bool = True) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        f"layer.{i}.query": (torch.randn(4, 48, generator=generator), 0.1 * torch.randn(40, 4, generator=generator))
        for i in range(3)
    }
    if zero:
        factors["layer.1.query"] = (factors["layer.1.query"][0], torch.zeros(40, 4))
    initial = None
    if start:
        moved = {
            m: (A - 0.01 * torch.randn(A.shape, generator=generator), torch.zeros_like(B))
            for m, (A, B) in factors.items()
        }
        initial = Adapter.from_factors(moved, scaling=2.0)
    made = Adapter.from_factors(factors, scaling=2.0, initial=initial)
    weight = torch.randn(2, 48, generator=generator)
    extras = {"head": TensorSource((2, 48), "float32", lambda: weight)} if head else {}
    sources = {m: made.source(m) for m in made}
    return Adapter(sources, name="made", extras=extras, initial=initial)


def forget(adapter: Adapter, tuned: str) -> Adapter:
    """What the receiver knows: the same shapes and frozen factors, with noise where the trained tensors were."""
    factors = {}
    for module in adapter:
        A, B = adapter[module].A, adapter[module].B
        factors[module] = (
            torch.full_like(A, 7.0) if tuned in ("A", "both") else A,
            torch.full_like(B, 7.0) if tuned in ("B", "both") else B,
        )
    blank = Adapter.from_factors(factors, scaling=2.0)
    extras = {
        name: TensorSource(e.shape, e.dtype, lambda e=e: torch.full(e.shape, 7.0)) for name, e in adapter.extras.items()
    }
    return Adapter({m: blank.source(m) for m in blank}, name="known", extras=extras, initial=adapter.initial)


@pytest.mark.parametrize("tuned", ["B", "A", "both"])
@pytest.mark.parametrize("placement", ["even", "k-means"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("start", [True, False])
def test_decoding_gives_the_quantized_adapter(tuned: str, placement: str, shared: bool, start: bool) -> None:
    adapter = make(start=start, zero=True)
    coded = encode_adapter(adapter, tuned=tuned, levels=7, placement=placement, shared=shared)
    decoded = decode_adapter(coded.message + b"\xff\x00\x5a", forget(adapter, tuned))
    for module in adapter:
        assert torch.equal(decoded[module].A, coded.adapter[module].A)
        assert torch.equal(decoded[module].B, coded.adapter[module].B)
        assert decoded[module].scaling == 2.0
    assert torch.equal(decoded.extras["head"].read(), coded.adapter.extras["head"].read())
    frozen = {"B": "A", "A": "B", "both": None}[tuned]
    if frozen:
        assert torch.equal(getattr(decoded["layer.0.query"], frozen), getattr(adapter["layer.0.query"], frozen))
    assert sum(coded.parts.values()) == coded.bits <= 8 * len(coded.message) < coded.bits + 8


def test_no_message_is_a_beginning_of_another() -> None:
    """Reading stops exactly at the charged length, whatever follows; so no codeword can start another."""
    for seed in range(5):
        for levels in (2, 3, 16):
            coded = encode_adapter(make(seed), levels=levels)
            bits = np.unpackbits(np.frombuffer(coded.message, np.uint8))[: coded.bits]
            junk = np.random.default_rng(seed).integers(0, 2, 64).astype(np.uint8)
            longer = np.packbits(np.concatenate([bits, junk])).tobytes()
            decoded = decode_adapter(longer, make(seed))
            assert torch.equal(decoded["layer.2.query"].B, coded.adapter["layer.2.query"].B)
            with pytest.raises(ValueError, match="ends before"):
                decode_adapter(np.packbits(bits[:-40]).tobytes(), make(seed))


def test_length_is_near_the_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    adapter = Adapter.from_factors(
        {"q": (torch.randn(16, 4096, generator=generator), torch.randn(4096, 16, generator=generator))}
    )
    coded = encode_adapter(adapter, levels=16, placement="even")
    top = max(adapter["q"].A.abs().max(), adapter["q"].B.abs().max()).item()

    def scale(t: torch.Tensor) -> float:
        return top * 2 ** (-math.floor(4 * math.log2(top / t.abs().max().item())) / 4)

    symbols = np.concatenate(
        [nearest_level((t / scale(t)).numpy().ravel(), even_levels(16)) for t in (adapter["q"].A, adapter["q"].B)]
    )
    p = np.bincount(symbols, minlength=16) / len(symbols)
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum() * len(symbols)
    assert entropy <= coded.parts["symbols"] <= entropy * 1.001 + 100
    assert coded.parts["scales"] == 32 + 2 * 6
    assert coded.parts["counts"] == 15 * (2 * 16 * 4096).bit_length()


def test_more_levels_cost_more_and_err_less() -> None:
    adapter = make(head=False)
    few, many = (encode_adapter(adapter, levels=levels) for levels in (4, 64))
    assert few.bits < many.bits
    assert relative_error(many.adapter, adapter) < 0.1 < relative_error(few.adapter, adapter) < 1
    dense = [(few.adapter[m].delta() - adapter[m].delta()).norm() ** 2 for m in adapter]
    whole = [adapter[m].delta().norm() ** 2 for m in adapter]
    assert relative_error(few.adapter, adapter) == pytest.approx(math.sqrt(sum(dense) / sum(whole)), rel=1e-5)


def test_coding_from_the_start_is_shorter() -> None:
    """At equal error of A, the difference from the recorded initialization takes fewer bits than A itself."""
    from_start = encode_adapter(make(start=True, head=False), tuned="A", levels=4)
    alone = encode_adapter(make(head=False), tuned="A", levels=64)
    adapter = make(head=False)
    assert from_start.bits < alone.bits
    assert relative_error(from_start.adapter, adapter) < relative_error(alone.adapter, adapter)


@given(st.lists(st.integers(1, 2**40), max_size=20), st.integers(0, 31))
def test_bits_come_back(values: list[int], fixed: int) -> None:
    writer = BitWriter()
    for value in values:
        writer.integer(value)
    writer.fixed(fixed, 5)
    writer.float16(-0.25)
    writer.float32(1e-30)
    words = np.arange(3, dtype=np.uint32) * 0x10203040
    writer.words(words)
    reader = BitReader(writer.to_bytes())
    assert [reader.integer() for _ in values] == values
    assert (reader.fixed(5), float(reader.float16()), reader.float32()) == (fixed, -0.25, np.float32(1e-30))
    assert np.array_equal(reader.words(), words)
    assert reader.position == len(writer)


def test_k_means_against_scikit_learn() -> None:
    values = np.random.default_rng(0).standard_t(4, 3000)
    ours = k_means_levels(values, 8).astype(np.float64)
    error = ((values - ours[nearest_level(values.astype(np.float32), ours.astype(np.float32))]) ** 2).sum()
    theirs = KMeans(8, n_init=10, random_state=0).fit(values[:, None]).inertia_
    assert error <= 1.1 * theirs


def test_two_levels_at_least() -> None:
    with pytest.raises(ValueError, match="levels is 1"):
        encode_adapter(make(), levels=1)


def test_the_length_in_nats_is_that_in_bits() -> None:
    coded = encode_adapter(make(), levels=7)
    assert coded.nats == pytest.approx(coded.bits * math.log(2), rel=1e-12)
