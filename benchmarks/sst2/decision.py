"""The decision: paired differences of the certificates of two arms, before and after the price of one scale."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from measured import gibbs_risk
from scipy import stats

from asym_analysis.atomic import replacing

PAIRS = (
    ("equal rank", "B r4", "both r4"),
    ("equal rank, from B", "B r4", "both r4 from B"),
    ("equal numbers", "B r4", "both r2"),
    ("equal numbers, rank 8 and 4", "B r8", "both r4"),
    ("B against A", "B r4", "A r4"),
)


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % interval by Student's t."""
    count, mean = len(differences), float(differences.mean())
    spread = differences.std(ddof=1) / math.sqrt(count) if count > 1 else math.inf
    width = stats.t.ppf(0.975, max(count - 1, 1)) * spread
    return mean, mean - width, mean + width


def paired(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """One row a seed that both arms have: columns with _1 and _2."""
    wanted = [c for c in ("risk", "gibbs_error_at_most", "kl", "A_price", "hold_out") if c in table]
    by_arm = [table[table["arm"] == arm].set_index("seed")[wanted] for arm in (first, second)]
    return by_arm[0].merge(by_arm[1], left_index=True, right_index=True, suffixes=("_1", "_2"))


def decide(table: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of the certificates, first - second, with 95 % intervals, before and after one scale's price.

    The price: how much lower the second certificate would be without the price of the scale of its A. Beside them the
    differences of the hold-out certificates of the same arms, which pay no nats. Arms of a check of the length ("B r4,
    2 times as long") are compared with each other, under its name.
    """
    names = table["arm"].str.partition(", ")
    table = table.assign(arm=names[0], length=names[2])
    groups = table.groupby(["n", "length"], sort=True)
    return pd.DataFrame([row for (n, length), part in groups for row in _compared(int(n), length, part)])


def _compared(n: int, length: str, table: pd.DataFrame) -> Iterator[dict[str, object]]:
    for compared, first, second in PAIRS:
        name = f"{compared}, {length}" if length else compared
        both = paired(table, first, second)
        if both.empty:
            continue
        facts = {"n": n, "compared": name, "first": first, "second": second}
        apart = (both["risk_1"] - both["risk_2"]).to_numpy()
        values = both[["gibbs_error_at_most_2", "kl_2", "A_price_2"]].to_numpy()
        price = both["risk_2"].to_numpy() - [gibbs_risk(e, max(k - p, 0.0), n) for e, k, p in values]
        for charged, differences in (("as certified", apart), ("without one scale's price", apart + price)):
            yield facts | {"price": charged} | _judged(differences)
        if {"hold_out_1", "hold_out_2"} <= {*both} and both[["hold_out_1", "hold_out_2"]].notna().all(axis=None):
            held = (both["hold_out_1"] - both["hold_out_2"]).to_numpy()
            yield facts | {"price": "hold-out certificates"} | _judged(held)


def _judged(differences: np.ndarray) -> dict[str, object]:
    mean, low, high = interval(differences)
    return {
        "seeds": len(differences), "difference": mean, "low": low, "high": high, "favours_first": high < 0,
        "favours_second": low > 0,
    }  # fmt: skip


def _rows(files: list[Path]) -> pd.DataFrame:
    return pd.DataFrame([json.loads(file.read_text()) for file in files]).drop(columns="cpu_seconds")


def tables(out: Path) -> pd.DataFrame:
    """Write decide.csv and decision.csv from the finished runs."""
    files = sorted(out.glob("*-n*-seed*.json"))
    apart = [file for file in files if "-hold-out-" in file.name]
    table = _rows([file for file in files if file not in apart])
    if apart:
        table = table.merge(_rows(apart), how="left", on=["arm", "n", "seed"])
    table = table.sort_values(["n", "seed"], kind="stable")
    decision = decide(table)
    for name, frame in (("decide", table), ("decision", decision)):
        with replacing(out / f"{name}.csv") as part:
            frame.to_csv(part, index=False)
    return decision
