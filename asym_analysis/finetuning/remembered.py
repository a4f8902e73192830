"""Keep what the layers below the lowest adapter give each row, in place of running them at every step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asym_analysis.errors import AdapterError

__all__ = ["remember_frozen_layers"]

# How transformers calls the list of layers of one stack.
LISTS = ("layer", "layers", "h")
KEY = ("input_ids", "token_type_ids", "attention_mask")
_STORES: dict[str, dict[bytes, Tensor]] = {}


class _Rows:
    """The rows of the present batch: a key of each, and how many positions are no padding."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.lengths: list[int] = []

    def read(self, module: nn.Module, args: Any, inputs: Mapping[str, Any]) -> None:
        mask = inputs["attention_mask"].bool().cpu()
        parts = [inputs[name].cpu() for name in KEY if inputs.get(name) is not None]
        if not bool((mask.long().diff(dim=1) <= 0).all()):
            raise AdapterError("activations are remembered of rows that are padded on the right only")
        self.lengths = mask.sum(1).tolist()
        self.keys = [
            b"".join(part[i, :length].numpy().tobytes() for part in parts) for i, length in enumerate(self.lengths)
        ]


class _Remembered(nn.Module):
    """Stands for the lowest layers of a stack."""

    def __init__(self, layers: Sequence[nn.Module], rows: _Rows, stored: dict[bytes, Tensor]) -> None:
        super().__init__()
        self.layers, self.rows, self.stored = nn.ModuleList(layers), rows, stored

    def forward(self, hidden: Tensor, *args: Any, **options: Any) -> Tensor:
        keys = self.rows.keys
        if all(key in self.stored for key in keys):
            # Positions of padding become zero; nothing reads them.
            return nn.utils.rnn.pad_sequence([self.stored[key].to(hidden.device) for key in keys], batch_first=True)
        with torch.no_grad():
            for layer in self.layers:
                hidden = layer(hidden, *args, **options)
        for key, length, row in zip(keys, self.rows.lengths, hidden, strict=True):
            self.stored[key] = row[:length].clone()
        return hidden


class _Through(nn.Module):
    """Takes the place of a layer that another stands for."""

    def forward(self, hidden: Tensor, *args: Any, **options: Any) -> Tensor:
        return hidden


def remember_frozen_layers(model: nn.Module) -> int:
    """Run the layers below the lowest trained one once for each row, and keep what they give.

    The memory that it takes is tokens of all rows x width x 4 bytes.

    Parameters
    ----------
    model : Module
        A model with one stack of layers, called with `input_ids` and `attention_mask` by name and padded on the right.

    Returns
    -------
    int
        The number of layers that are no longer run.

    Raises
    ------
    AdapterError
        If the model has several stacks or none, something is trained below them, or dropout makes a row's activations
        change from step to step.
    """
    stacks = [
        child
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and name in LISTS and len({type(layer) for layer in child}) == 1
    ]
    if len(stacks) != 1:
        raise AdapterError(f"activations are remembered below one stack of layers, and this model has {len(stacks)}")
    (stack,) = stacks
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in stack]
    count = trained.index(True) if any(trained) else len(stack)
    if count == 0:
        return 0
    if any("embed" in name for name, p in model.named_parameters() if p.requires_grad):
        raise AdapterError("activations cannot be remembered above an embedding that is trained")
    if any(module.p for module in model.modules() if isinstance(module, nn.Dropout)):
        raise AdapterError("activations cannot be remembered with dropout; set encoder_dropout = 0.0 and dropout = 0.0")
    rows = _Rows()
    model.register_forward_pre_hook(rows.read, with_kwargs=True)
    stack[0] = _Remembered(list(stack[:count]), rows, _store_of(model, list(stack[:count])))
    for i in range(1, count):
        stack[i] = _Through()
    return count


def _store_of(model: nn.Module, layers: Sequence[nn.Module]) -> dict[bytes, Tensor]:
    """What earlier runs of this process remembered below these very weights; the last two stores are kept."""
    digest = hashlib.sha256()
    embeddings = [module for name, module in model.named_modules() if name.rsplit(".", 1)[-1].startswith("embed")]
    for module in (*embeddings, *layers):
        for value in (*module.parameters(), *module.buffers()):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    key = digest.hexdigest()
    store = _STORES.pop(key, {})
    while len(_STORES) > 1:
        _STORES.pop(next(iter(_STORES)))
    _STORES[key] = store
    return store
