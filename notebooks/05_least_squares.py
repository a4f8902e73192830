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
# # When freezing A is the better choice, and when it is not
#
# LoRA adds $BA$ to a frozen weight $W_0$. Which of the two factors is worth training? In linear least squares the question has an exact answer: **freezing a random $A$ wins where the inputs have a falling spectrum and the update uses their strong directions, because $B$ can then lean on the inputs; with flat inputs and a square layer it is a coin toss, and with an update hidden in weak directions it loses.**
#
# Inputs $x$ have covariance $\Sigma$ with eigenvalues $s_i$; the target map is $W_0 + \Delta$; outputs carry noise. Freeze a random $A$ and fit $B$, or freeze a random $B$ and fit $A$: what loss remains on new data? The notebook states the two lemmas of *Asymmetry in Low-Rank Adapters of Foundation Models* (Zhu et al., ICML 2024), draws their consequences, and shows where the paper's comparison holds and where it fails. Every figure is theory (lines) over simulation (points).

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from asym_analysis.chance import random_retention
from asym_analysis.least_squares import (
    LeastSquaresProblem,
    asymmetry_index,
    compare_finite_samples,
    compare_strategies,
    compare_theory,
    covariance_from_data,
    descent_path,
    first_step_similarity,
    initialization_scales,
    isotropic,
    overtaking_rank,
    power_law,
    problem_from_energy,
    regime_map,
    simulate_first_step_similarity,
    simulated_win_probability,
    synthetic_problem,
    win_probability,
)
from asym_analysis.plots.style import COLORS, styled

torch.set_num_threads(1)
pd.set_option("display.precision", 4)

# %% [markdown]
# ## 1. The two lemmas
#
# **Freeze $A = Q$** (Lemma 4.1). The best $B$ is the regression of the output on the projected input, $B^\star = \Delta\Sigma Q^\top (Q\Sigma Q^\top)^{-1}$.
#
# **Freeze $B = U$** with orthonormal columns (Lemma 4.2). The best $A$ is $A^\star = U^\top\Delta$: the inputs do not enter.
#
# With $M = \Delta\Sigma^{1/2}$, freezing $A$ projects $M$ on its right side, onto directions that lean towards high input variance. Freezing $B$ projects it on its left side, onto directions that know nothing. That is the whole asymmetry.
#
# No perturbation of the fitted factor lowers the loss:

# %%
problem = synthetic_problem(power_law(64, 1.0), 64, noise_variance=0.001)
generator = torch.Generator().manual_seed(0)
Q = torch.randn(4, 64, generator=generator, dtype=torch.float64)
U = torch.linalg.qr(torch.randn(64, 4, generator=generator, dtype=torch.float64))[0]

tuned_b, tuned_a, both = problem.freeze_A(Q), problem.freeze_B(U), problem.joint(4)
nudge = 0.01 * torch.randn(64, 4, generator=generator, dtype=torch.float64)
pd.DataFrame(
    {
        "loss at the optimum": [tuned_b.loss, tuned_a.loss, both.loss],
        "after a nudge": [
            problem.loss((tuned_b.B + nudge) @ Q),
            problem.loss(U @ (tuned_a.A + nudge.T)),
            problem.loss((both.B + nudge) @ both.A),
        ],
    },
    index=["B tuned (A frozen)", "A tuned (B frozen)", "both tuned"],
)

# %% [markdown]
# ## 2. Where the theorem holds
#
# Take inputs whose variances fall as $1/i$, as language and image features roughly do, and an update $\Delta$ with independent entries, which knows nothing of the inputs. Averaged over random frozen factors:
#
# - **B frozen:** exactly a fraction $r / d_{out}$ of the signal is fitted.
# - **A frozen:** a fraction $p_i$ of the signal in input component $i$ is fitted, with $p_i \approx s_i / (s_i + \lambda)$ and $\lambda$ such that $\sum_i p_i = r$. Freezing a random $A$ acts like ridge regression with effective dimension $r$.
# - **Both trained:** the top $r$ singular values of $M$ (reduced-rank regression). Nothing of that rank does better.

# %%
comparison = compare_theory(problem, [1, 2, 4, 8, 16], draws=300)
retention = random_retention(power_law(64, 1.0), 4)

with styled():
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8))
    comparison.plot(left)
    component = np.arange(1, 65)
    right.plot(component, retention.mean, color=COLORS["B"], label="random A frozen: $p_i$")
    right.axhline(4 / 64, color=COLORS["A"], label="random B frozen: $r/d_{out}$")
    right.set(xscale="log", xlabel="input principal component i", ylabel="part of its signal fitted, r = 4")
    right.legend()
comparison.frame[["tuned", "rank", "theory", "stated_error", "loss", "standard_error", "agrees"]]

