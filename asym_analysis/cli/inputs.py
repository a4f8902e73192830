"""What the commands are given: paths become adapters, as in Python, and what cannot be read is noted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asym_analysis.cli.console import fail
from asym_analysis.cli.deliver import Call
from asym_analysis.errors import AdapterError

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.adapters.adapter import Adapter
    from asym_analysis.adapters.adapter_set import AdapterSet

__all__ = ["arguments_checked", "read_adapter", "read_adapters"]


@contextmanager
def arguments_checked() -> Iterator[None]:
    """Turn the ValueError of a wrong argument into one sentence and exit code 1."""
    try:
        yield
    except ValueError as problem:
        fail(str(problem))


def read_adapter(call: Call, path: str) -> Adapter:
    """Read one adapter with the call's options, and note what of it could not be used."""
    from asym_analysis.adapters.load import load_adapter

    adapter = load_adapter(path, config=_config(call))
    _account(call, [adapter])
    return adapter


def read_adapters(call: Call, paths: Sequence[str] | None, *, least: int = 1) -> AdapterSet:
    """Read every adapter that can be read, named as `load_adapters` names them; note which could not, and why.

    Parameters
    ----------
    call
        Holds how to read, and takes the notes.
    paths
        What the user named.
    least
        How many adapters the command needs.

    Raises
    ------
    typer.Exit
        With code 1, after one sentence, if fewer adapters can be read or the metadata do not fit.
    """
    from asym_analysis.adapters.adapter_set import AdapterSet
    from asym_analysis.adapters.load import adapter_paths, load_adapters

    if not paths:
        wanted = "at least two adapters" if least > 1 else "an adapter"
        fail(f"name {wanted}, for example: asym {call.command} runs/seed-*")
    sources: list[str | Path] = []
    for path in paths:
        try:
            sources += adapter_paths(path)
        except (AdapterError, OSError) as problem:
            call.refuse(path, problem)
    found: list[Adapter] = []
    for source in dict.fromkeys(sources):
        try:
            found.extend(load_adapters(source, config=_config(call)))
        except (AdapterError, OSError) as problem:
            call.refuse(source, problem)
    if len(found) < least:
        for refused in call.refused:
            call.tell(f"refused: {refused['reason']}")
        fail(
            f"only {found[0].name} could be read, and this needs two adapters" if found else "no adapter could be read"
        )
    _account(call, found)
    table = _metadata(call.metadata, [adapter.name for adapter in found]) if call.metadata is not None else None
    return AdapterSet(found, table)


def _account(call: Call, adapters: Sequence[Adapter]) -> None:
    """Note what of the adapters was refused, and what had to be assumed."""
    assumed: dict[str, list[str]] = {}
    for adapter in adapters:
        for tensor, reason in adapter.coverage.refused.items():
            call.refuse(f"{adapter.name}: {tensor}", reason)
        for assumption in adapter.assumptions:
            assumed.setdefault(str(assumption), []).append(adapter.name)
    for sentence, names in assumed.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        call.note(f"assumed for {names[0]}{more}: {sentence}")


def _config(call: Call) -> dict[str, Any] | None:
    if call.config is None:
        return None
    try:
        held = json.loads(call.config.read_text(encoding="utf-8"))
    except ValueError as problem:
        fail(f"--config {call.config} is not JSON: {problem}")
    if not isinstance(held, dict):
        fail(f"--config {call.config} does not hold an object: give a JSON file like PEFT's adapter_config.json")
    return held


def _metadata(path: Path, names: list[str]) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"name": str})
    except (OSError, ValueError) as problem:
        fail(f"--metadata {path} is not a readable CSV: {problem}")
    if "name" in table.columns:
        absent = [name for name in names if name not in set(table["name"])]
        if absent:
            fail(
                f"--metadata {path} has no row for the adapter {absent[0]!r}; its 'name' column must list every adapter"
            )
        return table.drop_duplicates("name").set_index("name").loc[names].reset_index()
    if len(table) != len(names):
        fail(
            f"--metadata {path} has {len(table)} rows for {len(names)} adapters; give one row each, or a 'name' column"
        )
    return table
