"""Whatever names, shapes and configs come together: a reading that accounts for every tensor, or an AdapterError."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asym_analysis.adapters.adapter import TensorSource
from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.dialects import read_checkpoint
from asym_analysis.errors import AdapterError

MODULES = st.sampled_from(
    ["base_model.model.q", "q", "lora_unet_q", "transformer.h.0.attn.attn", "unet.q", "blk.0.q.weight", "x.experts", ""]
)
SUFFIXES = st.sampled_from(
    [
        *(".lora_A.weight", ".lora_B.weight", ".lora_A", ".lora_B", ".lora_A.default.weight", ".lora_B.default.weight"),
        *(".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector", ".lora_E", ".ranknum", ".lora_diag"),
        *(".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".alpha", ".dora_scale", ".scalar"),
        *(
            ".lora_down.0.weight",
            ".lora_up.0.weight",
            ".hada_w1_a",
            ".hada_w1_b",
            ".hada_w2_a",
            ".hada_w2_b",
            ".hada_t1",
        ),
        *(".lokr_w1", ".lokr_w1_a", ".lokr_w1_b", ".lokr_w2", ".lokr_w2_a", ".lokr_w2_b", ".lokr_t2"),
        *(
            ".lora_a",
            ".lora_b",
            ".m",
            ".lora_a.weight",
            ".lora_b.weight",
            ".magnitude",
            ".base_layer.weight",
            ".weight",
        ),
        *(".vera_lambda_b", ".vera_lambda_d", ".vera_A", ".vera_B", ".delora_A", ".delora_B", ".delora_lambda"),
        *(".gralora_A", ".gralora_B", ".gralora_A_general.weight", ".vblora_logits_A", ".vblora_logits_B"),
        *(".vblora_vector_bank", ".adapter.linear_in.weight", ".adapter.linear_out.weight", ":0:up", ":0:down"),
        *(
            ".bias",
            ".modules_to_save.weight",
            ".original_module.weight",
            ".A",
            ".B",
            "1",
            ".processor.to_q_lora.up.weight",
        ),
        *(
            ".lora_a.0",
            ".lora_b.0",
            ".lora_a.3",
            ".w_lora_A",
            ".w_lora_B",
            ".loras.x.lora_A",
            ".loras.y.lora_B",
        ),
    ]
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 2, 4, 6]), max_size=4).map(tuple)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 8), st.text(max_size=3), st.lists(st.booleans(), max_size=3)
)
ENTRIES = (
    *("r", "lora_alpha", "alpha", "peft_type", "use_rslora", "rank_pattern", "alpha_pattern", "enable_lora", "init_r"),
    *("target_parameters", "fan_in_fan_out", "use_bdlora", "use_qalora", "qalora_group_size", "projection_prng_key"),
    *("rank", "lora_layers", "n_embd", "n_query_groups", "lora_query", "attn_matrices", "composition_mode"),
    *("lora_parameters", "update_rule", "scale", "lora_r", "n_head", "head_size", "topk", "config", "model"),
)
SECTIONS = st.dictionaries(st.sampled_from(["q", "(", "alpha", "nblocks", "use_E", "scale", "dim"]), VALUES, max_size=3)
CONFIGS = st.dictionaries(st.sampled_from(ENTRIES), st.one_of(VALUES, SECTIONS), max_size=5)


@settings(max_examples=200)
@given(
    names=st.lists(st.tuples(MODULES, SUFFIXES, SHAPES), min_size=1, max_size=8),
    config=CONFIGS,
    header=st.dictionaries(st.sampled_from(["lora_adapter_metadata", "adapter.lora.alpha", "unet:0:rank"]), VALUES),
)
def test_reading_or_refusal(
    names: list[tuple[str, str, tuple[int, ...]]], config: dict[str, Any], header: dict[str, Any]
) -> None:
    tensors = {
        module + suffix: TensorSource(shape, "float32", torch.full(shape, 0.5).clone) for module, suffix, shape in names
    }
    try:
        _, reading = read_checkpoint(Checkpoint(tensors, config, header, source="random"))
    except AdapterError:
        return
    coverage = reading.coverage
    assert {*coverage.used, *coverage.ignored, *coverage.refused} == set(tensors)
    for source in reading.modules.values():
        try:
            update = source.read()
        except AdapterError:
            continue
        assert (update.d_out, update.d_in, update.rank) == (source.d_out, source.d_in, source.rank)