# %% [markdown]
# The line for a frozen $A$ is the deterministic equivalent with its first correction. Its error is stated (`stated_error`, drawn as a band too thin to see here); it is exact for rank 1 and for isotropic inputs.
#
# ## 3. Where it fails
#
# Nothing so far forces $A$ to be the factor to freeze. The number that decides is
#
# $$\mathrm{index} = \frac{\sum_i m_i\, p_i}{(r/d_{out}) \sum_i m_i}, \qquad m_i = s_i \lVert\Delta v_i\rVert^2,$$
#
# the expected gain with $A$ frozen over that with $B$ frozen. Here are inputs and updates for which the "theorem" is a coin toss, or false.

# %%
spectrum = power_law(64, 1.0)
weak = np.where(np.arange(64) < 63, 1.0, 0.01)
cases = {
    "1/i inputs, blind update (the paper's picture)": synthetic_problem(spectrum, 64),
    "isotropic inputs, square": synthetic_problem(isotropic(64), 64),
    "isotropic, four times as many inputs as outputs": synthetic_problem(isotropic(128), 32),
    "1/i inputs, equal signal in every component": synthetic_problem(spectrum, 64, alignment=0.0),
    "1/i inputs, update hidden in the weak directions": synthetic_problem(spectrum, 64, alignment=-1.0),
    "one weak direction carries the update": problem_from_energy(weak, np.where(np.arange(64) < 63, 0.0, 1.0), 64),
}
rows = []
for case in cases.values():
    share, error = simulated_win_probability(case, 4, 2000, seed=0)
    rows.append([asymmetry_index(case, 4), win_probability(case, 4), share, error])
pd.DataFrame(rows, index=list(cases), columns=["index", "P(freezing A wins)", "simulated", "standard error"]).round(3)

# %% [markdown]
# For square isotropic problems the probability is exactly one half, whatever the update and however large the dimension: the two gains are independent and have the same law.
#
# The map below varies the steepness $a$ of the inputs and the alignment $b$ of the update ($m_i \propto s_i^b$; a blind update has $b = 1$). Colours are simulated, the black line is theory.

# %%
exponents, alignments = np.linspace(0.2, 2.0, 8).tolist(), np.linspace(-1.0, 2.0, 9).tolist()
maps = [regime_map(*shape, 4, exponents=exponents, alignments=alignments, draws=40) for shape in [(40, 40), (80, 20)]]
with styled():
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.9))
    for ax, result in zip(axes, maps, strict=True):
        result.plot(ax, limit=5)

# %% [markdown]
# ## 4. Real inputs
#
# Images of digits come with scikit-learn. Let the layer predict the right half of a digit from its left half (32 inputs, 32 outputs), and let $\Delta$ be the map that does so best. Nothing is assumed: covariance and update are both measured.

# %%
from sklearn.datasets import load_digits

images = load_digits().images / 16.0
left_half, right_half = images[:, :, :4].reshape(-1, 32), images[:, :, 4:].reshape(-1, 32)
covariance = covariance_from_data(left_half)
cross = (right_half - right_half.mean(0)).T @ (left_half - left_half.mean(0)) / len(images)
delta = cross @ np.linalg.pinv(covariance, rcond=1e-3)
residual = (right_half - right_half.mean(0)) - (left_half - left_half.mean(0)) @ delta.T
digits = LeastSquaresProblem(delta, covariance, noise_variance=float(residual.var()))

strategies = compare_strategies(digits, [1, 2, 3, 4, 6, 8]).frame
with styled():
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8))
    component, variance = np.arange(1, 33), digits.eigenvalues.clamp_min(1e-5)
    left.loglog(component, variance, color=COLORS["theory"], label="input variance $s_i$")
    left.loglog(component, digits.signal_energy, "o", markersize=3, color=COLORS["B"], label="signal $m_i$")
    left.set(xlabel="input principal component i", ylabel="squared grey level", ylim=(1e-4, 2))
    left.legend()
    for name, color in {"joint": "both", "principal A": "accent", "random A": "B", "random B": "A"}.items():
        rows = strategies[strategies.strategy == name]
        right.plot(rows["rank"], rows.gain_fraction, "o-", markersize=3, color=COLORS[color], label=name)
    right.set(xlabel="rank r", ylabel="part of the signal fitted", ylim=(0, 1))
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
pd.Series(
    {
        "index at rank 4": asymmetry_index(digits, 4),
        "P(freezing A wins)": win_probability(digits, 4),
        "r at which a frozen A of rank 2r catches up with joint training": overtaking_rank(digits),
    }
).round(3)

# %% [markdown]
# The signal falls with the input variance, so a random frozen $A$ finds it: freezing $A$ wins clearly. But a trained $A$ is better still, and so is an $A$ taken from the principal components of the inputs, which costs no labels. "A random $A$ is as good as a trained one" does not follow from the linear model.
#
# ## 5. Finite samples
#
# With $n$ training samples, tuning $B$ multiplies the loss by $1 + r/(n-r-1)$: the misfit acts as noise. Tuning $A$ adds $r\,\sigma^2 d_{in}/(n-d_{in}-1)$: it must estimate every input coefficient. So even isotropic inputs have a winner, and it changes with $n$.

