"""Singular vectors of base weights, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asym_analysis.atomic import replacing

__all__ = ["weight_svd"]


def weight_svd(
    weight: Float[Tensor, "d_out d_in"], cache: str | os.PathLike[str] | None = None
) -> tuple[Float[Tensor, "d_out k"], Float[Tensor, "k"], Float[Tensor, "k d_in"]]:
    """Thin SVD of a base weight; with `cache`, a folder, it is computed once and then read.

    The file's name is a hash of the weight's bytes, so that two adapters of one base share it. Returns U, S, Vh in the
    dtype of `weight`, on the CPU; the decomposition is made where the weight lies.

    Examples
    --------
    >>> U, S, Vh = weight_svd(torch.diag(torch.tensor([1.0, 3.0])))
    >>> S.tolist()
    [3.0, 1.0]
    """
    path = None if cache is None else Path(cache) / f"{_digest(weight)}.safetensors"
    if path is not None and path.exists():
        try:
            stored = load_file(path)
            return stored["U"], stored["S"], stored["Vh"]
        except (SafetensorError, KeyError):
            pass  # damaged: computed again, and replaced
    U, S, Vh = (part.cpu() for part in torch.linalg.svd(weight, full_matrices=False))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save_file({"U": U.contiguous(), "S": S.contiguous(), "Vh": Vh.contiguous()}, part)
    return U, S, Vh


def _digest(weight: Tensor) -> str:
    kind = f"{weight.dtype}{tuple(weight.shape)}".encode()
    return hashlib.blake2b(weight.cpu().contiguous().numpy().tobytes(), digest_size=16, key=kind[:64]).hexdigest()
