"""From adapters to one self-contained HTML file, with its figures beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, select_autoescape
from markupsafe import Markup

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.atomic import replacing
from asym_analysis.plots.style import DOUBLE_COLUMN, save_figure
from asym_analysis.report.findings import NEAR_CHANCE, SAME_SUBSPACE, WELL_ABOVE
from asym_analysis.report.sections import Family, Section, build_sections, compare_families
from asym_analysis.results import versions

__all__ = ["WrittenReport", "write_report"]


@dataclass(frozen=True)
class WrittenReport:
    """What was written: the page, the figures, and the plain words for each family of adapters."""

    page: Path
    figures: tuple[Path, ...]
    sentences: Mapping[str, tuple[str, ...]]


def write_report(
    adapters: AdapterSet,
    page: str | os.PathLike[str],
    figures: str | os.PathLike[str],
    *,
    refusals: Sequence[str] = (),
    progress: bool = False,
) -> WrittenReport:
    """Compare the adapters, draw, and write one HTML file that needs no other file and no network.

    Parameters
    ----------
    adapters
        At least two adapters. A `family` column in their table splits the report into panels, each compared within
        itself.
    page
        The HTML file to write.
    figures
        The folder for the same figures as SVG and PNG.
    refusals
        Sentences on inputs that could not be read, shown at the top.
    progress
        Whether to show a progress bar.

    Returns
    -------
    WrittenReport

    Examples
    --------
    >>> import tempfile
    >>> from asym_analysis import sample_adapters
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_report(sample_adapters()[:3], folder / "report.html", folder / "figures").page.name
    'report.html'
    """
    page, figures = Path(page), Path(figures)
    families = compare_families(adapters, progress=progress)
    sections = build_sections(adapters, families)
    written = {}
    for section in sections:
        for drawn in section.figures:
            written[drawn.stem] = save_figure(drawn.figure, figures / drawn.stem)
            plt.close(drawn.figure)
    drawings = {stem: svg for stem, (svg, _) in written.items()}
    html = _render(adapters, families, sections, drawings, refusals)
    with replacing(page) as part:
        part.write_text(html, encoding="utf-8")
    paths = tuple(path for pair in written.values() for path in pair)
    return WrittenReport(page, paths, {family.title: family.sentences for family in families})


def _render(
    adapters: AdapterSet,
    families: Sequence[Family],
    sections: Sequence[Section],
    drawings: Mapping[str, Path],
    refusals: Sequence[str],
) -> str:
    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("asym_analysis.report").joinpath("template.html.j2").read_text("utf-8"))
    modules = len(adapters.modules)
    return template.render(
        title="What A and B learned",
        lead=(
            f"{len(adapters)} adapters, {modules} modules that at least two of them share. A LoRA update is "
            "scaling · B·A: A reads the input, B writes the output. This report compares the subspaces of each "
            "factor between adapters, against random subspaces of the same sizes."
        ),
        warnings=[*refusals, *_coverage_warnings(adapters)],
        families=families,
        sections=[
            {
                "title": section.title,
                "text": section.text,
                "figures": [
                    {
                        "svg": Markup(_inline_svg(drawings[drawn.stem])),
                        "caption": drawn.caption,
                        "width": f"{100 * drawn.figure.get_figwidth() / DOUBLE_COLUMN:.0f}%",
                    }
                    for drawn in section.figures
                ],
                "tables": [{"title": t.title, "html": Markup(_html_table(t.frame))} for t in section.tables],
            }
            for section in sections
        ],
        notes=_notes(),
        footer="Made with " + ", ".join(f"{name} {number}" for name, number in versions().items()) + ".",
    )


def _coverage_warnings(adapters: AdapterSet) -> list[str]:
    warnings = [f"{adapter.name}: {adapter.coverage}" for adapter in adapters if not adapter.coverage.complete]
    missing = adapters.missing
    if not missing.empty:
        example = missing.iloc[0]
        warnings.append(
            f"{missing['module'].nunique()} modules are missing in some adapters (first: {example['module']} in "
            f"{example['name']}); each pair was compared on the modules that both have."
        )
    return warnings


def _notes() -> list[str]:
    return [
        "Overlap is the mean squared cosine of the principal angles between two subspaces: 1 for the same subspace, 0 "
        "for orthogonal ones, and rank/dimension on average for random ones of equal rank. It does not change when "
        "(A, B) is replaced by (GA, BG⁻¹), which is the same update.",
        "Chance is the exact mean over random subspaces; p-values are upper tails of a Beta law with the exact mean "
        "and variance. Pairs that share an adapter are not independent: read the share of small p-values as a "
        "description, and the contrasts, which permute adapters, as the test.",
        "A similar A may only mean a shared random start. Pairs that began from the same value are marked, and "
        "compared after subtracting it where it is known.",
        f"Words: near chance is below {NEAR_CHANCE:g} times chance, well above is at least {WELL_ABOVE:g} times, "
        f"nearly the same subspace is an overlap of at least {SAME_SUBSPACE:g}. They are conventions, not tests.",
    ]


def _inline_svg(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _html_table(frame: pd.DataFrame) -> str:
    return frame.to_html(index=False, border=0, na_rep="–", float_format="{:.4g}".format, max_rows=40)
