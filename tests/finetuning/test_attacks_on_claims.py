"""Tables of runs that break what `check_claims` assumes: docs/attacks_on_analyses.md lists them with their outcomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import check_claims, score_variants
from asym_analysis.finetuning.results.statistics import Difference, pooled
from tests.finetuning.test_variant_scores import lora_and, table


def first_row(runs: pd.DataFrame, **options: Any) -> pd.Series:
    return check_claims(score_variants(runs), **options).frame.iloc[0]


@pytest.mark.parametrize(
    ("lora", "other"),
    [([1.0, 1.02, 0.98], [0.99, 1.01, 0.97]), ([1.0, 1.1, 1.2], [0.7, 0.8, 0.9]), ([1.0, 1.1, 1.2], [1.0, 1.1, 1.2])],
)
def test_seeds_that_all_differ_alike_show_no_spread(lora: list[float], other: list[float]) -> None:
    row = first_row(table({("lora", "t"): lora, ("b-only", "t"): other}))
    assert (row["verdict"], row["tasks"], row["tasks_left_out"]) == ("undecided", 0, 1)
    assert "their spread is unknown" in row["reason"]


def test_a_seed_that_was_copied_counts_once() -> None:
    runs = table({("lora", "t"): [1.0, 1.01, 1.02], ("b-only", "t"): [0.98, 0.93, 1.03]})
    copied = pd.concat([runs, *(runs[runs.seed == 0].assign(seed=10 + i) for i in range(7))])
    plain, again = first_row(runs), first_row(copied)
    assert again["seeds"] == 3
    assert (again["p_difference"], again["low"]) == pytest.approx((plain["p_difference"], plain["low"]))
    assert first_row(runs[runs.seed < 2].pipe(lambda t: pd.concat([t, t.assign(seed=t.seed + 5)])))["reason"] == (
        "fewer than 3 seeds"
    )


def test_equal_scores_on_every_seed_are_one_seed() -> None:
    row = first_row(table({("lora", "t"): [1.0] * 5, ("b-only", "t"): [0.8] * 5}))
    assert row["verdict"] == "undecided"
    assert "fewer than 3 seeds" in row["reason"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_run_that_diverged_is_not_left_out_in_silence(value: float) -> None:
    runs = lora_and("b-only", -0.5, 0.1)
    runs.loc[runs.index[7], "value"] = value
    row = first_row(runs)
    assert (row["verdict"], row["reason"]) == ("undecided", "a run of the two has no finite score")
    assert np.isfinite(row["difference"])


def test_the_order_of_the_rows_says_nothing_and_that_of_the_seeds_pairs_them() -> None:
    runs = table({("lora", "t"): [1.0, 1.1, 1.2, 0.9], ("b-only", "t"): [0.9, 1.01, 1.1, 0.8]})
    pd.testing.assert_series_equal(first_row(runs), first_row(runs.sample(frac=1, random_state=0)), check_names=False)
    relabelled = runs.copy()
    relabelled.loc[relabelled.index[4:], "seed"] = [3, 2, 1, 0]
    assert first_row(relabelled)["verdict"] == "undecided"  # a broken pairing costs power, and gives no false verdict


def test_only_seeds_of_both_count() -> None:
    row = first_row(table({("lora", "t"): [1.0, 1.05, 0.97, *[0.9, 1.1] * 4], ("b-only", "t"): [0.9, 0.85, 0.95]}))
    assert row["seeds"] == 3
    assert row["effect"] == pytest.approx(np.mean([-0.1, -0.2, -0.02]))


@pytest.mark.parametrize("column", ["metric", "lower_is_better"])
def test_one_task_in_two_metrics_or_directions_is_refused(column: str) -> None:
    runs = lora_and("b-only", -0.5, 0.05).astype({column: object})
    runs.loc[runs.index[-3:], column] = {"metric": "f1", "lower_is_better": True}[column]
    with pytest.raises(AdapterError, match="t0 is scored in two metrics or directions"):
        score_variants(runs)


def test_tasks_of_both_directions_are_turned_alike() -> None:
    loss = lora_and("b-only", -0.5, 0.05).assign(task="u", metric="loss", lower_is_better=True)
    loss["value"] *= -1
    row = first_row(pd.concat([lora_and("b-only", -0.5, 0.05), loss]))
    assert (row["verdict"], row["tasks_worse"]) == ("worse", 2)


def test_opposite_effects_are_undecided_and_the_tasks_are_counted() -> None:
    def over(differences: list[float]) -> pd.Series:
        return first_row(
            pd.concat(
                [
                    lora_and("b-only", d, 0.02 + 1e-3 * i).assign(task=f"t{i}")  # not copies of each other
                    for i, d in enumerate(differences)
                ]
            )
        )

    assert over([0.5, -0.5])["verdict"] == "undecided"
    assert over([-0.3] * 8 + [2.0])["verdict"] == "undecided"
    most = over([-0.3] * 8 + [0.3])
    assert (most["verdict"], most["tasks_better"], most["tasks_worse"]) == ("worse", 1, 8)
    assert "mean of 9 tasks, 1 better and 8 worse" in most["statement"]


@pytest.mark.parametrize("law", ["t with 2 degrees", "Cauchy", "ties"])
def test_heavy_tails_and_ties_give_no_more_false_verdicts(law: str) -> None:
    rng = np.random.default_rng(0)
    draw = {
        "t with 2 degrees": lambda: 0.1 * rng.standard_t(2, 5),
        "Cauchy": lambda: 0.05 * rng.standard_cauchy(5),
        "ties": lambda: np.round(0.1 * rng.standard_normal(5), 1),
    }[law]
    false = 0
    for _ in range(30):
        runs = table({("lora", "t"): list(1 + draw()), ("b-only", "t"): list(1 + draw())})
        false += first_row(runs)["verdict"] not in ("undecided", "equivalent")
    assert false <= 6  # 5 % of 30 are 1.5; more than 6 have a probability of .001


@pytest.mark.parametrize("direction", [np.nan, None, "", "maybe"])
def test_a_metric_of_unknown_direction_is_refused(direction: object) -> None:
    """NaN is true in Python: a higher accuracy was read as worse."""
    runs = lora_and("b-only", 0.3, 0.01).astype({"lower_is_better": object})
    runs["lower_is_better"] = direction
    with pytest.raises(AdapterError, match="nothing says whether lower accuracy is better on t0: give lower_is_better"):
        score_variants(runs)
    with pytest.raises(AdapterError, match="nothing says whether lower accuracy"):
        score_variants(runs.drop(columns="lower_is_better"))
    assert check_claims(score_variants(runs, lower_is_better=False)).frame["verdict"][0] == "better"


def test_a_direction_that_a_file_holds_as_text_is_read() -> None:
    runs = lora_and("b-only", 0.3, 0.01)
    assert first_row(runs.astype({"lower_is_better": str}))["verdict"] == first_row(runs)["verdict"] == "better"


def test_a_column_has_the_direction_of_its_name_and_not_of_the_tasks_metric() -> None:
    """The loss of a task that is scored by accuracy: less of it was read as worse."""
    runs = table({("lora", "t"): [0.5, 0.6], ("b-only", "t"): [0.6, 0.7]})
    runs = runs.assign(eval_loss=[3.0, 3.1, 2.0, 2.2], train_accuracy=[0.1, 0.2, 0.4, 0.4], size=[1.0, 2.0, 3.0, 4.0])
    for column, difference in (("eval_loss", 0.95), ("train_accuracy", 0.25)):
        found = score_variants(runs, metric=column).contrast("b-only", "lora")["difference"][0]
        assert found == pytest.approx(difference)
    with pytest.raises(AdapterError, match="nothing says whether lower size is better"):
        score_variants(runs, metric="size")


def test_a_task_that_was_copied_counts_once() -> None:
    runs = table({("lora", "t"): [1.0, 1.01, 1.02], ("b-only", "t"): [0.98, 0.93, 1.03]})
    copied = pd.concat([runs, *(runs.assign(task=f"copy {i}") for i in range(7))])
    plain, again = first_row(runs), first_row(copied)
    assert again["tasks"] == 1
    assert again["p_difference"] == pytest.approx(plain["p_difference"])


def test_choices_of_modules_are_no_tasks() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for modules in ("q", "q,v", "k", "all-linear", "o"):
        noise = 0.05 * rng.standard_normal(6)
        part = table({("lora", "t"): list(1 + noise[:3]), ("b-only", "t"): list(0.93 + noise[3:])})
        parts.append(part.assign(target_modules=modules))
    row = first_row(pd.concat(parts))
    assert (row["tasks"], row["tasks_worse"], row["tasks_left_out"]) == (1, 1, 0)
    single = [first_row(part) for part in parts]
    width = [one["high"] - one["low"] for one in single]
    assert min(width) < row["high"] - row["low"] < max(width)
    assert row["difference"] == pytest.approx(np.mean([one["difference"] for one in single]))


def test_tasks_without_one_of_the_two_are_counted_and_said() -> None:
    whole = {("lora", "t"): [1.0, 1.01, 0.99], ("b-only", "t"): [0.7, 0.69, 0.72]}
    runs = table(whole | {("lora", f"other {i}"): [1.0, 1.1, 0.9] for i in range(4)})
    row = first_row(runs)
    assert (row["tasks"], row["tasks_left_out"]) == (1, 4)
    assert row["statement"].startswith("worse")
    assert row["statement"].endswith("4 tasks left out")


def test_an_interval_without_zero_that_is_one_of_many_says_so() -> None:
    families = [
        lora_and("b-only", -0.1 if i == 0 else 0.01, 0.05, seeds=4).assign(family=f"f{i}", task=f"t{i}")
        for i in range(6)
    ]
    frame = check_claims(score_variants(pd.concat(families))).frame
    first = frame.iloc[0]
    assert first["high"] < 0
    assert first["verdict"] == "undecided"
    assert first["reason"] == "the interval leaves out zero, but not for one of 6 verdicts"
    assert first["statement"].endswith(first["reason"])


@pytest.mark.parametrize("tasks", [3, 5])
def test_noise_that_differs_between_tasks_gives_no_more_false_verdicts(tasks: int) -> None:
    """Weights from three seeds are noise themselves: 9.5 % of differences of five equal tasks were found."""
    rng, found = np.random.default_rng(tasks), []
    for _ in range(600):
        spread = np.exp(rng.standard_normal(tasks))
        values = 0.5 * rng.standard_normal(tasks)[:, None] + spread[:, None] * rng.standard_normal((tasks, 3))
        each = [Difference(v.mean(), v.std(ddof=1) / 3**0.5, 0.0, 3) for v in values]
        found.append(pooled(each).p_value < 0.05)
    assert np.mean(found) <= 0.05
