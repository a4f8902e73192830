"""Checkpoints in memory, and tiny models that PEFT adapts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter, TensorSource
from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.dialects import read_checkpoint

SECRET = object()


def in_memory(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, header: Mapping[str, Any] | None = None
) -> Checkpoint:
    """A checkpoint whose tensors are at hand."""
    sources = {
        name: TensorSource(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.clone)
        for name, tensor in tensors.items()
    }
    return Checkpoint(sources, config or {}, header or {}, source="test checkpoint")


@pytest.fixture(scope="session")
def checkpoint() -> Callable[..., Checkpoint]:
    return in_memory


@pytest.fixture(scope="session")
def read() -> Callable[..., Adapter]:
    """Read tensors, with a config and a header, into an adapter whose metadata names the dialect."""

    def _read(
        tensors: Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        header: Mapping[str, Any] | None = None,
        dialect: Any = "auto",
    ) -> Adapter:
        given = in_memory(tensors, config, header)
        name, reading = read_checkpoint(given, dialect)
        kept = {*reading.coverage.used, *reading.coverage.ignored, *reading.coverage.refused}
        assert kept == set(tensors), "a tensor is missing from the coverage"
        metadata = {**reading.metadata, "dialect": name}
        return Adapter(
            reading.modules,
            name="test",
            metadata=metadata,
            extras=reading.extras,
            coverage=reading.coverage,
            assumptions=reading.assumed,
        )

    return _read


@pytest.fixture(scope="session")
def read_folder(read: Callable[..., Adapter]) -> Callable[..., Adapter]:
    """Read what `save_pretrained` wrote."""

    def _read_folder(folder: Path, **options: Any) -> Adapter:
        config = json.loads((folder / "adapter_config.json").read_text())
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return read(tensors, config, file.metadata(), **options)

    return _read_folder


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every trainable parameter, and LoRA's frozen ones, values that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad or "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) + 0.1


@pytest.fixture(scope="session")
def randomized() -> Callable[..., None]:
    return randomize
