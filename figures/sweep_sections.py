"""What figures/variants.md says of the shipped sweeps that follow the present design, a section each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from asym_analysis import check_claims, kept_gains, score_variants
from asym_analysis.finetuning.plan import read_sweep
from asym_analysis.finetuning.results.scores import VariantScores
from asym_analysis.samples import sample_sweep, sample_sweeps

__all__ = ["inside_grids", "markdown", "named_sweep", "outside", "sections", "verdicts"]

Outcomes = dict[str, dict[str, np.ndarray]]
# The sweeps that speak for a family: of each task the first that has it.
SPEAKERS = {
    "encoder": ("minilm-all-layers", "minilm-upper-layers"),
    "decoder": ("regime-map",),
    "sequence to sequence": ("pronunciation",),
    "vision": ("dinov2-domains",),
}
CLAIM = {
    "rank": "rank",
    "on": "on",
    "difference": "difference (95 %)",
    "tasks": "tasks",
    "seeds": "seeds",
    "verdict": "verdict",
}
CLAIM |= {"reason": "why", "paper": "the paper's own rows", "agrees_with_paper": "agrees"}


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, index first."""
    whole = table.rename_axis(columns=None).reset_index()

    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    return "\n".join(
        [line(whole.columns), line("---" for _ in whole), *(line(row) for row in whole.to_numpy().tolist())]
    )


@dataclass(frozen=True)
class Section:
    """One shipped sweep: its config, the paper's family, how it is introduced, and what else is said of it."""

    config: str
    family: str
    title: str
    text: str
    command: str
    data_per_row: int = 1
    more: Callable[[], list[str]] = list


def named_sweep(config: str) -> tuple[pd.DataFrame, Outcomes]:
    """A shipped sweep with its config before the names of its runs, so that several can be put together."""
    runs, outcomes = sample_sweep(config)
    return runs.assign(name=config + "/" + runs["name"]), {f"{config}/{name}": kept for name, kept in outcomes.items()}


def outside(runs: pd.DataFrame) -> pd.DataFrame:
    """The vision runs scored in the domains that they did not learn from, on average over those."""
    others = [name for name in runs if name.endswith("_accuracy") and name != "train_accuracy"]
    return runs.assign(value=runs[others].mean(axis=1), task="PACS, the other domains", name=runs["name"] + "/outside")


def verdicts() -> str:
    """Every claim on every family, by the sweep that speaks for it, adjusted over all families."""
    parts, kept = [], {}
    for family, configs in SPEAKERS.items():
        spoken: set[str] = set()
        for config in configs:
            if config not in sample_sweeps():
                continue
            runs, outcomes = named_sweep(config)
            runs = runs[~runs["task"].isin(spoken)]
            if config == "regime-map":  # the sizes are of one text: the largest speaks
                runs = runs[runs["task"] == "dialogue, 1000 windows"]
            spoken |= set(runs["task"])
            parts.append((outside(runs) if family == "vision" else runs).assign(family=family))
            kept |= outcomes
    return claims_table(pd.concat(parts), kept)


def inside_grids(runs: pd.DataFrame) -> pd.DataFrame:
    """Without variants whose best rate on a task lies at an end of its grid, of which no verdict is given."""
    ends = runs["rate_at_edge"].fillna(False).astype(bool) & (runs["variant"] != "frozen") & (runs["stage"] == "final")
    named = set(zip(runs.loc[ends, "run"], runs.loc[ends, "task"], strict=True))
    keys = zip(runs["run"], runs["task"], strict=True)
    return runs[[key not in named for key in keys]]


def claims_table(runs: pd.DataFrame, outcomes: Outcomes) -> str:
    """The verdicts of a table of runs with families, with the paper's own rows."""
    table = check_claims(score_variants(inside_grids(runs), outcomes=outcomes)).frame

    def interval(row: pd.Series) -> str:
        return (
            "" if pd.isna(row["difference"]) else f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        )

    table["difference"] = table.apply(interval, axis=1)
    table["paper"] = table["paper"].replace("", "not reported")
    table = with_ranks(table).rename(columns={"family": "on"}).set_index("claim")
    return markdown(table[list(CLAIM)].rename(columns=CLAIM))


