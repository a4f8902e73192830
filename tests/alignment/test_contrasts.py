"""Same against different: brute force, error rates when pairs depend on each other, and confounding by the start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.alignment.contrasts import contrast_pairs
from asym_analysis.alignment.label_deals import all_deals, groupings
from asym_analysis.alignment.pairwise import compare_subspaces


def dependent_values(
    generator: np.random.Generator, labels: np.ndarray, rows: int, effect: float, spread: float = 1.0
) -> np.ndarray:
    """Each adapter has an effect of its own on all of its pairs, as an adapter with a strong direction has."""
    first, second = np.triu_indices(len(labels), 1)
    own = generator.normal(size=(rows, len(labels))) * spread
    noise = 0.3 * generator.normal(size=(rows, len(first)))
    return own[:, first] + own[:, second] + noise + effect * (labels[first] == labels[second])


def family(tasks: str, seeds: range | list[int], *, shared: dict[int, int] | None = None) -> AdapterSet:
    """B leans to the task's directions; A is the start of its seed, moved a little."""
    made = []
    for index, (task, seed) in enumerate(zip(tasks, seeds, strict=True)):
        start = torch.randn(4, 120, generator=torch.Generator().manual_seed(seed))
        direction = torch.randn(80, 4, generator=torch.Generator().manual_seed(1000 + ord(task)))
        noise = torch.Generator().manual_seed(5000 + index)
        factors = {}
        for module, strength in (("layer.0.q", 1.0), ("layer.1.q", 0.0)):
            A = start + 0.1 * torch.randn(4, 120, generator=noise)
            factors[module] = (A, strength * direction + torch.randn(80, 4, generator=noise))
        made.append(Adapter.from_factors(factors, name=f"{task}{index}", metadata={"init_lora_weights": True}))
    return AdapterSet(made, {"task": list(tasks), "seed": list(seeds)})


def told(comparison: SubspaceComparison) -> SubspaceComparison:
    """Two modules of rank 4 cannot rule a shared start out; the wider ones of a model would."""
    return replace(comparison, initialization_marks=np.maximum(comparison.initialization_marks, 0))


def test_means_agree_with_the_table() -> None:
    comparison = compare_subspaces(family("aaabbbcc", range(8)))
    contrast = comparison.contrast("task", resamples=100)
    frame = comparison.frame
    task = dict(zip(comparison.adapters.name, comparison.adapters.task, strict=True))
    frame = frame.assign(same=frame.adapter_i.map(task).astype(str) == frame.adapter_j.map(task).astype(str))
    brute = frame.groupby(["factor", "module", "same"], observed=True).value.mean()
    for row in contrast.frame[contrast.frame.module != "all"].itertuples():
        assert row.same == pytest.approx(brute[row.factor, row.module, True], abs=1e-7)
        assert row.different == pytest.approx(brute[row.factor, row.module, False], abs=1e-7)
    for row in contrast.summary().itertuples():
        assert row.difference == pytest.approx(
            brute[row.factor, :, True].mean() - brute[row.factor, :, False].mean(), abs=1e-7
        )


def test_the_effect_is_found_where_it_is() -> None:
    contrast = compare_subspaces(family("aaaabbbbcccc", range(12))).contrast("task")
    rows = contrast.frame.set_index(["factor", "module"])
    assert rows.loc[("B", "layer.0.q"), "p_adjusted"] < 0.01
    assert rows.loc[("B", "layer.0.q"), "low"] > 0.1
    assert rows.loc[("B", "layer.1.q"), "p_adjusted"] > 0.05
    assert rows.loc[("A", "all"), "p_value"] > 0.05
    assert (rows.low <= rows.difference).all()
    assert (rows.difference <= rows.high).all()
    assert contrast.settings["by"] == "task"


