"""loralib, and LoRA written by hand: a pair of parameters for each module, either way round."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.names import factor_name
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.factorizations.blocks import MergedLinear
from asym_analysis.adapters.factorizations.module_source import Factorization, Layout
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.errors import AdapterValueError, NotAnAdapterError

__all__ = ["LoralibDialect"]

_OWN = re.compile(
    r"(?:\.(?:linear|base|base_layer|original_layer|original_linear|original|orig|to_wrap|module))?"
    r"(?:\.parametrizations\.weight\.original|\.weight|\.bias)$"
)


@dataclass(frozen=True)
class LoralibDialect:
    """`....lora_A` and `....lora_B` as parameters, `....loraA.weight`, `w_a_000`, `linear_a_q`, ...

    Which way round the factors are is read from the shapes of all pairs together: (rank, d_in) and (d_out, rank), or
    (d_in, rank) and (rank, d_out). A fused projection (loralib's MergedLinear) needs `enable_lora` in the config.
    """

    name = "loralib"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a name holds a word for a factor."""
        sides: dict[str, set[str]] = {}
        for tensor in checkpoint.tensors:
            name = factor_name(tensor)
            if name is not None and name.certain:
                return True
            if name is not None:
                sides.setdefault(name.module, set()).add(name.part)
        return any(parts == {"A", "B"} for parts in sides.values())

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the factors; without an alpha in the config the scale is taken for 1, and the metadata says so."""
        ledger = Ledger(checkpoint, self.name)
        groups: dict[str, dict[str, str]] = {}
        rest = []
        for tensor in checkpoint.tensors:
            name = factor_name(tensor)
            if name is None:
                rest.append(tensor)
            elif name.part in groups.setdefault(name.module, {}):
                ledger.refuse(tensor, f"a second {name.part} of {name.module}")
            else:
                groups[name.module][name.part] = tensor
        _account_for(ledger, rest, groups)
        config = PeftConfig(_as_peft(checkpoint.config))
        ledger.require_both(groups)
        transposed = _transposed(ledger, groups)
        for module, parts in groups.items():
            try:
                _add_module(ledger, config, module, parts, transposed=transposed)
            except AdapterValueError as error:
                ledger.refuse(parts.values(), f"{module}: {error}")
        ledger.scaling_from(config.scaling_source, recorded=config.records_alpha)
        return ledger.reading(config.metadata)


def _is_fused(config: PeftConfig, module: str) -> bool:
    """AdapterHub lists the fused parts for every model, most of which have separate projections."""
    return "attn_matrices" not in config.values or module.endswith(("c_attn", "query_key_value", "Wqkv", "qkv"))


def _account_for(ledger: Ledger, rest: list[str], groups: Mapping[str, object]) -> None:
    """Where the adapted modules' own weights are in the file, it is the state dict of a whole model."""
    whole_model = any(_OWN.sub("", tensor) in groups for tensor in rest)
    for tensor in rest:
        if _OWN.sub("", tensor) in groups:
            ledger.ignore(tensor, "base weight of an adapted module")
        elif whole_model:
            ledger.ignore(tensor, "the file is the state dict of a whole model, and does not say what else was trained")
        else:
            ledger.keep(tensor, tensor, "trained beside the adapter")


def _as_peft(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of AdapterHub's `adapters`, which is nested and names the fused projections, beside PEFT's own."""
    inner = config.get("config")
    values = {**config, **(inner if isinstance(inner, Mapping) else {})}
    if values.get("composition_mode") == "scale":
        raise NotAnAdapterError("this adapter config has composition_mode 'scale', which is IA3: it adds no B·A")
    fused = values.get("attn_matrices")
    if isinstance(fused, list) and "enable_lora" not in values:
        values["enable_lora"] = [name in fused for name in "qkv"]
    return values


def _transposed(ledger: Ledger, groups: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether the pairs multiply only the other way round; where all multiply both ways, they stand as loralib's."""
    upright = turned = 0
    for parts in groups.values():
        if parts.keys() == {"A", "B"}:
            A, B = (ledger.tensors[parts[part]].shape for part in "AB")
            if len(A) == len(B) == 2:
                upright += A[0] == B[1]
                turned += A[1] == B[0]
    return turned > upright


def _add_module(ledger: Ledger, config: PeftConfig, module: str, parts: Mapping[str, str], *, transposed: bool) -> None:
    if parts.keys() != {"A", "B"}:
        raise AdapterValueError(f"{'A' if 'A' in parts else 'B'} without its {'B' if 'A' in parts else 'A'}")
    A, B = (ledger.tensors[parts[part]].shape for part in "AB")
    if len(A) < 2 or len(B) < 2 or 0 in A + B:
        raise AdapterValueError(f"A {A} and B {B} are no matrices")
    rank = A[1] if transposed else A[0]
    factorize: Factorization = Pair(transposed, transposed)
    if not transposed and config.enable_lora and A[0] == B[1] * sum(config.enable_lora) and _is_fused(config, module):
        factorize, rank = MergedLinear(config.enable_lora), B[1]
    elif not transposed and A[0] != B[1] and A[0] % B[1] == 0:
        raise AdapterValueError(
            f"A {A} and B {B} are of a merged projection; give its enable_lora (and r, lora_alpha) in a config file"
        )
    convolution = (B[0], *A[1:]) if len(A) > 2 else None
    ledger.add(module, parts, factorize, config.scaling(module, rank), layout=Layout(convolution))
