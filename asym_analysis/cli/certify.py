"""`asym certify`: a certified risk from losses that are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from asym_analysis.cli.console import Table, fail
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapter
from asym_analysis.cli.options import AdapterArgument, command

__all__ = ["register"]

_ROWS = {
    "predictor": "predictor",
    "prior": "prior",
    "risk": "risk at most",
    "vacuous": "vacuous",
    "empirical_risk": "training risk",
    "kind": "kind",
    "bits": "bits",
    "note": "note",
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("certify")(certify_command)


@command("certify", reads="one")
def certify_command(
    call: Call,
    adapter: AdapterArgument,
    evaluate: Annotated[
        str,
        typer.Option(help="file.py:function, which takes an adapter and gives its n training losses, each in [0, 1]."),
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of training samples.")],
    tuned: Annotated[str, typer.Option(help="Factors that were trained: B, A, both, or auto.")] = "auto",
    methods: Annotated[
        str, typer.Option(help="coded, gaussian, one draw: separated by commas.")
    ] = "coded,gaussian,one draw",
    confidence: Annotated[float, typer.Option(help="1 - delta.")] = 0.95,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Adapters drawn from the Gibbs posterior; by default until known to .005.")
    ] = None,
    prior: Annotated[str | None, typer.Option(help="An adapter trained on none of the n samples.")] = None,
    tried: Annotated[int, typer.Option(help="Number of codes or priors tried on these data.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> int:
    """Certify the risk of an adapter, quantized, perturbed or drawn once, from its losses on the training samples."""
    from asym_analysis.bounds.certify import certify

    function = _function(evaluate)
    read = read_adapter(call, adapter)
    with arguments_checked():
        report = certify(
            read,
            function,
            n,
            methods=tuple(part.strip() for part in methods.split(",")),
            confidence=confidence,
            tuned=tuned,
            draws=draws,
            prior=read_adapter(call, prior) if prior is not None else None,
            tried=tried,
            seed=seed,
            progress=call.progress,
        )
    frame = report.frame
    best = report.best()
    if best is None:
        call.note(f"nothing is certified: {frame['assumptions'].iloc[0]}")
    else:
        vacuous = " (vacuous: no better than the largest loss)" if best.vacuous else ""
        call.note(
            f"certified risk at most {best.risk:.4f} {best.statement}, for the {best.predictor}: {best.note}{vacuous}"
        )
    headline = frame.loc[frame["form"] == report.settings["headline"]].sort_values("risk")
    below = "A row: one code or posterior, the bound on its expected loss, and its loss on the training samples."
    return call.deliver(
        report, Table("certificates", frame, shown=False), Table("headline", headline, read.name, _ROWS, below)
    )


def _function(address: str) -> Callable[..., Any]:
    """The function that file.py:function names."""
    from importlib.util import module_from_spec, spec_from_file_location

    file, _, name = address.rpartition(":")
    if not file and Path(address).is_file():
        fail(f"--evaluate {address} names no function: write it as {address}:function")
    if not file or not Path(file).is_file():
        fail(f"--evaluate {address}: there is no file {file or address}; write it as path/to/file.py:function")
    spec = spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        fail(f"--evaluate {address}: {file} is no Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        fail(f"--evaluate {address}: {file} has no function {name!r}")
    return found
