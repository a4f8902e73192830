"""`asym report`: one HTML file on what A and B did, and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asym_analysis.cli.console import DONE, PARTLY_REFUSED, console, fail, progress_wanted
from asym_analysis.cli.inputs import MetadataOption, PathsArgument, read_adapters

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("report")(report)


def report(
    paths: PathsArgument = None,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    figures: Annotated[Path, typer.Option(help="Folder for the figures as SVG and PNG.")] = Path("figures"),
    metadata: MetadataOption = None,
) -> int:
    """Write the subspace-alignment report of these adapters; without paths, of those that ship with the package."""
    from asym_analysis.report.page import write_report

    if out.suffix not in (".html", ".htm"):
        fail(f"--out {out}: the report is one HTML file; give a name that ends in .html")
    if paths:
        read = read_adapters(paths, metadata)
        adapters, refusals, complete = read.adapters, read.refusals, read.complete
        if len(adapters) < 2:
            fail(f"only {adapters.names[0]} could be read, and a report compares at least two adapters")
    else:
        from asym_analysis.samples import sample_adapters

        adapters, refusals, complete = sample_adapters(), (), True
    written = write_report(adapters, out, figures, refusals=refusals, progress=progress_wanted())
    console.print(f"[bold]{out}[/] and {len(written.figures)} figures in {figures}/", highlight=False)
    for title, sentences in written.sentences.items():
        console.print(f"\n[bold]{title}[/]", highlight=False)
        for sentence in sentences:
            console.print(f"  {sentence}", highlight=False)
    return DONE if complete else PARTLY_REFUSED
