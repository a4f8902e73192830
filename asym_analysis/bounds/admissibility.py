"""Whether a bound on an adapter can be a certificate, from what the adapter records."""

from __future__ import annotations

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.trained import has_factors, is_plain, tuned_of
from asym_analysis.vocabulary import TUNED, Tuned, choose

__all__ = ["DATA_DRIVEN", "checked_tuned", "doubts", "refuse_other_shapes"]

#: Initializations of PEFT that are computed from the training data or its gradients.
DATA_DRIVEN = frozenset({"eva", "corda", "lora_ga"})
#: Initializations at which B·A is not zero, drawn at random.
NOT_ZERO = frozenset({"false", "orthogonal"})


def checked_tuned(adapter: Adapter, tuned: str) -> tuple[Tuned, str]:
    """The trained factors to charge, held against what the adapter records.

    Parameters
    ----------
    adapter
        The adapter.
    tuned
        "A", "B", "both", or "auto" for what the adapter records.

    Returns
    -------
    tuned, evidence
        The trained factors and one clause that says how they are known.

    Raises
    ------
    ValueError
        If `tuned` is none of these, or names fewer factors than the adapter's own record shows to have been trained.

    Examples
    --------
    >>> import torch
    >>> start = Adapter.from_factors({"q": (torch.ones(1, 3), torch.zeros(2, 1))})
    >>> moved = Adapter.from_factors({"q": (torch.zeros(1, 3), torch.ones(2, 1))}, name="run", initial=start)
    >>> checked_tuned(moved, "B")
    Traceback (most recent call last):
    ValueError: tuned='B' says that A was not trained, but run records otherwise (both left their initialization): use
    tuned='both'
    """
    choose(tuned, ("auto", *TUNED), "tuned")
    if adapter.initial is not None:
        refuse_other_shapes(adapter, adapter.initial, "the recorded initialization")
    recorded, evidence, known = tuned_of(adapter)
    if tuned == "auto":
        return recorded, evidence
    given: Tuned = next(name for name in TUNED if name == tuned)
    if known and given not in ("both", recorded):
        missing = "A" if given == "B" else "B"
        raise ValueError(
            f"tuned={tuned!r} says that {missing} was not trained, but {adapter.name} records otherwise ({evidence}): "
            f"use tuned={recorded!r}"
        )
    if given != "both" and not has_factors(adapter):
        raise ValueError(f"tuned={tuned!r} names a factor that {adapter.name} does not train: use tuned='both'")
    return given, "as given"


def refuse_other_shapes(adapter: Adapter, start: Adapter, what: str) -> None:
    """Refuse a centre of the prior whose factors have other shapes than the adapter's.

    Parameters
    ----------
    adapter
        The adapter.
    start
        Its recorded initialization, or a prior made from other samples.
    what
        What `start` is, for the message.

    Raises
    ------
    ValueError
        If a module has other shapes in the two.

    Examples
    --------
    >>> import torch
    >>> made = [Adapter.from_factors({"q": (torch.ones(r, 3), torch.zeros(2, r))}, name=f"rank {r}") for r in (1, 2)]
    >>> refuse_other_shapes(*made, "the prior")
    Traceback (most recent call last):
    ValueError: the prior (rank 2) holds q of shape 2 x 3 and rank 2, and rank 1 has 2 x 3 and rank 1: a bound needs the
    same modules, shapes and ranks
    """
    for module in adapter:
        if module not in start:
            continue
        own, other = adapter.source(module), start.source(module)
        sizes = [(source.d_out, source.d_in, source.rank) for source in (own, other)]
        if is_plain(own) and is_plain(other) and sizes[0] != sizes[1]:
            has, holds = ("{} x {} and rank {}".format(*size) for size in sizes)
            raise ValueError(
                f"{what} ({start.name}) holds {module} of shape {holds}, and {adapter.name} has {has}: a bound needs "
                "the same modules, shapes and ranks"
            )
    for name, extra in adapter.extras.items():
        if name in start.extras and tuple(start.extras[name].shape) != tuple(extra.shape):
            raise ValueError(f"{what} ({start.name}) holds {name} of another shape than {adapter.name}")


def doubts(adapter: Adapter, tuned: Tuned) -> tuple[str, ...]:
    """Reasons why no bound on this adapter can be a certificate.

    Parameters
    ----------
    adapter
        The adapter.
    tuned
        The trained factors that the bound charges.

    Returns
    -------
    tuple of str
        One clause for each: refused tensors, trained tensors that may be missing, an initialization made from data or
        recorded after training had moved it.

    Examples
    --------
    >>> import torch
    >>> doubts(Adapter.from_factors({"q": (torch.ones(1, 3), torch.zeros(2, 1))}), "B")
    ()
    """
    found = []
    refused = len(adapter.coverage.refused)
    if refused:
        found.append(f"{refused} tensors of the checkpoint were refused and are not charged")
    if adapter.coverage.others_unknown:
        found.append("the checkpoint is the state dict of a whole model and may hold other trained tensors")
    scheme = str(adapter.metadata.get("init_lora_weights", "")).lower()
    if scheme in DATA_DRIVEN and (tuned != "both" or adapter.initial is not None):
        found.append(f"the initialization {scheme!r} was computed from training data")
    late = _recorded_late(adapter)
    if late and scheme not in NOT_ZERO and adapter.base_changed is None:
        found.append(
            f"at the recorded initialization {late} changes the model already, which no initialization that "
            "is known of it does: was it recorded after training had moved it?"
        )
    return tuple(found)


def _recorded_late(adapter: Adapter) -> str | None:
    """A module whose recorded initial factors have a product other than zero though training changed something."""
    start = adapter.initial
    for module in adapter if start is not None else ():
        if start is None or module not in start or not is_plain(adapter.source(module)):
            continue
        initial = start[module]
        if bool(initial.A.any()) and bool(initial.B.any()):
            return module
    return None