def with_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Verdicts in the order of their claims, with the rank of the variant that each is of."""
    return table.assign(rank=table["first"].str.rsplit(" ", n=1).str[-1]).sort_values("claim", kind="stable")


def sections() -> list[str]:
    """All sections of the sweeps that ship."""
    return [part for section in SECTIONS if section.config in sample_sweeps() for part in described(section)]


def described(section: Section) -> list[str]:
    """What a shipped sweep says: kept gains, verdicts, and which part of the plan it is."""
    runs, outcomes = sample_sweep(section.config)
    scores = score_variants(runs, outcomes=outcomes)
    kept = kept_table(scores, section.data_per_row)
    final = runs[runs["stage"] == "final"]
    at_edge = final[final["rate_at_edge"].astype(bool)].drop_duplicates(["run", "task"])
    named = ", ".join(f"{run} on {task}" for run, task in zip(at_edge["run"], at_edge["task"], strict=True))
    edges = (
        f"The best rate of {named} lay at an end of its grid: no verdict is given of it."
        if named
        else "No best rate lies at an end of its grid."
    )
    count = f"{len(runs)} of {len(read_sweep(section.config))} planned runs"
    parts = [
        f"## {section.title}",
        f"{count}: {section.text} Two lengths, each variant at its own rate "
        "(searched on a seed that is not reported), rows split into halves that tune and are reported, intervals over "
        "seeds and rows.",
        scored(scores.frame),
        kept,
        *judged(runs.assign(family=section.family), outcomes),
        edges,
        *section.more(),
        f"    asym finetune {section.config} {section.command}",
    ]
    return [part for part in parts if part]


def kept_table(scores: VariantScores, data_per_row: int) -> str:
    """What each variant keeps of LoRA's gain; nothing where LoRA at its rank was not run."""
    frame = kept_gains(scores, data_per_row=data_per_row).frame
    if frame.empty:
        return ""
    cells = [f"{row.kept:.3f} ({row.low:.3f} to {row.high:.3f})" for row in frame.itertuples(index=False)]
    clear = frame["clear"].map({True: "", False: "no"})
    shown = frame.assign(kept=cells, numbers=frame["numbers_per_datum"].map("{:.3g}".format), clear=clear)
    shown = shown.sort_values(["rank", "task", "length", "variant"], ascending=[True, False, True, False])
    columns = {"task": "task", "length": "length", "variant": "variant", "rank": "rank", "numbers": "numbers a datum"}
    columns |= {"kept": "kept of LoRA's gain (95 %)", "seeds": "seeds", "clear": "LoRA's gain clear"}
    return markdown(shown[list(columns)].rename(columns=columns).set_index("task"))


def scored(frame: pd.DataFrame) -> str:
    """Mean and standard error of every run, a column a task and length."""
    pairs = zip(frame["mean"], frame["standard_error"], strict=True)
    cells = [f"{mean:.3f}" if error != error else f"{mean:.3f} ± {error:.3f}" for mean, error in pairs]
    table = frame.assign(cell=cells, column=frame["task"] + ", " + frame["length"].astype(str))
    wide = table.pivot_table(index="run", columns="column", values="cell", aggfunc="first")
    return markdown(wide.reindex(index=table["run"].unique(), columns=table["column"].unique()).fillna(""))


def judged(runs: pd.DataFrame, outcomes: Outcomes) -> list[str]:
    """The verdict of every claim, on each task and on all of them; nothing where the runs speak to none."""
    tasks = list(runs["task"].unique())
    groups = {task: runs[runs["task"] == task] for task in tasks} | ({"all": runs} if len(tasks) > 1 else {})
    parts = [
        check_claims(score_variants(inside_grids(members), outcomes=outcomes)).frame.assign(on=name)
        for name, members in groups.items()
    ]
    if not any(map(len, parts)):
        return []
    table = pd.concat([part for part in parts if len(part)])
    table = with_ranks(table)
    columns = ["rank", "on", "verdict", "statement", "change", "agrees_with_paper"]
    return [
        "Verdicts at the greater length, each task for itself and all by random effects; p-values are adjusted over "
        "the claims of a row's tasks. `change` is by how much the difference rose from the shorter one, in parts of "
        "LoRA's gain; `agrees` is with the paper's own row for the family:",
        markdown(table.set_index("claim")[columns].rename(columns={"agrees_with_paper": "agrees"}).round(3)),
    ]


def contrasts(config: str, pairs: Iterable[tuple[str, str]], text: str) -> list[str]:
    """Paired differences of runs that are no claims of the paper."""
    runs, outcomes = sample_sweep(config)
    scores = score_variants(runs, outcomes=outcomes)
    table = pd.concat([scores.contrast(*pair) for pair in pairs if set(pair) <= set(runs["run"])])
    cells = [f"{row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})" for row in table.itertuples(index=False)]
    table = table.assign(difference=cells).set_index("task")
    return [text, markdown(table[["length", "first", "second", "seeds", "difference", "metric"]])]


