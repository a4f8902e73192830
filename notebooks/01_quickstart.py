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
# # What did A and B learn?
#
# A LoRA adapter changes a frozen weight by `scaling · B·A`. **A** reads the input: its rows span the directions of the input that the
# update looks at. **B** writes the output: its columns span the directions in which the output can change.
#
# This notebook loads trained adapters, compares the subspaces of A and of B between them, and asks of every similarity: *is it more than
# chance, and more than a shared initialization?* It uses the adapters that ship with the package: rank-8 updates of the query and value
# projections of a MiniLM encoder, trained on GLUE tasks.

# %%
from asym_analysis import compare_subspaces, initialization_drift, sample_adapters
from asym_analysis.plots.alignment import plot_subspace_alignment
from asym_analysis.plots.drift import plot_drift
from asym_analysis.plots.heatmap import plot_figure_one

adapters = sample_adapters()
adapters.table[["name", "family", "task", "seed", "init_seed", "steps", "learning_rate", "metric", "value", "baseline"]]

# %% [markdown]
# An adapter is a mapping from module names to low-rank updates. Files are read only when a module is asked for, and nothing is skipped
# silently: `coverage` accounts for every tensor of the file.

# %%
adapter = adapters[0]
print(adapter.coverage)
update = adapter[next(iter(adapter))]
update, update.singular_values()

# %% [markdown]
# ## One task, five seeds
#
# `compare_subspaces` compares all pairs of adapters in every module at once. The measure is the **overlap**: the mean squared cosine of the
# principal angles, 1 for the same subspace and rank/dimension (here 8/384 = 0.021) for random ones. It is the paper's measure, and it does not
# change when `(A, B)` is replaced by `(GA, BG⁻¹)`, which is the same update.

# %%
families = {family: adapters.select(adapters.table["family"] == family) for family in adapters.table["family"].unique()}
comparisons = {family: compare_subspaces(members) for family, members in families.items()}
first = next(iter(comparisons))
print(first)
comparisons[first].summary()

# %%
ax = plot_subspace_alignment(comparisons[first])

# %% [markdown]
# The grey band is what random subspaces would give. Compare where A lies with where B lies.
#
# ## The paper's Figure 1
#
# Three families: one task with five seeds; four tasks initialized with the *same* A; the same four tasks, each with its own.

# %%
figure = plot_figure_one(comparisons)

# %% [markdown]
# Where adapters share the initialization of A, their A is similar. That alone says nothing about learning. The comparison marks
# such pairs by itself, from the files alone:

# %%
for family, comparison in comparisons.items():
    print(f"{family:18} {comparison.same_initialization.mean():.0%} of the pairs share the initialization of A")

# %% [markdown]
# ## How far did each factor move?
#
# B was initialized at zero, so all of it is learned. A was random; the shipped adapters keep their initial factors, so its relative movement is measured.

# %%
drift = initialization_drift(adapter)
plot_drift(drift)
drift.summary()[["factor", "modules", "known", "median", "lower_quartile", "upper_quartile", "verdict"]]

# %% [markdown]
# At this learning rate A travels further than its own length, so adapters that share A0 keep only part of its subspace. What did
# training *add*? Compare A - A0 in the family that shares it:

# %%
shared = families["shared_start"]
compare_subspaces(shared, factors=("A",), subtract_initial=True).summary()

# %% [markdown]
# ## Is one task different from another?
#
# Pairs are not independent, for every adapter stands in many of them. So the interval resamples adapters, and the p-value permutes
# the adapters' task labels. Only adapters with initial factors of their own are used, so that a shared initialization cannot pass for a shared task.

# %%
alone = adapters.select(adapters.table["family"] != "shared_start")
compare_subspaces(alone).contrast(by="task").summary()

# %% [markdown]
# ## Your own adapters
#
# ```python
# from asym_analysis import load_adapters
# adapters = load_adapters("runs/*", metadata={"task": [...], "seed": [...]})   # folders, files, globs, training runs, hub ids
# comparison = compare_subspaces(adapters, progress=True)
# comparison.frame                     # one row a module, factor and pair
# comparison.to_parquet("similarity.parquet")
# ```
#
# In a shell: `asym compare runs/*`, and `asym report runs/* --out report.html` for everything in one page.