# %%
noisy = synthetic_problem(isotropic(24), 24, noise_variance=0.05)
finite = compare_finite_samples(noisy, 3, [8, 12, 16, 20, 29, 36, 48, 96, 192], draws=150)
with styled():
    figure, ax = plt.subplots(figsize=(4.2, 2.8))
    finite.plot(ax)
    ax.axvline(24, color=COLORS["null"], linestyle=":")
    ax.text(24.6, ax.get_ylim()[1] * 0.93, "n = $d_{in}$", color="0.35")
    ax.set_xticks([8, 16, 32, 64, 128], ["8", "16", "32", "64", "128"])

# %% [markdown]
# ## 6. Before blaming the random subspace, look at its scale
#
# Gradient descent on one factor has a closed form too. A frozen factor of $c$ times orthonormal columns multiplies the learning rate by $c^2$. LoRA's Kaiming draw on a *frozen B* has columns of norm $\sqrt{d_{out}/(3r)}$, so at the learning rate that suits orthonormal factors it diverges: a matter of scale, and not of which subspace was drawn. (That this explains the poor results of a frozen Kaiming $B$ in the paper is a hypothesis.)

# %%
initialization_scales(d_out=64, rank=4).frame

# %%
kaiming = (64 / (3 * 4)) ** 0.5 * U
runs = {
    "A tuned, B orthonormal": ("A", "-", descent_path(problem, learning_rate=0.8, steps=60, B=U)),
    "A tuned, B Kaiming, same rate": ("left", ":", descent_path(problem, learning_rate=0.8, steps=60, B=kaiming)),
    "A tuned, B Kaiming, rate / 5.3": ("right", "--", descent_path(problem, learning_rate=0.15, steps=60, B=kaiming)),
    "B tuned, A orthonormal": (
        "B",
        "-",
        descent_path(problem, learning_rate=0.8, steps=60, A=torch.linalg.qr(Q.T)[0].T),
    ),
}
with styled():
    _, ax = plt.subplots(figsize=(4.6, 2.6))
    for label, (color, line, path) in runs.items():
        ax.plot(path.frame["step"], path.frame["loss"], line, color=COLORS[color], label=label)
    ax.set(xlabel="gradient steps", ylabel="expected loss", ylim=(0.8, 1.2))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

# %% [markdown]
# ## 7. B looks similar across seeds although A learned nothing
#
# From zero, the first step of $B$ is $-\eta\, G A^\top$, where $G$ is the gradient of the full weight: a random sketch of the columns of $G$. Two runs with independent $A$ share whatever $G$ prefers. The expected overlap of their $B$ is $\tfrac1r \sum_i p_i^2$, with $p_i$ the retention at the spectrum $\sigma_i(G)^2$. Their $A$ overlap only by chance, $r/d$.

# %%
rows = []
for exponent in (0.0, 0.5, 1.0, 1.5):
    gradient = np.diag(power_law(128, exponent))
    overlaps = simulate_first_step_similarity(gradient, 8, 40, seed=0)
    rows.append([exponent, first_step_similarity(gradient, 8), overlaps.mean(), overlaps.std() / 40**0.5, 8 / 128])
pd.DataFrame(rows, columns=["decay of the gradient", "predicted overlap of B", "simulated", "standard error", "chance"])

# %% [markdown]
# ## The answer
#
# So freezing A is the better choice where the inputs have a falling spectrum and the update uses their strong directions, as on the digits; with flat inputs and a square layer it is a coin toss, and with an update in the weak directions it is the worse one. A trained A, or one taken from the principal inputs, is never worse in this model. Nothing here is proved for other losses: `train_beyond_linear` trains the same updates under a logistic, a softmax and a two-layer output and puts them beside the linear prediction.
#
# What of this is found in trained models? On a small decoder (docs/experiments.md; notebooks 03 and 07): a frozen A keeps of a learned update what the model says, .39 where it is drawn at random and .66 along the inputs' largest directions, and the kept share orders the losses. That freezing A beats freezing B is not found on whole models at rank 8 (.93 of LoRA's gain against .92), and is at rank 2 (.86 against .63); module by module it holds in 36 of 45, and choosing the factor by the index saves nothing. The index as it stands here leaves out that the loss is more sensitive to some outputs than to others.
#
# | more of the model | function of `asym_analysis.least_squares` |
# |---|---|
# | what a noisy fit remembers of its data, and the bound it gives | `information_against_gap` |
# | other losses | `train_beyond_linear` |
# | blocks of frozen A, merged one after the other | `compare_chain` |
# | the two factors trained in turn | `alternating_path` |
# | all closed forms against simulation | `validate`, or `asym simulate --validate` |
