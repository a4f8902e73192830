"""Libraries that differ in names, orientation and scale alone: one value each.

To read another library, add its value here and to `DIALECTS`.
"""

from __future__ import annotations

import re

from asym_analysis.adapters.dialects.grammar import EMBEDDINGS, Grammar

__all__ = ["CLIP_LORA", "CLONEOFSIMO", "CLONEOFSIMO_LIST", "GGUF", "MLX", "MLX_VLM", "NEMO", "SAM_LORA", "TORCHTUNE"]

#: `layers.0.attn.q_proj.lora_a.weight` (rank, d_in), `....lora_b.weight` (d_out, rank), DoRA's `magnitude`.
TORCHTUNE = Grammar(
    name="torchtune",
    A=r"(.+)\.lora_a\.weight",
    B=r"(.+)\.lora_b\.weight",
    magnitude=r"(.+)\.magnitude",
    alpha_at=("lora_alpha", "model/lora_alpha"),
    rank_at=("r", "lora_rank", "model/lora_rank"),
    config_names=("torchtune_config.yaml",),
)

_NEMO = (
    r"(?:module\.)*(?P<parent>.+)\."
    r"(?:adapter_layer\.(?P<old>lora_\w+_adapter)(?:\.(?P<inner>\w+)_adapter)?|adapter(?:\.adapter_(?P<part>\w+))?)"
)
_NEMO_ADAPTERS = {
    "lora_kqv_adapter": "linear_qkv",
    "lora_unfused_kqv_adapter": "linear_qkv",
    "lora_q_adapter": "linear_q",
    "lora_kv_adapter": "linear_kv",
    "lora_dense_attention_adapter": "linear_proj",
    "lora_hto4h_adapter": "linear_fc1",
    "lora_unfused_hto4h_adapter": "linear_fc1",
    "lora_4htoh_adapter": "linear_fc2",
}


def _nemo_module(found: re.Match[str]) -> str:
    old = found["old"]
    names = (found["parent"], old and _NEMO_ADAPTERS.get(old, old), found["inner"] if old else found["part"])
    return ".".join(name for name in names if name)


_NEMO_SECTIONS = ("", "peft/", "lora_tuning/", "peft/lora_tuning/", "model/peft/lora_tuning/")

#: NeMo and Megatron Bridge: `....linear_qkv.adapter.linear_in.weight` (rank, d_in), `....linear_out.weight`.
#: Their own alpha is the rank where the config gives none.
NEMO = Grammar(
    name="nemo",
    A=_NEMO + r"\.linear_in\.weight",
    B=_NEMO + r"\.linear_out\.weight",
    module=_nemo_module,
    alpha_at=tuple(f"{section}alpha" for section in _NEMO_SECTIONS),
    rank_at=tuple(f"{section}{name}" for section in _NEMO_SECTIONS for name in ("dim", "adapter_dim", "r")),
    default_scale=1.0,
    config_names=("run_config.yaml", "model_config.yaml"),
)

#: llama.cpp: `blk.0.attn_q.weight.lora_a` (rank, d_in) and `.lora_b` (d_out, rank), three-dimensional for experts; the
#: embedding's lora_a is transposed, and an alpha of 0 stands for the rank.
GGUF = Grammar(
    name="gguf",
    A=r"(.+)\.weight\.lora_a",
    B=r"(.+)\.weight\.lora_b",
    alpha_at=("adapter.lora.alpha",),
    zero_alpha=True,
    known_as={"base_model": ("general.base_model.0.name", "general.name")},
    experts=True,
    embeddings="token_embd",
    embeddings_transposed="A",
)

#: mlx-lm and mlx-examples: `....lora_a` (d_in, rank) and `....lora_b` (rank, d_out), a list of pairs for a fused
#: projection, DoRA's `m`; stacks of experts are (experts, rank, d_in) and (experts, d_out, rank).
MLX = Grammar(
    name="mlx",
    A=r"(?P<module>.+)\.lora_a(?:\.(?P<split>\d+))?",
    B=r"(?P<module>.+)\.lora_b(?:\.(?P<split>\d+))?",
    magnitude=r"(.+)\.m",
    transposed="AB",
    refused={r".+\.lora_[ab]_(?:scales|biases)": "quantized factors: dequantize them with MLX first"},
    alpha_at=("lora_parameters/alpha", "alpha", "lora_alpha"),
    scale_at=("lora_parameters/scale", "scale"),
    known_as={"base_model": ("model",), "seed": ("seed",)},
    experts=True,
    embeddings=EMBEDDINGS,
    doubt=(
        ("lora_layers", "lora_parameters/alpha"),
        "the recorded scale alone, though mlx-lm from April to June 2024 multiplied it by alpha / rank",
    ),
    hint="mlx-lm records it in adapter_config.json, default 20; mlx-examples' lora.py multiplied by 2, later by 20",
)

#: mlx-vlm before its adapters became mlx-lm's: `....A` (d_in, rank), `....B` (rank, d_out), scaled by alpha itself.
MLX_VLM = Grammar(
    name="mlx-vlm",
    A=r"(.+)\.(?:A|lora_a)",
    B=r"(.+)\.(?:B|lora_b)",
    transposed="AB",
    scale_at=("alpha",),
    embeddings=EMBEDDINGS,
    requires=("rank", "alpha"),
)

#: CLIP-LoRA, and LoRA-Torch on which it stands: `....w_lora_A`, scaled by alpha / sqrt(rank), which the file records.
CLIP_LORA = Grammar(
    name="clip-lora",
    A=r"(.+)\.w_lora_A",
    B=r"(.+)\.w_lora_B",
    rank_stabilized=True,
    alpha_at=("metadata.alpha", "metadata/alpha", "alpha", "lora_alpha"),
    rank_at=("metadata.r", "metadata/r", "r"),
    hint="CLIP-LoRA scales by alpha / sqrt(rank), with an alpha of 1 by default",
)


def _sam_module(found: re.Match[str]) -> str:
    number = int(found[1])
    return f"blocks.{number // 2}.attn.qkv.{'qv'[number % 2]}"


#: Sam_LoRA and LoRA-ViT: `w_a_000`, `w_b_000`, ... which alternate between query and value of the adapted blocks.
SAM_LORA = Grammar(
    name="sam-lora",
    A=r"w_a_(\d+)",
    B=r"w_b_(\d+)",
    module=_sam_module,
    transposed="auto",
    alpha_at=("alpha", "lora_alpha"),
    rank_at=("r",),
    hint="Sam_LoRA adds B·A as it is; LoRA-ViT multiplies it by alpha // rank",
)

#: cloneofsimo/lora: `unet:0:up`, `unet:0:down`, numbered in the order of the model's adapted layers.
CLONEOFSIMO = Grammar(
    name="cloneofsimo",
    A=r"(.+:\d+):down",
    B=r"(.+:\d+):up",
    rank_at=("{module}:rank",),
    hint="the library's alpha is chosen at generation time, and is 1 by default",
)

_EVEN, _ODD = r"(?:.*[.:/\[])?(\d*[02468])\]?", r"(?:.*[.:/\[])?(\d*[13579])\]?"

#: The same library's nameless list: up, down, up, down, ...
CLONEOFSIMO_LIST = Grammar(
    name="cloneofsimo-list",
    A=_ODD,
    B=_EVEN,
    module=lambda found: str(int(found[1]) // 2),
    whole_file=True,
    hint=CLONEOFSIMO.hint,
)
