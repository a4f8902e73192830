"""Scores over seeds against scipy and pandas, and verdicts on tables whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import Claim, check_claims, paper_claims, paper_results, score_variants


def table(values: dict[tuple[str, str], list[float]], *, lower: bool = False, baseline: float = 0.0) -> pd.DataFrame:
    rows = [
        {
            "run": run,
            "task": task,
            "variant": "hB_0 A_rand",
            "seed": seed,
            "rank": 8,
            "learning_rate": 1e-3,
            "metric": "loss" if lower else "accuracy",
            "lower_is_better": lower,
            "value": value,
            "baseline": baseline,
        }
        for (run, task), list_ in values.items()
        for seed, value in enumerate(list_)
    ]
    return pd.DataFrame(rows)


scores = st.lists(st.floats(0, 1), min_size=2, max_size=6)


@given(scores, st.data())
def test_differences_are_a_paired_t_test(first: list[float], data: st.DataObject) -> None:
    second = data.draw(st.lists(st.floats(0, 1), min_size=len(first), max_size=len(first)))
    row = score_variants(table({("x", "t"): first, ("y", "t"): second})).contrast("x", "y", confidence=0.9).iloc[0]
    difference = np.subtract(first, second)
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["standard_error"] == pytest.approx(stats.sem(difference), abs=1e-12)
    if difference.std() > 1e-6:
        oracle = stats.ttest_rel(first, second).confidence_interval(0.9)
        assert (row["low"], row["high"]) == pytest.approx(tuple(oracle), abs=1e-9)
        told = stats.ttest_rel(first, second).pvalue < 0.1
        assert (row["outcome"] != "not told apart") == told


@given(scores, st.floats(0, 1))
def test_turning_the_metric_round_turns_nothing_that_is_said(values: list[float], baseline: float) -> None:
    up = score_variants(table({("x", "t"): values, ("y", "t"): values[::-1]}, baseline=baseline))
    turned = {("x", "t"): [-v for v in values], ("y", "t"): [-v for v in values[::-1]]}
    down = score_variants(table(turned, lower=True, baseline=-baseline))
    assert np.allclose(up.frame["gain"], down.frame["gain"])
    columns = ["difference", "outcome"]
    assert up.contrast("x", "y")[columns].to_dict() == down.contrast("x", "y")[columns].to_dict()


def test_searched_runs_are_left_out_and_a_shared_seed_is_not_counted_twice() -> None:
    runs = table({("x", "t"): [0.5, 0.7, 0.9]}).assign(stage=["best", "best", "search"])
    frame = score_variants(runs).frame
    assert frame["seeds"].tolist() == [2]
    assert frame["mean"].tolist() == pytest.approx([0.6])
    with pytest.raises(AdapterError, match="two runs are x on t with seed 0"):
        score_variants(pd.concat([runs, runs]))
    with pytest.raises(AdapterError, match="lacks variant"):
        score_variants(runs.drop(columns="variant"))
    with pytest.raises(AdapterError, match="no run z; the table has x"):
        score_variants(runs).contrast("x", "z")


def test_another_column_is_compared_by_its_name() -> None:
    runs = table({("x", "t"): [0.5, 0.6], ("y", "t"): [0.6, 0.7]}).assign(loss=[3.0, 3.1, 2.0, 2.1])
    by_loss = score_variants(runs, metric="loss", lower_is_better=True)
    assert by_loss.frame["mean"].tolist() == pytest.approx([3.05, 2.05])
    assert by_loss.frame["baseline"].isna().all()
    assert by_loss.contrast("y", "x")["difference"].iloc[0] == pytest.approx(1.0)
    claim = check_claims(by_loss, [Claim("c", "s", "y", "x", "better")]).iloc[0]
    assert np.isnan(claim["gain_ratio"]), "without a baseline there is no gain"
    assert claim["verdict"] == "holds"


@pytest.mark.parametrize(
    ("first", "says", "verdict"),
    [
        ({"t": [0.9, 0.91], "u": [0.8, 0.81]}, "better", "holds"),
        ({"t": [0.9, 0.91], "u": [0.1, 0.11]}, "better", "holds partly"),
        ({"t": [0.1, 0.11], "u": [0.1, 0.11]}, "better", "does not hold"),
        ({"t": [0.4, 0.61], "u": [0.8, 0.81]}, "no worse", "holds"),
        ({"t": [0.4, 0.61], "u": [0.8, 0.81]}, "better", "holds partly"),
        ({"t": [0.4, 0.61], "u": [0.4, 0.62]}, "better", "not told apart"),
        ({"t": [0.4, 0.61], "u": [0.1, 0.11]}, "better", "does not hold"),
        ({"t": [0.1, 0.11], "u": [0.1, 0.11]}, "no worse", "does not hold"),
    ],
)
def test_verdicts(first: dict[str, list[float]], says: str, verdict: str) -> None:
    values = {("x", task): found for task, found in first.items()} | {("y", task): [0.5, 0.5] for task in first}
    found = check_claims(score_variants(table(values)), [Claim("c", "s", "x", "y", says)])  # type: ignore[arg-type]
    assert found["verdict"].tolist() == [verdict]
    assert found[["better", "not_told_apart", "worse"]].sum(axis=1).tolist() == [2]


def test_claims_are_those_that_the_runs_of_every_shipped_config_speak_to() -> None:
    def spoken(*runs: str) -> list[tuple[str, str, str]]:
        return [(claim.first, claim.second, claim.says) for claim in paper_claims(runs)]

    assert spoken("lora-r32", "b-only-r32", "b-only-r64", "a-only-r32") == [
        ("b-only-r32", "a-only-r32", "better"),
        ("b-only-r32", "lora-r32", "no worse"),
        ("b-only-r64", "lora-r32", "no worse"),
        ("b-only-r64", "lora-r32", "better"),
    ]
    assert spoken("lora-r8", "b-only-r8", "b-only-V") == [
        ("b-only-r8", "lora-r8", "no worse"),
        ("b-only-r8", "b-only-V", "no worse"),
    ]
    assert spoken("both-reversed") == []


def test_the_papers_numbers_are_named_as_the_shipped_runs_are() -> None:
    paper = paper_results()
    assert {"lora-r8", "b-only-r8", "b-only-r16", "a-only-r8"} <= set(paper["run"])
    average = paper[(paper["task"] == "GLUE average") & (paper["table"] == 1)].set_index("run")["value"]
    assert average["b-only-r16"] > average["b-only-r8"] > average["lora-r8"] > average["a-only-r8"]


def test_the_command_compares_a_folder_and_refuses_an_empty_one(tmp_path: Path, asym) -> None:
    runs = table({("b-only-r8", "t"): [0.5, 0.6], ("a-only-r8", "t"): [0.4, 0.5]}, baseline=0.1)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    done = asym("variants", tmp_path, "--json", "--out", tmp_path / "scores.csv")
    assert done.code == 0
    assert [row["run"] for row in done.records("scores")] == ["b-only-r8", "a-only-r8"]
    assert [row["verdict"] for row in done.records("claims")] == ["holds"]
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 2
    absent = asym("variants", tmp_path / "nothing")
    assert absent.code == 1
    assert "asym finetune --runs" in " ".join(absent.err.split())
