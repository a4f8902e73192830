"""Which modules need A trained: predicted from the trained update and the inputs of each module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.chance.retention import random_retention
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.covariance import InputMoment
from asym_analysis.results import Result, versions

__all__ = ["AsymmetryPrediction", "measured_capture", "predict_asymmetry"]


@dataclass(frozen=True)
class AsymmetryPrediction(Result):
    """One row a module: what a frozen random A, a frozen random B and other choices of A would keep of the update.

    Columns: `module, layer, projection, d_in, d_out, rank`; `signal`, the mean squared output of the update on the
    module's inputs, in what the loss feels of it where sensitivities were given; the fractions of it that are kept,
    `random_A`, `random_A_std` (over draws of A), `random_B`, `principal_A` (A frozen at the first principal components
    of the input) and `best_A` (A trained); `asymmetry_index`, random_A over random_B; `lost_signal`, what freezing a
    random A forgoes; and `training_A_rank`, 1 for the module that loses most.
    """

    frame: pd.DataFrame
    settings: Mapping[str, Any]

    def overall(self) -> dict[str, float]:
        """The fractions of the whole adapter's signal, each module weighted by its own, and their index."""
        weights = self.frame["signal"] / (self.frame["signal"].sum() or 1.0)
        kept = ("random_A", "random_B", "principal_A", "best_A")
        fractions = {name: float((self.frame[name] * weights).sum()) for name in kept}
        return fractions | {"asymmetry_index": fractions["random_A"] / fractions["random_B"]}

    def summary(self) -> pd.DataFrame:
        """One row a projection: medians over its modules, and the share of all lost signal."""
        columns = ["random_A", "random_B", "principal_A", "asymmetry_index"]
        table = self.frame.groupby("projection")[columns].median()
        table["share_of_lost_signal"] = self.frame.groupby("projection")["lost_signal"].sum()
        table["share_of_lost_signal"] /= self.frame["lost_signal"].sum() or 1.0
        return table.reset_index()


def predict_asymmetry(
    adapter: Adapter,
    covariances: Mapping[str, InputMoment],
    sensitivities: Mapping[str, Tensor] | None = None,
    *,
    rank: int | None = None,
    centred: bool = False,
) -> AsymmetryPrediction:
    """Predict, module by module, what freezing A or B at random would keep of a trained update.

    The trained update stands for the change that the task asks for. In the basis of the inputs' principal components,
    with variances s_i and m_i the signal of the update in component i, a frozen random A of rank r keeps sum m_i p_i
    with p_i = s_i / (s_i + penalty), sum p_i = r; a frozen random B keeps r / d_out of everything (theory notes,
    sections 1.2(h) and 6.3).

    That counts an error the same in every direction of the output. With `sensitivities`, which say what the loss feels,
    both sides are treated alike: the signal is weighted by them, and a frozen random B keeps sum m'_j p'_j over the
    principal components of the sensitivity, as a frozen A does over those of the input.

    Parameters
    ----------
    adapter
        The trained adapter.
    covariances
        From `input_covariances`, for every module of the adapter.
    sensitivities
        From `output_sensitivities`, for every module; every output direction counts the same if None.
    rank
        Rank of the frozen factor; each module's own if None. A rank above the adapter's is allowed: B-only at rank 2r
        trains as many numbers as LoRA at rank r.
    centred
        Use the covariance of the inputs in place of their second moment: a constant output is then no signal. Hidden
        states often have a large mean, which any A sees; in queries' and keys' inputs it moves attention little.

    Returns
    -------
    AsymmetryPrediction
        See there. A module whose update is zero has NaN fractions.

    Raises
    ------
    AdapterError
        If a module has no covariance, or one of another width.
    """
    for what, known in (("input covariance", covariances), ("output sensitivity", sensitivities)):
        missing = [module for module in adapter if known is not None and module not in known]
        if missing:
            raise AdapterError(f"{adapter.name}: no {what} for {len(missing)} modules, {missing[0]} among them")
    rows = []
    for module in adapter:
        update = adapter[module]
        moment = covariances[module].covariance if centred else covariances[module].second_moment
        if moment.shape[0] != update.A.shape[1]:
            raise AdapterError(
                f"{adapter.name}, module {module}: its inputs have width {moment.shape[0]}, A has {update.A.shape[1]}"
            )
        row = place(module)
        felt = None if sensitivities is None else sensitivities[module]
        rows.append(row | _predict_module(update, moment, felt, rank or update.A.shape[0]))
    frame = pd.DataFrame(rows).astype({"layer": "Int64"})
    frame["training_A_rank"] = frame["lost_signal"].rank(ascending=False, method="first").astype("Int64")
    return AsymmetryPrediction(
        frame, {"adapter": adapter.name, "rank": rank, "centred": centred, "versions": versions()}
    )


