"""What the commands print: tables that fit the terminal, sentences on standard error, one line for an error."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

__all__ = [
    "DONE",
    "INPUT_ERROR",
    "PARTLY_REFUSED",
    "Table",
    "define",
    "error",
    "fail",
    "headings",
    "in_options",
    "output",
    "progress_wanted",
    "say",
    "terminal_width",
]

DONE, INPUT_ERROR, PARTLY_REFUSED = 0, 1, 2
PIPED_WIDTH = 200  # a pipe has no width of its own
GAP = 2


@dataclass(frozen=True)
class Table:
    """A table of a command's output: all of it for programs, and what a terminal shows of it.

    Attributes
    ----------
    name
        Its name in --json.
    frame
        The table, one observation a row.
    title
        The line above it on a terminal.
    columns
        Column -> heading, in the order of importance, of what a terminal shows: columns at the end are left out where
        the terminal is too narrow. All columns under their own names if empty. The first one names the row.
    below
        A sentence that says what a row means.
    most_rows
        Rows that a terminal shows.
    shown
        False for a table that only programs get.
    """

    name: str
    frame: pd.DataFrame
    title: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    below: str = ""
    most_rows: int = 60
    shown: bool = True


def terminal_width(stream: Any) -> int:
    """Columns of a stream: COLUMNS where it is set, the terminal's own, or plenty in a pipe."""
    if os.environ.get("COLUMNS", "").isdigit():
        return max(20, int(os.environ["COLUMNS"]))
    try:
        return os.get_terminal_size(stream.fileno()).columns or PIPED_WIDTH
    except (OSError, ValueError, AttributeError):
        return PIPED_WIDTH


@cache
def _consoles() -> tuple[Console, Console]:
    from rich.console import Console

    return Console(highlight=False), Console(stderr=True, highlight=False)


def output() -> Console:
    """The console of standard output, as wide as the terminal is now."""
    console = _consoles()[0]
    console.width = terminal_width(sys.stdout)
    return console


def _errors() -> Console:
    console = _consoles()[1]
    console.width = terminal_width(sys.stderr)
    return console


def error(message: str) -> None:
    """One sentence on standard error, marked as the reason why the command ended."""
    from rich.markup import escape

    words = re.sub(r"^Invalid value for '?([\w-]+)'?: (?:Value error, )?", r"\1: ", message)
    words = in_options(words)
    _errors().print(f"[bold red]asym:[/] {escape(words)}", soft_wrap=not sys.stderr.isatty())


def in_options(words: str) -> str:
    """A message of a function, with options where it names arguments: "overwrite=True" is --overwrite here."""
    words = words.replace("without_extras()", "--without-heads")
    words = words.replace("(samples=, prior_samples=)", "(--prior-data names what it was trained on)")
    return re.sub(
        r"\b([a-z]+(?:_[a-z]+)*)=(?:True|\.\.\.)?(?=[,;:.\s)]|$)", lambda m: f"--{m[1].replace('_', '-')}", words
    )


def fail(message: str) -> NoReturn:
    """End the command with one sentence on standard error and exit code 1."""
    error(message)
    raise typer.Exit(INPUT_ERROR)


def say(message: str) -> None:
    """A sentence on standard error, so that standard output holds results alone."""
    from rich.markup import escape

    _errors().print(escape(message), soft_wrap=not sys.stderr.isatty())


def headings(columns: str) -> dict[str, str]:
    """Columns with their headings, for `Table`: "name | other: heading"; underscores become spaces."""
    pairs = (column.partition(": ") for column in columns.split(" | "))
    return {name: heading or name.replace("_", " ") for name, _, heading in pairs}


def define(terms: Mapping[str, str], most: int = 120) -> None:
    """Print terms and what they mean on standard output, the meanings in a column of their own."""
    left = max(map(len, terms)) + GAP
    for term, meaning in terms.items():
        lines = textwrap.wrap(meaning, max(30, min(most, terminal_width(sys.stdout)) - left))
        typer.echo(term.ljust(left) + f"\n{'':{left}}".join(lines))


def progress_wanted() -> bool:
    """True where a person watches: standard error is a terminal."""
    return sys.stderr.isatty()


