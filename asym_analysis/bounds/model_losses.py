"""Losses of an open classifier on labelled batches, for `certify`: factors and head are put into the model itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.applied import AppliedAdapter
from asym_analysis.bounds.adapted_model import AdaptedModel
from asym_analysis.errors import AdapterError
from asym_analysis.vocabulary import choose, whole

__all__ = ["LOSSES", "ModelLosses", "Samples", "class_cross_entropy", "logits_of", "tied_doubts"]

LOSSES = ("zero-one", "bounded cross-entropy")
TOGETHER = 256  # samples whose inputs are compared with their labels in one go


@runtime_checkable
class Samples(Protocol):
    """Labelled samples that make their own batches: one piece of memory, wherever it lies, in place of many mappings.

    Attributes
    ----------
    labels
        The class of each sample, shape (samples,).
    lengths
        Number of tokens of each sample, to batch those of about one length together; zeros where there are none.
    """

    labels: Tensor
    lengths: Int[np.ndarray, "n"]

    def inputs(self, samples: Int[np.ndarray, "some"]) -> dict[str, Tensor]:
        """Give some samples as the model's keyword arguments, without labels, and padded no further than need be."""
        ...


class ModelLosses:
    """Losses of candidate adapters on labelled samples, computed by the adapter's own model.

    Parameters
    ----------
    adapter : Adapter
        An adapter of the model; candidates have its modules and trained tensors.
    model : Module
        An open model whose output has `logits` of shape (samples, classes): a Hugging Face sequence or image
        classifier. It is put in evaluation mode; its weights are as before whenever no method runs.
    data : iterable of mapping, or Samples
        Batches as the model takes them: mappings of tensors with the samples along the first axis, among them
        "labels" of shape (samples,). Or an object with `labels`, `lengths` and `inputs(indices)`, as `Samples` says.
    loss : str, default "zero-one"
        "zero-one", or "bounded cross-entropy": -log2 of the label's probability after mixing with a uniform
        distribution at weight 1/10, over its largest value.
    batch_size : int, default 32
        Samples of one forward pass.

    Raises
    ------
    AdapterError
        If there are no labels, an input repeats them, or the model does not fit the adapter.
    ValueError
        For an unknown loss.

    Examples
    --------
    >>> class Classifier(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.score = torch.nn.Linear(2, 2, bias=False)
    ...
    ...     def forward(self, x):
    ...         return {"logits": self.score(x)}
    >>> adapter = Adapter.from_factors({"score": (torch.ones(1, 2), torch.zeros(2, 1))})
    >>> batches = [{"x": torch.eye(2), "labels": torch.tensor([0, 1])}]
    >>> ModelLosses(adapter, Classifier(), batches).evaluate(adapter).shape
    (2,)
    """

    def __init__(
        self,
        adapter: Adapter,
        model: torch.nn.Module,
        data: Iterable[Mapping[str, Any]] | Samples,
        *,
        loss: str = "zero-one",
        batch_size: int = 32,
    ) -> None:
        choose(loss, LOSSES, "loss")
        self.loss, self.batch_size = loss, whole(batch_size, "batch_size", least=1)
        self.model = model.eval()
        _refuse_adapted(self.model)
        self.samples: Samples = data if isinstance(data, Samples) else _Rows(data)
        self._labels, self.lengths = _classes(self.samples.labels), np.asarray(self.samples.lengths)
        if self._labels.shape != self.lengths.shape or not len(self.lengths):
            shapes = f"{tuple(self._labels.shape)} and {self.lengths.shape}"
            raise AdapterError(
                f"labels and lengths of the samples have shapes {shapes}: give one of each for each sample"
            )
        self._most = int(self._labels.max())
        _refuse_labels_among_inputs(self.samples)
        self.head = bool(adapter.extras)
        self.adapted = AdaptedModel(adapter, self.model, head=self.head)  # refuses a model that does not fit
        self.doubts = tied_doubts(self.adapted.applied)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    def evaluate(self, adapter: Adapter) -> Float[np.ndarray, "n"]:
        """The loss of a candidate on every sample.

        Parameters
        ----------
        adapter : Adapter
            The candidate.

        Returns
        -------
        ndarray
            Shape (n,), each in [0, 1].
        """
        return self.evaluate_some(adapter, np.arange(len(self)))

    @torch.no_grad()
    def evaluate_some(self, adapter: Adapter, samples: Int[np.ndarray, "some"]) -> Float[np.ndarray, "some"]:
        """The loss of a candidate on some samples.

        Parameters
        ----------
        adapter : Adapter
            The candidate.
        samples : int array of shape (some,)
            Their indices.

        Returns
        -------
        ndarray
            One loss for each index, in [0, 1].
        """
        samples = np.asarray(samples)
        found = np.empty(len(samples))
        # Samples of about one length share a batch, so that little padding is computed.
        order = np.argsort(self.lengths[samples], kind="stable")
        with self.adapted.using(adapter) as run:
            for start in range(0, len(samples), self.batch_size):
                part = order[start : start + self.batch_size]
                batch, labels = self.batch(samples[part])
                found[part] = self._losses(logits_of(run(batch)), labels).double().cpu().numpy()
        return found

    def batch(self, samples: Int[np.ndarray, "some"]) -> tuple[dict[str, Tensor], Tensor]:
        """Some samples as the model takes them, on its device.

        Parameters
        ----------
        samples : int array of shape (some,)
            Their indices.

        Returns
        -------
        inputs, labels
            Keyword arguments of the model, and the labels, shape (some,).
        """
        device = self.device
        self._labels = self._labels.to(device)  # kept there
        inputs = {name: value.to(device) for name, value in self.samples.inputs(samples).items()}
        return inputs, self._labels[torch.as_tensor(samples, device=device)]

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of a batch; that all labels are classes of the model is known without reading them.

        Parameters
        ----------
        logits, labels : Tensor
            Shapes (samples, classes) and (samples,).

        Returns
        -------
        Tensor
            A scalar.
        """
        _refuse_unknown_classes(logits, self._most)
        return torch.nn.functional.cross_entropy(logits, labels)

    @property
    def copies(self) -> Int[np.ndarray, "n"]:
        """A label for each sample, which samples of the same inputs, bit for bit, share."""
        each = (self.samples.inputs(np.array([index])) for index in range(len(self)))
        return pd.factorize(np.array([_digest(inputs) for inputs in each], dtype=object))[0]

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.ndim != 2 or len(logits) != len(labels):
            raise AdapterError(
                f"the model gives logits of shape {tuple(logits.shape)} for {len(labels)} samples: a classifier's have "
                "shape (samples, classes)"
            )
        _refuse_unknown_classes(logits, self._most)
        if self.loss == "zero-one":
            found = (logits.argmax(-1) != labels).float()
        else:
            classes = logits.shape[-1]
            mixed = 0.9 * logits.softmax(-1) + 0.1 / classes
            chosen = mixed.gather(-1, labels[:, None])[:, 0]
            found = (-chosen.log() / -torch.tensor(0.1 / classes).log()).clamp(0.0, 1.0)  # 1 up to rounding
        return found.masked_fill(logits.isnan().any(-1), 1.0)  # no answer is a wrong one


def tied_doubts(applied: AppliedAdapter) -> tuple[str, ...]:
    """Why losses in this model may not be those of the adapter as it was trained: weights that the model shares."""
    if not applied.shared:
        return ()
    return (
        f"the model uses the weight of {', '.join(applied.shared)} under another name too (tied): here the update "
        "changes both, in training it changed one",
    )


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output, in float32."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise AdapterError(f"the model gives {type(output).__name__} without logits: wrap it so that it gives them")
    return found.float()


def class_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, for labels that are classes of the model.

    Examples
    --------
    >>> class_cross_entropy(torch.zeros(1, 2), torch.tensor([1]))
    tensor(0.6931)
    """
    _refuse_unknown_classes(logits, int(labels.max()))
    return torch.nn.functional.cross_entropy(logits, labels)