def elsewhere() -> list[str]:
    """The vision runs in the domains that they did not learn from, and how far below the training images they score."""
    runs, _ = named_sweep("dinov2-domains")
    away = outside(runs)
    sketch = runs.assign(value=runs["train_accuracy"] - runs["sketch_accuracy"], lower_is_better=True, metric="gap")
    return [
        "In the other three domains, on average (intervals over seeds alone: their rows are not kept):",
        scored(score_variants(away).frame),
        *judged(away.assign(family="vision"), {}),
        "From the training images to the sketches, lower is better:",
        scored(score_variants(sketch.assign(name=runs["name"] + "/gap")).frame),
    ]


PLACED = "A frozen where it is placed, less a trained or a random A; intervals over seeds and rows:"
SECTIONS = (
    Section(
        "minilm-all-layers",
        "encoder",
        "Encoder, all layers, twenty epochs",
        "MiniLM learns from 500 rows of STS-B, and from all rows of MRPC (3,667) and RTE (2,489), with adapters on all "
        "linear maps of its six layers, batches of 32, three paired seeds, products with frozen weights in bfloat16. "
        "Gains count from the frozen model with a trained head. MRPC, RTE, A alone and full fine-tuning were trained "
        "on an H100, the others on CPU cores.",
        "--data GLUE --runs RUNS",
    ),
    Section(
        "minilm-upper-layers",
        "encoder",
        "Encoder, upper layers, 1,500 rows",
        "MiniLM learns from 1,500 rows a task with adapters in its upper three layers (queries and values for STS-B, "
        "all linear maps for the others), five paired seeds, products with frozen weights in bfloat16. Gains count "
        "from the frozen model with a trained head.",
        "--data GLUE --runs RUNS",
        more=partial(
            contrasts,
            "minilm-upper-layers",
            [(name, other) for name in ("b-only-X", "b-only-G") for other in ("lora-r8", "b-only-r8")],
            PLACED,
        ),
    ),
    Section(
        "dinov2-domains",
        "vision",
        "Vision, from cartoons",
        "DINOv2-small at 84 pixels learns from 400 cartoons, as the paper does from Cartoon alone; adapters on queries "
        "and values, five paired seeds. The first tables are of held-out cartoons. Gains count from the frozen model "
        "with a trained head.",
        "--model MODELS/dinov2-small --data PACS --runs RUNS",
        more=elsewhere,
    ),
    Section(
        "pronunciation",
        "sequence to sequence",
        "Sequence to sequence, to the other accent",
        "a BART of one layer and one learns 2,500 words of the other accent, adapters on all linear maps, batches of "
        "64, three paired seeds. Gains count from the pretrained model.",
        "--data LEXICONS --runs RUNS",
    ),
    Section(
        "regime-map",
        "decoder",
        "Regime map",
        "stories260K learns dialogue with adapters on q and v, three paired seeds. Gains count from the pretrained "
        "model. The three sizes are of one text, so that pooling them is no statement about other texts.",
        "--model MODELS/stories260K --data TEXTS --runs RUNS",
        data_per_row=64,
    ),
    Section(
        "kaiming-widths",
        "decoder",
        "A frozen Kaiming B that is 5.4 times as long",
        "stories260K learns dialogue from 250 windows with A alone trained in the maps to 172 outputs (gate and up).",
        "--model MODELS/stories260K --data TEXTS --runs RUNS",
        data_per_row=64,
        more=partial(
            contrasts,
            "kaiming-widths",
            [("a-only-Km-r2", "a-only-rand-r2"), ("a-only-Km-r22", "a-only-rand-r22")],
            "Kaiming less orthonormal:",
        ),
    ),
    Section(
        "advised-factor",
        "decoder",
        "The factor chosen by module",
        "stories260K learns dialogue from 1,000 windows with adapters on all linear maps and about as many trained "
        "numbers in every variant (46,200 to 48,000).",
        "--model MODELS/stories260K --data TEXTS --runs RUNS",
        data_per_row=64,
        more=partial(
            contrasts,
            "advised-factor",
            [
                *(("advised-r13", name) for name in ("b-only-r16", "a-only-r17", "opposed-r21", "lora-r8")),
                ("b-only-r16", "lora-r8"),
            ],
            "Advised: A trained where the first gradient's index is below 1 (12 of 35 maps), B elsewhere; opposed: "
            "the other way round (rank 21).",
        ),
    ),
)
