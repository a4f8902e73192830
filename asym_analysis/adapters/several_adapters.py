"""Files that hold several adapters under names of their own: the state dict of a wrapped model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.dialects.peft.keys import NAMES, parse_key
from asym_analysis.errors import AdapterError, SeveralAdaptersError

__all__ = ["one_adapter", "split_adapters"]

_ADAPTER_HUB = re.compile(r"\.loras\.([^.]+)\.")


def split_adapters(checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """Take a checkpoint apart by the adapters that its tensors name.

    Parameters
    ----------
    checkpoint
        What a container holds. Where its config has a mapping under an adapter's name, that is this adapter's config.

    Returns
    -------
    dict
        Adapter name -> its tensors, with those that belong to no adapter; empty where there are fewer than two names.

    Examples
    --------
    >>> from asym_analysis.adapters.adapter import TensorSource
    >>> names = [f"q.lora_{factor}.{name}.weight" for name in ("french", "german") for factor in "AB"]
    >>> split = split_adapters(Checkpoint({name: TensorSource((2, 2), "float32", read=lambda: None) for name in names}))
    >>> list(split), list(split["french"].tensors)
    (['french', 'german'], ['q.lora_A.french.weight', 'q.lora_B.french.weight'])
    """
    owners = {tensor: _adapter(tensor) for tensor in checkpoint.tensors}
    names = list(dict.fromkeys(owner for owner in owners.values() if owner is not None))
    if len(names) < 2:
        return {}
    # Heads and trained tokens are kept by the adapter's name, too.
    others = re.compile(
        rf"\.(?:modules_to_save|trainable_tokens_\w+|adapter_layer)\.({'|'.join(map(re.escape, names))})(?:\.|$)"
    )
    for tensor, owner in owners.items():
        if owner is None and (found := others.search(tensor)) is not None:
            owners[tensor] = found[1]
    return {name: _part(checkpoint, name, owners) for name in names}


def one_adapter(checkpoint: Checkpoint, adapter: str | None) -> Checkpoint:
    """The checkpoint of the adapter that the user names, or the whole where it holds one.

    Parameters
    ----------
    checkpoint
        What a container holds.
    adapter
        The adapter's name in the file, or None.

    Returns
    -------
    Checkpoint
        The tensors of one adapter.

    Raises
    ------
    SeveralAdaptersError
        If there are several and none is named.
    AdapterError
        If the file does not name this adapter.
    """
    several = split_adapters(checkpoint)
    if adapter is None:
        if several:
            raise SeveralAdaptersError(checkpoint.source, tuple(several))
        return checkpoint
    if adapter in several:
        return several[adapter]
    named = {_adapter(tensor) for tensor in checkpoint.tensors} - {None}
    if adapter in named:
        return checkpoint
    known = ", ".join(several or sorted(map(str, named))) or "none by name"
    raise AdapterError(f"{checkpoint.source} holds no adapter {adapter!r} (it holds {known}): correct adapter=")


@lru_cache(maxsize=NAMES)
def _adapter(tensor: str) -> str | None:
    found = _ADAPTER_HUB.search(tensor)
    if found is not None:
        return found[1]
    key = parse_key(tensor)
    return None if key is None else key.adapter


def _part(checkpoint: Checkpoint, name: str, owners: Mapping[str, str | None]) -> Checkpoint:
    own = checkpoint.config.get(name)
    return replace(
        checkpoint,
        tensors={tensor: source for tensor, source in checkpoint.tensors.items() if owners[tensor] in (None, name)},
        config=own if isinstance(own, Mapping) else checkpoint.config,
        source=f"{checkpoint.source} (adapter {name!r})",
    )
