"""Second moments of the inputs of each adapted module, streamed over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from asym_analysis.errors import AdapterError
from asym_analysis.prediction.by_module import ByModule
from asym_analysis.prediction.module_inputs import adapted_module, base_layer, input_rows, input_width, token_ids
from asym_analysis.prediction.moment_sums import MomentSum, TokenCount, on_device_of
from asym_analysis.prediction.padding import RealPositions
from asym_analysis.results import settings_of
from asym_analysis.vocabulary import whole

__all__ = ["InputCovariances", "InputMoment", "TokenFrequencies", "input_covariances"]


@dataclass(frozen=True, eq=False)
class InputMoment:
    """The second moment and the mean of a module's inputs.

    An update has to fit the second moment where biases are frozen [1]_.

    Parameters
    ----------
    second_moment : float Tensor of shape (d_in, d_in)
        E[x x^T], shape (d_in, d_in), float64.
    mean : float Tensor of shape (d_in,)
        E[x], shape (d_in,), float64.
    inputs : int
        How many inputs both were estimated from.

    References
    ----------
    .. [1] docs/theory.md, section 1.2(d).
    """

    second_moment: Float[Tensor, "d_in d_in"]
    mean: Float[Tensor, " d_in"]
    inputs: int

    @property
    def width(self) -> int:
        """The number of entries of an input."""
        return len(self.mean)

    @property
    def covariance(self) -> Float[Tensor, "d_in d_in"]:
        """The second moment about the mean: what is left where a constant output does not matter."""
        return self.second_moment - torch.outer(self.mean, self.mean)

    def in_components(
        self, A: Float[Tensor, "r d_in"], *, centred: bool = False
    ) -> tuple[Float[Tensor, " d_in"], Float[Tensor, "r d_in"]]:
        """Variances of the principal components, largest first, and A in their basis, both float64.

        Returns
        -------
        tuple of Tensor
            The variances, shape (d_in,), and A, shape (r, d_in).
        """
        values, vectors = torch.linalg.eigh(self.covariance if centred else self.second_moment)
        return values.flip(0).clamp_min(0), A.double() @ vectors.flip(1)

    def principal_directions(self, rank: int, *, last: bool = False) -> Float[Tensor, "d_in rank"]:
        """The `rank` directions in which the inputs are largest, or with `last` smallest, as columns.

        Returns
        -------
        Tensor
            Orthonormal, float64, shape (d_in, rank).
        """
        vectors = torch.linalg.eigh(self.second_moment).eigenvectors
        return vectors[:, :rank] if last else vectors.flip(1)[:, :rank]


@dataclass(frozen=True, eq=False)
class TokenFrequencies:
    """The moment of an embedding's inputs, which are one-hot vectors of tokens.

    E[x x^T] is diagonal with the frequencies of the tokens, and so is E[x] those frequencies.

    Parameters
    ----------
    mean : float Tensor of shape (tokens,)
        The fraction of positions at which each token stood, shape (tokens,), float64.
    inputs : int
        How many positions were counted.
    """

    mean: Float[Tensor, " tokens"]
    inputs: int

    @property
    def width(self) -> int:
        """The number of tokens."""
        return len(self.mean)

    @property
    def second_moment(self) -> Float[Tensor, "tokens tokens"]:
        """The diagonal matrix of frequencies, in full: 8 bytes times the square of the number of tokens."""
        return torch.diag(self.mean)

    @property
    def covariance(self) -> Float[Tensor, "tokens tokens"]:
        """The second moment about the mean, in full."""
        return self.second_moment - torch.outer(self.mean, self.mean)

    def in_components(
        self, A: Float[Tensor, "r tokens"], *, centred: bool = False
    ) -> tuple[Float[Tensor, " tokens"], Float[Tensor, "r tokens"]]:
        """Variances of the principal components, largest first, and A in their basis, both float64.

        Returns
        -------
        tuple of Tensor
            The variances, shape (tokens,), and A, shape (r, tokens).
        """
        order = self.mean.argsort(descending=True, stable=True)
        values, turned = self.mean[order].clone(), A.double()[:, order]
        if centred:  # tokens that never occur have no variance: only the others are decomposed
            seen = int((values > 0).sum())
            part = torch.diag(values[:seen]) - torch.outer(values[:seen], values[:seen])
            found, vectors = torch.linalg.eigh(part)
            values[:seen], turned[:, :seen] = found.flip(0).clamp_min(0), turned[:, :seen] @ vectors.flip(1)
        return values, turned

    def principal_directions(self, rank: int, *, last: bool = False) -> Float[Tensor, "tokens rank"]:
        """The `rank` most frequent tokens, or with `last` the rarest, as one-hot columns.

        Returns
        -------
        Tensor
            Orthonormal, float64, shape (tokens, rank).
        """
        order = self.mean.argsort(descending=not last, stable=True)[:rank]
        return torch.nn.functional.one_hot(order, self.width).T.double()


@dataclass(frozen=True, eq=False, repr=False)
class InputCovariances(ByModule[InputMoment | TokenFrequencies]):
    """The moments of the inputs of several modules: a mapping of module names.

    Columns of `frame`, a row a module: `module`; `inputs`, how many were read; `width`; `mean_square`, the trace of the
    second moment; `mean_share`, the part of it that the mean makes up; and `participation`, (Tr S)^2 / Tr S^2, the
    number of directions over which the inputs are spread.

    Attributes
    ----------
    moments
        Module -> `InputMoment`, or `TokenFrequencies` for an embedding.
    settings
        Arguments and versions.
    """

    moments: dict[str, InputMoment | TokenFrequencies]
    settings: Mapping[str, Any]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a module; see the class for its columns."""
        return pd.DataFrame([{"module": name, **_described(moment)} for name, moment in self.moments.items()])


