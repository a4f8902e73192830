"""What the files hold: tensors used and left out, and what is known of each adapter."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.report.content import Section, Table
from asym_analysis.report.families import Family

__all__ = ["adapter_table", "coverage"]


def coverage(adapters: AdapterSet, families: Sequence[Family] = ()) -> Section:
    """Tensors used, ignored and refused, and what was assumed."""
    rows, text = [], []
    for name, adapter in zip(adapters.names, adapters, strict=True):
        coverage = adapter.coverage
        numbers = (len(coverage.used), len(coverage.ignored), len(coverage.refused))
        rows.append((name, len(adapter), *numbers, "; ".join(map(str, adapter.assumptions))))
    columns = ["adapter", "modules", "used", "ignored", "refused", "assumed"]
    table = pd.DataFrame(rows, columns=columns)
    if not table["refused"].any():
        files = f"{len(adapters)} files" if len(adapters) > 1 else "file"
        text.append(f"Every tensor of the {files} was used or is known to play no part in the update.")
    by_name = dict(zip(adapters.names, adapters, strict=True))
    for family in families:
        names = list(family.comparison.names)
        missing = AdapterSet([by_name[name] for name in names], {"name": names}).missing
        if not missing.empty:
            first = missing.iloc[0]
            where = f"{family.title}: " if len(families) > 1 else ""
            text.append(
                f"{where}{missing['module'].nunique()} modules are missing in some adapters (first: {first['module']} "
                f"in {first['name']}): each pair was compared on the modules that both have."
            )
    if not table["assumed"].any():
        text.append("Nothing was assumed: scale, orientation and layout are recorded in the files.")
        table = table.drop(columns="assumed")
    caption = "Tensors of each file that were used, ignored and refused, and what the files leave open."
    return Section("Coverage and assumptions", text, tables=[Table(table, caption)])


def adapter_table(adapters: AdapterSet) -> Section:
    """Labels and facts of the adapters."""
    table = adapters.table.copy()
    table.insert(0, "#", range(1, len(table) + 1))
    hidden = {"source", "sha256", "container", "dialect", "header"}
    varies: dict[str, str] = {"name": "name", "#": "#"}
    same = []
    for column in table.columns.drop(["name", "#"]):
        texts = set(table[column].astype(str))
        if column in hidden:
            continue
        if len(texts) == 1 and len(table) > 1:
            same.append(f"{str(column).replace('_', ' ')}: {texts.pop()}")
        else:
            varies[str(column)] = str(column).replace("_", " ")
    shown = dict(list(varies.items())[:12])
    left = [heading for column, heading in varies.items() if column not in shown]
    text = [f"The same for all: {', '.join(same)}."] if same else []
    text += [f"Not shown: {', '.join(left)}."] if left else []
    return Section(
        "The adapters", text, tables=[Table(table, "Adapters, their labels and what their files say", shown)]
    )
