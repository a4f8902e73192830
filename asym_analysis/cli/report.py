"""`asym report`: one HTML file on what A and B did, and its figures."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from asym_analysis.cli.console import Table, output
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapters
from asym_analysis.cli.options import PathsArgument, command

__all__ = ["report"]


@command("report", draws=True, out="page")
def report(
    call: Call,
    paths: PathsArgument = None,
    base: Annotated[
        str | None, typer.Option(help="The base model: adds a section on intruder dimensions (a folder, file or id).")
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Number of training samples: adds a section on bounds.")
    ] = None,
) -> int:
    """Write the report of one adapter or more; without paths, of the adapters that ship with the package.

    A column 'family' of --metadata splits the report: each family is compared within itself.
    """
    import pandas as pd
    from rich.markup import escape
    from rich.padding import Padding

    from asym_analysis.report.page import write_report

    if paths:
        adapters = read_adapters(call, paths)
    else:
        from asym_analysis.samples import sample_adapters

        adapters = sample_adapters()
    assert call.out is not None
    refusals = [f"refused: {refused['source']}: {refused['reason']}" for refused in call.refused]
    made = {
        "command": shlex.join(["asym", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    with arguments_checked():
        written = write_report(
            adapters,
            call.out,
            call.figures,
            base=base,
            n_samples=n,
            refusals=[*refusals, *call.notes],
            made=made,
            progress=call.progress,
        )
    rows = [(title, text) for title, sentences in written.sentences.items() for text in sentences]
    if not call.as_json:
        folder = written.figures[0].parent if written.figures else call.out.parent
        output().print(f"[bold]{call.out}[/] and {len(written.figures) // 2} figures in {folder}/")
        for title, sentences in written.sentences.items():
            output().print(f"\n[bold]{escape(title)}[/]")
            for sentence in sentences:
                output().print(Padding(escape(sentence), (0, 0, 0, 2)))
    frame = pd.DataFrame(rows, columns=["family", "sentence"])
    settings = {"page": str(call.out), "figures": [str(path) for path in written.figures]}
    return call.deliver(frame, Table("findings", frame, shown=False), settings=settings)
