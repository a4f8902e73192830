"""What lies between the two halves of loading: containers give a `Checkpoint`, dialects turn it into a `Reading`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from asym_analysis.adapters.adapter import ModuleSource, TensorSource
from asym_analysis.adapters.assumption import Assumption
from asym_analysis.adapters.coverage import Coverage

__all__ = ["Checkpoint", "Dialect", "Reading"]


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors still in their file, with everything else the checkpoint says.

    Attributes
    ----------
    tensors
        Tensor name -> `TensorSource`, in the file's order.
    config
        The adapter's config (PEFT's adapter_config.json, MLX's, the user's), or an empty mapping.
    header
        The container's own text metadata: safetensors' ``__metadata__``, GGUF's key-value pairs.
    source
        What the user named, for messages.
    """

    tensors: Mapping[str, TensorSource]
    config: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Reading:
    """What a dialect made of a checkpoint.

    Attributes
    ----------
    modules
        Module name -> where its factors are.
    coverage
        What became of every tensor: used, ignored or refused.
    extras
        Trained tensors that belong to no update.
    metadata
        What is known of the adapter.
    assumed
        What the checkpoint leaves open, with the value that was taken.
    """

    modules: Mapping[str, ModuleSource]
    coverage: Coverage
    extras: Mapping[str, TensorSource] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[Assumption, ...] = ()


@runtime_checkable
class Dialect(Protocol):
    """One key grammar: how a training library names, shapes and scales its factors."""

    name: str

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say from the names and the config alone whether this checkpoint is written in the dialect."""
        ...

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the factors, set their scale and account for every tensor, reading none.

        Raises
        ------
        NotAnAdapterError
            If the checkpoint holds another kind of tuning; the message names it.
        AdapterError
            If no pair can be formed.
        """
        ...
