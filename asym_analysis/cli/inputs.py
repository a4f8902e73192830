"""What the commands are given: paths become adapters, as in Python, and what cannot be read is noted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asym_analysis.cli.console import fail
from asym_analysis.cli.deliver import Call

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.adapters.adapter import Adapter
    from asym_analysis.adapters.adapter_set import AdapterSet

__all__ = ["arguments_checked", "base_source", "read_adapter", "read_adapters"]


@contextmanager
def arguments_checked() -> Iterator[None]:
    """Turn the ValueError of a wrong argument into one sentence and exit code 1."""
    try:
        yield
    except ValueError as problem:
        fail(str(problem))


def read_adapter(call: Call, path: str) -> Adapter:
    """Read one adapter with the call's options, and note what of it could not be used and what was assumed."""
    from asym_analysis.adapters.load import load_adapter, load_adapters

    with arguments_checked():
        if call.last:
            adapter = _last([*load_adapters(path, **_options(call))])[-1]
        else:
            adapter = load_adapter(path, **_options(call))
    _account(call, [adapter])
    return adapter


def read_adapters(call: Call, paths: Sequence[str] | None, *, least: int = 1, headers_only: bool = False) -> AdapterSet:
    """Read every adapter that can be read, named as `load_adapters` names them; note which could not, and why.

    Parameters
    ----------
    call
        Holds how to read, and takes the notes.
    paths
        What the user named.
    least
        How many adapters the command needs.
    headers_only
        Whether no factor is read, so that a module whose numbers are damaged is not noticed.

    Raises
    ------
    typer.Exit
        With code 1, after one sentence, if fewer adapters can be read or the metadata do not fit.
    """
    if not paths:
        wanted = "at least two adapters" if least > 1 else "an adapter"
        fail(f"name {wanted}, for example: asym {call.command} runs/seed-*")
    from asym_analysis.adapters.adapter_set import AdapterSet
    from asym_analysis.adapters.load import load_adapters

    table = _metadata(call.metadata) if call.metadata is not None else None
    with arguments_checked():
        later = call.last and table is not None and "name" not in table  # one row for each adapter that is kept
        adapters = load_adapters(
            paths,
            on_error="collect",
            headers_only=headers_only,
            metadata=None if later else table,
            **_options(call),
        )
    for source, reason in adapters.refused:
        call.refuse(source, reason)
    if call.last:
        from asym_analysis.adapters.runs import last_of_runs

        adapters = adapters.select(last_of_runs(adapters))
        adapters = AdapterSet([*adapters], table) if later else adapters
    elif call.command in ("compare", "share"):
        _note_checkpoints(call, adapters)
    if len(adapters) < least:
        for refused in call.refused:
            call.tell(f"refused: {refused['reason']}")
        fail(f"only {adapters.names[0]} was read, and this needs at least two adapters")
    _account(call, [*adapters])
    return adapters


def base_source(base: str) -> str:
    """Where the weights of a base lie: a folder, file or id as it is, and a package's model where it is installed."""
    if not base.startswith("package:"):
        return base
    from asym_analysis.finetuning.config import model_source

    return model_source(base)[0]


def _options(call: Call) -> dict[str, Any]:
    return {
        "config": call.config,
        "alpha": call.alpha,
        "scale": call.scale,
        "in_features": call.in_features,
        "base": call.base,
    }


def _last(adapters: Sequence[Adapter]) -> list[Adapter]:
    from asym_analysis.adapters.runs import last_of_runs

    return [adapter for adapter, last in zip(adapters, last_of_runs(adapters), strict=True) if last]


def _note_checkpoints(call: Call, adapters: AdapterSet) -> None:
    """Say that checkpoints of one run are compared as if they were runs."""
    from asym_analysis.adapters.runs import runs_of

    runs = [run for run in runs_of(adapters) if run is not None]
    if runs:
        count = len(set(runs))
        call.note(
            f"{len(runs)} of these are checkpoints of {count} training run{'s' if count > 1 else ''}: the past of a "
            "run, and no further runs; --last reads only the last of each"
        )


def _account(call: Call, adapters: Sequence[Adapter]) -> None:
    """Note what of the adapters was refused, and what had to be assumed."""
    assumed: dict[str, list[str]] = {}
    for adapter in adapters:
        for tensor, reason in adapter.coverage.refused.items():
            call.refuse(f"{adapter.name}: {tensor}", reason)
        if adapter.base_changed:
            call.note(f"{adapter.name}: {adapter.base_changed}")
        for assumption in adapter.assumptions:
            assumed.setdefault(str(assumption), []).append(adapter.name)
    for sentence, names in assumed.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        call.note(f"assumed for {names[0]}{more}: {sentence}")


def _metadata(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, dtype={"name": str})
    except (OSError, ValueError) as problem:
        fail(f"--metadata {path} is not a readable CSV: {problem}")
