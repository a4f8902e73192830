"""`asym intruders`: leading singular vectors of W0 + dW that the base model does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asym_analysis.cli.console import (
    DONE,
    PARTLY_REFUSED,
    JsonFlag,
    OutOption,
    fail,
    progress_wanted,
    say,
    say_drawn,
    show_frame,
    write_json,
    write_result,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("intruders")(intruders)


def intruders(
    adapter: Annotated[str, typer.Argument(help="An adapter: a folder, a file or a Hugging Face id.")],
    base: Annotated[str, typer.Option(help="Its base model: a folder, a safetensors file or a Hugging Face id.")],
    top_k: Annotated[int, typer.Option(help="Leading singular vectors examined in each module.")] = 10,
    threshold: Annotated[float, typer.Option(help="Cosine below which a vector is an intruder.")] = 0.5,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the base weights' singular vectors, so that the next run is fast."),
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figure.")] = None,
    as_json: JsonFlag = False,
    out: OutOption = None,
) -> int:
    """Count intruder dimensions of an adapter, and the share of energy that they carry."""
    from asym_analysis.adapters.load import load_adapter
    from asym_analysis.alignment.intruders import intruder_dimensions

    read = load_adapter(adapter)
    try:
        found = intruder_dimensions(
            read, base, top_k=top_k, threshold=threshold, cache=cache, progress=progress_wanted()
        )
    except ValueError as error:
        fail(str(error))
    for reason in found.refused.values():
        say(f"refused: {reason}")
    write_result(found, out)
    if figures is not None:
        from asym_analysis.plots.intruders import plot_intruders
        from asym_analysis.plots.style import save_figure

        written = save_figure(plot_intruders(found), figures / "intruders")
        say_drawn(written)
    if as_json:
        modules = found.modules.drop(columns=["adapter"]).to_dict("records")
        write_json({"summary": found.summary().to_dict("records"), "modules": modules, "settings": found.settings})
    else:
        show_frame(found.summary(), title=f"{read.name}: {len(found.modules)} of {len(read)} modules on {base}")
        strongest = found.modules.sort_values("energy_share", ascending=False).drop(columns=["adapter", "layer"])
        show_frame(strongest, title="\nby module, largest share of energy first", most_rows=12)
    return PARTLY_REFUSED if found.refused or not read.coverage.complete else DONE
