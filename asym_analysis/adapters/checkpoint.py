"""What lies between the two halves of loading: containers give a `Checkpoint`, dialects turn it into a `Reading`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from asym_analysis.adapters.adapter import ModuleSource, TensorSource
from asym_analysis.adapters.assumption import Assumption
from asym_analysis.adapters.config_files import read_config
from asym_analysis.adapters.coverage import Coverage
from asym_analysis.lazy_torch import Tensor

__all__ = ["Checkpoint", "Dialect", "Reading"]


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors still in their file, with everything else the checkpoint and its user say.

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
    container
        The kind of file: "safetensors", "torch zip", "npz", "gguf", "legacy pickle", "sharded ..." or "memory".
    folder
        Where the weights lie, for `beside`; None in memory.
    alpha, scale
        What the user gives for every module: an alpha takes the place of a recorded one and is divided as the
        dialect divides it; a scale is the whole factor of B·A. None: what the checkpoint records.
    in_features
        Pattern for the end of a module's name -> its input size, from the user, for files that do not record it.
    base
        The base model's weights (a `BaseWeights`), from the user, for updates that are formed from them or whose file
        does not record the weight's shape.
    pretrained
        True where `base` holds the weights from before any initialization changed them (PiSSA, OLoRA, KaSA): those
        that the user gives, not those under an open model.
    """

    tensors: Mapping[str, TensorSource]
    config: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    container: str = ""
    folder: Path | None = None
    alpha: float | int | None = None
    scale: float | int | None = None
    in_features: Mapping[str, int] = field(default_factory=dict)
    base: Mapping[str, Tensor] | None = None
    pretrained: bool = False

    def beside(self, name: str) -> dict[str, Any]:
        """Read a trainer's config file that lies beside the weights (hyperparameters.yaml); empty if there is none.

        Raises
        ------
        AdapterFormatError
            If the file is there but damaged.
        """
        path = None if self.folder is None else self.folder / name
        return read_config(path) if path is not None and path.is_file() else {}


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

    @property
    def name(self) -> str:
        """What messages and `load_adapter(dialect=...)` call it."""
        ...

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
