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
# # Average, share or freeze: eight clients and one adapter
#
# Several clients train one adapter each, and a server puts them together. Should it average both factors, share A only, freeze A, or train the two in turn? The answer of eight least-squares clients: if the clients differ, share A and let each keep its own B; if all must use one model, alternate, which has no more loss than averaging both factors and no aggregation error. Averaging both factors costs little beyond averaging the updates (at most 0.06 of the loss of no adapter); what costs is that the clients differ, and the adapters alone show how much. Freezing a random A is exact too, but at rank 4 it leaves most of the loss.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from asym_analysis import Adapter, aggregation_error, merge_compensation
from asym_analysis.least_squares import LeastSquaresProblem, alternating_path, power_law

CLIENTS, D_OUT, D_IN, RANK, ROUNDS, SEEDS = 8, 24, 32, 4, 5, range(5)
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"


# %% [markdown]
# ## Eight clients
#
# The target of a client is a common map of rank 4 plus a map of rank 4 of its own, `difference` times as large. The inputs of all clients have one covariance, with eigenvalues that fall as 1/i (`exponent` 1) or are all one (`exponent` 0). Losses are shares of the loss of no adapter, so 1 is the baseline, and they are means over the clients, each on its own problem.


# %%
def low_rank_map(rng):
    return rng.standard_normal((D_OUT, RANK)) @ rng.standard_normal((RANK, D_IN))


def make_clients(difference, seed, exponent=1.0):
    rng = np.random.default_rng(seed)
    common = low_rank_map(rng)
    return [
        LeastSquaresProblem(common + difference * low_rank_map(rng), power_law(D_IN, exponent)) for _ in range(CLIENTS)
    ]


def mean(tensors):
    return torch.stack(list(tensors)).mean(0)


def loss(clients, updates):
    """Mean over the clients of the loss, relative to that of no adapter; one update for all, or one each."""
    each = [updates] * len(clients) if torch.is_tensor(updates) else updates
    return float(np.mean([c.loss(update) / c.signal for c, update in zip(clients, each, strict=True)]))


def train_both(client, A):
    """One local round: B to its optimum with A frozen, then A to its optimum with B frozen."""
    B = client.freeze_A(A).B
    return client.freeze_B(B).A, B


# %% [markdown]
# ## Six ways to put them together
#
# | way | trained by a client | sent in a round | what the clients use |
# |---|---|---|---|
# | average both factors (FedAvg of A and B) | A and B | A and B | mean(B)·mean(A) |
# | average the updates exactly | A and B | A and B, mean(B·A) of rank up to 32 back | mean(B·A) |
# | share A (FedSA-LoRA) | A and B | A | own B · mean(A) |
# | freeze A at random (FFA-LoRA) | B | B | mean(B)·A0 |
# | freeze A at the principal inputs | B | B | mean(B)·A0 |
# | alternate (RoLoRA) | B in odd, A in even half-rounds | that factor | mean(B)·A, B·mean(A) |
#
# `own adapter` (no communication) and `best common update` (any rank, with all targets known) are the limits for a personal and for a common model.


# %%
def compare(clients, seed):
    """Losses of all ways, and what the adapters of the last round of training both factors predict."""
    rng = np.random.default_rng([seed, 1])
    A0 = torch.from_numpy(rng.standard_normal((RANK, D_IN)))
    A = A0
    for _ in range(ROUNDS):
        As, Bs = zip(*(train_both(client, A) for client in clients), strict=True)
        A = mean(As)
    frozen = clients[0].principal_A(RANK)
    A_turn = A0
    for _ in range(ROUNDS):
        B_turn = mean(client.freeze_A(A_turn).B for client in clients)
        A_turn = mean(client.freeze_B(B_turn).A for client in clients)
    losses = {
        "average both": loss(clients, mean(Bs) @ mean(As)),
        "average updates": loss(clients, mean(B @ A for A, B in zip(As, Bs, strict=True))),
        "share A": loss(clients, [B @ mean(As) for B in Bs]),
        "freeze A, random": loss(clients, mean(client.freeze_A(A0).B for client in clients) @ A0),
        "freeze A, principal": loss(clients, mean(client.freeze_A(frozen).B for client in clients) @ frozen),
        "alternate": loss(clients, B_turn @ A_turn),
        "own adapter": loss(clients, [B @ A for A, B in zip(As, Bs, strict=True)]),
        "best common update": loss(clients, mean(client.delta for client in clients)),
    }
    pairs = enumerate(zip(As, Bs, strict=True))
    runs = [Adapter.from_factors({"layer": pair}, name=f"client {i}") for i, pair in pairs]
    averaging = aggregation_error(runs).frame.iloc[0]
    kept = merge_compensation(runs).frame.iloc[0].retained_before
    predicted = {
        "average both - average updates": averaging.both_averaged**2 * kept,
        "share A - own adapter": averaging.shared_A**2,
        "average updates - own adapter": 1 - kept,
    }
    return losses, predicted


