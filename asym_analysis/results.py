"""What every analysis returns: a tidy table with the settings it was made with, drawn and saved in one way."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pandas as pd

from asym_analysis.atomic import replacing
from asym_analysis.codec import class_of, decode, encode, plain, register

__all__ = ["Result", "TableResult", "plain", "read_result", "settings_of", "versions"]

SCHEMA = "asym_analysis/result/v2"
R = TypeVar("R", bound="Result")


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that decide its numbers.

    Returns
    -------
    dict
        Name of a package -> its version.

    Examples
    --------
    >>> sorted(versions())
    ['asym_analysis', 'numpy', 'python', 'scipy', 'torch']
    """
    return dict(_versions())


@cache  # the metadata of packages lie in files, and every result asks
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("asym_analysis", "numpy", "scipy", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def settings_of(**arguments: Any) -> dict[str, Any]:
    """The settings of a result: the arguments it was made with, and `versions`.

    Parameters
    ----------
    **arguments
        Arguments and seeds, as the caller gave them.

    Returns
    -------
    dict
        The arguments, and "versions".

    Examples
    --------
    >>> sorted(settings_of(seed=0))
    ['seed', 'versions']
    """
    return {**arguments, "versions": versions()}


class Result:
    """Base class of all results.

    Subclasses are frozen dataclasses with `eq=False`. They have a `settings` field and a tidy `frame` (one observation
    a row), which is a field or computed when it is first asked for; the class's docstring lists its columns. `_plot`
    names the function that draws it, as "module:function" inside `asym_analysis.plots`.
    """

    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = None

    if TYPE_CHECKING:

        @property
        def frame(self) -> pd.DataFrame:
            """The tidy table."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register(cls)

    def summary(self) -> pd.DataFrame:
        """The few rows that a reader wants first; the whole frame unless the subclass defines fewer.

        Returns
        -------
        DataFrame
            Columns as in the class's docstring.
        """
        return self.frame

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw the result.

        Parameters
        ----------
        ax
            The axes to draw into; new ones by default.
        **options
            What the plotting function takes beside the result.

        Returns
        -------
        Axes
            The axes, or the Figure where the picture needs several.

        Raises
        ------
        NotImplementedError
            If there is no picture of this kind of result.
        """
        if self._plot is None:
            raise NotImplementedError(f"there is no picture of a {type(self).__name__}: draw columns of .frame instead")
        module, function = self._plot.split(":")
        return getattr(import_module(f"asym_analysis.plots.{module}"), function)(self, ax=ax, **options)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the whole result as one JSON file, or nothing if that fails.

        Parameters
        ----------
        path
            Where to write. "columns" holds the frame for readers of other languages, numbers that are not finite as
            null; "fields" holds what `from_json` needs.
        """
        columns = {str(name): [plain(value) for value in column] for name, column in self.frame.items()}
        document = self._header() | {"settings": plain(self.settings), "columns": columns, "fields": self._fields()}
        with replacing(path) as part:
            part.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the frame as parquet, with everything else in the file's metadata, or nothing if that fails.

        Parameters
        ----------
        path
            Where to write.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        note = self._header() | {"settings": plain(self.settings), "fields": self._fields(without_frame=True)}
        tables = (pa.Table.from_pandas(frame, preserve_index=False) for frame in self._frames())
        first = next(tables)
        schema = first.schema.with_metadata({**(first.schema.metadata or {}), b"asym_analysis": json.dumps(note)})
        with replacing(path) as part, pq.ParquetWriter(part, schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table.cast(schema))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the frame as CSV, without settings, or nothing if that fails.

        Parameters
        ----------
        path
            Where to write.
        """
        with replacing(path) as part:
            self.frame.to_csv(part, index=False)

    @classmethod
    def from_json(cls: type[R], path: str | os.PathLike[str]) -> R:
        """Read back what `to_json` wrote.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        Result
            The object that was written, of its own class.

        Raises
        ------
        ValueError
            If the file was not written by `to_json`, or holds another kind of result than this class.
        """
        with open(path, encoding="utf-8") as file:
            try:
                document = json.load(file)
            except ValueError as error:
                raise ValueError(f"{path} is not JSON ({error}): it was not written by to_json") from error
        return cls._from_document(document, path, None)

    @classmethod
    def from_parquet(cls: type[R], path: str | os.PathLike[str]) -> R:
        """Read back what `to_parquet` wrote.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        Result
            The object that was written, of its own class.

        Raises
        ------
        ValueError
            If the file was not written by `to_parquet`, or holds another kind of result than this class.
        """
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        note = (table.schema.metadata or {}).get(b"asym_analysis")
        if note is None:
            raise ValueError(f"{path} was not written by to_parquet: the file has no asym_analysis settings")
        return cls._from_document(json.loads(note), path, table.to_pandas())

    @classmethod
    def _from_document(cls: type[R], document: Any, path: str | os.PathLike[str], frame: pd.DataFrame | None) -> R:
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"{path} was not written by this package: it does not have the schema {SCHEMA!r}")
        whole = document["fields"]
        if frame is not None:
            owner = class_of(whole)
            assert issubclass(owner, Result)
            whole = {**whole, "fields": owner._with_frame(whole["fields"], frame)}
        found = decode(whole)
        if not isinstance(found, cls):
            raise ValueError(f"{path} holds a {type(found).__name__}, not a {cls.__name__}")
        return found

    def _frames(self) -> Iterator[pd.DataFrame]:
        """The frame in pieces, so that a long one need not fit in memory."""
        yield self.frame

    @classmethod
    def _with_frame(cls, held: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
        """The encoded fields of a parquet file, with what `_fields` left to its table."""
        return {**held, "frame": encode(frame)} if "frame" in held else held

    def _header(self) -> dict[str, str]:
        return {"schema": SCHEMA, "kind": type(self).__name__}

    def _fields(self, *, without_frame: bool = False) -> Any:
        held = encode(self)
        if without_frame and "frame" in held["fields"]:
            held["fields"]["frame"] = None  # stands in the parquet table itself
        return held

    def _repr_html_(self) -> str:
        title = type(self).__name__
        return f"<p><b>{title}</b>, {len(self.frame):,} rows</p>" + self.summary().to_html(
            index=False, max_rows=20, border=0, float_format="{:.4g}".format
        )


@dataclass(frozen=True, eq=False, repr=False)
class TableResult(Result):
    """A result that is one table.

    Attributes
    ----------
    frame
        The tidy table; a subclass lists its columns.
    settings
        Arguments, seeds and versions.
    """

    frame: pd.DataFrame
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.frame):,} rows: {', '.join(map(str, self.frame.columns))})"


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read back any result that `to_json` or `to_parquet` wrote, by the file's suffix.

    Parameters
    ----------
    path
        A .json or .parquet file.

    Returns
    -------
    Result
        The object that was written, of its own class.

    Raises
    ------
    ValueError
        If the file was not written by this package.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "table.json"
    >>> TableResult(pd.DataFrame({"value": [0.5]}), {"seed": 0}).to_json(file)
    >>> read_result(file).frame.value.tolist()
    [0.5]
    """
    return Result.from_parquet(path) if str(path).endswith(".parquet") else Result.from_json(path)