def test_the_same_seed_gives_the_same_table() -> None:
    comparison = compare_subspaces(family("aaabbb", range(6)))
    first = comparison.contrast("task", resamples=200, seed=3).frame
    pd.testing.assert_frame_equal(first, comparison.contrast("task", resamples=200, seed=3).frame)
    # 10 groupings of three against three: all are listed, and the seed does not matter.
    pd.testing.assert_frame_equal(first, comparison.contrast("task", resamples=200, seed=4).frame)
    assert first.least_p.unique() == pytest.approx([0.1])
    drawn = [comparison.contrast("task", resamples=9, seed=seed) for seed in (3, 4)]
    assert [contrast.settings["exact"] for contrast in drawn] == [False, False]
    assert not drawn[0].frame.equals(drawn[1].frame)
    assert drawn[0].frame.least_p.unique() == pytest.approx([0.1])


@pytest.mark.parametrize(
    ("groups", "least"),
    [
        ((2, 2), 1 / 3),
        ((3, 3), 0.1),
        ((4, 4), 1 / 35),
        ((5, 1, 1, 1), 1 / 56),
        ((3, 3, 3), 1 / 280),
        ((2, 1), 1 / 3),
        ((2, *[1] * 8), 1 / 45),
    ],
)
def test_the_least_p_value_of_a_design_is_reached_and_stated(groups: tuple[int, ...], least: float) -> None:
    labels = np.repeat(np.arange(len(groups)), groups)
    pairs = np.triu_indices(len(labels), 1)
    values = (labels[pairs[0]] == labels[pairs[1]]) + 0.01 * np.random.default_rng(0).random(len(pairs[0]))
    row = contrast_pairs(values[None], pairs, labels).iloc[0]
    assert row.least_p == pytest.approx(least)
    assert row.p_value >= row.least_p * (1 - 1e-12)
    assert row.p_value <= 2 * least


def test_an_interval_that_rests_on_one_pair_is_refused() -> None:
    labels = np.array([0, 0, 1])
    row = contrast_pairs(np.array([[0.9, 0.1, 0.2]]), np.triu_indices(3, 1), labels).iloc[0]
    assert np.isnan([row.low, row.high]).all()
    assert row.least_p == pytest.approx(1 / 3)


def test_an_interval_of_equal_values_is_refused() -> None:
    """Six adapters whose values are the same whichever is left out: no width can be told, and zero would be a lie."""
    labels = np.repeat([0, 1], 3)
    pairs = np.triu_indices(6, 1)
    equal = np.where(labels[pairs[0]] == labels[pairs[1]], 0.8, 0.1)
    nearly = equal + 1e-4 * np.arange(15)
    table = contrast_pairs(np.stack([equal, nearly]), pairs, labels)
    assert table.low.isna().tolist() == table.high.isna().tolist() == [True, False]
    assert (table.difference.round(2) == 0.7).all()
    assert table.high[1] > table.low[1]


def test_groupings_are_counted_as_they_are_listed() -> None:
    generator = np.random.default_rng(5)
    for _ in range(30):
        labels = generator.integers(-1, 3, size=6)
        strata = generator.integers(0, 2, size=6)
        listed = all_deals(labels, strata)
        assert len(listed) == groupings(labels, strata)
        agreement = {tuple((row[:, None] == row[None]).ravel()) for row in listed}
        assert len(agreement) == len(listed)


