"""From anything that holds an adapter to an `Adapter`: its files, its container, its key grammar."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.base_weights import Base
from asym_analysis.adapters.checkpoint import Dialect
from asym_analysis.adapters.containers import open_container
from asym_analysis.adapters.hub import fetch_from_hub, is_hub_id
from asym_analysis.adapters.labels import rows_of, unique_names
from asym_analysis.adapters.open_models import is_peft_model
from asym_analysis.adapters.opening import Config, Options, from_files, from_memory, from_model, several
from asym_analysis.adapters.sources import AdapterFiles, adapter_at, adapters_at, candidates_at, distinct_names
from asym_analysis.errors import (
    AdapterError,
    NothingReadError,
    SeveralAdaptersError,
)
from asym_analysis.lazy_torch import Tensor
from asym_analysis.vocabulary import choose

__all__ = ["adapter_paths", "as_adapter", "as_adapters", "load_adapter", "load_adapters"]

MOST_CANDIDATES = 16
Source = str | os.PathLike[str] | Mapping[str, Tensor] | Any


def load_adapter(
    source: Source,
    *,
    dialect: str | Dialect = "auto",
    config: Config | None = None,
    alpha: float | int | None = None,
    scale: float | int | None = None,
    in_features: int | Mapping[str, int] | None = None,
    base: Base | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    name: str | None = None,
    adapter: str | None = None,
) -> Adapter:
    """Open one adapter, reading headers only: its factors are read when they are asked for.

    Parameters
    ----------
    source : source
        A folder, a file, the id of a model on the Hugging Face Hub ("owner/name"), an open PEFT model (its active
        adapter), or a state dict (parameter name -> tensor). Models and state dicts are copied as they are now.
    dialect : str or Dialect, default "auto"
        The key grammar: "auto", the name of one, or a `PatternDialect` of your own.
    config : mapping or path, optional
        The adapter's config (PEFT's keys: r, lora_alpha, ...), as a mapping or as the path of a JSON or YAML file of
        any name. Replaces a config that lies beside the weights.
    alpha : float or int, optional
        Alpha of every module, instead of what the file records: the scale is then alpha/rank, or whatever the
        dialect makes of an alpha.
    scale : float or int, optional
        The factor of B·A in every module, instead of what the file records.
    in_features : int or mapping of str to int, optional
        Input size of the modules: one number, or pattern for the end of a module's name -> number. Only for files
        that do not record it (VeRA).
    base : path, mapping, Module or BaseWeights, optional
        The base model's weights: a folder, a file, a hub id, an open model or a state dict. Only for updates that are
        formed from them (GLoRA, HiRA, MiSS's "bat") or whose files do not record the shape of the weight (VeRA,
        RandLoRA, MiSS, LoHa and LoKr of convolutions); an open PEFT model brings its own.
    revision : str, optional
        Branch, tag or commit on the hub.
    subfolder : str, optional
        Folder in the repository, or in `source`, that holds the adapter.
    name : str, optional
        How tables and figures call it; otherwise the folder's or the file's name.
    adapter : str, optional
        Name of the adapter in a file or model that holds several.

    Returns
    -------
    Adapter
        The adapter; its `coverage` says what became of every tensor of the file.

    Raises
    ------
    AdapterError
        If there is no adapter, several to choose from, or the file is damaged, unsafe or holds something else. The
        message says which, and what to do.
    ValueError
        If `alpha`, `scale` or `in_features` is no finite number.

    Examples
    --------
    >>> import torch
    >>> state = {"q.lora_A.weight": torch.ones(2, 8), "q.lora_B.weight": torch.ones(4, 2)}
    >>> adapter = load_adapter(state, config={"peft_type": "LORA", "r": 2, "lora_alpha": 4}, name="toy")
    >>> adapter["q"].shape, adapter["q"].scaling
    ((4, 8), 2.0)
    >>> load_adapter(state, scale=0.5)["q"].scaling
    0.5
    """
    options = Options.of(dialect, config, alpha, scale, in_features, base, adapter)
    if not isinstance(source, str | os.PathLike):
        return from_memory(source, options, name)
    path = _local_path(source, revision=revision, subfolder=subfolder)
    only = _only_adapter(candidates_at(path), options, name)
    if only is not None:
        return only
    files = adapter_at(path)
    return from_files(files, options, name or files.name)


def load_adapters(
    sources: Source | Iterable[Source],
    *,
    metadata: pd.DataFrame | Mapping[str, Sequence[Any]] | None = None,
    dialect: str | Dialect = "auto",
    config: Config | None = None,
    alpha: float | int | None = None,
    scale: float | int | None = None,
    in_features: int | Mapping[str, int] | None = None,
    base: Base | None = None,
    on_error: Literal["raise", "collect"] = "raise",
    headers_only: bool = False,
) -> AdapterSet:
    """Open several adapters as a set.

    Parameters
    ----------
    sources : source or iterable of these
        What `load_adapter` takes, or several of them. A glob pattern stands for its matches; a training run for its
        ``checkpoint-*`` folders in the order of their steps and then the adapter that it holds itself; any other folder
        for every adapter in it and in its subfolders; an open PEFT model, and a file of several adapters, for each of
        its adapters.
    metadata : DataFrame or mapping of str to sequence, optional
        A table that comparisons should know (task, seed, ...): one row an adapter in order, or a column ``name``
        that holds the adapters' names or paths.
    dialect, config, alpha, scale, in_features, base : see `load_adapter`, optional
        As for `load_adapter`, for all of them.
    on_error : {"raise", "collect"}, default "raise"
        "raise" stops at the first adapter that cannot be opened. "collect" leaves out what cannot be read, and says
        so in the set's `refused`: whole adapters, and single modules that hold NaN or infinity (for this every
        tensor is read once).
    headers_only : bool, default False
        With "collect": read no tensor, so that a module that holds NaN or infinity is noticed only when it is used.

    Returns
    -------
    AdapterSet
        The adapters in the order of the sources.

    Raises
    ------
    AdapterError
        If one of them cannot be opened (with "collect": if none can); the message names it.

    Examples
    --------
    >>> import torch
    >>> state = {"q.lora_A.weight": torch.ones(2, 8), "q.lora_B.weight": torch.ones(4, 2)}
    >>> runs = load_adapters([state, "nowhere"], on_error="collect")
    >>> len(runs), runs.refused
    (1, (('nowhere', 'nowhere does not exist: give a folder, a file, a glob pattern, or a Hugging Face id of the form
    owner/name'),))
    """
    options = Options.of(dialect, config, alpha, scale, in_features, base)
    collect = choose(on_error, ("raise", "collect"), "on_error") == "collect"
    refused: list[tuple[str, str]] = []
    found: list[AdapterFiles | Adapter] = []
    for source in _listed(sources):
        try:
            found += _each(source, options)
        except (AdapterError, OSError) as error:
            _refuse(refused, source, error, collect)
    names = iter(distinct_names([files for files in found if isinstance(files, AdapterFiles)]))
    adapters: list[Adapter] = []
    rows: list[int] = []  # of a table without names, which has a row for every adapter that was found
    for row, each in enumerate(found):
        name = next(names) if isinstance(each, AdapterFiles) else each.name
        try:
            opened = [each] if isinstance(each, Adapter) else several(from_files, each, options, name)
            single = [_readable(each, refused) for each in opened] if collect and not headers_only else opened
        except (AdapterError, OSError) as error:
            _refuse(refused, each.source if isinstance(each, AdapterFiles) else name, error, collect)
            continue
        adapters += single
        rows += [row] * len(single)
    if not adapters and refused:
        raise NothingReadError(tuple(refused))
    if metadata is None:
        return AdapterSet(adapters, refused=refused)
    table = pd.DataFrame(metadata)
    if "name" not in table and len(table) == len(found):
        table = table.iloc[rows]
    return AdapterSet(adapters, rows_of(table, adapters, unique_names(adapters)), refused=refused)


def as_adapter(source: Adapter | AdapterSet | Source) -> Adapter:
    """Give an adapter as it is, and load anything else that `load_adapter` reads.

    Parameters
    ----------
    source
        An `Adapter`, an `AdapterSet` of one, or a source for `load_adapter`.

    Returns
    -------
    Adapter
        The adapter.

    Raises
    ------
    AdapterError
        If a set holds several adapters, or the source cannot be read.

    Examples
    --------
    >>> import torch
    >>> adapter = Adapter.from_factors({"q": (torch.ones(2, 8), torch.ones(4, 2))}, name="toy")
    >>> as_adapter(adapter) is adapter
    True
    """
    if isinstance(source, Adapter):
        return source
    if isinstance(source, AdapterSet) or (isinstance(source, list | tuple) and len(source) == 1):
        if len(source) != 1:
            raise AdapterError(f"one adapter is needed here, and {len(source)} were given: choose one of them")
        return as_adapter(source[0])
    return load_adapter(source)


def as_adapters(sources: AdapterSet | Adapter | Source | Iterable[Adapter | Source]) -> AdapterSet:
    """Give a set of adapters as it is, and load anything else that `load_adapters` reads.

    Parameters
    ----------
    sources
        An `AdapterSet`, an `Adapter`, several adapters, or sources for `load_adapters`.

    Returns
    -------
    AdapterSet
        The adapters.

    Raises
    ------
    AdapterError
        If one of them cannot be read.

    Examples
    --------
    >>> import torch
    >>> adapter = Adapter.from_factors({"q": (torch.ones(2, 8), torch.ones(4, 2))}, name="toy")
    >>> as_adapters([adapter]).names
    ('toy',)
    """
    return sources if isinstance(sources, AdapterSet) else load_adapters(sources)


def adapter_paths(source: str | os.PathLike[str]) -> list[Path]:
    """The weights of every adapter that a folder, file, pattern, training run or hub id names, none opened yet.

    Parameters
    ----------
    source
        The path or id.

    Returns
    -------
    list of Path
        Files of weights, or indexes of shards, in the order of `load_adapters`.

    Raises
    ------
    AdapterError
        If there is none.
    """
    return [files.weights for files in adapters_at(_local_path(source, revision=None, subfolder=None))]


def _only_adapter(candidates: Sequence[AdapterFiles], options: Options, name: str | None) -> Adapter | None:
    """The one adapter among several files of a folder, where the others are sound files of something else.

    Those are named in its coverage, as refused (X-LoRA's classifier, a trained head of its own).
    """
    if not 1 < len(candidates) <= MOST_CANDIDATES:
        return None
    opened: list[Adapter] = []
    foreign: dict[str, str] = {}
    for files in candidates:
        try:
            open_container(files.weights)
        except AdapterError:  # damaged, or a pointer to the file: it may be the adapter that is meant
            return None
        try:
            opened.append(from_files(files, options, name or files.name))
        except SeveralAdaptersError:
            return None
        except AdapterError as error:
            foreign[files.weights.name] = f"no adapter: {error}"
    if len(opened) != 1:
        return None
    coverage = replace(opened[0].coverage, refused={**opened[0].coverage.refused, **foreign})
    return opened[0].with_coverage(coverage)


def _listed(sources: Any) -> list[Any]:
    single = isinstance(sources, str | os.PathLike | Mapping) or hasattr(sources, "state_dict")
    return [sources] if single else [*sources]


def _refuse(refused: list[tuple[str, str]], source: Any, error: Exception, collect: bool) -> None:
    if not collect:
        raise error
    refused.append((str(source) if isinstance(source, str | os.PathLike) else f"a {type(source).__name__}", str(error)))


def _readable(adapter: Adapter, refused: list[tuple[str, str]]) -> Adapter:
    """The adapter without the modules that cannot be read, each of which is named in `refused`."""
    unreadable: dict[str, str] = {}
    for module in adapter:
        try:
            adapter[module]
        except AdapterError as error:
            unreadable[module] = str(error)
    if len(unreadable) == len(adapter) > 0:
        raise AdapterError(next(iter(unreadable.values())))
    where = str(adapter.metadata.get("source") or adapter.name)
    refused += [(where, f"{sentence}; the module is left out") for sentence in unreadable.values()]
    return adapter.without(unreadable) if unreadable else adapter


def _each(source: Any, options: Options) -> Sequence[AdapterFiles | Adapter]:
    """What one source of a set stands for: files still to be opened, or adapters."""
    if isinstance(source, Adapter):
        return [source]
    if isinstance(source, AdapterSet):
        return list(source)
    if is_peft_model(source):
        return [from_model(source, adapter, options) for adapter in source.peft_config]
    if not isinstance(source, str | os.PathLike):
        return several(from_memory, source, options, "in memory")
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
            else (f"{path} is a local path, which has no revision {revision!r}")
        )
        raise AdapterError(f"{problem}: leave that argument out, or correct it")
    raise AdapterError(
        f"{source} does not exist: give a folder, a file, a glob pattern, or a Hugging Face id of the form owner/name"
    )
