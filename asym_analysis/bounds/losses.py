"""Losses of candidate adapters on the samples: checked, grouped, and measured on copies of the adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from asym_analysis.adapters.adapter import Adapter

__all__ = ["Evaluate", "EvaluateSome", "Losses", "checked_losses", "generator_for", "group_members"]

Evaluate = Callable[[Adapter], ArrayLike]
EvaluateSome = Callable[[Adapter, Int[np.ndarray, "some"]], ArrayLike]


def generator_for(seed: int, *labels: object) -> torch.Generator:
    """A generator whose stream no other use of the same seed shares: the seed and labels are hashed.

    Parameters
    ----------
    seed
        The user's seed.
    labels
        What the numbers are for.

    Returns
    -------
    torch.Generator
        Independent of `torch.manual_seed(seed)` and of every other label.

    Examples
    --------
    >>> one, two = generator_for(0, "draw", 0), generator_for(0, "draw", 1)
    >>> bool(torch.rand(1, generator=one) == torch.rand(1, generator=two))
    False
    """
    digest = hashlib.sha256(repr((int(seed), *labels)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def group_members(groups: ArrayLike | None, n_samples: int) -> list[Int[np.ndarray, "_"]] | None:
    """The samples of each group, in the order in which the groups first occur.

    Parameters
    ----------
    groups
        One label a sample, or None where every sample stands for itself.
    n_samples
        Number of samples.

    Returns
    -------
    list of arrays, or None
        Indices of each group's samples.

    Raises
    ------
    ValueError
        If there is not one label for each sample, or two differ in the spaces round them only.

    Examples
    --------
    >>> [members.tolist() for members in group_members(["b", "a", "b"], 3)]
    [[0, 2], [1]]
    """
    if groups is None:
        return None
    labels = np.asarray(groups)
    if pd.isna(labels).any():
        raise ValueError(f"groups has no label for {int(pd.isna(labels).sum())} samples")
    if labels.shape != (n_samples,):
        raise ValueError(f"groups has shape {labels.shape}: give one label for each of the {n_samples} samples")
    names = {name for name in labels.tolist() if isinstance(name, str)}
    apart = sorted(name for name in names if name != name.strip() and name.strip() in names)
    if apart:
        raise ValueError(f"groups has the label {apart[0]!r} with and without spaces: write it in one way")
    _, first, index = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    sorted_index = order[index.reshape(-1)]
    by_group = np.argsort(sorted_index, kind="stable")
    return np.split(by_group, np.cumsum(np.bincount(sorted_index))[:-1])


def checked_losses(given: ArrayLike, expected: int) -> Float[np.ndarray, "n"]:
    """Losses as a caller's function gave them, checked.

    Parameters
    ----------
    given
        One loss for each sample, in [0, 1]: an array, a list, or a tensor of any dtype, with or without gradients.
    expected
        Number of samples.

    Returns
    -------
    ndarray
        float64, shape (expected,).

    Raises
    ------
    ValueError
        If the shape is another, or a loss lies outside [0, 1] or is NaN.

    Examples
    --------
    >>> checked_losses(torch.tensor([0.5, 1.0], dtype=torch.bfloat16, requires_grad=True), 2).tolist()
    [0.5, 1.0]
    """
    if isinstance(given, torch.Tensor):
        given = given.detach().to("cpu", torch.float64).numpy()
    try:
        found = np.asarray(given)
        if np.iscomplexobj(found):
            raise TypeError("complex numbers")
        if np.ma.is_masked(given):
            raise TypeError("some are masked, and a bound counts every sample")
        losses = found.astype(np.float64)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"evaluate gave {type(given).__name__}, which holds no losses: {problem}") from None
    if losses.shape != (expected,):
        raise ValueError(f"evaluate gave losses of shape {losses.shape}; it must give one for each of {expected}")
    if not ((losses >= 0) & (losses <= 1)).all():
        raise ValueError("evaluate gave losses outside [0, 1]: divide a bounded loss by its range")
    return losses


@dataclass(frozen=True)
class Losses:
    """Mean losses of the units that a bound counts: samples, or groups of samples that share a source.

    Attributes
    ----------
    evaluate, evaluate_some
        The caller's functions; each gets a copy of the candidate.
    n_samples
        Number of samples.
    members
        Samples of each group, or None.
    by_model
        True where the package itself evaluates candidates in their model, and `evaluate` is `evaluate_some` on every
        sample.
    doubts
        What is known against these losses.
    repeated
        Share of samples whose inputs are those of another, where this is known.
    """

    evaluate: Evaluate
    evaluate_some: EvaluateSome | None
    n_samples: int
    members: list[Int[np.ndarray, "_"]] | None = None
    by_model: bool = False
    doubts: tuple[str, ...] = ()
    repeated: float | None = None

    @property
    def count(self) -> int:
        """Number of units: n of the bound."""
        return self.n_samples if self.members is None else len(self.members)

    def on_all(self, adapter: Adapter) -> Float[np.ndarray, "n"]:
        """The loss on every sample, by `evaluate`."""
        return checked_losses(self.evaluate(adapter.copy()), self.n_samples)

    def on_samples(self, adapter: Adapter, samples: Int[np.ndarray, "some"]) -> Float[np.ndarray, "some"]:
        """The loss on some samples, by `evaluate_some`."""
        assert self.evaluate_some is not None
        return checked_losses(self.evaluate_some(adapter.copy(), samples), len(samples))

    def of(self, adapter: Adapter) -> Float[np.ndarray, "units"]:
        """The mean loss of every unit."""
        return self.grouped(self.on_all(adapter))

    def grouped(self, losses: Float[np.ndarray, "some"]) -> Float[np.ndarray, "units"]:
        """Losses of the first samples as means of the units that are complete among them."""
        if self.members is None:
            return losses
        whole = [members for members in self.members if members.max() < len(losses)]
        return np.array([losses[members].mean() for members in whole])

    def of_some(self, adapter: Adapter, units: Int[np.ndarray, "some"]) -> Float[np.ndarray, "some"]:
        """The mean loss of some units."""
        if self.evaluate_some is None:
            return self.of(adapter)[units]
        if self.members is None:
            return self.on_samples(adapter, units)
        losses = self.on_samples(adapter, np.concatenate([self.members[unit] for unit in units]))
        ends = np.cumsum([len(self.members[unit]) for unit in units])
        return np.array([part.mean() for part in np.split(losses, ends[:-1])])

    def blocks(self, count: int) -> Iterator[Int[np.ndarray, "some"]]:
        """The units in blocks whose sizes differ by at most one."""
        yield from np.array_split(np.arange(self.count), min(count, self.count))
