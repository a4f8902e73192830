"""loralib, and LoRA written by hand: a pair of parameters for each module, either way round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.block_diagonal import MergedLinear
from asym_analysis.adapters.dialects.factors import Factorization, Layout, Pair
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.names import factor_name
from asym_analysis.adapters.dialects.peft_config import PeftConfig
from asym_analysis.errors import AdapterValueError

__all__ = ["LoralibDialect"]


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
        for tensor in rest:
            owner = tensor.removesuffix(".linear.weight").removesuffix(".weight")
            if owner in groups and tensor != owner:
                ledger.ignore(tensor, "frozen base weight of an adapted module")
            else:
                ledger.keep(tensor, tensor, "trained beside the adapter")
        config = PeftConfig(checkpoint.config)
        transposed = _transposed(ledger, groups)
        for module, parts in groups.items():
            try:
                _add_module(ledger, config, module, parts, transposed=transposed)
            except AdapterValueError as error:
                ledger.refuse(parts.values(), f"{module}: {error}")
        return ledger.reading(config.metadata | {"scaling": config.scaling_source})


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
    if not transposed and config.enable_lora and A[0] == B[1] * sum(config.enable_lora):
        factorize, rank = MergedLinear(config.enable_lora), B[1]
    elif not transposed and A[0] != B[1] and A[0] % B[1] == 0:
        raise AdapterValueError(
            f"A {A} and B {B} are of a merged projection; give its enable_lora (and r, lora_alpha) in a config file"
        )
    convolution = (B[0], *A[1:]) if len(A) > 2 else None
    ledger.add(module, parts, factorize, config.scaling(module, rank), layout=Layout(convolution))
