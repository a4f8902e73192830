"""The initial values of a factor, each kind of initialization one entry of a table.

A new initialization is one entry of `INITIALIZATIONS`: the notation, the variants and `apply_variant` read it there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.errors import AdapterError
from asym_analysis.prediction.input_moments import InputMoment, TokenFrequencies
from asym_analysis.vocabulary import Factor, choose, whole

__all__ = ["INITIALIZATIONS", "Initialization", "ModuleStatistics", "generator_for", "initial_factor"]


@dataclass(frozen=True, eq=False)
class ModuleStatistics:
    """What the initializations that place a factor by data need to know of one module.

    Parameters
    ----------
    inputs : InputMoment or TokenFrequencies, optional
        Moments of the module's inputs; None where not measured.
    sensitivity : float Tensor of shape (d_out, d_out), optional
        Second moment of the gradients of its outputs, shape (d_out, d_out).
    gradient : float Tensor of shape (d_out, d_in), optional
        Gradient of the loss in the module's weight, shape (d_out, d_in).
    """

    inputs: InputMoment | TokenFrequencies | None = None
    sensitivity: Float[Tensor, "d_out d_out"] | None = None
    gradient: Float[Tensor, "d_out d_in"] | None = None


@dataclass(frozen=True, eq=False)
class _Asked:
    """One factor to initialize, whose vectors are the rows of A or the columns of B."""

    factor: Factor
    weight: Float[Tensor, "d_out d_in"]
    rank: int
    generator: torch.Generator
    statistics: ModuleStatistics

    @property
    def length(self) -> int:
        return self.weight.shape[1 if self.factor == "A" else 0]

    def side(self, matrix: Float[Tensor, "d_out d_in"], *, last: bool = False) -> Float[Tensor, "length rank"]:
        """The first or last singular vectors of a matrix on this factor's side: right ones for A, left ones for B."""
        U, _, Vh = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
        vectors = Vh.T if self.factor == "A" else U
        if vectors.shape[1] < self.rank:
            raise AdapterError(
                f"a {' x '.join(map(str, matrix.shape))} matrix has {vectors.shape[1]} singular vectors, fewer than "
                f"rank {self.rank}; choose a smaller rank or another initialization"
            )
        return vectors[:, -self.rank :] if last else vectors[:, : self.rank]


@dataclass(frozen=True)
class Initialization:
    """One way to initialize a factor.

    Parameters
    ----------
    draw
        Makes the vectors as columns, shape (length, rank): rows of A or columns of B.
    subscripts
        How the factor is written with it, for each factor that can have it: {"A": "V", "B": "U"}.
    aliases
        Other spellings, in lower case.
    needs
        The fields of `ModuleStatistics` that it reads, by factor.
    orthonormal
        Whether the vectors are orthonormal, so that there are at most `length` of them.
    """

    draw: Callable[[_Asked], Float[Tensor, "length rank"]]
    subscripts: Mapping[Factor, str]
    aliases: tuple[str, ...] = ()
    needs: Mapping[Factor, str] = field(default_factory=dict)
    orthonormal: bool = True


def _kaiming(asked: _Asked) -> Float[Tensor, "length rank"]:
    # The fan-in of the map: d_in for A, the rank for B. torch.nn.Linear's a = sqrt(5) leaves 1/sqrt(fan-in).
    bound = 1 / math.sqrt(asked.length if asked.factor == "A" else asked.rank)
    return (2 * torch.rand(asked.length, asked.rank, generator=asked.generator) - 1) * bound


