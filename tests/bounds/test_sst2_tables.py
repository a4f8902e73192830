"""What the guide and the README say of SST-2 is in the shipped tables, and the decision follows from them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SIZES = (2_000, 16_000, 67_000)


def rows(text: str, arm: str) -> list[list[str]]:
    """The cells of the tables' lines for an arm."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {arm} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]


def means(name: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / name).groupby(["arm", "n"]).mean(numeric_only=True)


def written(value: float) -> str:
    return f"{value:.3f}".lstrip("0")


@pytest.mark.parametrize(
    ("page", "table", "place"),
    [
        ("docs/guide/guarantees.md", "sst2_decide.csv", 0),
        ("benchmarks/results/README.md", "sst2_six_maps.csv", 0),
    ],
)
def test_certified_true_and_hold_out(page: str, table: str, place: int) -> None:
    text, found = (ROOT / page).read_text(encoding="utf-8"), means(table)
    for arm in found.index.unique("arm"):
        cells = rows(text, arm)[place]
        for n, cell in zip(SIZES, cells, strict=True):
            row = found.loc[(arm, n)]
            true = row["centre_true"] if arm == "none" else row["gibbs_true"]
            values = [row["risk"], true, *([row["hold_out"]] if row.notna()["hold_out"] else [])]
            assert cell == " / ".join(map(written, values)), (arm, n)


def test_every_interval_of_the_pages_is_in_a_table() -> None:
    known = set()
    for name in ("sst2_decision.csv", "sst2_six_maps_decision.csv", "sst2_longer_decision.csv"):
        for row in pd.read_csv(RESULTS / name).itertuples():
            known.add(tuple(f"{value:+.3f}".replace("0.", ".") for value in (row.low, row.high)))
    for page in ("docs/guide/guarantees.md", "benchmarks/results/README.md", "README.md"):
        text = re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8"))
        if page != "README.md":
            text = text[text.index("## Does training only B tighten the bound?") :]
            text = text[: text.find(" ## ", 10)] if " ## " in text[10:] else text
        else:
            text = text[text.index("That training only B tightens it is not so") :]
            text = text[: text.index("guarantees.md#does-training")]
        found = re.findall(r"\[([+-]?\.\d{3}), ([+-]?\.\d{3})\]", text)
        assert len(found) >= 1
        for pair in found:
            signed = tuple(value if value[0] in "+-" else f"+{value}" for value in pair)
            assert signed in known, (page, pair)


def test_the_decisions_follow_from_the_rows() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks" / "sst2"))
    try:
        from decision import decide
    finally:
        sys.path.pop(0)
    for rows_of, decision in (
        ("sst2_decide", "sst2_decision"),
        ("sst2_six_maps", "sst2_six_maps_decision"),
        ("sst2_longer", "sst2_longer_decision"),
    ):
        again = decide(pd.read_csv(RESULTS / f"{rows_of}.csv")).reset_index(drop=True)
        pd.testing.assert_frame_equal(again, pd.read_csv(RESULTS / f"{decision}.csv"))


def test_training_twice_as_long_favours_both() -> None:
    table = pd.read_csv(RESULTS / "sst2_longer.csv")
    assert (table["risk"] > table["gibbs_true"]).all()
    by_arm = {arm: rows.set_index("seed") for arm, rows in table.groupby("arm")}
    short = pd.read_csv(RESULTS / "sst2_decide.csv").query("n == 16000 and arm == 'B r4'").set_index("seed")
    B, both = (by_arm[f"{arm}, 2 times as long"] for arm in ("B r4", "both r4"))
    assert (B["epochs"] == 2 * short["epochs"]).all()
    assert (B["risk"] > both["risk"]).all()
    said = [written(arm[column].mean()) for arm in (B, both) for column in ("risk", "gibbs_true")]
    assert said == [".396", ".266", ".365", ".212"]
    for page in ("docs/guide/guarantees.md", "benchmarks/results/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert all(
            value in text[text.index("rained twice as long" if "results" in page else "Trained longer") :]
            for value in said
        )


def test_claims_of_the_guide() -> None:
    for name, closest, least in (("sst2_decide.csv", 0.051, 0.084), ("sst2_six_maps.csv", 0.027, None)):
        table = pd.read_csv(RESULTS / name)
        drawn, held = table.dropna(subset=["gibbs_true"]), table.dropna(subset=["hold_out"])
        assert (len(drawn), len(held)) == (90, 75)
        assert round((drawn["risk"] - drawn["gibbs_true"]).min(), 3) == closest
        assert (held["hold_out"] > held["hold_out_true"]).all()
        assert (held["hold_out"] < held["risk"]).all()
        if least:
            assert round((held["risk"] - held["hold_out"]).min(), 3) == least
    table = pd.read_csv(RESULTS / "sst2_decide.csv")
    few = table[(table["n"] == 2_000) & ~table["arm"].isin(["none", "A r4"])]
    assert len(few) == 25
    assert ((few["A_means"] + few["B_means"]) == 0).all()
    tuning = pd.read_csv(RESULTS / "sst2_tuning.csv").query("n > 2000")
    by_length = tuning.pivot_table("risk_at_mean", ["n", "tuned", "rate"], "length")
    assert len(by_length) == 18
    assert (by_length[2.0] < by_length[1.0]).sum() == 16
    assert (by_length[2.0] > by_length[1.0]).sum() == 0
