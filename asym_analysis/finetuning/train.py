"""One fine-tuning run: transformers' Trainer underneath; on disk the adapter, its initial values and its scores."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.digest import inputs_of
from asym_analysis.finetuning.evaluation import Evaluator
from asym_analysis.finetuning.models import head_parameters, prepared_model
from asym_analysis.finetuning.progress import Reporter, as_reporter, progress_callback
from asym_analysis.finetuning.storage import (
    CHECKPOINTS,
    COURSE,
    INITIAL,
    RECORD,
    FinetuneRun,
    claim,
    last_checkpoint,
    write_adapter,
    write_run,
)
from asym_analysis.finetuning.tasks import TaskData

if TYPE_CHECKING:
    from asym_analysis.finetuning.callback import AsymmetryCallback

__all__ = ["FinetuneRun", "finetune"]


def finetune(config: FinetuneConfig, folder: str | Path, *, progress: bool | Reporter = False) -> FinetuneRun:
    """Train one adapter and write it to a folder.

    The folder gets `adapter_model.safetensors` and `adapter_config.json` (which PEFT loads), `initial.safetensors` (the
    factors before the first step, under the same keys), `outcomes.npz` (what every development row got), `run.json`
    (the settings, with digests of the data and the model), `training.parquet` (what A and B did in the course of the
    run: see `AsymmetryCallback`), `course` (the adapter on the way, if `keep_course`) and, last, `metrics.json`. An
    interrupted run of the same inputs goes on from its last checkpoint. Runs of kind "frozen" write their head in place
    of an adapter.

    Parameters
    ----------
    config : FinetuneConfig
        The settings.
    folder : path
        Where the run is written.
    progress : bool or Reporter, default False
        True shows a bar; a function is called with a `TrainingState` after every step.

    Returns
    -------
    FinetuneRun
        The folder, the metrics and the inputs.

    Raises
    ------
    FileExistsError
        If the folder already holds a finished run, or an unfinished one of other inputs.
    AdapterError
        If the data or the model cannot be read.
    """
    folder = Path(folder)
    config.task.check()
    inputs = inputs_of(config)
    claim(folder, inputs)
    source, options = model_source(config.model)
    processor = config.task.processor(source, **options)
    data = config.task.data(processor)
    prepared = prepared_model(config, data)
    model, evaluator = prepared.model, Evaluator(config, processor, data)
    trainer = _trainer(config, folder, model, processor, data, evaluator, as_reporter(progress))
    baseline, baseline_of = config.task.baseline(data), "constant guess"
    if baseline is None:
        baseline_of = "pretrained model"
        # Where no constant prediction makes sense, the pretrained model itself is what training has to beat.
        output = trainer.predict(data.dev)
        baseline = evaluator.curve_scores(output)["value"]
    counts = _trained_numbers(config, model)
    wall, cpu = time.perf_counter(), time.process_time()
    train_loss = float("nan")
    if sum(counts.values()):
        checkpoint = last_checkpoint(folder)
        recorder = _recorder(config, trainer, checkpoint)
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        if recorder is not None:
            recorder.result().to_parquet(folder / RECORD)
        train_loss = _training_loss(trainer, outcome.training_loss)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    scored = time.perf_counter()
    scores, outcomes = evaluator.final_scores(trainer)
    metrics = {
        **scores,
        "metric": config.task.metric,
        "baseline": baseline,
        "baseline_of": baseline_of,
        **_classes(config, model),
        "train_loss": train_loss,
        "steps": trainer.state.global_step,
        "train_rows": len(data.train),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "scoring_seconds": time.perf_counter() - scored,
        **counts,
        "trainable_parameters": sum(counts.values()),
        "curve": _curve(trainer, scores) if config.curve_points else [],
    }
    heads = {name: parameter.detach() for name, parameter in head_parameters(model, config)}
    write_run(folder, config, model, prepared.initial, heads, metrics, outcomes)
    return FinetuneRun(folder, metrics, inputs)


def _classes(config: FinetuneConfig, model: Any) -> dict[str, list[str]]:
    """Names of the user's own classes in the order of their numbers, which whoever uses the head needs."""
    if config.task.kind != "classification":
        return {}
    names = model.config.id2label
    return {"classes": [str(names[number]) for number in sorted(names)]}


def _trained_numbers(config: FinetuneConfig, model: Any) -> dict[str, int]:
    """How many numbers are trained: of the adapter (or of all weights), and of the head."""
    head = {name for name, _ in head_parameters(model, config)}
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    in_head = sum(size for name, size in trained.items() if name in head)
    return {"adapter_parameters": sum(trained.values()) - in_head, "head_parameters": in_head}


