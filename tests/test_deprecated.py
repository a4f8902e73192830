"""What the last release offered still works, and says what replaces it."""

from __future__ import annotations

import copy
import pickle
import warnings

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from asym_analysis import (
    Adapter,
    compare_subspaces,
    compare_theory,
    initialization_drift,
    plot_least_squares,
    plot_regimes,
    plot_sharing,
    shared_energy,
)
from asym_analysis.least_squares import isotropic, regime_map, synthetic_problem


def _theory():
    return compare_theory(synthetic_problem(isotropic(6), 4, seed=0), [1, 2], draws=4)


def _adapters() -> list[Adapter]:
    draws = [torch.Generator().manual_seed(seed) for seed in range(3)]
    return [
        Adapter.from_factors({"q": (torch.randn(2, 8, generator=g), torch.randn(6, 2, generator=g))}, name=str(i))
        for i, g in enumerate(draws)
    ]


def test_a_table_of_the_last_release_still_answers_as_one() -> None:
    found = _theory()
    with pytest.warns(DeprecationWarning, match=r"use \.frame\[\.\.\.\]"):
        assert found["rank"].equals(found.frame["rank"])
    with pytest.warns(DeprecationWarning, match=r"use \.frame\.groupby"):
        assert len(found.groupby("rank")) == 2
    with pytest.warns(DeprecationWarning, match="use len"):
        assert len(found) == len(found.frame)
    with pytest.raises(AttributeError, match="TheoryComparison has no attribute 'nothing'"):
        _ = found.nothing


def test_such_a_result_is_copied_pickled_and_printed_without_a_warning() -> None:
    found = _theory()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for other in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert other.frame.equals(found.frame)
        assert "TheoryComparison" in repr(found)
        assert found._repr_html_()


def test_plots_take_their_arguments_in_the_old_order_and_by_the_old_names() -> None:
    found, ax = _theory(), plt.figure().add_subplot()
    with pytest.warns(DeprecationWarning, match="x=... by its name"):
        assert plot_least_squares(found, "rank", ax) is ax
    with pytest.warns(DeprecationWarning, match="use result"):
        assert plot_least_squares(table=found, ax=ax) is ax
    grid = regime_map(6, 6, 2, exponents=[0.0, 1.0], alignments=[0.0, 1.0], draws=2)
    with pytest.warns(DeprecationWarning, match="use result"):
        assert plot_regimes(table=grid.frame, ax=plt.figure().add_subplot()) is plt.gca()
    energy = shared_energy(_adapters(), ranks=[1, 2], draws=2)
    with pytest.warns(DeprecationWarning, match="quantities=... by its name"):
        assert plot_sharing(energy, ["A"], ax) is ax
    plt.close("all")


def test_the_new_ways_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        ax = plt.figure().add_subplot()
        assert plot_least_squares(_theory(), ax, x="rank") is ax
        assert plot_sharing(shared_energy(_adapters(), ranks=[1], draws=2), ax) is ax
    plt.close("all")


def test_an_argument_has_one_name_at_a_time() -> None:
    adapter = _adapters()[0]
    with pytest.warns(DeprecationWarning, match="adapter of initialization_drift is deprecated .* use adapters"):
        old = initialization_drift(adapter=adapter)
    assert old.frame.equals(initialization_drift(adapter).frame)
    with pytest.raises(TypeError, match="which are one"):
        initialization_drift(adapters=adapter, adapter=adapter)


def test_an_attribute_keeps_its_old_name() -> None:
    comparison = compare_subspaces(_adapters())
    with pytest.warns(DeprecationWarning, match="use initialization_marks"):
        assert comparison.same_start is comparison.initialization_marks


def test_the_seeds_of_a_family_by_their_old_names() -> None:
    from asym_analysis import Adapter, mutual_information_of_family

    generator = torch.Generator().manual_seed(0)
    labels = [(subset, run) for subset in range(4) for run in range(3)]
    adapters = [
        Adapter.from_factors({"q": (torch.randn(1, 4, generator=generator), torch.randn(3, 1, generator=generator))})
        for _ in labels
    ]
    options = {"subset": [s for s, _ in labels], "shuffles": 20}
    runs = [r for _, r in labels]
    new = mutual_information_of_family(adapters, runs=runs, seed=3, **options).frame
    with pytest.warns(DeprecationWarning, match="use runs="), pytest.warns(DeprecationWarning, match="use seed="):
        old = mutual_information_of_family(adapters, seed=runs, random_state=3, **options).frame
    pd.testing.assert_frame_equal(old, new)
