"""One fine-tuning run: transformers' Trainer underneath; on disk the adapter, its start and its scores."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asym_analysis.atomic import replacing
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.application import apply_variant
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.tasks import Task, TaskData
from asym_analysis.finetuning.variants import Variant
from asym_analysis.results import plain

__all__ = ["FinetuneRun", "adapted_model", "finetune", "pretrained_model"]

CONFIG, METRICS, INITIAL, CHECKPOINTS = "run.json", "metrics.json", "initial.safetensors", "checkpoints"


@dataclass(frozen=True)
class FinetuneRun:
    """A finished run: its folder, its settings and its development scores."""

    folder: Path
    config: FinetuneConfig
    metrics: dict[str, Any]


def pretrained_model(config: FinetuneConfig) -> Any:
    """The model of a run before an adapter is put on it, with the head of its task, in the run's dtype."""
    from transformers import set_seed

    source, options = model_source(config.model)
    options["dtype"] = getattr(torch, config.dtype)
    if config.device_map:
        options["device_map"] = config.device_map
    set_seed(config.seed)
    model = config.task.model(source, **options)
    if "gguf_file" in options:
        # transformers has dequantized the weights, but still calls them quantized and would refuse to train.
        model.is_quantized, model.hf_quantizer = False, None
        del model.config.quantization_config
    return model


def adapted_model(config: FinetuneConfig) -> tuple[Any, dict[str, Tensor]]:
    """The pretrained model with the adapter on it, started as the variant says, and a copy of the initial factors.

    The head, where the task has one, starts from `config.seed`.

    Raises
    ------
    AdapterError
        If the model has no module of those names.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils.error import NoMatchingPeftModuleError

    targets = config.target_modules
    base = pretrained_model(config)
    layout = LoraConfig(
        task_type=config.task.peft_task_type,
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(config.task.heads) or None,
    )
    try:
        model = get_peft_model(base, layout)
    except NoMatchingPeftModuleError:
        names = {
            name.rsplit(".", 1)[-1] for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)
        }
        raise AdapterError(
            f"{config.model} has no module {targets} to adapt; its linear modules end in {', '.join(sorted(names))}"
        ) from None
    dtype = getattr(torch, config.storage_dtype)
    initial = apply_variant(model, Variant.parse(config.variant), config.factor_seed, storage_dtype=dtype)
    return model, {key: value.to(dtype) for key, value in initial.items()}


def finetune(config: FinetuneConfig, folder: str | Path, *, progress: bool = False) -> FinetuneRun:
    """Train one adapter and write it to `folder`.

    The folder gets `adapter_model.safetensors` and `adapter_config.json` (which PEFT loads), `initial.safetensors` (the
    factors before the first step, under the same keys), `run.json` (the settings) and, last, `metrics.json`. An
    interrupted run of the same settings goes on from its last checkpoint.

    Parameters
    ----------
    config
        The settings.
    folder
        Where the run is written.
    progress
        Show transformers' progress bar.

    Raises
    ------
    FileExistsError
        If the folder already holds a finished run, or an unfinished one of other settings.
    AdapterError
        If the data or the model cannot be read.
    """
    folder = Path(folder)
    _claim(folder, config)
    source, options = model_source(config.model)
    processor = config.task.processor(source, **options)
    data = config.task.data(processor)
    model, initial = adapted_model(config)
    trainer = _trainer(config, folder, model, processor, data, progress)
    baseline = config.task.baseline(data)
    if baseline is None:
        # Where no constant prediction makes sense, the pretrained model itself is what training has to beat.
        baseline = _scores(config.task, trainer, TaskData(data.train, data.dev), processor)[config.task.metric]
    start = time.perf_counter()
    outcome = trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    seconds = time.perf_counter() - start
    scores = _scores(config.task, trainer, data, processor)
    metrics = {
        **scores,
        "metric": config.task.metric,
        "value": scores[config.task.metric],
        "baseline": baseline,
        "train_loss": _training_loss(trainer, outcome.training_loss),
        "steps": trainer.state.global_step,
        "seconds": seconds,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    _write(folder, config, model, initial, metrics)
    return FinetuneRun(folder, config, metrics)


def _claim(folder: Path, config: FinetuneConfig) -> None:
    """Refuse a folder that holds anything but this very run, unfinished; leave the settings in it."""
    if (folder / METRICS).exists():
        raise FileExistsError(f"{folder} already holds a finished run; choose another folder or remove it")
    settings = plain(config.as_mapping())
    if (folder / CONFIG).exists():
        if json.loads((folder / CONFIG).read_text(encoding="utf-8")) != settings:
            raise FileExistsError(
                f"{folder} holds an unfinished run of other settings; choose another folder or remove it"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no run; choose another folder")
    with replacing(folder / CONFIG) as part:
        part.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _last_checkpoint(folder: Path) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint

    return get_last_checkpoint(str(folder / CHECKPOINTS)) if (folder / CHECKPOINTS).is_dir() else None


def _trainer(config: FinetuneConfig, folder: Path, model: Any, processor: Any, data: TaskData, progress: bool) -> Any:
    from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

    generates = config.task.generates
    more: dict[str, Any] = {"predict_with_generate": True} if generates else {}
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
        seed=config.seed,
        save_strategy="steps" if config.save_steps else "epoch",
        save_steps=config.save_steps or 500,
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=50,
        report_to=[],
        disable_tqdm=not progress,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["labels"],
        **more,
    )

    def kept(logits: Any, labels: Tensor) -> Any:
        return config.task.reduce(logits, labels, processor)

    trainer = (Seq2SeqTrainer if generates else Trainer)(
        model=model,
        args=arguments,
        train_dataset=data.train,
        eval_dataset=data.dev,
        data_collator=config.task.collator(processor),
        processing_class=processor,
        optimizers=(_lorafa(config, model), None),
        preprocess_logits_for_metrics=None if generates else kept,
    )
    # Without a progress bar the Trainer prints its logs on standard output, which belongs to results.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _lorafa(config: FinetuneConfig, model: Any) -> Any:
    """PEFT's LoRA-FA optimizer where it is asked for; None leaves the Trainer its AdamW."""
    if config.optimizer == "adamw":
        return None
    from peft.optimizers import create_lorafa_optimizer

    if Variant.parse(config.variant).tuned != "B":
        raise AdapterError(f"the LoRA-FA optimizer freezes A, which {config.variant!r} trains; use optimizer = 'adamw'")
    return create_lorafa_optimizer(
        model, r=config.rank, lora_alpha=config.alpha, lr=config.learning_rate, weight_decay=config.weight_decay
    )


