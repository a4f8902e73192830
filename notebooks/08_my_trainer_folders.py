# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags
#     notebook_metadata_filter: kernelspec
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # My own Trainer folders, end to end
#
# You trained adapters with transformers and PEFT. What do the folders need so that every question can be answered, and what do you then call? In short: **train as you do, attach one callback that keeps the initial factors, and give the folders to `load_adapters` with a task and a seed each; every analysis takes it from there.** Without the callback everything still works, but the movement of A is inferred instead of measured.
#
# Here: two tasks, three seeds, a tiny BERT of random weights and sentences made of numbers, so that the whole path runs in a minute without a download. Replace the model and the data by yours; nothing else changes.

# %%
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from asym_analysis import (
    AsymmetryCallback,
    certify,
    checkpoint_trajectories,
    compare_subspaces,
    compute_bound,
    examine,
    initialization_drift,
    load_adapters,
)
from asym_analysis.report.page import write_report

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=UserWarning, module="peft|transformers|torch")
runs = Path(tempfile.mkdtemp()) / "runs"

# %% [markdown]
# ## 1. Train, as you do
#
# A sentence is 8 of 60 words. Task 0 asks whether its first word is from the first half of the vocabulary, task 1 whether it is even. `AsymmetryCallback().attach(trainer)` is the one added line.


# %%
def sentences(task, rows, seed):
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 60, (rows, 8), generator=draw)
    labels = words[:, 0] < 30 if task == 0 else words[:, 0] % 2 == 0
    return [{"input_ids": w, "attention_mask": torch.ones_like(w), "labels": int(y)} for w, y in zip(words, labels)]  # noqa: B905


def base_model():
    set_seed(0)  # every run adapts the same base
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    return BertForSequenceClassification(BertConfig(vocab_size=60, max_position_embeddings=8, **size))


for task in (0, 1):
    rows = sentences(task, 256, seed=task)
    for seed in (0, 1, 2):
        model = base_model()
        set_seed(10 * task + seed)  # the draw of A
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], task_type="SEQ_CLS")
        model = get_peft_model(model, config)
        folder = runs / f"task{task}-seed{seed}"
        arguments = TrainingArguments(
            folder, max_steps=60, per_device_train_batch_size=32, learning_rate=1e-2, save_steps=20, logging_steps=20,
            report_to=[], use_cpu=True, save_only_model=True, disable_tqdm=True, seed=seed, log_level="error",
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)  # it would print every log here
        callback = AsymmetryCallback().attach(trainer)
        trainer.train()
sorted(str(path.relative_to(runs)) for path in (runs / "task0-seed0").rglob("*.safetensors"))

# %% [markdown]
# The callback's numbers are in the Trainer's log beside the loss, and as a result of their own:

# %%
callback.result().summary()

# %% [markdown]
# ## 2. Load
#
# A run folder gives all of its checkpoints, each with its step. `metadata=` adds columns: one entry an adapter in the order of loading, or a table with a column `name`. Comparisons of runs take the last checkpoints.

# %%
folders = sorted(runs.iterdir())
labels = [(folder.name.split("-")) for folder in folders for _ in range(3)]
metadata = {"task": [task for task, _ in labels], "seed": [seed for _, seed in labels]}
checkpoints = load_adapters(folders, metadata=metadata)
adapters = checkpoints.query("step == 60")
adapters.table[["name", "task", "seed", "step", "rank", "scaling"]]

# %% [markdown]
# ## 3. Ask
#
# Are runs of one task more alike than runs of two?

# %%
comparison = compare_subspaces(adapters)
comparison.plot()
plt.show()
comparison.contrast(by="task").summary().round(3)

# %% [markdown]
# Three runs against three have ten ways to be labelled, so that no p-value is below `least_p` = .1: a difference of this size needs a fourth seed to be shown.
#
# How far did A move? Measured, because the initial factors lie beside each checkpoint:

# %%
initialization_drift(adapters).summary()[["adapter", "factor", "median", "verdict"]].query("factor == 'A'").round(2)

# %% [markdown]
# One run over its steps, and what `asym doctor` would say about one adapter (nothing, if the table is empty):

# %%
one_run = checkpoints.query("task == 'task0' and seed == 'seed0'")
print(checkpoint_trajectories(one_run).summary().round(2).to_string(index=False))
examine(adapters[0]).frame[["severity", "finding", "next"]]

# %% [markdown]
# ## 4. What is guaranteed
#
# From the file alone, and then with the model and fresh labelled data. A certificate has to see that none of them was trained on, so that both sets of sentences are given:

# %%
print(compute_bound(adapters[0], n_samples=256).summary()[["rung", "bits", "gap", "vacuous"]].to_string(index=False))
fresh = sentences(0, 2000, seed=99)
batches = [
    {key: torch.stack([torch.as_tensor(row[key]) for row in fresh[i : i + 250]]) for key in fresh[0]}
    for i in range(0, 2000, 250)
]
seen, unseen = ([row["input_ids"].tolist() for row in rows] for rows in (sentences(0, 256, seed=0), fresh))
held_out = certify(
    adapters[0], model=base_model(), data=batches, prior=adapters[0], draws=20, samples=unseen, prior_samples=seen
)
held_out.summary().groupby("predictor", sort=False).first()[["rung", "empirical_risk", "risk", "kind"]]

# %% [markdown]
# ## 5. One page of all of it

# %%
written = write_report(adapters, runs.parent / "report.html")
print(written.page.name, f"{written.page.stat().st_size / 1000:.0f} kB")

# %% [markdown]
# ## The answer
#
# What do the folders need? An adapter and its config at each checkpoint, which PEFT writes, and `initial.safetensors`, which the callback writes. What do you then call? `load_adapters` once, and any analysis on the set: here two tasks differ in A and in B by as much as three seeds a side can show (p = `least_p` = .1), A moved by 1.2 to 1.5 of its length, both factors had settled by step 40, the bound from the file alone says nothing, and 2,000 fresh sentences certify an error below .35 where the measured one is .32.
#
# The same from a shell:
#
# ```sh
# asym compare runs/* --last --metadata runs.csv --by task    # runs.csv: columns name, task, seed
# asym drift runs/* --last
# asym report runs/* --metadata runs.csv --out report.html
# ```
