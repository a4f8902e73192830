"""Several adapters and what is known of each: the input of every comparison."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, overload

import numpy as np
import pandas as pd

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.labels import numbered, rows_of, unique_names
from asym_analysis.errors import AdapterError

__all__ = ["AdapterNotInSet", "AdapterSet"]


class AdapterNotInSet(AdapterError, KeyError):  # noqa: N818 - a missing key, named as a mapping's callers expect it
    """The set has no adapter of that name; a KeyError too."""

    __str__ = AdapterError.__str__


class AdapterSet(Sequence[Adapter]):
    """Adapters with a table of one row each, aligned by module name. Ranks may differ.

    Parameters
    ----------
    adapters : iterable of Adapter
        At least one adapter. Adapters of one name are told apart by the folders above their files, or else by
        " (2)", " (3)".
    table : DataFrame or mapping of str to sequence, optional
        What is known of each: task, seed, rank, step, anything the user gives. One row an adapter in order, or a
        column ``name`` with the adapters' names or paths; where none of its entries names an adapter, they are new
        names, in order. The columns of the adapters' own metadata that hold plain values are added where the table
        has no such column.
    refused : iterable of tuple of (str, str), optional
        What could not be read: (source, sentence) of each, as `load_adapters` collects them.

    Raises
    ------
    AdapterError
        If there is no adapter, or the table does not fit.

    Examples
    --------
    >>> import torch
    >>> pair = lambda: {"q": (torch.randn(2, 8), torch.randn(8, 2))}
    >>> runs = AdapterSet([Adapter.from_factors(pair(), name=f"seed {i}") for i in range(3)], {"task": list("aab")})
    >>> runs.table[["name", "task", "rank"]].values.tolist()
    [['seed 0', 'a', '2'], ['seed 1', 'a', '2'], ['seed 2', 'b', '2']]
    >>> runs["seed 1"] is runs[1], runs[[0, 2]].names, runs.query("task == 'a'").names
    (True, ('seed 0', 'seed 2'), ('seed 0', 'seed 1'))
    >>> [(task, len(members)) for task, members in runs.groupby("task")]
    [('a', 2), ('b', 1)]
    >>> (runs[:1] + runs[2:]).names
    ('seed 0', 'seed 2')
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
        names = unique_names(self._adapters)
        given = pd.DataFrame() if table is None else rows_of(table, self._adapters, names, rename=True)
        own = pd.DataFrame([_plain_facts(adapter) for adapter in self._adapters]).assign(name=names)
        new = [column for column in own.columns if column not in given.columns]
        merged = pd.concat([given, own[new]], axis=1)
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
    def __getitem__(self, index: int | str) -> Adapter: ...
    @overload
    def __getitem__(self, index: slice | Sequence[Any] | np.ndarray | pd.Series) -> AdapterSet: ...
    def __getitem__(self, index: Any) -> Adapter | AdapterSet:
        """Give one adapter by its place or name, or a set: by a slice, places, names, or a boolean for each adapter.

        Raises
        ------
        AdapterError
            If a name is not in the set, a mask has another length than the set, or nothing is selected.
        IndexError
            If a place is beyond the end.
        """
        if isinstance(index, slice):
            return self._at(range(len(self))[index])
        if isinstance(index, str):
            return self._adapters[self._place(index)]
        if isinstance(index, Sequence | np.ndarray | pd.Series | pd.Index):
            entries = list(index)
            if entries and all(isinstance(entry, bool | np.bool_) for entry in entries):
                return self.select([bool(entry) for entry in entries])
            return self._at([self._place(entry) for entry in entries])
        return self._adapters[self._place(index)]

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, item: object) -> bool:
        return item in self.names if isinstance(item, str) else any(item is adapter for adapter in self._adapters)

    def __add__(self, other: AdapterSet) -> AdapterSet:
        """Give the adapters of both sets, with the columns of both tables."""
        if not isinstance(other, AdapterSet):
            return NotImplemented
        tables = pd.concat([self.table, other.table], ignore_index=True)
        both = AdapterSet([*self, *other], refused=(*self.refused, *other.refused))
        # Names that were given stay, where no two are alike.
        renamed = both.table["name"] if tables["name"].duplicated().any() else tables["name"]
        both.table = tables.assign(name=renamed)
        return both

    def select(self, rows: Sequence[bool] | np.ndarray | pd.Series) -> AdapterSet:
        """Give the adapters whose entry in a mask is true.

        Parameters
        ----------
        rows : sequence of bool, array or Series
            One boolean for each adapter, in order.

        Returns
        -------
        AdapterSet
            They, with their rows of the table.

        Raises
        ------
        AdapterError
            If it is no list of booleans, has another length than the set, or selects nothing.
        """
        entries = [rows] if isinstance(rows, str) else list(rows)
        wrong = [entry for entry in entries if not isinstance(entry, bool | np.bool_)]
        if wrong:
            raise AdapterError(
                f"select takes one boolean for each adapter, not {wrong[0]!r}: choose by name or place with "
                "set[['name', ...]] or set[[0, 2]], by a condition with set.query(...)"
            )
        if len(entries) != len(self):
            raise AdapterError(f"the mask has {len(entries)} entries for {len(self)} adapters: give one each")
        return self._at([index for index, keep in enumerate(entries) if keep])

    def query(self, condition: str) -> AdapterSet:
        """Give the adapters whose row of the table fulfils a condition.

        Parameters
        ----------
        condition : str
            An expression for `pandas.DataFrame.eval`, such as ``"task == 'MRPC' and seed > 2"``; ``@name`` is a
            variable where `query` is called.

        Returns
        -------
        AdapterSet
            They, with their rows of the table.

        Raises
        ------
        AdapterError
            If the expression cannot be evaluated, or no adapter fulfils it.
        """
        caller = _caller()
        try:
            mask = self.table.eval(condition, local_dict=caller.f_locals, global_dict=caller.f_globals)
            if not isinstance(mask, pd.Series) or not pd.api.types.is_bool_dtype(mask):
                raise ValueError("it is not a condition, true or false for each adapter")
        except Exception as error:  # pandas and numexpr raise what they like on a condition of any text
            columns = ", ".join(map(str, self.table.columns))
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AdapterError(
                f"the condition {condition!r} cannot be evaluated ({reason}): the columns are {columns}"
            ) from error
        if not mask.any():
            raise AdapterError(f"no adapter fulfils {condition!r}: look at .table")
        return self.select([bool(keep) for keep in mask.fillna(False)])

    def groupby(self, by: str | Sequence[str]) -> list[tuple[Any, AdapterSet]]:
        """Split the set by the values of one or several columns of its table.

        Parameters
        ----------
        by : str or sequence of str
            Column, or columns.

        Returns
        -------
        list of (value, AdapterSet)
            One pair for each value (a tuple for several columns), in the order first met. Adapters without a value
            are left out.

        Raises
        ------
        AdapterError
            If the table has no such column.
        """
        absent = [column for column in ([by] if isinstance(by, str) else by) if column not in self.table]
        if absent:
            raise AdapterError(f"there is no column {absent[0]!r}: the columns are {', '.join(self.table.columns)}")
        table = self.table.reset_index(drop=True)
        groups = table.groupby(by if isinstance(by, str) else list(by), sort=False)
        return [(value, self._at([int(row) for row in rows.index])) for value, rows in groups]

    def __repr__(self) -> str:
        left_out = f", {len(self.refused)} refused" if self.refused else ""
        return f"AdapterSet({len(self)} adapters, {len(self.modules)} shared modules{left_out})"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + self.table.to_html(index=False, max_rows=20, border=0)

    def _place(self, entry: Any) -> int:
        """The place of a name or a number."""
        if isinstance(entry, str):
            if entry in self.names:
                return self.names.index(entry)
            known = ", ".join(self.names[:4]) + (", ..." if len(self) > 4 else "")
            raise AdapterNotInSet(f"the set has no adapter {entry!r}; it has {known}")
        if isinstance(entry, bool | np.bool_) or not isinstance(entry, int | np.integer):
            raise AdapterError(f"{entry!r} is neither a place nor a name: give a number, a name, or several of them")
        if not -len(self) <= entry < len(self):
            raise IndexError(f"there is no adapter {entry} in a set of {len(self)}")
        return int(entry) % len(self)

    def _at(self, places: Sequence[int]) -> AdapterSet:
        """The adapters at some places, with their rows and their names."""
        if not places:
            raise AdapterError("an AdapterSet needs at least one adapter; none was selected")
        chosen = AdapterSet.__new__(AdapterSet)
        chosen._adapters = tuple(self._adapters[place] for place in places)
        chosen.refused = self.refused
        chosen.table = self.table.iloc[list(places)].reset_index(drop=True)
        if len(set(places)) < len(places):  # one adapter that was chosen twice
            chosen.table = chosen.table.assign(name=numbered(list(chosen.table["name"])))
        return chosen


def _plain_facts(adapter: Adapter) -> dict[str, Any]:
    # The checksum would read every weights file whole.
    known = {key: adapter.metadata[key] for key in adapter.metadata if key != "sha256"}
    facts = {key: value for key, value in known.items() if isinstance(value, str | int | float | bool)}
    return {"name": adapter.name, "rank": "/".join(map(str, adapter.ranks)), **facts} | {"name": adapter.name}


def _caller() -> FrameType:
    """The frame that called into this module, past the wrappers of type checkers."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename in (__file__, "<string>")
        or frame.f_code.co_filename.startswith("<@")
        or frame.f_globals.get("__name__", "").startswith(("jaxtyping", "beartype"))
    ):
        frame = frame.f_back
    return frame