rows, checks = [], []
for exponent in (1.0, 0.0):
    for difference in (0.125, 0.25, 0.5, 1.0, 2.0):
        for seed in SEEDS:
            losses, predicted = compare(make_clients(difference, seed, exponent), seed)
            rows += [(exponent, difference, seed, way, value) for way, value in losses.items()]
            for contrast, value in predicted.items():
                worse, better = contrast.split(" - ")
                checks.append((exponent, difference, seed, contrast, value, losses[worse] - losses[better]))
table = pd.DataFrame(rows, columns=["exponent", "difference", "seed", "way", "loss"])
check = pd.DataFrame(checks, columns=["exponent", "difference", "seed", "contrast", "predicted", "measured"])
table.query("exponent == 1").pivot_table(index="way", columns="difference", values="loss", sort=False).round(3)

# %% [markdown]
# RoLoRA has an exact reference here. All clients have one input covariance, so averaging the factor that is trained gives the optimum of the mean problem, and `alternating_path` is its loss after each half-step, in closed form:

# %%
clients = make_clients(1.0, 0)
A0 = torch.from_numpy(np.random.default_rng([0, 1]).standard_normal((RANK, D_IN)))
average = LeastSquaresProblem(mean(client.delta for client in clients), clients[0].covariance)
path = alternating_path(average, RANK, 2 * ROUNDS, A=A0)
A, simulated = A0, []
for _ in range(ROUNDS):
    B = mean(client.freeze_A(A).B for client in clients)
    simulated.append(average.loss(B @ A))
    A = mean(client.freeze_B(B).A for client in clients)
    simulated.append(average.loss(B @ A))
apart = np.abs(path.frame.loss.to_numpy()[1:] - simulated).max() / average.signal
print(f"largest difference of the federated run from the closed form: {apart:.1e} of the signal")
best = loss(clients, average.joint(RANK).update)
print(f"alternating after {ROUNDS} rounds {loss(clients, B @ A):.4f}; best common update of rank {RANK} {best:.4f}")

# %% [markdown]
# ## Predicted from the adapters alone
#
# Averaging the factors adds the error mean(B·A) - mean(B)·mean(A), averaging the updates moves each client away from its own update, and sharing A replaces A_i by mean(A). `aggregation_error` and `merge_compensation` measure these distances from the files of the clients, with no data and no target. If local training reached its optimum, the squared distances, relative to the clients' own updates, are the losses that are added:
#
# | added loss | predicted |
# |---|---|
# | averaging both, over averaging the updates | both_averaged² · retained_before |
# | sharing A, over the own adapter | shared_A² |
# | averaging the updates, over the own adapter | 1 - retained_before |
#
# The distances weigh all inputs alike. With flat inputs this is the loss; with a falling spectrum it is a guide.

# %%
ways = {
    "average both": (BLUE, "o-"),
    "average updates": (SKY, "s--"),
    "alternate": (GREEN, "^:"),
    "share A": (ORANGE, "o-"),
    "freeze A, random": (PURPLE, "o-"),
    "freeze A, principal": (PURPLE, "s--"),
    "own adapter": ("black", "-"),
    "best common update": ("grey", "-"),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.2), layout="constrained")
for way, (color, style) in ways.items():
    by_difference = table.query("exponent == 1 and way == @way").groupby("difference").loss
    middle, low, high = by_difference.mean(), by_difference.min(), by_difference.max()
    left.plot(middle.index, middle, style, color=color, markersize=4, linewidth=1.2, label=way)
    left.fill_between(middle.index, low, high, color=color, alpha=0.12, linewidth=0)
left.axhline(1, color="grey", linewidth=0.8, linestyle=(0, (1, 2)), label="no adapter")
left.set_xscale("log", base=2)
left.set_xticks([0.125, 0.25, 0.5, 1, 2], ["1/8", "1/4", "1/2", "1", "2"])
left.set_xlabel("difference between the clients")
left.set_ylabel("loss, relative to no adapter")
left.set_ylim(0, 1.05)
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
for contrast, color in zip(check.contrast.unique(), (BLUE, ORANGE, SKY), strict=True):
    for exponent, marker in ((0.0, "o"), (1.0, "x")):
        part = check.query("contrast == @contrast and exponent == @exponent")
        label = contrast.replace(" - ", " over ") if exponent == 0 else None
        face = "none" if exponent == 0 else color
        right.scatter(part.predicted, part.measured, s=18, marker=marker, c=color if marker == "x" else None,
                      facecolors=face if marker == "o" else None, edgecolors=color if marker == "o" else None,
                      linewidths=0.9, label=label)  # fmt: skip
