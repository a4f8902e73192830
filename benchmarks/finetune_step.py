"""What a step of MiniLM costs: PEFT with transformers' Trainer as it is, and with two settings of ours.

    python benchmarks/finetune_step.py GLUE [--steps 120] [--rounds 3]

STS-B, batches of 16 rows of like length, rank 8, one thread. The rows of the table: adapters in all six layers in
float32, which is plain PEFT with the Trainer; frozen maps multiplied in bfloat16; and adapters in the upper three
layers, whose lower three are run once a row. A step's CPU seconds are the least of the rounds, in which the rows take
turns; the first steps, which fill the memory of activations, are not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from asym_analysis.finetuning import finetune, read_sweep
from asym_analysis.finetuning.config import FinetuneConfig
from asym_analysis.finetuning.environment import prepare_training
from asym_analysis.finetuning.progress import TrainingState

UPPER = r".*encoder\.layer\.[345]\.attention\.self\.(query|value)"
ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "all layers, float32 (plain)": {},
    "all layers, frozen maps in bfloat16": {"frozen_dtype": "bfloat16"},
    "upper layers, float32": {"target_modules": UPPER},
    "upper layers, remembered": {"target_modules": UPPER, "remember_activations": True},
    "upper layers, remembered, bfloat16": {
        "target_modules": UPPER,
        "remember_activations": True,
        "frozen_dtype": "bfloat16",
    },
}


def seconds_a_step(config: FinetuneConfig, steps: int) -> float:
    """CPU seconds of one step, over the last half of a run."""
    marks: list[tuple[int, float]] = []

    def note(state: TrainingState) -> None:
        marks.append((state.step, time.process_time()))

    # As many rows as half of the steps see, so that the counted half sees them again.
    task: Any = config.task
    task = replace(task, train_rows=config.batch_size * (steps // 2))
    config = replace(config, task=task, max_steps=steps, curve_points=0, save_steps=10 * steps)
    with tempfile.TemporaryDirectory() as folder:
        finetune(config, Path(folder) / "run", progress=note)
    (first, since), (last, until) = marks[steps // 2 - 1], marks[-1]
    return (until - since) / (last - first)


def main() -> None:
    """Time every arrangement in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    prepare_training()
    torch.set_num_threads(1)
    base = next(r.config for r in read_sweep("minilm-glue", data=options.glue) if r.name.startswith("lora-r8-STS-B"))
    found: dict[str, list[float]] = {name: [] for name in ARRANGEMENTS}
    for _ in range(options.rounds):
        for name, settings in ARRANGEMENTS.items():
            found[name].append(seconds_a_step(replace(base, **settings), options.steps))
    least = {name: min(values) for name, values in found.items()}
    plain = next(iter(least.values()))
    rows = [{"adapters": name, "ms a step": 1e3 * value, "gain": plain / value} for name, value in least.items()]
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