def _trainer(
    config: FinetuneConfig,
    folder: Path,
    model: Any,
    processor: Any,
    data: TaskData,
    evaluator: Evaluator,
    report: Reporter | None,
) -> Any:
    from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

    generates = config.task.generates
    more: dict[str, Any] = {"predict_with_generate": True} if generates else {}
    if config.curve_points:
        more |= {"eval_strategy": "steps", "eval_steps": 1 / config.curve_points}
    arguments = (Seq2SeqTrainingArguments if generates else TrainingArguments)(
        output_dir=str(folder / CHECKPOINTS),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=4 * config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        lr_scheduler_type="linear",
        train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        length_column_name="length",
        bf16=config.bf16,
        # transformers refuses bfloat16 where it finds no accelerator, unless a CPU is asked for.
        use_cpu=not torch.accelerator.is_available(),
        seed=config.seed,
        save_strategy="steps" if config.save_steps or config.max_steps else "epoch",
        save_steps=config.save_steps or max(1, (config.max_steps or 500) // 4),
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["labels"],
        **more,
    )

    class Runner(Seq2SeqTrainer if generates else Trainer):  # type: ignore[misc]
        def _get_eval_sampler(self, eval_dataset: Any) -> Any:
            """In a known order: transformers would shuffle by length, and rows could not be told apart."""
            return evaluator.order.tolist()

        def create_optimizer(self, model: Any = None) -> Any:
            """With the head at its own learning rate."""
            optimizer = super().create_optimizer(model)
            if config.head_learning_rate is not None:
                _own_rate(optimizer, {id(p) for _, p in head_parameters(self.model, config)}, config.head_learning_rate)
            return optimizer

    def kept(logits: Any, labels: Tensor) -> Any:
        return config.task.reduce(logits, labels, processor)

    trainer = Runner(
        model=model,
        args=arguments,
        train_dataset=data.train,
        eval_dataset=data.dev,
        data_collator=config.task.collator(processor),
        processing_class=processor,
        compute_metrics=evaluator.curve_scores if config.curve_points else None,
        optimizers=(_lorafa(config, model), None),
        preprocess_logits_for_metrics=None if generates else kept,
        callbacks=[
            _last_scores_once(),
            *([] if report is None else [progress_callback(folder.name, report)]),
            *([_course(config, folder)] if config.keep_course and config.parsed_variant is not None else []),
        ],
    )
    # Without a progress bar the Trainer prints its logs on standard output, which belongs to results.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _recorder(config: FinetuneConfig, trainer: Any, checkpoint: str | None) -> AsymmetryCallback | None:
    """Record A and B about twenty times in a run, at most every ten steps, which costs about a hundredth of a run."""
    if config.parsed_variant is None or (checkpoint is not None and not (Path(checkpoint) / INITIAL).is_file()):
        return None
    from asym_analysis.finetuning.callback import AsymmetryCallback

    rows = -(-len(trainer.train_dataset) // (config.batch_size * config.gradient_accumulation))
    steps = config.max_steps or int(config.epochs * rows)
    return AsymmetryCallback(every=max(10, steps // 20)).attach(trainer)


def _own_rate(optimizer: Any, parameters: set[int], rate: float) -> None:
    """Move some parameters of an optimizer into groups of their own learning rate."""
    for group in list(optimizer.param_groups):
        head = [parameter for parameter in group["params"] if id(parameter) in parameters]
        if head:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in parameters]
            options = {key: value for key, value in group.items() if key not in ("params", "lr")}
            optimizer.add_param_group({**options, "params": head, "lr": rate})


def _lorafa(config: FinetuneConfig, model: Any) -> Any:
    """PEFT's LoRA-FA optimizer where it is asked for; None leaves the Trainer its AdamW."""
    if config.optimizer == "adamw":
        return None
    from peft.optimizers import create_lorafa_optimizer

    if config.parsed_variant is None or config.parsed_variant.tuned != "B" or config.other is not None:
        raise AdapterError(f"the LoRA-FA optimizer freezes A, which {config.variant!r} trains; use optimizer = 'adamw'")
    return create_lorafa_optimizer(
        model, r=config.rank, lora_alpha=config.alpha, lr=config.learning_rate, weight_decay=config.weight_decay
    )


def _training_loss(trainer: Any, mean: float) -> float:
    """The mean training loss of the last logged stretch; that of the whole run where it was too short for one."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return float(losses[-1] if losses else mean)


def _last_scores_once() -> Any:
    """A callback that leaves the scores at the last step to the final scoring, which takes them in any case."""
    from transformers import TrainerCallback

    class Once(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= state.max_steps:
                control.should_evaluate = False

    return Once()


def _course(config: FinetuneConfig, folder: Path) -> Any:
    """A callback that keeps the adapter after 1, 2, 4, ... steps."""
    from transformers import TrainerCallback

    class Course(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step.bit_count() == 1:
                write_adapter(folder / COURSE / f"checkpoint-{state.global_step}", config, model)

    return Course()


def _curve(trainer: Any, scores: dict[str, float]) -> list[dict[str, Any]]:
    """Scores and losses of the development rows in the course of training, the final ones last."""
    names = {
        "step": "step",
        "epoch": "epoch",
        "loss": "eval_loss",
        "value": "eval_value",
        "tune_value": "eval_tune_value",
    }
    entries = [entry for entry in trainer.state.log_history if "eval_value" in entry]
    rows = [{name: entry[key] for name, key in names.items() if key in entry} for entry in entries]
    last = {"step": trainer.state.global_step, "epoch": trainer.state.epoch}
    return [*rows, last | {name: scores[name] for name in ("loss", "value", "tune_value") if name in scores}]
