"""What an adapter does to inputs that are not of its task: the change of the last hidden states, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asym_analysis.adapters.applied import apply_to
from asym_analysis.adapters.load import as_adapter
from asym_analysis.errors import AdapterError
from asym_analysis.prediction.moment_sums import on_device_of
from asym_analysis.questions.common import turned_adapter

__all__ = ["GeneralEffect", "general_effect"]


class GeneralEffect(NamedTuple):
    """Mean over the inputs of ||h' - h|| / ||h||, h the mean of an input's last hidden states.

    Attributes
    ----------
    moved
        With the adapter in the model.
    chance
        With the same singular values in random directions.
    """

    moved: float
    chance: float


def general_effect(
    adapter: Any, model: nn.Module, batches: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> GeneralEffect:
    """Measure how far the last hidden states of some inputs move when the adapter is put into its base model.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    model : Module
        Its base, a Hugging Face model in evaluation mode; it is left as it was.
    batches : sequence of mapping
        Keyword arguments of the model, such as `input_ids` and `attention_mask`.
    seed : int, default 0
        Of the random directions.

    Returns
    -------
    GeneralEffect
        The relative change, and that of an update of the same singular values in random directions.

    Raises
    ------
    AdapterError
        If the model gives no hidden states.

    References
    ----------
    .. [1] benchmarks/minilm/doctor.py holds it beside what the files alone say.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from asym_analysis import Adapter
    >>> class Model(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.q = nn.Linear(2, 2, bias=False)
    ...         self.q.weight.data = torch.eye(2)
    ...
    ...     def forward(self, inputs, output_hidden_states):
    ...         return SimpleNamespace(hidden_states=(self.q(inputs),))
    >>> doubled = Adapter.from_factors({"q": (torch.eye(2), torch.eye(2))})
    >>> general_effect(doubled, Model(), [{"inputs": torch.ones(3, 4, 2)}]).moved
    1.0
    """
    read = as_adapter(adapter)
    before = _states(model, batches)
    moved = []
    for run in (read, turned_adapter(read, torch.Generator().manual_seed(seed))):
        with apply_to(run, model, head=False):
            after = _states(model, batches)
        moved.append(((after - before).norm(dim=1) / before.norm(dim=1)).mean().item())
    return GeneralEffect(*moved)


def _states(model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> Float[Tensor, "inputs width"]:
    """Mean of the last hidden states of each input, padding left out."""
    found = []
    for batch in batches:
        placed = on_device_of(model, batch)
        with torch.inference_mode():
            output = model(**placed, output_hidden_states=True)
        layers = getattr(output, "decoder_hidden_states", None) or getattr(output, "hidden_states", None)
        if not layers:
            raise AdapterError(f"{type(model).__name__} gives no hidden states: what the adapter moves is not measured")
        hidden = layers[-1].flatten(1, -2)
        mask = placed.get("attention_mask")
        weights = hidden.new_ones(hidden.shape[:2]) if mask is None or mask.shape != hidden.shape[:2] else mask.float()
        found.append((hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))
    return torch.cat(found)
