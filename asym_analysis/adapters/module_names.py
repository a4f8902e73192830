"""Where in a network a module sits, read from its dotted name."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["layer_of", "place", "projection_of"]

_LAYER_WORDS = re.compile(r"(?:^|[._])(?:layers?|h|blocks?|block_list|resblocks|encoder|decoder)[._](\d+)(?=[._]|$)")
_ANY_NUMBER = re.compile(r"(?:^|[._])(\d+)(?=[._]|$)")


def layer_of(module: str) -> int | None:
    """Index of the layer that a module belongs to, or None where its name has no number.

    Examples
    --------
    >>> layer_of("roberta.encoder.layer.11.attention.self.query"), layer_of("transformer.h.3.attn.c_attn")
    (11, 3)
    >>> layer_of("classifier") is None
    True
    """
    found = _LAYER_WORDS.search(module) or _ANY_NUMBER.search(module)
    return int(found.group(1)) if found else None


def projection_of(module: str) -> str:
    """Name of the projection: the last part of the module's name that is no number.

    Examples
    --------
    >>> projection_of("roberta.encoder.layer.11.attention.self.query"), projection_of("mid.attentions.0.to_out.0")
    ('query', 'to_out')
    """
    parts = [part for part in module.split(".") if part and not part.isdigit()]
    return parts[-1] if parts else module


def place(module: str) -> dict[str, Any]:
    """Name, layer and projection of a module: the columns with which the rows of a table begin.

    Parameters
    ----------
    module
        Dotted or flattened name of a module.

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