def _haar(asked: _Asked) -> Float[Tensor, "length rank"]:
    """Columns exactly uniform on the Stiefel manifold: QR of a Gaussian matrix, with its signs fixed."""
    gaussian = torch.randn(asked.length, asked.rank, generator=asked.generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(gaussian)
    return Q * R.diagonal().sign()


def _coordinates(asked: _Asked) -> Float[Tensor, "length rank"]:
    chosen = torch.randperm(asked.length, generator=asked.generator)[: asked.rank]
    return torch.nn.functional.one_hot(chosen, asked.length).T.double()


def _principal(asked: _Asked, *, last: bool = False) -> Float[Tensor, "length rank"]:
    """Directions of the inputs for A; of the sensitivity of the loss to the outputs for B."""
    if asked.factor == "A":
        assert asked.statistics.inputs is not None
        return asked.statistics.inputs.principal_directions(asked.rank, last=last)
    assert asked.statistics.sensitivity is not None
    vectors = torch.linalg.eigh(asked.statistics.sensitivity.double()).eigenvectors
    return vectors[:, : asked.rank] if last else vectors.flip(1)[:, : asked.rank]


def _first_gradient(asked: _Asked) -> Float[Tensor, "length rank"]:
    assert asked.statistics.gradient is not None
    return asked.side(asked.statistics.gradient)


_BY_DATA: Mapping[Factor, str] = {"A": "inputs", "B": "sensitivity"}
_BY_GRADIENT: Mapping[Factor, str] = {"A": "gradient", "B": "gradient"}

#: Name -> initialization. "zero"; "orthonormal" (Haar); "kaiming" (uniform, as `torch.nn.Linear` and PEFT initialize
#: A); "gaussian" (vectors of expected squared norm 1); "singular" and "last_singular" (the first or last singular
#: vectors of the pretrained weight); "coordinates" (random unit vectors); "principal" and "last_principal" (the
#: directions in which the inputs are largest or smallest for A, as EVA and LoRA-Null place it, and in which the loss is
#: most or least sensitive for B); "gradient" (singular vectors of the first gradient, as LoRA-GA and LoRA-One use).
INITIALIZATIONS: dict[str, Initialization] = {
    "zero": Initialization(
        lambda asked: torch.zeros(asked.length, asked.rank), {"A": "0", "B": "0"}, ("zero",), orthonormal=False
    ),
    "orthonormal": Initialization(_haar, {"A": "rand", "B": "rand"}, ("orth",)),
    "kaiming": Initialization(_kaiming, {"A": "Km", "B": "Km"}, ("he",), orthonormal=False),
    "gaussian": Initialization(
        lambda asked: torch.randn(asked.length, asked.rank, generator=asked.generator) / math.sqrt(asked.length),
        {"A": "N", "B": "N"},
        ("n", "gauss"),
        orthonormal=False,
    ),
    "singular": Initialization(lambda asked: asked.side(asked.weight), {"A": "V", "B": "U"}),
    "last_singular": Initialization(lambda asked: asked.side(asked.weight, last=True), {"A": "V_last", "B": "U_last"}),
    "coordinates": Initialization(_coordinates, {"A": "E", "B": "E"}),
    "principal": Initialization(_principal, {"A": "X", "B": "Y"}, needs=_BY_DATA),
    "last_principal": Initialization(
        lambda asked: _principal(asked, last=True), {"A": "X_last", "B": "Y_last"}, needs=_BY_DATA
    ),
    "gradient": Initialization(_first_gradient, {"A": "G", "B": "G"}, needs=_BY_GRADIENT),
}


def generator_for(seed: int, module: str, factor: Factor) -> torch.Generator:
    """Make a generator for one factor of one module: its draws do not depend on which other modules are adapted.

    Parameters
    ----------
    seed
        Of the run's factors.
    module
        The module's name.
    factor
        "A" or "B".

    Returns
    -------
    torch.Generator
        On the CPU.

    Examples
    --------
    >>> first, again = (torch.rand(1, generator=generator_for(0, "layer.0.query", "A")) for _ in range(2))
    >>> bool(first == again)
    True
    """
    digest = hashlib.sha256(f"{seed}/{module}/{factor}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def initial_factor(
    factor: Factor,
    initialization: str,
    weight: Float[Tensor, "d_out d_in"],
    rank: int,
    generator: torch.Generator,
    statistics: ModuleStatistics | None = None,
) -> Float[Tensor, "rows columns"]:
    """Draw or compute the initial values of one factor.

    Parameters
    ----------
    factor : {"A", "B"}
        "A" gives shape (rank, d_in), "B" gives shape (d_out, rank).
    initialization : str
        A name of `INITIALIZATIONS`.
    weight : float Tensor of shape (d_out, d_in)
        The pretrained weight, of shape (d_out, d_in); only its shape matters unless singular vectors are asked for.
    rank : int
        Number of rows of A, or columns of B; at most min(d_out, d_in) for singular vectors.
    generator : Generator
        Source of random values.
    statistics : ModuleStatistics, optional
        For the initializations that place a factor by data.

    Returns
    -------
    Tensor
        Of dtype float32. Rows of an orthonormal A, and columns of an orthonormal B, have norm 1; those of a Kaiming A
        have norm 1/sqrt(3) and those of a Kaiming B sqrt(d_out / (3 rank)), in root mean square [1]_. Singular vectors
        are those of the weight itself; the released code of the paper takes them from a freshly initialized weight and
        indexes Vh by columns, so that they are random coordinates [2]_.

    Raises
    ------
    AdapterError
        If the rank is larger than the matrix allows, or the statistics lack what the initialization needs.
    ValueError
        If there is no such factor or initialization.

    References
    ----------
    .. [1] docs/theory.md, section 1.5.
    .. [2] docs/theory.md, section 2, bugs 1 and 2.

    Examples
    --------
    >>> A = initial_factor("A", "orthonormal", torch.zeros(4, 6), 2, torch.Generator().manual_seed(0))
    >>> torch.allclose(A @ A.T, torch.eye(2), atol=1e-6)
    True
    """
    choose(factor, ("A", "B"), "factor")
    kind = INITIALIZATIONS[choose(initialization, INITIALIZATIONS, "initialization")]
    asked = _Asked(factor, weight, whole(rank, "rank", least=1), generator, statistics or ModuleStatistics())
    if kind.orthonormal and rank > asked.length:
        raise AdapterError(
            f"rank {rank} is above {asked.length}, the width of the {'inputs' if factor == 'A' else 'outputs'}: only "
            f"{asked.length} orthonormal vectors fit; choose a smaller rank"
        )
    needed = kind.needs.get(factor)
    if needed is not None and getattr(asked.statistics, needed) is None:
        raise AdapterError(
            f"the initialization {initialization!r} of {factor} needs the module's {needed}; measure them with "
            "measure_statistics and give them as statistics"
        )
    vectors = kind.draw(asked).float()
    return (vectors.T if factor == "A" else vectors).contiguous()
