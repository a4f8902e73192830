"""Where in a network a module sits, read from its name: dotted, flattened with underscores, or numbered."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

__all__ = ["layer_of", "place", "projection_of"]

_LAYER_WORDS = re.compile(
    r"(?:^|[._])(?:layers?|h|blk|blocks?|block_list|resblocks|encoder|decoder)[._](\d+)(?=[._]|$)"
)
_ANY_NUMBER = re.compile(r"(?:^|[._:])(\d+)(?=[._:]|$)")
_FLATTENED = re.compile(r"(?:lora|lycoris)_[^.:]+")
#: Names of projections that hold an underscore, as the end of a flattened name shows them.
_WITH_UNDERSCORE = re.compile(
    r"(?:^|_)((?:add_)?[qkvo]_proj|(?:out|in|up|down|gate|gate_up|qkv|query|key|value)_proj"
    r"|to_(?:add_)?(?:q|k|v|qkv|kv|out)|proj_(?:in|out|mlp)|c_(?:attn|proj|fc)|query_key_value|w[io]_\d"
    r"|(?:time_emb|text|visual)_proj|conv_(?:in|out|shortcut)|(?:in|out|emb)_layers|linear_\d|fc_\d|skip_connection"
    r"|linear_(?:qkv|q|kv|proj|fc1|fc2)|text_projection|(?:x|context|time|guidance)_embedder|adaLN_modulation)(?:_\d+)?$"
)


def layer_of(module: str) -> int | None:
    """Index of the layer that a module belongs to, or None where its name has no number.

    Parameters
    ----------
    module
        Name of a module as a file writes it.

    Returns
    -------
    int or None
        The number after a word for a layer (``layers.3``, ``h.3``, ``blocks_3``), or else the first number.

    Examples
    --------
    >>> layer_of("roberta.encoder.layer.11.attention.self.query"), layer_of("transformer.h.3.attn.c_attn")
    (11, 3)
    >>> layer_of("lora_te_text_model_encoder_layers_4_mlp_fc1"), layer_of("unet:17")
    (4, 17)
    >>> layer_of("classifier") is None
    True
    """
    found = _LAYER_WORDS.search(module) or _ANY_NUMBER.search(module)
    return int(found.group(1)) if found else None


@lru_cache(maxsize=2**14)
def projection_of(module: str) -> str:
    """Name of the projection: the last part of the module's name that is not a number.

    Parameters
    ----------
    module
        Name of a module as a file writes it.

    Returns
    -------
    str
        The projection. Names that are flattened with underscores (kohya) are read from their end; pairs that have a
        number only (cloneofsimo) are called by the network that they belong to, or ``"pair"``.

    Examples
    --------
    >>> projection_of("roberta.encoder.layer.11.attention.self.query"), projection_of("mid.attentions.0.to_out.0")
    ('query', 'to_out')
    >>> projection_of("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"), projection_of("unet:17")
    ('to_q', 'unet')
    """
    if _FLATTENED.fullmatch(module):
        return _flattened_projection(module)
    parts = [part for part in re.split(r"[.:]", module) if part and not part.isdigit()]
    return parts[-1] if parts else "pair"


def _flattened_projection(module: str) -> str:
    known = _WITH_UNDERSCORE.search(module)
    if known is not None:
        return known[1]
    parts = [part for part in module.split("_") if part and not part.isdigit()]
    return parts[-1] if parts else module


def place(module: str) -> dict[str, Any]:
    """Name, layer and projection of a module: the columns with which the rows of a table begin.

    Parameters
    ----------
    module
        Name of a module as a file writes it.

    Returns
    -------
    dict
        The keys ``"module"`` (the name as given), ``"layer"`` (int or None) and ``"projection"`` (str), in this order.

    Examples
    --------
    >>> place("transformer.h.3.attn.c_attn")
    {'module': 'transformer.h.3.attn.c_attn', 'layer': 3, 'projection': 'c_attn'}
    """
    return {"module": module, "layer": layer_of(module), "projection": projection_of(module)}