right.plot([1e-6, 1], [1e-6, 1], color="black", linewidth=0.8)
right.set_xscale("log")
right.set_yscale("log")
right.set_xlim(1e-6, 1.5)
right.set_ylim(1e-6, 1.5)
right.set_xlabel("added loss, predicted from the adapters")
right.set_ylabel("added loss, measured")
right.set_title("circles: flat inputs, crosses: spectrum 1/i", fontsize=9)
right.legend(frameon=False, fontsize=8)
plt.show()


# %%
def agreement(part):
    ratio = part.measured / part.predicted
    return pd.Series(
        {
            "measured / predicted, lowest": ratio.min(),
            "median": ratio.median(),
            "highest": ratio.max(),
            "rank correlation": part.predicted.corr(part.measured, method="spearman"),
            "largest measured": part.measured.max(),
        }
    )


check["inputs"] = check.exponent.map({0.0: "flat", 1.0: "1/i"})
grouped = check.groupby(["contrast", "inputs"], sort=False)[["predicted", "measured"]]
grouped.apply(agreement).round(2)

# %% [markdown]
# The added losses of averaging the updates and of sharing A are predicted within a factor of about two and in the right order. The added loss of averaging both factors is of the predicted size where it matters, above 0.003, and larger than predicted where it is small: there the error's product with what rank 4 leaves of the targets, which the prediction leaves out, outweighs its square.
#
# ## What freezing A costs in rank
#
# A frozen random A reaches rank/32 of flat inputs, and its aggregation error is zero whatever B becomes. The clients send 24 numbers for each rank, against 56 when both factors are sent, so rank 9 costs what rank 4 costs with both. More rank is what buys the loss back:

# %%
ranks = []
for rank in (4, 9, 16, 24, 32):
    random, principal = [], []
    for seed in SEEDS:
        clients = make_clients(0.5, seed)
        A0 = torch.from_numpy(np.random.default_rng([seed, 1]).standard_normal((rank, D_IN)))
        for frozen, found in ((A0, random), (clients[0].principal_A(rank), principal)):
            found.append(loss(clients, mean(client.freeze_A(frozen).B for client in clients) @ frozen))
    ranks.append((rank, rank * D_OUT, np.mean(random), np.mean(principal)))
pd.DataFrame(ranks, columns=["rank", "numbers sent", "freeze A, random", "freeze A, principal"]).round(3)

# %% [markdown]
# ## The same with a sentence encoder
#
# Eight clients train rank-4 adapters in the last layer of MiniLM on 200 rows each: parts of SST-2, or half of the clients on SST-2 and half on STS-B. Eight rounds of twelve steps; each task's head was fitted on 64 other rows and kept. `benchmarks/minilm/clients.py` trained them (three CPU minutes a setting, one seed) and wrote the folder `clients`: losses on 256 development rows, and the clients' adapters before the last averaging. Losses are shares of the loss without an adapter.


# %%
settings = ("one-task", "two-tasks")
measured = []
for setting in settings:
    losses = pd.read_csv(f"clients/{setting}.csv")
    none = losses[losses.way == "no adapter"].set_index("client").loss
    measured.append(
        losses[losses["round"] > 0].assign(setting=setting, share=lambda t, none=none: t.loss / t.client.map(none))
    )
measured = pd.concat(measured)
order = ["average both", "average updates", "share A", "freeze A", "alternate", "alone", "own adapter", "share A once"]
measured.pivot_table(index="way", columns=["setting", "round"], values="share", sort=False).loc[order].round(3)

# %% [markdown]
# "Own adapter" and "share A once" are the models of the clients in the rounds of averaging both, just before the server averages; "alone" never communicates. Averaging both is best in both settings. A client alone has too little data and ends at the loss of no adapter; sharing A falls behind because each B sees 200 rows only; alternating sends half as much and is behind by as much; freezing a random A gains nothing in this many steps.
#
# What do the files say?

# %%
from safetensors.torch import load_file

rows = []
for setting in settings:
    stored = load_file(f"clients/{setting}.safetensors")
    factors = [{}, {}, {}, {}, {}, {}, {}, {}]
    for key in stored:
        if key.endswith("lora_A.weight"):
            _, client, module = key.removesuffix(".lora_A.weight").split(".", 2)
            factors[int(client)][module] = (stored[key], stored[key.replace("lora_A", "lora_B")])
    runs = [Adapter.from_factors(pairs, scaling=2.0, name=f"client {i}") for i, pairs in enumerate(factors)]
    error, kept = aggregation_error(runs).frame, merge_compensation(runs).frame
    again = {
        "both averaged": error.both_averaged.mean(),
        "shared A": error.shared_A.mean(),
        "1 - retained": 1 - kept.retained_before.mean(),
    }
    rows.append({"setting": setting} | again)
