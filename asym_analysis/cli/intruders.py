"""`asym intruders`: leading singular vectors of W0 + dW that the base model does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asym_analysis.cli.console import Table, headings
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, base_source, read_adapter
from asym_analysis.cli.options import AdapterArgument, command

__all__ = ["intruders"]

_MODULES = headings(
    "module | intruders | energy_share: share of energy | update_over_base: ‖ΔW‖/‖W0‖ | update_norm: ‖ΔW‖ | "
    "update_over_threshold: ΔW over spike threshold | random_level"
)
_SUMMARY = (
    "A row: a projection. Energy share: of ‖ΔW‖² in intruders. Update over threshold: largest singular value of ΔW "
    "over the one at which noise of W0's spectrum lets it through. Random level: cosine of random directions with "
    "their nearest of W0's."
)


@command("intruders", reads="one", draws=True)
def intruders(
    call: Call,
    adapter: AdapterArgument,
    base: Annotated[str, typer.Option(help="Its base model: a folder, a safetensors file or a Hugging Face id.")],
    top_k: Annotated[int, typer.Option(help="Leading singular vectors examined in each module.")] = 10,
    threshold: Annotated[float, typer.Option(help="Cosine below which a vector is an intruder.")] = 0.5,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the base weights' singular vectors, so that the next run is fast."),
    ] = None,
) -> int:
    """Count intruder dimensions of an adapter, and the share of energy that they carry."""
    from asym_analysis.alignment.intruders import intruder_dimensions

    call.base = base
    read = read_adapter(call, adapter)
    with arguments_checked():
        found = intruder_dimensions(
            read, base_source(base), top_k=top_k, threshold=threshold, cache=cache, progress=call.progress
        )
    for module, reason in found.refused.items():
        call.refuse(f"{read.name}: {module}", reason)
    strongest = found.modules.sort_values("energy_share", ascending=False).drop(columns=["adapter", "layer"])
    below = (
        f"A row: of the {top_k} strongest singular vectors of W0 + ΔW, those whose cosine with every one of W0's is "
        f"below {threshold:g}."
    )
    return call.deliver(
        found,
        Table(
            "summary",
            found.summary(),
            f"{read.name}: {len(found.modules)} of {len(read)} modules on {base}",
            {},
            _SUMMARY,
        ),
        Table("modules", strongest, "by module, largest share of energy first", _MODULES, below, most_rows=12),
        figures={"intruders": "intruders:plot_intruders"},
    )
