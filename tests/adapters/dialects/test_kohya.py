"""kohya and LyCORIS files, against what LyCORIS's own modules add in a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch import nn

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.errors import AdapterError

LAYERS = {
    "linear": lambda: nn.Linear(12, 10, bias=False),
    "convolution": lambda: nn.Conv2d(6, 8, 3, padding=1, bias=False),
    "pointwise": lambda: nn.Conv2d(6, 8, 1, bias=False),
}
ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "LoCon": (LoConModule, {}),
    "LoCon rank-stabilized": (LoConModule, {"rs_lora": True}),
    "LoCon scalar": (LoConModule, {"use_scalar": True}),
    "LoCon Tucker": (LoConModule, {"use_tucker": True}),
    "LoHa": (LohaModule, {}),
    "LoHa Tucker": (LohaModule, {"use_tucker": True}),
    "LoKr": (LokrModule, {}),
    "LoKr Tucker": (LokrModule, {"use_tucker": True, "factor": 2}),
    "LoKr both": (LokrModule, {"decompose_both": True, "factor": 4}),
    "LoKr whole": (LokrModule, {"full_matrix": True}),
}


def lycoris_module(algorithm: str, layer: nn.Module, *, rank: int = 2, alpha: float = 5.0) -> Any:
    kind, options = ALGORITHMS[algorithm]
    if algorithm == "LoKr both":
        rank = 1
    module = kind("lora_unet_layer", layer, lora_dim=rank, alpha=alpha, **options)
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator) + 0.1
    return module.eval()


def saved(module: Any) -> dict[str, torch.Tensor]:
    return {f"lora_unet_layer.{name}": tensor.detach() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lycoris(algorithm: str, layer: str, read: Callable[..., Adapter]) -> None:
    """The update is what the layer's output gains: alpha / rank once, where `get_diff_weight` has it twice (LoHa)."""
    torch.manual_seed(0)
    base = LAYERS[layer]()
    module = lycoris_module(algorithm, base)
    adapter = read(saved(module))
    assert adapter.metadata["dialect"] == "kohya"
    assert adapter.coverage.complete
    update = adapter["lora_unet_layer"]
    x = torch.randn(3, 12) if layer == "linear" else torch.randn(3, 6, 5, 5)
    with torch.no_grad():
        gained = module(x) - base(x)
        weight = update.delta().reshape(base.weight.shape)
        ours = x @ weight.T if layer == "linear" else nn.functional.conv2d(x, weight, padding=base.padding)
    torch.testing.assert_close(ours, gained, rtol=2e-5, atol=2e-5 * gained.abs().max().item())
    dense = weight.reshape(weight.shape[0], -1)
    torch.testing.assert_close(update.frobenius_norm(), dense.norm().item(), rtol=1e-5, atol=0)
    values = update.singular_values()
    expected = torch.linalg.svdvals(dense)
    torch.testing.assert_close(
        values[: len(expected)], expected[: len(values)], rtol=1e-4, atol=1e-5 * expected[0].item()
    )


