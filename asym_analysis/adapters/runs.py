"""Training runs: which adapters are checkpoints of one run, and which of them is the last."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from asym_analysis.adapters.adapter import Adapter

__all__ = ["last_of_runs", "runs_of", "runs_of_sources"]

_CHECKPOINT = re.compile(r"/checkpoint-\d+(?=/|$)")


def runs_of(adapters: Iterable[Adapter]) -> list[str | None]:
    """Name the training run of each adapter that is one of several checkpoints.

    Parameters
    ----------
    adapters
        In the order in which `load_adapters` gives them.

    Returns
    -------
    list
        The folder of the run, or None for an adapter that is alone in its own.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> saved = [f"/runs/a/checkpoint-{step}/adapter_model.safetensors" for step in (10, 20)]
    >>> runs_of([Adapter({}, name=path, metadata={"source": path}) for path in [*saved, "/runs/b/adapter.bin"]])
    ['/runs/a', '/runs/a', None]
    """
    return runs_of_sources(str(adapter.metadata.get("source", adapter.name)) for adapter in adapters)


def runs_of_sources(paths: Iterable[str]) -> list[str | None]:
    """Name the training run of each file that is one of several checkpoints; see `runs_of`.

    Parameters
    ----------
    paths
        Of the adapters' weights.

    Returns
    -------
    list
        As of `runs_of`.

    Examples
    --------
    >>> runs_of_sources(["a/checkpoint-1/adapter_model.bin", "a/checkpoint-2/adapter_model.bin", "b/adapter_model.bin"])
    ['a', 'a', None]
    """
    sources = [str(PurePath(path).parent) for path in paths]
    folders = [_CHECKPOINT.sub("", source) for source in sources]
    runs = {folder for folder, source in zip(folders, sources, strict=True) if folder != source}
    counts = {folder: folders.count(folder) for folder in runs}
    return [folder if counts.get(folder, 0) > 1 else None for folder in folders]


def last_of_runs(adapters: Iterable[Adapter]) -> list[bool]:
    """Mark the last checkpoint of each run, and every adapter that is in no run. A run's own adapter comes last.

    Parameters
    ----------
    adapters
        In the order in which `load_adapters` gives them.

    Returns
    -------
    list of bool
        One mark an adapter.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> saved = [f"/runs/a/checkpoint-{step}/adapter_model.safetensors" for step in (10, 20)]
    >>> last_of_runs([Adapter({}, name=path, metadata={"source": path}) for path in saved])
    [False, True]
    """
    runs = runs_of(adapters)
    last = {run: place for place, run in enumerate(runs)}
    return [run is None or last[run] == place for place, run in enumerate(runs)]
