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
# # Figure 1 and its reversal: is it A and B, or the factor that was zero at first?
#
# The paper's Figure 1 shows that A is similar between runs that share a random initialization and B between runs that share a task. LoRA initializes A at random and B at zero, so two explanations are possible: what A and B *are*, or how they were *initialized*. Reverse the initialization and see. The answer: **the picture goes with the initialization. Whichever factor is random at first shows the seed, whichever is zero at first shows the task.** What is left for A and B themselves is smaller, and this notebook shows that too.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

from asym_analysis import Adapter, AdapterSet, compare_subspaces, plot_figure_one, sample_adapters

RANK, D_IN, D_OUT, MODULES = 4, 96, 64, 6
COURSES = {"decoder": "figure_one_course"}
torch.set_num_threads(1)

# %% [markdown]
# ## The shipped adapters: A random, B zero at first
#
# Four tasks from one initial A, the same four each from its own, and five runs of one task.

# %%
adapters = sample_adapters()
comparisons = {family: compare_subspaces(members) for family, members in adapters.groupby("family")}
figure = plot_figure_one(comparisons)
plt.show()

# %% [markdown]
# A is alike where the initialization is shared, and hardly elsewhere. That alone cannot say whether A is special. To reverse the initialization one has to train, so the second half uses models that train in a second.
#
# ## Both directions, trained here
#
# Two tasks; each is a set of six linear maps, with singular values that fall as 1/i, to be learned from inputs with a falling spectrum. The two tasks have nothing in common. Three seeds, Adam, rank 4, stopped early, when a random A has moved by .9 of its length, about as far as in the shipped adapters; and each seed is used by both tasks, so that all three kinds of pairs occur: one task from two initializations, two tasks from one, two tasks from two.


# %%
def target(task, module):
    draw = torch.Generator().manual_seed(1000 * task + module)
    left = torch.linalg.qr(torch.randn(D_OUT, D_OUT, generator=draw))[0]
    right = torch.linalg.qr(torch.randn(D_IN, D_OUT, generator=draw))[0]
    return 2 * (left / torch.arange(1, D_OUT + 1)) @ right.T


def train(task, seed, random_factor, steps=60, rate=3e-3):
    """All modules of one run at once: a batch of least-squares problems, with the initial factors kept."""
    draw = torch.Generator().manual_seed(seed)
    A = torch.randn(MODULES, RANK, D_IN, generator=draw) / D_IN**0.5
    B = torch.randn(MODULES, D_OUT, RANK, generator=draw) / RANK**0.5
    A, B = (A, torch.zeros_like(B)) if random_factor == "A" else (torch.zeros_like(A), B)
    first = {f"layers.{i}.q_proj": (A[i].clone(), B[i].clone()) for i in range(MODULES)}
    A.requires_grad_(), B.requires_grad_()
    optimizer = torch.optim.Adam([A, B], lr=rate)
    delta = torch.stack([target(task, module) for module in range(MODULES)])
    scale = torch.arange(1, D_IN + 1) ** -0.5  # standard deviations of the inputs
    noise = torch.Generator().manual_seed(seed + 77)
    for _ in range(steps):
        x = torch.randn(MODULES, D_IN, 64, generator=noise) * scale[:, None]
        loss = ((B @ A - delta) @ x).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = {f"layers.{i}.q_proj": (A[i].detach(), B[i].detach()) for i in range(MODULES)}
    return Adapter.from_factors(trained, name=f"task {task} seed {seed}").replaced(initial=Adapter.from_factors(first))


def runs(random_factor):
    made = [(task, seed) for task in (0, 1) for seed in (0, 1, 2)]
    return AdapterSet(
        [train(task, seed, random_factor) for task, seed in made], pd.DataFrame(made, columns=["task", "seed"])
    )


directions = {"A random, B zero at first": runs("A"), "A zero, B random at first": runs("B")}


# %%
def kinds(comparison):
    """Mean overlap of A and B for each kind of pair."""
    same_task, same_seed = comparison.same("task"), comparison.same("seed")
    chosen = {
        "one task, two seeds": same_task & ~same_seed,
        "two tasks, one seed": ~same_task & same_seed,
        "two tasks, two seeds": ~same_task & ~same_seed,
    }
    table = comparison.values  # modules x factors x pairs
    means = {kind: [table[:, i][:, mask].mean() for i in (0, 1)] for kind, mask in chosen.items()}
    return pd.DataFrame(means, index=list(comparison.factors)).T


tables = {}
for direction, members in directions.items():
    tables[direction] = kinds(compare_subspaces(members))
    tables[f"{direction}; initial factors taken away"] = kinds(compare_subspaces(members, subtract_initial=True))
chance = {"A": RANK / D_IN, "B": RANK / D_OUT}
pd.concat(tables).round(3).assign(**{f"chance {factor}": round(level, 3) for factor, level in chance.items()})

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.9), sharey=True, layout="constrained")
for ax, direction in zip(axes, directions, strict=True):
    table = tables[direction]
    for place, factor in enumerate(("A", "B")):
        color, hatch = {"A": ("#0072B2", "//"), "B": ("#D55E00", "")}[factor]
        ax.bar([i + 0.38 * place for i in range(3)], table[factor], 0.36, label=factor, color=color, hatch=hatch)
    ax.axhline(chance["A"], color="grey", linewidth=1, linestyle="--", label="chance, A")
    ax.axhline(chance["B"], color="grey", linewidth=1, label="chance, B")
    ax.set_xticks([i + 0.19 for i in range(3)], [kind.replace(", ", "\n") for kind in table.index])
    ax.set_title(direction, loc="left")
axes[0].set_ylabel("mean overlap")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Pretrained models, step by step
#
# `asym finetune figure-one` trains a small Llama on two texts and keeps the adapters on the way. Overlaps after the last step, at three learning rates, with how far the factor that was random at first moved, in parts of its own length.

# %%
course = pd.concat(
    {model: pd.read_csv(f"../figures/{file}.csv") for model, file in COURSES.items()}, names=["model"]
).reset_index("model")
last = course[course["step"] == course.groupby("model")["step"].transform("max")]
last = last[last["direction"].isin(directions)]
last.pivot_table(index=["model", "direction", "learning_rate"], columns=["factor", "pairs"], values="mean").round(2)

# %% [markdown]
# ## The answer
#
# Is it A and B, or the factor that was zero at first? Mostly the latter. With A random, A shows the seed (.46 where it is shared, .04 where nothing is) and B the task (.66); with B random it is B that shows the seed (.80) and A the task (.52). So a picture like Figure 1 cannot by itself show that A and B play different parts. The same reversal on MiniLM with GLUE tasks, `figures/figure_one`, turns the same way.
#
# Take the initial factors away and compare what training *added*: then A of one task agrees although it was random (.46), and so does B when it was random (.29). In these linear models, where inputs have a falling spectrum, both factors find the task from either side. Whether A *needed* to be trained is the next question (03).
