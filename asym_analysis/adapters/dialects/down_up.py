"""Read a file of down and up matrices, or LyCORIS's: the common part of the kohya and diffusers dialects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asym_analysis.adapters.checkpoint import Reading
from asym_analysis.adapters.dialects.down_up_keys import parse_key
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.lycoris import add_hadamard, add_kronecker
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.factorizations.module_source import Factorization, Layout
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.adapters.factorizations.products import TuckerPair
from asym_analysis.errors import AdapterError, AdapterValueError

__all__ = ["SplitPair", "read_down_up"]


@dataclass(frozen=True)
class SplitPair:
    """A fused projection whose parts have a pair each: A stacked, B block diagonal.

    Examples
    --------
    >>> parts = {"A.0": torch.ones(1, 3), "B.0": torch.ones(2, 1), "A.1": torch.ones(1, 3), "B.1": torch.ones(4, 1)}
    >>> A, B = SplitPair(2)(parts)
    >>> A.shape, B.shape
    (torch.Size([2, 3]), torch.Size([6, 2]))
    """

    count: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        numbers = range(self.count)
        return (
            torch.cat([tensors[f"A.{number}"] for number in numbers]),
            torch.block_diag(*(tensors[f"B.{number}"] for number in numbers)),
        )


def read_down_up(ledger: Ledger, header: Mapping[str, Any]) -> Reading:
    """Group the tensors by module and scale each update with its own alpha.

    Where there is none, the LoraConfig counts that diffusers writes into the header, or else 1: trainers of this
    family take a missing alpha for the rank.
    """
    groups: dict[str, dict[str, str]] = {}
    for tensor in ledger.tensors:
        key = parse_key(tensor)
        if key is None:
            ledger.keep(tensor, tensor, "trained beside the adapter")
        elif key.part == "dense":
            ledger.keep(tensor, tensor, f"change of a whole weight or bias of {key.module}")
        elif key.part == "bias":
            ledger.keep(tensor, tensor, f"bias of a factor of {key.module}")
        elif key.part == "other":
            ledger.refuse(tensor, f"{key.module}: OFT, GLoRA and IA3 multiply the base weight; they add no B·A")
        else:
            part = key.part if key.split is None else f"{key.part}.{key.split}"
            groups.setdefault(key.module, {})[part] = tensor
    ledger.require_both(groups)
    configs = _header_configs(header)
    for module, parts in groups.items():
        try:
            _add_module(ledger, module, dict(parts), configs)
        except AdapterValueError as error:
            ledger.refuse(parts.values(), f"{module}: {error}")
    recorded = any("alpha" in parts for parts in groups.values()) or bool(configs)
    ledger.scaling_from(_scaling_source(groups, configs), recorded=recorded)
    return ledger.reading(_metadata(header))


def _add_module(ledger: Ledger, module: str, parts: dict[str, str], configs: Mapping[str, PeftConfig]) -> None:
    also = tuple(parts[part] for part in ("alpha", "scalar") if part in parts)
    alpha = ledger.number(parts.pop("alpha")) if "alpha" in parts else None
    scalar = ledger.number(parts.pop("scalar")) if "scalar" in parts else 1.0
    component, _, path = module.partition(".")
    config = configs.get(component)

    def scaling(rank: int | None) -> float:
        if rank is None:  # LoKr with both matrices whole has no rank: LyCORIS scales it by 1, whatever alpha says.
            return scalar
        if alpha is None:
            return scalar * (config.scaling(path, rank) if config is not None else 1.0)
        return scalar * alpha / rank

    _drop_input_norms(ledger, module, parts)
    if any(part.startswith("hada_") for part in parts):
        add_hadamard(ledger, module, parts, scaling, also)
    elif any(part.startswith("lokr_") for part in parts):
        add_kronecker(ledger, module, parts, scaling, also)
    else:
        factorize, rank, layout = _pair(ledger, parts)
        ledger.add(module, parts, factorize, scaling(rank), layout=layout, also=also)


def _pair(ledger: Ledger, parts: Mapping[str, str]) -> tuple[Factorization, int, Layout]:
    shape = {part: ledger.tensors[tensor].shape for part, tensor in parts.items()}
    if "A.0" in shape:
        count = sum(part.startswith("A.") for part in shape)
        if set(shape) - {"magnitude"} != {f"{part}.{number}" for part in "AB" for number in range(count)}:
            raise AdapterValueError("the pairs of a split projection are not all there")
        if any(len(dimensions) != 2 or 0 in dimensions for part, dimensions in shape.items() if part != "magnitude"):
            raise AdapterValueError("the pairs of a split projection are not all matrices")
        return SplitPair(count), shape["A.0"][0], Layout()
    if "A" not in shape or "B" not in shape:
        raise AdapterValueError(f"{', '.join(shape) or 'alpha'} without {'B' if 'A' in shape else 'A'}")
    if len(shape["A"]) < 2 or len(shape["B"]) < 2 or 0 in shape["A"]:
        raise AdapterValueError(f"A {shape['A']} and B {shape['B']} are no matrices")
    if "mid" in shape:
        return TuckerPair(), shape["A"][0], Layout((shape["B"][0], shape["A"][1], *shape["mid"][2:]))
    convolution = (shape["B"][0], *shape["A"][1:]) if len(shape["A"]) > 2 else None
    return Pair(), shape["A"][0], Layout(convolution)


def _drop_input_norms(ledger: Ledger, module: str, parts: dict[str, str]) -> None:
    """Take DoRA magnitudes of the inputs out of the parts: only those of the outputs have a place in an update."""
    shape = ledger.tensors[parts["magnitude"]].shape if "magnitude" in parts else ()
    if len(shape) > 1 and shape[0] == 1 and shape[1] > 1:
        ledger.refuse(
            parts.pop("magnitude"), f"{module}: DoRA magnitudes of the inputs; the update given is B·A before them"
        )


def _header_configs(header: Mapping[str, Any]) -> dict[str, PeftConfig]:
    """The LoraConfig of each component, from the JSON text that diffusers writes into the header."""
    text = header.get("lora_adapter_metadata")
    if not isinstance(text, str):
        return {}
    try:
        flat = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"the header's lora_adapter_metadata is no JSON: {error}") from error
    if not isinstance(flat, dict):
        raise AdapterError("the header's lora_adapter_metadata is no mapping")
    components: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        component, _, entry = name.partition(".")
        components.setdefault(component, {})[entry] = value
    return {component: PeftConfig(values) for component, values in components.items()}


def _scaling_source(groups: Mapping[str, Mapping[str, str]], configs: Mapping[str, PeftConfig]) -> str:
    if any("alpha" in parts for parts in groups.values()):
        return "alpha of each module"
    return "config in the header" if configs else "1: no alpha is recorded, which stands for the rank"


def _metadata(header: Mapping[str, Any]) -> dict[str, Any]:
    named = {
        "base_model": header.get("ss_sd_model_name") or header.get("ss_base_model_version"),
        "peft_type": header.get("ss_network_module"),
        "seed": header.get("ss_seed"),
        "step": header.get("ss_steps"),
    }
    return {key: value for key, value in named.items() if isinstance(value, str | int) and value != "None"}
