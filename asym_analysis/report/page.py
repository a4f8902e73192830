"""From adapters to one self-contained HTML file, with its figures beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, select_autoescape
from markupsafe import Markup

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import as_adapters
from asym_analysis.atomic import replacing
from asym_analysis.plots.style import save_figure
from asym_analysis.report.content import Drawn, Section, Table
from asym_analysis.report.families import compare_families, runs_in
from asym_analysis.report.glossary import GLOSSARY, NOTES
from asym_analysis.report.sections import build_sections
from asym_analysis.report.within import Measured, measure
from asym_analysis.results import versions

__all__ = ["WrittenReport", "write_report"]


@dataclass(frozen=True)
class WrittenReport:
    """What was written: the page, the figures, and the plain words for each family of adapters, the verdict first."""

    page: Path
    figures: tuple[Path, ...]
    sentences: Mapping[str, tuple[str, ...]]


def write_report(
    adapters: AdapterSet | Adapter | Any,
    page: str | os.PathLike[str],
    figures: str | os.PathLike[str] | None = None,
    *,
    base: Any = None,
    n_samples: int | None = None,
    refusals: Sequence[str] = (),
    made: Mapping[str, str] | None = None,
    progress: bool = False,
) -> WrittenReport:
    """Compare the adapters, draw, and write one HTML file that needs no other file and no network.

    Parameters
    ----------
    adapters : AdapterSet, Adapter, or sources
        One adapter or more, or what `load_adapters` takes. A `family` column in their table splits the report, each
        family compared within itself. Of several checkpoints of one run only the last is compared with others.
    page : path
        The HTML file to write.
    figures : path, optional
        The folder for the same figures as SVG and PNG; `figures` beside the page by default.
    base : path, mapping, Module or BaseWeights, optional
        The base model (what `intruder_dimensions` takes), for a section on intruder dimensions.
    n_samples : int, optional
        Number of training samples, for a section on generalization bounds.
    refusals : sequence of str, optional
        Sentences on inputs that could not be read, shown at the top.
    made : mapping of str to str, optional
        What "how it was made" should say beside versions and files: command, date. Nothing by default, so that the
        same adapters give the same bytes.
    progress : bool, default False
        Whether to show a progress bar.

    Returns
    -------
    WrittenReport
        Paths of the page and the figures, and the sentences.

    Raises
    ------
    AdapterError
        If the adapters cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from asym_analysis import sample_adapters
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_report(sample_adapters()[:3], folder / "report.html").page.name
    'report.html'
    """
    adapters = as_adapters(adapters)
    page = Path(page)
    folder = page.parent / "figures" if figures is None else Path(figures)
    before = set(plt.get_fignums())
    try:
        families = compare_families(adapters, progress=progress)
        measured = measure(adapters)
        with plt.rc_context({"figure.max_open_warning": 0}):  # all are closed below
            sections = build_sections(adapters, families, measured, base=base, n_samples=n_samples)
        written = [
            path
            for section in sections
            for drawn in section.figures
            for path in save_figure(drawn.figure, folder / drawn.stem)
        ]
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    sentences = {family.title: family.sentences for family in families} or _alone(adapters, measured)
    html = _render(adapters, sentences, sections, folder, refusals, made or {})
    with replacing(page) as part:
        part.write_text(html, encoding="utf-8")
    return WrittenReport(page, tuple(written), sentences)


def _alone(adapters: AdapterSet, measured: Measured) -> dict[str, tuple[str, ...]]:
    """What can be said where there are no two adapters to compare."""
    name = adapters.names[-1]
    sentences = []
    moved = measured.drift.summary()
    for row in moved[(moved["adapter"] == name) & (moved["known"] > 0)].itertuples():
        how = "by" if row.verdict == "measured" else "by about"
        sentences.append(
            f"Training moved {row.factor} {how} {row.median:.2f} times the norm of its initialization (median of "
            f"{row.known} modules)."
        )
    frame = measured.spectra.frame[measured.spectra.frame["adapter"] == name]
    needed, rank = frame["rank_90"].median(), frame["rank"].median()
    sentences.append(
        f"90 % of the update's energy lies in {needed:.0f} of {rank:.0f} directions (median over modules)."
    )
    runs = runs_in(adapters)
    if runs:
        sentences.append(f"These are {len(adapters)} checkpoints of one run, so nothing is said about other runs.")
    else:
        sentences.append("One adapter alone cannot show what runs have in common: add other seeds or tasks for that.")
    return {name: tuple(sentences)}


def _render(
    adapters: AdapterSet,
    sentences: Mapping[str, Sequence[str]],
    sections: Sequence[Section],
    folder: Path,
    refusals: Sequence[str],
    made: Mapping[str, str],
) -> str:
    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    source = files("asym_analysis.report")
    template = environment.from_string(source.joinpath("template.html.j2").read_text("utf-8"))
    count = len(adapters)
    numbers = iter(range(1, 10_000))
    return template.render(
        title="What A and B learned",
        style=Markup(source.joinpath("style.css").read_text("utf-8")),
        script=Markup(source.joinpath("script.js").read_text("utf-8")),
        lead=(
            f"{count} adapter{'s' if count > 1 else ''}, {len(adapters.modules)} modules. A LoRA update of a weight is "
            "scaling · B·A: A reads the input, B writes the output."
        ),
        refusals=list(refusals),
        verdicts=[{"title": title, "verdict": said[0], "rest": said[1:]} for title, said in sentences.items()],
        sections=[
            {
                "id": re.sub(r"[^a-z]+", "-", section.title.lower()).strip("-"),
                "title": section.title,
                "text": section.text,
                "figures": [
                    {"svg": Markup(_inline_svg(drawn, folder)), "caption": drawn.caption} for drawn in section.figures
                ],
                "tables": [Markup(_html_table(table, next(numbers))) for table in section.tables],
            }
            for section in sections
        ],
        glossary=GLOSSARY,
        notes=NOTES,
        made=made,
        versions=versions(),
        sources=Markup(_html_table(Table(_sources(adapters), "The files, and their sha256"), next(numbers))),
    )


def _sources(adapters: AdapterSet) -> pd.DataFrame:
    rows = [
        (name, adapter.metadata.get("source", "memory"), adapter.metadata.get("sha256"))
        for name, adapter in zip(adapters.names, adapters, strict=True)
    ]
    return pd.DataFrame(rows, columns=["adapter", "file", "sha256"])


def _inline_svg(drawn: Drawn, folder: Path) -> str:
    """The figure's SVG with ids that no other figure of the page has, and words for those who cannot see it."""
    text = (folder / f"{drawn.stem}.svg").read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{drawn.stem}-", text)
    words = escape(drawn.description, quote=True)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    width = drawn.figure.get_figwidth()
    return text.replace(
        "<svg", f'<svg role="img" aria-label="{words}" style="max-width: {96 * 1.45 * width:.0f}px"', 1
    ).replace(">", f"><title>{words}</title>", 1)


