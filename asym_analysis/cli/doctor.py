"""`asym doctor`: the findings that matter for one adapter, worst first."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asym_analysis.cli.console import Table, fail, terminal_width
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, base_source, read_adapter, read_adapters
from asym_analysis.cli.options import AdapterArgument, command

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.adapters.adapter import Adapter
    from asym_analysis.questions.general_effect import GeneralEffect

__all__ = ["doctor"]


@command("doctor", reads="one")
def doctor(
    call: Call,
    adapter: AdapterArgument,
    base: Annotated[str | None, typer.Option(help="Its base model, to look for intruder dimensions.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="General texts or images, to see what it does to them; needs --base.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    sibling: Annotated[list[str] | None, typer.Option(help="Another adapter, for a shared initialization.")] = None,
) -> int:
    """Look an adapter over: what was assumed, what is unused, what may harm. Silent where there is nothing to say."""
    from asym_analysis.questions.doctor import examine

    if data is not None and base is None:
        fail("--data needs --base: inputs are measured in the base model")
    read = read_adapter(call, adapter)
    with arguments_checked():
        weights: Any = None if base is None else base_source(base)
        effect = None
        if data is not None and base is not None:
            weights, effect = _measured(base, data, column, read)
        siblings = read_adapters(call, sibling) if sibling else None
        found = examine(read, base=weights, effect=effect, siblings=siblings)
    source = found.settings["source"]
    named = found.frame["next"].str.replace(source, adapter, regex=False)
    frame = found.frame.assign(next=named.str.replace("BASE", str(base), regex=False))
    if frame.empty:
        call.note(f"{read.name}: no finding in {len(read)} modules{_not_asked(base, data, sibling)}")
    elif not call.as_json:
        _show(read.name, frame)
    return call.deliver(found, Table("findings", frame, shown=False))


def _not_asked(base: str | None, data: Path | None, sibling: list[str] | None) -> str:
    """What was not looked at, since nothing was given to look at it with."""
    asked = {
        "--base intruders": base,
        "--data an effect on general inputs": data,
        "--sibling a shared initialization": sibling,
    }
    absent = [words.split(" ", 1) for words, given in asked.items() if not given]
    return ("; not looked for: " if absent else "") + ", ".join(f"{what} ({option})" for option, what in absent)


def _show(name: str, findings: pd.DataFrame) -> None:
    """Print the findings, each with its numbers and the next command below it."""
    typer.echo(f"\n{name}")
    left = max(map(len, findings["severity"])) + 2
    width = min(100, terminal_width(sys.stdout))
    for severity, finding, value, chance, threshold, following in findings.itertuples(index=False, name=None):
        text = textwrap.fill(finding, width, initial_indent=severity.ljust(left), subsequent_indent=" " * left)
        numbers = f"value {value:.3g}, chance {chance:.3g}, named from {threshold:.3g}; " if value == value else ""
        typer.echo(f"{text}\n{'':{left}}{numbers}next:\n{'':{left}}{following}")
    below = "Worst first. Chance: what a random or healthy adapter gives; next: the command that shows more."
    typer.echo(textwrap.fill(below, width))


def _measured(base: str, data: Path, column: str, adapter: Adapter) -> tuple[Any, GeneralEffect]:
    """The base model, and what the adapter does to general inputs in it."""
    from asym_analysis.finetuning.environment import prepare_training
    from asym_analysis.finetuning.inputs import load_network, read_batches
    from asym_analysis.questions.general_effect import general_effect

    prepare_training()
    network, _ = load_network(base)
    return network, general_effect(adapter, network, read_batches(data, base, column=column, rows=128))
