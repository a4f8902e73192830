"""`asym advise`: which modules of a trained adapter can freeze A."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asym_analysis.cli.console import Table, fail, headings
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapter
from asym_analysis.cli.options import AdapterArgument, command

if TYPE_CHECKING:
    from asym_analysis.prediction.advice import FreezingAdvice

__all__ = ["advise"]

_MODULES = headings(
    "module | freeze_A | predicted_cost: cost so far | saved_parameters: saved so far | "
    "random_A: kept by a random A | random_B: kept by a random B | asymmetry_index: index"
)


@command("advise", reads="one")
def advise(
    call: Call,
    adapter: AdapterArgument,
    model: Annotated[
        str, typer.Option("--model", help="The base model: an id, a folder, a .gguf file or package:NAME/PATH.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Texts (.txt, .jsonl, .csv, .tsv) or a folder of images.")],
    column: Annotated[str, typer.Option("--column", help="Column of the texts; two with a comma for pairs.")] = "text",
    rows: Annotated[int, typer.Option("--rows", help="Read at most so many texts or images.")] = 512,
    rank: Annotated[int | None, typer.Option("--rank", help="Rank of the frozen A; the adapter's if absent.")] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", help="Largest part of the signal that may be lost.")] = 0.1,
    device: Annotated[str, typer.Option("--device", help="Where the model runs.")] = "cpu",
    write_start: Annotated[
        Path | None,
        typer.Option(
            "--write-start", help="Write an adapter to this folder: A along the inputs' largest directions, B = 0."
        ),
    ] = None,
) -> int:
    """Say which modules could freeze A at random, at what predicted cost, and what that saves.

    The cost is the part of the trained update's output, on these data, that a random A of that rank could not carry. A
    causal language model has a loss on plain text: there each direction of the output counts by the sensitivity of the
    loss, for A and B alike; otherwise every direction counts the same.
    """
    if not 0 <= tolerance <= 1:
        fail(f"--tolerance {tolerance}: a fraction between 0 and 1")
    from asym_analysis.adapters.save import save_adapter
    from asym_analysis.finetuning.environment import prepare_training
    from asym_analysis.finetuning.inputs import load_network, next_token_labels, read_batches
    from asym_analysis.prediction.advice import advise as advise_on
    from asym_analysis.prediction.asymmetry import predict_asymmetry
    from asym_analysis.prediction.input_moments import input_covariances
    from asym_analysis.prediction.output_sensitivities import output_sensitivities
    from asym_analysis.prediction.placed_start import placed_start
    from asym_analysis.vocabulary import checked_device

    prepare_training()
    read = read_adapter(call, adapter)
    with arguments_checked():
        batches = read_batches(data, model, column=column, rows=rows)
        network, has_loss = load_network(model)
        network.to(checked_device(device))

        def advice(some: list[Any]) -> FreezingAdvice:
            covariances = input_covariances(network, some, list(read))
            labelled = map(next_token_labels, some)
            sensitivities = output_sensitivities(network, labelled, list(read)) if has_loss else None
            return advise_on(predict_asymmetry(read, covariances, sensitivities, rank=rank), tolerance=tolerance)

        if write_start is not None:
            save_adapter(placed_start(read, input_covariances(network, batches, list(read)), rank=rank), write_start)
            call.note(f"Wrote a start for training B alone to {write_start}.")
        result = advice(batches)
        half = advice(batches[: len(batches) // 2]) if len(batches) > 1 else None
    few = result.frame[~result.frame["enough_inputs"]]
    if len(few):
        row = few.iloc[0]
        call.note(
            f"Cannot tell for {len(few)} modules: {row['module']} was given {row['inputs']:,} inputs of width "
            f"{row['d_in']:,}; give more data or more --rows, at least as many inputs as they are wide."
        )
    if result.frame["enough_inputs"].any():
        call.note(_moves(result, half))
    whole = result.summary().to_dict(orient="records")[0]
    call.note(
        f"Freezing A in {whole['freeze_A']} of {whole['modules']} modules loses {whole['predicted_cost']:.1%} of the "
        f"update's signal and saves {whole['saved_parameters']:,} trained numbers ({whole['saved_fraction']:.0%}), "
        f"{whole['saved_bytes'] / 2**20:.2f} MiB of gradients and optimizer state; the parameter-count bound is "
        f"multiplied by {whole['bound_factor']:.2f}."
        if whole["freeze_A"]
        else f"No module is advised: none is known to keep within --tolerance {tolerance:g}."
    )
    call.note(
        "Whether to train A or B in a module is not advised: where it was tried, in all maps of a small decoder, "
        "the choice by such an index did no better than its opposite."
    )
    below = (
        "A row: a module, the cheapest to freeze first; cost and saving are cumulative, from the first row to this one."
    )
    title = f"{read.name}: modules by what freezing a random A loses"
    return call.deliver(
        result,
        Table("modules", result.frame, title, _MODULES, below),
        Table("summary", result.summary(), shown=False),
    )


def _moves(whole: FreezingAdvice, half: FreezingAdvice | None) -> str:
    """Whether the advice had settled on half of the rows."""
    if half is None:
        return "The rows fit in one batch: whether the numbers still move is not known; give more data or more --rows."
    now, then = (each.frame.set_index("module").sort_index() for each in (whole, half))
    both = now["enough_inputs"] & then["enough_inputs"]
    other = int((now["freeze_A"] != then["freeze_A"])[both].sum())
    if not both.any():
        return "Half of the rows are too few to check the advice against: the numbers may still move; give more data."
    if other:
        return (
            f"The numbers still move: half of the rows advise to freeze {int(then['freeze_A'].sum())} modules and all "
            f"of them {int(now['freeze_A'].sum())}, with another answer for {other}; give more data or more --rows."
        )
    moved = (now["lost_signal"] / now["signal"] - then["lost_signal"] / then["signal"]).abs()[both].max()
    return (
        f"Half of the rows give the same advice; what a module would lose differs by at most {moved:.1%} of its signal."
    )
