"""`asym inspect`: what files hold, module by module, and what became of each of their tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from asym_analysis.cli.console import (
    DONE,
    INPUT_ERROR,
    PARTLY_REFUSED,
    JsonFlag,
    OutOption,
    console,
    progress_wanted,
    say,
    write_frame,
    write_json,
)
from asym_analysis.errors import AdapterError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from asym_analysis.adapters.adapter import Adapter

__all__ = ["register"]

MOST_MODULES, MOST_TENSORS, BAR = 60, 12, 16


@dataclass(frozen=True)
class Inspected:
    """An adapter with its table of modules."""

    adapter: Adapter
    modules: pd.DataFrame

    @property
    def unreadable(self) -> int:
        """Number of modules whose values cannot be used."""
        return int(self.modules["norm"].isna().sum())

    @property
    def complete(self) -> bool:
        """True when no tensor was refused and every module could be read."""
        return self.adapter.coverage.complete and not self.unreadable


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("inspect")(inspect)


def inspect(
    paths: Annotated[
        list[str],
        typer.Argument(help="Adapters: folders, files, globs, training runs or Hugging Face ids.", show_default=False),
    ],
    modules: Annotated[bool, typer.Option("--modules", help="Show every module, of every adapter.")] = False,
    as_json: JsonFlag = False,
    out: OutOption = None,
) -> int:
    """Show what adapters hold: modules with rank, scale and norms, and whether every tensor could be used."""
    import pandas as pd

    inspected, refusals = _read(paths)
    if out is not None and inspected:
        frames = [each.modules.assign(adapter=each.adapter.name) for each in inspected]
        table = pd.concat(frames, ignore_index=True)
        write_frame(table[["adapter", *table.columns.drop("adapter")]], out)
        say(f"wrote {len(table):,} modules to {out}")
    if as_json:
        write_json({"adapters": [_as_json(each) for each in inspected], "refused": refusals})
    else:
        if len(inspected) > 1:
            _show_overview(inspected)
        for each in inspected if modules or len(inspected) == 1 else [e for e in inspected if not e.complete]:
            _show(each, MOST_MODULES if not modules else len(each.modules))
        for refusal in refusals:
            console.print(f"[bold red]refused[/] {escape(refusal)}", highlight=False, soft_wrap=True)
    if not inspected:
        return INPUT_ERROR
    return PARTLY_REFUSED if refusals or not all(each.complete for each in inspected) else DONE


def _read(paths: list[str]) -> tuple[list[Inspected], list[str]]:
    """Open and measure each adapter on its own, so that one broken file hides no other."""
    from tqdm.auto import tqdm

    from asym_analysis.adapters.inspection import inspect_modules
    from asym_analysis.adapters.load import adapter_paths, load_adapter

    inspected, refusals, sources = [], [], []
    for path in paths:
        try:
            sources += adapter_paths(path)
        except AdapterError as error:
            refusals.append(str(error))
    for source in tqdm(
        dict.fromkeys(sources), desc="reading", unit="adapter", leave=False, disable=not progress_wanted()
    ):
        try:
            adapter = load_adapter(source)
            inspected.append(Inspected(adapter, inspect_modules(adapter)))
        except AdapterError as error:
            refusals.append(str(error))
    return inspected, list(dict.fromkeys(refusals))


def _as_json(inspected: Inspected) -> dict[str, Any]:
    adapter, coverage = inspected.adapter, inspected.adapter.coverage
    return {
        "name": adapter.name,
        "metadata": dict(adapter.metadata),
        "modules": inspected.modules.to_dict("records"),
        "extras": {name: list(source.shape) for name, source in adapter.extras.items()},
        "has_initial": adapter.initial is not None,
        "coverage": {
            "complete": coverage.complete,
            "used": dict(coverage.used),
            "ignored": dict(coverage.ignored),
            "refused": dict(coverage.refused),
        },
    }


def _show_overview(inspected: list[Inspected]) -> None:
    table = _table(["adapter", "modules>", "rank>", "scaling>", "‖ΔW‖ median>", "format", "base model", "tensors"])
    for each in inspected:
        adapter, modules = each.adapter, each.modules
        table.add_row(
            f"[bold]{escape(adapter.name)}[/]",
            str(len(adapter)),
            "/".join(map(str, adapter.ranks)),
            _distinct(modules["scaling"]),
            _number(modules["norm"].median()),
            _format(adapter),
            escape(str(adapter.metadata.get("base_model") or "-")),
            _coverage(each),
        )
    console.print(table)


def _show(inspected: Inspected, most: int) -> None:
    adapter, modules = inspected.adapter, inspected.modules
    facts = adapter.metadata
    lines = {
        "source": facts.get("source"),
        "base model": " · ".join(str(facts[key]) for key in ("base_model", "task_type") if facts.get(key)),
        "format": _format(adapter),
        "modules": f"{len(adapter)}, rank {'/'.join(map(str, adapter.ranks))}, scaling {_distinct(modules['scaling'])}",
        "parameters": f"{_parameters(modules, 'd_in'):,} in A, {_parameters(modules, 'd_out'):,} in B",
        "also trained": ", ".join(f"{name} {_times(each.shape)}" for name, each in list(adapter.extras.items())[:4]),
        "initial": "recorded" if adapter.initial is not None else None,
        "step": facts.get("step"),
        "sha256": facts.get("sha256"),
    }
    console.print(f"\n[bold]{escape(adapter.name)}[/]", highlight=False)
    for label, value in lines.items():
        if value:
            console.print(f"  [dim]{label:<13}[/]{escape(str(value))}", highlight=False, soft_wrap=True)
    console.print(f"  [dim]{'tensors':<13}[/]{_coverage(inspected)}", highlight=False)
    _show_left_out(adapter)
    console.print(_module_table(modules.head(most)))
    if len(modules) > most:
        console.print(f"  [dim]... and {len(modules) - most:,} more modules (--modules shows them all)[/]")


def _module_table(modules: pd.DataFrame) -> Table:
    prefix = _common_prefix(list(modules["module"]))
    noted = modules["note"].any()
    headings = ["module", "ΔW", "rank>", "scaling>", "‖A‖>", "‖B‖>", "‖ΔW‖>", "largest σ>", "stable rank>", ""]
    table = _table([*headings, *(["note"] if noted else [])])
    table.title = f"below {escape(prefix.rstrip('.'))}" if prefix else None
    table.title_justify, table.title_style = "left", "dim"
    highest = modules["norm"].max()
    for row in modules.to_dict("records"):
        measured = [row[name] for name in ("norm_A", "norm_B", "norm", "spectral_norm", "stable_rank")]
        table.add_row(
            escape(row["module"].removeprefix(prefix)),
            f"{row['d_out']} × {row['d_in']}",
            str(row["rank"]),
            f"{row['scaling']:.4g}",
            *map(_number, measured),
            f"[cyan]{_bar(row['norm'], highest)}[/]",
            *([f"[yellow]{escape(row['note'])}[/]"] if noted else []),
        )
    return table


def _show_left_out(adapter: Adapter) -> None:
    for status, colour in (("refused", "red"), ("ignored", "dim")):
        left_out = getattr(adapter.coverage, status)
        by_reason: dict[str, list[str]] = {}
        for tensor, reason in left_out.items():
            by_reason.setdefault(reason, []).append(tensor)
        for reason, tensors in list(by_reason.items())[:MOST_TENSORS]:
            more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
            text = f"{status}: {tensors[0]}{more}: {reason}"
            console.print(f"  {'':<13}[{colour}]{escape(text)}[/]", highlight=False, soft_wrap=True)
        if len(by_reason) > MOST_TENSORS:
            console.print(f"  {'':<13}[{colour}]... and {len(by_reason) - MOST_TENSORS} more reasons (--json)[/]")


def _coverage(inspected: Inspected) -> str:
    coverage = inspected.adapter.coverage
    total = len(coverage.used) + len(coverage.ignored) + len(coverage.refused)
    text = f"{len(coverage.used)} of {total} used"
    text += f", {len(coverage.ignored)} ignored" if coverage.ignored else ""
    if inspected.complete:
        return f"[green]{text} ✓[/]"
    text += f", {len(coverage.refused)} refused" if coverage.refused else ""
    text += f", {inspected.unreadable} modules unreadable" if inspected.unreadable else ""
    return f"[red]{text}[/]"


def _format(adapter: Adapter) -> str:
    facts = adapter.metadata
    dtypes = ", ".join(dict.fromkeys(adapter.frame["dtype"]))
    kinds = dict.fromkeys(str(facts[key]) for key in ("dialect", "peft_type", "container") if facts.get(key))
    return escape(f"{', '.join(kinds)} ({dtypes})")


def _table(headings: list[str]) -> Table:
    """A plain table; a heading that ends in > stands over numbers."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        right = heading.endswith(">")
        table.add_column(heading.removesuffix(">"), justify="right" if right else "left", no_wrap=right or not heading)
    return table


def _common_prefix(modules: list[str]) -> str:
    """The dotted parts with which every module begins, one part at least being left to each."""
    split = [module.split(".") for module in modules]
    count = 0
    while len(modules) > 1 and all(len(parts) > count + 1 and parts[count] == split[0][count] for parts in split):
        count += 1
    return "".join(f"{part}." for part in split[0][:count]) if modules else ""


def _parameters(modules: pd.DataFrame, side: str) -> int:
    return int((modules["rank"] * modules[side]).sum())


def _distinct(values: pd.Series) -> str:
    distinct = sorted(set(values))
    if len(distinct) > 3:
        return f"{distinct[0]:.4g} to {distinct[-1]:.4g}"
    return "/".join(f"{value:.4g}" for value in distinct)


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4g}"


def _times(shape: tuple[int, ...]) -> str:
    return f"({' × '.join(map(str, shape))})"


def _bar(value: float, highest: float) -> str:
    """A bar in eighths of a character."""
    if value != value or not highest > 0:
        return ""
    eighths = round(8 * BAR * value / highest)
    return "█" * (eighths // 8) + ("" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])
