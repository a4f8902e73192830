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
# In a LoRA run A is usually initialized at random and B at zero. Training then moves both. How far did A go? Would its random initialization have done as well? Does what several adapters have in common come from what they learned, or from their initialization? This notebook asks these
# questions of the shipped adapters, whose initial factors are known, and then again as if they had been lost.

# %%
import matplotlib.pyplot as plt
import pandas as pd

from asym_analysis import (
    Adapter,
    AdapterSet,
    adapter_spectra,
    aggregation_error,
    initialization_drift,
    joint_diagonalization,
    plot_drift,
    plot_spectra,
    sample_adapters,
    shared_initialization,
)

adapters = sample_adapters()


def without_initial(adapter):
    """The same adapter as a file without its initial factors would give it."""
    return Adapter({module: adapter.source(module) for module in adapter}, name=adapter.name, metadata=adapter.metadata)


# %% [markdown]
# ## How far A moved, when its initialization is known and when it is not
#
# PEFT draws A from a uniform distribution with sharp edges at ±1/√d. Training blurs the edges, and what lies beyond them tells how far the entries moved. `initialization_drift` uses recorded initial factors where there are some (verdict "measured"); otherwise it infers the distance, with a standard error ("inferred"), or says why it cannot tell. Above 1.2 of its own length the edge is gone, and no value is given: about half of these modules moved that far.

# %%
rows = []
for adapter in adapters[:4]:
    exact = initialization_drift(adapter).frame.query("factor == 'A'")
    inferred = initialization_drift(without_initial(adapter)).frame.query("factor == 'A'")
    rows.append(
        pd.DataFrame(
            {
                "measured": exact.value.to_numpy(),
                "inferred": inferred.value.to_numpy(),
                "error": inferred.std_error.to_numpy(),
            }
        )
    )
moved = pd.concat(rows, ignore_index=True)
_, ax = plt.subplots(figsize=(3.4, 3.2))
ax.errorbar(
    moved.measured, moved.inferred, yerr=2 * moved.error, fmt="o", markersize=3, elinewidth=0.7, color="#0072B2"
)
ax.plot([0.8, 1.7], [0.8, 1.7], color="black", linewidth=0.8)
ax.set_xlabel("measured relative distance of A")
ax.set_ylabel("inferred, ± 2 standard errors")
plt.show()
told = moved.dropna()
error = (told.inferred / told.measured - 1).abs().median()
print(f"told for {len(told)} of {len(moved)} modules, median error {error:.1%}")

# %%
plot_drift(initialization_drift(adapters[0]))
plt.show()

# %% [markdown]
# ## Which adapters share the initialization of A?
#
# Told from the trained files alone, although A moved further than its own length:

# %%
lost = AdapterSet([without_initial(adapter) for adapter in adapters], adapters.table)
shared_initialization(lost).groups

# %% [markdown]
# ## What the random initialization carries
#
# The update splits into `B·A0`, what a frozen A would have given with this B, and `B·(A - A0)`, what moving A added.

# %%
parts = pd.concat([adapter_spectra(adapter).frame for adapter in adapters], ignore_index=True)
parts["share of ||B·A0||"] = parts.start_norm / parts.frobenius_norm
parts["share of ||B·(A - A0)||"] = parts.moved_norm / parts.frobenius_norm
parts.groupby("projection")[
    ["share of ||B·A0||", "share of ||B·(A - A0)||", "effective_rank", "stable_rank"]
].median().round(2)

# %%
plot_spectra(adapter_spectra(adapters[0]))
plt.show()

# %% [markdown]
# ## What several adapters share
#
# Joint diagonalization asks how well one pair of bases serves several adapters at once. Compare four adapters that share
# one A0 with four that do not: the gap between the lines is what a shared initialization adds.

# %%
errors = []
for family in ("shared_start", "independent_start"):
    members = adapters.select(adapters.table["family"] == family)
    for rank in (4, 8, 16, 24):
        summary = joint_diagonalization(members, rank).frame
        errors.append((family, rank, summary["error"].mean()))
joint = pd.DataFrame(errors, columns=["family", "rank", "relative squared error"])
_, ax = plt.subplots(figsize=(3.4, 2.4))
for (family, part), color in zip(joint.groupby("family"), ("#0072B2", "#D55E00"), strict=True):
    ax.plot(
        part["rank"], part["relative squared error"], "o-", markersize=4, color=color, label=family.replace("_", " ")
    )
ax.set_xlabel("columns of the shared bases")
ax.set_ylabel("squared error, relative")
ax.set_ylim(0, 1)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The price of averaging factors
#
# Federated training averages A and B apart, though mean(B)·mean(A) is not mean(B·A). The difference vanishes only if one factor is shared, as it is when A is frozen:

# %%
for family in ("shared_start", "one_task"):
    members = adapters.select(adapters.table["family"] == family)
    print(family)
    print(aggregation_error(members).summary().round(3).to_string(index=False))

# %% [markdown]
# In these runs A did move, by more than its own length, and the larger part of each update goes through the moved part: what the initial A carries is .42 of the update's norm. So A was used. Whether it was *needed* is another question, which only runs with A frozen can answer: see *Which factor to train?*
