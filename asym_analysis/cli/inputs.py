"""What the commands are given: paths become adapters, and what cannot be read is said and left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asym_analysis.cli.console import fail, progress_wanted, say
from asym_analysis.errors import AdapterError

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.adapters.adapter import Adapter
    from asym_analysis.adapters.adapter_set import AdapterSet

__all__ = ["MetadataOption", "PathsArgument", "ReadAdapters", "read_adapters"]

PathsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Adapters: folders, files, globs, training runs or Hugging Face ids.", show_default=False),
]
MetadataOption = Annotated[
    Path | None,
    typer.Option(
        "--metadata",
        help="A CSV with one row an adapter, in the order of the paths or by a column 'name': task, seed, ...",
    ),
]


@dataclass(frozen=True)
class ReadAdapters:
    """The adapters that could be read, and one sentence for each that could not."""

    adapters: AdapterSet
    refusals: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """True when every path gave an adapter all of whose tensors could be used."""
        return not self.refusals and all(adapter.coverage.complete for adapter in self.adapters)


def read_adapters(paths: Sequence[str], metadata: Path | None = None) -> ReadAdapters:
    """Read every adapter that can be read; say on standard error which could not, and why.

    Raises
    ------
    typer.Exit
        With code 1, after one sentence, if no path gives an adapter or the metadata do not fit.
    """
    from tqdm.auto import tqdm

    from asym_analysis.adapters.adapter_set import AdapterSet
    from asym_analysis.adapters.load import load_adapters

    found: list[Adapter] = []
    refusals: list[str] = []
    for path in tqdm(paths, desc="reading", unit="path", disable=not progress_wanted()):
        try:
            found.extend(load_adapters(path))
        except (AdapterError, OSError) as error:
            refusals.append(str(error))
    for refusal in refusals:
        say(f"refused: {refusal}")
    if not found:
        fail("no adapter could be read")
    table = _metadata(metadata, [adapter.name for adapter in found]) if metadata is not None else None
    return ReadAdapters(AdapterSet(found, table), tuple(refusals))


def _metadata(path: Path, names: list[str]) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        fail(f"--metadata {path} is not a readable CSV: {error}")
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