def test_arguments_are_checked_and_infinite_values_refused(without_shape_checks: None) -> None:
    labels, pairs = np.array([0, 0, 1, 1]), np.triu_indices(4, 1)
    values = np.arange(6.0)[None]
    for bad in ({"resamples": 0}, {"confidence": 1.0}, {"correction": "holm"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            contrast_pairs(values, pairs, labels, **bad)
    values[0, 2] = np.inf
    with pytest.raises(ValueError, match="1 values are infinite"):
        contrast_pairs(values, pairs, labels)


def test_a_shared_start_is_not_an_effect_of_the_task() -> None:
    """Tasks that were run from two starts only look alike in A; within a start they do not."""
    comparison = told(compare_subspaces(family("aaaabbbb", [1, 1, 1, 2, 1, 2, 2, 2])))
    free = comparison.contrast("task").summary().set_index("factor")
    within = comparison.contrast("task", within="initialization").summary().set_index("factor")
    assert free.loc["A", "difference"] > 0
    assert within.loc["A", "p_value"] > 0.1  # of 16 ways to deal the labels, the least p-value is 1/16
    assert within.loc["B", "p_value"] < 0.1
    by_start = comparison.contrast("initialization").summary().set_index("factor")
    assert by_start.loc["A", "difference"] > 0.9
    assert by_start.loc["A", "p_value"] < 0.05


def test_the_error_rate_holds_where_pairs_depend_on_each_other() -> None:
    """No effect: 5% of p-values below .05, where a t-test that takes pairs for independent errs far more often."""
    generator = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])  # groups of one size would balance the adapters' own effects
    pairs = np.triu_indices(len(labels), 1)
    same = labels[pairs[0]] == labels[pairs[1]]
    p_values, naive = [], []
    for trial in range(400):
        values = dependent_values(generator, labels, 1, effect=0.0)
        p_values.append(contrast_pairs(values, pairs, labels, resamples=99, seed=trial).p_value[0])
        naive.append(stats.ttest_ind(values[0, same], values[0, ~same]).pvalue)
    allowed = 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    assert np.mean(np.array(p_values) <= 0.05) <= allowed
    assert np.mean(np.array(p_values) <= 0.2) >= 0.2 - 3 * (0.2 * 0.8 / 400) ** 0.5
    assert np.mean(np.array(naive) <= 0.05) > 0.15


def test_the_largest_of_many_modules_is_corrected_for() -> None:
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(3), 4)
    pairs = np.triu_indices(len(labels), 1)
    smallest = []
    for trial in range(200):
        table = contrast_pairs(dependent_values(generator, labels, 20, 0.0), pairs, labels, resamples=199, seed=trial)
        smallest.append((table.p_value.min(), table.p_adjusted.min()))
        assert (table.p_adjusted >= table.p_value).all()
    alone, adjusted = np.array(smallest).T
    assert (alone <= 0.05).mean() > 0.4
    assert (adjusted <= 0.05).mean() <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_the_interval_covers_the_difference() -> None:
    """Adapters resampled: near the stated 95%, where resampling pairs would cover far less."""
    generator = np.random.default_rng(2)
    labels = (np.arange(24) % 3 == 0).astype(int)
    pairs = np.triu_indices(len(labels), 1)
    covered = 0
    for trial in range(200):
        values = dependent_values(generator, labels, 1, effect=0.5, spread=0.5)
        row = contrast_pairs(values, pairs, labels, resamples=300, seed=trial).iloc[0]
        covered += row.low <= 0.5 <= row.high
    assert covered / 200 >= 0.90


def test_benjamini_hochberg_is_scipys() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(3), 4)
    pairs = np.triu_indices(len(labels), 1)
    values = dependent_values(generator, labels, 10, 0.5)
    values[4] = np.nan
    table = contrast_pairs(values, pairs, labels, correction="bh", resamples=199)
    known = table.drop(index=4)
    np.testing.assert_allclose(known.p_adjusted, stats.false_discovery_control(known.p_value))
    assert table.loc[4].isna().all()


def test_missing_values_and_labels_are_left_out() -> None:
    generator = np.random.default_rng(4)
    labels = np.array([0, 0, 0, 1, 1, 1, -1])
    pairs = np.triu_indices(7, 1)
    values = dependent_values(generator, labels, 2, 1.0)
    values[1, ::4] = np.nan
    table = contrast_pairs(values, pairs, labels, resamples=50)
    usable = (labels[pairs[0]] >= 0) & (labels[pairs[1]] >= 0)
    same = labels[pairs[0]] == labels[pairs[1]]
    for row in range(2):
        assert table.same[row] == pytest.approx(np.nanmean(values[row, usable & same]))
        assert table.different[row] == pytest.approx(np.nanmean(values[row, usable & ~same]))


