"""Every analysis gives a result that comes back whole, and every argument is checked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt

import asym_analysis.least_squares as ls
from asym_analysis.results import Result, read_result

PROBLEM = ls.synthetic_problem(ls.power_law(10, 1.0), 8, noise_variance=0.1)
A = torch.eye(10, dtype=torch.float64)[:2]
ANALYSES: dict[str, Callable[[], Result]] = {
    "simulate": lambda: ls.simulate(PROBLEM, 2, "B", 20),
    "compare_theory": lambda: ls.compare_theory(PROBLEM, [1, 2], draws=20),
    "sweep": lambda: ls.sweep("noise_variance", {0.1: PROBLEM}, 2, draws=20),
    "compare_finite_samples": lambda: ls.compare_finite_samples(PROBLEM, 2, [20, 40], draws=20),
    "validate": lambda: ls.validate(draws=20),
    "regime_map": lambda: ls.regime_map(8, 8, 2, exponents=[0.5, 1.0], alignments=[-1.0, 1.0], draws=10),
    "compare_strategies": lambda: ls.compare_strategies(PROBLEM, [1, 2]),
    "information_against_gap": lambda: ls.information_against_gap(
        PROBLEM, 2, [20, 40], noise_scale=0.1, clip=2.0, draws=5
    ),
    "train_beyond_linear": lambda: ls.train_beyond_linear(PROBLEM, 2, "softmax", samples=32, draws=2, steps=3),
    "descent_path": lambda: ls.descent_path(PROBLEM, learning_rate=0.1, steps=3, A=A),
    "initialization_scales": lambda: ls.initialization_scales(8, 2),
}
UNDRAWN = {"simulate", "initialization_scales"}


@pytest.mark.parametrize("name", ANALYSES)
def test_results_come_back_and_draw(name: str, tmp_path: Path) -> None:
    result = ANALYSES[name]()
    for suffix in ("json", "parquet"):
        path = tmp_path / f"result.{suffix}"
        getattr(result, f"to_{suffix}")(path)
        found = read_result(path)
        assert type(found) is type(result)
        assert found.settings == result.settings
        pd.testing.assert_frame_equal(found.frame, result.frame)
    assert "versions" in result.settings
    assert not result.summary().empty
    assert type(result).__name__ in result._repr_html_()
    if name in UNDRAWN:
        with pytest.raises(NotImplementedError):
            result.plot()
        return
    _, ax = plt.subplots()
    assert result.plot(ax) is ax
    plt.close("all")


WRONG: list[tuple[str, Callable[[], Any]]] = [
    ("tuned is 'b'", lambda: ls.simulate(PROBLEM, 2, "b")),
    ("rank .* is 2.5", lambda: ls.simulate(PROBLEM, 2.5, "B")),
    ("draws is True", lambda: ls.simulate(PROBLEM, 2, "B", True)),
    ("seed is -1", lambda: ls.simulate(PROBLEM, 2, "B", seed=-1)),
    ("did you mean 'both'", lambda: ls.compare_theory(PROBLEM, 2, tuned="bth")),
    ("tuned is empty", lambda: ls.compare_theory(PROBLEM, 2, tuned=[])),
    ("ranks is empty", lambda: ls.compare_theory(PROBLEM, [])),
    ("ranks is 0", lambda: ls.compare_theory(PROBLEM, [0])),
    ("draws is 1", lambda: ls.compare_theory(PROBLEM, 2, draws=1)),
    ("problems is empty", lambda: ls.sweep("d_in", {}, 2)),
    ("samples is -3", lambda: ls.compare_finite_samples(PROBLEM, 2, -3)),
    ("exponents is nan", lambda: ls.regime_map(8, 8, 2, exponents=[float("nan")], alignments=[0.0])),
    ("map is empty", lambda: ls.regime_map(8, 8, 2, exponents=[], alignments=[0.0])),
    ("noise_scale is 0", lambda: ls.information_against_gap(PROBLEM, 2, 20, noise_scale=0, clip=1.0)),
    ("clip is -1", lambda: ls.information_against_gap(PROBLEM, 2, 20, noise_scale=0.1, clip=-1)),
    ("tuned is 'both'", lambda: ls.noisy_fit_information(PROBLEM, torch.ones(20, 10), A, "both", 0.1)),
    ("tuned is 'both'", lambda: ls.trained_similarity(PROBLEM, 2, "both")),
    ("output is 'logstic'", lambda: ls.train_beyond_linear(PROBLEM, 2, "logstic")),
    ("strength is 0", lambda: ls.train_beyond_linear(PROBLEM, 2, "softmax", strength=0)),
    ("learning_rate is inf", lambda: ls.descent_path(PROBLEM, learning_rate=float("inf"), steps=1, A=A)),
    ("noise_variance is -1", lambda: ls.LeastSquaresProblem(torch.eye(2), torch.ones(2), -1.0)),
    ("noise_variance is nan", lambda: ls.LeastSquaresProblem(torch.eye(2), torch.ones(2), float("nan"))),
    ("exponent is inf", lambda: ls.power_law(3, float("inf"))),
    ("rank is 4", lambda: ls.low_rank(3, 4)),
    ("spikes is 4", lambda: ls.spiked(3, 4, 10.0)),
    ("alignment is nan", lambda: ls.synthetic_problem(ls.power_law(3, 1.0), 3, alignment=float("nan"))),
    ("delta_rank is 0", lambda: ls.synthetic_problem(ls.power_law(3, 1.0), 3, delta_rank=0)),
    ("one of them positive", lambda: ls.synthetic_problem(ls.power_law(3, 1.0) * 0, 3)),
]


@pytest.mark.parametrize(("message", "call"), WRONG, ids=[message for message, _ in WRONG])
@pytest.mark.usefixtures("without_shape_checks")
def test_wrong_arguments_are_refused_in_a_sentence(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_face_is_lazy_and_moved_names_still_work() -> None:
    code = (
        "import sys, warnings, asym_analysis.least_squares as ls; "
        "print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules], 'simulate' in dir(ls)); "
        "warnings.simplefilter('error'); [getattr(ls, name) for name in ls.__all__]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
    with pytest.warns(DeprecationWarning, match=r"moved to asym_analysis\.chance"):
        assert ls.random_retention.__module__ == "asym_analysis.chance.retention"
    with pytest.raises(AttributeError):
        _ = ls.nothing