def _html_table(table: Table, number: int) -> str:
    """A table with a caption, scopes, and raw values for sorting and for the download."""
    names = [name for name in (table.columns or table.frame.columns) if name in table.frame.columns]
    headings = [table.columns.get(name, str(name).replace("_", " ")) for name in names]
    numeric = [bool(pd.api.types.is_numeric_dtype(table.frame[name])) for name in names]
    lines = [f'<div class="table"><div class="scroll" tabindex="0"><table id="table-{number}">']
    lines.append(f"<caption><span>{escape(table.caption)}</span></caption><thead><tr>")
    lines += [
        f'<th scope="col"{" class=n" if is_number else ""}>{escape(heading)}</th>'
        for heading, is_number in zip(headings, numeric, strict=True)
    ]
    lines.append("</tr></thead><tbody>")
    for row in table.frame[names].itertuples(index=False, name=None):
        cells = []
        for place, (value, is_number) in enumerate(zip(row, numeric, strict=True)):
            kind, raw, shown = "th scope=row" if place == 0 else "td", "", _shown(value)
            if isinstance(value, float) and value == value:
                raw = f' data-v="{value!r}"'
            elif re.fullmatch("[0-9a-f]{64}", shown):
                raw = " class=hash"  # may break anywhere on paper
            cells.append(f"<{kind}{' class=n' if is_number else ''}{raw}>{escape(shown)}</{kind.split()[0]}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</tbody></table></div></div>")
    return "".join(lines)


def _shown(value: Any) -> str:
    if value is None or value is pd.NA or value != value or value == "":
        return "–"
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value)
