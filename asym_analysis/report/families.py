"""Which adapters are compared with which: families, the last checkpoint of each run, and parts of a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.runs import last_of_runs, runs_of
from asym_analysis.adapters.shared_initialization import shared_initialization
from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.report.findings import family_sentences

__all__ = ["Family", "compare_families", "part_of", "parts_of", "runs_in"]

_PARTS = (
    ("cross-attention", r"cross_?attn|crossattention|encoder_attn|encdecattention|multihead_attn"),
    ("vision", r"(^|\.)(vision|visual|image)"),
    ("decoder", r"(^|\.)decoder(\.|$)|(^|\.)decoder_"),
    ("encoder", r"(^|\.)encoder(\.|$)|(^|\.)encoder_"),
    ("text", r"(^|\.)(text|lora_te|text_model)"),
)


@dataclass(frozen=True)
class Family:
    """Adapters that are compared among themselves, what came of it, and in which words: the verdict first."""

    title: str
    comparison: SubspaceComparison
    sentences: tuple[str, ...]


def compare_families(adapters: AdapterSet, *, progress: bool = False) -> list[Family]:
    """Compare the adapters of each family: those of one value of the table's `family` column, or of one model.

    Of a training run's checkpoints only the last takes part: the others are its past, and no further runs.

    Parameters
    ----------
    adapters
        One or more adapters.
    progress
        Whether to show a progress bar.

    Returns
    -------
    list of Family
        Empty where no family has two adapters.
    """
    last = last_of_runs(adapters)
    chosen = adapters.select(last) if not all(last) else adapters
    families = []
    for title, members in _families(chosen).items():
        comparison = compare_subspaces(members, progress=progress)
        sentences = family_sentences(comparison, _what_training_added(members, comparison), _shared(members))
        families.append(Family(title, comparison, (*sentences, *_by_task(comparison))))
    return families


def runs_in(adapters: AdapterSet) -> dict[str, AdapterSet]:
    """The checkpoints of each training run that has several with a known step, under the run's short name."""
    runs = runs_of(adapters)
    found = {}
    for run in dict.fromkeys(run for run in runs if run is not None):
        chosen = [
            mine == run and adapter.metadata.get("step") is not None
            for mine, adapter in zip(runs, adapters, strict=True)
        ]
        if sum(chosen) > 1:
            found[run.rstrip("/").rsplit("/", 1)[-1]] = adapters.select(chosen)
    return found


def part_of(module: str) -> str:
    """The part of the network that a module is in: encoder, decoder, cross-attention, vision, text, or ""."""
    return next((part for part, pattern in _PARTS if re.search(pattern, module.lower())), "")


def parts_of(modules: Sequence[str]) -> dict[str, list[str]]:
    """Part of the network -> its modules; one part without a name where they are all in the same."""
    found: dict[str, list[str]] = {}
    for module in modules:
        found.setdefault(part_of(module), []).append(module)
    if len(found) == 1:
        return {"": [*modules]}
    return {part or "other modules": chosen for part, chosen in found.items()}


def _families(adapters: AdapterSet) -> dict[str, AdapterSet]:
    if len(adapters) < 2:
        return {}
    if "family" not in adapters.table.columns:
        return _by_model(adapters)
    column = adapters.table["family"]
    groups = {str(family).replace("_", " "): adapters.select(column == family) for family in column.unique()}
    return {title: members for title, members in groups.items() if len(members) > 1} or {"all adapters": adapters}


def _by_model(adapters: AdapterSet) -> dict[str, AdapterSet]:
    """Adapters that share modules, directly or through others: those of different models have nothing to compare."""
    groups: list[tuple[set[str], list[int]]] = []
    for number, adapter in enumerate(adapters):
        joined = [group for group in groups if group[0] & set(adapter)]
        groups = [group for group in groups if group not in joined]
        modules = set(adapter).union(*(group[0] for group in joined))
        groups.append((modules, sorted([number, *(i for group in joined for i in group[1])])))
    several = sorted(places for _, places in groups if len(places) > 1)
    if len(groups) == 1 or not several:
        return {"all adapters": adapters}
    titles = [_title([adapters.names[place] for place in places]) for places in several]
    if "" in titles or len(set(titles)) < len(titles):
        titles = [f"model {number}" for number in range(1, len(several) + 1)]
    return {
        title: adapters.select([place in places for place in range(len(adapters))])
        for title, places in zip(titles, several, strict=True)
    }


def _title(names: Sequence[str]) -> str:
    """What the names have in common, without a number or the word before it."""
    letters = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    return re.sub(r"[-_/. ]*(seed|run|checkpoint|step)?[-_/. \d]*$", "", "".join(one for one, _ in letters))


def _by_task(comparison: SubspaceComparison) -> list[str]:
    """Whether pairs of the same task are more alike than others, where no pair shares its initialization."""
    if "task" not in comparison.adapters or (comparison.initialization_marks == 1).any():
        return []
    try:
        contrast = comparison.contrast(by="task").summary()
    except ValueError:  # every adapter has the same task, each its own, or there are too few
        return []
    told = contrast[(contrast["p_value"] < 0.01) & (contrast["low"] > 0)]
    columns = (told[name] for name in ("factor", "difference", "low", "high"))
    return [
        f"Pairs of the same task are more alike in {factor} than pairs of different tasks, by {value:.3f} (95 % "
        f"interval {low:.3f} to {high:.3f})."
        for factor, value, low, high in zip(*columns, strict=True)
    ]


def _shared(members: AdapterSet) -> dict[str, float]:
    """Share of the pairs and modules that share the initialization of each factor, where it was random."""
    marks = shared_initialization(members).frame
    return {str(factor): float((rows["shared"] == "yes").mean()) for factor, rows in marks.groupby("factor")}


def _what_training_added(members: AdapterSet, comparison: SubspaceComparison) -> SubspaceComparison | None:
    """A - A0 compared, where all pairs share their initialization and it is known; None elsewhere."""
    shared = comparison.frame["same_initialization"].fillna(False)
    if not shared.all() or any(adapter.initial is None for adapter in members):
        return None
    return compare_subspaces(members, factors=("A",), subtract_initial=True)
