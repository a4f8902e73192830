"""The pretrained weights under an adapter, read one matrix at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxtyping import Float

from asym_analysis.adapters.adapter import TensorSource
from asym_analysis.adapters.base_names import BaseNames, Match
from asym_analysis.adapters.base_precision import in_float
from asym_analysis.adapters.containers import InMemoryTensor, open_container
from asym_analysis.adapters.hub import BASE_FILES, fetch_from_hub, is_hub_id
from asym_analysis.errors import AdapterError, AdapterValueError
from asym_analysis.lazy_torch import Module, Tensor, torch

__all__ = ["Base", "BaseWeights", "as_base"]

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npz")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


class BaseWeights(Mapping[str, Tensor]):
    """A mapping: tensor name -> tensor of a pretrained model, each read from its file when asked for.

    Parameters
    ----------
    source : path, mapping of str to Tensor or Module
        A folder with weights or an index of shards, one file of weights, a Hugging Face id, an open model
        (`torch.nn.Module`), or a mapping of names to tensors (a `state_dict()`). Files are read by the readers of
        adapters, headers only. Tensors in memory are used as they are, not copied.

    Raises
    ------
    AdapterError
        If there are no weights there, or they are damaged or unsafe.

    Examples
    --------
    >>> base = BaseWeights({"model.layers.0.q.weight": torch.eye(2), "lm_head.weight": torch.eye(2)})
    >>> base.name_of("layers.0.q")
    'model.layers.0.q.weight'
    >>> base.matched
    {'layers.0.q': 'model.layers.0.q.weight (one name ends with the other)'}
    """

    def __init__(self, source: str | os.PathLike[str] | Mapping[str, Tensor] | Module) -> None:
        self._tensors: dict[str, TensorSource]
        self._memory = not isinstance(source, str | os.PathLike)
        if isinstance(source, str | os.PathLike):
            self.source = os.fspath(source)
            self._tensors = _in_files(_located(self.source))
        else:
            state = source.state_dict() if isinstance(source, Module) else source
            kind = type(source).__name__ if isinstance(source, Module) else "mapping of tensors"
            self.source = f"the open {kind}" if isinstance(source, Module) else f"a {kind}"
            if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
                raise AdapterError(
                    f"base weights cannot be read from a {type(source).__name__}: give a folder, a file, a Hugging "
                    "Face id, an open model, or a mapping of names to tensors"
                )
            self._tensors = {name: InMemoryTensor.source(tensor.detach()) for name, tensor in state.items()}
        # The low-rank factors in the state of a model that PEFT has wrapped are no weights of the base.
        self._tensors = {name: tensor for name, tensor in self._tensors.items() if ".lora_" not in name}
        self._names = BaseNames({name: tensor.shape for name, tensor in self._tensors.items()}, self.source)
        self._matched: dict[str, str] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def matched(self) -> dict[str, str]:
        """What `name_of` and `matrix` matched so far by other than the same name: module -> weight (and why)."""
        return dict(self._matched)

    @property
    def in_memory(self) -> bool:
        """True for the weights of an open model or a state dict, in its own order."""
        return self._memory

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone.

        Returns
        -------
        tuple of int
            One size for each axis.
        """
        return self._tensors[name].shape

    def name_of(self, module: str, shape: tuple[int, int] | None = None) -> str:
        """Find the weight that a module of an adapter stands on.

        The names agree; or one is the other without leading parts ("bert.encoder..." and "encoder..."); or they
        agree from the layer's number on, and in shape, as where a new version of transformers renamed the prefix; or
        the module is an output head that shares the weight of the input embedding; or it is one expert of a stack.

        Parameters
        ----------
        module : str
            Name of the module in the adapter.
        shape : tuple of (int, int), optional
            (d_out, d_in) of its update, to choose between weights whose names fit equally well.

        Returns
        -------
        str
            Name of the tensor.

        Raises
        ------
        AdapterError
            If no weight fits, or several fit equally well; the message names some.
        """
        return self._match(module, shape).name

    def matrix(self, module: str, shape: tuple[int, int], *, transposed: bool = False) -> Float[Tensor, "d_out d_in"]:
        """The weight of a module as (d_out, d_in) in float32 or float64 on the CPU, whatever the layout of the file.

        Parameters
        ----------
        module : str
            Name of the module in the adapter.
        shape : tuple of (int, int)
            (d_out, d_in) of the adapter's update.
        transposed : bool, default False
            True where the model keeps the weight as (d_in, d_out), as GPT-2's Conv1D does.

        Returns
        -------
        Tensor
            Shape (d_out, d_in). fp8 weights are multiplied by the scales that lie beside them.

        Raises
        ------
        AdapterError
            If no weight fits, it has another shape than the update, it is quantized to packed integers, or it holds
            NaN or infinity.
        """
        match = self._match(module, shape)
        weight = match.part_of(in_float(match.name, self._tensors, self.source))
        weight = weight if weight.ndim < 2 else weight.flatten(1)
        if transposed or (tuple(weight.shape) != shape and tuple(weight.mT.shape) == shape):
            weight = weight.mT
        if tuple(weight.shape) != shape:
            raise AdapterError(
                f"{match.name} of {self.source} has shape {tuple(weight.shape)}, the adapter's update of {module} "
                f"{shape}: is this the adapter's base model?"
            )
        if not torch.isfinite(weight).all():
            raise AdapterValueError(
                f"{match.name} of {self.source}, the base weight of module {module}, holds NaN or infinity: fetch the "
                "base model again"
            )
        return weight.contiguous().cpu()

    def _match(self, module: str, shape: tuple[int, int] | None) -> Match:
        match = self._names.find(module, shape)
        if match.how:
            self._matched[module] = f"{match.name} ({match.how})"
        return match


#: What every function that takes base weights accepts.
Base = str | os.PathLike[str] | Mapping[str, Tensor] | Module | BaseWeights


def as_base(source: Base) -> BaseWeights:
    """Give base weights as they are, and open anything else that `BaseWeights` reads.

    Parameters
    ----------
    source
        A `BaseWeights`, or a source for it.

    Returns
    -------
    BaseWeights
        The weights, none of them read yet.

    Examples
    --------
    >>> len(as_base({"q.weight": torch.eye(2)}))
    1
    """
    return source if isinstance(source, BaseWeights) else BaseWeights(source)


def _located(source: str) -> Path:
    """The local folder or file of a base model; a Hugging Face id is fetched, weights and index only."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    if is_hub_id(source):
        return fetch_from_hub(source, revision=None, subfolder=None, names=BASE_FILES)
    raise AdapterError(f"{source} does not exist: give the base model's folder, a file of weights, or a hub id")


def _in_files(path: Path) -> dict[str, TensorSource]:
    if path.is_file():
        return dict(open_container(path).tensors)
    indexes = [path / name for name in INDEXES if (path / name).is_file()] or sorted(path.glob("*.index.json"))
    if indexes:
        return dict(open_container(indexes[0]).tensors)
    for suffix in SUFFIXES:
        files = [file for file in sorted(path.glob(f"*{suffix}")) if not _is_other(file.name)]
        if files:
            opened = [open_container(file).tensors for file in files]
            return {name: tensor for tensors in opened for name, tensor in tensors.items()}
    raise AdapterError(
        f"{path} holds no weights of a base model (no file ends in {', '.join(SUFFIXES)}): give its folder"
    )


def _is_other(name: str) -> bool:
    """Whether a file beside the weights is something else: an adapter, or what a trainer leaves."""
    return name.startswith(("adapter", "optimizer", "scheduler", "training_args", "rng_state", "scaler", "initial"))
