"""compute_bound: the ladder of generalization bounds on one checkpoint, from its file alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from asym_analysis.adapters.load import as_adapter
from asym_analysis.bounds.admissibility import checked_tuned
from asym_analysis.bounds.description import Placement
from asym_analysis.bounds.energies import noise_size
from asym_analysis.bounds.ladder import Ladder
from asym_analysis.bounds.report import BoundReport, BoundRow
from asym_analysis.results import settings_of
from asym_analysis.vocabulary import Tuned, choose, finite, whole

__all__ = ["RUNGS", "compute_bound"]

RUNGS = (
    "parameter count", "degrees of freedom", "few values", "mutual information", "description length",
    "Gaussian posterior",
)  # fmt: skip


def compute_bound(
    checkpoint: Any,
    n_samples: int,
    *,
    tuned: Tuned | str = "auto",
    bits: float | int | None = None,
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
       the r^2 entries that (GA, BG^-1) leaves open are not counted. "few values": where the file's entries take few
       values (training on a grid of few bits, fp8, short mantissas), a table of them and a coded symbol for each
       entry, as `encode_values` writes them; nothing is rounded.
    2. "mutual information": the same with I(adapter; data) as given, in nats.
    3. "description length": the adapter quantized and coded into a message that decodes.
    4. "Gaussian posterior": PAC-Bayes with Gaussians around the trained factors.

    Rungs 3 and 4 bound the quantized and the perturbed adapter: whether these still solve the task is what `certify`
    measures.

    Parameters
    ----------
    checkpoint : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    n_samples : int
        Number of training samples.
    tuned : {"B", "A", "both"} or str, default "auto"
        Factors that training changed: "B", "A", "both", or "auto" to read it from the config or the recorded
        initialization. Rows for the other sets are there for comparison, as diagnostics.
    bits : float or int, optional
        Bits of one entry, at least 1; by default those of each tensor's own dtype. Fewer are right where the tensor
        takes no more than 2^bits values, as after training on a grid of so many bits: its table of values is charged
        with them. Otherwise they speak of another adapter, and the row is a diagnostic.
    sub_gaussian : float, default 0.5
        Sub-Gaussian parameter of the loss: half its range for a bounded loss, so 0.5 for the 0-1 loss.
    include_head : bool, default True
        Also give each bound with the trained tensors outside the modules charged. Without them a bound holds only for
        a head that was fixed beforehand.
    mutual_information : float, sequence of float or mapping of str to float, optional
        I(trained factors; training data) in nats: a number for this checkpoint's trained factors, a mapping from
        "B", "A", "both" to numbers, or a sequence with I(trained factors; Z_i) for each training sample.
    empirical_risk : float, optional
        Training loss in [0, 2 sub_gaussian], to bound the risk as well as the gap.
    confidence : float, default 0.95
        1 - delta of the bounds that hold with probability.
    rungs : collection of str, optional
        Which of `RUNGS` to compute; "description length" takes minutes on a billion-parameter model's adapter.
    levels, placement : int or {"even", "k-means"}, optional
        Quantizer of rung 3, as in `encode_adapter`.
    relative_noise : float, default 1.0
        Size of the noise of rung 4, as a share of the update's norm.
    progress : bool, default False
        Show progress bars.

    Returns
    -------
    BoundReport
        One `BoundRow` a bound; `.best()` is the tightest that applies.

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    AdapterError
        If the checkpoint cannot be read.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter
    >>> adapter = Adapter.from_factors({"q": (torch.randn(2, 64), torch.randn(64, 2))})
    >>> report = compute_bound(adapter, n_samples=1_000_000)
    >>> report
    BoundReport(10 bounds; of 4 for this checkpoint 3 certify something)
    """
    adapter = as_adapter(checkpoint)
    for rung in [rungs] if isinstance(rungs, str) else rungs:
        choose(rung, RUNGS, "rungs")
    rungs = (rungs,) if isinstance(rungs, str) else tuple(rungs)
    whole(n_samples, "n_samples", least=1)
    finite(sub_gaussian, "sub_gaussian", above=0)
    finite(confidence, "confidence", above=0, below=1)
    noise_size(relative_noise)
    if bits is not None:
        finite(bits, "bits", least=1)
    if empirical_risk is not None:
        finite(empirical_risk, "empirical_risk", least=0, most=2 * sub_gaussian)
    own, evidence = checked_tuned(adapter, tuned)
    ladder = Ladder(adapter, n_samples, own, sub_gaussian, empirical_risk, confidence, include_head)
    rows: list[BoundRow] = []
    if "parameter count" in rungs or "degrees of freedom" in rungs:
        rows += ladder.by_count(bits, rungs)
    if "few values" in rungs:
        rows += ladder.by_values()
    if "mutual information" in rungs and mutual_information is not None:
        rows += ladder.by_information(mutual_information)
    if "description length" in rungs:
        rows += ladder.by_description(levels, placement, progress)
    if "Gaussian posterior" in rungs:
        rows += ladder.by_posterior(relative_noise)
    settings = settings_of(
        checkpoint=adapter.name,
        modules=len(adapter),
        n_samples=n_samples,
        tuned=own,
        tuned_known_from=evidence,
        bits=bits if bits is not None else "of the file's dtype",
        sub_gaussian=sub_gaussian,
        empirical_risk=empirical_risk,
        confidence=confidence,
        levels=levels,
        placement=placement,
        relative_noise=relative_noise,
    )
    return BoundReport(rows, settings)
