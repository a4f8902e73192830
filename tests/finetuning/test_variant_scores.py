"""Scores over seeds against scipy and pandas, and verdicts on tables whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import matthews_corrcoef

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import check_claims, kept_gains, paper_claims, paper_results, score_variants
from asym_analysis.finetuning.results.rows import resampled_scores, row_weights
from asym_analysis.finetuning.results.statistics import Difference

LORA, B_ONLY, A_ONLY = ("hB_0 hA_Km", 8), ("hB_0 A_rand", 8), ("B_rand hA_0", 8)
ARMS = {"lora": LORA, "b-only": B_ONLY, "a-only": A_ONLY, "frozen": ("frozen", 8), "b-twice": ("hB_0 A_rand", 16)}
ARMS |= {"a-twice": ("B_rand hA_0", 16), "x": ("hB_0 A_V", 8), "y": ("hB_0 A_V_last", 8)}


def table(
    values: dict[tuple[str, str], list[float]],
    *,
    lower: bool = False,
    baseline: float = 0.0,
    baseline_of: str = "pretrained model",
    length: str = "",
    first_seed: int = 0,
) -> pd.DataFrame:
    rows = [
        {
            "run": run,
            "task": task,
            "length": length,
            "variant": ARMS[run][0],
            "seed": seed,
            "rank": ARMS[run][1],
            "learning_rate": 1e-3,
            "metric": "loss" if lower else "accuracy",
            "lower_is_better": lower,
            "value": value,
            "baseline": baseline,
            "baseline_of": baseline_of,
        }
        for (run, task), list_ in values.items()
        for seed, value in enumerate(list_, first_seed)
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
        assert (row["outcome"] != "no difference found") == told


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
    with pytest.raises(AdapterError, match="two runs are hB_0 A_V, rank 8 on t with seed 0"):
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


def test_the_seed_that_tuned_is_not_reported() -> None:
    found = table({("x", "t"): [0.5, 0.7, 0.9]}).assign(stage=["best", "best", "best"])
    searched = table({("x", "t"): [0.4]}).assign(stage="search", learning_rate=1.0)
    frame = score_variants(pd.concat([found, searched], ignore_index=True)).frame
    assert frame["mean"].tolist() == pytest.approx([0.8])


def test_gains_count_from_the_frozen_run() -> None:
    runs = table({("lora", "t"): [0.8, 0.82], ("frozen", "t"): [0.7, 0.72]}, baseline=0.5, baseline_of="constant guess")
    frame = score_variants(runs).frame.set_index("run")
    assert frame.loc["lora", "gain"] == pytest.approx(0.1)
    assert frame.loc["lora", "baseline_of"] == "frozen run"


def lora_and(
    arm: str, difference: float, spread: float, *, seeds: int = 5, tasks: int = 1, **more: Any
) -> pd.DataFrame:
    """LoRA gains 1 over the model; the arm differs from it by a known amount, with a known spread over seeds."""
    rng = np.random.default_rng(0)
    parts = {}
    for task in range(tasks):
        noise = rng.standard_normal(seeds)
        noise = (noise - noise.mean()) / noise.std(ddof=1) * spread
        parts["lora", f"t{task}"] = list(np.full(seeds, 1.0))
        parts[arm, f"t{task}"] = list(1.0 + difference + noise)
    return table(parts, **more)


@pytest.mark.parametrize(
    ("difference", "spread", "verdict"),
    [
        (0.0, 0.01, "equivalent"),
        (0.0, 0.05, "equivalent"),
        (-0.05, 0.01, "slightly worse"),
        (0.05, 0.01, "slightly better"),
        (-0.5, 0.1, "worse"),
        (0.5, 0.1, "better"),
        (-0.1, 0.3, "undecided"),
    ],
)
@pytest.mark.parametrize("lower", [False, True])
def test_verdicts(difference: float, spread: float, verdict: str, lower: bool) -> None:
    runs = lora_and("b-only", difference, spread)
    if lower:
        runs = runs.assign(value=-runs["value"], baseline=-runs["baseline"], lower_is_better=True)
    row = check_claims(score_variants(runs)).frame.iloc[0]
    assert row["verdict"] == verdict
    assert row["difference"] == pytest.approx(difference, abs=1e-9)
    assert (row["low"], row["high"]) == pytest.approx(
        tuple(stats.t.interval(0.95, 4, loc=difference, scale=spread / np.sqrt(5))), abs=1e-9
    )
    assert (row["reason"] == "the interval is too wide") == (verdict == "undecided")


def test_a_difference_within_the_margin_is_said_with_its_size() -> None:
    """A tenth of a large gain is a wide margin: a loss of .17 nats beside a gain of 2.4 must not read as none."""
    runs = lora_and("b-only", -0.07, 0.004, lower=True, baseline=5.0, baseline_of="pretrained model")
    runs["value"] = 5.0 - 2.4 * runs["value"]
    row = check_claims(score_variants(runs)).frame.iloc[0]
    assert row["verdict"] == "slightly worse"
    low, high = stats.t.interval(0.95, 4, loc=-0.168, scale=2.4 * 0.004 / np.sqrt(5))
    assert (row["effect"], row["effect_low"], row["effect_high"]) == pytest.approx((-0.168, low, high), abs=1e-9)
    assert row["statement"] == (
        "worse, but within the margin of 0.1: -0.070 (-0.075 to -0.065) of LoRA's gain, "
        f"-0.168 ({low:+.3g} to {high:+.3g}) in loss"
    )


def test_two_seeds_decide_nothing() -> None:
    row = check_claims(score_variants(lora_and("b-only", -0.5, 0.001, seeds=2))).frame.iloc[0]
    assert (row["verdict"], row["reason"]) == ("undecided", "fewer than 3 seeds")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"baseline_of": "constant guess"}, "no frozen run"),
        ({"baseline": 1.0}, "LoRA's gain is below four standard errors"),
    ],
)
def test_a_task_speaks_only_where_lora_itself_gained(options: dict[str, Any], reason: str) -> None:
    row = check_claims(score_variants(lora_and("b-only", -0.5, 0.001, **options))).frame.iloc[0]
    assert row["verdict"] == "undecided"
    assert reason in row["reason"]
    assert (row["tasks"], row["tasks_left_out"]) == (0, 1)


def test_the_p_values_of_primary_claims_are_adjusted_together() -> None:
    values = {("lora", "t"): [1.0] * 5, ("b-only", "t"): [0.8, 0.7, 0.9, 0.8, 0.75]}
    values |= {("b-twice", "t"): [0.9, 0.85, 0.95, 0.8, 0.9], ("a-twice", "t"): [0.7, 0.9, 0.8, 0.85, 0.75]}
    frame = check_claims(score_variants(table(values))).frame
    raw = [
        stats.ttest_1samp(np.subtract(values[first, "t"], values[second, "t"]), 0).pvalue
        for first, second in (("b-only", "lora"), ("b-twice", "lora"), ("b-twice", "a-twice"))
    ]
    # statsmodels' Holm by hand: sorted p-values times 3, 2, 1, made rising.
    order = np.argsort(raw)
    adjusted = np.maximum.accumulate(np.sort(raw) * [3, 2, 1])
    assert frame["p_difference"].to_numpy()[order] == pytest.approx(adjusted)


def test_names_of_runs_decide_nothing() -> None:
    """Claims are those of variants and ranks: a run that is called otherwise keeps them."""
    runs = lora_and("b-only", -0.5, 0.1)
    renamed = runs.assign(run=runs["run"].map({"lora": "full", "b-only": "half"}))
    before, after = (check_claims(score_variants(each)).frame for each in (runs, renamed))
    assert len(before) == 1
    pd.testing.assert_frame_equal(before, after)
    unnamed = check_claims(score_variants(runs.drop(columns="run"))).frame
    pd.testing.assert_frame_equal(before, unnamed)


def test_tasks_are_pooled_by_random_effects() -> None:
    """Equal errors: the pooled mean is the plain mean, and its error that of the tasks' means."""
    parts = [lora_and("b-only", d, 0.02).assign(task=f"t{i}") for i, d in enumerate((-0.3, -0.5, -0.1))]
    row = check_claims(score_variants(pd.concat(parts))).frame.iloc[0]
    assert row["tasks"] == 3
    expected = stats.t.interval(0.95, 2, loc=-0.3, scale=0.2 / np.sqrt(3))
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected), rel=1e-6)


