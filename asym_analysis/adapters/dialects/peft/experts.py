"""PEFT's `target_parameters`: one pair of tensors for all experts of a layer, and pairs nested in each other."""

from __future__ import annotations

import re
from collections.abc import Mapping

from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.factorizations.blocks import FlatExpert
from asym_analysis.errors import AdapterValueError

__all__ = ["add_experts", "name_parameters"]

_NESTED = ".base_layer"
_A_READS_THE_INPUT = (0, 19, 1)  # PEFT's commit e84dd8f40; before, A had the size of the weight's first axis


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
    if experts > 1 and not _orientation_is_known(config):
        ledger.assume(
            "orientation of experts",
            f"A reads the input, though PEFT before 0.19.1 gave A the size of the weight's first axis, as in {name}",
            "where the model keeps experts as (expert, output, input), A and B have each other's part: save the "
            "adapter with PEFT 0.19.1 or later",
        )
    for expert in range(experts):
        module = f"{name}.{expert}" if experts > 1 else name
        ledger.add(module, parts, FlatExpert(expert, experts), scaling)


def _orientation_is_known(config: PeftConfig) -> bool:
    """Whether the config names a version of PEFT that gives A the size of the input; configs before 0.18 name none."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)(\.?(?:dev|rc|a|b))?", str(config.values.get("peft_version") or ""))
    if found is None:
        return False
    version = tuple(int(part) for part in found.groups()[:3])
    return version > _A_READS_THE_INPUT or (version == _A_READS_THE_INPUT and found[4] is None)
