"""`asym certify`: a certified risk from losses that are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from asym_analysis.cli.console import (
    DONE,
    PARTLY_REFUSED,
    JsonFlag,
    OutOption,
    fail,
    progress_wanted,
    say,
    show_frame,
    write_json,
    write_result,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("certify")(certify_command)


def certify_command(
    path: Annotated[str, typer.Argument(help="An adapter: a folder, a file, or a Hugging Face id.")],
    evaluate: Annotated[
        str,
        typer.Option(help="file.py:function, which takes an adapter and gives its n training losses, each in [0, 1]."),
    ],
    n: Annotated[int, typer.Option("--n", help="Number of training samples.")],
    tuned: Annotated[str, typer.Option(help="Factors that were trained: B, A, both, or auto.")] = "auto",
    methods: Annotated[str, typer.Option(help="coded, gaussian, or both, separated by commas.")] = "coded,gaussian",
    confidence: Annotated[float, typer.Option(help="1 - delta.")] = 0.95,
    draws: Annotated[int, typer.Option(help="Adapters drawn from each posterior.")] = 200,
    prior: Annotated[str | None, typer.Option(help="An adapter trained on none of the n samples.")] = None,
    tried: Annotated[int, typer.Option(help="Codes or priors between which the data chose.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    as_json: JsonFlag = False,
    out: OutOption = None,
) -> int:
    """Certify the risk of an adapter, quantized and perturbed, from its losses on the training samples."""
    from asym_analysis.adapters.load import load_adapter
    from asym_analysis.bounds.certify import certify

    adapter = load_adapter(path)
    try:
        report = certify(
            adapter,
            _function(evaluate),
            n,
            methods=tuple(part.strip() for part in methods.split(",")),
            confidence=confidence,
            tuned=tuned,
            draws=draws,
            prior=load_adapter(prior) if prior is not None else None,
            tried=tried,
            seed=seed,
            progress=progress_wanted(),
        )
    except ValueError as error:
        fail(str(error))
    write_result(report, out)
    if as_json:
        write_json({"settings": report.settings, "rows": report.frame.to_dict(orient="records")})
    else:
        frame = report.frame
        shown = frame.loc[frame["form"] == report.settings["headline"]]
        show_frame(shown[["rung", "note", "bits", "empirical_risk", "risk", "kind"]], title=adapter.name)
        best = report.best()
        if best is None:
            say("nothing is certified: the head's charge was left out")
        else:
            say(f"certified risk at most {best.risk:.4f} {best.statement}: {best.rung}, {best.note}")
    return DONE if adapter.coverage.complete else PARTLY_REFUSED


def _function(address: str) -> Callable[..., Any]:
    """The function that file.py:function names."""
    from importlib.util import module_from_spec, spec_from_file_location

    file, _, name = address.rpartition(":")
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
