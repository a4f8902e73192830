"""Seconds of one processor for what a comparison says: summary, frame and HTML, beside the comparison itself.

    python benchmarks/statements.py

5 adapters of 224 modules and 40 of 48, rank 8, d = 384, spectra that fall as real ones do and differ among adapters.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from asym_analysis import Adapter, compare_subspaces

SPECTRUM = torch.tensor([1.0, 0.37, 0.23, 0.14, 0.1, 0.07, 0.05, 0.03])
MEASURES = ("overlap", "cosine", "angular_procrustes", "weighted_overlap", "linear_regression", "debiased_cka")


def adapters(count: int, modules: int, size: int = 384) -> list[Adapter]:
    generator = torch.Generator().manual_seed(0)

    def pair() -> tuple[torch.Tensor, torch.Tensor]:
        strengths = SPECTRUM * (1 + 0.3 * torch.rand(len(SPECTRUM), generator=generator))
        rows = torch.randn(len(SPECTRUM), size, generator=generator)
        return rows * strengths[:, None], torch.randn(size, len(SPECTRUM), generator=generator)

    return [Adapter.from_factors({f"l.{m}.q": pair() for m in range(modules)}, name=str(i)) for i in range(count)]


def main() -> None:
    torch.set_num_threads(1)
    for count, modules in ((5, 224), (40, 48)):
        runs = adapters(count, modules)
        for measure in MEASURES:
            taken: dict[str, float] = {}

            def timed(name: str, work: Callable[[], object], taken: dict[str, float] = taken) -> object:
                begun = time.process_time()
                found = work()
                taken[name] = time.process_time() - begun
                return found

            comparison = timed("compare", lambda runs=runs, measure=measure: compare_subspaces(runs, measure=measure))
            timed("summary", comparison.summary)  # type: ignore[attr-defined]
            timed("frame", lambda comparison=comparison: comparison.frame)
            timed("html", comparison._repr_html_)  # type: ignore[attr-defined]
            print(f"{count} x {modules}, {measure}:", ", ".join(f"{name} {s:.2f} s" for name, s in taken.items()))


if __name__ == "__main__":
    main()
