"""Options that several commands share, declared once: a command's own function has only its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from asym_analysis.cli.console import fail
from asym_analysis.cli.deliver import SUFFIXES, Call

__all__ = ["AdapterArgument", "PathsArgument", "command"]

PathsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Adapters: folders, files, globs, training runs or Hugging Face ids.", show_default=False),
]
AdapterArgument = Annotated[
    str, typer.Argument(help="An adapter: a folder, a file or a Hugging Face id.", show_default=False)
]


def _table_file(out: Path | None) -> Path | None:
    """Refuse a table's path before the work that fills it."""
    if out is not None and out.suffix not in SUFFIXES:
        fail(f"--out {out}: the suffix must be {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    return out if out is None else _writable(out, "--out")


def _folder(figures: Path | None) -> Path | None:
    if figures is not None and figures.exists() and not figures.is_dir():
        fail(f"--figures {figures} is a file: give a folder, which is made if it does not exist")
    return figures if figures is None else _writable(figures, "--figures")


def _page(out: Path) -> Path:
    if out.suffix not in (".html", ".htm"):
        fail(f"--out {out}: the report is one HTML file; give a name that ends in .html")
    return _writable(out, "--out")


def _writable(path: Path, option: str) -> Path:
    if option == "--out" and path.is_dir():
        fail(f"--out {path} is a folder: give the name of a file")
    parent = path if path.is_dir() else next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        fail(f"{option} {path}: {parent} is not a folder that you may write to")
    return path


def _positive(value: float | None) -> float | None:
    if value is not None and not (value > 0 and value < float("inf")):
        fail(f"--alpha and --scale are finite numbers above 0, not {value:g}")
    return value


_Option = tuple[Any, Any]  # annotation, default
_GIVEN: dict[str, dict[str, _Option]] = {
    "reading": {
        "alpha": (
            Annotated[
                float | None, typer.Option(callback=_positive, help="LoRA alpha, where the files do not say it.")
            ],
            None,
        ),
        "scale": (
            Annotated[
                float | None,
                typer.Option(callback=_positive, help="Scale of B·A, where the files do not say it."),
            ],
            None,
        ),
        "config": (
            Annotated[
                Path | None,
                typer.Option(exists=True, dir_okay=False, help="The adapters' config, JSON or YAML with PEFT's keys."),
            ],
            None,
        ),
        "in_features": (
            Annotated[int | None, typer.Option(min=1, help="Input width, where both orientations would fit.")],
            None,
        ),
        "last": (
            Annotated[bool, typer.Option("--last", help="Read only the last checkpoint of a training run.")],
            False,
        ),
    },
    "many": {
        "metadata": (
            Annotated[
                Path | None,
                typer.Option(
                    help="A CSV with one row an adapter, in the order of the paths or by a column 'name': task, seed, "
                    "family, ..."
                ),
            ],
            None,
        ),
    },
    "drawing": {
        "figures": (Annotated[Path | None, typer.Option(callback=_folder, help="Folder for the figures.")], None),
        "figure": (Annotated[Path | None, typer.Option(hidden=True)], None),
    },
    "table": {
        "out": (
            Annotated[
                Path | None,
                typer.Option(callback=_table_file, help="Also write the table: .json, .parquet or .csv."),
            ],
            None,
        ),
    },
    "runs": {  # as "table", and the folder that this option was before --runs
        "out": (Annotated[Path | None, typer.Option(help="Also write the table of the runs there.")], None),
    },
    "page": {
        "out": (Annotated[Path, typer.Option(callback=_page, help="The HTML file to write.")], Path("report.html")),
    },
    "telling": {
        "as_json": (
            Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of tables.")],
            False,
        ),
        "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="No sentences and no progress bars.")], False),
    },
}


def command(
    name: str,
    *,
    reads: Literal["none", "one", "many"] = "many",
    draws: bool = False,
    out: Literal["table", "runs", "page"] = "table",
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options that all commands of its kind share, and a `Call` that holds what they say.

    Parameters
    ----------
    name
        The command's name.
    reads
        Whether it reads no adapter, one, or many.
    draws
        Whether it has figures.
    out
        Whether `--out` is a table, a table or the folder of the runs, or an HTML page.

    Returns
    -------
    Callable
        A decorator of a function whose first argument is the `Call`; it returns the exit code.
    """
    groups = ["telling", out]
    groups += ["drawing"] if draws else []
    groups += ["reading"] if reads != "none" else []
    groups += ["many"] if reads == "many" else []
    shared = {option: given for group in _GIVEN if group in groups for option, given in _GIVEN[group].items()}

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        @wraps(function)
        def run(**given: Any) -> int:
            theirs = {option: given.pop(option) for option in shared}
            old = theirs.pop("figure", None)
            if old is not None:
                theirs["figures"] = _folder(old.parent)
            call = Call(command=name, **theirs)
            if old is not None:
                call.note(f"--figure is now --figures FOLDER: the figure is written to {old.parent}/")
            return function(call, **given)

        own = signature(function, eval_str=True)
        parameters = [*own.parameters.values()][1:]
        parameters += [
            Parameter(option, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for option, (annotation, default) in shared.items()
        ]
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": int}
        return run

    return decorate
