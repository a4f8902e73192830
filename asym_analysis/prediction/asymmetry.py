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
from asym_analysis.adapters.load import Source, as_adapter
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.chance.retention import random_retention
from asym_analysis.errors import AdapterError
from asym_analysis.prediction.input_moments import InputCovariances, InputMoment, TokenFrequencies
from asym_analysis.prediction.output_sensitivities import OutputSensitivities
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import whole

__all__ = ["AsymmetryPrediction", "measured_capture", "predict_asymmetry"]

# The variance over draws of A needs a square matrix over the input components: 1 GB at this size.
MOST_COMPONENTS = 11_000


@dataclass(frozen=True, eq=False, repr=False)
class AsymmetryPrediction(TableResult):
    """One row a module: how much of the update a frozen random A, a frozen random B and other choices of A would keep.

    Attributes
    ----------
    frame
        `module, layer, projection`; `inputs`, from how many the moments were estimated; `d_in, d_out, rank`;
        `inputs_rank`, the number of input directions with any variance; `signal`, the mean squared output of the update
        on the module's inputs, weighted by the loss's sensitivity if given; the kept fractions of it, `random_A`,
        `random_A_std` (over draws of A), `random_B`, `principal_A` (A frozen at the first principal components of the
        input) and `best_A` (A trained); `asymmetry_index`, random_A over random_B; `lost_signal`, the signal that a
        frozen random A loses; and `training_A_rank`, 1 for the module that loses most.
    settings
        The arguments, and versions.
    """

    def overall(self) -> dict[str, float]:
        """The fractions of the whole adapter's signal, each module weighted by its own, and their index.

        Returns
        -------
        dict of str to float
            `random_A, random_B, principal_A, best_A` (fractions of the signal) and `asymmetry_index`.
        """
        weights = self.frame["signal"] / (self.frame["signal"].sum() or 1.0)
        kept = ("random_A", "random_B", "principal_A", "best_A")
        fractions = {name: float((self.frame[name] * weights).sum()) for name in kept}
        return fractions | {"asymmetry_index": fractions["random_A"] / fractions["random_B"]}

    def summary(self) -> pd.DataFrame:
        """One row a projection: medians over its modules, and the share of all lost signal.

        Returns
        -------
        DataFrame
            `projection, random_A, random_B, principal_A, asymmetry_index, share_of_lost_signal`.
        """
        columns = ["random_A", "random_B", "principal_A", "asymmetry_index"]
        table = self.frame.groupby("projection")[columns].median()
        table["share_of_lost_signal"] = self.frame.groupby("projection")["lost_signal"].sum()
        table["share_of_lost_signal"] /= self.frame["lost_signal"].sum() or 1.0
        return table.reset_index()


def predict_asymmetry(
    adapter: Adapter | Source,
    covariances: InputCovariances | Mapping[str, InputMoment | TokenFrequencies],
    sensitivities: OutputSensitivities | Mapping[str, Tensor] | None = None,
    *,
    rank: int | None = None,
    centred: bool = False,
) -> AsymmetryPrediction:
    """Predict, module by module, what freezing A or B at random would keep of a trained update.

    The trained update stands for the change that the task asks for. In the basis of the inputs' principal components,
    with variances s_i and m_i the signal of the update in component i, a frozen random A of rank r keeps sum m_i p_i
    with p_i = s_i / (s_i + penalty), sum p_i = r; a frozen random B keeps r / d_out of everything [1]_.

    That counts an error the same in every direction of the output. With `sensitivities` of the loss both sides are
    treated alike: the signal is weighted by them, and a frozen random B keeps sum m'_j p'_j over the principal
    components of the sensitivity, as a frozen A does over those of the input.

    Parameters
    ----------
    adapter : Adapter or source
        The trained adapter, or anything that `load_adapter` reads.
    covariances : InputCovariances or mapping of str to InputMoment or TokenFrequencies
        From `input_covariances`, for every module of the adapter.
    sensitivities : OutputSensitivities or mapping of str to Tensor, optional
        From `output_sensitivities`, for every module; every output direction counts the same if None.
    rank : int, optional
        Rank of the frozen factor; each module's own if None. A rank above the adapter's is allowed: B-only at rank 2r
        trains as many numbers as LoRA at rank r.
    centred : bool, default False
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
    ValueError
        If the rank is not a whole number of at least 1.

    References
    ----------
    .. [1] docs/theory.md, sections 1.2(h) and 6.3.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"layer.0.query": (torch.eye(1, 4), torch.ones(8, 1))})
    >>> moment = InputMoment(torch.eye(4).double(), torch.zeros(4).double(), 100)
    >>> predict_asymmetry(adapter, {"layer.0.query": moment}).frame[["random_A", "random_B"]].round(3).values.tolist()
    [[0.25, 0.125]]
    """
    if rank is not None:
        whole(rank, "rank", least=1)
    adapter = as_adapter(adapter)
    for what, known in (("input covariance", covariances), ("output sensitivity", sensitivities)):
        missing = [module for module in adapter if known is not None and module not in known]
        if missing:
            raise AdapterError(f"{adapter.name}: no {what} for {len(missing)} modules, {missing[0]} among them")
    rows = []
    for module in adapter:
        update = adapter[module]
        moment = covariances[module]
        if moment.width != update.A.shape[1]:
            raise AdapterError(
                f"{adapter.name}, module {module}: its inputs have width {moment.width}, A has {update.A.shape[1]}"
            )
        weights = None if sensitivities is None else sensitivities[module]
        components = moment.in_components(update.A, centred=centred)
        seen = {"inputs": moment.inputs}
        rows.append(place(module) | seen | _predict_module(update, components, weights, rank or update.A.shape[0]))
    frame = pd.DataFrame(rows).astype({"layer": "Int64"})
    frame["training_A_rank"] = frame["lost_signal"].rank(ascending=False, method="first").astype("Int64")
    weighted = sensitivities is not None
    settings = settings_of(adapter=adapter.name, rank=rank, centred=centred, sensitivities=weighted)
    return AsymmetryPrediction(frame, settings)