def test_the_longest_runs_decide_and_the_change_is_said() -> None:
    short = lora_and("b-only", -0.6, 0.05, length="1 epochs")
    long = lora_and("b-only", -0.4, 0.05, length="10 epochs")
    row = check_claims(score_variants(pd.concat([short, long]))).frame.iloc[0]
    assert row["difference"] == pytest.approx(-0.4)
    assert row["lengths"] == 2
    assert row["change"] == pytest.approx(0.2)


def test_the_papers_own_row_is_held_beside() -> None:
    runs = lora_and("b-twice", -0.5, 0.05).assign(family="sequence to sequence")
    row = check_claims(score_variants(runs)).frame.iloc[0]
    assert "XSum, ROUGE-1 -0.87" in row["paper"]
    assert (row["verdict"], row["agrees_with_paper"]) == ("worse", "yes")
    runs = lora_and("b-twice", -0.5, 0.05).assign(family="encoder")
    assert check_claims(score_variants(runs)).frame["agrees_with_paper"].iloc[0] == "no"


def test_errors_over_rows_widen_the_interval() -> None:
    """Rows that change hands by chance: the variance is that of the paired difference over rows."""
    rng, rows = np.random.default_rng(1), 400
    outcomes = {}
    runs = table({("lora", "t"): [0.0] * 3, ("b-only", "t"): [0.0] * 3}).assign(name=[f"r{i}" for i in range(6)])
    right = rng.random((2, rows)) < [[0.8], [0.75]]
    for i in range(6):
        score = right[i // 3].astype(float)
        outcomes[f"r{i}"] = {"score": score, "tuning": np.arange(rows) % 2 == 0}
        runs.loc[i, "value"] = score[1::2].mean()
    row = score_variants(runs, outcomes=outcomes).contrast("b-only", "lora", resamples=4000).iloc[0]
    paired = right[1].astype(float)[1::2] - right[0].astype(float)[1::2]
    assert row["difference"] == pytest.approx(paired.mean())
    assert row["seed_error"] == 0
    assert row["row_error"] == pytest.approx(paired.std() / np.sqrt(rows / 2), rel=0.05)
    assert score_variants(runs).contrast("b-only", "lora")["row_error"].iloc[0] == 0


@pytest.mark.parametrize("metric", ["pearson", "matthews"])
def test_correlations_of_resampled_rows(metric: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(60)
    y = x + rng.standard_normal(60)
    if metric == "matthews":
        x, y = (x > 0).astype(float), (y > 0.3).astype(float)
    chosen = np.arange(60) < 50
    weights = row_weights(50, 3, seed=0)
    found = resampled_scores(metric, {"predicted": x, "label": y}, weights, chosen)
    for value, weight in zip(found, weights.astype(int), strict=True):
        a, b = np.repeat(x[:50], weight), np.repeat(y[:50], weight)
        expected = matthews_corrcoef(a, b) if metric == "matthews" else stats.pearsonr(a, b)[0]
        assert value == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 200))
