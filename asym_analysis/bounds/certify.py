"""Risk certificates from losses that are measured on the candidates themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.load import as_adapter
from asym_analysis.bounds.admissibility import checked_tuned, doubts, refuse_other_shapes
from asym_analysis.bounds.certification import HEADLINE, Certification, Margin
from asym_analysis.bounds.duplicates import Duplicates, find_duplicates, repeats_across_groups
from asym_analysis.bounds.energies import noise_size
from asym_analysis.bounds.evaluation import examine
from asym_analysis.bounds.identity import fingerprint, same_trained
from asym_analysis.bounds.losses import Evaluate, EvaluateSome, Losses, group_members
from asym_analysis.bounds.model_losses import ModelLosses, Samples
from asym_analysis.bounds.posterior import GaussianPosterior
from asym_analysis.bounds.posterior_check import check_posterior
from asym_analysis.bounds.report import BoundReport, BoundRow
from asym_analysis.bounds.subspace import SubspaceCode, check_codes
from asym_analysis.results import settings_of
from asym_analysis.vocabulary import Tuned, choose, finite, whole

__all__ = ["METHODS", "certify"]

METHODS = ("coded", "gaussian", "one draw")
MOST_DUPLICATES = 0.01  # share of samples that repeat others, above which independence does not hold


def certify(
    checkpoint: Any,
    evaluate: Evaluate | None = None,
    n_samples: int | None = None,
    *,
    model: torch.nn.Module | None = None,
    data: Iterable[Mapping[str, Any]] | Samples | None = None,
    loss: str = "zero-one",
    methods: Collection[str] = METHODS,
    confidence: float = 0.95,
    tuned: Tuned | str = "auto",
    include_head: bool = True,
    levels: Sequence[int] = (2, 3, 5, 9, 17),
    relative_noise: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    draws: int | None = None,
    posterior: GaussianPosterior | None = None,
    subspace: Sequence[SubspaceCode] = (),
    prior: Adapter | None = None,
    evaluate_some: EvaluateSome | None = None,
    groups: ArrayLike | None = None,
    samples: Sequence[Any] | np.ndarray | None = None,
    prior_samples: Sequence[Any] | np.ndarray | None = None,
    tried: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> BoundReport:
    """Certified risk of a checkpoint, quantized, perturbed or drawn once, from its losses on the n training samples.

    The rows of form "kl-inverse" all hold together with probability 1 - delta, so that the best of them may be taken:
    delta is shared among the methods, one code covers every choice of levels, and one prior with its grid of scales
    every posterior. The other forms hold each alone, for comparison.

    Parameters
    ----------
    checkpoint : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    evaluate : callable, optional
        Gives the losses of an adapter on the n samples: shape (n_samples,), each in [0, 1]. It gets a copy of each
        candidate and must use the candidate's factors and its `extras` (the trained head). Not needed with `model`.
    n_samples : int, optional
        Number of samples; with `prior`, of those that the prior has not seen. Not needed with `model`.
    model, data, loss : Module or iterable of mapping or Samples or str, optional
        In place of `evaluate`, `evaluate_some` and `n_samples`: an open classifier (any module whose output has
        `logits`), its batches with "labels", and the loss, as in `ModelLosses`. Factors and head of each candidate are
        put into the model, which is as before afterwards.
    methods : collection of str, optional
        "coded": quantize, code, decode, evaluate; certifies the coded adapter. "gaussian": evaluate adapters drawn
        from a posterior; certifies the Gibbs posterior. "one draw": evaluate one adapter drawn from each posterior;
        certifies that adapter.
    confidence : float, default 0.95
        1 - delta.
    tuned, include_head : {"B", "A", "both"} or str or bool, optional
        As in `compute_bound`. Leaving the head out certifies only for a head that was fixed beforehand.
    levels : sequence of int, optional
        Numbers of levels to try; the message says which, so that the search is paid for.
    relative_noise : sequence of float, optional
        Sizes of the noise to try, as shares of the update's norm; paid for by the price of the scales.
    draws : int, optional
        Adapters drawn from the Gibbs posterior. By default as many as a sampling margin of at most .005 takes: about
        2,000 evaluations, or a few passes over the data with `evaluate_some`; fewer where no number of draws would
        lower the certified risk, as with very few samples.
    posterior : GaussianPosterior, optional
        A posterior trained for the bound, in place of `relative_noise`.
    subspace : sequence of SubspaceCode, optional
        Adapters trained in few coordinates (`fit_subspace`), of any number of coordinates and levels, which their
        messages say. All with one `subspace_seed`; otherwise `tried` counts the seeds.
    prior : Adapter, optional
        An adapter trained on other samples than these n. Messages then carry the difference from it, the Gaussian
        prior is centred on it, and the row "hold-out" gives what the samples certify for the prior itself.
    evaluate_some : callable, optional
        Gives the losses on the samples with the given indices. With it, each drawn adapter is evaluated on its own
        block of samples: one pass over the data in place of one pass a draw, at equal validity.
    groups : array, optional
        One label a sample: samples that share a source (reviews, documents, copies) count as one, with their mean
        loss, and the bound is for the mean loss of a new group.
    samples, prior_samples : sequence of str or array, optional
        Texts or arrays of the n samples, and of those that the prior was trained on. Copies and near copies among
        them are measured; above one percent, but for copies within one of `groups`, no row is a certificate.
    tried : int, default 1
        Number of codes, priors or seeds tried on these data: sets of modules, ranks, seeds of a frozen factor, settings
        of a prior, values of `seed`, calls of this function whose lowest row is reported. Learning rates and
        checkpoints need no charge: the bounds hold for all adapters at once.
    seed : int, default 0
        Of the draws. Each use has its own stream.
    progress : bool, default False
        Show progress bars.

    Returns
    -------
    BoundReport
        Rows of rung "coded", "gaussian", "one draw", with `subspace` "subspace" and with `prior` "hold-out". All are
        diagnostics, with the reason among the assumptions, where the losses show that `evaluate` may not use the
        adapter that it gets, divides by its largest loss, or has an order of samples that matters.
        `settings["fingerprint"]` is of the checkpoint.

    Raises
    ------
    ValueError
        If an argument lies outside its range or contradicts what the adapter records; if `posterior` was made for other
        factors or another prior; if `evaluate` gives other than n losses in [0, 1], ignores the trained head of the
        adapter it gets, gives other losses when it is called again, or lets samples influence each other.

    References
    ----------
    .. [1] O. Rivasplata and others, PAC-Bayes analysis beyond the usual bounds, arXiv 2006.13057 (2020), for one draw.
    .. [2] docs/theory.md, sections 5.6 and 5.7.

    Examples
    --------
    >>> import torch
    >>> A, B = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)), torch.ones(4, 1)
    >>> adapter = Adapter.from_factors({"q": (A, B)})
    >>> x = torch.randn(5000, 8, generator=torch.Generator().manual_seed(1))
    >>> def evaluate(adapter):  # its label: the sign of the first output of the trained adapter
    ...     return (x @ adapter["q"].delta()[0]).sign() != (x @ A[0]).sign()
    >>> report = certify(adapter, evaluate, 5000, tuned="B", draws=10)
    >>> best = report.best()
    >>> best.predictor, best.kind, best.risk < 0.02
    ('one draw', 'certificate', True)
    """
    adapter = as_adapter(checkpoint)
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    _check_arguments(methods, levels, relative_noise, posterior, confidence, draws, tried)
    losses = _losses(adapter, evaluate, evaluate_some, n_samples, groups, model, data, loss)
    own, evidence = checked_tuned(adapter, tuned)
    head = include_head and bool(adapter.extras)
    if posterior is not None:
        check_posterior(posterior, adapter, own, head=head, prior=prior)
    if prior is not None:
        refuse_other_shapes(adapter, prior, "the prior")
    repeats = find_duplicates(samples, prior_samples) if samples is not None else None
    examined = examine(
        losses, adapter, own, head=head, whole=set(methods) != {"gaussian"} or bool(prior or subspace), seed=seed
    )
    reasons = doubts(adapter if prior is None else adapter.without_initial(), own) + losses.doubts + examined.doubts
    reasons += _repeated(repeats, losses.n_samples, groups)
    if prior is not None and prior_samples is None and same_trained(adapter, prior, own):
        reasons += ("the prior is the checkpoint itself: was it trained on these samples? (samples=, prior_samples=)",)
    work = Certification(
        adapter=adapter, prior=prior, losses=losses, tuned=own, include_head=include_head,
        delta=(1.0 - confidence) / (len(methods) + (prior is not None) + bool(subspace)), confidence=confidence,
        tried=tried, doubts=reasons, copies=losses.repeated if repeats is None else 0.0, seed=seed, progress=progress,
    )  # fmt: skip
    if subspace:
        check_codes(subspace, adapter, own, head=head, prior=prior, tried=tried)
    rows = _rows(work, methods, levels, relative_noise, Margin(draws), posterior, subspace)
    examined.refuse_changes()
    settings = settings_of(
        checkpoint=adapter.name, fingerprint=fingerprint(adapter), n_samples=losses.n_samples, units=losses.count,
        tuned=own, tuned_known_from=evidence, methods=methods, confidence=confidence, headline=HEADLINE, draws=draws,
        tried=tried, doubts=list(reasons), prior=None if prior is None else prior.name,
        repeated_within=losses.repeated if repeats is None else repeats.within,
        repeated_across=None if repeats is None else repeats.across, seed=seed,
    )  # fmt: skip
    return BoundReport(rows, settings)


def _rows(
    work: Certification,
    methods: Sequence[str],
    levels: Sequence[int],
    relative_noise: Sequence[float],
    margin: Margin,
    posterior: GaussianPosterior | None,
    subspace: Sequence[SubspaceCode],
) -> list[BoundRow]:
    """The rows of every method, and those of what was given beside them."""
    rows = work.coded(levels) if "coded" in methods else []
    if "gaussian" in methods or "one draw" in methods:
        candidates = [("as given", posterior)] if posterior is not None else work.candidates(relative_noise)
        rows += work.gaussian(candidates, margin) if "gaussian" in methods else []
        rows += work.one_draw(candidates) if "one draw" in methods else []
    rows += work.subspace(subspace)
    return rows + (work.hold_out() if work.prior is not None else [])


def _check_arguments(
    methods: Sequence[str],
    levels: Sequence[int],
    relative_noise: Sequence[float],
    posterior: GaussianPosterior | None,
    confidence: float,
    draws: int | None,
    tried: int,
) -> None:
    for method in methods:
        choose(method, METHODS, "methods")
    if not methods or (not relative_noise and posterior is None) or not levels:
        raise ValueError("methods, levels and relative_noise need at least one value each")
    for count in levels:
        whole(count, "levels", least=2)
    for size in relative_noise:
        noise_size(size)
    finite(confidence, "confidence", above=0, below=1)
    if draws is not None:
        whole(draws, "draws", least=1)
    whole(tried, "tried", least=1)


def _losses(
    adapter: Adapter,
    evaluate: Evaluate | None,
    evaluate_some: EvaluateSome | None,
    n_samples: int | None,
    groups: ArrayLike | None,
    model: torch.nn.Module | None,
    data: Iterable[Mapping[str, Any]] | Samples | None,
    loss: str,
) -> Losses:
    """Losses by the caller's functions, or by the model that was given in their place."""
    if model is not None and data is not None and evaluate is evaluate_some is n_samples is None:
        own = ModelLosses(adapter, model, data, loss=loss)
        members = group_members(groups, len(own))
        repeated = repeats_across_groups(own.copies, None if groups is None else np.asarray(groups))
        return Losses(own.evaluate, own.evaluate_some, len(own), members, True, own.doubts, repeated)
    if model is not None or data is not None:
        raise ValueError("give model= and data=, or evaluate and n_samples, not parts of both")
    if evaluate is None or n_samples is None:
        raise ValueError("give evaluate and n_samples, or model= and data=")
    n_samples = whole(n_samples, "n_samples", least=1)
    return Losses(evaluate, evaluate_some, n_samples, group_members(groups, n_samples))


def _repeated(repeats: Duplicates | None, n_samples: int, groups: ArrayLike | None) -> tuple[str, ...]:
    if repeats is None:
        return ()
    if len(repeats.groups) != n_samples:
        raise ValueError(f"samples has {len(repeats.groups)} entries for n_samples={n_samples}")
    found = []
    within = repeats_across_groups(repeats.groups, None if groups is None else np.asarray(groups))
    if within > MOST_DUPLICATES:
        advice = "give groups=" if groups is None else "which is in another group: join such groups"
        found.append(f"{within:.0%} of the samples repeat another: {advice}")
    if repeats.across > MOST_DUPLICATES:
        found.append(f"{repeats.across:.0%} of the samples repeat one that the prior was trained on")
    return tuple(found)