def _described(moment: InputMoment | TokenFrequencies) -> dict[str, Any]:
    if isinstance(moment, TokenFrequencies):
        total, squares = 1.0, float(moment.mean.square().sum())
    else:
        total, squares = float(moment.second_moment.trace()), float(moment.second_moment.square().sum())
    share, spread = float(moment.mean.square().sum()) / (total or 1.0), total**2 / (squares or 1.0)
    sizes = {"inputs": moment.inputs, "width": moment.width}
    return sizes | {"mean_square": total, "mean_share": share, "participation": spread}


@torch.no_grad()
def input_covariances(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    modules: Sequence[str],
    *,
    max_bytes: int = 4 << 30,
) -> InputCovariances:
    """Stream the second moments of the inputs of some modules, without keeping the inputs.

    Parameters
    ----------
    model : Module
        Any torch model; it is run in evaluation mode on the device where it lies, and the moments are summed there.
    batches : iterable of mapping
        Keyword arguments of the model. Padding is left out: positions that the `attention_mask` hides and, in the
        decoder of an encoder-decoder model, positions without a label.
    modules : sequence of str
        Names of modules as the model, or the adapter of it, calls them: linear maps, embeddings (whose inputs are
        one-hot, so that their second moment is the frequency of each token), convolutions in one or two dimensions
        (whose inputs are patches) and `torch.nn.MultiheadAttention` over one input.
    max_bytes : int, optional
        Memory for the sums, at 8 bytes an entry (float64; 4 on devices without it). Modules that do not fit are done
        in further passes, for which `batches` must be a sequence.

    Returns
    -------
    InputCovariances
        Module -> `InputMoment` or `TokenFrequencies`, on the CPU in float64.

    Raises
    ------
    AdapterError
        If the model has no such module, one was never run, or one is a layer whose update is not one matrix.
    ValueError
        If several passes are needed and `batches` can be read only once.

    Examples
    --------
    >>> layer = nn.Sequential(nn.Linear(2, 3))
    >>> moments = input_covariances(layer, [{"input": torch.eye(2)}], ["0"])
    >>> moments["0"].second_moment, moments["0"].inputs
    (tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]], dtype=torch.float64), 2)
    """
    whole(max_bytes, "max_bytes", least=1)
    found = {name: adapted_module(model, name) for name in modules}
    passes = _passes(found, max_bytes)
    if len(passes) > 1 and not isinstance(batches, Sequence):
        raise ValueError(
            f"{len(passes)} passes are needed to stay under {max_bytes:,} bytes; give the batches as a list"
        )
    was_training = model.training
    model.eval()
    try:
        moments: dict[str, InputMoment | TokenFrequencies] = {}
        for names in passes:
            moments |= _one_pass(model, batches, {name: found[name] for name in names})
    finally:
        model.train(was_training)
    return InputCovariances({name: moments[name] for name in modules}, settings_of(max_bytes=max_bytes))


def _passes(modules: Mapping[str, nn.Module], max_bytes: int) -> list[list[str]]:
    """Groups of modules whose sums fit in memory together."""
    passes: list[list[str]] = []
    used = 0
    for name, module in modules.items():
        width = input_width(module)
        size = 8 * width * (1 if isinstance(base_layer(module), nn.Embedding) else width)
        if not passes or used + size > max_bytes:
            passes.append([])
            used = 0
        passes[-1].append(name)
        used += size
    return passes


def _one_pass(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], modules: Mapping[str, nn.Module]
) -> dict[str, InputMoment | TokenFrequencies]:
    sums = {
        name: TokenCount(input_width(module)) if isinstance(base_layer(module), nn.Embedding) else MomentSum()
        for name, module in modules.items()
    }
    real = [RealPositions(None, None)]

    def hook(name: str) -> Callable[..., None]:
        def add(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            found = sums[name]
            if isinstance(found, TokenCount):
                found.add(token_ids(name, arguments, keywords, real[0]))
            else:
                found.add(input_rows(name, module, arguments, keywords, real[0]))

        return add

    handles = [module.register_forward_pre_hook(hook(name), with_kwargs=True) for name, module in modules.items()]
    try:
        for batch in batches:
            placed = on_device_of(model, batch)
            real[0] = RealPositions.of_batch(placed, model)
            model(**placed)
    finally:
        for handle in handles:
            handle.remove()
    if unused := [name for name, found in sums.items() if not found.count]:
        raise AdapterError(f"the batches never reached {len(unused)} modules, {unused[0]} among them")
    return {
        name: TokenFrequencies(found.frequencies(), found.count)
        if isinstance(found, TokenCount)
        else InputMoment(found.second_moment(), found.mean(), found.count)
        for name, found in sums.items()
    }
