"""diffusers' names, old and new, and those of trainers that write dotted names."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.errors import AdapterError

NAMES = {
    # A, B, the module that both belong to
    "old attention processor": (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    ),
    "old attention output": (
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.down.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    ),
    "old text encoder": (
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.up.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    ),
    "linear layer": (
        "text_encoder_2.text_model.encoder.layers.3.self_attn.k_proj.lora_linear_layer.down.weight",
        "text_encoder_2.text_model.encoder.layers.3.self_attn.k_proj.lora_linear_layer.up.weight",
        "text_encoder_2.text_model.encoder.layers.3.self_attn.k_proj",
    ),
    "middle": (
        "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v.lora.down.weight",
        "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v.lora.up.weight",
        "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v",
    ),
    "new": (
        "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight",
        "transformer.single_transformer_blocks.0.attn.to_k.lora_B.weight",
        "transformer.single_transformer_blocks.0.attn.to_k",
    ),
    "new, with the adapter's name": (
        "unet.conv_in.lora_A.default_0.weight",
        "unet.conv_in.lora_B.default_0.weight",
        "unet.conv_in",
    ),
    "ComfyUI": (
        "diffusion_model.blocks.0.cross_attn.k.lora_A.weight",
        "diffusion_model.blocks.0.cross_attn.k.lora_B.weight",
        "diffusion_model.blocks.0.cross_attn.k",
    ),
    "down and up under dots": (
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_down.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_up.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv",
    ),
    "x-flux, image": (
        "double_blocks.0.processor.qkv_lora1.down.weight",
        "double_blocks.0.processor.qkv_lora1.up.weight",
        "double_blocks.0.img_attn.qkv",
    ),
    "x-flux, single": (
        "single_blocks.3.processor.proj_lora.down.weight",
        "single_blocks.3.processor.proj_lora.up.weight",
        "single_blocks.3.proj",
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_names(case: str, read: Callable[..., Adapter]) -> None:
    name_A, name_B, module = NAMES[case]
    A, B = torch.randn(2, 5), torch.randn(6, 2)
    adapter = read({name_A: A, name_B: B})
    assert adapter.metadata["dialect"] == "diffusers"
    assert list(adapter) == [module]
    torch.testing.assert_close(adapter[module].delta(), B @ A)


def test_alpha_beside_the_factors(read: Callable[..., Adapter]) -> None:
    module = "diffusion_model.blocks.0.ffn.0"
    tensors = {
        f"{module}.lora_down.weight": torch.randn(4, 5),
        f"{module}.lora_up.weight": torch.randn(6, 4),
        f"{module}.alpha": torch.tensor(2.0),
    }
    assert read(tensors)[module].scaling == 0.5


def test_lora_config_in_the_header(read: Callable[..., Adapter]) -> None:
    """diffusers writes each component's LoraConfig into the safetensors header, flattened under its name."""
    tensors = {}
    for module in ("transformer.blocks.0.q", "transformer.blocks.1.q", "text_encoder.q"):
        tensors |= {f"{module}.lora_A.weight": torch.randn(4, 5), f"{module}.lora_B.weight": torch.randn(6, 4)}
    config = {
        "transformer.r": 4,
        "transformer.lora_alpha": 2,
        "transformer.use_rslora": True,
        "transformer.alpha_pattern": {"blocks.1.q": 8},
    }
    adapter = read(tensors, header={"lora_adapter_metadata": json.dumps(config)})
    scales = [adapter[module].scaling for module in adapter]
    assert scales == [1.0, 4.0, 1.0]
    with pytest.raises(AdapterError, match="lora_adapter_metadata"):
        read(tensors, header={"lora_adapter_metadata": "{"})


def test_convolution(read: Callable[..., Adapter]) -> None:
    A, B = torch.randn(2, 3, 3, 3), torch.randn(4, 2, 1, 1)
    adapter = read({"unet.conv_in.lora.down.weight": A, "unet.conv_in.lora.up.weight": B})
    expected = torch.einsum("or,rihw->oihw", B[:, :, 0, 0], A)
    torch.testing.assert_close(adapter["unet.conv_in"].delta(), expected)


def test_lokr_of_ai_toolkit(read: Callable[..., Adapter]) -> None:
    """Both matrices whole: the scale is 1, though the file gives an alpha of ten billion."""
    module = "diffusion_model.transformer_blocks.0.attn.to_q"
    w1, w2 = torch.randn(2, 3), torch.randn(4, 5)
    tensors = {f"{module}.lokr_w1": w1, f"{module}.lokr_w2": w2, f"{module}.alpha": torch.tensor(1e10)}
    adapter = read(tensors)
    assert adapter.metadata["dialect"] == "diffusers"
    torch.testing.assert_close(adapter[module].delta(), torch.kron(w1, w2))
    assert adapter[module].rank == 8
