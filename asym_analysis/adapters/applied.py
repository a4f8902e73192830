"""An open model with an adapter in its weights: put in, exchanged, and taken out again."""

from __future__ import annotations

from types import TracebackType

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.base_names import BaseNames, Match
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.errors import AdapterError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["AppliedAdapter", "apply_to"]


class AppliedAdapter:
    """An adapter in the weights of an open model, until it is removed.

    Parameters
    ----------
    adapter
        The adapter.
    model
        Its base model, in a floating-point dtype. Its weights are changed in place.
    head
        Also put the trained tensors outside the modules (heads, biases) into the model.

    Attributes
    ----------
    matches
        Module of the adapter -> the model's weight that it stands on.

    Raises
    ------
    AdapterError
        If a module or a trained tensor has no counterpart of its shape in the model; the model is then unchanged.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    >>> adapter = Adapter.from_factors({"0": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> before = model[0].weight.detach().clone()
    >>> with AppliedAdapter(adapter, model):
    ...     moved = model[0].weight.detach() - before
    >>> bool(torch.allclose(moved, torch.ones(2, 3))), bool(torch.equal(model[0].weight, before))
    (True, True)
    """

    def __init__(self, adapter: Adapter, model: torch.nn.Module, *, head: bool = True) -> None:
        self._model = model
        self._tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        names = BaseNames({name: tuple(value.shape) for name, value in self._tensors.items()}, "the open model")
        self.matches: dict[str, Match] = {
            module: names.find(module, (adapter.source(module).d_out, adapter.source(module).d_in))
            for module in adapter
        }
        self._heads = {name: self._named(name, tuple(e.shape)) for name, e in adapter.extras.items()} if head else {}
        touched = {match.name for match in self.matches.values()} | set(self._heads.values())
        self._before = {name: self._tensors[name].detach().clone() for name in touched}
        try:
            self.exchange(adapter)
        except BaseException:
            self.remove()
            raise

    @property
    def shared(self) -> tuple[str, ...]:
        """Modules of the adapter whose weight the model also uses under another name: a tied head or embedding."""
        names: dict[int, set[str]] = {}
        for name, value in self._model.named_parameters(remove_duplicate=False):
            names.setdefault(id(value), set()).add(name)
        return tuple(m for m, match in self.matches.items() if len(names.get(id(self._tensors[match.name]), ())) > 1)

    def exchange(self, adapter: Adapter) -> None:
        """Put another adapter with the same modules in place of the present one.

        Parameters
        ----------
        adapter
            Its modules and trained tensors have the names and shapes of the first adapter's.
        """
        self.remove()
        with torch.no_grad():
            for module, match in self.matches.items():
                weight = match.part_of(self._tensors[match.name].data)
                weight.copy_(_changed(weight, adapter[module], module))
            for name, target in self._heads.items():
                value = adapter.extras[name].read()
                self._tensors[target].data.copy_(value.reshape(self._tensors[target].shape))

    def changed_weights(self, adapter: Adapter) -> dict[str, Tensor]:
        """The model's tensors with an adapter in them, as new tensors through which gradients reach the adapter's.

        Parameters
        ----------
        adapter
            Its modules and trained tensors have the names and shapes of the first adapter's.

        Returns
        -------
        dict
            Name of a tensor of the model -> its value with the update in it, for `torch.func.functional_call`.
        """
        found: dict[str, Tensor] = {}
        for module, match in self.matches.items():
            own = self._before[match.name]
            new = _changed(match.part_of(own), adapter[module], module).to(own.dtype)
            if match.expert is None:
                found[match.name] = new
            else:
                whole = found.get(match.name, own).clone()
                match.part_of(whole).copy_(new)
                found[match.name] = whole
        return {**found, **self.changed_heads(adapter)}

    def changed_heads(self, adapter: Adapter) -> dict[str, Tensor]:
        """The model's tensors outside the modules that an adapter replaces, such as heads.

        Parameters
        ----------
        adapter
            Its trained tensors have the names and shapes of the first adapter's.

        Returns
        -------
        dict
            Name of a tensor of the model -> its value; empty with head=False.
        """
        found: dict[str, Tensor] = {}
        for name, target in self._heads.items():
            own = self._before[target]
            found[target] = adapter.extras[name].read().to(own).reshape(own.shape)
        return found

    def remove(self) -> None:
        """Put the model's own weights back."""
        with torch.no_grad():
            for name, value in self._before.items():
                self._tensors[name].data.copy_(value)

    def __enter__(self) -> AppliedAdapter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _named(self, extra: str, shape: tuple[int, ...]) -> str:
        """The model's tensor for a trained tensor: the longest common end of the names, and the shape."""
        words = extra.split(".")
        for start in range(len(words)):
            end = ".".join(words[start:])
            found = [
                name
                for name, value in self._tensors.items()
                if (name == end or name.endswith(f".{end}")) and tuple(value.shape) == shape
            ]
            if len(found) == 1:
                return found[0]
        raise AdapterError(
            f"the open model has no tensor of shape {shape} for the trained tensor {extra}: open it with the head that "
            "the adapter was trained with (such as AutoModelForSequenceClassification), or pass head=False"
        )


def apply_to(adapter: Adapter, model: torch.nn.Module, *, head: bool = True) -> AppliedAdapter:
    """Put an adapter into the weights of an open model.

    Parameters
    ----------
    adapter : Adapter
        The adapter.
    model : Module
        Its base model; changed in place.
    head : bool, default True
        Also put the trained tensors outside the modules into the model.

    Returns
    -------
    AppliedAdapter
        `remove()` takes the adapter out again, and so does the end of a `with` block.

    Raises
    ------
    AdapterError
        If the model does not fit the adapter.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    >>> adapter = Adapter.from_factors({"0": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> apply_to(adapter, model).remove()
    """
    return AppliedAdapter(adapter, model, head=head)


def _changed(weight: Tensor, update: LowRankUpdate, module: str) -> Tensor:
    """The weight with the update in it, in the weight's own layout."""
    if not weight.dtype.is_floating_point or weight.element_size() < 2:
        raise AdapterError(f"the model keeps {module} in {weight.dtype}: open it in a floating-point dtype first")
    delta = update.on(weight.device).delta()
    if delta.shape != weight.shape:
        if delta.ndim != 2 or delta.mT.shape != weight.shape:
            raise AdapterError(
                f"the update of {module} has shape {tuple(delta.shape)}, the model's weight {tuple(weight.shape)}: is "
                "this the adapter's base model?"
            )
        delta = delta.mT
    changed = weight.to(delta.dtype) + delta
    if update.magnitude is None:
        return changed
    # DoRA: each output row has the trained norm. Rows lie along the axis whose length is d_out.
    rows = changed if changed.shape[0] == update.d_out else changed.mT
    norms = rows.flatten(1).norm(dim=1)
    scaled = rows * (update.magnitude.to(rows).reshape(-1) / norms).reshape(-1, *[1] * (rows.ndim - 1))
    return scaled if rows is changed else scaled.mT