pd.DataFrame(rows).round(3)

# %%
contrasts = {
    "average both over average updates": ("average both", "average updates"),
    "share A over own adapter": ("share A once", "own adapter"),
    "average updates over own adapter": ("average updates", "own adapter"),
}
rows = []
for setting in settings:
    said = pd.read_csv(f"clients/{setting}-predicted.csv").set_index("round")
    shares = measured[measured.setting == setting].pivot_table(index="round", columns="way", values="share")
    for contrast, (worse, better) in contrasts.items():
        for number in shares.index:
            rows.append(
                (
                    setting,
                    contrast,
                    number,
                    said.loc[number, contrast],
                    shares.loc[number, worse] - shares.loc[number, better],
                )
            )
beside = pd.DataFrame(rows, columns=["setting", "contrast", "round", "predicted", "measured"])
beside.pivot_table(index=["setting", "contrast"], columns="round", values=["predicted", "measured"]).round(3)

# %% [markdown]
# Of averaging the factors instead of the updates the files say the right thing: it costs next to nothing (predicted at most .017 of the update's squared norm, measured at most .009 of the loss). Of leaving the own adapter they say the wrong thing: they predict that averaging the updates loses .10 to .75, and on new rows it gains in seven of eight rounds (up to .046; once it loses .007), also between two tasks. The prediction is about the clients' own optimum; clients with few rows are not at it, and the average is the better model. So the files tell whether averaging is exact, and only data tell whether to average.

# %% [markdown]
# ## Aggregation error: predicted and measured
#
# The four ways beside each other: what the server's step itself adds to the loss, as the files predict it and as it was measured. FFA and RoLoRA average one factor while the other is common to all, so the mean of the factors is the mean of the updates and nothing is added; what these two lose, they lose by what a client may train.

# %%
clients = make_clients(1.0, 0)
A0 = torch.from_numpy(np.random.default_rng([0, 1]).standard_normal((RANK, D_IN)))
sent_first = [client.freeze_A(A0).B for client in clients]
B = mean(sent_first)
sent_second = [client.freeze_B(B).A for client in clients]
exact = {
    "freeze A (FFA)": loss(clients, B @ A0) - loss(clients, mean(b @ A0 for b in sent_first)),
    "alternate (RoLoRA)": loss(clients, B @ mean(sent_second)) - loss(clients, mean(B @ a for a in sent_second)),
}
at_one = check.query("difference == 1 and exponent == 1").groupby("contrast")[["predicted", "measured"]].mean()
said = {("least squares", way): (0.0, value) for way, value in exact.items()}
named = {
    "average both (FedAvg)": ("average both - average updates", "average both over average updates"),
    "share A (FedSA)": ("share A - own adapter", "share A over own adapter"),
}
for way, (theory, encoder) in named.items():
    said["least squares", way] = tuple(at_one.loc[theory])
    for setting in settings:
        chosen = (beside.setting == setting) & (beside.contrast == encoder) & (beside["round"] == 8)
        row = beside[chosen].iloc[0]
        said[f"encoder, {setting}", way] = (row.predicted, row.measured)
pd.DataFrame(said, index=["predicted", "measured"]).T.round(3)

# %% [markdown]
# Averaging both factors adds little and the files say so, in least squares and for the encoder. What sharing A adds is predicted within a factor of about two for clients that are at their optimum (least squares), and with the wrong sign for the encoder's clients, which see few rows: for those one A for all is better than the own A.

# %% [markdown]
# ## Which to choose
#
# Run `aggregation_error` and `merge_compensation` on the clients' adapters. If 1 - retained_before is small, any common model will do: alternating has the loss of averaging the updates (0.212 against 0.212 at difference 1/2, 0.770 against 0.753 at 2, where the mean update has rank 32) with one factor sent at a time, and as many numbers in all. If it is large and shared_A² is smaller, share A and keep B: 0.338 against 0.500 for the average at difference 1, and 0.470 against 0.753 at 2, where every common model stays above 0.715. both_averaged says whether averaging the factors adds to that: below 0.1 it can be ignored, here at difference 1/2 and less; at 2 it adds 0.04. Freezing a random A has no aggregation error and the highest loss at equal rank (0.823 at difference 1/2); rank 24 still leaves 0.304, and the principal input directions, if the clients can agree on them, save part of that rank. These clients have one input covariance and train each factor to its optimum; clients that see different inputs, or take few steps, can order the ways differently. The encoder's clients, with 200 rows and 96 steps, did: there averaging both was best, and what the files say of leaving the own adapter did not hold.
