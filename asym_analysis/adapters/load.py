"""From anything that holds an adapter to an `Adapter`: its files, its container, its key grammar."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.checkpoint import Checkpoint, Dialect
from asym_analysis.adapters.containers import Contents, InMemoryTensor, open_container, read_json
from asym_analysis.adapters.dialects import read_checkpoint
from asym_analysis.adapters.hub import fetch_from_hub, is_hub_id
from asym_analysis.adapters.metadata import Metadata
from asym_analysis.adapters.sources import AdapterFiles, adapter_at, adapters_at, distinct_names, natural_order
from asym_analysis.errors import AdapterError

__all__ = ["adapter_paths", "load_adapter", "load_adapters"]

Source = str | os.PathLike[str] | Mapping[str, Tensor] | Any


def load_adapter(
    source: Source,
    *,
    dialect: str | Dialect = "auto",
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    name: str | None = None,
) -> Adapter:
    """Open one adapter, reading headers only: its factors are read when they are asked for.

    Parameters
    ----------
    source
        A folder, a file, the id of a model on the Hugging Face Hub ("owner/name"), an open PEFT model (its active
        adapter), or a state dict (parameter name -> tensor).
    dialect
        The key grammar: "auto", the name of one, or a `PatternDialect` of your own.
    config
        The adapter's config, where the source has none (PEFT's keys: r, lora_alpha, ...). Replaces a config that lies
        beside the weights.
    revision
        Branch, tag or commit on the hub.
    subfolder
        Folder in the repository, or in `source`, that holds the adapter.
    name
        How tables and figures call it; otherwise the folder's or the file's name.

    Raises
    ------
    AdapterError
        If there is no adapter, several to choose from, or the file is damaged, unsafe or holds something else. The
        message says which, and what would mend it.

    Examples
    --------
    >>> import torch
    >>> state = {"q.lora_A.weight": torch.ones(2, 8), "q.lora_B.weight": torch.ones(4, 2)}
    >>> adapter = load_adapter(state, config={"peft_type": "LORA", "r": 2, "lora_alpha": 4}, name="toy")
    >>> adapter["q"].shape, adapter["q"].scaling
    ((4, 8), 2.0)
    """
    if not isinstance(source, str | os.PathLike):
        return _from_memory(source, dialect=dialect, config=config, name=name)
    path = _local_path(source, revision=revision, subfolder=subfolder)
    files = adapter_at(path)
    return _from_files(files, name=name or files.name, dialect=dialect, config=config)


def load_adapters(
    sources: Source | Iterable[Source],
    *,
    metadata: pd.DataFrame | Mapping[str, Sequence[Any]] | None = None,
    dialect: str | Dialect = "auto",
    config: Mapping[str, Any] | None = None,
) -> AdapterSet:
    """Open several adapters as a set.

    Parameters
    ----------
    sources
        What `load_adapter` takes, or several of them. A glob pattern stands for its matches; a training run for its
        ``checkpoint-*`` folders in the order of their steps and then the adapter that it holds itself; any other folder
        for every adapter in it and in its subfolders; an open PEFT model for each of its adapters.
    metadata
        One row an adapter, in order: task, seed, anything that comparisons should know.
    dialect, config
        As for `load_adapter`, for all of them.

    Raises
    ------
    AdapterError
        If one of them cannot be opened; the message names it.
    """
    single = isinstance(sources, str | os.PathLike | Mapping) or _is_model(sources)
    listed: list[Any] = [sources] if single else [*sources]  # type: ignore[misc]
    found = [adapter for source in listed for adapter in _each(source, dialect=dialect, config=config)]
    on_disk = [files for files in found if isinstance(files, AdapterFiles)]
    names = iter(distinct_names(on_disk))
    adapters = [
        _from_files(files, name=next(names), dialect=dialect, config=config)
        if isinstance(files, AdapterFiles)
        else files
        for files in found
    ]
    return AdapterSet(adapters, metadata)


def adapter_paths(source: str | os.PathLike[str]) -> list[Path]:
    """The weights of every adapter that a folder, file, pattern, training run or hub id names, none opened yet.

    Raises
    ------
    AdapterError
        If there is none.
    """
    return [files.weights for files in adapters_at(_local_path(source, revision=None, subfolder=None))]


def _each(source: Any, *, dialect: str | Dialect, config: Mapping[str, Any] | None) -> Sequence[AdapterFiles | Adapter]:
    """What one source of a set stands for: files still to be opened, or adapters."""
    if isinstance(source, Adapter):
        return [source]
    if _is_model(source):
        return [_from_model(source, adapter, dialect=dialect) for adapter in source.peft_config]
    if not isinstance(source, str | os.PathLike):
        return [_from_memory(source, dialect=dialect, config=config, name=None)]
    return adapters_at(_local_path(source, revision=None, subfolder=None))


def _local_path(source: str | os.PathLike[str], *, revision: str | None, subfolder: str | None) -> Path:
    """The path that a source names here, fetched from the hub where it names none."""
    path = Path(source).expanduser()
    inside = path / subfolder if subfolder else path
    if revision is None and (inside.exists() or glob.has_magic(str(source))):
        return inside
    if isinstance(source, str) and is_hub_id(source) and not path.is_dir():
        return fetch_from_hub(source, revision=revision, subfolder=subfolder)
    if path.exists():
        problem = (
            f"{path} has no folder {subfolder!r}"
            if subfolder and not inside.exists()
            else (f"{path} is a path here, which has no revision {revision!r}")
        )
        raise AdapterError(f"{problem}: leave that argument out, or correct it")
    raise AdapterError(
        f"{source} does not exist: give a folder, a file, a glob pattern, or a Hugging Face id of the form owner/name"
    )


def _from_files(files: AdapterFiles, *, name: str, dialect: str | Dialect, config: Mapping[str, Any] | None) -> Adapter:
    contents = open_container(files.weights)
    if config is None:
        config = read_json(files.config) if files.config else {}
    initial = None
    if files.initial:
        initial = _from_files(AdapterFiles(files.initial), name=f"{name} (initial)", dialect=dialect, config=config)
    known = {"source": files.source, "container": contents.container, "step": files.step}
    single = not files.weights.name.endswith(".index.json")
    return _build(
        contents,
        config,
        dialect=dialect,
        name=name,
        where=str(files.weights),
        known=known,
        weights=files.weights if single else None,
        initial=initial,
    )


def _from_memory(source: Any, *, dialect: str | Dialect, config: Mapping[str, Any] | None, name: str | None) -> Adapter:
    if _is_model(source):
        active = source.active_adapter if isinstance(getattr(source, "active_adapter", None), str) else None
        return _from_model(source, active or next(iter(source.peft_config)), dialect=dialect, name=name)
    if hasattr(source, "state_dict"):
        source = source.state_dict()
    if not isinstance(source, Mapping) or not all(isinstance(value, Tensor) for value in source.values()):
        raise AdapterError(
            f"an adapter cannot be loaded from a {type(source).__name__}: give a path, a Hugging Face id, an open PEFT "
            "model, or a mapping of parameter names to tensors"
        )
    contents = Contents({key: InMemoryTensor.source(value.detach()) for key, value in source.items()}, {}, "memory")
    known = {"source": "memory", "container": "memory"}
    return _build(
        contents, config or {}, dialect=dialect, name=name or "in memory", where="the state dict", known=known
    )


def _is_model(source: Any) -> bool:
    return isinstance(getattr(source, "peft_config", None), dict) and hasattr(source, "state_dict")


def _from_model(model: Any, adapter: str, *, dialect: str | Dialect, name: str | None = None) -> Adapter:
    """One adapter of an open PEFT model, through PEFT's own export: the keys are those of the file it would save."""
    peft = sys.modules["peft"]  # a model that PEFT wrapped means that PEFT is imported
    state = peft.get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    config = {
        key: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for key, value in model.peft_config[adapter].to_dict().items()
    }
    contents = Contents({key: InMemoryTensor.source(value.detach()) for key, value in state.items()}, {}, "memory")
    known = {"source": "memory", "container": "memory"}
    where = f"the open model's adapter {adapter!r}"
    return _build(contents, config, dialect=dialect, name=name or adapter, where=where, known=known)


def _build(
    contents: Contents,
    config: Mapping[str, Any],
    *,
    dialect: str | Dialect,
    name: str,
    where: str,
    known: Mapping[str, Any],
    weights: Path | None = None,
    initial: Adapter | None = None,
) -> Adapter:
    checkpoint = Checkpoint(tensors=contents.tensors, config=config, header=contents.header, source=where)
    used, reading = read_checkpoint(checkpoint, dialect)
    facts = {
        "base_model": config.get("base_model_name_or_path"),
        "task_type": config.get("task_type"),
        "peft_type": config.get("peft_type"),
        "dialect": used,
        **known,
        **reading.metadata,
        "header": dict(contents.header),
    }
    known_facts = {key: value for key, value in facts.items() if value is not None and value != {}}
    # safetensors keeps no order but the alphabet's, in which layer 10 comes before layer 2.
    return Adapter(
        dict(sorted(reading.modules.items(), key=lambda item: natural_order(item[0]))),
        name=name,
        metadata=Metadata(known_facts, weights=weights),
        extras=reading.extras,
        coverage=reading.coverage,
        initial=initial,
        assumptions=reading.assumed,
    )
