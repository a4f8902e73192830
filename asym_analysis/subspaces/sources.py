"""Every similarity measure by name, with its formula and where that is from: listing them needs no library."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["SOURCES"]

#: Name of a measure -> formula and source, in the order in which they are listed.
SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "overlap": "sum cos^2 / min(p, q): Hu et al. 2022 (phi), and Figure 1 of the 2024 paper; docs/theory.md, 4.1",
        "mean_cosine": "sum cos / min(p, q), the mean canonical correlation; docs/theory.md, 4.1",
        "geodesic": "sqrt(sum theta^2), Grassmann geodesic (Edelman, Arias and Smith 1998); docs/theory.md, 4.1",
        "chordal": "sqrt(sum sin^2) = ||P_X - P_Y||_F / sqrt(2) for p = q; docs/theory.md, 4.1",
        "projection": "sin of the largest angle = ||P_X - P_Y||_2 for p = q; docs/theory.md, 4.1",
        "fubini_study": "arccos(prod cos); docs/theory.md, 4.1",
        "procrustes": "2 sqrt(sum sin^2(theta/2)) = min_O ||U - V O||_F over orthonormal bases; docs/theory.md, 4.1",
        "martin": "sqrt(-log prod cos^2) (Martin 2000), infinite if a direction is perpendicular; docs/theory.md, 4.1",
        "linear_cka": "||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), uncentred (Kornblith 2019); docs/theory.md, 4.1",
        "rv": "linear CKA of rows centred over the coordinates (Robert and Escoufier 1976); docs/theory.md, 4.1",
        "debiased_cka": "linear CKA with HSIC_1 of Song et al. 2012, coordinates as samples; docs/theory.md, 4.1",
        "svcca": "mean cosine between the directions that hold 99% of each one's energy (Raghu et al. 2017)",
        "pwcca": "sum alpha_i rho_i / sum alpha_i, alpha_i = sum_j |<h_i, x_j>| (Morcos, Raghu and Bengio 2018)",
        "linear_regression": "||P_Y X||_F^2 / ||X||_F^2, the energy of X within Y's row space; docs/theory.md, 4.1",
        "angular_procrustes": "arccos(||X Y^T||_* / (||X||_F ||Y||_F)) (Williams et al. 2021); docs/theory.md, 4.1",
        "weighted_overlap": "Tr(C C') / (||C||_F ||C'||_F), C = dW^T dW (right) or dW dW^T (left); docs/theory.md, 4.1",
        "cosine": "<dW, dW'> / (||dW||_F ||dW'||_F), from the factors; docs/theory.md, 4.1",
    }
)
