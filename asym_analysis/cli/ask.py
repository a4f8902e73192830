"""`asym ask`: one question that the works building on the asymmetry paper ask of adapters."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from asym_analysis.cli.console import Table, fail
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapters
from asym_analysis.cli.options import command

__all__ = ["register"]


class Question(StrEnum):
    """What can be asked."""

    null_space = "null-space"
    base = "base"
    initialization = "initialization"
    ranks = "ranks"
    projections = "projections"
    scaling = "intruder-scaling"
    worth = "worth"
    gradient = "first-gradient"
    experts = "experts"
    chain = "chain"
    movement = "movement"
    merge = "merge"
    crowding = "crowding"
    clusters = "clusters"
    mean = "mean"


_MANY = {Question.chain, Question.movement, Question.merge, Question.crowding, Question.clusters, Question.mean}
_FUNCTIONS = {
    Question.null_space: "null_space_energy",
    Question.base: "base_alignment",
    Question.initialization: "initialization_statistics",
    Question.ranks: "allocate_rank",
    Question.projections: "projection_terms",
    Question.scaling: "intruder_scaling",
    Question.worth: "direction_worth",
    Question.gradient: "gradient_alignment",
    Question.experts: "expert_sharing",
    Question.chain: "chain_coverage",
    Question.movement: "factor_movement",
    Question.merge: "merge_compensation",
    Question.crowding: "crowding",
    Question.clusters: "clustered_diagonalization",
    Question.mean: "mean_adapter_baseline",
}
_MEANING = {
    Question.null_space: "A row: medians over a projection; weak share of a random A is its null; energy 1 is random.",
    Question.base: "A row: medians over a projection; overlaps with the leading and last directions of W0, and chance.",
    Question.initialization: "A row: medians over a projection; initial share 1 means that A was as good as frozen.",
    Question.ranks: "A row: energy kept at the budget, allocated over the modules and with equal ranks.",
    Question.projections: "A row: a projection's share of the update and of the numbers, beside an even spread.",
    Question.scaling: "A row: intruders scaled by so much; update kept and change on general inputs, relative to 1.",
    Question.worth: "A row: rank-one parts of a projection, how many lower the loss beyond chance, and their sum.",
    Question.gradient: "A row: overlap with the leading directions of the first full gradient, and chance.",
    Question.experts: "A row: experts' energy in one shared space of that dimension, beside random directions.",
    Question.chain: "A row: a block; how much of its A lies inside the blocks before it, and chance.",
    Question.movement: "A row: an interval of the run; A's share of the change: 0, only B moved; 1, only A.",
    Question.merge: "A row: medians over a projection; what the mean keeps of each adapter, and with the best scale.",
    Question.crowding: "A row: directions that more adapters use than chance gives, a module, and the largest use.",
    Question.clusters: "A row: error of shared bases, and numbers stored over those of the separate adapters.",
    Question.mean: "A row: share of an adapter that the mean of the others explains, beside their common space.",
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("ask")(ask)


@command("ask", draws=True)
def ask(
    call: Call,
    question: Annotated[Question, typer.Argument(help="What to ask.", show_default=False)],
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="One adapter, or several where the question needs them.", show_default=False),
    ] = None,
    base: Annotated[str | None, typer.Option(help="The base model: base, intruder-scaling, projections.")] = None,
    model: Annotated[str | None, typer.Option(help="The base model with its tokenizer: null-space, worth, ...")] = None,
    data: Annotated[Path | None, typer.Option(help="Texts or images, with --model.")] = None,
    column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    budget: Annotated[int | None, typer.Option(min=1, help="Total rank: ranks; half of it by default.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Dimension of shared spaces: clusters, mean.")] = 8,
) -> int:
    """Ask one question of adapters: will it forget, new directions or old, will a merge hurt, ... with its null."""
    from asym_analysis import questions

    if question in _MANY and len(paths or ()) == 1 and not Path((paths or [""])[0]).is_dir():
        fail(f"asym ask {question.value} needs several adapters")
    adapters = read_adapters(call, paths, least=2 if question in _MANY else 1)
    subject: Any = adapters if question in _MANY else adapters[0]
    with arguments_checked():
        options = _options(question, subject, base, model, data, column, budget, rank)
        found = getattr(questions, _FUNCTIONS[question])(subject, **options)
    for module, reason in getattr(found, "refused", {}).items():
        call.refuse(f"{subject.name}: {module}", reason)
    summary = found.summary()
    return call.deliver(
        found,
        Table(
            "summary", summary, question.value, {name: name.replace("_", " ") for name in summary}, _MEANING[question]
        ),
        Table("rows", found.frame, shown=False),
        figures={question.value: found._plot} if found._plot else None,
    )


def _options(
    question: Question, subject: Any, base: str | None, model: str | None, data: Path | None, column: str,
    budget: int | None, rank: int,
) -> dict[str, Any]:  # fmt: skip
    if question in (Question.base, Question.scaling) and base is None:
        fail(f"asym ask {question.value} needs --base, the base model")
    if question in (Question.null_space, Question.worth, Question.gradient) and (model is None or data is None):
        fail(f"asym ask {question.value} needs --model and --data: inputs or gradients are measured in the base model")
    if question is Question.base or (question is Question.projections and base is not None):
        return {"base": base}
    if question is Question.scaling:
        return {"base": base}
    if question is Question.ranks:
        return {"budget": budget or max(1, sum(subject.source(module).rank for module in subject) // 2)}
    if question in (Question.clusters, Question.mean):
        return {"rank": rank}
    if question is Question.null_space:
        return {"moments": _measured(question, subject, str(model), data, column)}
    if question in (Question.worth, Question.gradient):
        return {"gradients": _measured(question, subject, str(model), data, column)}
    return {}


def _measured(question: Question, adapter: Any, model: str, data: Any, column: str) -> Any:
    from asym_analysis.adapters.applied import apply_to
    from asym_analysis.finetuning.environment import prepare_training
    from asym_analysis.finetuning.inputs import load_network, next_token_labels, read_batches
    from asym_analysis.prediction import input_covariances, weight_gradients

    prepare_training()
    network, has_loss = load_network(model)
    batches = read_batches(data, model, column=column)
    if question is Question.null_space:
        return input_covariances(network, batches, list(adapter))
    if not has_loss:
        fail(f"asym ask {question.value} needs a causal language model: {model} has no loss on plain text")
    labelled = [next_token_labels(batch) for batch in batches]
    if question is Question.gradient:
        return weight_gradients(network, labelled, list(adapter))
    with apply_to(adapter, network, head=False):
        return weight_gradients(network, labelled, list(adapter))
