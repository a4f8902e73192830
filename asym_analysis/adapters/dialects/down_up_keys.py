"""How the image-generation trainers name tensors: down and up, A and B, LyCORIS's matrices, and an alpha for each."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DownUpKey", "parse_key"]

_PAIRS = (
    # Module, then: the part, with its leaf.
    (re.compile(r"^(.+)\.lora_(down|up|mid)(?:\.(\d+))?\.weight$"), None),
    (re.compile(r"^(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight$"), None),
    (re.compile(r"^(.+)\.lora_(A|B)$"), None),
    (re.compile(r"^(.+)\.(?:lora|lora_linear_layer)\.(down|up)\.weight$"), None),
    (re.compile(r"^(.+?)(?:\.processor)?\.([A-Za-z0-9_]+_lora\d*)\.(down|up)\.weight$"), "processor"),
)
_OTHER = re.compile(
    r"^(.+)\.(?:(alpha|dora_scale|scalar|lora_magnitude_vector)(?:\.weight)?"
    r"|(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12]))(?:\.weight)?"
    r"|(diff|diff_b|set_weight|w_norm|b_norm)"
    r"|(lora_(?:down|up|A|B)\.bias)"
    r"|(oft_blocks|oft_diag|on_input|[ab][12]\.weight|oft_R.*|boft_.*))$"
)
_ROLES = {"down": "A", "up": "B", "A": "A", "B": "B", "mid": "mid"}
_TEXT_ENCODER = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass(frozen=True)
class DownUpKey:
    """A tensor's name, taken apart.

    Attributes
    ----------
    module
        Name of the adapted module as the file writes it.
    part
        ``A``, ``B``, ``mid``, ``alpha``, ``magnitude``, ``scalar``, ``hada_w1_a``, ``lokr_w1``, ...; ``dense`` for a
        change of a whole weight or bias, ``bias`` for that of a factor, ``other`` for tunings that are no product.
    split
        Number of the part of a fused projection that the factor belongs to, where each has its own.
    """

    module: str
    part: str
    split: int | None = None


def parse_key(key: str) -> DownUpKey | None:
    """Take a tensor name apart; None where no trainer names a part of an update so.

    Examples
    --------
    >>> parse_key("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")
    DownUpKey(module='lora_unet_mid_block_attentions_0_proj_in', part='A', split=None)
    >>> parse_key("mid_block.attn1.processor.to_out_lora.up.weight")
    DownUpKey(module='mid_block.attn1.to_out.0', part='B', split=None)
    >>> parse_key("double_blocks.0.processor.qkv_lora2.down.weight").module
    'double_blocks.0.txt_attn.qkv'
    """
    for pattern, kind in _PAIRS:
        found = pattern.match(key)
        if found is None:
            continue
        if kind == "processor":
            parent, name, role = found.groups()
            return DownUpKey(_processor_module(parent, name), _ROLES[role])
        module, role, *split = found.groups()
        return DownUpKey(module, _ROLES[role], int(split[0]) if split and split[0] is not None else None)
    found = _OTHER.match(key)
    if found is None:
        return None
    module, single, lycoris, dense, bias, _ = found.groups()
    if single is not None:
        return DownUpKey(module, "magnitude" if single in ("dora_scale", "lora_magnitude_vector") else single)
    return DownUpKey(module, lycoris or ("dense" if dense else "bias" if bias else "other"))


def _processor_module(parent: str, name: str) -> str:
    """The projection that an attention processor's pair adapts."""
    projection, _, stream = name.partition("_lora")
    if re.search(r"(?:double|single)_blocks\.\d+$", parent):  # x-flux: 1 is the image's stream, 2 the text's
        attention = {"1": ".img_attn", "2": ".txt_attn"}.get(stream, "")
        return f"{parent}{attention}.{projection}"
    if parent.endswith("self_attn"):
        return f"{parent}.{_TEXT_ENCODER.get(projection, projection)}"
    return f"{parent}.{'to_out.0' if projection == 'to_out' else projection}"
