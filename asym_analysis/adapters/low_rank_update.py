"""One adapted matrix: W0 becomes W0 + scaling · B·A."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from jaxtyping import Float

from asym_analysis.errors import AdapterValueError
from asym_analysis.lazy_torch import Tensor, torch
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import Factor

__all__ = ["LowRankUpdate"]


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """The update dW = scaling · B·A of one weight, kept as its two factors.

    Whatever the file's layout, A reads the input and B writes the output: dW maps a column vector of size d_in to
    one of size d_out. All verbs work from the factors; only `delta` forms the dense matrix.

    Parameters
    ----------
    A : float Tensor of shape (rank, d_in)
        Shape (rank, d_in), float32 or float64.
    B : float Tensor of shape (d_out, rank)
        Shape (d_out, rank), same dtype.
    scaling : float, default 1.0
        The number that multiplies B·A: alpha/r, or alpha/sqrt(r) for rank-stabilized LoRA.
    magnitude : float Tensor of shape (d_out,), optional
        DoRA's trained column norms, one for each output. The effective change of the weight is then
        magnitude · (W0 + dW)/||W0 + dW|| - W0, which is not low rank: `delta` is still scaling · B·A alone.
    weight_shape : tuple of int, optional
        Shape of the adapted weight where it is not (d_out, d_in): a convolution's (d_out, channels, height, width).
    stored_transposed : bool, default False
        True where the model keeps the weight as (d_in, d_out): GPT-2's Conv1D, embeddings.

    Raises
    ------
    AdapterValueError
        If the two factors do not multiply, are not both float32 or both float64, or hold NaN or infinity.

    Examples
    --------
    >>> update = LowRankUpdate(A=torch.tensor([[3.0, 4.0]]), B=torch.tensor([[2.0], [0.0]]), scaling=0.5)
    >>> update.shape, update.rank
    ((2, 2), 1)
    >>> update.frobenius_norm()
    5.0
    """

    A: Float[Tensor, "rank d_in"]
    B: Float[Tensor, "d_out rank"]
    scaling: float = 1.0
    magnitude: Float[Tensor, "d_out"] | None = None
    weight_shape: tuple[int, ...] | None = None
    stored_transposed: bool = False
    _norms: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            raise AdapterValueError(
                f"factors A {tuple(self.A.shape)} and B {tuple(self.B.shape)} do not multiply: "
                "A must be (rank, d_in) and B (d_out, rank)"
            )
        if self.A.dtype != self.B.dtype or self.A.dtype not in (torch.float32, torch.float64):
            raise AdapterValueError(
                f"factors have dtypes {self.A.dtype} and {self.B.dtype}: cast both to float32 or both to float64 first"
            )
        parts = (("A", self.A), ("B", self.B), ("magnitude", self.magnitude))
        if any(values is not None and values.grad_fn is not None for _, values in parts):
            return  # a step of a training: its loss shows what is not finite, and asking waits for the accelerator
        for factor, values in parts:
            # A norm is finite only where all entries are, and costs a tenth; only an overflow asks for the exact test.
            norm = 0.0 if values is None else torch.linalg.vector_norm(values).item()
            if not math.isfinite(norm) and not torch.isfinite(values).all():  # type: ignore[arg-type]
                raise AdapterValueError(f"{factor} holds NaN or infinity")
            self._norms[factor] = norm

    @property
    def rank(self) -> int:
        """Number of rows of A: the rank that was trained, not the numerical rank."""
        return self.A.shape[0]

    @property
    def d_in(self) -> int:
        """Size of the input."""
        return self.A.shape[1]

    @property
    def d_out(self) -> int:
        """Size of the output."""
        return self.B.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (d_out, d_in) of the update."""
        return (self.d_out, self.d_in)

    def factor_norm(self, factor: Factor) -> float:
        """Frobenius norm of A or B, known since the factors were checked, or remembered.

        Parameters
        ----------
        factor : {"A", "B"}
            Which.

        Returns
        -------
        float
            Infinite where float32 cannot hold it.

        Examples
        --------
        >>> LowRankUpdate(A=torch.tensor([[3.0, 4.0]]), B=torch.tensor([[2.0]])).factor_norm("A")
        5.0
        """
        if factor not in self._norms:
            self._norms[factor] = torch.linalg.vector_norm(self.A if factor == "A" else self.B).item()
        return self._norms[factor]

    @property
    def is_low_rank(self) -> bool:
        """False for DoRA, whose magnitude makes the effective change of the weight full rank."""
        return self.magnitude is None

    def singular_values(self) -> Float[Tensor, "k"]:
        """Singular values of scaling · B·A, descending; k = min(rank, d_in, d_out).

        Returns
        -------
        Tensor
            Shape (k,).
        """
        return abs(self.scaling) * updates.singular_values(self.A, self.B)

    def frobenius_norm(self) -> float:
        """Frobenius norm of scaling · B·A.

        Returns
        -------
        float
            ||dW||_F.
        """
        return abs(self.scaling) * updates.frobenius_norm(self.A, self.B).item()

    def svd(self) -> tuple[Float[Tensor, "d_out k"], Float[Tensor, "k"], Float[Tensor, "k d_in"]]:
        """Singular value decomposition of the update, from its factors.

        Returns
        -------
        U, S, Vh
            With scaling · B·A = U diag(S) Vh; k is the rank.
        """
        U, S, Vh = updates.thin_svd(self.A, self.B)
        return (U if self.scaling >= 0 else -U), abs(self.scaling) * S, Vh

    def copy(self) -> LowRankUpdate:
        """The same update in tensors of its own.

        Returns
        -------
        LowRankUpdate
            With copies of A, B and the magnitude.
        """
        magnitude = None if self.magnitude is None else self.magnitude.detach().clone()
        return replace(self, A=self.A.detach().clone(), B=self.B.detach().clone(), magnitude=magnitude)

    def on(self, device: torch.device) -> LowRankUpdate:
        """The same update with its tensors on a device; itself where they lie there already.

        Parameters
        ----------
        device : torch.device
            The device.

        Returns
        -------
        LowRankUpdate
            Gradients reach the tensors of this one.
        """
        if self.A.device == self.B.device == device:
            return self
        magnitude = None if self.magnitude is None else self.magnitude.to(device)
        return replace(self, A=self.A.to(device), B=self.B.to(device), magnitude=magnitude)

    def balanced(self) -> LowRankUpdate:
        """The same update with scaling 1 and balanced factors: B^T B = A A^T = diag(S).

        (A, B) and (GA, BG^-1) are the same update for every invertible G. This choice of G is unique up to signs
        where the singular values differ (docs/theory.md, section 4.1).

        Returns
        -------
        LowRankUpdate
            A of shape (k, d_in) and B of shape (d_out, k), k = min(rank, d_in, d_out).

        Examples
        --------
        >>> update = LowRankUpdate(A=torch.tensor([[3.0, 4.0]]), B=torch.tensor([[20.0], [0.0]]))
        >>> bool(torch.isclose(update.balanced().A.norm(), update.balanced().B.norm()))
        True
        """
        U, S, Vh = self.svd()
        root = S.sqrt()
        return replace(self, A=root[:, None] * Vh, B=U * root, scaling=1.0)

    def inner(self, other: LowRankUpdate) -> float:
        """Frobenius inner product of the two updates, scalings included.

        Parameters
        ----------
        other : LowRankUpdate
            An update of the same shape.

        Returns
        -------
        float
            The sum of the products of their entries.

        Raises
        ------
        AdapterValueError
            If the two updates have different shapes.
        """
        if self.shape != other.shape:
            raise AdapterValueError(f"updates of shapes {self.shape} and {other.shape} have no inner product")
        product = updates.inner_product(self.A, self.B, other.A.to(self.A), other.B.to(self.B)).item()
        return self.scaling * other.scaling * product

    def delta(self) -> Float[Tensor, "..."]:
        """The dense update, in the layout of the weight that the model stores.

        Shape (d_out, d_in), or (d_in, d_out) where `stored_transposed`, or `weight_shape` where that is given. This
        is the only verb that allocates d_out x d_in numbers.

        Returns
        -------
        Tensor
            The update, in the factors' dtype.
        """
        dense = self.scaling * (self.B @ self.A)
        if self.stored_transposed:
            dense = dense.mT
        return dense if self.weight_shape is None else dense.reshape(self.weight_shape)

    def __repr__(self) -> str:
        extras = "" if self.is_low_rank else ", DoRA magnitude"
        return f"LowRankUpdate({self.d_out} x {self.d_in}, rank {self.rank}, scaling {self.scaling:g}{extras})"
