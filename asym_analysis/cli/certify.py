"""`asym certify`: a certified risk from losses that are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asym_analysis.cli.console import Table, fail, in_options
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapter
from asym_analysis.cli.options import AdapterArgument, command

if TYPE_CHECKING:
    from asym_analysis.adapters.adapter import Adapter
    from asym_analysis.bounds.report import BoundRow

__all__ = ["certify"]

LOOSE = 0.5  # a certified risk above which the screen says what would help

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


@command("certify", reads="one")
def certify(
    call: Call,
    adapter: AdapterArgument,
    model: Annotated[
        str | None, typer.Option(help="Base model, opened as a classifier: a folder or a Hugging Face id.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The training samples: a .csv, .tsv, .json or .jsonl file of labelled texts.")
    ] = None,
    text: Annotated[str, typer.Option(help="Column of texts; two, apart by a comma, make pairs.")] = "text",
    label: Annotated[str, typer.Option(help="Column of labels.")] = "label",
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the labels in the order of their numbers, apart by commas; a run of asym finetune knows "
            "them."
        ),
    ] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Longer texts are cut, in tokens.")] = 256,
    evaluate: Annotated[
        str | None,
        typer.Option(help="file.py:function that takes an adapter and gives its n training losses, each in [0, 1]."),
    ] = None,
    evaluate_some: Annotated[
        str | None,
        typer.Option(help="file.py:function of an adapter and an array of sample numbers: one pass over the data."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Number of training samples, with --evaluate.")] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="Samples of one source count once: a column of --data, or a file with one label a line."),
    ] = None,
    tuned: Annotated[str, typer.Option(help="Factors that were trained: B, A, both, or auto.")] = "auto",
    methods: Annotated[
        str, typer.Option(help="coded, gaussian, one draw: separated by commas.")
    ] = "coded,gaussian,one draw",
    confidence: Annotated[float, typer.Option(help="1 - delta.")] = 0.95,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Adapters drawn from the Gibbs posterior; by default until known to .005.")
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="An adapter trained on none of the n samples; ADAPTER itself, where --data are test samples."
        ),
    ] = None,
    prior_data: Annotated[
        Path | None, typer.Option(help="What --prior was trained on: a file as --data, searched for the same texts.")
    ] = None,
    tried: Annotated[int, typer.Option(help="Number of codes or priors tried on these data.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> int:
    """Certify the risk of an adapter, quantized, perturbed or drawn once, from its losses on the training samples."""
    from asym_analysis.bounds.certify import certify

    by_model = model is not None or data is not None
    by_function = evaluate is not None or evaluate_some is not None
    if by_model == by_function or (by_model and (model is None or data is None)):
        fail("give --model and --data, or --evaluate FILE:FUNCTION with --n")
    if by_function and n is None:
        fail("--evaluate needs the number of training samples: --n")
    if by_model and n is not None:
        fail("--n is for --evaluate: with --data every row of the file is a sample")
    if prior_data is not None and (prior is None or not by_model):
        fail("--prior-data needs --prior and --data")
    read = read_adapter(call, adapter)
    losses: dict[str, Any]
    rows: list[dict[str, Any]] = []
    if model is not None and data is not None:
        losses, rows = _by_model(call, read, model, data, text, label, classes, max_length)
        if prior_data is not None:
            from asym_analysis.finetuning.inputs import read_texts

            losses["prior_samples"] = read_texts(prior_data, text)
    else:
        losses = {"n_samples": n, **_by_function(evaluate, evaluate_some, n or 0)}
    if groups is not None:
        losses["groups"] = _groups(groups, rows)
    with arguments_checked():
        report = certify(
            read,
            **losses,
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
        why = "; ".join(report.settings["doubts"]) or frame["assumptions"].iloc[0]
        call.note(f"nothing is certified: {in_options(why)}")
    else:
        vacuous = " (vacuous: no better than the largest loss)" if best.vacuous else ""
        call.note(
            f"certified risk at most {best.risk:.4f} {best.statement}, for the {best.predictor}: {best.note}{vacuous}"
        )
        if best.risk is not None and best.risk > LOOSE:
            call.note(_what_would_help(best, report.settings["units"]))
    headline = frame.loc[frame["form"] == report.settings["headline"]].sort_values("risk")
    below = "A row: one code or posterior, the bound on its expected loss, and its loss on the training samples."
    return call.deliver(
        report, Table("certificates", frame, shown=False), Table("headline", headline, read.name, _ROWS, below)
    )


def _by_model(
    call: Call,
    adapter: Adapter,
    model: str,
    data: Path,
    text: str,
    label: str,
    classes: str | None,
    max_length: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Arguments of `certify` from a classifier and a file of labelled texts, and the file's rows."""
    from asym_analysis.errors import AdapterError
    from asym_analysis.finetuning.inputs import load_classifier, read_labelled

    try:
        names = [name.strip() for name in classes.split(",")] if classes else _classes_of(adapter)
        found = read_labelled(data, model, column=text, label=label, max_length=max_length, classes=names)
        heads = [extra.shape[0] for extra in adapter.extras.values() if len(extra.shape) == 2]
        outputs = heads[-1] if heads else max(found.labels) + 1
        if max(found.labels) >= outputs:
            fail(f"{data} has the label {max(found.labels)}, and the adapter's head has {outputs} classes")
        network = load_classifier(model, outputs)
    except AdapterError as problem:
        fail(str(problem))
    if not adapter.extras:
        call.note("the adapter has no trained head: the model's own head is used, as fixed before these data")
    return {"model": network, "data": [found.batch], "samples": found.texts}, found.rows