def test_what_cannot_be_contrasted_is_said() -> None:
    comparison = compare_subspaces(family("aaabbb", range(6)))
    with pytest.raises(ValueError, match="no column 'epoch'; it has: task, seed"):
        comparison.contrast("epoch")
    with pytest.raises(ValueError, match="0 pairs agree"):
        comparison.contrast("seed")
    with pytest.raises(ValueError, match="0 differ"):
        comparison.contrast("rank")


def test_copies_of_one_adapter_are_no_runs() -> None:
    """One adapter three times gave p = .05, the least that four labels can give, and an interval of .03."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {"q": (torch.randn(4, 48, generator=generator), torch.randn(40, 4, generator=generator))}

    one = draw()
    runs = [Adapter.from_factors(one, name=f"copy {i}") for i in range(3)]
    others = [Adapter.from_factors(draw(), name=f"run {i}") for i in range(3)]
    table = {"task": ["a", "a", "a", "b", "b", "c"]}
    comparison = compare_subspaces(AdapterSet([*runs, *others], table))
    with pytest.raises(ValueError, match=r"copy 1 is a copy of copy 0.*leave copies out \(3 such pairs\)"):
        comparison.contrast("task")
    scaled = Adapter.from_factors({"q": (3 * one["q"][0], one["q"][1])}, name="scaled")
    for measure in ("overlap", "geodesic", "cosine"):
        five = AdapterSet([runs[0], scaled, *others], {"task": ["a", "a", "b", "b", "c"]})
        measured = compare_subspaces(five, measure=measure)
        with pytest.raises(ValueError, match="scaled is a copy of copy 0"):
            measured.contrast("task")
    # A frozen A is equal in all runs: B decides, and A alone is not looked at.
    frozen = [Adapter.from_factors({"q": (one["q"][0], draw()["q"][1])}, name=str(i)) for i in range(4)]
    assert len(compare_subspaces(AdapterSet(frozen, {"task": list("aabb")})).contrast("task").frame) == 4


def checkpoints(name: str, task: str, count: int, seed: int) -> list[Adapter]:
    """A run that drifts a little from one checkpoint to the next."""
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(4, 60, generator=generator), torch.randn(50, 4, generator=generator)
    made = []
    for step in range(1, count + 1):
        A, B = A + 0.1 * torch.randn(4, 60, generator=generator), B + 0.1 * torch.randn(50, 4, generator=generator)
        path = f"/runs/{name}/checkpoint-{step}/adapter_model.safetensors"
        made.append(Adapter.from_factors({"q": (A, B)}, name=f"{name}-{step}", metadata={"source": path, "task": task}))
    return made


def test_checkpoints_of_one_run_are_no_runs() -> None:
    """Two runs of five checkpoints each gave p = .008 for a task of which nothing can be said."""
    runs = [*checkpoints("one", "a", 5, 1), *checkpoints("two", "b", 5, 2)]
    table = {"task": ["a"] * 5 + ["b"] * 5, "run": ["one"] * 5 + ["two"] * 5, "at": list(range(5)) * 2}
    comparison = compare_subspaces(AdapterSet(runs, table))
    for by in ("task", "run", "at"):
        with pytest.raises(ValueError, match=r"one-1 and one-2 are checkpoints of one run, /runs/one, .*--last"):
            comparison.contrast(by)
    steps = comparison.contrast("at", within="run").summary()
    assert (steps.difference.abs() < 0.1).all()  # pairs of two runs alone, equally far along or not


def test_what_is_contrasted_within_is_not_in_the_difference() -> None:
    """Tasks that were run from two starts, unequally often: A differs by its start, and by nothing else."""
    comparison = told(compare_subspaces(family("aaaabbbb", [1, 1, 1, 2, 1, 2, 2, 2])))
    free = comparison.contrast("task").summary().set_index("factor").loc["A"]
    within = comparison.contrast("task", within="initialization").summary().set_index("factor").loc["A"]
    assert free.difference > 0.1
    assert abs(within.difference) < 0.01
    assert within.low <= 0 <= within.high
    values, (first, second) = comparison.values[:, 0].mean(0), comparison.pairs  # noqa: PD011
    task, start = np.array(list("aaaabbbb")), np.array([1, 1, 1, 2, 1, 2, 2, 2])
    same, together = task[first] == task[second], start[first] == start[second]
    sums, whole = 0.0, 0.0
    for cell in (together, ~together):
        count = (same & cell).sum() * (~same & cell).sum() / cell.sum()
        sums += count * (values[same & cell].mean() - values[~same & cell].mean())
        whole += count
    assert within.difference == pytest.approx(sums / whole, abs=1e-6)


def test_pairs_of_which_the_start_is_unknown_are_in_no_cell() -> None:
    comparison = compare_subspaces(family("aaaabbbb", [1, 1, 1, 2, 1, 2, 2, 2]))
    assert set(np.unique(comparison.initialization_marks)) == {-1, 1}
    assert comparison.contrast("initialization").summary()[["difference", "p_value"]].isna().all(axis=None)
    known = comparison.contrast("task", within="initialization").summary().iloc[0]
    groups = [comparison.same("initialization") & (comparison.same("task") == agree) for agree in (True, False)]
    assert [known.same, known.different] == pytest.approx([comparison.values[:, 0, of].mean() for of in groups])  # noqa: PD011


def test_a_task_that_goes_with_the_start_cannot_be_contrasted_within_it() -> None:
    comparison = compare_subspaces(family("aaabbb", [1, 1, 1, 2, 2, 2]))
    with pytest.raises(ValueError, match="6 pairs agree and 9 differ among 6 labelled adapters, and never where"):
        comparison.contrast("task", within="initialization")


def test_adapters_without_a_stratum_or_a_known_start_are_in_no_group() -> None:
    members = [*family("aabbab", [1, 2, 1, 2, 3, 3])]
    table = {"task": list("aabbab"), "seed": [1.0, 2.0, 1.0, 2.0, np.nan, np.nan]}
    comparison = told(compare_subspaces(AdapterSet(members, table)))
    four = told(compare_subspaces(AdapterSet(members[:4], {name: column[:4] for name, column in table.items()})))
    columns = ["same", "different", "difference", "p_value", "least_p"]
    found, expected = (one.contrast("task", within="seed").frame[columns] for one in (comparison, four))
    np.testing.assert_allclose(found, expected)
    unknown = replace(comparison, initialization_marks=comparison.initialization_marks.copy())
    first, second = unknown.pairs
    unknown.initialization_marks[:, (first >= 4) | (second >= 4)] = -1
    assert unknown.labels("initialization").tolist() == [0, 1, 0, 1, -1, -1]
    by_start = unknown.contrast("initialization").summary()
    np.testing.assert_allclose(by_start[columns[:4]], four.contrast("initialization").summary()[columns[:4]])


def test_the_interval_covers_where_two_adapters_carry_the_difference() -> None:
    """Two against twenty: 86 % of intervals with 20 degrees of freedom held the difference."""
    generator = np.random.default_rng(3)
    labels = np.repeat([0, 1], [2, 20])
    pairs = np.triu_indices(22, 1)
    values = np.concatenate([dependent_values(generator, labels, 1, 0.5) for _ in range(400)])
    table = contrast_pairs(values, pairs, labels, resamples=10)
    covered = ((table.low <= 0.5) & (table.high >= 0.5)).mean()
    assert covered >= 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5


def test_one_adapter_against_more_than_python_allows_calls() -> None:
    labels = np.array([1, *[0] * 1200])
    assert len(all_deals(labels, np.zeros(len(labels), dtype=int))) == len(labels)
