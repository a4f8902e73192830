"""The pretrained weights under an adapter, read one matrix at a time, and their singular vectors, computed once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from asym_analysis.atomic import replacing
from asym_analysis.errors import AdapterError, AdapterFormatError

__all__ = ["BaseWeights", "weight_svd"]


class BaseWeights(Mapping[str, Tensor]):
    """A mapping: tensor name -> tensor of a pretrained model, each read from its safetensors file when asked for.

    Parameters
    ----------
    source
        A folder with one safetensors file or an index of shards, a safetensors file, a Hugging Face id in the local
        cache or on the hub, or a mapping of names to tensors (a model's `state_dict()`).

    Raises
    ------
    AdapterError
        If there are no safetensors weights there.

    Examples
    --------
    >>> base = BaseWeights({"model.layers.0.q.weight": torch.eye(2), "lm_head.weight": torch.eye(2)})
    >>> base.name_of("layers.0.q")
    'model.layers.0.q.weight'
    """

    def __init__(self, source: str | os.PathLike[str] | Mapping[str, Tensor]) -> None:
        self._memory: Mapping[str, Tensor] = source if isinstance(source, Mapping) else {}
        self.source = "a mapping of tensors" if isinstance(source, Mapping) else os.fspath(source)
        self._files: dict[str, Path] = {} if isinstance(source, Mapping) else _tensor_files(_located(self.source))

    def __getitem__(self, name: str) -> Tensor:
        if name in self._memory:
            return self._memory[name].detach()
        path = self._files[name]
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise AdapterFormatError(f"{path}: tensor {name} cannot be read ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._memory or self._files)

    def __len__(self) -> int:
        return len(self._memory) or len(self._files)

    def name_of(self, module: str) -> str:
        """Find the weight that a module of an adapter stands on.

        The names agree, or one is the other without leading parts ("bert.encoder..." and "encoder...").

        Raises
        ------
        AdapterError
            If no weight fits, or several fit equally well; the message names some.
        """
        wanted = module.removesuffix(".weight").split(".")
        if (exact := ".".join([*wanted, "weight"])) in self:
            return exact
        fitting: dict[int, list[str]] = {}
        for name in self:
            if not name.endswith(".weight"):
                continue
            parts = name.removesuffix(".weight").removesuffix(".base_layer").split(".")
            common = _common_tail(wanted, parts)
            if common in (len(wanted), len(parts)):
                fitting.setdefault(common, []).append(name)
        best = fitting[max(fitting)] if fitting else []
        if len(best) == 1:
            return best[0]
        if best:
            raise AdapterError(f"module {module} fits several weights of {self.source}: {', '.join(sorted(best)[:3])}")
        known = ", ".join([name for name in self if name.endswith(".weight")][:3]) or "none"
        raise AdapterError(
            f"no weight of {self.source} fits module {module} (it holds {known}, ...): "
            "is this the adapter's base model?"
        )

    def matrix(self, module: str, shape: tuple[int, int], *, transposed: bool = False) -> Float[Tensor, "d_out d_in"]:
        """The weight of a module as (d_out, d_in) in float32 or float64, whatever the file's layout.

        Parameters
        ----------
        module
            Name of the module in the adapter.
        shape
            (d_out, d_in) of the adapter's update.
        transposed
            True where the model keeps the weight as (d_in, d_out), as GPT-2's Conv1D does.

        Raises
        ------
        AdapterError
            If the weight has another shape than the update, or is quantized to packed integers.
        """
        name = self.name_of(module)
        weight = self[name]
        if not weight.is_floating_point():
            raise AdapterError(
                f"{name} of {self.source} is stored as {weight.dtype}: give a base that is not quantized"
            )
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32)).flatten(1)
        if transposed or (tuple(weight.shape) != shape and tuple(weight.mT.shape) == shape):
            weight = weight.mT
        if tuple(weight.shape) != shape:
            raise AdapterError(
                f"{name} of {self.source} has shape {tuple(weight.shape)}, the adapter's update of {module} {shape}: "
                "is this the adapter's base model?"
            )
        return weight.contiguous()


def weight_svd(
    weight: Float[Tensor, "d_out d_in"], cache: str | os.PathLike[str] | None = None
) -> tuple[Float[Tensor, "d_out k"], Float[Tensor, "k"], Float[Tensor, "k d_in"]]:
    """Thin SVD of a base weight; with `cache`, a folder, it is computed once and then read.

    The file's name is a hash of the weight's bytes, so that two adapters of one base share it. Returns U, S, Vh in the
    dtype of `weight`.

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
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save_file({"U": U.contiguous(), "S": S.contiguous(), "Vh": Vh.contiguous()}, part)
    return U, S, Vh


def _digest(weight: Tensor) -> str:
    kind = f"{weight.dtype}{tuple(weight.shape)}".encode()
    return hashlib.blake2b(weight.contiguous().numpy().tobytes(), digest_size=16, key=kind[:64]).hexdigest()


def _common_tail(one: list[str], other: list[str]) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def _located(source: str) -> Path:
    """The local folder or file of a base model; a Hugging Face id is fetched, weights and index only."""
    path = Path(source)
    if path.exists():
        return path
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise AdapterError(f"{source} does not exist: give the base model's folder, a safetensors file or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.safetensors.index.json"]))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise AdapterError(f"{source} is no local path and could not be fetched from the hub ({error})") from error


def _tensor_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return dict.fromkeys(_names(path), path)
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if indexes:
        try:
            shards = json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"]
            return {str(name): path / str(file) for name, file in shards.items()}
        except (ValueError, KeyError, AttributeError) as error:
            raise AdapterFormatError(f"{indexes[0]} is no index of shards ({error})") from error
    files = sorted(file for file in path.glob("*.safetensors") if not file.name.startswith("adapter_"))
    if not files:
        raise AdapterError(f"{path} holds no safetensors weights of a base model")
    return {name: file for file in files for name in _names(file)}


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise AdapterFormatError(f"{path} is no readable safetensors file ({error})") from error
