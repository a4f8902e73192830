"""Base weights of published models: any precision, any prefix, nothing read from outside their folder."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from asym_analysis import AdapterError, BaseWeights
from asym_analysis.adapters.base_weights import as_base
from asym_analysis.errors import AdapterValueError

FP8 = torch.float8_e4m3fn


def weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_index_that_leaves_its_folder_is_refused(tmp_path):
    save_file({"q.weight": weight(4, 4)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors")):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"q.weight": name}}))
        with pytest.raises(AdapterError, match="not in its own folder"):
            BaseWeights(folder)
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    index = {"weight_map": {"q.weight": "link.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(AdapterError, match="leaves its folder"):
        BaseWeights(folder)


def test_every_container_and_the_home_folder(tmp_path, monkeypatch):
    W = weight(6, 4)
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file({"q.weight": W}, tmp_path / "model.safetensors")
    (tmp_path / "old").mkdir()
    torch.save({"q.weight": W}, tmp_path / "old" / "pytorch_model.bin")
    torch.save({"step": 3}, tmp_path / "old" / "optimizer.pt")
    model = torch.nn.ModuleDict({"q": torch.nn.Linear(4, 6)})
    model["q"].weight.data = W.clone()
    for source in ("~", "~/model.safetensors", tmp_path / "old", {"q.weight": W}, model, model.half().float()):
        assert as_base(source).matrix("q", (6, 4)).allclose(W, atol=1e-3), source
    base = BaseWeights("~")
    assert as_base(base) is base
    with pytest.raises(AdapterError, match="does not exist"):
        BaseWeights("~/nowhere/at/all")


def test_an_open_peft_model_is_a_base():
    peft = pytest.importorskip("peft")
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    expected = model[0].weight.detach().clone()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"]))
    base = BaseWeights(wrapped)
    assert base.matrix("0", (5, 6)).equal(expected)
    assert base.matrix("1", (4, 5)).shape == (4, 5)
    assert not [name for name in base if "lora" in name]


@pytest.mark.parametrize("dtype", [FP8, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float64])
def test_any_float_dtype(dtype):
    W = weight(12, 16)
    found = BaseWeights({"q.weight": W.to(dtype)}).matrix("q", (12, 16))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.equal(W.to(dtype).to(found.dtype))


def test_the_scales_of_fp8_weights():
    """One number (ModelOpt), one a row (FBGEMM, compressed-tensors), one a block of 128 (DeepSeek)."""
    W = weight(300, 260)
    rows = torch.rand(300, 1) + 0.5
    blocks = torch.rand(3, 3) + 0.5
    spread = torch.stack([torch.stack([blocks[i // 128, j // 128] for j in range(260)]) for i in range(300)])
    cases = [
        ("weight_scale", torch.tensor(0.25), torch.tensor(0.25)),
        ("weight_scale", rows, rows),
        ("weight_scale", rows.reshape(-1), rows),
        ("weight_scale_inv", blocks, spread),
    ]
    for name, scale, factor in cases:
        found = BaseWeights({"q.weight": W.to(FP8), f"q.{name}": scale}).matrix("q", (300, 260))
        torch.testing.assert_close(found, W.to(FP8).float() * factor)
    with pytest.raises(AdapterError, match="does not fit a weight"):
        BaseWeights({"q.weight": W.to(FP8), "q.weight_scale": torch.ones(7, 11)}).matrix("q", (300, 260))


@pytest.mark.parametrize(
    ("tensors", "how"),
    [
        ({"q.weight": torch.zeros(32, 1).byte(), "q.weight.absmax": torch.ones(2)}, "bitsandbytes, 4 bits"),
        ({"q.weight": torch.zeros(8, 8).char(), "q.SCB": torch.ones(8)}, "bitsandbytes, 8 bits"),
        ({"q.qweight": torch.zeros(1, 8).int(), "q.scales": torch.ones(1, 8)}, "GPTQ or AWQ"),
        ({"q.weight_packed": torch.zeros(8, 1).int(), "q.weight_scale": torch.ones(8, 1)}, "compressed-tensors"),
    ],
)
def test_packed_integers_are_refused_by_name(tensors, how):
    with pytest.raises(AdapterError, match=rf"^q\.\w+ of .* is quantized to \w+ \(by {how}\): give the base") as caught:
        BaseWeights(tensors).matrix("q", (8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_in_a_base_names_the_module(bad):
    W = weight(8, 8)
    W[3, 4] = bad
    base = BaseWeights({"layer.0.q.weight": W, "layer.1.q.weight": weight(8, 8)})
    with pytest.raises(AdapterValueError, match=r"layer\.0\.q\.weight .* module layer\.0\.q, holds NaN"):
        base.matrix("layer.0.q", (8, 8))
    assert base.matrix("layer.1.q", (8, 8)).isfinite().all()


def test_a_head_that_shares_the_embedding():
    W = weight(12, 16)
    base = BaseWeights({"model.embed_tokens.weight": W, "model.layers.0.q.weight": weight(16, 16)})
    assert base.matrix("lm_head", (12, 16)).equal(W)
    assert "share one weight" in base.matched["lm_head"]
    assert BaseWeights({"lm_head.weight": W}).matrix("model.embed_tokens", (16, 12), transposed=True).equal(W.mT)
    with pytest.raises(AdapterError, match="no weight of"):
        base.matrix("lm_head", (5, 16))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("model.layers.0.q", "model.language_model.layers.0.q.weight"),
        ("language_model.model.layers.0.q", "model.language_model.layers.0.q.weight"),
        ("bert.encoder.layer.0.q", "encoder.layer.0.q.weight"),
        ("encoder.layer.0.q", "bert.encoder.layer.0.q.weight"),
        ("lora_unet.down_blocks_0_attn_q", "down_blocks.0.attn.q.weight"),
        ("unet.down_blocks_0_attn_q", "down_blocks.0.attn.q.weight"),
    ],
)
def test_renamed_prefixes(module, name):
    W, other = weight(8, 6), weight(5, 5)
    base = BaseWeights({"vision_tower.layers.0.q.weight": other, "vision.layers.1.q.weight": W, name: W + 1})
    assert base.matrix(module, (8, 6)).equal(W + 1)
    assert name in base.matched[module]


def test_weights_that_fit_equally_well_are_named():
    tensors = {f"{tower}.layers.0.q.weight": weight(8, 8) for tower in ("vision", "text")}
    with pytest.raises(AdapterError, match=r"fits several weights .*text\.layers.*vision\.layers"):
        BaseWeights(tensors).matrix("model.layers.0.q", (8, 8))
    with pytest.raises(AdapterError, match="no weight of"):  # another layer is no match
        BaseWeights({"text.layers.1.q.weight": weight(8, 8)}).matrix("model.layers.0.q", (8, 8))


def test_experts_in_a_stack():
    """transformers 5 keeps the experts of a layer in one tensor, adapters name them one by one."""
    gate_up, down = weight(4, 2 * 6, 5), weight(4, 5, 6, seed=1)
    base = BaseWeights(
        {"model.layers.0.mlp.experts.gate_up_proj": gate_up, "model.layers.0.mlp.experts.down_proj": down}
    )
    prefix = "model.layers.0.mlp.experts"
    assert base.matrix(f"{prefix}.3.down_proj", (5, 6)).equal(down[3])
    assert base.matrix(f"{prefix}.down_proj.3", (5, 6)).equal(down[3])
    assert base.matrix(f"{prefix}.gate_up_proj.1", (12, 5)).equal(gate_up[1])
    assert base.matrix(f"{prefix}.2.gate_proj", (6, 5)).equal(gate_up[2, :6])
    assert base.matrix(f"{prefix}.2.up_proj", (6, 5)).equal(gate_up[2, 6:])
    assert base.matrix("layers.0.mlp.experts.1.w2", (5, 6)).equal(down[1])
    assert "expert 2 of the stack, half 2" in base.matched[f"{prefix}.2.up_proj"]
    transposed = BaseWeights({f"{prefix}.gate_up_proj": gate_up.mT.contiguous()})
    assert transposed.matrix(f"{prefix}.2.up_proj", (6, 5)).equal(gate_up[2, 6:])
    with pytest.raises(AdapterError, match="no weight of"):
        base.matrix(f"{prefix}.4.down_proj", (5, 6))
    with pytest.raises(AdapterError, match="MXFP4"):
        BaseWeights({f"{prefix}.gate_up_proj_blocks": torch.zeros(4, 12, 2, 16).byte()}).matrix(
            f"{prefix}.gate_up_proj.0", (12, 64)
        )


@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_base():
    with pytest.raises(AdapterError, match="cannot be read from a dict"):
        BaseWeights({"q.weight": 3})
    with pytest.raises(AdapterError, match="adapter's base model"):
        BaseWeights({"q.weight": weight(4, 4)}).matrix("q", (4, 5))
