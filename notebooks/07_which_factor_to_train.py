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
# # Which factor to train?
#
# The paper trains B alone on a random frozen A, and finds it nearly as good as training both and better than training A alone. Here are the same variants on three small pretrained models: an encoder (MiniLM on GLUE, adapters in its upper layers), a vision model (DINOv2, which learns from cartoons and is scored in three other domains) and a decoder (a small Llama that learns dialogue). **Training B alone on a random A costs some of LoRA's gain where anything is decided, about as much as training A alone does at equal rank; how much depends on the rank and on which maps are adapted, and choosing the factor module by module does not help.**
#
# Every variant runs at its own best learning rate, searched on a seed and on rows that are not reported, at two lengths, on paired seeds. Gains count from the frozen model with a trained head. The tables ship with the package; each was made by one command, `asym finetune CONFIG`.

# %%
import matplotlib.pyplot as plt
import pandas as pd

from asym_analysis import (
    check_claims,
    kept_gains,
    plot_asymmetry_index,
    plot_learning_rates,
    sample_predictions,
    sample_sweep,
    score_variants,
)

SWEEPS = {"encoder": "minilm-upper-layers", "vision": "dinov2-domains", "decoder": "regime-map"}
parts, outcomes = [], {}
for family, config in SWEEPS.items():
    runs, rows = sample_sweep(config)
    if family == "decoder":  # the other sizes are parts of the same text
        runs = runs[runs["task"] == "dialogue, 1000 windows"]
    if family == "vision":  # scored where it did not learn; of those rows nothing is kept
        others = runs[["art_painting_accuracy", "photo_accuracy", "sketch_accuracy"]]
        runs = runs.assign(value=others.mean(axis=1), task="three other domains", name=runs["name"] + ", elsewhere")
    parts.append(runs.assign(family=family, name=config + "/" + runs["name"]))
    outcomes |= {f"{config}/{name}": kept for name, kept in rows.items()}
runs = pd.concat(parts, ignore_index=True)
table = runs.groupby("family", sort=False).agg(runs=("name", "size"), tasks=("task", "unique"))
table.assign(seeds=runs[runs["stage"] == "final"].groupby("family")["seed"].nunique())

# %% [markdown]
# ## What each variant scored
#
# Means and standard errors over seeds. `b-only` is `hB_0 A_rand` in the paper's notation: B trained from zero, A frozen at random orthonormal rows.

# %%
for family, members in runs.groupby("family", sort=False):
    scores = score_variants(members)
    print(family, dict(scores.frame.drop_duplicates("task")[["task", "metric"]].itertuples(index=False)))
    print(scores.summary().to_string(index=False), end="\n\n")

# %% [markdown]
# ## The paper's claims, held against these runs
#
# Differences are in parts of LoRA's gain over the frozen model, pooled over tasks by random effects; intervals are over seeds and rows, p-values adjusted over all rows of the table. *Equivalent* is a difference within a tenth of LoRA's gain, by two one-sided tests. A task speaks only where LoRA beats the frozen model by more than four standard errors, and a variant only where its best rate lies inside its grid.

# %%
at_edge = runs["rate_at_edge"].eq(True) & (runs["variant"] != "frozen")
check = check_claims(score_variants(runs[~at_edge], outcomes=outcomes))
columns = ["claim", "rank", "family", "tasks", "difference", "low", "high", "verdict", "reason", "agrees_with_paper"]
ranks = check.frame["first"].str.rsplit(" ", n=1).str[-1]
check.frame.assign(rank=ranks).sort_values("claim", kind="stable")[columns].round(2)

# %% [markdown]
# Read plainly: on the decoder, at rank 8, B alone keeps .93 of LoRA's gain, which is worse by an amount within the margin, and the paper's own row has the other sign; A alone keeps as much. At rank 2 it keeps .84, worse beyond the margin, and A alone .65: there B is the better one, as in the paper. On the encoder STS-B and SST-2 speak, and two tasks are too few for a verdict over tasks: STS-B alone says worse (.81 kept, .76 to .85), SST-2 nothing. MRPC and CoLA do not pass the gate, and in vision the interval is too wide. Where `agrees_with_paper` is "cannot tell", nothing is decided.

# %% [markdown]
# ## How much is kept, by rank, data and length
#
# The decoder learns dialogue from 60, 250 and 1,000 windows of 64 tokens at several ranks. Filled: 400 steps, open: 100.

# %%
mapped, rows = sample_sweep("regime-map")
kept = kept_gains(score_variants(mapped, outcomes=rows), data_per_row=64)
kept.plot()
plt.show()

