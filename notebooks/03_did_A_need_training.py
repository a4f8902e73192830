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
# # Did A need training?
#
# In a LoRA run A is usually initialized at random and B at zero, and training moves both. The question has three parts, and each has its own answer. **Did A move?** In the shipped adapters by more than its own length. **Does the update use that movement?** Yes: about four fifths of its squared size go through the moved part of A. **Would a frozen A have done as well?** No file can say; runs that freeze A can, and where such runs ship with the package, B alone keeps most of the gain, not all of it.
#
# The shipped adapters keep their initial factors, so everything here is measured; the second section hides them, to see what a stranger's file still tells.

# %%
import matplotlib.pyplot as plt
import pandas as pd

from asym_analysis import (
    Adapter,
    AdapterSet,
    initialization_drift,
    initialization_statistics,
    kept_gains,
    sample_adapters,
    sample_sweep,
    score_variants,
    shared_initialization,
)

adapters = sample_adapters()

# %% [markdown]
# ## 1. Did A move?
#
# `initialization_drift` gives the distance of each factor from its initialization, in units of the initialization's length. B began at zero, so there is no relative distance: all of it is training.

# %%
drift = initialization_drift(adapters)
drift.summary().query("factor == 'A'")[["adapter", "modules", "known", "median", "verdict"]].round(2)

# %% [markdown]
# ## 2. The same, when the initialization is lost
#
# Most published adapters have no initial factors. PEFT draws A from a uniform distribution with sharp edges; training blurs the edges, and what lies beyond them tells how far the entries moved. The verdict is then "inferred", with a standard error, or "cannot tell". Beyond 1.2 of its own length the edge is gone and no value is given.


# %%
def without_initial(adapter):
    """The same adapter as a file without its initial factors would give it."""
    return Adapter({module: adapter.source(module) for module in adapter}, name=adapter.name, metadata=adapter.metadata)


chosen = [adapters[name] for name in ("mrpc-0", "mrpc-2", "independent-stsb", "shared-stsb")]
lost = initialization_drift([without_initial(adapter) for adapter in chosen]).frame.query("factor == 'A'")
known = drift.frame.query("factor == 'A'").set_index(["adapter", "module"])["value"]
moved = lost.join(known.rename("measured"), on=["adapter", "module"])

_, ax = plt.subplots(figsize=(3.6, 3.2), layout="constrained")
ax.errorbar(moved["measured"], moved["value"], yerr=2 * moved["std_error"], fmt="s", markersize=3, elinewidth=0.7,
            color="#0072B2", label="a module, ± 2 standard errors")  # fmt: skip
ax.plot([0.7, 1.4], [0.7, 1.4], color="black", linewidth=0.8, label="inferred = measured")
ax.set(xlabel="relative movement of A, measured", ylabel="inferred", ylim=(0.55, 1.75))
ax.legend(frameon=False, fontsize=8)
plt.show()
told = moved.dropna(subset=["value"])
error = (told["value"] / told["measured"] - 1).abs().median()
print(f"told for {len(told)} of {len(moved)} modules, median error {error:.1%}")

# %% [markdown]
# Who shares an initialization is told from the same files, although A moved further than its own length:

# %%
shared_initialization(AdapterSet([without_initial(adapter) for adapter in adapters], adapters.table)).groups

# %% [markdown]
# ## 3. Does the update use the movement?
#
# `s·B·A = s·B·A0 + s·B·(A - A0)`. The first part is what the initial A would have given with this B, the second what moving A added. `initial_share` is the first part's share of the squared size; it is 1 where A was frozen.

# %%
parts = pd.concat([initialization_statistics(adapter).frame.assign(adapter=adapter.name) for adapter in adapters])
parts.groupby("projection")[["initial_share", "cosine", "A_moved", "A_turn"]].median().round(2)

# %% [markdown]
# A fifth of the update goes through the initial A. `A_turn` is the angle between A and its initialization in radians: about .9, more than half a right angle.
#
# A small `initial_share` does not say that A had to move. Had A been frozen, B would have been trained for the A that was there.
#
# ## 4. Would a frozen A have done as well?
#
# That needs runs. This sweep ships with the package: a small Llama learns dialogue with both factors, with B alone (A frozen at random) and with A alone, adapters on queries and values, each at its best learning rate, with paired seeds. `kept` is the part of LoRA's gain over the pretrained model, with a 95 % interval over seeds and rows.

# %%
runs, outcomes = sample_sweep("regime-map")
kept = kept_gains(score_variants(runs, outcomes=outcomes)).frame
columns = ["variant", "rank", "task", "length", "adapter_parameters", "kept", "low", "high", "seeds"]
kept.loc[kept["length"] == "400 steps", columns].round(3)

# %% [markdown]
# `hB_0 A_rand` trains B from zero on a frozen random A; `B_rand hA_0` the reverse. Scores still moved between 100 and 400 steps, so no verdict is drawn from these runs.
#
# ## The answer
#
# Did A need training? It was trained and it was used: it moved by 1.0 to 1.8 of its length, and four fifths of the update go through that movement. It was not indispensable where that could be tested: at rank 8 B alone, on a frozen random A, keeps about .93 of what training both gains, with fewer trained numbers, and the interval excludes 1; with as many numbers and adapters on all linear maps it keeps .99 (`sample_sweep("advised-factor")`), and at rank 2 .82 to .86. Most of those seven hundredths come back without training A: frozen along the inputs' largest directions it keeps .98, and along the first gradient it is not told apart from LoRA on this model (docs/experiments.md, *Trained, drawn, or placed?*). So A needed a good place more than training, here. Whether the rest matters is for you to decide; *Which factor to train?* (07) shows how to find out on your own model.
#
# ```python
# initialization_drift("runs/seed-0").summary()        # your own file: measured, inferred or cannot tell
# initialization_statistics("runs/seed-0").summary()   # needs the initial factors: save them with AsymmetryCallback (08)
# ```
