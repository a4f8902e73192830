"""How often random pairs get a p-value below each level: every measure, over spectra, ranks and dimensions.

Each matrix keeps its singular values in random directions, drawn afresh by a sampler that shares nothing with the null
distributions. Spectra are flat, 1/i, 1/i^2, one of a real adapter; "own": every pair has two spectra of real adapters,
of which a comparison knows only classes; and "mixed": flat, steep and spiked ones in one collection. Writes
benchmarks/results/null_calibration.csv: one row a measure, spectrum and shape, with the share of p-values at most .05,
.01, .001 and .0001, each divided by that level (of the pairs that can have so small a p-value; missing where fewer than
half can, and where the values are one point), and the largest of their smallest p-values; and null_calibration.svg
(nominal against actual).

    python benchmarks/null_calibration.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from asym_analysis.alignment.nulls import NullTable
from asym_analysis.plots.style import SERIES, styled
from asym_analysis.plots.style import SHAPES as SYMBOLS
from asym_analysis.samples import sample_adapters
from asym_analysis.subspaces.measures import MEASURES, Frames

LEVELS = (0.05, 0.01, 1e-3, 1e-4)
SHAPES = (
    (1, 1, 3), (2, 2, 3), (5, 4, 6), (3, 5, 10), (8, 3, 12), (12, 10, 16), (8, 8, 24), (4, 4, 64), (8, 8, 384),
    (4, 16, 768), (16, 16, 1024), (8, 8, 4096),
)  # fmt: skip
RESULTS = Path(__file__).parent / "results"
OF_ANGLES = ("overlap", "mean_cosine", "geodesic", "chordal", "projection", "fubini_study", "procrustes", "martin")
Values = Callable[[np.ndarray, np.ndarray], np.ndarray]  # spectra of the pairs -> values


def real_spectra(count: int) -> np.ndarray:
    """Spectra of every module of the shipped adapters, cut or continued to `count` values."""
    found = []
    for adapter in sample_adapters():
        for update in adapter.values():
            spectrum = np.sort(update.singular_values().double().numpy())[::-1]
            spectrum = spectrum[spectrum > 1e-6 * spectrum[0]]
            if len(spectrum) > 3:
                tail = spectrum[-1] * 0.8 ** np.arange(1, count + 1)
                found.append(np.concatenate([spectrum, tail])[:count] / spectrum[0])
    return np.stack(found)


def mixed_spectra(count: int) -> np.ndarray:
    """Twenty of each: i^-power from flat to steep, geometric ones, and one value with many small ones."""
    i, generator = np.arange(count), np.random.default_rng(count)
    powers, ratios, small = generator.uniform([0, 0.3, 0.01], [2.5, 1, 0.3], (20, 3)).T[:, :, None]
    return np.concatenate([(i + 1.0) ** -powers, ratios**i, np.where(i == 0, 1.0, small)])


def strengths(name: str, count: int) -> np.ndarray:
    if name == "real":
        return real_spectra(count)[0]
    return np.arange(1.0, count + 1) ** {"flat": 0.0, "1/i": -1.0, "1/i^2": -2.0}[name]


def blocks_of(generator: np.random.Generator, p: int, q: int, d: int, draws: int) -> np.ndarray:
    """Products of the bases of two random subspaces: the first p coordinates of q orthonormal vectors."""
    parts = []
    for start in range(0, draws, 2**15):
        count = min(2**15, draws - start)
        rest = d - p
        rows = generator.standard_normal((count, q, p + min(q, rest)))
        if rest > q:
            low = np.tril(rows[:, :, p:], -1)
            low[:, np.arange(q), np.arange(q)] = np.sqrt(generator.chisquare(rest - np.arange(q), (count, q)))
            rows[:, :, p:] = low
        basis = np.linalg.qr(rows.transpose(0, 2, 1))[0]
        # The signs that the decomposition chooses depend on the data.
        parts.append((basis * generator.choice([-1.0, 1.0], (count, 1, q)))[:, :p])
    return np.concatenate(parts)


def measured(p: int, q: int, d: int, draws: int) -> tuple[dict[str, np.ndarray], dict[str, Values]]:
    """Values of the measures of subspaces, and functions of the spectra for the others."""
    generator = np.random.default_rng([p, q, d, draws])
    blocks, others = (blocks_of(generator, p, q, d, draws) for _ in range(2))
    directions, cosines, _ = np.linalg.svd(blocks, full_matrices=False)
    cosines = np.minimum(cosines, 1.0)
    squares, sides = blocks**2, np.abs(directions)
    angles = {name: _of_angles(name, cosines, squares) for name in OF_ANGLES}

    def trace(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        c, e = (x**2 / np.linalg.norm(x**2, axis=1, keepdims=True) for x in (s, t))
        return np.einsum("nij,ni,nj->n", squares, c, e, optimize=True)

    def regression(s: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.einsum("nij,ni->n", squares, s**2 / (s**2).sum(1, keepdims=True), optimize=True)

    def weighted(s: np.ndarray, _: np.ndarray) -> np.ndarray:
        weights = np.einsum("nik,ni->nk", sides, s, optimize=True)
        return (weights * cosines).sum(1) / weights.sum(1)

    def procrustes(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        left, right = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
        nuclear = np.linalg.svd(left[:, :, None] * blocks * right[:, None], compute_uv=False).sum(1)
        return np.arccos(np.minimum(nuclear, 1.0))

    def cosine(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        product = np.einsum("nij,nij,ni,nj->n", blocks, others, s, t, optimize=True)
        return product / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1)

    return angles, {
        "linear_cka": trace,
        "linear_regression": regression,
        "pwcca": weighted,
        "angular_procrustes": procrustes,
        "cosine": cosine,
    }


def _of_angles(name: str, cosines: np.ndarray, squares: np.ndarray) -> np.ndarray:
    angles = np.arccos(cosines)
    with np.errstate(divide="ignore"):
        return {
            "overlap": lambda: squares.sum((1, 2)) / cosines.shape[1],
            "mean_cosine": lambda: cosines.mean(1),
            "geodesic": lambda: np.linalg.norm(angles, axis=1),
            "chordal": lambda: np.linalg.norm(np.sin(angles), axis=1),
            "projection": lambda: np.sin(angles).max(1),
            "fubini_study": lambda: np.arccos(cosines.prod(1)),
            "procrustes": lambda: 2 * np.linalg.norm(np.sin(angles / 2), axis=1),
            "martin": lambda: np.sqrt(-2 * np.log(cosines).sum(1)),
        }[name]()


def debiased(s: np.ndarray, t: np.ndarray, d: int, draws: int) -> np.ndarray:
    """Of full matrices: many small batches, whose pairs depend on each other less than those of one large one."""
    measure = MEASURES["debiased_cka"]
    generator = torch.Generator().manual_seed(7)

    def drawn(strengths: np.ndarray) -> Frames:
        basis = torch.linalg.qr(torch.randn(32, d, len(strengths), generator=generator, dtype=torch.float64)).Q
        return measure.prepare((basis * torch.tensor(strengths)).mT)

    return torch.cat([measure.compare(drawn(s), drawn(t)).flatten() for _ in range(draws // 32**2)]).numpy()


def rows(p: int, q: int, d: int, draws: int) -> Iterator[dict[str, object]]:
    angles, functions = measured(p, q, d, draws)
    for name, values in angles.items():
        yield row(name, "any", p, q, d, values)
    for spectrum in ("flat", "1/i", "1/i^2", "real"):
        s, t = (np.broadcast_to(strengths(spectrum, k), (draws, k)) for k in (p, q))
        for name, function in functions.items():
            yield row(name, spectrum, p, q, d, function(s, t))
        if 4 <= d <= 400:
            yield row("debiased_cka", spectrum, p, q, d, debiased(s[0], t[0], d, draws))
    if min(p, q) > 1:
        for spectrum, of_rank in (("own", real_spectra), ("mixed", mixed_spectra)):
            left, right = of_rank(p), of_rank(q)
            pairs = np.random.default_rng(p + q + d).integers(len(left), size=(2, draws))
            for name, function in functions.items():
                yield row(name, spectrum, p, q, d, function(left[pairs[0]], right[pairs[1]]), (left, right, pairs))


def row(name: str, spectrum: str, p: int, q: int, d: int, values: np.ndarray, own: tuple | None = None) -> dict:
    size = (d, d) if name == "cosine" else (d,)
    if own is None:
        s, t = (np.ones(k) if spectrum == "any" else strengths(spectrum, k) for k in (p, q))
        reference = MEASURES[name].null(s, t, *size)
        p_values = np.maximum(reference.null.p_value(values), reference.least_p)
        least, point = np.full(len(values), reference.least_p), float(np.ravel(reference.null.std)[0]) < 1e-7
    else:
        p_values, least = _as_compared(name, p, q, d, values, *own)
        point = False
    found = {"measure": name, "strengths": spectrum, "p": p, "q": q, "d": d, "draws": len(values)}
    for level in LEVELS:
        told = p_values[least <= level]
        few = point or len(told) < len(values) / 2
        found[f"at_{level:g}"] = np.nan if few else round((told <= level).mean() / level, 3)
    return found | {"least_p": f"{least.max():.1e}"}


def _as_compared(
    name: str, p: int, q: int, d: int, values: np.ndarray, left: np.ndarray, right: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """p-values as a comparison gives them to adapters with these spectra, in classes, and the smallest ones."""
    count, width = len(left), max(p, q)
    spectra = np.zeros((1, 1, 2 * count, width))
    spectra[0, 0, :count, :p], spectra[0, 0, count:, :q] = left, right
    ranks = np.array([p] * count + [q] * count)[None, None]
    table = NullTable(
        MEASURES[name], ("update",) if name == "cosine" else ("right",), ranks, np.array([[d, d]]), spectra,
        (pairs[0], count + pairs[1]),
    )  # fmt: skip
    columns = table.columns(0, 0, values)
    return columns["p_value"], columns["least_p"]


def draw(table: pd.DataFrame, path: Path) -> None:
    """Medians of each measure, and the band that holds nine in ten of all rows; measures differ in dash and marker."""
    columns = [f"at_{level:g}" for level in LEVELS]
    with styled():
        figure, ax = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
        low, high = (table[columns].quantile(share).to_numpy() for share in (0.05, 0.95))
        ax.fill_between(LEVELS, low, high, color="0.88", linewidth=0, label="nine in ten of all rows")
        ax.axhline(1, color="0.3", linewidth=0.8)
        for place, (name, rows) in enumerate(table.groupby("measure")):
            look = place % len(SERIES)
            ax.plot(
                LEVELS, rows[columns].median(), marker=SYMBOLS[look], markersize=3, linewidth=1, color=SERIES[look],
                linestyle="-" if place < len(SERIES) else "--", label=str(name).replace("_", " "),
                markerfacecolor=SERIES[look] if place < len(SERIES) else "white",
            )  # fmt: skip
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(0.45, 2.2)
        ax.set_yticks([0.5, 0.7, 1, 1.5, 2], ["0.5", "0.7", "1", "1.5", "2"])
        ax.set_yticks([], minor=True)
        ax.set_xlabel("nominal p-value")
        ax.set_ylabel("actual rate / nominal")
        figure.legend(fontsize=7, loc="outside right center", frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200_000)
    parser.add_argument("--shapes", type=int, nargs="*", help="numbers of the shapes, from 0; all by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--draw", action="store_true", help="draw the picture of the table that is there")
    options = parser.parse_args()
    if options.draw:
        draw(pd.read_csv(options.out / "null_calibration.csv"), options.out / "null_calibration.svg")
        return
    found = []
    for p, q, d in SHAPES if options.shapes is None else [SHAPES[one] for one in options.shapes]:
        found += rows(p, q, d, options.draws)
        print(f"p = {p}, q = {q}, d = {d}: done", flush=True)
    table = pd.DataFrame(found)
    table.to_csv(options.out / "null_calibration.csv", index=False)
    draw(table, options.out / "null_calibration.svg")
    columns = [f"at_{level:g}" for level in LEVELS]
    print(table.groupby("measure")[columns].agg(["min", "median", "max"]).round(2).to_string())


if __name__ == "__main__":
    main()
