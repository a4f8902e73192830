"""`asym ask`: one question that the works building on the asymmetry paper ask of adapters."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from asym_analysis.cli.console import DONE, Table, define, fail
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, base_source, read_adapters
from asym_analysis.cli.options import command

if TYPE_CHECKING:
    from asym_analysis.adapters.adapter import Adapter

__all__ = ["ask"]


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


class _Asked(NamedTuple):
    """A question's function in `asym_analysis.questions`, its words, what a row of its summary means, what it takes."""

    function: str
    title: str
    row: str
    many: bool = False
    base: Literal["no", "may", "must"] = "no"
    measured: str | None = None  # the argument that --model and --data fill
    must_measure: bool = False


_ASKED = {
    Question.null_space: _Asked(
        "null_space_energy",
        "Will it forget?",
        "medians over a projection. Weak share: of A's row space in the directions of least variance of general "
        "inputs; null: of a random A. Energy: output on general inputs over that of a random A (1: no care taken), and "
        "of ΔW.",
        base="may",
        measured="moments",
        must_measure=True,
    ),
    Question.base: _Asked(
        "base_alignment",
        "New directions or old ones?",
        "medians over a projection. Top, bottom: overlap of A's rows, or B's columns, with the leading and the last "
        "singular directions of W0; null: of random ones. Amplification: ‖ΔW‖ over what W0 has in those directions.",
        base="must",
    ),
    Question.initialization: _Asked(
        "initialization_statistics",
        "Which factor did the work?",
        "medians over a projection. Initial share: of ΔW = B·A0 + B·(A - A0), the first part's; 1: A was as good as "
        "frozen. Cosine: of the two parts. Rate ratio: step of B over step of A in ΔW. Moved: relative distance. Turn: "
        "in radians. B condition: largest over smallest singular value.",
        measured="moments",
    ),
    Question.ranks: _Asked(
        "allocate_rank",
        "A smaller adapter at equal effect?",
        "a total rank; energy kept if it goes where it keeps most, and with the same rank everywhere.",
        measured="moments",
    ),
    Question.projections: _Asked(
        "projection_terms",
        "Tune which projections?",
        "a projection; its share of ‖ΔW‖² and of the numbers, and its share of the modules, which an even spread "
        "gives. Relative norm: ‖ΔW‖/‖W0‖, with --base. Bound without: the parameter-count bound if it is left out, "
        "relative.",
        base="may",
    ),
    Question.scaling: _Asked(
        "intruder_scaling",
        "Repair without retraining?",
        "intruders scaled by so much. Change: ‖W - W0‖ over ‖ΔW‖; task kept: of ΔW, by inner product; general change: "
        "on general inputs, relative to scale 1; uniform: the same if all of ΔW is scaled until as much is kept.",
        base="must",
        measured="moments",
    ),
    Question.worth: _Asked(
        "direction_worth",
        "Which rank-one parts earn their place?",
        "rank-one parts of a projection, how many lower the loss beyond chance, and their sum.",
        measured="gradients",
        must_measure=True,
    ),
    Question.gradient: _Asked(
        "gradient_alignment",
        "Was the answer visible at step one?",
        "overlap with the leading directions of the first full gradient, and of random ones.",
        measured="gradients",
        must_measure=True,
    ),
    Question.experts: _Asked(
        "expert_sharing",
        "One A for all experts?",
        "energy of the experts, or of several adapters, in one space of that dimension; null: random directions.",
    ),
    Question.chain: _Asked(
        "chain_coverage",
        "When does a chain of frozen-A blocks equal full training?",
        "a block. Union rank: dimension of all A so far, and the most it could be. Inside: share of its A in the "
        "blocks before it; null: of a random A.",
        many=True,
    ),
    Question.movement: _Asked(
        "factor_movement",
        "Which factor moved when?",
        "two checkpoints in a row. Moved: change of a factor relative to the later one; A share: of ΔW's change, 0: "
        "only B moved, 1: only A; even share: if both moved by the same relative "
        "distance. Turn: one minus the overlap of the space with that before.",
        many=True,
    ),
    Question.merge: _Asked(
        "merge_compensation",
        "Will merging these hurt, and what mends it?",
        "medians over a projection. Error: share of each adapter that the mean loses on its own inputs; orthogonal: of "
        "adapters with nothing in common; scaled, weighted: with the best factors; optimum: of the best update. "
        "Without --model and --data the last three hold for inputs that the other adapters do not read.",
        many=True,
        measured="moments",
    ),
    Question.crowding: _Asked(
        "crowding",
        "Why does this merge fail?",
        "a projection; directions that more adapters use than 99 % of random families give, a module, and by chance; "
        "the largest use is a number of adapters, null high: what 99 % of random families stay below.",
        many=True,
    ),
    Question.clusters: _Asked(
        "clustered_diagonalization",
        "A thousand adapters in how many bytes?",
        "so many groups with one pair of bases each; error of the updates, and null: of the same spectra in random "
        "directions; bytes stored, each: of one more adapter; operations: multiplications a token.",
        many=True,
    ),
    Question.mean: _Asked(
        "mean_adapter_baseline",
        "Is the shared subspace more than the mean?",
        "an adapter; share of its ΔW that the mean of the others explains, beside the best common space and a "
        "random one.",
        many=True,
    ),
}


