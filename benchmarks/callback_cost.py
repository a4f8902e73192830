"""What `AsymmetryCallback` adds to a step of transformers' Trainer, at the Trainer's default of a log every 500 steps.

A BERT of MiniLM's shape (6 layers, width 384) with adapters of rank 8 on all linear maps learns from batches of
16 x 64 tokens on one thread. One record and one step are timed in turn; the cost is their ratio over the interval.

python benchmarks/callback_cost.py [--steps 12]
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from asym_analysis import AsymmetryCallback

LOGGED_EVERY = 500


class Clock(TrainerCallback):
    """Times steps from their start to their end, before other callbacks run."""

    def __init__(self) -> None:
        self.begun, self.seconds = 0.0, []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.process_time()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self.begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bert = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=2000
    )
    lora = LoraConfig(task_type="SEQ_CLS", r=8, target_modules="all-linear")
    model = get_peft_model(BertForSequenceClassification(bert), lora)
    rows = [{"input_ids": torch.randint(2000, (64,)), "labels": torch.tensor(i % 2)} for i in range(16 * steps)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=16, save_strategy="no", logging_steps=10**6,
            report_to="none", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        clock = Clock()
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[clock])
        callback = AsymmetryCallback(every=1).attach(trainer)
        measure, records = callback._measure, []

        def timed(*given: Any, **named: Any) -> Any:
            begun = time.process_time()
            outcome = measure(*given, **named)
            records.append(time.process_time() - begun)
            return outcome

        callback._measure = timed
        trainer.train()
    step, record = statistics.median(clock.seconds[2:]), statistics.median([each for each in records if each > 1e-4])
    print(f"a step {1000 * step:.0f} ms, a record {1000 * record:.1f} ms of the processor")
    print(f"a record every {LOGGED_EVERY} steps: {record / step / LOGGED_EVERY:.3%} of a step (goal: at most 2 %)")
    print(f"a record every {math.ceil(record / step / 0.02)} steps or more stays below 2 %")


if __name__ == "__main__":
    main()
