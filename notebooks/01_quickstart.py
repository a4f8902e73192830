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
# A LoRA adapter changes a frozen weight by `s·B·A`. **A** reads the input: its rows span the directions of the input that the update looks at. **B** writes the output: its columns span the directions in which the output can change. The short answer for the thirteen adapters that ship with the package (rank-8 updates of the query and value projections of a MiniLM encoder, trained on GLUE tasks): **both are more alike between two runs of one task than chance allows, B about twice as much as A; and where two runs share the random matrix from which A was initialized, A is similar for that reason alone.**
#
# This notebook takes the five steps to that answer. Every similarity is held against two things: what chance gives, and what a shared initialization gives.

# %%
import matplotlib.pyplot as plt

from asym_analysis import compare_subspaces, initialization_drift, sample_adapters

adapters = sample_adapters()  # or load_adapters("runs/seed-*")
adapters.table[["name", "family", "task", "seed", "init_seed", "steps", "metric", "value", "baseline"]]

# %% [markdown]
# Three families: one task with five seeds (`one_task`); four tasks that share one initial A (`shared_start`); the same four tasks, each with an initial A of its own (`independent_start`).
#
# ## 1. What is in a file
#
# An adapter is a mapping from module names to low-rank updates. Factors are read when a module is asked for, and nothing is skipped silently: `coverage` accounts for every tensor of the file.

# %%
adapter = adapters["mrpc-0"]
print(adapter.coverage)
update = adapter[next(iter(adapter))]
print(update)
update.singular_values().numpy().round(2)

# %% [markdown]
# ## 2. One task, five seeds
#
# `compare_subspaces` compares all pairs of adapters in every module at once. The measure is the **overlap**: the mean squared cosine of the principal angles, 1 for the same subspace and rank/dimension (here 8/384 = .021) for random ones. It is the paper's measure. It does not change when `(A, B)` is replaced by `(GA, BG⁻¹)`, which is the same update.

# %%
one_task = compare_subspaces(adapters.query("family == 'one_task'"))
one_task.plot()
plt.show()
one_task.summary()

# %% [markdown]
# `value` is the mean overlap, `null_mean` and `null_std` what random subspaces give, `times_null` their ratio, and `significant` the share of pairs and modules with a p-value below .01. A overlaps 2.8 times as much as chance, B 5.2 times; in the figure the grey band is chance.
#
# ## 3. Take away the shared initialization
#
# Four tasks that were initialized with one A, and the same four tasks, each with an A of its own:

# %%
families = {name: adapters.query(f"family == '{name}'") for name in ("shared_start", "independent_start")}
for name, members in families.items():
    comparison = compare_subspaces(members)
    values = comparison.summary().query("pairs == 'all'").set_index("factor")["value"]
    same = comparison.same_initialization.mean()
    print(f"{name:18} A {values['A']:.3f}, B {values['B']:.3f}; pairs marked as sharing an initialization: {same:.0%}")

# %% [markdown]
# With a shared initialization A overlaps by .43, without it by .026, close to chance (.021): those tasks have learned little in common in A. B overlaps by about .05 either way. The mark is found from the files alone, without the initial factors. What training *added* to A is compared by taking the initial factors away:

# %%
compare_subspaces(families["shared_start"], factors=("A",), subtract_initial=True).summary()

# %% [markdown]
# ## 4. How far did each factor move?
#
# B was initialized at zero, so all of it is learned. A was random; the shipped adapters keep their initial factors, so that its movement is measured: 1.1 times its own length.

# %%
drift = initialization_drift(adapter)
drift.summary()[["factor", "modules", "known", "median", "lower_quartile", "upper_quartile", "verdict"]]

# %% [markdown]
# ## 5. Is one task different from another?
#
# Pairs are not independent, for every adapter stands in many of them. So the interval is a jackknife over adapters, and the p-value permutes the adapters' task labels; `least_p` is the smallest p that this design can give. Only adapters with initial factors of their own are used, so that a shared initialization cannot pass for a shared task.

# %%
alone = adapters.query("family != 'shared_start'")
compare_subspaces(alone).contrast(by="task").summary()

# %% [markdown]
# ## The answer, and your own adapters
#
# What did A and B learn? In these runs both learned something of their task: pairs of one task overlap more than pairs of two, by .03 in A and by .06 in B, each with the smallest p-value that the design allows (.012). B carries more of it. Most of what looks like agreement in A, where there is a shared initialization, is the initialization.
#
# The same for your own files:
#
# ```python
# from asym_analysis import compare_subspaces, load_adapters
#
# adapters = load_adapters("runs/*", metadata={"task": [...], "seed": [...]})  # folders, files, globs, training runs, hub ids
# comparison = compare_subspaces(adapters)
# comparison.contrast(by="task").summary()
# comparison.to_parquet("similarity.parquet")
# ```
#
# In a shell `asym compare runs/*`, and `asym report runs/* --out report.html` for everything in one page. The next notebooks: the paper's Figure 1 and its reversal (02), whether A needed training (03), your own Trainer folders end to end (08).
