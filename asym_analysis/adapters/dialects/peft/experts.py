"""PEFT's `target_parameters`: one pair of tensors for all experts of a layer, and pairs nested in each other."""

from __future__ import annotations

from collections.abc import Mapping

from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.factorizations.blocks import FlatExpert
from asym_analysis.errors import AdapterValueError

__all__ = ["add_experts", "name_parameters"]

_NESTED = ".base_layer"


def name_parameters(
    groups: Mapping[str, Mapping[str, str]], ledger: Ledger, config: PeftConfig
) -> dict[str, tuple[str, int]]:
    """For each module that holds a parameter's update: the parameter's name and its number of experts.

    PEFT nests the updates of several parameters of one module, and names them ``experts`` and
    ``experts.base_layer``. The parameters of fused experts are registered in the order gate_up_proj, down_proj, and
    the first is innermost; any other nesting keeps its name.
    """
    if not config.target_parameters:
        return {}
    named = {}
    for module, parts in groups.items():
        rank = config.rank_of(module.partition(_NESTED)[0])
        if "A" not in parts or "B" not in parts or rank is None or rank < 1:
            continue
        outermost = module.removesuffix(_NESTED)
        while outermost.endswith(_NESTED):
            outermost = outermost.removesuffix(_NESTED)
        parameters = [name.rpartition(".")[2] for name in config.target_parameters if _targets(name, outermost)]
        if not parameters:
            continue
        rows = ledger.tensors[parts["A"]].shape[0]
        experts = rows // rank if rows % rank == 0 else 1
        named[module] = (_parameter_name(module, outermost, parameters), experts)
    return named


def _targets(parameter: str, module: str) -> bool:
    owner = parameter.rpartition(".")[0]
    return module == owner or module.endswith(f".{owner}") or not owner


def _parameter_name(module: str, outermost: str, parameters: list[str]) -> str:
    if len(parameters) == 1:
        return outermost if parameters[0] == "weight" else f"{outermost}.{parameters[0]}"
    if sorted(parameters) == ["down_proj", "gate_up_proj"]:
        return f"{outermost}.{'gate_up_proj' if module.endswith(_NESTED) else 'down_proj'}"
    return module


def add_experts(
    ledger: Ledger, config: PeftConfig, parameter: tuple[str, int], path: str, parts: Mapping[str, str]
) -> None:
    """Add one module for each expert of a parameter, named with the expert's number."""
    name, experts = parameter
    rank = config.rank_of(path) or 1
    try:
        scaling = config.scaling(path, rank)
    except AdapterValueError as error:
        ledger.refuse(parts.values(), f"{name}: {error}")
        return
    for expert in range(experts):
        module = f"{name}.{expert}" if experts > 1 else name
        ledger.add(module, parts, FlatExpert(expert, experts), scaling)
