"""PEFT's own checkpoints, and the state dict of a model that PEFT has wrapped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import PeftConfig, with_alpha
from asym_analysis.adapters.dialects.peft.experts import add_experts, name_parameters
from asym_analysis.adapters.dialects.peft.keys import PeftKey, module_name, parse_key
from asym_analysis.adapters.dialects.peft.updates import add_module
from asym_analysis.adapters.dialects.peft.vera import add_vera

__all__ = ["PeftDialect", "read_peft"]

_SHARED = frozenset({"vera_A", "vera_B", "vblora_vector_bank"})
_SAVED = re.compile(r"\.modules_to_save(?:\.[^.]+)?\.")


@dataclass(frozen=True)
class PeftDialect:
    """Checkpoints written by `PeftModel.save_pretrained`, or the state dict of a wrapped model.

    LoRA with all its variants, DoRA, AdaLoRA, VeRA, LoHa and LoKr; several adapters in one file.

    Parameters
    ----------
    in_features
        Pattern for the end of a module's name -> its input size: only for VeRA files, which do not record it.
    """

    in_features: Mapping[str, int] = field(default_factory=dict)
    name = "peft"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a tensor carries a part that only PEFT names."""
        if checkpoint.config.get("peft_type"):
            return any((key := parse_key(tensor)) is not None and key.part != "alpha" for tensor in checkpoint.tensors)
        return any((key := parse_key(tensor)) is not None and _only_peft(key) for tensor in checkpoint.tensors)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the factors of each module and scale them as PEFT does."""
        ledger = Ledger(checkpoint, self.name)
        config = PeftConfig(with_alpha(checkpoint.config, checkpoint.alpha))
        return read_peft(ledger, config, self.in_features or checkpoint.in_features)


def read_peft(ledger: Ledger, config: PeftConfig, in_features: Mapping[str, int] | None = None) -> Reading:
    """Read the tensors of a ledger as PEFT's, with a config that may come from elsewhere than a file of its own."""
    parsed = {key: parse_key(key) for key in ledger.tensors}
    adapters = {key.adapter for key in parsed.values() if key is not None}
    groups: dict[str, dict[str, str]] = {}
    paths: dict[str, str] = {}
    shared: dict[str, str] = {}
    rest = []
    for tensor, key in parsed.items():
        if key is None:
            rest.append(tensor)
        elif key.leaf == "bias":
            ledger.keep(tensor, f"{key.module}.lora_{key.part}.bias", f"bias of {key.part} of {key.module}")
        elif key.part in _SHARED:
            shared.setdefault(key.part, tensor)
            if shared[key.part] != tensor:
                ledger.ignore(tensor, f"the same shared tensor as {shared[key.part]}")
        else:
            module = key.module if len(adapters) == 1 or key.adapter is None else f"{key.adapter}/{key.module}"
            groups.setdefault(module, {})[key.part] = tensor
            paths[module] = key.path
    # A parameter of the model may be called alpha, too.
    rest += [groups.pop(module)["alpha"] for module in list(groups) if groups[module].keys() == {"alpha"}]
    ledger.require_both(groups)
    if config.values.get("bias") in ("all", "lora_only"):
        rest = _keep_biases(ledger, rest)
    _account_for(ledger, rest, groups, whole_model=any(adapters))
    if any("d" in parts or "b" in parts for parts in groups.values()):
        add_vera(ledger, config, groups, shared, in_features or {})
    else:
        _add_modules(ledger, config, groups, paths, shared)
    ledger.scaling_from(config.scaling_source, recorded=config.records_alpha)
    return ledger.reading(config.metadata | _adapters(adapters))


def _add_modules(
    ledger: Ledger,
    config: PeftConfig,
    groups: Mapping[str, dict[str, str]],
    paths: Mapping[str, str],
    shared: Mapping[str, str],
) -> None:
    parameters = name_parameters(groups, ledger, config)
    for module, parts in groups.items():
        if module in parameters:
            add_experts(ledger, config, parameters[module], paths[module], parts)
        else:
            add_module(ledger, config, module, paths[module], parts, shared)


def _keep_biases(ledger: Ledger, rest: list[str]) -> list[str]:
    """Keep the biases, which were trained too; return the other tensors."""
    for key in rest:
        if key.endswith(".bias"):
            ledger.keep(key, module_name(key).replace(".base_layer.", "."), "bias trained beside the adapter")
    return [key for key in rest if not key.endswith(".bias")]


def _account_for(ledger: Ledger, rest: list[str], groups: Mapping[str, dict[str, str]], *, whole_model: bool) -> None:
    """Say of each tensor that is no part of an update whether it was trained beside it or is a frozen weight.

    `save_pretrained` writes trained tensors only, without the adapter's name. Where the names carry it and the
    weights of the adapted modules are there too, this is the state dict of a whole model.
    """
    modules = {module.rpartition("/")[2] for module in groups}
    frozen = [key for key in rest if ".base_layer." in key or module_name(key).rpartition(".")[0] in modules]
    whole_model = whole_model and bool(frozen)
    frozen_set = set(frozen)
    for key in rest:
        saved = _SAVED.search(key)
        if ".lora_monteclora_sampler." in key:
            ledger.ignore(key, "sampler that MonteCLoRA uses in training only")
        elif key in frozen_set:
            ledger.ignore(key, "copy of the frozen base weight")
        elif ".original_module." in key or ".token_adapter.base_layer." in key:
            ledger.ignore(key, "frozen original of a module that was trained beside the adapter")
        elif whole_model and saved is None and "trainable_tokens" not in key:
            ledger.ignore(key, "frozen weight: the file is the state dict of the whole model")
        else:
            ledger.keep(key, _SAVED.sub(".", module_name(key)), "trained beside the adapter")


def _only_peft(key: PeftKey) -> bool:
    """Whether no other library would write this name: a bare lora_A or lora_B is loralib's, too."""
    return key.part != "alpha" and (key.part not in ("A", "B") or key.leaf is not None or key.adapter is not None)


def _adapters(adapters: set[str | None]) -> dict[str, str]:
    names = sorted(name for name in adapters if name is not None)
    return {"adapters": ", ".join(names)} if len(names) > 1 else {}
