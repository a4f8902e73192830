"""`asym inspect`: what files hold, module by module, and what became of each of their tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from asym_analysis.cli.console import Table, headings, output
from asym_analysis.cli.deliver import Call, frame_of
from asym_analysis.cli.inputs import read_adapters
from asym_analysis.cli.options import PathsArgument, command

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.adapters.adapter import Adapter

__all__ = ["inspect"]

MOST_MODULES, MOST_REASONS, BAR = 60, 12, 16
_MODULES = headings(
    "module | update: ΔW | rank | norm: ‖ΔW‖ | scaling | bar:   | note | norm_A: ‖A‖ | norm_B: ‖B‖ | "
    "spectral_norm: largest σ | stable_rank"
)
_ADAPTERS = headings("adapter | modules | rank | norm: ‖ΔW‖ median | scaling | tensors | format | base_model")
_MEANING = "A row: an adapter; ‖ΔW‖: Frobenius norm of scaling · B · A, the median over its modules."
_SIZES = "A row: a module; ΔW: outputs × inputs of its update scaling · B · A. Norms were not read."
_MODULE = "A row: a module; ΔW: outputs × inputs of its update scaling · B · A; ‖·‖ and the bar: Frobenius norms."


@command("inspect")
def inspect(
    call: Call,
    paths: PathsArgument = None,
    modules: Annotated[bool, typer.Option("--modules", help="Show every module, of every adapter.")] = False,
    headers: Annotated[
        bool, typer.Option("--headers", help="Read headers alone: no norms, and no time for large or many files.")
    ] = False,
) -> int:
    """Show what adapters hold: modules with rank, scale and norms, and whether every tensor could be used."""
    import pandas as pd

    from asym_analysis.adapters.inspection import inspect_modules

    adapters = read_adapters(call, paths, headers_only=headers)
    measured = {
        name: frame_of(inspect_modules(each, headers_only=headers))
        for name, each in zip(adapters.names, adapters, strict=True)
    }
    for name, frame in measured.items() if not headers else ():
        for row in frame[frame["norm"].isna()].itertuples():
            call.refuse(f"{name}: {row.module}", row.note)
    frames = [frame.assign(adapter=name) for name, frame in measured.items()]
    together = pd.concat([frame[["adapter", *frame.columns.drop("adapter")]] for frame in frames], ignore_index=True)
    overview = pd.DataFrame([_overview(name, adapters[i], measured[name]) for i, name in enumerate(adapters.names)])
    tensors = pd.DataFrame(
        [
            (name, tensor, status, f"{what!s}")
            for name, each in zip(adapters.names, adapters, strict=True)
            for status in ("used", "ignored", "refused")
            for tensor, what in getattr(each.coverage, status).items()
        ],
        columns=["adapter", "tensor", "status", "what"],
    )
    shown = [i for i, name in enumerate(adapters.names) if modules or len(adapters) == 1]
    tables = [
        Table(
            "adapters",
            overview,
            f"{len(adapters)} adapters",
            _ADAPTERS,
            "A row: an adapter. Norms were not read." if headers else _MEANING,
            shown=len(adapters) > 1,
        ),
        Table("modules", together, shown=False),
        Table("tensors", tensors, shown=False),
    ]
    if not call.as_json:
        for i in shown:
            _facts(adapters[i], overview.iloc[i])
            frame = _with_bars(measured[adapters.names[i]])
            below, most = _SIZES if headers else _MODULE, len(frame) if modules else MOST_MODULES
            tables.append(Table(f"modules of {adapters.names[i]}", frame, "", _MODULES, below, most_rows=most))
    return call.deliver(together, *tables)


def _overview(name: str, adapter: Adapter, modules: pd.DataFrame) -> dict[str, Any]:
    facts, coverage = adapter.metadata, adapter.coverage
    total = len(coverage.used) + len(coverage.ignored) + len(coverage.refused)
    unreadable = int(modules["norm"].isna().sum()) if "norm" in modules else 0
    tensors = [f"{len(coverage.used)} of {total} used"]
    tensors += [f"{len(coverage.ignored)} ignored"] if coverage.ignored else []
    tensors += [f"{len(coverage.refused)} refused"] if coverage.refused else []
    tensors += [f"{unreadable} modules unreadable"] if unreadable else []
    kinds = dict.fromkeys(str(facts[key]) for key in ("dialect", "peft_type", "container") if facts.get(key))
    return {
        "adapter": name,
        "source": facts.get("source"),
        "base_model": facts.get("base_model"),
        "task_type": facts.get("task_type"),
        "format": f"{', '.join(kinds)} ({', '.join(dict.fromkeys(modules['dtype']))})",
        "modules": len(modules),
        "rank": "/".join(map(str, adapter.ranks)),
        "scaling": _distinct(modules["scaling"]),
        "parameters_A": int((modules["rank"] * modules["d_in"]).sum()),
        "parameters_B": int((modules["rank"] * modules["d_out"]).sum()),
        **({"norm": modules["norm"].median()} if "norm" in modules else {}),
        "also_trained": ", ".join(f"{key} {' × '.join(map(str, each.shape))}" for key, each in adapter.extras.items()),
        "initial": "recorded" if adapter.initial is not None else None,
        "step": facts.get("step"),
        "sha256": facts.get("sha256") if "norm" in modules else None,  # reads the whole file
        "complete": coverage.complete and not unreadable,
        "tensors": ", ".join(tensors),
    }


def _facts(adapter: Adapter, row: pd.Series) -> None:
    """Print the facts about one adapter, and why tensors were left out."""
    from rich.markup import escape

    console = output()
    facts = {
        "source": row["source"],
        "base model": row["base_model"],
        "task type": row["task_type"],
        "format": row["format"],
        "modules": f"{row['modules']}, rank {row['rank']}, scaling {row['scaling']}",
        "parameters": f"{row['parameters_A']:,} in A, {row['parameters_B']:,} in B",
        "also trained": row["also_trained"],
        "initial": row["initial"],
        "step": row["step"],
        "sha256": row["sha256"],
    }
    console.print(f"\n[bold]{escape(row['adapter'])}[/]")
    for label, value in facts.items():
        if value is not None and value == value and value != "":
            console.print(f"  [dim]{label:<13}[/]{escape(str(value))}", soft_wrap=True)
    console.print(f"  [dim]{'tensors':<13}[/][{'green' if row['complete'] else 'red'}]{row['tensors']}[/]")
    by_reason: dict[str, list[str]] = {}
    for tensor, reason in adapter.coverage.ignored.items():
        by_reason.setdefault(f"{reason!s}", []).append(tensor)
    for reason, names in list(by_reason.items())[:MOST_REASONS]:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        console.print(f"  {'':<13}[dim]{escape(f'ignored: {names[0]}{more}: {reason}')}[/]", soft_wrap=True)
    if len(by_reason) > MOST_REASONS:
        console.print(f"  {'':<13}[dim]... and {len(by_reason) - MOST_REASONS} more reasons (--json)[/]")


def _with_bars(modules: pd.DataFrame) -> pd.DataFrame:
    update = modules["d_out"].astype(str) + " × " + modules["d_in"].astype(str)
    noted = {"note": modules["note"]} if modules["note"].astype(bool).any() else {}
    kept = modules.drop(columns="note").assign(update=update, **noted)
    if "norm" not in kept:
        return kept
    highest = kept["norm"].max()
    return kept.assign(bar=[_bar(value, highest) for value in modules["norm"]])


def _distinct(values: pd.Series) -> str:
    distinct = sorted(set(values))
    if len(distinct) > 3:
        return f"{distinct[0]:.4g} to {distinct[-1]:.4g}"
    return "/".join(f"{value:.4g}" for value in distinct)


def _bar(value: float, highest: float) -> str:
    """A bar in eighths of a character."""
    if value != value or not highest > 0:
        return ""
    eighths = round(8 * BAR * value / highest)
    return "█" * (eighths // 8) + ("" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])