def test_intervals_over_seeds_and_rows_cover(seed: int) -> None:
    """Seeds and rows are crossed: the interval's error is that of their variances, simulated."""
    rng = np.random.default_rng(seed)
    found = Difference(0.0, 0.3, 0.4, 4)
    draws = rng.standard_normal(4000) * 0.3 + rng.standard_normal(4000) * 0.4
    assert found.error == pytest.approx(draws.std(), rel=0.1)
    assert 3 <= found.freedom <= 1000


def test_results_come_back_from_files(tmp_path: Path) -> None:
    scores = score_variants(lora_and("b-only", -0.5, 0.1))
    for result in (scores, check_claims(scores)):
        result.to_json(tmp_path / "result.json")
        back = type(result).from_json(tmp_path / "result.json")
        pd.testing.assert_frame_equal(back.frame, result.frame)
        assert result == result
        assert result != back
    back = type(scores).from_json(_written(scores, tmp_path))
    pd.testing.assert_frame_equal(back.contrast("lora", "b-only"), scores.contrast("lora", "b-only"))


def _written(result: Any, folder: Path) -> Path:
    result.to_json(folder / "written.json")
    return folder / "written.json"


def test_claims_are_those_that_the_runs_of_every_shipped_config_speak_to() -> None:
    def spoken(*arms: tuple[str, int]) -> list[tuple[str, str, str]]:
        return [(str(claim.first), str(claim.second), claim.says) for claim in paper_claims(arms)]

    lora, b_only = ("hB_0 hA_Km", 32), ("hB_0 A_rand", 32)
    assert spoken(lora, b_only, ("hB_0 A_rand", 64), ("B_rand hA_0", 32)) == [
        ("hB_0 A_rand, rank 32", "hB_0 hA_Km, rank 32", "no worse"),
        ("hB_0 A_rand, rank 64", "hB_0 hA_Km, rank 32", "better"),
        ("hB_0 A_rand, rank 32", "B_rand hA_0, rank 32", "better"),
    ]
    assert spoken(lora, b_only, ("hB_0 A_V", 32))[1:] == [
        ("hB_0 A_rand, rank 32", "hB_0 A_V, rank 32", "no worse"),
    ]
    assert spoken(("hB_rand hA_0", 8)) == []


