"""What the weight of each kind of layer multiplies: vectors, patches of an image, or tokens.

A low-rank update of a layer is a matrix B·A. For a linear layer A acts on the input vectors; for a convolution on the
patches that the kernel covers, in the order of the flattened kernel; for an embedding on one-hot vectors of tokens; for
`torch.nn.MultiheadAttention` on the vectors from which queries, keys and values are projected together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from asym_analysis.errors import AdapterError
from asym_analysis.prediction.padding import RealPositions

__all__ = ["adapted_module", "base_layer", "input_rows", "input_width", "output_rows", "token_ids"]


def adapted_module(model: nn.Module, name: str) -> nn.Module:
    """The module of that name, whatever prefix a wrapper or a head put before it.

    Raises
    ------
    AdapterError
        If the model has no such module.
    """
    candidates = [
        (found, module)
        for found, module in model.named_modules()
        if found == name or found.endswith(f".{name}") or (found and name.endswith(f".{found}"))
    ]
    if not candidates:
        raise AdapterError(f"the model has no module {name}; give the model that the adapter was trained on")
    # The longest common name decides: "query" alone would fit every layer.
    return max(candidates, key=lambda pair: min(len(pair[0]), len(name)))[1]


def base_layer(module: nn.Module) -> nn.Module:
    """The layer itself, or the one inside a PEFT layer."""
    inner: Any = getattr(module, "get_base_layer", None)
    return module if inner is None else inner()


def input_width(module: nn.Module) -> int:
    """The number of columns of A: tokens of an embedding, entries of a patch, width of a vector."""
    layer = base_layer(module)
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings
    if isinstance(layer, nn.MultiheadAttention):
        return layer.embed_dim
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.weight[0].numel()
    for attribute in ("in_features", "nx"):
        if isinstance(getattr(layer, attribute, None), int):
            return int(getattr(layer, attribute))
    weight = getattr(layer, "weight", None)
    return int(weight.shape[-1]) if isinstance(weight, Tensor) else 1


def token_ids(
    name: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any], real: RealPositions
) -> Int[Tensor, " real"]:
    """The tokens at the real positions that an embedding was called with."""
    ids = _first(arguments, keywords)
    return (real.select(name, ids) if ids.dim() == 2 else ids).reshape(-1)


def input_rows(
    name: str, module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], real: RealPositions
) -> Float[Tensor, "real width"]:
    """The vectors that A multiplies, one real position a row.

    Parameters
    ----------
    name, module
        The layer; not an embedding, for which see `token_ids`.
    arguments, keywords
        What it was called with.
    real
        The unpadded positions of the batch.

    Raises
    ------
    AdapterError
        If the layer's update is not one matrix applied to one input: a convolution in groups or with another padding
        than zeros, a three-dimensional convolution, attention over other keys than its queries.
    """
    layer = base_layer(module)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return _patches(name, layer, _first(arguments, keywords))
    if isinstance(layer, nn.MultiheadAttention):
        names = ("query", "key", "value")
        query, key, value = [*arguments[:3], *(keywords[n] for n in names[len(arguments[:3]) :])]
        if key is not query or value is not query:
            raise AdapterError(f"module {name} attends to other inputs than its queries, which have no common moment")
        return real.rows(name, query if layer.batch_first or query.dim() < 3 else query.transpose(0, 1))
    return real.rows(name, _first(arguments, keywords))


def output_rows(name: str, module: nn.Module, value: Tensor, real: RealPositions) -> Float[Tensor, "real width"]:
    """A layer's output, or a gradient of it, one real position a row; channels are the width of a convolution."""
    if isinstance(base_layer(module), nn.modules.conv._ConvNd):
        return value.detach().float().movedim(1, -1).flatten(0, -2)
    return real.rows(name, value)


def _first(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    return arguments[0] if arguments else next(iter(keywords.values()))


def _patches(name: str, layer: nn.modules.conv._ConvNd, images: Tensor) -> Float[Tensor, "patches width"]:
    dimensions = len(layer.kernel_size)
    if layer.groups != 1:
        raise AdapterError(f"module {name} is a convolution in {layer.groups} groups, whose update is not one matrix")
    if dimensions > 2 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise AdapterError(
            f"module {name} is a convolution in {dimensions} dimensions with padding {layer.padding!r} of "
            f"{layer.padding_mode}; patches are taken in one or two dimensions with a number of zeros"
        )
    # A one-dimensional convolution is one in two dimensions whose second has length 1.
    images = images.detach().float()
    images = images if dimensions == 2 else images.unsqueeze(-1)
    sizes = {
        key: (*getattr(layer, key), *([neutral] if dimensions == 1 else []))
        for key, neutral in (("kernel_size", 1), ("dilation", 1), ("padding", 0), ("stride", 1))
    }
    return torch.nn.functional.unfold(images, **sizes).transpose(1, 2).flatten(0, 1)
