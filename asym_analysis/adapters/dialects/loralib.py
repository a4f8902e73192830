"""loralib, and LoRA written by hand: pairs that differ in one word of their names, either way round."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.dialects.grammar import EMBEDDINGS, Grammar, Key
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.factorizations.blocks import MergedLinear
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.adapters.facts import Facts
from asym_analysis.errors import AdapterValueError, NotAnAdapterError

__all__ = ["LORALIB", "LoralibGrammar"]

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
_FUSED = ("c_attn", "query_key_value", "Wqkv", "qkv")
_SECTIONS = ("", "config/")


@dataclass(frozen=True)
class LoralibGrammar(Grammar):
    """`....lora_A` and `....lora_B` as parameters, `....loraA.weight`, `w_a`, `linear_a_q`, `....A`, ...

    Which way round the factors are is read from the shapes of all pairs together. A fused projection (loralib's
    MergedLinear) needs `enable_lora` in the config; the nested configs of AdapterHub's `adapters` are read too.
    """

    def key(self, tensor: str) -> Key | None:
        """Find the word for a factor in a name, and take it out.

        Examples
        --------
        >>> LORALIB.key("transformer.h.0.attn.c_attn.lora.lora_A")
        Key(module='transformer.h.0.attn.c_attn', part='A')
        >>> LORALIB.key("encoder.0.query_lora_b.weight"), LORALIB.key("h.0.attn.query.loras.sst2.lora_A").module
        (Key(module='encoder.0.query', part='B'), 'h.0.attn.query')
        """
        words = list(_WORD.finditer(tensor)) or list(_LETTER.finditer(tensor))
        if not words:
            return None
        word = words[-1]
        rest = tensor[: word.start()] + tensor[word.end() :].removesuffix(".weight")
        module = _WRAPPERS.sub("", _SEPARATORS.sub("", rest))
        return Key(module or "weight", _WORDS.get(word[1], word[1]))

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a name holds a word for a factor; a single letter counts where both factors are there."""
        sides: dict[str, set[str]] = {}
        for tensor in checkpoint.tensors:
            if _WORD.search(tensor):
                return True
            key = self.key(tensor)
            if key is not None:
                sides.setdefault(key.module, set()).add(key.part)
        return any(parts == {"A", "B"} for parts in sides.values())

    def add(self, ledger: Ledger, facts: Facts, module: str, parts: dict[str, str], turned: str) -> None:
        """Add a plain pair, the pairs of a fused projection, or a convolution of loralib's."""
        if facts.at("composition_mode", "config/composition_mode") == "scale":
            raise NotAnAdapterError("this adapter config has composition_mode 'scale', which is IA3: it adds no B·A")
        shapes = [ledger.tensors[parts[part]].shape for part in "AB" if part in parts]
        if turned or len(shapes) < 2 or any(len(shape) != 2 or 0 in shape for shape in shapes):
            super().add(ledger, facts, module, parts, turned)
            return
        A, B = shapes
        enabled = _enabled(facts, module)
        kernel = _kernel(facts, A, B)
        if enabled and A[0] == B[1] * sum(enabled):
            scaling = self.scale(ledger, facts, module, B[1])
            ledger.add(module, parts, MergedLinear(enabled), scaling)
        elif kernel:
            ledger.assume(
                "layout",
                f"that of loralib's convolutions of width {kernel}, whose factors have {kernel} times the rank",
                "give the rank of the tensors as r in config= if they are plain matrices",
            )
            scaling = self.scale(ledger, facts, module, A[0] // kernel)
            layout = Layout((B[0] // kernel, A[1] // kernel, kernel, kernel))
            ledger.add(module, parts, Pair(), scaling, layout=layout)
        elif A[0] != B[1] and A[0] % B[1] == 0:
            raise AdapterValueError(
                f"A {A} and B {B} are of a merged projection: give the parts that are adapted, such as "
                "config={'enable_lora': [True, False, True], 'r': 8, 'lora_alpha': 16}, to load_adapter, or the file "
                "that holds them with --config to asym"
            )
        else:
            super().add(ledger, facts, module, parts, turned)


def _enabled(facts: Facts, module: str) -> tuple[bool, ...] | None:
    """The adapted parts of a fused projection. AdapterHub lists them for every model, most of which have none fused."""
    enabled: Any = facts.at("enable_lora")
    fused: Any = facts.at("attn_matrices", "config/attn_matrices")
    if enabled is None and isinstance(fused, list) and module.endswith(_FUSED):
        enabled = [name in fused for name in "qkv"]
    return tuple(map(bool, enabled)) if isinstance(enabled, list | tuple) and any(enabled) else None


def _kernel(facts: Facts, A: tuple[int, ...], B: tuple[int, ...]) -> int | None:
    """Width of the kernel where the pair is loralib's of a convolution: (rank x k, in x k) and (out x k, rank x k)."""
    rank = facts.number("r", "lora_r")
    if not rank or rank < 1 or A[0] != B[1] or A[0] % rank or A[0] == rank:
        return None
    width = int(A[0] // rank)
    return width if width % 2 and A[1] % width == 0 and B[0] % width == 0 else None


def _paths(*names: str) -> tuple[str, ...]:
    return tuple(f"{section}{name}" for section in _SECTIONS for name in names)


LORALIB = LoralibGrammar(
    name="loralib",
    A=r"(.+)\.lora_A",
    B=r"(.+)\.lora_B",
    transposed="auto",
    embeddings=EMBEDDINGS,
    alpha_at=_paths("lora_alpha", "alpha"),
    rank_at=_paths("r", "rank", "lora_r"),
)
