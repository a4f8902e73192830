"""What every analysis returns: a tidy table with the settings it was made with, saved together."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pandas as pd

from asym_analysis.atomic import replacing

__all__ = ["Result", "plain", "read_table", "versions"]

SCHEMA = "asym_analysis/table/v1"


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that decide its numbers.

    Examples
    --------
    >>> sorted(versions())
    ['asym_analysis', 'numpy', 'python', 'scipy', 'torch']
    """
    found = {"python": platform.python_version()}
    for package in ("asym_analysis", "numpy", "scipy", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


class Result:
    """Base of the immutable results: `.frame` is tidy (one observation a row), `.settings` says how it was made.

    Subclasses are frozen dataclasses with a `settings` field (arguments, seeds, versions) and a `frame`, as a field or
    computed when first asked for.
    """

    settings: Mapping[str, Any]
    if TYPE_CHECKING:

        @property
        def frame(self) -> pd.DataFrame:
            """The tidy table."""

    def summary(self) -> pd.DataFrame:
        """The few rows a reader wants first; the whole frame unless a subclass knows better."""
        return self.frame

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the frame and the settings as one JSON file, whole or not at all.

        The columns stand under "columns", each a list; numbers that are not finite are null.
        """
        columns = {str(name): [plain(value) for value in column] for name, column in self.frame.items()}
        document = {"schema": SCHEMA, "kind": type(self).__name__, "settings": plain(self.settings), "columns": columns}
        with replacing(path) as part:
            part.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the frame as parquet with the settings in the file's metadata, whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        note = json.dumps({"schema": SCHEMA, "kind": type(self).__name__, "settings": plain(self.settings)})
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"asym_analysis": note.encode()})
        with replacing(path) as part:
            pq.write_table(table, part)

    def _repr_html_(self) -> str:
        title = type(self).__name__
        return f"<p><b>{title}</b>, {len(self.frame):,} rows</p>" + self.summary().to_html(
            index=False, max_rows=20, border=0, float_format="{:.4g}".format
        )


def read_table(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read back what `Result.to_json` or `Result.to_parquet` wrote: the frame and the settings.

    Raises
    ------
    ValueError
        If the file was not written by this package.
    """
    if str(path).endswith(".parquet"):
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        note = (table.schema.metadata or {}).get(b"asym_analysis")
        if note is None:
            raise ValueError(
                f"{path} is a parquet file without asym_analysis settings: it was not written by to_parquet"
            )
        return table.to_pandas(), json.loads(note)["settings"]
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{path} has no {SCHEMA!r} schema: it was not written by to_json")
    return pd.DataFrame(document["columns"]), document["settings"]


def plain(value: Any) -> Any:
    """Turn numpy scalars, tuples and missing values into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool):
        return value
    return str(value)