def _classes_of(adapter: Adapter) -> list[str]:
    """Names of the classes, where a run of `asym finetune` on the user's own texts left them beside the adapter."""
    import json

    metrics = Path(str(adapter.metadata.get("source", ""))).parent / "metrics.json"
    if not metrics.is_file():
        return []
    return [str(name) for name in json.loads(metrics.read_text(encoding="utf-8")).get("classes", [])]


def _by_function(evaluate: str | None, evaluate_some: str | None, n: int) -> dict[str, Any]:
    """Arguments of `certify` from the functions that the user named; one of the two is enough."""
    import numpy as np

    some = _function(evaluate_some, "--evaluate-some") if evaluate_some is not None else None
    if evaluate is not None:
        return {"evaluate": _function(evaluate, "--evaluate"), "evaluate_some": some}
    assert some is not None
    return {"evaluate": lambda adapter: some(adapter, np.arange(n)), "evaluate_some": some}


def _groups(groups: str, rows: list[dict[str, Any]]) -> list[str]:
    """One label a sample, from a column of the data or from a file."""
    if rows and groups in rows[0]:
        return [str(row[groups]) for row in rows]
    if not Path(groups).is_file():
        known = f"no column of the data ({', '.join(rows[0])}) and " if rows else ""
        fail(f"--groups {groups} is {known}no file with one label a line")
    return [line.strip() for line in Path(groups).read_text(encoding="utf-8").splitlines()]


def _what_would_help(best: BoundRow, units: int) -> str:
    """What makes a loose certificate tighter, with the size of each."""
    from asym_analysis.bounds.risk import kl_inverse_risk

    loss = best.empirical_risk or 0.0
    hold_out = kl_inverse_risk(min(loss, 1.0), 0.0, units)
    found = [
        f"of this {loss:.3f} is the training risk and {(best.risk or 0.0) - loss:.3f} pays for {best.nats:,.0f} nats "
        f"with {units:,} samples (without any nats: {hold_out:.3f})"
    ]
    if best.nats > units / 10:
        entries = f"{best.parameters:,} trained entries" + (" with the head" if best.head else "")
        found.append(f"fewer nats: train fewer than these {entries} (B alone, a smaller rank, fewer modules)")
        if best.head:
            found.append("a head fixed before the data costs nothing")
        if best.prior != "data":
            found.append("a --prior trained on other samples centres code and posterior near the solution")
        found.append("a posterior trained for the bound: fit_posterior")
    else:
        found.append("lower training risk helps more than fewer nats")
    return "what would help: " + "; ".join(found)


def _function(address: str, option: str) -> Callable[..., Any]:
    """The function that file.py:function names."""
    from importlib.util import module_from_spec, spec_from_file_location

    file, _, name = address.rpartition(":")
    if not file and Path(address).is_file():
        fail(f"{option} {address} names no function: write it as {address}:function")
    if not file or not Path(file).is_file():
        fail(f"{option} {address}: there is no file {file or address}; write it as path/to/file.py:function")
    spec = spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        fail(f"{option} {address}: {file} is not a Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        fail(f"{option} {address}: {file} has no function {name!r}")
    return found
