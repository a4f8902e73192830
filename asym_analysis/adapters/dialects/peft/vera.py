"""VeRA as PEFT writes it: the shared projections once or not at all, and no module's input size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from asym_analysis.adapters.adapter import Part
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.patterns import Patterns
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.shared import SharedPair, regenerate_projections
from asym_analysis.adapters.module_names import projection_of
from asym_analysis.errors import AdapterValueError

__all__ = ["add_vera"]

#: Projections that read the residual stream, and so have the same input size in every layer of one network.
_READ_THE_STREAM = frozenset(
    {
        *("q", "k", "v", "q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "k_lin", "v_lin"),
        *("query_proj", "key_proj", "value_proj", "qkv", "qkv_proj", "query_key_value", "c_attn", "in_proj", "Wqkv"),
        *("gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "lin1", "wi", "wi_0", "wi_1", "dense_h_to_4h"),
    }
)


@dataclass(frozen=True)
class _Projection:
    """Reads one of the two projections, drawn anew from the key that the config records."""

    key: int
    rank: int
    d_in: int
    d_out: int
    which: int

    def __call__(self) -> Tensor:
        return regenerate_projections(self.key, self.rank, self.d_in, self.d_out)[self.which]


def add_vera(
    ledger: Ledger,
    config: PeftConfig,
    groups: Mapping[str, Mapping[str, str]],
    shared: Mapping[str, str],
    in_features: Mapping[str, int],
) -> None:
    """Add the VeRA update of each module.

    Parameters
    ----------
    shared
        ``vera_A`` and ``vera_B`` -> tensor's name, where the file has them.
    in_features
        Pattern -> input size, where the user gives them.
    """
    whole = {module: parts for module, parts in groups.items() if {"d", "b"} <= parts.keys()}
    for module, parts in groups.items():
        if module not in whole:
            ledger.refuse(parts.values(), f"{module}: {', '.join(parts)} alone make no VeRA update")
    sizes = _input_sizes(ledger, whole, shared, Patterns(in_features))
    try:
        sources = _projections(ledger, config, whole, shared, sizes)
    except AdapterValueError as error:
        for module, parts in whole.items():
            ledger.refuse(parts.values(), f"{module}: {error}")
        return
    layout = Layout(stored_transposed=config.fan_in_fan_out)
    for module, parts in whole.items():
        if module in sizes:
            named = {"d": parts["d"], "b": parts["b"]}
            ledger.add(module, named, SharedPair(sizes[module]), 1.0, layout=layout, more=sources)
        else:
            ledger.refuse(
                parts.values(),
                f"{module}: VeRA records no input size and the modules' may differ; give it with "
                f"dialect=PeftDialect(in_features={{{projection_of(module)!r}: ...}})",
            )
    for part, tensor in shared.items():
        ledger.share(tensor, f"{part[-1]} of every module")


def _input_sizes(
    ledger: Ledger, whole: Mapping[str, Mapping[str, str]], shared: Mapping[str, str], given: Patterns[int]
) -> dict[str, int]:
    sizes = {module: size for module in whole if (size := given.first(module)) is not None}
    projections = {projection_of(module) for module in whole}
    if not sizes and "vera_A" in shared and (len(projections) == 1 or projections <= _READ_THE_STREAM):
        sizes = dict.fromkeys(whole, (0, *ledger.tensors[shared["vera_A"]].shape)[-1])
    return sizes


def _projections(
    ledger: Ledger,
    config: PeftConfig,
    whole: Mapping[str, Mapping[str, str]],
    shared: Mapping[str, str],
    sizes: Mapping[str, int],
) -> dict[str, Part]:
    if {"vera_A", "vera_B"} <= shared.keys():
        return {factor: ledger.part(shared[f"vera_{factor}"], frozen=True) for factor in "AB"}
    key = config.values.get("projection_prng_key")
    if not isinstance(key, int) or not whole:
        raise AdapterValueError("VeRA's shared projections are not in the file, and no projection_prng_key is recorded")
    if len(sizes) < len(whole):
        raise AdapterValueError(
            "VeRA's shared projections are not in the file (save_projection=False); drawing them again from "
            "projection_prng_key needs every input size: give dialect=PeftDialect(in_features={'q_proj': 768, ...})"
        )
    rank = ledger.tensors[next(iter(whole.values()))["d"]].size
    d_in, d_out = max(sizes.values()), max(ledger.tensors[parts["b"]].size for parts in whole.values())
    return {
        "A": Part((rank, d_in), "float32", _Projection(key, rank, d_in, d_out, 0), tensor="vera_A", frozen=True),
        "B": Part((d_out, rank), "float32", _Projection(key, rank, d_in, d_out, 1), tensor="vera_B", frozen=True),
    }
