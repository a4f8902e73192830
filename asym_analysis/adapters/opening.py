"""Open one adapter: its files or its tensors in memory, with what the user says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.base_change import initial_beside, since_the_pretrained_weight, taken_from
from asym_analysis.adapters.base_weights import Base, BaseWeights, as_base
from asym_analysis.adapters.checkpoint import Checkpoint, Dialect, Reading
from asym_analysis.adapters.config_files import read_config
from asym_analysis.adapters.containers import open_container
from asym_analysis.adapters.dialects import read_checkpoint
from asym_analysis.adapters.metadata import Metadata
from asym_analysis.adapters.open_models import (
    active_adapter,
    is_peft_model,
    keep_values,
    memory_checkpoint,
    model_checkpoint,
    with_current_scales,
)
from asym_analysis.adapters.provenance import assumptions_in
from asym_analysis.adapters.several_adapters import one_adapter
from asym_analysis.adapters.sources import AdapterFiles, natural_order
from asym_analysis.errors import SeveralAdaptersError
from asym_analysis.vocabulary import finite, whole

__all__ = ["Config", "Options", "from_files", "from_memory", "from_model", "several"]

Config = Mapping[str, Any] | str | os.PathLike[str]


@dataclass(frozen=True)
class Options:
    """What the user says about the files, once checked."""

    dialect: str | Dialect = "auto"
    config: Mapping[str, Any] | None = None
    alpha: float | int | None = None
    scale: float | int | None = None
    in_features: Mapping[str, int] | None = None
    base: BaseWeights | None = None
    adapter: str | None = None

    @classmethod
    def of(
        cls,
        dialect: str | Dialect,
        config: Config | None,
        alpha: float | int | None,
        scale: float | int | None,
        in_features: int | Mapping[str, int] | None,
        base: Base | None = None,
        adapter: str | None = None,
    ) -> Options:
        """Check the arguments of `load_adapter`, and read the config where it is a file."""
        if isinstance(in_features, int):
            in_features = {".*": in_features}
        return cls(
            dialect,
            read_config(config) if isinstance(config, str | os.PathLike) else config,
            None if alpha is None else finite(alpha, "alpha"),
            None if scale is None else finite(scale, "scale"),
            {str(name): whole(size, f"in_features of {name}", least=1) for name, size in (in_features or {}).items()},
            None if base is None else as_base(base),
            adapter,
        )

    def read(self, checkpoint: Checkpoint) -> tuple[str, Reading]:
        """Let the dialect read a checkpoint."""
        one = one_adapter(checkpoint, self.adapter)
        base = checkpoint.base if self.base is None else self.base
        sizes = self.in_features or {}
        pretrained = self.base is not None
        given = replace(one, alpha=self.alpha, scale=self.scale, in_features=sizes, base=base, pretrained=pretrained)
        return read_checkpoint(given, self.dialect)


def from_files(files: AdapterFiles, options: Options, name: str) -> Adapter:
    """Open an adapter from its files."""
    config = options.config
    if config is None:
        config = read_config(files.config) if files.config else {}
    initial = None
    first = files.initial or initial_beside(files.weights.parent, config)
    if first and not (options.base is not None and taken_from(config)):
        initial = from_files(AdapterFiles(first), replace(options, config=config), f"{name} (initial)")
    checkpoint = replace(
        open_container(files.weights), config=config, source=str(files.weights), folder=files.weights.parent
    )
    single = not files.weights.name.endswith(".index.json")
    adapter = _adapter(
        checkpoint,
        options,
        name,
        origin=files.source,
        step=files.step,
        weights=files.weights if single else None,
        initial=initial,
    )
    return since_the_pretrained_weight(adapter)


def several(
    open_one: Callable[[Any, Options, str], Adapter], source: Any, options: Options, name: str
) -> list[Adapter]:
    """Open every adapter of one file or state dict: one, or those that it names."""
    try:
        return [open_one(source, options, name)]
    except SeveralAdaptersError as error:
        return [open_one(source, replace(options, adapter=each), f"{name}/{each}") for each in error.names]


def from_memory(source: Any, options: Options, name: str | None) -> Adapter:
    """Copy an adapter from a state dict, a module, or an open PEFT model (its active adapter)."""
    if is_peft_model(source):
        return from_model(source, active_adapter(source), options, name)
    checkpoint = replace(memory_checkpoint(source), config=options.config or {})
    return keep_values(_adapter(checkpoint, options, name or "in memory"), checkpoint)


def from_model(model: Any, adapter: str, options: Options, name: str | None = None) -> Adapter:
    """Copy one adapter of an open PEFT model."""
    checkpoint = model_checkpoint(model, adapter)
    opened = keep_values(_adapter(checkpoint, options, name or adapter), checkpoint)
    given = options.scale is not None or options.alpha is not None
    return opened if given else with_current_scales(opened, model, adapter)


def _adapter(
    checkpoint: Checkpoint,
    options: Options,
    name: str,
    *,
    origin: str = "memory",
    step: int | None = None,
    weights: Path | None = None,
    initial: Adapter | None = None,
) -> Adapter:
    used, reading = options.read(checkpoint)
    given = options.scale is not None or options.alpha is not None
    earlier = [each for each in assumptions_in(checkpoint.header) if not (given and each.what == "scale")]
    facts = {
        "base_model": checkpoint.config.get("base_model_name_or_path"),
        "task_type": checkpoint.config.get("task_type"),
        "peft_type": checkpoint.config.get("peft_type"),
        "dialect": used,
        "source": origin,
        "container": checkpoint.container,
        "step": step,
        **reading.metadata,
        "header": dict(checkpoint.header),
    }
    known = {key: value for key, value in facts.items() if value is not None and value != {}}
    # safetensors keeps no order but the alphabet's, in which layer 10 comes before layer 2.
    return Adapter(
        dict(sorted(reading.modules.items(), key=lambda item: natural_order(item[0]))),
        name=name,
        metadata=Metadata(known, weights=weights),
        extras=reading.extras,
        coverage=reading.coverage,
        initial=initial,
        assumptions=(*reading.assumed, *earlier),
    )
