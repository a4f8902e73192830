"""`asym report`: one HTML file on what A and B did, and its figures."""

from __future__ import annotations

import typer

from asym_analysis.cli.console import Table, output
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import read_adapters
from asym_analysis.cli.options import PathsArgument, command

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("report")(report)


@command("report", draws=True, out="page")
def report(call: Call, paths: PathsArgument = None) -> int:
    """Write the subspace-alignment report of these adapters; without paths, of those that ship with the package."""
    import pandas as pd

    from asym_analysis.report.page import write_report

    if paths:
        adapters = read_adapters(call, paths, least=2)
    else:
        from asym_analysis.samples import sample_adapters

        adapters = sample_adapters()
    assert call.out is not None
    figures = call.figures or call.out.parent / "figures"
    refusals = [refused["reason"] for refused in call.refused]
    written = write_report(adapters, call.out, figures, refusals=refusals, progress=call.progress)
    rows = [(title, text) for title, sentences in written.sentences.items() for text in sentences]
    if not call.as_json:
        output().print(f"[bold]{call.out}[/] and {len(written.figures)} figures in {figures}/")
        for title, sentences in written.sentences.items():
            output().print(f"\n[bold]{title}[/]")
            for sentence in sentences:
                output().print(f"  {sentence}")
    frame = pd.DataFrame(rows, columns=["family", "sentence"])
    settings = {"page": str(call.out), "figures": [str(path) for path in written.figures]}
    return call.deliver(frame, Table("findings", frame, shown=False), settings=settings)
