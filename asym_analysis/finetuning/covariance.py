"""Second moments of what each adapted module is fed, streamed over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.moment_sums import MomentSums, on_device_of
from asym_analysis.finetuning.padding import RealPositions

__all__ = ["InputMoment", "adapted_module", "input_covariances"]


@dataclass(frozen=True, eq=False)
class InputMoment:
    """The second moment E[x x^T] and the mean of a module's inputs, and from how many inputs they were estimated.

    The second moment is what an update has to fit where biases are frozen (theory notes, section 1.2(d)).
    """

    second_moment: Float[Tensor, "d_in d_in"]
    mean: Float[Tensor, "d_in"]
    inputs: int

    @property
    def covariance(self) -> Float[Tensor, "d_in d_in"]:
        """The second moment about the mean: what is left where a constant output does not matter."""
        return self.second_moment - torch.outer(self.mean, self.mean)


@torch.no_grad()
def input_covariances(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    modules: Sequence[str],
    *,
    max_bytes: int = 4 << 30,
) -> dict[str, InputMoment]:
    """Stream the second moments of the inputs of some modules, without keeping the inputs.

    Parameters
    ----------
    model
        Any torch model; it is run in evaluation mode on the device where it lies, and the moments are summed there.
    batches
        Keyword arguments of the model. Padding is left out: what the `attention_mask` hides and, in the decoder of an
        encoder-decoder model, what has no label.
    modules
        Names of modules as the model, or the adapter of it, calls them.
    max_bytes
        Memory for the sums, at 8 bytes an entry (float64; 4 on devices without it). Modules that do not fit are done
        in further passes, for which `batches` must be a sequence.

    Returns
    -------
    dict
        Module -> `InputMoment`, on the CPU in float64.

    Raises
    ------
    AdapterError
        If the model has no such module, or one was never run.

    Examples
    --------
    >>> layer = nn.Sequential(nn.Linear(2, 3))
    >>> moments = input_covariances(layer, [{"input": torch.eye(2)}], ["0"])
    >>> moments["0"].second_moment, moments["0"].inputs
    (tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64), 2)
    """
    found = {name: adapted_module(model, name) for name in modules}
    passes = _passes(found, max_bytes)
    if len(passes) > 1 and not isinstance(batches, Sequence):
        raise ValueError(
            f"{len(passes)} passes are needed to stay under {max_bytes:,} bytes; give the batches as a list"
        )
    was_training = model.training
    model.eval()
    try:
        moments: dict[str, InputMoment] = {}
        for names in passes:
            moments |= _one_pass(model, batches, {name: found[name] for name in names})
    finally:
        model.train(was_training)
    return {name: moments[name] for name in modules}


def adapted_module(model: nn.Module, name: str) -> nn.Module:
    """The module of that name, whatever prefix a wrapper or a head put before it."""
    candidates = [
        (found, module)
        for found, module in model.named_modules()
        if found == name or found.endswith(f".{name}") or (found and name.endswith(f".{found}"))
    ]
    if not candidates:
        raise AdapterError(f"the model has no module {name}; give the model that the adapter was trained on")
    # The longest common name decides: "query" alone would fit every layer.
    return max(candidates, key=lambda pair: min(len(pair[0]), len(name)))[1]


def _width(module: nn.Module) -> int:
    for attribute in ("in_features", "nx", "num_embeddings"):
        if isinstance(getattr(module, attribute, None), int):
            return int(getattr(module, attribute))
    weight = getattr(module, "weight", None)
    return int(weight.shape[-1]) if isinstance(weight, Tensor) else 1


def _passes(modules: Mapping[str, nn.Module], max_bytes: int) -> list[list[str]]:
    """Groups of modules whose sums fit in memory together."""
    passes: list[list[str]] = []
    used = 0
    for name, module in modules.items():
        size = 8 * _width(module) ** 2
        if not passes or used + size > max_bytes:
            passes.append([])
            used = 0
        passes[-1].append(name)
        used += size
    return passes


def _one_pass(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], modules: Mapping[str, nn.Module]
) -> dict[str, InputMoment]:
    sums = MomentSums(modules)
    real = [RealPositions(None, None)]

    def hook(name: str) -> Callable[..., None]:
        def add(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            sums.add(name, real[0].rows(name, inputs[0]))

        return add

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        for batch in batches:
            placed = on_device_of(model, batch)
            real[0] = RealPositions.of_batch(placed, model)
            model(**placed)
    finally:
        for handle in handles:
            handle.remove()
    if unused := sums.unseen():
        raise AdapterError(f"the batches never reached {len(unused)} modules, {unused[0]} among them")
    return {name: InputMoment(sums.second_moment(name), sums.mean(name), sums.counts[name]) for name in modules}
