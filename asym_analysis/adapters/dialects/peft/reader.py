"""PEFT's own checkpoints, and the state dict of a model that PEFT has wrapped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from asym_analysis.adapters.base_change import base_change, remedy, taken_from
from asym_analysis.adapters.base_weights import BaseWeights, as_base
from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import PeftConfig, with_alpha
from asym_analysis.adapters.dialects.peft.experts import add_experts, name_parameters
from asym_analysis.adapters.dialects.peft.keys import PeftKey, module_name, parse_key
from asym_analysis.adapters.dialects.peft.module import PeftModel, PeftModule
from asym_analysis.adapters.dialects.peft.refusals import REFUSED, refuse_kind
from asym_analysis.adapters.dialects.peft.tuners import tuner_of
from asym_analysis.adapters.module_names import projection_of
from asym_analysis.errors import AdapterValueError

__all__ = ["PeftDialect", "read_peft"]

#: GPT-2's Conv1D layers; models that took over its names have plain linear layers.
_CONV1D = frozenset({"c_attn", "c_proj", "c_fc"})
_SAVED = re.compile(r"\.modules_to_save(?:\.[^.]+)?\.")


@dataclass(frozen=True)
class PeftDialect:
    """Checkpoints written by `PeftModel.save_pretrained`, or the state dict of a wrapped model.

    LoRA with all its variants, DoRA, AdaLoRA, VeRA, LoHa, LoKr and whatever else `tuners.TUNERS` lists; several
    adapters in one file.

    Parameters
    ----------
    in_features : mapping of str to int, optional
        Pattern for the end of a module's name -> its input size: only for VeRA, PVeRA, RandLoRA and MiSS, whose files
        do not record it.
    """

    in_features: Mapping[str, int] = field(default_factory=dict)
    name = "peft"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether the config names one of PEFT's tuners, or a tensor carries a part that only PEFT names.

        Returns
        -------
        bool
            True if this dialect reads the checkpoint.
        """
        kind = str(checkpoint.config.get("peft_type") or "").upper()
        if kind in REFUSED:
            return True
        keys = [key for tensor in checkpoint.tensors if (key := parse_key(tensor)) is not None]
        if kind:
            return any(key.part != "alpha" for key in keys)
        return any(_only_peft(key) for key in keys)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the factors of each module and scale them as PEFT does.

        Returns
        -------
        Reading
            Modules, extras and coverage.

        Raises
        ------
        NotAnAdapterError
            If the config names a tuner whose change of a weight is not read; the message says why.
        """
        config = PeftConfig(with_alpha(checkpoint.config, checkpoint.alpha))
        refuse_kind(config.peft_type, checkpoint.source)
        sizes = {**checkpoint.in_features, **self.in_features}
        return read_peft(
            Ledger(checkpoint, self.name),
            config,
            sizes,
            None if checkpoint.base is None else as_base(checkpoint.base),
            pretrained=checkpoint.pretrained,
        )


def read_peft(
    ledger: Ledger,
    config: PeftConfig,
    in_features: Mapping[str, int] | None = None,
    base: BaseWeights | None = None,
    *,
    pretrained: bool = False,
) -> Reading:
    """Read the tensors of a ledger as PEFT's, with a config that may come from elsewhere than a file of its own.

    Parameters
    ----------
    ledger
        Of the checkpoint.
    config
        What is known of scale and layout.
    in_features
        Pattern for the end of a module's name -> input size, where the user gives it.
    base
        The base model's weights, where they are at hand.
    pretrained
        True where `base` is from before the initialization changed it.
    """
    parsed = {key: parse_key(key) for key in ledger.tensors}
    adapters = {key.adapter for key in parsed.values() if key is not None and key.adapter is not None}
    groups: dict[str, dict[str, str]] = {}
    paths: dict[str, str] = {}
    shared: dict[str, str] = {}
    rest = []
    for tensor, key in parsed.items():
        if key is None:
            rest.append(tensor)
        elif key.shared:
            shared.setdefault(key.part, tensor)
            if shared[key.part] != tensor:
                ledger.ignore(tensor, f"the same shared tensor as {shared[key.part]}")
        elif key.leaf == "bias":
            ledger.keep(tensor, f"{key.module}.lora_{key.part}.bias", f"bias of {key.part} of {key.module}")
        else:
            module = key.module if len(adapters) < 2 or key.adapter is None else f"{key.adapter}/{key.module}"
            groups.setdefault(module, {})[key.part] = tensor
            paths[module] = key.path
    # A parameter of the model may be called alpha, too.
    rest += [groups.pop(module)["alpha"] for module in list(groups) if groups[module].keys() == {"alpha"}]
    ledger.require_both(groups)
    if config.values.get("bias") in ("all", "lora_only"):
        rest = _keep_biases(ledger, rest)
    _account_for(ledger, rest, groups, whole_model=any(adapters))
    taken = taken_from(config.values) if pretrained else None
    model = PeftModel(ledger, config, groups, paths, shared, in_features or {}, base, taken)
    if not groups and shared and (alone := tuner_of(shared).alone) is not None:
        alone(model)
    _add_modules(model)
    metadata = config.metadata | _adapters(adapters)
    if taken is not None:
        metadata.pop("base_changed")
        metadata["converted"] = "what the initialization took out of the base weight is subtracted: the rank is doubled"
    elif (changed := base_change(config.values)) is not None:
        ledger.assume("base weight", f"the one that training started from ({changed})", remedy(config.values))
    if "fan_in_fan_out" not in config.values and any(projection_of(module) in _CONV1D for module in groups):
        ledger.assume(
            "layout",
            "(d_out, d_in), though the modules are named as GPT-2's, which stores weights as (d_in, d_out)",
            "give config={'fan_in_fan_out': True, ...} to load_adapter, or --config FILE to asym, if it is GPT-2",
        )
    ledger.scaling_from(config.scaling_source, recorded=not config.scale_assumed)
    return ledger.reading(metadata)


def _add_modules(model: PeftModel) -> None:
    parameters = name_parameters(model.groups, model.ledger, model.config)
    for name, parts in model.groups.items():
        module = PeftModule(model, name)
        try:
            if name in parameters:
                add_experts(model.ledger, model.config, parameters[name], module.path, parts)
            else:
                tuner_of(parts).add(module)
        except AdapterValueError as error:
            model.ledger.refuse(parts.values(), f"{name}: {error}")
    for part, tensor in model.shared.items():
        if model.groups:
            model.ledger.share(tensor, f"{part} of every module")


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
            reason = "other weight of the model: the file is the state dict of the whole model"
            ledger.ignore(key, reason, may_be_trained=True)
        else:
            ledger.keep(key, _SAVED.sub(".", module_name(key)), "trained beside the adapter")


def _only_peft(key: PeftKey) -> bool:
    """Whether no other library would write this name: a bare lora_A or lora_B is loralib's, too."""
    return key.part != "alpha" and (key.part not in ("A", "B") or key.leaf is not None or key.adapter is not None)


def _adapters(adapters: set[str]) -> dict[str, str]:
    return {"adapters": ", ".join(sorted(adapters))} if len(adapters) > 1 else {}
