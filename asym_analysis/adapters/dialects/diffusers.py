"""diffusers, old and new, and the trainers that write dotted names beside it: ComfyUI's, ai-toolkit's, x-flux's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.down_up import read_down_up
from asym_analysis.adapters.dialects.down_up_keys import parse_key
from asym_analysis.adapters.dialects.ledger import Ledger

__all__ = ["DiffusersDialect"]

_COMPONENT = re.compile(
    r"^(?:model\.)?(?:unet|transformer(?:_2)?|text_encoder(?:_\d)?|prior|diffusion_model|text_encoders|clip_[lg]|t5xxl"
    r"|controlnet|image_encoder|vae|dit)\.(?!h\.\d)"
)
_DOWN_UP = re.compile(r"(?:\blora_down|\blora_up|lora\d*\.down|lora\d*\.up|lora_linear_layer\.(?:down|up))(?:\.\d+)?\.")
_LYCORIS = re.compile(r"\.(?:hada|lokr)_[wt]\d")


@dataclass(frozen=True)
class DiffusersDialect:
    """`unet.....lora_A.weight`, `....processor.to_q_lora.down.weight`, `diffusion_model.....lora_down.weight`, ...

    Without an alpha the scale is 1, as `load_lora_weights` takes it.
    """

    name = "diffusers"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a part follows a dotted module of a diffusion pipeline, or is named down or up."""
        if checkpoint.config.get("peft_type"):
            return False
        return any(
            (parsed := parse_key(key)) is not None
            and "." in parsed.module
            and (
                _COMPONENT.match(key) is not None
                or _DOWN_UP.search(key) is not None
                or _LYCORIS.search(key) is not None
            )
            and parsed.part not in ("alpha", "dense", "bias", "other")
            for key in checkpoint.tensors
        )

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Scale each update by its alpha, or by the LoraConfig in the file's header, or by 1."""
        return read_down_up(Ledger(checkpoint, self.name), checkpoint.header)