def test_the_papers_numbers_are_named_as_the_shipped_runs_are() -> None:
    paper = paper_results()
    assert {"lora-r8", "b-only-r8", "b-only-r16", "a-only-r8"} <= set(paper["run"])
    average = paper[(paper["task"] == "GLUE average") & (paper["table"] == 1)].set_index("run")["value"]
    assert average["b-only-r16"] > average["b-only-r8"] > average["lora-r8"] > average["a-only-r8"]


def test_the_command_compares_a_folder_and_refuses_an_empty_one(tmp_path: Path, asym) -> None:
    runs = table({("b-only", "t"): [0.5, 0.6, 0.56], ("lora", "t"): [0.8, 0.9, 0.85]}, baseline=0.1)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    done = asym("variants", tmp_path, "--json", "--out", tmp_path / "scores.csv")
    assert done.code == 0
    assert [row["run"] for row in done.records("scores")] == ["b-only", "lora"]
    assert [row["verdict"] for row in done.records("claims")] == ["worse"]
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 2
    absent = asym("variants", tmp_path / "nothing")
    assert absent.code == 1
    assert "asym finetune --runs" in " ".join(absent.err.split())


def test_kept_gains_are_ratios_of_gains_at_their_numbers_per_datum() -> None:
    values = {("lora", "t"): [0.9, 1.1, 1.0], ("b-only", "t"): [0.7, 0.91, 0.79], ("b-twice", "t"): [0.9, 1.0, 0.95]}
    runs = table(values, baseline=0.5).assign(adapter_parameters=1000, train_rows=50)
    frame = kept_gains(score_variants(runs), data_per_row=4).frame
    assert frame["rank"].tolist() == [8], "LoRA at twice the rank was not run"
    row = frame.iloc[0]
    assert row["kept"] == pytest.approx(0.3 / 0.5)
    reach = stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3) / 0.5
    assert (row["low"], row["high"]) == pytest.approx((0.6 - reach, 0.6 + reach))
    assert row["numbers_per_datum"] == pytest.approx(1000 / 200)
    twice = kept_gains(score_variants(runs), reference_rank=8).frame
    assert twice["kept"].tolist() == pytest.approx([0.6, 0.9])
    ax = kept_gains(score_variants(runs), reference_rank=8).plot()
    assert [c.lines[0].get_ydata()[0] for c in ax.containers] == pytest.approx([0.6, 0.9])
    with pytest.raises(AdapterError, match="lacks adapter_parameters"):
        kept_gains(score_variants(table(values)))


def test_a_margin_is_held_at_the_level_that_the_confidence_says() -> None:
    """A spread at which equality within the margin has a p-value between the level and twice the level."""
    reach = stats.t.ppf(1 - 0.07, 4) / np.sqrt(5)  # one-sided p = .07 at a distance of the margin
    row = check_claims(score_variants(lora_and("b-only", 0.0, 0.1 / reach))).frame.iloc[0]
    assert 0.05 < row["p_equivalence"] < 0.1
    assert row["verdict"] == "undecided"
