"""How every command ends: tables on the terminal or as JSON, a table file, figures, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asym_analysis.cli.console import DONE, PARTLY_REFUSED, Table, progress_wanted, say, show_table

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.results import Result

__all__ = ["SCHEMA", "SUFFIXES", "Call", "document"]

SCHEMA = "asym_analysis/output/v1"  # its JSON Schema is output.schema.json beside this file
SUFFIXES = (".json", ".parquet", ".csv")


@dataclass
class Call:
    """One call of a command: what the shared options say, and what was refused or noted on the way.

    Attributes
    ----------
    command
        The command's name.
    out, figures, as_json, quiet
        Where and how results are wanted.
    alpha, scale, config, in_features, base, metadata, last
        How adapters are read.
    refused
        Inputs that could not be used: source and reason.
    notes
        Sentences on what was assumed or left out.
    """

    command: str
    out: Path | None = None
    figures: Path | None = None
    as_json: bool = False
    quiet: bool = False
    alpha: float | None = None
    scale: float | None = None
    config: Path | None = None
    in_features: int | None = None
    base: str | None = None
    metadata: Path | None = None
    last: bool = False
    refused: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def progress(self) -> bool:
        """Whether progress bars are wanted."""
        return progress_wanted() and not self.quiet

    def refuse(self, source: Any, reason: Any) -> None:
        """Note an input, or a part of one, that could not be used: the exit code will be 2."""
        found = {"source": str(source), "reason": str(reason)}
        if found not in self.refused:
            self.refused.append(found)

    def note(self, sentence: str) -> None:
        """Note what a reader has to know beside the tables."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def deliver(
        self,
        result: Result | pd.DataFrame,
        *tables: Table,
        figures: Mapping[str, str | Callable[[], Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> int:
        """Write, draw and print what came out.

        Parameters
        ----------
        result
            What `--out` writes.
        *tables
            What `--json` holds and a terminal shows; the whole result where there is none.
        figures
            Stem of a figure's files -> what draws it, for `--figures`: "module:function" inside `asym_analysis.plots`,
            which is given the result, or a function without arguments.
        settings
            Arguments for `--json`; the result's own by default.

        Returns
        -------
        int
            The exit code: 2 where something was refused.
        """
        if not tables:
            tables = (Table(self.command, frame_of(result)),)
        if self.out is not None and self.out.suffix in SUFFIXES:
            write_table(result, self.out)
            self.tell(f"wrote {len(frame_of(result)):,} rows to {self.out}")
        if self.figures is not None and figures:
            self._draw(result, figures, self.figures)
        if self.as_json:
            _print_json(document(self, tables, getattr(result, "settings", {}) if settings is None else settings))
        else:
            for table in tables:
                if table.shown and len(table.frame):
                    show_table(table)
        self._say_refused()
        if not self.as_json:
            for sentence in self.notes:
                self.tell(sentence)
        return PARTLY_REFUSED if self.refused else DONE

    def _say_refused(self, most: int = 12) -> None:
        reasons: dict[str, list[str]] = {}
        for refused in self.refused:
            reasons.setdefault(refused["reason"], []).append(refused["source"])
        for reason, sources in [*reasons.items()][:most]:
            more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
            say(f"refused: {reason}" if sources[0] in reason else f"refused: {sources[0]}{more}: {reason}")
        if len(reasons) > most:
            say(f"refused: {len(reasons) - most} more reasons (--json names them)")

    def tell(self, sentence: str) -> None:
        """A sentence on standard error, unless `--quiet`."""
        if not self.quiet:
            say(sentence)

    def _draw(self, result: Any, figures: Mapping[str, str | Callable[[], Any]], folder: Path) -> None:
        from importlib import import_module

        from asym_analysis.plots.style import save_figure, styled

        drawn: list[Path] = []
        for stem, draw in figures.items():
            with styled():
                if isinstance(draw, str):
                    module, function = draw.split(":")
                    figure = getattr(import_module(f"asym_analysis.plots.{module}"), function)(result)
                else:
                    figure = draw()
                drawn += save_figure(figure, folder / stem)
        self.tell("drew " + ", ".join(map(str, drawn)))


def frame_of(result: Result | pd.DataFrame) -> pd.DataFrame:
    """The table of a result; a bare table is its own."""
    return result.frame if hasattr(result, "frame") else result  # type: ignore[return-value]


def document(call: Call, tables: Sequence[Table], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints, as output.schema.json describes it."""
    import asym_analysis
    from asym_analysis.results import plain, versions

    held = {
        table.name: {
            "columns": [str(name) for name in table.frame.columns],
            "rows": [
                [_scalar(plain(value)) for value in row] for row in table.frame.itertuples(index=False, name=None)
            ],
        }
        for table in tables
    }
    return {
        "schema": SCHEMA,
        "command": call.command,
        "version": asym_analysis.__version__,
        "settings": plain({"versions": versions(), **settings}),
        "tables": held,
        "refused": call.refused,
        "notes": call.notes,
    }


def _scalar(value: Any) -> Any:
    import json

    return json.dumps(value) if isinstance(value, list | dict) else value


def _print_json(value: Any) -> None:
    import json

    sys.stdout.write(json.dumps(value, indent=None if sys.stdout.isatty() else 1, allow_nan=False) + "\n")


def write_table(result: Result | pd.DataFrame, out: Path) -> None:
    """Write a result by the suffix of `out`: .json and .parquet keep its settings, .csv the frame."""
    from asym_analysis.results import Result, TableResult, settings_of

    found = result if isinstance(result, Result) else TableResult(result, settings_of())
    {".json": found.to_json, ".parquet": found.to_parquet, ".csv": found.to_csv}[out.suffix](out)
