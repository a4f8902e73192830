"""Several adapters and what is known of each: the input of every comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import pandas as pd

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.errors import AdapterError

__all__ = ["AdapterSet"]


class AdapterSet(Sequence[Adapter]):
    """Adapters with a table of one row each, aligned by module name. Ranks may differ.

    Parameters
    ----------
    adapters
        At least one adapter. Names are made unique by appending " (2)", " (3)" where two agree.
    table
        One row an adapter, in the same order: task, seed, rank, step, anything the user gives. The columns of the
        adapters' own metadata that hold plain values are added where the table has no such column.
    refused
        What could not be read: (source, sentence) of each, as `load_adapters` collects them.

    Raises
    ------
    AdapterError
        If there is no adapter, or the table has another number of rows.

    Examples
    --------
    >>> import torch
    >>> pair = lambda: {"q": (torch.randn(2, 8), torch.randn(8, 2))}
    >>> runs = AdapterSet([Adapter.from_factors(pair(), name=f"seed {i}") for i in range(2)], table={"seed": [0, 1]})
    >>> runs.table[["name", "seed", "rank"]].values.tolist()
    [['seed 0', 0, '2'], ['seed 1', 1, '2']]
    """

    def __init__(
        self,
        adapters: Iterable[Adapter],
        table: pd.DataFrame | Mapping[str, Sequence[Any]] | None = None,
        *,
        refused: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._adapters = tuple(adapters)
        self.refused = tuple(refused)
        if not self._adapters:
            raise AdapterError("an AdapterSet needs at least one adapter; none was given")
        given = pd.DataFrame(table if table is not None else {}, index=None).reset_index(drop=True)
        if table is not None and len(given) != len(self._adapters):
            raise AdapterError(f"the table has {len(given)} rows for {len(self._adapters)} adapters: give one row each")
        own = pd.DataFrame([_plain_facts(adapter) for adapter in self._adapters])
        new = [column for column in own.columns if column not in given.columns]
        merged = pd.concat([given, own[new]], axis=1)
        merged["name"] = _unique([str(name) for name in merged["name"]])
        self.table = merged[["name", *[column for column in merged.columns if column != "name"]]]

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' unique names, in order."""
        return tuple(self.table["name"])

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that at least two adapters share (all modules of a single adapter), in the order first met."""
        counts: dict[str, int] = {}
        for adapter in self._adapters:
            for module in adapter:
                counts[module] = counts.get(module, 0) + 1
        least = min(2, len(self._adapters))
        return tuple(module for module, count in counts.items() if count >= least)

    @property
    def missing(self) -> pd.DataFrame:
        """One row for each module that an adapter lacks though another has it: name, module."""
        everywhere = list(dict.fromkeys(module for adapter in self._adapters for module in adapter))
        rows = [
            (name, module)
            for name, adapter in zip(self.names, self._adapters, strict=True)
            for module in everywhere
            if module not in adapter
        ]
        return pd.DataFrame(rows, columns=["name", "module"])

    @overload
    def __getitem__(self, index: int) -> Adapter: ...
    @overload
    def __getitem__(self, index: slice) -> AdapterSet: ...
    def __getitem__(self, index: int | slice) -> Adapter | AdapterSet:
        if isinstance(index, slice):
            return AdapterSet(self._adapters[index], self.table.iloc[index])
        return self._adapters[index]

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def select(self, rows: Sequence[bool] | pd.Series) -> AdapterSet:
        """The adapters whose entry in `rows`, a boolean for each, is true.

        Raises
        ------
        AdapterError
            If none is selected.
        """
        chosen = [index for index, keep in enumerate(rows) if keep]
        return AdapterSet([self._adapters[index] for index in chosen], self.table.iloc[chosen] if chosen else None)

    def __repr__(self) -> str:
        return f"AdapterSet({len(self)} adapters, {len(self.modules)} shared modules)"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + self.table.to_html(index=False, max_rows=20, border=0)


def _plain_facts(adapter: Adapter) -> dict[str, Any]:
    # The checksum would read every weights file whole.
    known = {key: adapter.metadata[key] for key in adapter.metadata if key != "sha256"}
    facts = {key: value for key, value in known.items() if isinstance(value, str | int | float | bool)}
    return {"name": adapter.name, "rank": "/".join(map(str, adapter.ranks)), **facts} | {"name": adapter.name}


def _unique(names: list[str]) -> list[str]:
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