def _predict_module(
    update: LowRankUpdate, moment: Float[Tensor, "d d"], felt: Float[Tensor, "d_out d_out"] | None, rank: int
) -> dict[str, Any]:
    variances, components = _spectrum(moment)
    # The update in the basis of the components, weighted by their standard deviations: M = s B A V diag(sqrt(s_i)).
    right = (update.A.double() @ components) * variances.sqrt()
    left = float(update.scaling) * update.B.double()
    if felt is not None:
        weights, directions = _spectrum(felt)
        left = (left.T @ directions * weights.sqrt()).T
    energy = ((left.T @ left) @ right * right).sum(0).clamp_min(0).numpy()
    signal = float(energy.sum())
    retention = random_retention(variances.numpy(), rank)
    d_out, d_in = update.B.shape[0], update.A.shape[1]
    spectrum = _singular_values(left, right)

    def fraction(kept: float) -> float:
        return kept / signal if signal > 0 else float("nan")

    # Tr[K P] varies as K = M^T M does off its diagonal too, which here has rank r only.
    gram = (right.T @ ((left.T @ left) @ right)).numpy()
    random_A = float(energy @ retention.mean)
    random_B = min(1.0, rank / d_out)
    if felt is not None:
        output_energy = ((right @ right.T) @ left.T * left.T).sum(0).clamp_min(0).numpy()
        random_B = fraction(float(output_energy @ random_retention(weights.numpy(), rank).mean))
    return {
        "d_in": d_in,
        "d_out": d_out,
        "rank": rank,
        "inputs_rank": int((variances > variances[0] * 1e-12).sum()),
        "signal": signal,
        "random_A": fraction(random_A),
        "random_A_std": fraction(retention.gain_variance(gram) ** 0.5),
        "random_B": random_B,
        "principal_A": fraction(float(energy[:rank].sum())),
        "best_A": fraction(float((spectrum[:rank] ** 2).sum())),
        "asymmetry_index": fraction(random_A) / random_B,
        "lost_signal": signal - random_A,
    }


def _spectrum(moment: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Eigenvalues, largest first, and eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(moment.double())
    return values.flip(0).clamp_min(0), vectors.flip(1)


def _singular_values(left: Float[Tensor, "d_out r"], right: Float[Tensor, "r d_in"]) -> np.ndarray:
    """Singular values of left · right, from their QR factors."""
    return torch.linalg.svdvals(torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T).numpy()


def measured_capture(
    update: LowRankUpdate, inputs: Float[Tensor, "samples d_in"], rank: int, *, draws: int, seed: int
) -> Float[np.ndarray, " draws"]:
    """What random frozen A's really keep of an update's output on given inputs: least squares, draw by draw.

    For each draw, A has Gaussian rows, and the outputs of the update are regressed on A x (without intercept); the
    result is the explained fraction of their sum of squares. It checks `predict_asymmetry` without its theory.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = inputs.double()
    outputs = float(update.scaling) * inputs @ update.A.double().T @ update.B.double().T
    total = outputs.square().sum()
    kept = []
    for _ in range(draws):
        A = torch.randn(rank, inputs.shape[1], generator=generator, dtype=torch.float64)
        features = torch.linalg.qr(inputs @ A.T).Q
        kept.append(float((features.T @ outputs).square().sum() / total))
    return np.array(kept)
