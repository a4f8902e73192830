"""Base weights in the precisions that models are published in: fp8 with its scales is read, packed integers are not."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float

from asym_analysis.adapters.adapter import TensorSource
from asym_analysis.errors import AdapterError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["in_float"]

# Names of the scales beside an fp8 weight; all multiply it, whatever "inv" says.
SCALES = ("weight_scale_inv", "weight_scale", "scale_weight", "weight.scale")
BLOCK = 128
# Companions of a weight that was packed into integers: ending of the name -> who packs so.
PACKED = {
    "qweight": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors",
    "weight.absmax": "bitsandbytes, 4 bits",
    "weight.quant_map": "bitsandbytes, 4 bits",
    "SCB": "bitsandbytes, 8 bits",
    "weight_format": "bitsandbytes, 8 bits",
}


def in_float(name: str, tensors: Mapping[str, TensorSource], where: str) -> Float[Tensor, "..."]:
    """Read a base weight in float32 or float64.

    Parameters
    ----------
    name
        Name of the tensor; "X.qweight" and the like are refused by the name of their format.
    tensors
        All tensors of the base model.
    where
        The base model, for messages.

    Returns
    -------
    Tensor
        The weight. An fp8 weight is multiplied by its scale: one number, one for each row, or one for each block.

    Raises
    ------
    AdapterError
        If the weight is stored as packed integers, or its scales do not fit.

    Examples
    --------
    >>> def source(tensor):
    ...     return TensorSource(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), lambda: tensor)
    >>> weight, scale = torch.ones(2, 2).to(torch.float8_e4m3fn), torch.tensor([0.5])
    >>> in_float("q.weight", {"q.weight": source(weight), "q.weight_scale": source(scale)}, "toy").tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    stem = name.removesuffix(name.rpartition(".")[2])
    packed = [how for ending, how in PACKED.items() if stem + ending in tensors]
    packed += ["MXFP4"] if name.endswith("_blocks") else []
    source = tensors[name]
    if packed or source.dtype.startswith(("int", "uint", "bool", "complex", "q", "iq")):
        how = f" (by {packed[0]})" if packed else ""
        raise AdapterError(
            f"{name} of {where} is quantized to {source.dtype}{how}: give the base model that is not quantized"
        )
    weight = source.read()
    scales = [stem + ending for ending in SCALES if stem + ending in tensors]
    if weight.dtype.itemsize > 1:
        return weight.to(torch.promote_types(weight.dtype, torch.float32))
    if not scales:
        return weight.to(torch.float32)
    scale = tensors[scales[0]].read().to(torch.float32)
    return weight.to(torch.float32) * _spread(scale, weight.shape, f"{scales[0]} of {where}")


def _spread(scale: Tensor, shape: torch.Size, where: str) -> Tensor:
    """A scale as a tensor that multiplies a weight of some shape."""
    if scale.numel() == 1:
        return scale.reshape(())
    if len(shape) == 2 and scale.numel() == shape[0] and scale.shape in ((shape[0],), (shape[0], 1)):
        return scale.reshape(shape[0], 1)
    if len(shape) == scale.ndim:
        for axis, (size, count) in enumerate(zip(shape, scale.shape, strict=True)):
            block = BLOCK if -(-size // BLOCK) == count else size // count if count and size % count == 0 else 0
            if not block:
                break
            scale = scale.repeat_interleave(block, dim=axis).narrow(axis, 0, size)
        else:
            return scale
    raise AdapterError(f"{where} has shape {tuple(scale.shape)}, which does not fit a weight of shape {tuple(shape)}")
