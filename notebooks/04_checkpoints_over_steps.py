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
# # Checkpoints over steps: when did A and B find where they are going?
#
# A training run leaves checkpoints. Their subspaces tell when each factor settled. For the network trained here the answer is: **late, and both together. B turns faster than A at first, but neither is near its final subspace before the error is nearly gone.** Half-way in steps they overlap by .87 with their end, when the error is .02; at an error of .12 by .6; in the first tenth of the steps by .1 to .3, little above chance (.06 for A, .08 for B). The notebook trains a small network with LoRA in plain PyTorch, saves every few steps and follows the saved factors; the last section says how to do the same with the folders of a Trainer.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch
from sklearn.datasets import load_digits

from asym_analysis import Adapter, AdapterSet, adapter_spectra, checkpoint_trajectories, factor_movement

torch.set_num_threads(1)
RANK, SEEDS, STEPS = 4, (0, 1, 2), (5, 10, 20, 40, 80, 160, 320, 640)

# %% [markdown]
# ## A network, its new task, and LoRA
#
# A network with two hidden layers of 48 learns the 8 x 8 digits. Then the digits are turned by a quarter, and only low-rank updates of the two inner layers may learn that. Three seeds draw A; B begins at zero.

# %%
images, labels = (part[:900] for part in load_digits(return_X_y=True))
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
turned = torch.rot90(x.reshape(-1, 8, 8), dims=(1, 2)).reshape(-1, 64)
torch.manual_seed(0)
sizes = [(64, 48), (48, 48), (48, 10)]
W = [torch.nn.Linear(*size) for size in sizes]


def network(x, updates=None):
    for i, layer in enumerate(W):
        out = layer(x)
        if updates is not None and i < 2:
            A, B = updates[i]
            out = out + x @ A.T @ B.T
        x = torch.relu(out) if i < 2 else out
    return x


def error(x, updates=None):
    return float((network(x, updates).argmax(1) != y).float().mean())


optimizer = torch.optim.Adam([p for layer in W for p in layer.parameters()], lr=3e-3)
for _ in range(150):
    loss = torch.nn.functional.cross_entropy(network(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"pretrained: error {error(x):.2f} on digits, {error(turned):.2f} on turned digits")


# %%
def save(updates, name):
    pairs = {f"layers.{i}.dense": (A.detach().clone(), B.detach().clone()) for i, (A, B) in enumerate(updates)}
    return Adapter.from_factors(pairs, name=name)


saved, rows = [], []
for seed in SEEDS:
    draw = torch.Generator().manual_seed(seed)
    updates = [
        ((torch.rand(RANK, d_in, generator=draw) * 2 - 1) / d_in**0.5, torch.zeros(d_out, RANK))
        for d_in, d_out in sizes[:2]
    ]
    initial = save(updates, "initial")
    factors = [factor.requires_grad_() for pair in updates for factor in pair]
    optimizer = torch.optim.Adam(factors, lr=1e-2)
    for step in range(max(STEPS) + 1):
        if step in STEPS:
            saved.append(save(updates, f"seed {seed} step {step}").replaced(initial=initial))
            rows.append({"seed": seed, "step": step, "error": error(turned, updates)})
        loss = torch.nn.functional.cross_entropy(network(turned, updates), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
checkpoints = AdapterSet(saved, pd.DataFrame(rows))
checkpoints.table.pivot_table(index="step", columns="seed", values="error").round(3).T

# %% [markdown]
# ## Where the subspaces went
#
# `checkpoint_trajectories` compares every checkpoint of a run with the run's first and last, and gives the angle turned since the checkpoint before.

# %%
followed = checkpoint_trajectories(checkpoints, run="seed")
one_run = checkpoint_trajectories(checkpoints.query("seed == 0"))
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.3), layout="constrained", sharey=True)
for ax, to in zip(axes, ("to_last", "to_first"), strict=True):
    one_run.plot(ax, to=to)
    ax.set_xscale("log")
plt.show()
summary = followed.summary()
summary.pivot_table(index="step", columns="factor", values=["to_last", "to_first", "turned"]).round(2)

# %% [markdown]
# ## Direction and size
#
# `factor_movement` adds how far each factor moved between checkpoints, and the spectra say how the update grows:

# %%
movement = factor_movement(checkpoints.query("seed == 0"))
print(movement.summary().round(3).to_string(index=False))
growth = [
    {"step": row["step"], **adapter_spectra(adapter).frame[["frobenius_norm", "effective_rank"]].mean()}
    for adapter, (_, row) in zip(checkpoints, checkpoints.table.iterrows(), strict=True)
]
pd.DataFrame(growth).groupby("step").mean().round(2).T

# %% [markdown]
# `A_share` is A's part in the change of the update between two checkpoints: about half throughout, so that neither factor did the work alone. The update grows by a factor of seventy while its effective rank falls from 2.3 to 1.4 and rises again to 3.1: one direction is learned first, then the others.
#
# ## The answer, and your own run
#
# When did A and B find where they are going? Not early. B turned by .9 to 1.1 radians between checkpoints from the start, A by .4 at first and as fast as B from step 160; both reach .6 overlap with their end at step 160 and .87 at step 320, together with the error. A checkpoint that is stopped early therefore has other subspaces, not only a smaller update: compare runs at one stage of training. Another task may order this differently, and short runs of large models often leave A near its initialization: look at your own.
#
# ```python
# adapters = load_adapters("runs/seed-0")         # a Trainer's folder: every checkpoint-* with its step
# checkpoint_trajectories(adapters).plot()
# AsymmetryCallback().attach(trainer)             # or while it trains, in the Trainer's log (08)
# ```
