"""Which adapter a certificate is for: a fingerprint of everything in it, and equality of what was trained."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.trained import trained_tensors
from asym_analysis.vocabulary import FACTORS, Tuned

__all__ = ["fingerprint", "same_trained"]


def fingerprint(adapter: Adapter) -> str:
    """A digest of all values of an adapter: factors, scalings, magnitudes and other trained tensors.

    Parameters
    ----------
    adapter
        The adapter.

    Returns
    -------
    str
        The first 16 hexadecimal digits of a SHA-256. Another alpha, dtype that rounds, or entry gives another one;
        the file's name and format do not matter.

    Examples
    --------
    >>> one = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> fingerprint(one) == fingerprint(one.copy()), len(fingerprint(one))
    (True, 16)
    """
    digest = hashlib.sha256()
    for module in sorted(adapter):
        update = adapter[module]
        digest.update(f"{module} {update.scaling!r}".encode())
        for part in (*FACTORS, "magnitude"):
            _add(digest, part, getattr(update, part))
    for name in sorted(adapter.extras):
        _add(digest, name, adapter.extras[name].read())
    return digest.hexdigest()[:16]


def same_trained(first: Adapter, second: Adapter, tuned: Tuned) -> bool:
    """Say whether two adapters have equal trained tensors, so that nothing was trained from one to the other.

    Parameters
    ----------
    first, second
        The adapters.
    tuned
        The trained factors.

    Returns
    -------
    bool
        False where modules or shapes differ.

    Examples
    --------
    >>> one = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> other = Adapter.from_factors({"q": (torch.zeros(1, 3), torch.ones(2, 1))})
    >>> same_trained(one, other, "B"), same_trained(one, other, "both")
    (True, False)
    """
    if set(first) != set(second) or set(first.extras) != set(second.extras):
        return False
    others = {tensor.key: tensor for tensor in trained_tensors(second, tuned, include_head=True)}
    for tensor in trained_tensors(first, tuned, include_head=True):
        other = others.get(tensor.key)
        if other is None or other.shape != tensor.shape:
            return False
        own = tensor.read()
        if not torch.equal(own, other.read().to(own)):
            return False
    return True


def _add(digest: hashlib._Hash, name: str, value: Tensor | None) -> None:
    if value is None:
        return
    value = value.detach().cpu().contiguous()
    if value.dtype.is_floating_point:
        value = value.double()  # the value, whatever dtype it was read in
    digest.update(f"{name} {tuple(value.shape)}".encode())
    digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
