"""The linear least-squares model in which the asymmetry of A and B has closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.vocabulary import TUNED, Tuned, choose, finite, whole

__all__ = ["LeastSquaresProblem", "LowRankFit", "check_rank"]


@dataclass(frozen=True, eq=False)
class LowRankFit:
    """The best update B·A with one factor frozen, or with both trained.

    Attributes
    ----------
    A, B
        The factors, float64, shapes (rank, d_in) and (d_out, rank).
    loss
        Expected squared error on new data, noise included.
    gain
        How much the update lowers the loss below that of the pretrained map (loss units).
    """

    A: Float[Tensor, "rank d_in"]
    B: Float[Tensor, "d_out rank"]
    loss: float
    gain: float

    @property
    def update(self) -> Float[Tensor, "d_out d_in"]:
        """The dense update B·A."""
        return self.B @ self.A


class LeastSquaresProblem:
    """Fit y = W_target x + noise by a frozen W0 plus a low-rank B·A, in squared error.

    The loss of an update is ``d_out * noise_variance + floor + Tr[(delta - BA) covariance (delta - BA)^T]``, where
    ``delta = W_target - W0``. All arithmetic is float64, on the device of `delta`.

    Parameters
    ----------
    delta : float Tensor or array of shape (d_out, d_in)
        W_target - W0, shape (d_out, d_in); a torch tensor or a numpy array.
    covariance : float Tensor or array of shape (d_in, d_in) or (d_in,)
        Covariance of the inputs, shape (d_in, d_in), symmetric and positive semi-definite; it may be singular. A
        vector of length d_in stands for a diagonal covariance.
    noise_variance : float or int, default 0.0
        Variance of the output noise in every coordinate; at least 0.
    floor : float or int, default 0.0
        Loss that no linear map removes. Zero unless a frozen bias is wrong, see `with_frozen_bias`.

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite, a covariance that is not symmetric or has a negative
        eigenvalue beyond rounding, a negative variance.

    Notes
    -----
    With M = delta · covariance^(1/2), freezing A projects M on the right, onto range(covariance^(1/2) Q^T); freezing B
    projects it on the left, onto range(U). Inputs have zero mean, or a bias is tuned along (then `covariance` is the
    covariance about the mean, whatever the mean is).

    References
    ----------
    Zhu et al. (2024), "Asymmetry in Low-Rank Adapters of Foundation Models", arXiv:2402.16842, section 4.1;
    docs/theory.md, sections 1.1 and 1.2.

    Examples
    --------
    >>> import torch
    >>> problem = LeastSquaresProblem(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([4.0, 1.0]), 0.5)
    >>> problem.loss(torch.zeros(2, 2)), problem.joint(1).loss
    (18.0, 2.0)
    >>> problem.freeze_A(torch.tensor([[0.0, 1.0]])).loss
    17.0
    """

    def __init__(
        self,
        delta: Float[Tensor, "d_out d_in"] | Float[np.ndarray, "d_out d_in"],
        covariance: Float[Tensor, "d_in d_in"]
        | Float[np.ndarray, "d_in d_in"]
        | Float[Tensor, " d_in"]
        | Float[np.ndarray, " d_in"],
        noise_variance: float | int = 0.0,
        floor: float | int = 0.0,
    ) -> None:
        self.delta: Tensor = torch.as_tensor(delta).to(torch.float64)
        matrix = torch.as_tensor(covariance).to(self.delta)
        self.covariance: Tensor = torch.diag(matrix) if matrix.ndim == 1 else matrix
        self.noise_variance = finite(noise_variance, "noise_variance", least=0)
        self.floor = finite(floor, "floor", least=0)
        self._check()

    def _check(self) -> None:
        if self.delta.ndim != 2 or not self.delta.numel():
            raise ValueError(f"delta has shape {tuple(self.delta.shape)}; give a matrix (d_out, d_in)")
        d_in = self.delta.shape[-1]
        if self.covariance.shape != (d_in, d_in):
            raise ValueError(
                f"delta takes {d_in} inputs but the covariance is {tuple(self.covariance.shape)}; "
                f"give a covariance of shape ({d_in}, {d_in})"
            )
        if not (self.delta.isfinite().all() and self.covariance.isfinite().all()):
            raise ValueError("delta or the covariance holds NaN or infinity")
        scale = float(self.covariance.abs().max()) if d_in else 0.0
        if float((self.covariance - self.covariance.T).abs().max()) > 1e-8 * scale:
            raise ValueError("the covariance is not symmetric")
        lowest = float(self._eigensystem[0].min())
        if lowest < -1e-8 * scale:
            raise ValueError(f"the covariance has the negative eigenvalue {lowest:.3g}; a covariance has none")

    @classmethod
    def with_frozen_bias(
        cls,
        delta: Float[Tensor, "d_out d_in"] | Float[np.ndarray, "d_out d_in"],
        covariance: Float[Tensor, "d_in d_in"] | Float[np.ndarray, "d_in d_in"],
        noise_variance: float | int,
        *,
        mean: Float[Tensor, " d_in"] | Float[np.ndarray, " d_in"],
        bias_offset: Float[Tensor, " d_out"] | Float[np.ndarray, " d_out"],
    ) -> LeastSquaresProblem:
        """The same model when inputs have a mean and the bias is frozen at a wrong value.

        With S = covariance + mean mean^T (the second moment) the best updates are those of the problem
        ``(delta + bias_offset mean^T S^+, S)``, and ``|bias_offset|^2 (1 - mean^T S^+ mean)`` of loss stays whatever
        the update. So even with B frozen the best A depends on the inputs: A* = U^T (delta + bias_offset mean^T S^+).

        Parameters
        ----------
        delta, covariance, noise_variance : float Tensor or float array or float or int
            As for the class; `covariance` is about the mean.
        mean : float Tensor or array of shape (d_in,)
            Mean of the inputs, shape (d_in,).
        bias_offset : float Tensor or array of shape (d_out,)
            Target bias minus the frozen bias, shape (d_out,).

        Returns
        -------
        LeastSquaresProblem
            With `floor` the loss that no update removes.

        Notes
        -----
        If the bias is trained, or both `mean` and `bias_offset` are zero, use the class itself.

        References
        ----------
        docs/theory.md, section 1.2 (d).

        Examples
        --------
        >>> import torch
        >>> shifted = LeastSquaresProblem.with_frozen_bias(
        ...     torch.zeros(1, 1), torch.ones(1, 1), 0.0, mean=torch.ones(1), bias_offset=torch.ones(1))
        >>> shifted.delta.item(), shifted.floor
        (0.5, 0.5)
        """
        slope = torch.as_tensor(delta).to(torch.float64)
        centre = torch.as_tensor(mean).to(slope)
        offset = torch.as_tensor(bias_offset).to(slope)
        second_moment = torch.as_tensor(covariance).to(slope) + torch.outer(centre, centre)
        # The mean lies in the range of the second moment, so the pseudo-inverse is exact here.
        weights = torch.linalg.pinv(second_moment, hermitian=True) @ centre
        unreachable = float(offset @ offset) * max(0.0, 1.0 - float(centre @ weights))
        return cls(slope + torch.outer(offset, weights), second_moment, noise_variance, floor=unreachable)

    def __repr__(self) -> str:
        return (
            f"LeastSquaresProblem(d_out={self.d_out}, d_in={self.d_in}, covariance_rank={self.covariance_rank}, "
            f"signal={self.signal:.6g}, noise_variance={self.noise_variance:.6g})"
        )

    @property
    def description(self) -> dict[str, Any]:
        """What the settings of a result say of the problem: `d_in, d_out, covariance_rank, signal` and so on."""
        return {
            "d_in": self.d_in,
            "d_out": self.d_out,
            "covariance_rank": self.covariance_rank,
            "signal": self.signal,
            "noise_variance": self.noise_variance,
            "floor": self.floor,
        }

    def to(self, device: torch.device | str) -> LeastSquaresProblem:
        """The same problem on another device.

        Parameters
        ----------
        device : device or str
            As for `torch.Tensor.to`.

        Returns
        -------
        LeastSquaresProblem
            A copy.

        Examples
        --------
        >>> LeastSquaresProblem(torch.eye(2), torch.ones(2)).to("cpu").d_in
        2
        """
        return LeastSquaresProblem(
            self.delta.to(device), self.covariance.to(device), self.noise_variance, floor=self.floor
        )

    @property
    def d_in(self) -> int:
        """Number of inputs."""
        return self.delta.shape[1]

    @property
    def d_out(self) -> int:
        """Number of outputs."""
        return self.delta.shape[0]

    @cached_property
    def _eigensystem(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh((self.covariance + self.covariance.T) / 2)
        return values.flip(0), vectors.flip(1)

    @cached_property
    def eigenvalues(self) -> Float[Tensor, " d_in"]:
        """Eigenvalues of the covariance, largest first; those below d_in · eps · largest are zero."""
        values = self._eigensystem[0]
        smallest_kept = self.d_in * torch.finfo(values.dtype).eps * values.abs().max()
        return torch.where(values > smallest_kept, values, torch.zeros_like(values))

    @property
    def eigenvectors(self) -> Float[Tensor, "d_in d_in"]:
        """The input principal components, one a column, in the order of `eigenvalues`."""
        return self._eigensystem[1]

    @property
    def covariance_rank(self) -> int:
        """How many eigenvalues of the covariance are not zero."""
        return int((self.eigenvalues > 0).sum())

    @cached_property
    def weighted_delta(self) -> Float[Tensor, "d_out d_in"]:
        """M = delta · covariance^(1/2), with its columns along the input principal components."""
        return (self.delta @ self.eigenvectors) * self.eigenvalues.sqrt()

    @cached_property
    def singular_values(self) -> Float[Tensor, " smaller"]:
        """Singular values of M, largest first; their squares are what joint training removes one by one."""
        return torch.linalg.svdvals(self.weighted_delta)

    @cached_property
    def signal_energy(self) -> Float[Tensor, " d_in"]:
        """m_i: the loss that lies in each input principal component; sums to `signal`."""
        return self.weighted_delta.square().sum(0)

    @property
    def signal(self) -> float:
        """Loss of the pretrained map above the noise and the floor: Tr[delta covariance delta^T]."""
        return float(self.signal_energy.sum())

    @property
    def irreducible(self) -> float:
        """Loss of the best full-rank update: the noise of all outputs, plus the floor."""
        return self.d_out * self.noise_variance + self.floor

    def loss(self, update: Float[Tensor, "d_out d_in"]) -> float:
        """Expected squared error of any dense update on new data.

        Parameters
        ----------
        update : float Tensor of shape (d_out, d_in)
            Shape (d_out, d_in).

        Returns
        -------
        float
            Noise and floor included.

        Examples
        --------
        >>> LeastSquaresProblem(torch.eye(2), torch.ones(2), 0.5).loss(torch.eye(2))
        1.0
        """
        residual = ((self.delta - update.to(self.delta)) @ self.eigenvectors) * self.eigenvalues.sqrt()
        return self.irreducible + float(residual.square().sum())

    def freeze_A(self, Q: Float[Tensor, "rank d_in"] | Float[np.ndarray, "rank d_in"]) -> LowRankFit:
        """The best B for a frozen A = Q: regression of the output on the projected input.

        B* = delta covariance Q^T (Q covariance Q^T)^+. `Q` need not be orthonormal, only its row space matters for the
        loss; where Q covariance Q^T is singular this is the B* of least norm.

        Parameters
        ----------
        Q : float Tensor or array of shape (rank, d_in)
            The frozen A, shape (rank, d_in).

        Returns
        -------
        LowRankFit
            With `A` equal to `Q`.

        Raises
        ------
        ValueError
            If `Q` takes another number of inputs.

        References
        ----------
        Lemma 4.1 of the paper; docs/theory.md, sections 1.1 and 1.2 (a), (c).

        Examples
        --------
        >>> LeastSquaresProblem(torch.eye(2), torch.ones(2)).freeze_A(torch.tensor([[2.0, 0.0]])).B.tolist()
        [[0.5], [0.0]]
        """
        frozen = torch.as_tensor(Q).to(self.delta)
        if frozen.shape[1] != self.d_in:
            raise ValueError(f"A has {frozen.shape[1]} columns but the problem takes {self.d_in} inputs")
        # The pseudo-inverse of covariance^(1/2) Q^T, rather than of Q covariance Q^T, keeps twice the digits.
        basis, scales, right = torch.linalg.svd(
            (frozen @ self.eigenvectors * self.eigenvalues.sqrt()).T, full_matrices=False
        )
        # Rounding is measured against the whole of A, so that an A in the null space of the inputs gains nothing.
        largest = float(torch.linalg.matrix_norm(frozen, 2)) * math.sqrt(float(self.eigenvalues[0]))
        inverse = _invert_above_rounding(scales, largest * max(frozen.shape))
        projected = self.weighted_delta @ basis[:, inverse > 0]
        return self._fit(frozen, (self.weighted_delta @ basis * inverse) @ right, float(projected.square().sum()))

    def freeze_B(self, U: Float[Tensor, "d_out rank"] | Float[np.ndarray, "d_out rank"]) -> LowRankFit:
        """The best A for a frozen B = U: regression of the projected output on the input.

        A* = U^+ delta, which is U^T delta only when the columns of `U` are orthonormal. It does not involve the input
        distribution.

        Parameters
        ----------
        U : float Tensor or array of shape (d_out, rank)
            The frozen B, shape (d_out, rank).

        Returns
        -------
        LowRankFit
            With `B` equal to `U`.

        Raises
        ------
        ValueError
            If `U` has another number of outputs.

        References
        ----------
        Lemma 4.2 of the paper; docs/theory.md, sections 1.1 and 1.2 (b), (c).

        Examples
        --------
        >>> LeastSquaresProblem(torch.eye(2), torch.ones(2)).freeze_B(torch.tensor([[1.0], [0.0]])).A.tolist()
        [[1.0, 0.0]]
        """
        frozen = torch.as_tensor(U).to(self.delta)
        if frozen.shape[0] != self.d_out:
            raise ValueError(f"B has {frozen.shape[0]} rows but the problem has {self.d_out} outputs")
        basis, scales, right = torch.linalg.svd(frozen, full_matrices=False)
        inverse = _invert_above_rounding(scales, float(scales[0]) * max(frozen.shape))
        fitted = right.T @ (inverse[:, None] * (basis.T @ self.delta))
        return self._fit(fitted, frozen, float((basis[:, inverse > 0].T @ self.weighted_delta).square().sum()))

    def joint(self, rank: int) -> LowRankFit:
        """The best update of that rank, both factors trained: reduced-rank regression.

        Its A is the oracle frozen A (``problem.freeze_A(problem.joint(r).A)`` loses nothing), its B the oracle B.
        Where the covariance is singular, directions that no input shows get nothing.

        Parameters
        ----------
        rank : int
            Of the update, at most min(d_in, d_out).

        Returns
        -------
        LowRankFit
            Its loss is the noise plus the squared singular values of M = delta covariance^(1/2) beyond the first
            `rank`.

        References
        ----------
        Izenman (1975), "Reduced-rank regression for the multivariate linear model"; docs/theory.md, section 6.1.

        Examples
        --------
        >>> LeastSquaresProblem(torch.diag(torch.tensor([3.0, 1.0])), torch.ones(2)).joint(1).loss
        1.0
        """
        check_rank(self, rank, "both")
        left, scales, right = torch.linalg.svd(self.weighted_delta, full_matrices=False)
        scales, right = scales[:rank], right[:rank]
        roots = self.eigenvalues.sqrt()
        unscale = torch.where(roots > 0, 1 / roots.clamp_min(torch.finfo(roots.dtype).tiny), torch.zeros_like(roots))
        return self._fit((right * unscale) @ self.eigenvectors.T, left[:, :rank] * scales, float(scales.square().sum()))

    def principal_A(self, rank: int) -> Float[Tensor, "rank d_in"]:
        """A frozen A that needs no labels: the top principal components of the inputs, one a row.

        Its gain is the sum of the first `rank` entries of `signal_energy` (docs/theory.md, section 6.1).

        Parameters
        ----------
        rank : int
            How many components, at most d_in.

        Returns
        -------
        Tensor
            Shape (rank, d_in), float64, orthonormal rows.

        Examples
        --------
        >>> LeastSquaresProblem(torch.eye(2), torch.tensor([1.0, 4.0])).principal_A(1).abs().tolist()
        [[0.0, 1.0]]
        """
        check_rank(self, rank, "B")
        return self.eigenvectors[:, :rank].T

    def _fit(self, A: Tensor, B: Tensor, gain: float) -> LowRankFit:
        return LowRankFit(A=A, B=B, loss=self.irreducible + max(0.0, self.signal - gain), gain=gain)


def check_rank(problem: LeastSquaresProblem, rank: int, tuned: Tuned) -> None:
    """Refuse a rank that the frozen factor cannot have.

    Parameters
    ----------
    problem, rank, tuned
        The arguments to check together.

    Raises
    ------
    ValueError
        `tuned` is none of "A", "B", "both", or `rank` is outside 1 .. d_in ("B"), d_out ("A"), min of both ("both").
    """
    limits = {"B": problem.d_in, "A": problem.d_out, "both": min(problem.d_in, problem.d_out)}
    whole(rank, f"rank (with tuned={tuned!r})", least=1, most=limits[choose(tuned, TUNED, "tuned")])


def _invert_above_rounding(scales: Tensor, reference: float) -> Tensor:
    smallest_kept = reference * torch.finfo(scales.dtype).eps
    return torch.where(scales > smallest_kept, 1 / scales, torch.zeros_like(scales))
