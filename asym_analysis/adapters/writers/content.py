"""What a writer makes of an adapter before anything is written, and what all formats have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asym_analysis.adapters.adapter import Adapter, TensorSource
from asym_analysis.errors import AdapterError, NotWritableError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["Content", "Module", "extra_value", "modules_of"]

EXPERT_OF_STACK = re.compile(r"\.experts(?:\.\w+)?\.\d+$")


@dataclass(frozen=True)
class Content:
    """The files of one adapter in some format.

    Attributes
    ----------
    weights
        File name -> tensors of a safetensors file.
    configs
        File name -> JSON object.
    header
        Text metadata of the safetensors files.
    """

    weights: Mapping[str, Mapping[str, Tensor]]
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    header: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    """One module as a pair that a file can hold.

    Attributes
    ----------
    name
        Its name in the adapter.
    A, B
        Shapes (rank, d_in) and (d_out, rank), or those of convolutions; in the dtype of the source, where that holds
        the values exactly.
    alpha
        The scaling times the rank.
    magnitude
        DoRA's, or None.
    stored_transposed
        True where the model keeps the weight as (d_in, d_out).
    is_embedding
        True for an embedding, whose update reads token ids.
    """

    name: str
    A: Tensor
    B: Tensor
    alpha: float
    magnitude: Tensor | None = None
    stored_transposed: bool = False
    is_embedding: bool = False

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.A.shape[0]


EMBEDDINGS = frozenset(
    {"embed_tokens", "wte", "wpe", "word_embeddings", "tok_embeddings", "embed_in", "token_embedding", "shared"}
)


def modules_of(adapter: Adapter, *, fold_scale: bool) -> list[Module]:
    """Read every module as a pair.

    Parameters
    ----------
    adapter
        The adapter.
    fold_scale
        Multiply the scaling into B, so that alpha is the rank.

    Raises
    ------
    AdapterError
        If a module cannot be read.
    NotWritableError
        If a module is no layer of its own, or the base weights were changed by the initialization.
    """
    if adapter.base_changed is not None:
        raise NotWritableError(
            f"{adapter.name}: {adapter.base_changed}, so that the pair alone is not the change of the model: put the "
            "initial factors beside the file as initial.safetensors, or convert it with PEFT "
            "(path_initial_model_for_weight_conversion) first"
        )
    if adapter.metadata.get("dialect") == "gguf":
        raise NotWritableError(
            f"{adapter.name} has llama.cpp's names and its order of the rows of query and key, which no other library "
            "reads: write the file that it was converted from"
        )
    if not len(adapter):
        raise NotWritableError(f"{adapter.name} has no modules: there is nothing to write")
    return [_module(adapter, name, fold_scale) for name in adapter]


def _module(adapter: Adapter, name: str, fold_scale: bool) -> Module:
    if re.search(r"[:/]|^$", name):
        raise NotWritableError(
            f"module {name!r} of {adapter.name} is known by its place or by several names only: formats need the "
            "module's name in the model"
        )
    if EXPERT_OF_STACK.search(name):
        raise NotWritableError(
            f"module {name!r} of {adapter.name} is one expert of a fused parameter, which no format keeps on its own"
        )
    source, update = adapter.source(name), adapter[name]
    scaling, A, B = update.scaling, update.A, update.B
    if fold_scale:
        scaling, B = 1.0, scaling * B
    dtype = _stored_dtype(source.dtype)
    A, B = _lossless(A, dtype), _lossless(B, dtype)
    if update.weight_shape is not None and not update.stored_transposed and len(update.weight_shape) > 2:
        kernel = update.weight_shape[1:]
        A, B = A.reshape(-1, *kernel), B.reshape(*B.shape, *[1] * (len(kernel) - 1))
    elif update.weight_shape is not None and len(update.weight_shape) != 2:
        raise NotWritableError(f"module {name!r} of {adapter.name} has a weight of {update.weight_shape}: no matrix")
    tensors = [part.tensor for part in source.parts.values()]
    last = name.rpartition(".")[2]
    return Module(
        name=name,
        A=A.contiguous(),
        B=B.contiguous(),
        alpha=scaling * update.rank,
        magnitude=None if update.magnitude is None else _lossless(update.magnitude, dtype),
        stored_transposed=update.stored_transposed,
        is_embedding=any("lora_embedding" in tensor for tensor in tensors)
        or (update.stored_transposed and last in EMBEDDINGS),
    )


def _stored_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, torch.float32)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.float32


def _lossless(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in another dtype where that holds them exactly; fp8 and float64 as well, if they came from there."""
    values = values.detach()
    narrow = values.to(dtype)
    return narrow if narrow.to(values.dtype).equal(values) else values


def extra_value(adapter: Adapter, name: str, source: TensorSource) -> Tensor:
    """Read a trained tensor that belongs to no pair.

    Raises
    ------
    AdapterError
        If it cannot be read.
    """
    try:
        return source.read().detach().contiguous()
    except AdapterError as error:
        raise AdapterError(f"{adapter.name}, tensor {name}: {error}") from error
