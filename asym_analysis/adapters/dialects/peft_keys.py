"""How PEFT names tensors: prefixes, the part of a factor, the adapter's name, and patterns over module names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["PeftKey", "match_pattern", "module_name", "parse_key"]

_PARTS = (
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "lora_A",
    "lora_B",
    "lora_E",
    "ranknum",
)
_KEY = re.compile(rf"^(?P<module>.+?)\.(?P<part>{'|'.join(_PARTS)})(?P<rest>(?:\.[^.]+)*)$")
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|_fsdp_wrapped_module\.)+|(?:_orig_mod|_fsdp_wrapped_module)\.")
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class PeftKey:
    """A tensor's name, taken apart.

    Attributes
    ----------
    module
        Name of the adapted module, prefixes of the wrapping classes taken off.
    path
        The module's name as PEFT's patterns see it: one ``base_model.model.`` taken off.
    part
        ``lora_A``, ``lora_embedding_B``, ``lora_magnitude_vector``, ...
    adapter
        Name of the adapter, or None where the file leaves it out.
    leaf
        ``weight`` or ``bias``.
    """

    module: str
    path: str
    part: str
    adapter: str | None
    leaf: str


def parse_key(key: str) -> PeftKey | None:
    """Take a PEFT tensor name apart; None where it names no part of a factor.

    Examples
    --------
    >>> parse_key("base_model.model.h.0.attn.c_attn.lora_A.default.weight")
    PeftKey(module='h.0.attn.c_attn', path='h.0.attn.c_attn', part='lora_A', adapter='default', leaf='weight')
    >>> parse_key("base_model.model.wte.lora_embedding_A").part
    'lora_embedding_A'
    """
    found = _KEY.match(_WRAPPERS.sub("", key))
    if found is None:
        return None
    rest = found["rest"].split(".")[1:]
    leaf = rest.pop() if rest and rest[-1] in ("weight", "bias") else "weight"
    if len(rest) > 1:
        return None
    path = found["module"].removeprefix(_PREFIX)
    return PeftKey(module_name(found["module"]), path, found["part"], rest[0] if rest else None, leaf)


def module_name(name: str) -> str:
    """A module's name in the base model: every prefix that a wrapping class added is taken off.

    Examples
    --------
    >>> module_name("module.base_model.model.base_model.model.bert.pooler")
    'bert.pooler'
    """
    name = _WRAPPERS.sub("", name)
    while name.startswith(_PREFIX):
        name = name.removeprefix(_PREFIX)
    return name


def match_pattern(patterns: Iterable[str], path: str) -> str | None:
    """The first pattern that PEFT would apply to a module: a regular expression for the end of its dotted name.

    Of overlapping patterns the first of the config wins, however long the others are.

    Examples
    --------
    >>> match_pattern(["v_proj", "layers.0.*v_proj"], "model.layers.0.self_attn.v_proj")
    'v_proj'
    """
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", path)), None)
