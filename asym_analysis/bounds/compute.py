"""compute_bound: the ladder of generalization bounds on one checkpoint, from its file alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.description import Placement
from asym_analysis.bounds.ladder import Ladder
from asym_analysis.bounds.report import BoundReport, BoundRow
from asym_analysis.bounds.trained import Tuned, as_tuned, regime_of
from asym_analysis.results import versions

if TYPE_CHECKING:
    import os

__all__ = ["RUNGS", "compute_bound"]

RUNGS = ("parameter count", "degrees of freedom", "mutual information", "description length", "Gaussian posterior")


def compute_bound(
    checkpoint: Adapter | str | os.PathLike[str],
    n_samples: int,
    *,
    tuned: Tuned | str = "auto",
    bits: float | None = None,
    sub_gaussian: float = 0.5,
    include_head: bool = True,
    mutual_information: float | Sequence[float] | Mapping[str, float] | None = None,
    empirical_risk: float | None = None,
    confidence: float = 0.95,
    rungs: Collection[str] = RUNGS,
    levels: int = 16,
    placement: Placement = "k-means",
    relative_noise: float = 1.0,
    progress: bool = False,
) -> BoundReport:
    """Generalization bounds on a checkpoint: a row for each rung, each set of tuned factors, with and without the head.

    1. "parameter count": q bits for each trained entry, the paper's Lemma 4.5; "degrees of freedom" beside it, where
       the r^2 entries that (GA, BG^-1) leaves open are not counted.
    2. "mutual information": the same with I(adapter; data) as given, in nats.
    3. "description length": the adapter quantized and coded into a message that decodes.
    4. "Gaussian posterior": PAC-Bayes with Gaussians around the trained factors.

    Rungs 3 and 4 bound the quantized and the perturbed adapter: whether these still solve the task is what `certify`
    measures.

    Parameters
    ----------
    checkpoint
        An `Adapter`, or anything that `load_adapter` reads.
    n_samples
        Number of training samples.
    tuned
        Factors that training changed: "B", "A", "both", or "auto" to read it from the config or the recorded
        initialization. Rows for the other sets are there for comparison, as diagnostics.
    bits
        Bits of one entry; by default those of the file's dtype.
    sub_gaussian
        Sub-Gaussian parameter of the loss: half its range for a bounded loss, so 0.5 for the 0-1 loss.
    include_head
        Also give each bound with the trained tensors outside the modules charged. Without them a bound holds only for
        a head that was fixed beforehand.
    mutual_information
        I(trained factors; training data) in nats: a number for this checkpoint's regime, a mapping from "B", "A",
        "both" to numbers, or a sequence with I(trained factors; Z_i) for each training sample.
    empirical_risk
        Training loss in [0, 2 sub_gaussian], to bound the risk as well as the gap.
    confidence
        1 - delta of the bounds that hold with probability.
    rungs
        Which of `RUNGS` to compute; "description length" takes minutes on a billion-parameter model's adapter.
    levels, placement
        Quantizer of rung 3, as in `encode_adapter`.
    relative_noise
        Size of the noise of rung 4, as a share of the update's norm.
    progress
        Show progress bars.

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    AdapterError
        If the checkpoint cannot be read.

    Examples
    --------
    >>> import torch
    >>> adapter = Adapter.from_factors({"q": (torch.randn(2, 64), torch.randn(64, 2))})
    >>> report = compute_bound(adapter, n_samples=1_000_000)
    >>> report
    BoundReport(10 bounds; of 4 for this checkpoint 3 certify something)
    """
    unknown = set(rungs) - set(RUNGS)
    if unknown:
        raise ValueError(f"unknown rungs {sorted(unknown)}: choose from {', '.join(RUNGS)}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    if empirical_risk is not None and not 0.0 <= empirical_risk <= 2 * sub_gaussian:
        raise ValueError(
            f"the empirical risk {empirical_risk} is outside [0, {2 * sub_gaussian:g}], the range that "
            f"sub_gaussian={sub_gaussian:g} stands for"
        )
    if isinstance(checkpoint, Adapter):
        adapter = checkpoint
    else:
        from asym_analysis.adapters.load import load_adapter

        adapter = load_adapter(checkpoint)
    regime, evidence = regime_of(adapter) if tuned == "auto" else (as_tuned(tuned), "as given")
    ladder = Ladder(adapter, n_samples, regime, sub_gaussian, empirical_risk, confidence, include_head)
    rows: list[BoundRow] = []
    if "parameter count" in rungs or "degrees of freedom" in rungs:
        rows += ladder.by_count(bits, rungs)
    if "mutual information" in rungs and mutual_information is not None:
        rows += ladder.by_information(mutual_information)
    if "description length" in rungs:
        rows += ladder.by_description(levels, placement, progress)
    if "Gaussian posterior" in rungs:
        rows += ladder.by_posterior(relative_noise)
    settings = {
        "checkpoint": adapter.name,
        "modules": len(adapter),
        "n_samples": n_samples,
        "tuned": regime,
        "tuned_known_from": evidence,
        "bits": bits if bits is not None else "of the file's dtype",
        "sub_gaussian": sub_gaussian,
        "empirical_risk": empirical_risk,
        "confidence": confidence,
        "levels": levels,
        "placement": placement,
        "relative_noise": relative_noise,
        "versions": versions(),
    }
    return BoundReport(rows, settings)