def show_table(table: Table, digits: int = 4) -> None:
    """Print a table, its first column whole; where the terminal is narrow, the last columns are left out by name."""
    from rich.markup import escape
    from rich.table import Table as Drawn

    console = output()
    frame = table.frame.head(table.most_rows)
    names = [name for name in (table.columns or frame.columns) if name in frame.columns]
    headings = {name: table.columns.get(name, str(name).replace("_", " ")) for name in names}
    cells = {name: [_cell(value, digits) for value in frame[name]] for name in names}
    key = names[0] if names else ""
    lines = []
    prefix = _common_prefix(cells[key]) if names else ""
    if prefix:
        cells[key] = [text.removeprefix(prefix) for text in cells[key]]
        lines.append(f"{headings[key]} below {prefix.rstrip('./')}")
    alike = [name for name in names[1:] if not _numeric(frame[name]) and len(set(cells[name])) == 1]
    for name in alike if len(frame) > 1 and len(alike) < len(names) - 1 else ():
        text = cells.pop(name)[0]
        lines += [f"{headings[name]}: {text}"] if text != "-" else []
    numbers = _footnotes(frame, cells)
    widths = _fitting(cells, headings, console.width)
    if len(widths) < len(cells):  # columns without a value give way first
        cells = {name: texts for name, texts in cells.items() if name == key or set(texts) != {"-"}}
        widths = _fitting(cells, headings, console.width)
    left_out = [headings[name] for name in cells if name not in widths]
    if table.title:  # not the table's own, which is folded to the width of a narrow table
        console.print(f"\n[bold]{escape(table.title)}[/]")
    for line in lines:
        console.print(f"[dim]{escape(line)}[/]")
    drawn = Drawn(header_style="bold", box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for name, width in widths.items():
        right = _numeric(frame[name])
        drawn.add_column(escape(headings[name]), justify="right" if right else "left", overflow="fold", width=width)
    for row in zip(*(cells[name] for name in widths), strict=True):
        drawn.add_row(*map(escape, row))
    console.print(drawn)
    if len(table.frame) > table.most_rows:
        console.print(f"[dim]... and {len(table.frame) - table.most_rows:,} more rows (--out writes them all)[/]")
    for text, mark in numbers.items():
        if any(mark in cells[name] for name in widths):
            console.print(f"[dim]{mark}[/] {escape(text)}")
    if left_out:
        console.print(f"[dim]not shown at this width: {escape(', '.join(left_out))} (a wider terminal, or --json)[/]")
    if table.below:
        console.print(f"[dim]{escape(table.below)}[/]")


def _fitting(cells: Mapping[str, Sequence[str]], headings: Mapping[str, str], width: int) -> dict[str, int]:
    """Columns that fit, from the left, and their widths; the first one always.

    A heading may take up to three lines, and a first column of prose more, before a column is left out.
    """
    prose = any(" " in text for text in next(iter(cells.values()), ()))

    def widths(names: Iterable[str], lines: int, narrowed: bool) -> dict[str, int]:
        found = {name: max([_narrowest(headings[name], lines), *map(len, cells[name])]) for name in names}
        most = max(24, width * 2 // 5) if narrowed and prose else width
        return {name: min(each, most) if i == 0 else each for i, (name, each) in enumerate(found.items())}

    def fits(found: Mapping[str, int]) -> bool:
        return len(found) < 2 or sum(found.values()) + GAP * (len(found) - 1) <= width

    kept: list[str] = []
    for name in cells:
        kept += [name] if fits(widths([*kept, name], 3, True)) else []
    shapes = (widths(kept, lines, narrowed) for narrowed in (False, True) for lines in (1, 2, 3))
    return next(filter(fits, shapes), {})


def _narrowest(heading: str, lines: int) -> int:
    """The least width in which a heading takes so many lines, its words whole."""
    least = max(map(len, heading.split()), default=0)
    return next(w for w in range(least, len(heading) + 1) if len(textwrap.wrap(heading, max(1, w))) <= lines)


def _footnotes(frame: pd.DataFrame, cells: dict[str, list[str]], longest: int = 24) -> dict[str, str]:
    """Replace long texts of the columns after the first by marks, and give each text its mark."""
    marks: dict[str, str] = {}
    for name in [*cells][1:]:
        if not _numeric(frame[name]):
            cells[name] = [
                text if len(text) <= longest else marks.setdefault(text, f"({len(marks) + 1})") for text in cells[name]
            ]
    return marks


def _common_prefix(texts: Sequence[str]) -> str:
    """The dotted or slashed parts with which every text begins, one part at least being left to each."""
    if len(texts) < 2:
        return ""
    separator = "." if all("." in text for text in texts) else "/"
    split = [text.split(separator) for text in texts]
    count = 0
    while all(len(parts) > count + 1 and parts[count] == split[0][count] for parts in split):
        count += 1
    return "".join(f"{part}{separator}" for part in split[0][:count])


def _numeric(column: pd.Series) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(column)) and not pd.api.types.is_bool_dtype(column)


def _cell(value: Any, digits: int) -> str:
    if value is None or value != value or str(value) in ("", "<NA>"):
        return "-"
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return str(value)
