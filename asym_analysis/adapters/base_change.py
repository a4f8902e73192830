"""Initializations that change the base weight too, so that scaling·B·A is not the change of the pretrained weight.

PiSSA, OLoRA, CorDA and LoRA-GA start from factors B0, A0 that are not zero and take scaling·B0·A0 out of the base
weight. The model is W0 - s·B0·A0 + s·B·A, its change s·(B·A - B0·A0): exact where the initial factors are recorded.
LoftQ quantizes the base weight and KaSA drops its smallest singular values, so that no recorded factors help.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asym_analysis.adapters.adapter import Adapter, ModuleSource
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.metadata import Metadata
from asym_analysis.errors import AdapterError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = [
    "base_change",
    "initial_beside",
    "refuse_changed_base",
    "remedy",
    "since_the_pretrained_weight",
    "taken_from",
    "warn_of_changed_base",
]

_TAKES_OUT = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "lora_ga": "LoRA-GA"}


def base_change(config: Mapping[str, Any]) -> str | None:
    """Say how the initialization that a PEFT config names changes the base weight; None where it does not.

    Parameters
    ----------
    config : Mapping
        A PEFT config: the keys of adapter_config.json.

    Returns
    -------
    str or None
        One sentence.

    Examples
    --------
    >>> base_change({"init_lora_weights": "pissa_niter_4"})
    'PiSSA took its initial factors out of the base weight, so scaling·B·A is not the change of the pretrained weight'
    >>> base_change({"init_lora_weights": True}) is None
    True
    """
    if config.get("kasa_config"):
        return "KaSA took the smallest singular values out of the base weight, so scaling·B·A is not the whole change"
    kind = _kind(config)
    if kind == "loftq":
        return "LoftQ quantized the base weight, so scaling·B·A is not the change of the pretrained weight"
    if kind is None:
        return None
    taken = f"{_TAKES_OUT[kind]} took its initial factors out of the base weight"
    return f"{taken}, so scaling·B·A is not the change of the pretrained weight"


def taken_from(config: Mapping[str, Any]) -> str | None:
    """The kind of initialization whose change of the base weight follows from the pretrained weight alone, or None.

    Parameters
    ----------
    config : Mapping
        A PEFT config: the keys of adapter_config.json.

    Returns
    -------
    str or None
        "pissa", "olora" or "kasa".

    Examples
    --------
    >>> taken_from({"init_lora_weights": "pissa"}), taken_from({"init_lora_weights": "pissa_niter_4"})
    ('pissa', None)
    """
    if config.get("kasa_config"):
        return "kasa"
    value = str(config.get("init_lora_weights")).lower()
    return value if value in ("pissa", "olora") else None


def remedy(config: Mapping[str, Any]) -> str:
    """What to do where `base_change` says something.

    Parameters
    ----------
    config : Mapping
        A PEFT config: the keys of adapter_config.json.

    Returns
    -------
    str
        What to give or to do.

    Examples
    --------
    >>> remedy({"init_lora_weights": "corda"})
    "put the initial factors beside the file, as initial.safetensors or in corda_init/, or save the adapter with PEFT's
    path_initial_model_for_weight_conversion"
    """
    kind = _kind(config)
    if taken_from(config) == "kasa":
        return "give base=, the pretrained model, to load_adapter"
    if kind not in _TAKES_OUT:
        return "compare the merged weight with the pretrained one for the whole change"
    return ("give base=, the pretrained model, to load_adapter, or " if taken_from(config) else "") + (
        f"put the initial factors beside the file, as initial.safetensors or in {kind}_init/, or save the adapter with "
        "PEFT's path_initial_model_for_weight_conversion"
    )


def initial_beside(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """The initial factors that PEFT's examples save as ``pissa_init`` in the adapter's folder or beside it.

    Parameters
    ----------
    folder : Path
        Where the adapter's weights lie.
    config : Mapping
        Its config.

    Returns
    -------
    Path or None
        The file of the initial factors.
    """
    kind = _kind(config)
    if kind not in _TAKES_OUT:
        return None
    for place in (folder, folder.parent):
        for name in ("adapter_model.safetensors", "adapter_model.bin"):
            if (path := place / f"{kind}_init" / name).is_file() and path.parent != folder:
                return path
    return None


def refuse_changed_base(adapter: Adapter, quantity: str) -> None:
    """Refuse a quantity that is about W0 + dW where that is not the model.

    Parameters
    ----------
    adapter : Adapter
        The adapter.
    quantity : str
        What is about to be computed, for the message.

    Raises
    ------
    AdapterError
        If `adapter.base_changed` says something.
    """
    if adapter.base_changed is not None:
        raise AdapterError(f"{adapter.name}, {quantity}: cannot tell, since {adapter.base_changed}; {_remedy(adapter)}")


def warn_of_changed_base(adapter: Adapter, quantity: str) -> None:
    """Warn where a quantity takes scaling·B·A for the change of the pretrained weight and it is not.

    Parameters
    ----------
    adapter : Adapter
        The adapter.
    quantity : str
        What is about to be computed, for the message.

    Warns
    -----
    UserWarning
        If `adapter.base_changed` says something.
    """
    if adapter.base_changed is not None:
        message = f"{adapter.name}, {quantity}: {adapter.base_changed}; {_remedy(adapter)}"
        warnings.warn(message, UserWarning, stacklevel=3)


def since_the_pretrained_weight(adapter: Adapter) -> Adapter:
    """The adapter whose updates are s·(B·A - B0·A0), of twice the rank, where its initial factors are recorded.

    Parameters
    ----------
    adapter : Adapter
        An adapter with `base_changed`; any other is given as it is.

    Returns
    -------
    Adapter
        With `base_changed` None and no `initial`; the same adapter where the initial factors of a module are missing,
        or do not belong to how it changed the base weight.
    """
    initial, said = adapter.initial, adapter.base_changed
    if said is None or initial is None or not said.startswith(tuple(_TAKES_OUT.values())):
        return adapter
    if not set(adapter) <= set(initial) or any("magnitude" in adapter.source(module).parts for module in adapter):
        return adapter
    modules: dict[str, ModuleSource] = {}
    for module in adapter:
        source, first = adapter.source(module), initial.source(module)
        if (source.d_out, source.d_in) != (first.d_out, first.d_in):
            return adapter
        make = None if source.make is None else _Since(source.make, first.read)
        modules[module] = replace(
            source, rank=source.rank + first.rank, read=_Since(source.read, first.read), make=make
        )
    facts = {key: adapter.metadata[key] for key in adapter.metadata if key not in ("base_changed", "sha256")}
    facts["converted"] = f"{said.split()[0]}: its initial factors are subtracted, so that the rank is doubled"
    kept = [assumption for assumption in adapter.assumptions if assumption.what != "base weight"]
    return Adapter(
        modules,
        name=adapter.name,
        metadata=Metadata(facts, weights=adapter.metadata.weights if isinstance(adapter.metadata, Metadata) else None),
        extras=adapter.extras,
        coverage=adapter.coverage,
        assumptions=kept,
    )


@dataclass(frozen=True)
class _Since:
    """Makes the update of an adapter minus its initial one, as one pair."""

    make: Callable[..., LowRankUpdate]
    initial: Callable[[], LowRankUpdate]

    def __call__(self, *parts: Mapping[str, Tensor]) -> LowRankUpdate:
        now, first = self.make(*parts), self.initial()
        scaling = now.scaling or first.scaling or 1.0
        A = torch.cat([now.A, first.A.to(now.A)])
        B = torch.cat([now.scaling / scaling * now.B, -first.scaling / scaling * first.B.to(now.B)], dim=1)
        return replace(now, A=A, B=B, scaling=scaling)


def _remedy(adapter: Adapter) -> str:
    return next((each.remedy for each in adapter.assumptions if each.what == "base weight"), "convert it first")


def _kind(config: Mapping[str, Any]) -> str | None:
    """The initialization that changes the base weight, without its options."""
    value = config.get("init_lora_weights")
    named = value.lower() if isinstance(value, str) else ""
    kinds = (*_TAKES_OUT, "loftq")
    return next((kind for kind in kinds if named == kind or named.startswith(f"{kind}_")), None)