def _scores(task: Task, trainer: Any, data: TaskData, processor: Any) -> dict[str, float]:
    """The metrics and the mean loss of the development rows, and of each further set with its name before them."""
    scores: dict[str, float] = {}
    for name, rows in {"": data.dev, **data.more}.items():
        output = trainer.predict(rows)
        predictions = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        found = task.score(predictions, output.label_ids, processor)
        if "test_loss" in output.metrics:
            found = {"loss": float(output.metrics["test_loss"])} | found
        scores |= {f"{name}_{metric}" if name else metric: value for metric, value in found.items()}
    return scores


def _training_loss(trainer: Any, whole: float) -> float:
    """The mean training loss of the last logged stretch; that of the whole run where it was too short for one."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return float(losses[-1] if losses else whole)


def _write(
    folder: Path, config: FinetuneConfig, model: Any, initial: dict[str, Tensor], metrics: dict[str, Any]
) -> None:
    """The adapter as PEFT writes it, the initial factors beside it, and last the metrics: then the run is finished."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    dtype = getattr(torch, config.storage_dtype)
    state = {
        key: value.detach().cpu().to(dtype).contiguous()
        for key, value in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    with replacing(folder / "adapter_model.safetensors") as part:
        save_file(state, part, metadata={"format": "pt"})
    with replacing(folder / INITIAL) as part:
        save_file({key: value.contiguous() for key, value in initial.items()}, part, metadata={"format": "pt"})
    layout = model.peft_config["default"]
    layout.base_model_name_or_path = config.base_model or config.model
    layout.inference_mode = True
    # True promises PEFT's own start, which tools that reconstruct it rely on; any other is the user's own.
    variant = Variant.parse(config.variant)
    layout.init_lora_weights = (variant.A.initialization, variant.B.initialization) == ("kaiming", "zero")
    layout.save_pretrained(str(folder))
    with replacing(folder / METRICS) as part:
        part.write_text(json.dumps(plain(metrics), indent=1), encoding="utf-8")
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
