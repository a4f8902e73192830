"""How the commands speak: tables on a terminal, JSON for programs, one sentence for an error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from asym_analysis.results import Result, plain

__all__ = [
    "DONE",
    "INPUT_ERROR",
    "PARTLY_REFUSED",
    "JsonFlag",
    "OutOption",
    "console",
    "fail",
    "progress_wanted",
    "say",
    "say_drawn",
    "show_frame",
    "write_frame",
    "write_json",
    "write_result",
]

DONE, INPUT_ERROR, PARTLY_REFUSED = 0, 1, 2

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of tables.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Also write the table there: .json, .parquet or .csv, by its suffix.")
]

# Piped output has no width of its own: wide enough that tables are not folded at 80 columns.
console = Console(width=None if sys.stdout.isatty() else 200)
errors = Console(stderr=True)


def fail(message: str) -> NoReturn:
    """End the command with one sentence on standard error and exit code 1."""
    errors.print(f"[bold red]asym:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(INPUT_ERROR)


def say(message: str) -> None:
    """A sentence on standard error, so that standard output holds results alone."""
    errors.print(escape(message), soft_wrap=True, highlight=False)


def say_drawn(paths: Iterable[Path]) -> None:
    """Say on standard error which figures were written."""
    say("drew " + ", ".join(map(str, paths)))


def progress_wanted() -> bool:
    """True where a person watches: standard error is a terminal."""
    return sys.stderr.isatty()


def show_frame(frame: pd.DataFrame, *, title: str | None = None, digits: int = 4, most_rows: int = 60) -> None:
    """Print a table; numbers to `digits` significant digits, at most `most_rows` rows and then how many more."""
    if title:  # not the table's own, which is folded to the width of a narrow table
        console.print(f"[italic]{escape(title)}[/]", highlight=False)
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name, column in frame.items():
        table.add_column(escape(str(name)), justify="right" if pd.api.types.is_numeric_dtype(column) else "left")
    for row in frame.head(most_rows).itertuples(index=False):
        table.add_row(*[escape(_cell(value, digits)) for value in row])
    console.print(table)
    if len(frame) > most_rows:
        console.print(f"... and {len(frame) - most_rows:,} more rows (--out writes them all)")


def write_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    import json

    if sys.stdout.isatty():
        console.print_json(data=plain(value))
    else:  # neither colour nor wrapping in a pipe
        sys.stdout.write(json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def write_result(result: Result, out: Path | None) -> None:
    """Write a result to `out`, where it is given, and say so; .json and .parquet keep the settings, .csv the frame."""
    if out is None:
        return
    if out.suffix == ".json":
        result.to_json(out)
    elif out.suffix == ".parquet":
        result.to_parquet(out)
    else:
        write_frame(result.frame, out)
    say(f"wrote {len(result.frame):,} rows to {out}")


def write_frame(frame: pd.DataFrame, out: Path) -> None:
    """Write a bare table to `out` by its suffix: .json, .parquet or .csv."""
    import json

    from asym_analysis.atomic import replacing

    if out.suffix not in (".json", ".parquet", ".csv"):
        fail(f"--out {out}: the suffix must be .json, .parquet or .csv")
    with replacing(out) as part:
        if out.suffix == ".csv":
            frame.to_csv(part, index=False)
        elif out.suffix == ".parquet":
            frame.to_parquet(part, index=False)
        else:
            part.write_text(json.dumps(plain(frame.to_dict(orient="records")), indent=1, allow_nan=False))


def _cell(value: Any, digits: int) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return str(value)