@command("ask", draws=True)
def ask(
    call: Call,
    question: Annotated[
        Question | None, typer.Argument(help="What to ask; without it, the questions.", show_default=False)
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="One adapter, or several where the question needs them.", show_default=False),
    ] = None,
    base: Annotated[str | None, typer.Option(help="The base: base, intruder-scaling, projections, null-space.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The base with its tokenizer, to measure inputs or gradients in it.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Texts or images, with --model; for merge one for each adapter, in order.")
    ] = None,
    task_data: Annotated[Path | None, typer.Option(help="The task's own texts or images: null-space.")] = None,
    column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    budget: Annotated[int | None, typer.Option(min=1, help="Total rank: ranks; half of it by default.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Dimension of shared spaces: clusters, mean.")] = 8,
    save: Annotated[
        Path | None, typer.Option(help="Folder for the adapter that the answer makes: ranks, merge (the best update).")
    ] = None,
) -> int:
    """Ask one question of adapters: will it forget, new directions or old, will a merge hurt, ... with its null."""
    if question is None:
        define({each.value: _ASKED[each].title for each in Question})
        return DONE
    from asym_analysis import questions

    asked = _ASKED[question]
    adapters = read_adapters(call, paths, least=2 if asked.many else 1)
    several = asked.many or (question is Question.experts and len(adapters) > 1)
    subject: Any = adapters if several else adapters[0]
    _check(question, asked, len(adapters), base, model, data)
    if save is not None and question not in (Question.ranks, Question.merge):
        fail(f"asym ask {question.value} makes no adapter: --save is for ranks and merge")
    with arguments_checked():
        if question is Question.null_space and base is None and Path(str(model)).exists():
            base = model
        options: dict[str, Any] = {} if asked.base == "no" or base is None else {"base": base_source(base)}
        if model is not None and data:
            options |= _measured(question, adapters, model, data, task_data, column)
        if question is Question.ranks:
            options["budget"] = budget or max(1, sum(subject.source(module).rank for module in subject) // 2)
        if question in (Question.clusters, Question.mean):
            options["rank"] = rank
        found = getattr(questions, asked.function)(subject, **options)
    for module, reason in getattr(found, "refused", {}).items():
        call.refuse(f"{adapters[0].name}: {module}", reason)
    if save is not None:
        call.note(f"written: {_made(question, found, adapters, options).save(save)}")
    summary = found.summary()
    return call.deliver(
        found,
        Table("summary", summary, f"{_names(subject)}: {asked.title}", below=f"A row: {asked.row}"),
        Table("rows", found.frame, shown=False),
        figures={question.value: found._plot} if found._plot else None,
    )


def _names(subject: Any) -> str:
    """One adapter's name, or how many there are."""
    return subject.name if hasattr(subject, "name") else f"{len(subject)} adapters"


def _made(question: Question, found: Any, adapters: Any, options: dict[str, Any]) -> Adapter:
    """The adapter with the ranks that were found, or the best merge."""
    from asym_analysis.questions import best_merge

    if question is Question.ranks:
        return adapters[0].truncate(rank=found.rank_pattern)
    return best_merge(adapters, moments=options.get("moments"))


def _check(
    question: Question, asked: _Asked, adapters: int, base: str | None, model: str | None, data: list[Path] | None
) -> None:
    """Refuse, in a sentence, a question that lacks what it needs or is given data that it has no use for."""
    name = f"asym ask {question.value}"
    if asked.base == "must" and base is None:
        fail(f"{name} needs --base, the base model")
    if asked.must_measure and (model is None or not data):
        fail(f"{name} needs --model and --data: inputs or gradients are measured in the base model")
    if asked.measured is None and (model is not None or data):
        fail(f"{name} has no use for --model and --data: it reads the files alone")
    if (model is None) != (not data):
        fail(f"{name} needs --model and --data together: inputs are measured in the base model")
    wanted = adapters if question is Question.merge else 1
    if data and len(data) != wanted:
        fail(f"{name} needs --data {wanted} times, once for each adapter in order; it was given {len(data)} times")


def _measured(
    question: Question, adapters: Any, model: str, data: list[Path], task_data: Path | None, column: str
) -> dict[str, Any]:
    """What is measured in the base model: moments of the inputs, or gradients of the loss on plain text."""
    from asym_analysis.finetuning.environment import prepare_training
    from asym_analysis.finetuning.inputs import load_network, next_token_labels, read_batches
    from asym_analysis.prediction import input_covariances, path_gradients, weight_gradients

    prepare_training()
    network, has_loss = load_network(model)
    batches = [read_batches(path, model, column=column) for path in data]
    modules = list(adapters[0])
    if question is Question.merge:
        modules = list(dict.fromkeys(module for adapter in adapters for module in adapter))
        return {"moments": [input_covariances(network, part, modules) for part in batches]}
    if _ASKED[question].measured == "moments":
        found: dict[str, Any] = {"moments": input_covariances(network, batches[0], modules)}
        if question is Question.null_space and task_data is not None:
            found["task_moments"] = input_covariances(network, read_batches(task_data, model, column=column), modules)
        return found
    if not has_loss:
        fail(f"asym ask {question.value} needs a causal language model: {model} has no loss on plain text")
    labelled = [next_token_labels(batch) for batch in batches[0]]
    if question is Question.gradient:
        return {"gradients": weight_gradients(network, labelled, modules)}
    return {"gradients": path_gradients(adapters[0], network, labelled)}
