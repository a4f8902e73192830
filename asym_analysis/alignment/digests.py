"""Digests of what a comparison was made from, so that a stored one never answers for other inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter

__all__ = ["module_digests"]


def module_digests(adapters: Iterable[Adapter], module: str) -> tuple[str, ...]:
    """One digest for each adapter of what it holds of a module, initial factors included.

    Parameters
    ----------
    adapters
        The adapters, in order.
    module
        Name of the module.

    Returns
    -------
    tuple
        Hexadecimal digests; "" where an adapter lacks the module. That of an adapter in one file depends on the whole
        file, which is read once; that of any other on the module's factors.

    Examples
    --------
    >>> import torch
    >>> run = lambda x: Adapter.from_factors({"q": (torch.full((1, 2), x), torch.ones(2, 1))})
    >>> one, other, again = module_digests([run(1.0), run(2.0), run(1.0)], "q")
    >>> one == again, one == other
    (True, False)
    """
    return tuple(_digest(adapter, module) for adapter in adapters)


def _digest(adapter: Adapter, module: str) -> str:
    if module not in adapter:
        return ""
    found = hashlib.blake2b(digest_size=16)
    for holder in (adapter, adapter.initial):
        if holder is None or module not in holder:
            found.update(b"none")
            continue
        source = holder.source(module)
        found.update(repr((float(source.scaling), source.rank, source.d_out, source.d_in, source.dtype)).encode())
        checksum = holder.metadata.get("sha256")
        if checksum is not None:
            found.update(str(checksum).encode())
            continue
        update = source.read()
        for factor in (update.A, update.B):
            found.update(_bytes(factor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes()
