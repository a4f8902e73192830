"""How PEFT names tensors: the prefixes of its wrappers, the part of an update, the adapter's name."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["PeftKey", "module_name", "parse_key"]

_PARTS = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_embedding_A": "embedding_A",
    "lora_embedding_B": "embedding_B",
    "lora_magnitude_vector": "magnitude",
    "lora_E": "E",
    "lora_diag": "E",
    "ranknum": "ranknum",
    "alpha": "alpha",
    "vera_lambda_d": "d",
    "vera_lambda_b": "b",
    "vera_A": "vera_A",
    "vera_B": "vera_B",
    **{f"hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{
        name: name
        for name in (
            *("delora_A", "delora_B", "delora_lambda", "delora_w_norm"),
            *("gralora_A", "gralora_B", "gralora_A_general", "gralora_B_general"),
            *(f"vblora_logits_{factor}{rest}" for factor in "AB" for rest in ("", "_topk_indices", "_topk_weights")),
            "vblora_vector_bank",
        )
    },
    **{f"lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
_KEY = re.compile(
    rf"^(?P<module>.+?)\.(?P<part>{'|'.join(sorted(_PARTS, key=len, reverse=True))})(?P<rest>(?:\.[^.]+)*)$"
)
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^module\.(?=.)")
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class PeftKey:
    """A tensor's name, taken apart.

    Attributes
    ----------
    module
        Name of the adapted module, the wrappers' prefixes taken off.
    path
        The name that PEFT's patterns see.
    part
        ``A``, ``B``, ``embedding_A``, ``magnitude``, ``hada_w1_a``, ...
    adapter
        Name of the adapter, or None where the file leaves it out.
    leaf
        ``weight`` or ``bias``, or None where the factor is a parameter without one.
    """

    module: str
    path: str
    part: str
    adapter: str | None
    leaf: str | None = None


def parse_key(key: str) -> PeftKey | None:
    """Take a PEFT tensor name apart; None where it names no part of an update.

    Examples
    --------
    >>> parse_key("base_model.model.h.0.attn.c_attn.lora_A.default.weight")
    PeftKey(module='h.0.attn.c_attn', path='h.0.attn.c_attn', part='A', adapter='default', leaf='weight')
    >>> parse_key("base_model.model.wte.lora_embedding_A").part
    'embedding_A'
    """
    clean = _WRAPPERS.sub("", key)
    found = _KEY.match(clean)
    if found is None:
        return None
    rest = found["rest"].split(".")[1:]
    leaf = rest.pop() if rest and rest[-1] in ("weight", "bias") else None
    if len(rest) > 1:
        return None
    _, _, path = found["module"].rpartition(_PREFIX) if _PREFIX in found["module"] else ("", "", found["module"])
    # Inside a wrapper (multi-head attention's out_proj) the rank and alpha are those of the wrapped module.
    parent = path.split(".base_layer", 1)[0]
    module = path.replace(".base_layer.", ".")
    return PeftKey(module, parent, _PARTS[found["part"]], rest[0] if rest else None, leaf)


def module_name(name: str) -> str:
    """A tensor's or module's name in the base model: every prefix that a wrapper added is taken off.

    Examples
    --------
    >>> module_name("module.base_model.model.base_model.model.bert.pooler")
    'bert.pooler'
    """
    return _WRAPPERS.sub("", name).rpartition(_PREFIX)[2]
