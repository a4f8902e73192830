"""How often random pairs get a p-value below each level: every measure, over spectra, ranks and dimensions.

Each matrix keeps its singular values in random directions, drawn afresh. Writes benchmarks/results/null_calibration.csv
(one row a measure, spectrum and shape: the share of p-values at most .05, .01, .001 and .0001, each divided by that
level, and the smallest p-value that the null distribution gives) and null_calibration.svg (nominal against actual).

    python benchmarks/null_calibration.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from asym_analysis.chance.blocks import haar_blocks
from asym_analysis.samples import sample_adapters
from asym_analysis.subspaces.measures import MEASURES, Frames

LEVELS = (0.05, 0.01, 1e-3, 1e-4)
SHAPES = (
    (1, 1, 3), (2, 2, 3), (5, 4, 6), (3, 5, 10), (8, 3, 12), (8, 8, 24), (4, 4, 64), (8, 8, 384), (4, 16, 768),
    (8, 8, 4096),
)  # fmt: skip
RESULTS = Path(__file__).parent / "results"


def strengths(name: str, count: int) -> np.ndarray:
    if name == "real":
        update = next(iter(sample_adapters()[0].values()))
        spectrum = np.sort(update.singular_values().double().numpy())[::-1]
        tail = spectrum[-1] * 0.8 ** np.arange(1, count + 1)
        return np.concatenate([spectrum, tail])[:count]
    return np.arange(1.0, count + 1) ** {"flat": 0.0, "1/i": -1.0, "1/i^2": -2.0}[name]


def fresh_blocks(p: int, q: int, d: int, draws: int, first: int) -> np.ndarray:
    parts, stream = [], first
    while sum(map(len, parts)) < draws:
        parts.append(haar_blocks.__wrapped__(p, q, d, stream))
        stream += 1
    return np.concatenate(parts)[:draws]


def values_of(p: int, q: int, d: int, draws: int) -> Iterator[tuple[str, str, tuple[int, ...], np.ndarray]]:
    """Measure, spectrum, sizes and values. Of two matrices only the block G of products of their bases is drawn."""
    blocks = fresh_blocks(p, q, d, draws, 100)
    others = fresh_blocks(p, q, d, draws, 200)
    directions, cosines, _ = np.linalg.svd(blocks, full_matrices=False)
    cosines = np.minimum(cosines, 1.0)
    squares = blocks**2
    for name, measure in MEASURES.items():
        if measure.kind == "subspace" or name == "svcca":
            if name == "overlap":
                values = squares.sum((1, 2)) / min(p, q)
            elif name in ("mean_cosine", "svcca"):
                values = cosines.mean(1)
            else:
                # The measure's own distance, of subspaces with these principal angles.
                values = _distances(name, cosines)
            if name != "svcca":
                yield name, "any", (d,), values
    for spectrum in ("flat", "1/i", "1/i^2", "real"):
        s, t = strengths(spectrum, p), strengths(spectrum, q)
        c, e = s**2, t**2
        trace = np.einsum("nij,i,j->n", squares, c / np.linalg.norm(c), e / np.linalg.norm(e), optimize=True)
        yield "linear_cka", spectrum, (d,), trace
        yield "linear_regression", spectrum, (d,), np.einsum("nij,i->n", squares, c / c.sum(), optimize=True)
        weights = np.einsum("nik,i->nk", np.abs(directions), s, optimize=True)
        yield "pwcca", spectrum, (d,), (weights * cosines).sum(1) / weights.sum(1)
        turned = (s / np.linalg.norm(s))[:, None] * blocks * (t / np.linalg.norm(t))
        nuclear = np.linalg.svd(turned, compute_uv=False).sum(1)
        yield "angular_procrustes", spectrum, (d,), np.arccos(np.minimum(nuclear, 1.0))
        product = np.einsum("nij,nij,i,j->n", blocks, others, s, t, optimize=True)
        yield "cosine", spectrum, (d, d), product / np.linalg.norm(s) / np.linalg.norm(t)
        if 4 <= d <= 1000:
            yield "debiased_cka", spectrum, (d,), _debiased(s, t, d, draws)


def _distances(name: str, cosines: np.ndarray) -> np.ndarray:
    angles = np.arccos(cosines)
    sines = np.sin(angles)
    with np.errstate(divide="ignore"):
        logs = -2 * np.log(cosines).sum(1)
    return {
        "geodesic": lambda: np.linalg.norm(angles, axis=1),
        "chordal": lambda: np.linalg.norm(sines, axis=1),
        "projection": lambda: sines.max(1),
        "fubini_study": lambda: np.arccos(cosines.prod(1)),
        "procrustes": lambda: 2 * np.linalg.norm(np.sin(angles / 2), axis=1),
        "martin": lambda: np.sqrt(logs),
    }[name]()


def _debiased(s: np.ndarray, t: np.ndarray, d: int, draws: int) -> np.ndarray:
    measure = MEASURES["debiased_cka"]
    generator = torch.Generator().manual_seed(7)

    def drawn(strengths: np.ndarray) -> Frames:
        basis = torch.linalg.qr(torch.randn(32, d, len(strengths), generator=generator, dtype=torch.float64)).Q
        return measure.prepare((basis * torch.from_numpy(strengths)).mT)

    # Pairs of one batch share matrices; many small batches depend on each other less than one large one.
    batches = [measure.compare(drawn(s), drawn(t)).flatten() for _ in range(draws // 32**2)]
    return torch.cat(batches).numpy()


def row(name: str, spectrum: str, p: int, q: int, size: tuple[int, ...], values: np.ndarray) -> dict[str, object]:
    s, t = (np.ones(k) if spectrum == "any" else strengths(spectrum, k) for k in (p, q))
    reference = MEASURES[name].null(s, t, *size)
    p_values = np.maximum(reference.null.p_value(values), reference.least_p)
    found = {"measure": name, "strengths": spectrum, "p": p, "q": q, "d": size[0], "draws": len(values)}
    point = float(np.ravel(reference.null.std)[0]) < 1e-7
    for level in LEVELS:
        few = len(values) * level < 4  # nothing can be said of a level that four draws would reach
        found[f"at_{level:g}"] = np.nan if point or few else round(float((p_values <= level).mean() / level), 3)
    return found | {"least_p": f"{reference.least_p:.1e}"}


def draw(table: pd.DataFrame, path: Path) -> None:
    columns = [f"at_{level:g}" for level in LEVELS]
    figure, ax = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
    ax.fill_between(LEVELS, 0.5, 2, color="0.9", label="within a factor of two")
    for name, rows in table.groupby("measure"):
        ax.plot(LEVELS, rows[columns].median(), marker="o", markersize=3, linewidth=1, label=name)
    ax.plot(LEVELS, table[columns].min(), ":", color="0.4", linewidth=1, label="least and largest of all")
    ax.plot(LEVELS, table[columns].max(), ":", color="0.4", linewidth=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("nominal p-value")
    ax.set_ylabel("actual rate / nominal")
    ax.legend(fontsize=5.5, ncols=2)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for p, q, d in SHAPES:
        for name, spectrum, size, values in values_of(p, q, d, options.draws):
            rows.append(row(name, spectrum, p, q, size, values))
        print(f"p = {p}, q = {q}, d = {d}: done", flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(options.out / "null_calibration.csv", index=False)
    draw(table, options.out / "null_calibration.svg")
    columns = [f"at_{level:g}" for level in LEVELS]
    print(table.groupby("measure")[columns].agg(["min", "median", "max"]).round(2).to_string())


if __name__ == "__main__":
    main()
