"""Names that tell adapters apart, and the rows of a table that belong to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.sources import SUFFIXES, AdapterFiles, distinct_names
from asym_analysis.errors import AdapterError

__all__ = ["numbered", "rows_of", "unique_names"]


def unique_names(adapters: Sequence[Adapter]) -> list[str]:
    """Names of several adapters, no two of them alike.

    Adapters of one name take as many of the folders above their files as tell them apart, as `load_adapters` does.
    Those that came from no file get " (2)", " (3)", ...

    Parameters
    ----------
    adapters
        The adapters.

    Returns
    -------
    list of str
        One name each, in order.
    """
    names = [adapter.name for adapter in adapters]
    counts = Counter(names)
    files = {index: found for index, adapter in enumerate(adapters) if (found := _files(adapter)) is not None}
    alike = [index for index in files if counts[names[index]] > 1]
    for index, name in zip(alike, distinct_names([files[index] for index in alike]), strict=True):
        if name.endswith(f"/{names[index]}"):
            names[index] = name
    return numbered(names)


def numbered(names: Sequence[str]) -> list[str]:
    """Append " (2)", " (3)", ... to names that occur again.

    Examples
    --------
    >>> numbered(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    taken: set[str] = set()
    unique = []
    for name in names:
        candidate, count = name, 1
        while candidate in taken:
            count += 1
            candidate = f"{name} ({count})"
        taken.add(candidate)
        unique.append(candidate)
    return unique


def rows_of(
    table: pd.DataFrame | Mapping[str, Sequence[Any]],
    adapters: Sequence[Adapter],
    names: Sequence[str],
    *,
    rename: bool = False,
) -> pd.DataFrame:
    """Put the rows of a table into the order of the adapters.

    A column ``name`` holds the adapters' names, or the paths (or ends of paths) of their folders or files; numbers
    stand for their text. Without that column there must be one row an adapter, in order.

    Parameters
    ----------
    table
        One row an adapter; rows of other adapters are left out.
    adapters, names
        The adapters and their unique names.
    rename
        Take the column for new names, in order, where no entry names an adapter.

    Returns
    -------
    DataFrame
        One row an adapter, in order, with ``name`` where the table has it.

    Raises
    ------
    AdapterError
        If an adapter has no row or several, or a row fits several adapters; the message names it.
    """
    given = pd.DataFrame(table).reset_index(drop=True)
    if "name" not in given.columns:
        if len(given) != len(adapters):
            raise AdapterError(
                f"the table has {len(given)} rows for {len(adapters)} adapters: give one row each, or a column 'name'"
            )
        return given
    fitting = [_fitting(value, adapters, names) for value in given["name"]]
    if rename and len(given) == len(adapters) and not any(fitting):
        return given.assign(name=[_text(value) for value in given["name"]])
    chosen: dict[int, int] = {}
    for row, found in enumerate(fitting):
        value = given["name"][row]
        if len(found) > 1:
            several = ", ".join(names[index] for index in found[:3])
            raise AdapterError(
                f"the row {value!r} of the table fits {len(found)} adapters ({several}): write more of the path"
            )
        if found and chosen.setdefault(found[0], row) != row:
            raise AdapterError(f"the table has two rows for the adapter {names[found[0]]!r}: leave one out")
    absent = [name for index, name in enumerate(names) if index not in chosen]
    if absent:
        raise AdapterError(
            f"the table has no row for the adapter {absent[0]!r}: its column 'name' must hold every adapter's name or "
            "path"
        )
    order = [chosen[index] for index in range(len(adapters))]
    return given.iloc[order].reset_index(drop=True).assign(name=list(names))


def _fitting(value: Any, adapters: Sequence[Adapter], names: Sequence[str]) -> list[int]:
    """The adapters that an entry of the column names: by unique name, by own name, or by the end of a path."""
    text = _text(value)
    for known in (list(names), [adapter.name for adapter in adapters]):
        found = [index for index, name in enumerate(known) if name == text or _as_number(name) == _as_number(text)]
        if found:
            return found
    ending = PurePath(text).parts
    return [index for index, adapter in enumerate(adapters) if ending and _ends_with(adapter, ending)]


def _text(value: Any) -> str:
    """An entry as text: 3 and 3.0 (which a column with gaps makes of it) are "3"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _as_number(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 19 else text


def _ends_with(adapter: Adapter, ending: tuple[str, ...]) -> bool:
    files = _files(adapter)
    if files is None:
        return False
    parts = files.weights.parts
    return any(place[-len(ending) :] == ending for place in (parts, parts[:-1]))


def _files(adapter: Adapter) -> AdapterFiles | None:
    source = adapter.metadata.get("source")
    is_file = isinstance(source, str) and source.removesuffix(".index.json").endswith(SUFFIXES)
    return AdapterFiles(Path(str(source))) if is_file else None