def _refuse_unknown_classes(logits: Tensor, most: int) -> None:
    if most >= logits.shape[-1]:
        raise AdapterError(f"a label is {most}, and the model has {logits.shape[-1]} classes, from 0")


class _Rows:
    """Samples out of batches: one mapping each, stacked anew for every batch."""

    def __init__(self, data: Iterable[Mapping[str, Any]]) -> None:
        self._rows = _rows(data)
        self.labels = torch.stack([row["labels"] for row in self._rows])
        self.lengths = _lengths(self._rows)

    def inputs(self, samples: Int[np.ndarray, "some"]) -> dict[str, Tensor]:
        """Some samples, filled up to the longest of them."""
        rows = [self._rows[int(index)] for index in samples]
        return _trimmed({name: _stacked([row[name] for row in rows]) for name in rows[0] if name != "labels"})


def _rows(data: Iterable[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
    rows: list[dict[str, Tensor]] = []
    for batch in data:
        if not isinstance(batch, Mapping) or "labels" not in batch:
            raise AdapterError("data holds a batch without 'labels': give mappings of tensors with the true labels")
        tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
        tensors["labels"] = _classes(tensors["labels"])
        sizes = {name: value.shape[0] for name, value in tensors.items() if value.ndim}
        if tensors["labels"].ndim != 1:
            shape = tuple(tensors["labels"].shape)
            raise AdapterError(f"labels has shape {shape}: give one class a sample, shape (samples,)")
        if len(set(sizes.values())) != 1:
            raise AdapterError(f"the tensors of a batch differ in their number of samples: {sizes}")
        rows += [{name: value[i] for name, value in tensors.items()} for i in range(sizes["labels"])]
    if not rows:
        raise AdapterError("data holds no sample")
    return rows


def _classes(labels: Tensor) -> Tensor:
    """Labels as whole numbers."""
    whole_numbers = labels.long()
    if labels.is_complex() or not torch.equal(whole_numbers.to(labels), labels):
        raise AdapterError("labels holds numbers that are not whole: give the classes, and no targets of a regression")
    if labels.numel() and int(whole_numbers.min()) < 0:
        raise AdapterError(f"labels holds {int(whole_numbers.min())}: leave samples without a label out of data")
    return whole_numbers


def _refuse_adapted(model: torch.nn.Module) -> None:
    """Refuse a base model that already has an adapter of PEFT in it, which may be trained on the samples."""
    if hasattr(model, "peft_config") or any(".base_layer." in f".{name}" for name, _ in model.named_parameters()):
        raise AdapterError("the model holds an adapter of PEFT already: give its base model, as it was before training")


def _refuse_labels_among_inputs(samples: Samples) -> None:
    """Refuse an input with one number a sample that is the label itself."""
    labels = samples.labels.double()
    if labels.unique().numel() < 2:
        return
    suspects: set[str] | None = None
    for some in np.split(np.arange(len(labels)), range(TOGETHER, len(labels), TOGETHER)):
        own = labels[torch.from_numpy(some).to(labels.device)]
        equal = {name for name, value in samples.inputs(some).items() if _is(value, own)}
        suspects = equal if suspects is None else suspects & equal
        if not suspects:
            return
    if suspects:
        raise AdapterError(f"the input {min(suspects)!r} repeats the labels: leave it out of data")


def _is(value: Tensor, labels: Tensor) -> bool:
    return value.numel() == len(labels) and torch.equal(value.reshape(-1).to(labels), labels)


def _digest(row: Mapping[str, Tensor]) -> bytes:
    found = hashlib.sha256()
    for name in sorted(row):
        value = row[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.digest()


def _lengths(rows: Sequence[Mapping[str, Tensor]]) -> Int[np.ndarray, "n"]:
    """Number of tokens of each sample that its attention mask names; all zero without one."""
    masks = [row.get("attention_mask") for row in rows]
    return np.array([0 if mask is None else int(mask.sum()) for mask in masks])


def _trimmed(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the last columns that the attention mask leaves out in every row."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or not bool(mask.any()):
        return inputs
    used = int(mask.any(0).nonzero()[-1]) + 1
    return {name: v[:, :used] if v.shape == mask.shape else v for name, v in inputs.items()}


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """Stack rows; sequences of unequal length are filled up with zeros, which their attention mask leaves out."""
    if len({value.shape for value in values}) == 1:
        return torch.stack(list(values))
    return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True)
