"""Whether a posterior that the user brings was made for the adapter, factors and prior that a certificate charges."""

from __future__ import annotations

import math

import torch

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.bounds.posterior import GaussianPosterior, divergence
from asym_analysis.bounds.trained import TensorKey, TrainedTensor, is_plain, trained_tensors
from asym_analysis.vocabulary import FACTORS, Tuned

__all__ = ["check_posterior"]


def check_posterior(
    posterior: GaussianPosterior, adapter: Adapter, tuned: Tuned, *, head: bool, prior: Adapter | None
) -> None:
    """Refuse a posterior that was made for something else than the certificate says.

    Parameters
    ----------
    posterior
        What the user gave.
    adapter
        The adapter that is certified.
    tuned
        The trained factors that are charged.
    head
        Whether the trained tensors outside the modules are charged.
    prior
        The adapter that the prior is centred on, where it comes from other samples.

    Raises
    ------
    ValueError
        If the factors, the head, the modules, a frozen factor or the prior's centre differ, or its KL is not that of
        its centre, standard deviations and prior.

    Examples
    --------
    >>> from asym_analysis.bounds.posterior import gaussian_posterior
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))})
    >>> check_posterior(gaussian_posterior(adapter, "B"), adapter, "both", head=False, prior=None)
    Traceback (most recent call last):
    ValueError: the posterior was made for tuned='B' and this certificate charges tuned='both': make it for the same
    factors
    """
    if posterior.tuned != tuned:
        raise ValueError(
            f"the posterior was made for tuned={posterior.tuned!r} and this certificate charges tuned={tuned!r}: make "
            "it for the same factors"
        )
    if head and not posterior.include_head:
        raise ValueError("the posterior leaves the trained head out: make it with include_head=True")
    if posterior.prior == "data" and (prior is None or prior.name != posterior.prior_name):
        raise ValueError(
            f"the posterior's prior is the adapter {posterior.prior_name!r}: pass the same adapter as prior="
        )
    if posterior.prior != "data" and prior is not None:
        raise ValueError("prior= is given, but the posterior was made without it: pass it to the posterior as well")
    if set(posterior.adapter) != set(adapter):
        raise ValueError("the posterior was made for an adapter with other modules")
    for module in adapter:
        if tuned == "both" or not is_plain(adapter.source(module)):
            continue
        for factor in set(FACTORS) - {tuned}:
            own, other = getattr(adapter[module], factor), getattr(posterior.adapter[module], factor)
            if own.shape != other.shape or not torch.equal(own, other.to(own)):
                raise ValueError(f"the posterior was made around another frozen {factor} of {module}")
    for module in adapter:
        if posterior.adapter.source(module).scaling != adapter.source(module).scaling:
            raise ValueError(f"the posterior was made for another scaling (alpha) of {module}")
    reference = adapter if prior is None else adapter.replaced(initial=prior)
    charged = list(trained_tensors(reference, tuned, include_head=posterior.include_head))
    for tensor in charged:
        _refuse_missing(posterior, tensor)
    _refuse_other_fixed(posterior, adapter, {tensor.key for tensor in charged})
    claimed, (own, price) = posterior.kl, divergence(posterior)
    if not (claimed >= (own if math.isinf(own) else own - 1e-6 * max(own, 1.0)) and posterior.price >= price - 1e-9):
        raise ValueError(
            f"the posterior says that its KL is {claimed:.6g} nats, and its centre, standard deviations and prior give "
            f"{own:.6g}: it was changed after it was made; make it again with fitted_posterior"
        )
    for tensor in charged:
        centre = posterior.prior_centre[tensor.key]
        expected = torch.zeros_like(centre) if tensor.read_initial is None else tensor.read_initial().to(centre)
        if not torch.equal(expected, centre):
            where = "at zero" if tensor.read_initial is None else "at " + (prior or adapter.initial or adapter).name
            raise ValueError(
                f"the posterior's prior is centred elsewhere than {where}, where this certificate says: make it from "
                "the same adapter, with the same recorded initialization and prior"
            )


def _refuse_missing(posterior: GaussianPosterior, tensor: TrainedTensor) -> None:
    """Refuse a posterior that lacks a tensor: every draw would keep its trained value, uncharged."""
    for values in (posterior.centre, posterior.prior_centre):
        value = values.get(tensor.key)
        if value is None or tuple(value.shape) != tensor.shape:
            raise ValueError(f"the posterior has no {tensor.key[1]} of {tensor.key[0]}, which is charged")
    std = posterior.stds.get(tensor.key)
    whole = not isinstance(std, torch.Tensor) or std.ndim == 0 or tuple(std.shape) == tensor.shape
    if std is None or tensor.key not in posterior.prior_stds or not whole:
        raise ValueError(f"the posterior has no standard deviations of {tensor.key[1]} of {tensor.key[0]}")


def _refuse_other_fixed(posterior: GaussianPosterior, adapter: Adapter, charged: set[TensorKey]) -> None:
    """Refuse another value of anything that is not charged: a head, or the fixed parts of a module such as VeRA's."""
    for name, extra in adapter.extras.items():
        other = posterior.adapter.extras.get(name)
        if (name, "head") not in charged and (other is None or not torch.equal(extra.read(), other.read())):
            raise ValueError(f"the posterior was made with another {name}, which this certificate does not charge")
    for module in adapter:
        source, made = adapter.source(module), posterior.adapter.source(module)
        if is_plain(source):
            continue
        kept = [name for name in source.parts if (module, name) not in charged and name not in source.trained_parts()]
        if set(made.parts) != set(source.parts) or not all(
            torch.equal(source.parts[name].read(), made.parts[name].read()) for name in kept
        ):
            raise ValueError(f"the posterior was made around other fixed parts of {module}")
