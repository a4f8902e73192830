"""`asym doctor`: the findings that matter for one adapter, worst first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from asym_analysis.cli.console import Table, fail, headings
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapter, read_adapters
from asym_analysis.cli.options import AdapterArgument, command

__all__ = ["doctor"]

_ROWS = headings("severity | finding | value | chance | next")


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
        moments = None if data is None or base is None else _moments(base, data, column, list(read))
        siblings = read_adapters(call, sibling) if sibling else None
        found = examine(read, base=base, moments=moments, siblings=siblings)
    source = found.settings["source"]
    frame = found.frame.assign(next=found.frame["next"].str.replace(source, adapter, regex=False))
    if found.frame.empty:
        call.note(f"{read.name}: nothing to say")
    below = "A row: a finding, the worst first; chance: what a random or healthy adapter gives; next: how to see more."
    return call.deliver(found, Table("findings", frame, read.name, _ROWS, below))


def _moments(base: str, data: Path, column: str, modules: list[str]) -> Any:
    from asym_analysis.finetuning.environment import prepare_training
    from asym_analysis.finetuning.inputs import load_network, read_batches
    from asym_analysis.prediction.input_moments import input_covariances

    prepare_training()
    network, _ = load_network(base)
    return input_covariances(network, read_batches(data, base, column=column), modules)
