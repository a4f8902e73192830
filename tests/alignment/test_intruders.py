from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from asym_analysis.adapters import Adapter, LowRankUpdate, ModuleSource
from asym_analysis.adapters.base_weights import BaseWeights
from asym_analysis.alignment.intruders import intruder_dimensions, leading_vectors, random_level, spike_threshold
from asym_analysis.alignment.weight_svd import weight_svd
from asym_analysis.errors import AdapterError, AdapterFormatError


def brute_force(weight: torch.Tensor, update: LowRankUpdate, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Full singular value decompositions of W0 and of the sum: largest cosines and singular values."""
    U, _, _ = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    left, values, _ = np.linalg.svd((weight + update.delta()).double().numpy(), full_matrices=False)
    return np.abs(U.T @ left[:, :top_k]).max(0), values[:top_k]


@pytest.mark.parametrize("shape", [(150, 150), (200, 120), (120, 200), (30, 20)])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_agrees_with_full_decompositions(shape: tuple[int, int], decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, shape[1] + 1, dtype=torch.float64) ** -decay
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
    A = torch.randn(4, shape[1], generator=generator, dtype=torch.float64)
    B = torch.randn(shape[0], 4, generator=generator, dtype=torch.float64)
    update = LowRankUpdate(A, B, scaling=-0.2)
    cosines, values = brute_force(weight, update, 8)
    found, vectors = leading_vectors(*weight_svd(weight), update, 8)
    np.testing.assert_allclose(found, values, rtol=1e-9)
    np.testing.assert_allclose(np.abs(vectors[: min(shape)]).max(0), cosines, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, rtol=1e-9)


def spiked(strength: float, *, aligned: bool = False, seed: int = 0) -> tuple[torch.Tensor, LowRankUpdate]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(400, 300, generator=generator)
    b, a = torch.randn(400, 1, generator=generator), torch.randn(1, 300, generator=generator)
    if aligned:
        U, _, Vh = torch.linalg.svd(weight, full_matrices=False)
        b, a = U[:, :1], Vh[:1]
    return weight, LowRankUpdate(a / a.norm(), b / b.norm(), scaling=strength * spike_threshold(weight))


@pytest.mark.parametrize(
    ("strength", "aligned", "expected"),
    [(0.5, False, 0), (0.9, False, 0), (1.5, False, 1), (3.0, False, 1), (1.5, True, 0)],
)
def test_spiked_model_threshold(strength: float, aligned: bool, expected: int) -> None:
    # docs/theory.md, section 8, T15: 400 x 300, threshold .5, ten vectors. At 1.1 times it half of the
    # draws stay hidden.
    counts = []
    for seed in range(3):
        weight, update = spiked(strength, aligned=aligned, seed=seed)
        adapter = Adapter.from_factors({"q": (update.A, update.B)}, scaling=update.scaling)
        counts.append(int(intruder_dimensions(adapter, {"q.weight": weight}).modules.intruders.iloc[0]))
    assert sorted(counts)[1] == expected


def test_random_level() -> None:
    assert random_level(1024, 1024) == pytest.approx(0.1076, abs=5e-4)  # docs/theory.md, section 8, T15
    assert random_level(4096, 4096) == pytest.approx(0.0595, abs=5e-4)
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((2000, 300))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert random_level(300, 300) == pytest.approx(np.abs(directions).max(1).mean(), rel=0.01)


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_gauge_leaves_intruders_as_they_are(seed: int, stretch: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(24, 16, generator=generator, dtype=torch.float64)
    A = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    B = torch.randn(24, 2, generator=generator, dtype=torch.float64)
    G = torch.tensor([[stretch, 1.0], [0.0, 1.0]], dtype=torch.float64)
    frames = [
        intruder_dimensions(Adapter.from_factors({"q": pair}), {"q.weight": weight}, top_k=4).frame
        for pair in ((A, B), (G @ A, B @ torch.linalg.inv(G)))
    ]
    np.testing.assert_allclose(frames[0].largest_cosine, frames[1].largest_cosine, atol=1e-7)


def test_energy_share_and_table() -> None:
    weight, update = spiked(3.0)
    adapter = Adapter.from_factors({"layer.2.query": (update.A, update.B)}, scaling=update.scaling, name="run")
    found = intruder_dimensions(adapter, {"bert.layer.2.query.weight": weight}, top_k=5)
    assert found.frame.columns.tolist()[:5] == ["adapter", "module", "layer", "projection", "index"]
    marked = found.frame[found.frame.intruder]
    share = (marked.singular_value**2).sum() / (found.frame.singular_value**2).sum()
    assert found.modules.energy_share.iloc[0] == pytest.approx(share)
    assert found.modules.update_norm.iloc[0] == pytest.approx(3 * found.modules.spike_threshold.iloc[0], rel=1e-5)
    assert found.summary().intruders.tolist() == [1]


def test_base_weights_from_shards_and_layouts(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"transformer.h.{i}.attn.c_attn.weight": torch.randn(8, 24, generator=generator) for i in range(2)}
    for index, (name, tensor) in enumerate(tensors.items()):
        save_file({name: tensor.to(torch.bfloat16)}, tmp_path / f"model-{index}.safetensors")
    shards = {name: f"model-{index}.safetensors" for index, name in enumerate(tensors)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    base = BaseWeights(tmp_path)
    assert len(base) == 2
    matrix = base.matrix("h.1.attn.c_attn", (24, 8), transposed=True)
    expected = tensors["transformer.h.1.attn.c_attn.weight"].to(torch.bfloat16).float().mT
    assert torch.equal(matrix, expected)
    with pytest.raises(AdapterError, match="adapter's base model"):
        base.matrix("h.1.attn.c_attn", (24, 9))
    with pytest.raises(AdapterError, match="no weight of"):
        base.name_of("h.7.attn.c_attn")
    with pytest.raises(AdapterError, match="several weights"):
        base.name_of("attn.c_attn")


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="holds no weights"):
        BaseWeights(tmp_path)
    with pytest.raises(AdapterError, match="does not exist"):
        BaseWeights(tmp_path / "nothing")
    (tmp_path / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(AdapterFormatError, match="only 1 bytes"):
        BaseWeights(tmp_path)
    with pytest.raises(AdapterError, match="not quantized"):
        BaseWeights({"q.weight": torch.zeros(4, 4, dtype=torch.int8)}).matrix("q", (4, 4))


def test_the_decomposition_is_cached_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, update = spiked(3.0)
    adapter = Adapter.from_factors({"q": (update.A, update.B)}, scaling=update.scaling)
    first = intruder_dimensions(adapter, {"q.weight": weight}, cache=tmp_path)
    (file,) = tmp_path.iterdir()

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("decomposed again")

    with monkeypatch.context() as patched:
        patched.setattr(torch.linalg, "svd", never)
        U, _, _ = weight_svd(weight, tmp_path)
    assert U.shape == (400, 300)
    again = intruder_dimensions(adapter, {"q.weight": weight}, cache=tmp_path)
    pd.testing.assert_frame_equal(again.frame, first.frame)
    file.write_bytes(b"damaged")
    mended = intruder_dimensions(adapter, {"q.weight": weight}, cache=tmp_path)
    pd.testing.assert_frame_equal(mended.frame, first.frame)


def test_refused_modules_are_named() -> None:
    weight, update = spiked(3.0)
    dora = LowRankUpdate(update.A, update.B, magnitude=torch.ones(400))
    modules = {
        name: ModuleSource(400, 300, 1, "float32", lambda u=kept: u)  # type: ignore[misc]
        for name, kept in {"q": update, "v": dora, "lost": update}.items()
    }
    found = intruder_dimensions(Adapter(modules, name="mixed"), {"q.weight": weight, "v.weight": weight})
    assert found.modules.module.tolist() == ["q"]
    assert set(found.refused) == {"v", "lost"}
    assert "DoRA" in found.refused["v"]
    with pytest.raises(AdapterError, match="no module of mixed"):
        intruder_dimensions(Adapter(modules, name="mixed"), {"other.weight": weight})
    with pytest.raises(ValueError, match="top_k"):
        intruder_dimensions(Adapter(modules, name="mixed"), {"q.weight": weight}, top_k=0)


def test_real_base_model(shared_models: Path) -> None:
    base = BaseWeights(shared_models / "stories260K")
    shape = tuple(base[base.name_of("layers.0.self_attn.q_proj")].shape)
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(4, shape[1], generator=generator), torch.randn(shape[0], 4, generator=generator)
    weak = Adapter.from_factors({"layers.0.self_attn.q_proj": (A, B)}, scaling=1e-6)
    strong = Adapter.from_factors({"layers.0.self_attn.q_proj": (A, B)}, scaling=10.0)
    assert intruder_dimensions(weak, base).frame.largest_cosine.min() > 0.99
    assert intruder_dimensions(strong, base).frame.largest_cosine[:4].max() < 0.8
    assert not math.isnan(intruder_dimensions(strong, base).modules.energy_share.iloc[0])
