"""What adapter_config.json says of scale and layout, checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from asym_analysis.adapters.base_change import base_change
from asym_analysis.adapters.config_files import number_of, number_or_none
from asym_analysis.adapters.name_patterns import Patterns
from asym_analysis.errors import AdapterError, AdapterValueError

__all__ = ["DEFAULT_ALPHA", "PeftConfig", "with_alpha"]

#: The alpha that PEFT takes where adapter_config.json names the tuner and gives none.
DEFAULT_ALPHA = {"LORA": 8.0, "ADALORA": 8.0, "LOHA": 8.0, "LOKR": 8.0, "GRALORA": 64.0}


class PeftConfig:
    """PEFT's config of one adapter, or an empty one where the file stands alone.

    Examples
    --------
    >>> config = PeftConfig({"r": 4, "lora_alpha": 16, "use_rslora": True, "alpha_pattern": {"k_proj": 32}})
    >>> config.scaling("layers.0.q_proj", rank=4), config.scaling("layers.0.k_proj", rank=4)
    (8.0, 16.0)
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.peft_type = str(values.get("peft_type") or "").upper()
        self.rslora = bool(values.get("use_rslora"))
        self.fan_in_fan_out = bool(values.get("fan_in_fan_out"))
        self.enable_lora = _booleans(values.get("enable_lora"))
        parameters = values.get("target_parameters")
        self.target_parameters = [str(name) for name in parameters] if isinstance(parameters, list | tuple) else []
        self.initialization = values.get("init_lora_weights")
        self._overlaps: set[str] = set()
        #: True once a scale was asked for that the config does not give.
        self.scale_assumed = False

    @cached_property
    def alpha(self) -> float | None:
        """The alpha that holds where no pattern says otherwise; None where the config gives none and is not PEFT's."""
        given = number_or_none(self.values, "lora_alpha", "alpha")
        return DEFAULT_ALPHA.get(self.peft_type) if given is None else given

    @cached_property
    def rank(self) -> int | None:
        """The rank that holds where no pattern says otherwise; None where the config gives none."""
        rank = number_or_none(self.values, "r", "rank")
        return None if rank is None else int(rank)

    @cached_property
    def initial_rank(self) -> float | None:
        """The initial rank of AdaLoRA (12 by default, where the config is there but silent)."""
        return number_or_none(self.values, "init_r") or (12.0 if self.peft_type == "ADALORA" else None)

    @cached_property
    def _alphas(self) -> Patterns[Any]:
        return Patterns(_mapping(self.values, "alpha_pattern"))

    @cached_property
    def _ranks(self) -> Patterns[Any]:
        # AdaLoRA writes a mask here instead of a rank: which singular values it kept.
        ranks = _mapping(self.values, "rank_pattern")
        return Patterns({pattern: rank for pattern, rank in ranks.items() if not isinstance(rank, list)})

    def rank_of(self, path: str) -> int | None:
        """The rank that the config gives a module, by PEFT's pattern rule."""
        rank = self._ranks.first(path)
        return self.rank if rank is None else int(number_of("rank_pattern", rank))

    def alpha_of(self, path: str) -> float | None:
        """The alpha that the config gives a module, by PEFT's pattern rule."""
        alphas = self._alphas.matching(path)
        if any(alpha != alphas[0] for alpha in alphas):
            self._overlaps.add(path)
        return number_of("alpha_pattern", alphas[0]) if alphas else self.alpha

    def scaling(self, path: str, rank: int) -> float:
        """Give alpha / rank, or alpha / sqrt(rank) for rank-stabilized LoRA; 1 where the config gives no alpha.

        Raises
        ------
        AdapterValueError
            If the config gives the module another rank than the tensors have: PEFT cannot load such a file, and
            which alpha belongs to it is unknown.
        """
        expected = self.rank_of(path)
        if expected is not None and expected != rank:
            raise AdapterValueError(f"the tensors have rank {rank}, the config says {expected}: the scale is unknown")
        alpha = self.alpha_of(path)
        if alpha is None:
            self.scale_assumed = True
            return 1.0
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    @property
    def records_alpha(self) -> bool:
        """False where the config gives no alpha, so that the scale is assumed."""
        return self.alpha is not None or len(self._alphas) > 0

    @property
    def scaling_source(self) -> str:
        """Where the scalings that were asked for come from, and what is uncertain about them."""
        if self.scale_assumed:
            return "1: no alpha is recorded"
        if not self.records_alpha:
            return "fixed by the tuner, or an alpha of each module"
        if not len(self._alphas) and number_or_none(self.values, "lora_alpha", "alpha") is None:
            return f"PEFT's default, alpha {self.alpha:g}: the adapter config gives none"
        if not self._overlaps:
            return "adapter config"
        return (
            f"adapter config; alpha patterns overlap in {len(self._overlaps)} modules, where the first in the file "
            "counts, as when PEFT loads it (it sorts them by name when it saves)"
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """What is worth keeping: names of base and task, kind and version of PEFT, initialization, what changed."""
        named = {
            "base_model": self.values.get("base_model_name_or_path"),
            "task_type": self.values.get("task_type"),
            "peft_type": self.values.get("peft_type"),
            "peft_version": self.values.get("peft_version"),
            "init_lora_weights": self.initialization,
            "tied": True if self.values.get("ensure_weight_tying") else None,
            "base_changed": base_change(self.values),
        }
        return {key: value for key, value in named.items() if value is not None and value != ""}


def with_alpha(values: Mapping[str, Any], alpha: float | int | None) -> Mapping[str, Any]:
    """A config with this alpha for every module; the config as it is where alpha is None."""
    return values if alpha is None else {**values, "lora_alpha": alpha, "alpha_pattern": {}}


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    mapping = values.get(name) or {}
    if not isinstance(mapping, Mapping):
        raise AdapterError(f"the config's {name} is {mapping!r}, not a mapping from patterns")
    return mapping


def _booleans(value: object) -> tuple[bool, ...] | None:
    return tuple(bool(entry) for entry in value) if isinstance(value, list | tuple) and any(value) else None