# %%
longest = kept.frame[kept.frame["length"] == "400 steps"]
longest.pivot_table(index=["variant", "rank"], columns="task", values="kept", sort=False).round(2)

# %% [markdown]
# With few columns a random B carries much less than a random A: at rank 2 A alone keeps .48 to .65 of LoRA's gain and B alone .82 to .86. At rank 8 neither depends much on how many windows are learned. Full fine-tuning gains 1.04 and 1.16 times what LoRA gains at rank 8. The three sizes are parts of one text.

# %% [markdown]
# ## The learning rate is part of the variant
#
# A factor that is orthonormal, Kaiming or zero at first moves the update by different amounts at the same rate. Compared at one common rate, variants would differ by that alone.

# %%
_, axes = plt.subplots(1, 3, figsize=(9, 2.5), constrained_layout=True)
for ax, (family, members) in zip(axes, runs.groupby("family", sort=False), strict=True):
    plot_learning_rates(members, ax, task=members["task"].iloc[0])
    ax.set_title(f"{family}, {members['task'].iloc[0]}", loc="left", fontsize=8)
    if ax is not axes[-1]:
        ax.get_legend().remove()
plt.show()

# %% [markdown]
# ## Why: what a random factor can carry
#
# In the paper's linear model a frozen random A keeps what the update does in the inputs' strong directions, and a frozen random B keeps r/d_out of it, whatever it does. By that, training B should win everywhere, and by far. It treats an error in any output direction as equally bad. A network's loss does not: it is much more sensitive to some directions of a module's output than to others, and a random B profits from those as a random A does from the strong inputs. `predict_asymmetry` takes both sides:
#
#     covariances = input_covariances(model, batches, modules)        # E[x x^T] of each module's inputs
#     sensitivities = output_sensitivities(model, batches, modules)   # E[g g^T] of the loss's gradient at its output
#     predict_asymmetry(adapter, covariances, sensitivities).overall()
#
# Below, the index (what a random A keeps over what a random B keeps) against the measured advantage of training B; open points are runs that adapt one module alone.

# %%
predictions = sample_predictions()
_, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, constrained_layout=True)
for ax, kind in zip(axes, ["inputs", "inputs and outputs"], strict=True):
    plot_asymmetry_index(predictions, ax, kind=kind)
    ax.set_title(kind, loc="left")
axes[0].get_legend().remove()
axes[1].set_ylabel("")
plt.show()

# %%
whole = predictions[(predictions["module"] == "all") & predictions["kind"].isin(["inputs", "inputs and outputs"])]
whole.pivot_table(index=["family", "task", "advantage"], columns="kind", values="asymmetry_index").round(2)

# %% [markdown]
# The paper's index would have training B win by a factor of 3 to 28. Weighted by the loss's sensitivity, the index of whole models lies between 0.3 and 1.1, and the measured differences are small on either side: two factors that are about equally replaceable. (These points are of earlier runs, with one training length and two seeds.)
#
# ## Does it pay to choose the factor by module?
#
# `asym finetune advised-factor` trains the decoder with adapters on all its linear maps, A where the index of the first gradient is below 1 and B elsewhere, against B alone, A alone, the opposite choice and LoRA, all with about as many trained numbers.

# %%
advised, rows = sample_sweep("advised-factor")
scores = score_variants(advised, outcomes=rows)
others = ["b-only-r16", "opposed-r21", "lora-r8"]
contrasts = pd.concat([scores.contrast("advised-r13", other).assign(less=other) for other in others])
contrasts.loc[contrasts["length"] == "400 steps", ["less", "difference", "low", "high", "outcome"]].round(3)

# %% [markdown]
# It does not: the advised choice is no better than its opposite, and worse than LoRA.
#
# ## On your own model
#
# ```sh
# asym finetune list                                  # shipped configs; copy one and change the model
# asym finetune minilm-glue --data GLUE --runs runs    # resumable
# asym variants runs                                  # these tables for your runs
# asym advise runs/NAME --model MODEL --data TEXTS    # which modules could freeze A, and what that saves
# ```

# %% [markdown]
# Which factor to train? Both, unless memory forbids it: nothing here shows B alone ahead of LoRA at as many trained numbers, and on the decoder with all linear maps adapted it is .033 nats behind (.020 to .046), .012 of the gain. If only one, B, on an A that is placed and not drawn: along the inputs' largest directions B alone keeps .93 of LoRA's gain on the encoder (random: .81) and .98 on the decoder (.93); `asym advise --write-start` writes such a start.