def _predict_module(
    update: LowRankUpdate,
    inputs: tuple[Float[Tensor, " d"], Float[Tensor, "r d"]],
    sensitivity: Float[Tensor, "d_out d_out"] | None,
    rank: int,
) -> dict[str, Any]:
    d_out, d_in = update.B.shape[0], update.A.shape[1]
    variances, turned = inputs
    seen = variances > 0  # components without variance carry nothing
    variances, turned = variances[seen], turned[:, seen]
    # The update in the basis of the components, weighted by their standard deviations: M = s B A V diag(sqrt(s_i)).
    right = turned * variances.sqrt()
    left = float(update.scaling) * update.B.double()
    if sensitivity is not None:
        weights, directions = _spectrum(sensitivity)
        left = (left.T @ directions * weights.sqrt()).T
    energy = ((left.T @ left) @ right * right).sum(0).clamp_min(0).numpy()
    signal = float(energy.sum())
    retention = random_retention(variances.numpy(), rank)
    spectrum = _singular_values(left, right)

    def fraction(kept: float) -> float:
        return kept / signal if signal > 0 else float("nan")

    # Tr[K P] varies as K = M^T M does off its diagonal too, which here has rank r only.
    deviation = float("nan")
    if len(variances) <= MOST_COMPONENTS:
        deviation = retention.gain_variance((right.T @ ((left.T @ left) @ right)).numpy()) ** 0.5
    random_A = float(energy @ retention.mean)
    random_B = min(1.0, rank / d_out)
    if sensitivity is not None:
        output_energy = ((right @ right.T) @ left.T * left.T).sum(0).clamp_min(0).numpy()
        random_B = fraction(float(output_energy @ random_retention(weights.numpy(), rank).mean))
    return {
        "d_in": d_in,
        "d_out": d_out,
        "rank": rank,
        "inputs_rank": int((variances > variances.max() * 1e-12).sum()),
        "signal": signal,
        "random_A": fraction(random_A),
        "random_A_std": fraction(deviation),
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
    """Measure how much of an update's output random frozen A's keep on given inputs: least squares, draw by draw.

    For each draw, A has Gaussian rows, and the outputs of the update are regressed on A x (without intercept). Checks
    `predict_asymmetry` without its theory.

    Parameters
    ----------
    update : LowRankUpdate
        The trained update of one module.
    inputs : float Tensor of shape (samples, d_in)
        Its inputs, one a row.
    rank : int
        Rows of A.
    draws : int
        How many A's are drawn.
    seed : int
        Of the draws.

    Returns
    -------
    ndarray
        Shape (draws,): the explained fraction of the outputs' sum of squares.

    Examples
    --------
    >>> update = LowRankUpdate(A=torch.eye(1, 4), B=torch.ones(8, 1))
    >>> inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> measured_capture(update, inputs, 4, draws=2, seed=0).round(6).tolist()
    [1.0, 1.0]
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
