"""How PEFT names tensors: the prefixes of its wrappers, the part of an update, the adapter's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from asym_analysis.adapters.dialects.peft.tuners import TUNERS

__all__ = ["NAMES", "PeftKey", "module_name", "parse_key"]

NAMES = 2**15  # that are kept taken apart: the tensors of many adapters have the same ones

_SHARED = frozenset(name for tuner in TUNERS for name in tuner.shared)
_PARTS = {name: tuner.aliases.get(name, name) for tuner in TUNERS for name in (*tuner.names, *tuner.shared)}
_KEY = re.compile(
    rf"^(?P<module>.+?)\.(?P<part>{'|'.join(sorted(_PARTS, key=len, reverse=True))})(?P<rest>(?:\.[^.]+)*)$"
)
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^module\.(?=.)")
_PREFIX = "base_model.model."
#: What may follow the name of a part: a layer's own parameter, or the parameters of GLoRA's paths and OSF's parts.
_LEAVES = frozenset({"weight", "bias"})
_PATH_LEAVES = frozenset({"Xd", "Xu", "X", "zeros", "U_low", "S_low", "V_low"})


@dataclass(frozen=True)
class PeftKey:
    """A tensor's name, taken apart.

    Attributes
    ----------
    module
        Name of the adapted module, the wrappers' prefixes taken off; empty for a tensor that all modules share.
    path
        The name that PEFT's patterns see.
    part
        ``A``, ``B``, ``embedding_A``, ``magnitude``, ``hada_w1_a``, ``glora_A.Xd``, ...
    adapter
        Name of the adapter, or None where the file leaves it out.
    leaf
        ``weight`` or ``bias``, or None where the factor is a parameter without one.
    shared
        True for a tensor that all modules share.
    """

    module: str
    path: str
    part: str
    adapter: str | None
    leaf: str | None = None
    shared: bool = False


@lru_cache(maxsize=NAMES)
def parse_key(key: str) -> PeftKey | None:
    """Take a PEFT tensor name apart; None where it names no part of an update.

    Examples
    --------
    >>> parse_key("base_model.model.h.0.attn.c_attn.lora_A.default.weight").adapter
    'default'
    >>> parse_key("base_model.model.wte.lora_embedding_A").part
    'embedding_A'
    >>> parse_key("base_model.model.q.glora_A.Xd").part, parse_key("base_model.tinylora_v.0").part
    ('glora_A.Xd', 'tinylora_v.0')
    """
    clean = _WRAPPERS.sub("", key)
    found = _KEY.match(clean)
    if found is None:
        return None
    name, rest = found["part"], found["rest"].split(".")[1:]
    part, leaf = _PARTS[name], None
    if name in _SHARED:
        if rest and rest[-1].isdecimal():
            part = f"{part}.{rest.pop()}"
    elif rest and rest[-1] in _LEAVES:
        leaf = rest.pop()
    elif name.startswith(("glora_", "osf_")) and rest and rest[-1] in _PATH_LEAVES:
        part = f"{part}.{rest.pop()}"
    if len(rest) > 1:
        return None
    adapter = rest[0] if rest else None
    if name in _SHARED:
        return PeftKey("", "", part, adapter, shared=True)
    _, _, path = found["module"].rpartition(_PREFIX) if _PREFIX in found["module"] else ("", "", found["module"])
    # Inside a wrapper (multi-head attention's out_proj) the rank and alpha are those of the wrapped module.
    parent = path.split(".base_layer", 1)[0]
    module = path.replace(".base_layer.", ".")
    return PeftKey(module, parent, part, adapter, leaf)


def module_name(name: str) -> str:
    """A tensor's or module's name in the base model: every prefix that a wrapper added is taken off.

    Examples
    --------
    >>> module_name("module.base_model.model.base_model.model.bert.pooler")
    'bert.pooler'
    """
    return _WRAPPERS.sub("", name).rpartition(_PREFIX)[2]
