"""Pairs that differ in one word of their names: how people name factors when they write LoRA by hand."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["FactorName", "factor_name"]

_WORDS = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_a": "A",
    "lora_b": "B",
    "loraA": "A",
    "loraB": "B",
    "lora_down": "A",
    "lora_up": "B",
    "lora_in": "A",
    "lora_out": "B",
    "linear_a": "A",
    "linear_b": "B",
    "weight_a": "A",
    "weight_b": "B",
    "w_a": "A",
    "w_b": "B",
}
_WORD = re.compile(rf"(?:(?<=[._:/])|^)({'|'.join(_WORDS)})(?=[._:/]|$)")
_LETTER = re.compile(r"(?<=[.:/])([AB])(?=$|\.weight$)")
_WRAPPERS = re.compile(r"(?:\.(?:lora|lora_layer|adapter|default)|\.loras\.[^.]+|\.parametrizations\.weight\.0)$")
_SEPARATORS = re.compile(r"^[._:/]+|[._:/]+$|(?<=[._:/])[._:/]+")


@dataclass(frozen=True)
class FactorName:
    """A tensor's name with the word for the factor taken out.

    Attributes
    ----------
    module
        What is left: the same for both factors of a pair.
    part
        ``A`` or ``B``.
    certain
        False where the word is a single letter, which other tensors may be called, too.
    """

    module: str
    part: str
    certain: bool


def factor_name(tensor: str) -> FactorName | None:
    """Find the word for a factor in a name; None where there is none.

    Examples
    --------
    >>> factor_name("transformer.h.0.attn.c_attn.lora.lora_A").module
    'transformer.h.0.attn.c_attn'
    >>> factor_name("encoder.0.query_lora_b.weight")
    FactorName(module='encoder.0.query', part='B', certain=True)
    >>> factor_name("w_a_007").module, factor_name("h.0.attn.query.loras.sst2.lora_A").module
    ('007', 'h.0.attn.query')
    """
    words = list(_WORD.finditer(tensor)) or list(_LETTER.finditer(tensor))
    if not words:
        return None
    word = words[-1]
    part = _WORDS.get(word[1], word[1])
    rest = tensor[: word.start()] + tensor[word.end() :].removesuffix(".weight")
    module = _SEPARATORS.sub("", rest)
    module = _WRAPPERS.sub("", module)
    return FactorName(module or "weight", part, word[1] in _WORDS)