def test_alpha_is_counted_once_in_loha(read: Callable[..., Adapter]) -> None:
    module = lycoris_module("LoHa", nn.Linear(12, 10), rank=2, alpha=8.0)
    update = read(saved(module))["lora_unet_layer"]
    with torch.no_grad():
        once, twice = module.get_weight((10, 12)), module.get_diff_weight(shape=(10, 12))[0]
    torch.testing.assert_close(update.delta(), once, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(4.0 * update.delta(), twice, rtol=1e-5, atol=1e-4)


def pair(module: str, d_out: int = 6, d_in: int = 5, rank: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_down.weight": torch.randn(rank, d_in, generator=generator),
        f"{module}.lora_up.weight": torch.randn(d_out, rank, generator=generator),
    }


@pytest.mark.parametrize(
    "module",
    [
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_31_mlp_fc2",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "lora_transformer_single_transformer_blocks_0_attn_to_k",
        "lora_unet_double_blocks_0_img_attn_qkv",
        "lora_unet_blocks_0_cross_attn_k",
        "lora_prior_unet_down_blocks_0_attentions_0",
        "lycoris_transformer_blocks_0_attn_to_q",
    ],
)
def test_prefixes_and_alpha(module: str, read: Callable[..., Adapter]) -> None:
    tensors = {**pair(module), f"{module}.alpha": torch.tensor(3.0)}
    adapter = read(tensors)
    assert list(adapter) == [module]
    assert adapter.metadata["dialect"] == "kohya"
    assert adapter[module].scaling == 1.5
    down, up = tensors[f"{module}.lora_down.weight"], tensors[f"{module}.lora_up.weight"]
    torch.testing.assert_close(adapter[module].delta(), 1.5 * up @ down)


def test_missing_alpha_stands_for_the_rank(read: Callable[..., Adapter]) -> None:
    adapter = read(pair("lora_unet_x"))
    assert adapter["lora_unet_x"].scaling == 1.0
    assert "no alpha" in adapter.metadata["scaling"]


def test_alpha_and_rank_differ_by_module(read: Callable[..., Adapter]) -> None:
    tensors = {**pair("lora_unet_a", rank=2), **pair("lora_unet_b", rank=4)}
    tensors |= {"lora_unet_a.alpha": torch.tensor(1.0), "lora_unet_b.alpha": torch.tensor([16.0], dtype=torch.float16)}
    adapter = read(tensors)
    assert {module: adapter[module].scaling for module in adapter} == {"lora_unet_a": 0.5, "lora_unet_b": 4.0}


def test_dora_scale(read: Callable[..., Adapter]) -> None:
    """Norms of the outputs are kept; norms of the inputs have no place, and are refused by name."""
    outputs = {**pair("lora_unet_x"), "lora_unet_x.dora_scale": torch.rand(6, 1)}
    assert read(outputs)["lora_unet_x"].magnitude is not None
    adapter = read({**pair("lora_unet_x"), "lora_unet_x.dora_scale": torch.rand(1, 5)})
    assert adapter["lora_unet_x"].magnitude is None
    assert "inputs" in adapter.coverage.refused["lora_unet_x.dora_scale"]


def test_split_projection(read: Callable[..., Adapter]) -> None:
    """Query, key and value of a fused projection with a pair each."""
    tensors = {"lora_unet_qkv.alpha": torch.tensor(4.0)}
    blocks = []
    for part in range(3):
        values = pair("m", d_out=3 + part, rank=2, seed=part)
        tensors[f"lora_unet_qkv.lora_down.{part}.weight"] = values["m.lora_down.weight"]
        tensors[f"lora_unet_qkv.lora_up.{part}.weight"] = values["m.lora_up.weight"]
        blocks.append(2.0 * values["m.lora_up.weight"] @ values["m.lora_down.weight"])
    torch.testing.assert_close(read(tensors)["lora_unet_qkv"].delta(), torch.cat(blocks))


def test_dense_changes_are_kept_and_rotations_refused(read: Callable[..., Adapter]) -> None:
    tensors = pair("lora_unet_x") | {
        "lora_unet_norm.diff": torch.rand(6),
        "lora_unet_x.diff_b": torch.rand(6),
        "lora_unet_y.oft_blocks": torch.rand(2, 3, 3),
    }
    adapter = read(tensors)
    assert set(adapter.extras) == {"lora_unet_norm.diff", "lora_unet_x.diff_b"}
    assert set(adapter.coverage.refused) == {"lora_unet_y.oft_blocks"}


def test_down_without_up(read: Callable[..., Adapter]) -> None:
    tensors = pair("lora_unet_x") | {"lora_unet_y.lora_down.weight": torch.rand(2, 5)}
    assert "without B" in read(tensors).coverage.refused["lora_unet_y.lora_down.weight"]
    with pytest.raises(AdapterError, match="no B"):
        read({"lora_unet_y.lora_down.weight": torch.rand(2, 5)})


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_alpha_that_is_no_number(alpha: float, read: Callable[..., Adapter]) -> None:
    with pytest.raises(AdapterError, match="scaling is"):
        read({**pair("lora_unet_x"), "lora_unet_x.alpha": torch.tensor(alpha)})


def test_training_metadata_of_the_header(read: Callable[..., Adapter]) -> None:
    header = {"ss_network_module": "networks.lora", "ss_sd_model_name": "v1-5.safetensors", "ss_seed": "42"}
    metadata = read(pair("lora_unet_x"), header=header).metadata
    assert (metadata["base_model"], metadata["seed"]) == ("v1-5.safetensors", "42")
