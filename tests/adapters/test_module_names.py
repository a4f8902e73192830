"""Layers and projections of the names that trainers write."""

from __future__ import annotations

from pathlib import Path

import pytest

from asym_analysis import load_adapter
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError

TE = "lora_te_text_model_encoder_layers_3"
UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0"
NAMES = {
    # dotted
    "roberta.encoder.layer.11.attention.self.query": (11, "query"),
    "transformer.h.3.attn.c_attn": (3, "c_attn"),
    "model.layers.2.mlp.experts.5.up_proj": (2, "up_proj"),
    "decoder.block.4.layer.1.EncDecAttention.q": (4, "q"),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0": (1, "to_out"),
    "blk.7.attn_q": (7, "attn_q"),
    "blk.7.ffn_up_exps.2": (7, "ffn_up_exps"),
    "visual.transformer.resblocks.4.attn.q_proj": (4, "q_proj"),
    "layer_5.q_proj": (5, "q_proj"),
    "blocks.6.attn.qkv.q": (6, "q"),
    "classifier": (None, "classifier"),
    "q_proj": (None, "q_proj"),
    # flattened: kohya, LyCORIS
    f"{TE}_self_attn_q_proj": (3, "q_proj"),
    f"{TE}_self_attn_out_proj": (3, "out_proj"),
    f"{TE}_mlp_fc1": (3, "fc1"),
    f"{UNET}_attn1_to_q": (1, "to_q"),
    f"{UNET}_attn2_to_out_0": (1, "to_out"),
    f"{UNET}_ff_net_0_proj": (1, "proj"),
    f"{UNET}_ff_net_2": (1, "net"),
    "lora_unet_down_blocks_1_attentions_0_proj_in": (1, "proj_in"),
    "lora_unet_up_blocks_2_resnets_0_conv_shortcut": (2, "conv_shortcut"),
    "lora_unet_up_blocks_2_resnets_0_time_emb_proj": (2, "time_emb_proj"),
    "lora_unet_mid_block_attentions_0_proj_out": (0, "proj_out"),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_v": (4, "to_v"),
    "lora_unet_double_blocks_9_img_attn_qkv": (9, "qkv"),
    "lora_unet_single_blocks_9_linear1": (9, "linear1"),
    "lora_transformer_transformer_blocks_3_attn_add_k_proj": (3, "add_k_proj"),
    "lora_te3_encoder_block_2_layer_0_SelfAttention_q": (2, "q"),
    "lora_te3_encoder_block_2_layer_1_DenseReluDense_wi_0": (2, "wi_0"),
    "lycoris_transformer_blocks_0_attn_to_q": (0, "to_q"),
    # numbered: cloneofsimo
    "unet:17": (17, "unet"),
    "text_encoder:3": (3, "text_encoder"),
    "12": (12, "pair"),
}


@pytest.mark.parametrize("module", NAMES)
def test_layer_and_projection(module: str) -> None:
    assert place(module) == dict(zip(("module", "layer", "projection"), (module, *NAMES[module]), strict=True))


def test_shared_files_have_few_projections(shared_adapters: Path) -> None:
    """A figure has one line a projection: a file whose every module is its own projection cannot be drawn."""
    counts = {}
    for weights in sorted(shared_adapters.glob("**/*.*")):
        if "broken" in str(weights) or weights.suffix in (".json", ".md"):
            continue
        try:
            frame = load_adapter(weights).frame
        except AdapterError:
            continue
        counts[str(weights)] = frame["projection"].nunique()
    assert len(counts) > 30
    assert max(counts.values()) <= 8, counts
