"""The Trainer's callback against what the saved checkpoints say afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

from asym_analysis import (
    AdapterError,
    AsymmetryCallback,
    adapter_spectra,
    checkpoint_trajectories,
    initialization_drift,
    load_adapter,
)


def tiny(lora: bool = True, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=32,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    if not lora:
        return model
    targets = {"target_modules": ["query", "value", "intermediate.dense"]}
    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, **targets | options))


def trainer(model: Any, folder: Path, callbacks: Any = (), **options: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(40, (64, 8), generator=generator)
    rows = [{"input_ids": row, "labels": int(row[0] % 2)} for row in ids]
    settings = {"max_steps": 8, "logging_steps": 2, "save_steps": 4, "report_to": [], "disable_tqdm": True}
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=8, learning_rate=1e-2, use_cpu=True, **settings | options
    )
    return Trainer(model, arguments, train_dataset=rows, callbacks=list(callbacks))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, AsymmetryCallback, list[dict[str, Any]]]:
    """A trained run, and the logs that a callback which stood there before saw."""
    from transformers import TrainerCallback

    seen: list[dict[str, Any]] = []

    class Reporter(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append(dict(logs))

    folder = tmp_path_factory.mktemp("run")
    training = trainer(tiny(), folder, [Reporter()])
    callback = AsymmetryCallback().attach(training)
    training.train()
    training.save_model()
    return folder, training, callback, seen


def test_the_movement_is_that_of_the_saved_checkpoints(run: Any) -> None:
    folder, _, callback, _ = run
    for step in (4, 8):
        drift = initialization_drift(folder / f"checkpoint-{step}").frame.set_index(["module", "factor"])
        frame = callback.result().frame.query("step == @step").set_index(["module", "factor"])
        assert set(drift.verdict) == {"measured", "recorded zero"}
        assert len(frame) == 12
        assert set(frame.index) == set(drift.index)
        for column in ("value", "norm"):
            np.testing.assert_allclose(frame[column], drift[column].loc[frame.index], rtol=1e-4)


def test_overlaps_and_ranks_are_those_of_the_saved_checkpoints(run: Any) -> None:
    folder, _, callback, _ = run
    frame = callback.result().frame.query("step == 8").set_index(["module", "factor"])
    spectra = adapter_spectra(folder / "checkpoint-8").frame.set_index("module").effective_rank
    A = frame.xs("A", level="factor")
    np.testing.assert_allclose(A.effective_rank, spectra.loc[A.index], rtol=1e-3)
    last = load_adapter(folder / "checkpoint-8")
    for module, row in A.iterrows():
        now, then = (torch.linalg.qr(each[module].A.double().mT).Q for each in (last, last.initial))
        assert row.to_initial == pytest.approx(((now.mT @ then) ** 2).sum().item() / 4, rel=1e-4)
    assert (A.to_initial < 1).all()


def test_the_previous_step_is_the_one_recorded_before(tmp_path: Path) -> None:
    training = trainer(tiny(), tmp_path, logging_steps=4)
    callback = AsymmetryCallback().attach(training)
    training.train()
    saved = [tmp_path / "checkpoint-4", tmp_path / "checkpoint-8"]
    expected = checkpoint_trajectories(saved).frame.query("step == 8").set_index(["module", "factor"]).to_first
    found = callback.result().frame.query("step == 8").set_index(["module", "factor"]).to_previous
    np.testing.assert_allclose(found, expected.loc[found.index], rtol=1e-4)


def test_the_recorded_initialization_is_read_back(run: Any) -> None:
    folder, _, _, _ = run
    fresh = load_adapter(tiny())
    for place in ("checkpoint-4", "checkpoint-8", "."):
        adapter = load_adapter(folder / place / "adapter_model.safetensors")
        assert adapter.initial is not None
        for module in fresh:
            assert torch.equal(adapter.initial[module].A, fresh[module].A)
            assert not adapter.initial[module].B.any()


def test_the_log_and_the_reporters_have_the_medians(run: Any) -> None:
    _, training, callback, seen = run
    keys = {"asym_A_movement", "asym_B_norm", "asym_A_overlap_initial", "asym_effective_rank"}
    entries = [entry for entry in training.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [2, 4, 6, 8]
    assert all(keys <= set(entry) for entry in entries)
    assert [keys <= set(logs) for logs in seen] == [True] * 4 + [False]
    assert ["asym_B_overlap_previous" in entry for entry in entries] == [False, True, True, True]
    summary = callback.result().summary().query("factor == 'A'")
    assert summary.value.tolist() == [entry["asym_A_movement"] for entry in entries]


def test_a_resumed_run_keeps_the_first_initialization(run: Any, tmp_path: Path) -> None:
    training = trainer(tiny(), tmp_path, max_steps=4)
    AsymmetryCallback().attach(training)
    training.train()
    again = trainer(tiny(), tmp_path)
    callback = AsymmetryCallback().attach(again)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    drift = initialization_drift(tmp_path / "checkpoint-8", load_adapter(tiny())).frame.query("factor == 'A'").value
    found = callback.result().frame.query("step == 8 and factor == 'A'").value
    np.testing.assert_allclose(np.sort(found), np.sort(drift), rtol=1e-4)
    (tmp_path / "checkpoint-4" / "initial.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"goes on at step 4 and .* is missing"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_every_and_the_last_step(tmp_path: Path) -> None:
    callback = AsymmetryCallback(every=3)
    training = trainer(tiny(), tmp_path, [callback], save_strategy="no", logging_steps=4)
    training.train()
    assert callback.result().frame.step.unique().tolist() == [3, 6, 8]
    assert [entry["step"] for entry in training.state.log_history if "asym_A_movement" in entry] == [4, 8]
    with pytest.raises(ValueError, match="every"):
        AsymmetryCallback(every=0)


def test_what_is_no_lora_is_refused_in_one_sentence(tmp_path: Path) -> None:
    training = trainer(tiny(lora=False), tmp_path)
    with pytest.raises(AdapterError, match="needs a model with a PEFT LoRA, not a BertForSequenceClassification"):
        AsymmetryCallback().attach(training)
    with pytest.raises(AdapterError, match="needs a model with a PEFT LoRA"):
        trainer(tiny(lora=False), tmp_path, [AsymmetryCallback()]).train()


def test_reporters_that_miss_the_metrics_are_named(tmp_path: Path) -> None:
    callback, training = AsymmetryCallback(), trainer(tiny(), tmp_path, max_steps=1)
    training.args.report_to = ["tensorboard"]
    with pytest.warns(UserWarning, match="tensorboard, which stands before it"):
        callback.on_train_begin(training.args, training.state, training.control, model=training.model)
