"""Write an adapter back, in a format that PEFT, kohya's and LyCORIS's loaders or diffusers read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.base_weights import Base, as_base
from asym_analysis.adapters.provenance import PROVENANCE, provenance
from asym_analysis.adapters.writers.content import Content
from asym_analysis.adapters.writers.down_up import COMPONENTS, diffusers_content, kohya_content
from asym_analysis.adapters.writers.peft import peft_content
from asym_analysis.atomic import replacing, synced
from asym_analysis.errors import AdapterError
from asym_analysis.lazy_torch import Tensor
from asym_analysis.vocabulary import choose

__all__ = ["FORMATS", "Format", "save_adapter"]

Format = Literal["peft", "kohya", "diffusers"]
FORMATS: tuple[Format, ...] = ("peft", "kohya", "diffusers")


def save_adapter(
    adapter: Adapter,
    path: str | os.PathLike[str],
    format: Format = "peft",
    *,
    fold_scale: bool = False,
    component: str | None = None,
    base: Base | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an adapter to disk, whole or not at all.

    Tensors keep the dtype of the file that they were read from, where that holds them exactly. Where the adapter came
    from, its checksum and what was assumed of it go into the header, under "asym_analysis".

    Parameters
    ----------
    adapter : Adapter
        The adapter. Updates that another library keeps as something else (LoHa, LoKr, AdaLoRA, VeRA, ...) are written
        as the pair of their factors.
    path : path
        PEFT: the folder. kohya and diffusers: a file that ends in .safetensors, or the folder for a file of the
        library's usual name.
    format : {"peft", "kohya", "diffusers"}, default "peft"
        "peft" (adapter_config.json and adapter_model.safetensors, with rank and alpha patterns, trained heads and
        biases), "kohya" (lora_down, lora_up, alpha; also what LyCORIS reads) or "diffusers"
        (pytorch_lora_weights.safetensors with the LoraConfig in its header).
    fold_scale : bool, default False
        Multiply the scaling into B, so that alpha is the rank and every loader's scale is 1.
    component : str, optional
        "unet", "transformer", "text_encoder", ...: the part of the pipeline, for module names that do not say it.
    base : path, mapping, Module or BaseWeights, optional
        The base model, as `BaseWeights` reads it, whose names replace flattened ones
        ("lora_unet_mid_block_attentions_0_proj_in").
    overwrite : bool, default False
        Replace an adapter that is already there.

    Returns
    -------
    Path
        The folder (PEFT) or the file that was written.

    Raises
    ------
    NotWritableError
        If the format has no place for something of the adapter; the message names it. Nothing is written.
    AdapterError
        If a tensor cannot be read, or there is an adapter at `path` already.
    ValueError
        If `format` or `component` is not one of those above.

    Examples
    --------
    >>> import tempfile, torch
    >>> from asym_analysis import load_adapter
    >>> adapter = Adapter.from_factors({"layer.0.q": (torch.ones(2, 8), torch.ones(4, 2))}, scaling=2.0)
    >>> folder = Path(tempfile.mkdtemp()) / "copy"
    >>> saved = load_adapter(save_adapter(adapter, folder))
    >>> saved["layer.0.q"].scaling, sorted(file.name for file in folder.iterdir())
    (2.0, ['adapter_config.json', 'adapter_model.safetensors'])
    """
    choose(format, FORMATS, "format")
    if component is not None:
        choose(component, COMPONENTS, "component")
    named = adapter if base is None else _renamed(adapter, base)
    if format == "peft":
        content = peft_content(named, fold_scale=fold_scale)
    elif format == "kohya":
        content = kohya_content(named, fold_scale=fold_scale, component=component)
    else:
        content = diffusers_content(named, fold_scale=fold_scale, component=component)
    changes = ("scale folded into B",) if fold_scale else ()
    header = {"format": "pt", **content.header, PROVENANCE: provenance(adapter, changes=changes)}
    if adapter.coverage.refused:
        tensor, reason = next(iter(adapter.coverage.refused.items()))
        warnings.warn(
            f"{len(adapter.coverage.refused)} tensors of {adapter.name} could not be used and are not written "
            f"({tensor}: {reason})",
            stacklevel=2,
        )
    target = Path(path).expanduser()
    if format != "peft":
        (name, tensors), *_ = content.weights.items()
        return _write_file(tensors, header, target if target.suffix == ".safetensors" else target / name, overwrite)
    if target.suffix == ".safetensors":
        raise AdapterError(f"{target}: PEFT's format is a folder; give its path, without a file name")
    return _write_folder(content, header, target, overwrite)


def _write_file(tensors: Mapping[str, Tensor], header: Mapping[str, str], target: Path, overwrite: bool) -> Path:
    if target.exists() and not overwrite:
        raise AdapterError(f"{target} exists already: give another path, or overwrite=True")
    with _disk_errors(target), replacing(target) as part:
        save_file(dict(tensors), part, metadata=dict(header))
    return target


def _write_folder(content: Content, header: Mapping[str, str], target: Path, overwrite: bool) -> Path:
    """Write all files into a folder beside, which then takes the target's place; files there of other names stay."""
    names = [*content.weights, *content.configs]
    there = [name for name in names if (target / name).exists()]
    if there and not overwrite:
        raise AdapterError(f"{target / there[0]} exists already: give another folder, or overwrite=True")
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        try:
            for name, tensors in content.weights.items():
                with replacing(part / name) as file:
                    save_file(dict(tensors), file, metadata=dict(header))
            for name, config in content.configs.items():
                with replacing(part / name) as file:
                    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            if not target.exists():
                part.chmod(0o777 & ~_umask())
                part.rename(target)
            else:
                for name in names:
                    (part / name).replace(target / name)
                synced(target)
            synced(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Turn the system's errors on writing into one sentence."""
    try:
        yield
    except OSError as error:
        raise AdapterError(f"{target} cannot be written: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _renamed(adapter: Adapter, base: Base) -> Adapter:
    """The adapter with the names that the base model gives to its modules."""
    weights = as_base(base)
    names = {}
    for module in adapter:
        source = adapter.source(module)
        name = weights.name_of(module, (source.d_out, source.d_in))
        names[module] = name.removesuffix(".weight").removesuffix(".base_layer").removeprefix("base_model.model.")
    return adapter.renamed(names)
