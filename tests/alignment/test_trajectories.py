"""Checkpoints of a run, against one comparison at a time; the first step, against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.alignment.first_step import first_step_overlap
from asym_analysis.alignment.grids import leading_overlaps
from asym_analysis.alignment.trajectories import checkpoint_trajectories
from asym_analysis.errors import AdapterError


def checkpoints(steps: list[int], runs: list[str]) -> AdapterSet:
    made = []
    for step, run in zip(steps, runs, strict=True):
        generator = torch.Generator().manual_seed(ord(run))
        A, B, turn = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((3, 40), (30, 3), (30, 3)))
        made.append(Adapter.from_factors({"layer.0.q": (A, B + 0.05 * step * turn)}, name=f"{run}-{step}"))
    return AdapterSet(made, {"step": steps, "run": runs})


def test_each_run_is_followed_in_the_order_of_its_steps() -> None:
    runs = checkpoints([20, 0, 5, 7, 3], ["x", "x", "x", "y", "y"])
    table = checkpoint_trajectories(runs, run="run").frame
    x = table.query("run == 'x' and factor == 'B'")
    assert x.step.tolist() == [0, 5, 20]
    factors = {adapter.name: adapter["layer.0.q"].B.numpy() for adapter in runs}
    angle = lambda a, b: subspace_angles(factors[a], factors[b])  # noqa: E731
    expected = [np.linalg.norm(angle("x-0", "x-5")), np.linalg.norm(angle("x-5", "x-20"))]
    np.testing.assert_allclose(x.turned, [np.nan, *expected])
    np.testing.assert_allclose(x.speed, [np.nan, expected[0] / 5, expected[1] / 15])
    np.testing.assert_allclose(x.to_last, [(np.cos(angle(n, "x-20")) ** 2).mean() for n in ("x-0", "x-5", "x-20")])
    np.testing.assert_allclose(x.to_first, [(np.cos(angle(n, "x-0")) ** 2).mean() for n in ("x-0", "x-5", "x-20")])
    np.testing.assert_allclose(x.null_mean, 3 / 30)
    still = table.query("factor == 'A'")
    np.testing.assert_allclose(still.speed.dropna(), 0, atol=1e-12)
    np.testing.assert_allclose(still.to_first, 1)
    assert set(table.run) == {"x", "y"}


def test_checkpoints_of_no_run_and_alone_in_theirs_are_named() -> None:
    runs = checkpoints([0, 5, 7, 3, 4], ["x", "x", "y", "z", "z"])
    table = runs.table.assign(run=["x", "x", "y", np.nan, None])
    found = checkpoint_trajectories(AdapterSet(runs, table), run="run")
    assert set(found.frame.adapter) == {"x-0", "x-5"}
    assert found.settings["left_out"] == ["y-7", "z-3", "z-4"]


def test_tables_that_hold_no_trajectory_are_refused() -> None:
    with pytest.raises(AdapterError, match="no column 'epoch'"):
        checkpoint_trajectories(checkpoints([0, 1], ["x", "x"]), step="epoch")
    with pytest.raises(AdapterError, match="two checkpoints of run x have step 4"):
        checkpoint_trajectories(checkpoints([4, 4], ["x", "x"]), run="run")
    with pytest.raises(AdapterError, match="no run has two checkpoints"):
        checkpoint_trajectories(checkpoints([4, 4], ["x", "y"]), run="run")
    runs = checkpoints([1, 2], ["x", "x"])
    with pytest.raises(AdapterError, match="has no number in column 'run'"):
        checkpoint_trajectories(runs, step="run")


def test_the_first_step_explains_similar_B() -> None:
    """d = 256, rank 8, singular values 1/i: .4625 in the published simulation (docs/theory.md, section 6.6)."""
    spectrum = torch.arange(1, 257, dtype=torch.float64) ** -1.0
    table = first_step_overlap({"q": torch.diag(spectrum)}, rank=8).frame
    assert table.predicted[0] == pytest.approx(0.4625, abs=1e-3)
    generator = torch.Generator().manual_seed(0)
    sketches = spectrum[:, None] * torch.randn(60, 256, 8, generator=generator, dtype=torch.float64)
    bases = torch.linalg.qr(sketches).Q
    overlaps = torch.einsum("ndp,mdq->nmpq", bases, bases).square().sum((2, 3))[np.triu_indices(60, 1)] / 8
    assert overlaps.mean().item() == pytest.approx(table.predicted[0], abs=0.005)


def test_a_gradient_of_lower_rank_leaves_B_no_choice() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *s: torch.randn(*s, generator=generator)  # noqa: E731
    gradient = draw(60, 3) @ draw(3, 50)  # float32: its fourth singular value is rounding
    assert first_step_overlap({"q": gradient}, rank=8).frame.predicted.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


def test_two_tasks_overlap_as_their_gradients_do() -> None:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64)  # noqa: E731
    decay = torch.arange(1, 61, dtype=torch.float64) ** -1.0
    turn = torch.linalg.qr(draw(60, 60)).Q
    first = torch.diag(decay)
    second = torch.linalg.qr(torch.eye(60, dtype=torch.float64) + 0.1 * draw(60, 60)).Q @ first @ turn
    table = first_step_overlap({"q": first}, 4, {"q": second}).frame.set_index("factor")
    sketches = [g @ torch.randn(200, 60, 4, generator=generator, dtype=torch.float64) for g in (first, second)]
    one, two = (torch.linalg.qr(s).Q for s in sketches)
    simulated = torch.einsum("ndp,mdq->nmpq", one, two).square().sum((2, 3)).mean().item() / 4
    assert table.loc["B", "predicted"] == pytest.approx(simulated, rel=0.05)
    assert table.loc["A", "predicted"] < table.loc["B", "predicted"]
    with pytest.raises(ValueError, match="no gradient of q"):
        first_step_overlap({"q": first}, 4, {})


def test_by_chance_two_tasks_overlap_as_the_larger_subspace_allows() -> None:
    """A task of rank 3 and one of rank 16 overlap by 16/48 at random, which was said to be 3/48."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64)  # noqa: E731
    first, second = draw(48, 3) @ draw(3, 64), draw(48, 64)
    for pair in ((first, second), (second, first)):
        table = first_step_overlap({"q": pair[0]}, 16, {"q": pair[1]}).frame
        assert table["rank"].tolist() == [3, 3]
        assert table.null_mean.tolist() == [16 / 48, 16 / 64]
        bases = [torch.linalg.svd(each @ draw(200, 64, 16), full_matrices=False).U for each in pair]
        bases = [basis[:, :, :3] if each is first else basis for basis, each in zip(bases, pair, strict=True)]
        simulated = (bases[0].mT @ bases[1]).square().sum((1, 2)).mean().item() / 3
        assert table.predicted[0] == pytest.approx(simulated, abs=0.01)


def test_gradients_in_half_precision_and_no_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *s: torch.randn(*s, generator=generator)  # noqa: E731
    low = draw(64, 3) @ draw(3, 96)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        table = first_step_overlap({"q": low.to(dtype)}, 8).frame
        assert table["rank"].tolist() == [3, 3]  # it was 1 in bfloat16, with an overlap of 1
        assert table.predicted.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    steep = torch.diag(torch.arange(1, 41, dtype=torch.float64) ** -4.0).float()
    table = first_step_overlap({"q": steep}, 40).frame  # of rank 21 or 40, as rounding is
    assert table[["rank", "predicted", "null_mean"]].isna().all(axis=None)
    for wrong, reason in ((0.0, "is zero"), (math.nan, "is not finite"), (math.inf, "is not finite")):
        with pytest.raises(ValueError, match=f"the gradient of q {reason}"):
            first_step_overlap({"q": torch.full((4, 6), wrong)}, 2)
        with pytest.raises(ValueError, match=f"the gradient of q {reason}"):
            first_step_overlap({"q": torch.ones(4, 6)}, 2, {"q": torch.full((4, 6), wrong)})


def test_leading_overlaps_do_not_depend_on_the_gauge() -> None:
    runs = checkpoints([0, 9], ["x", "y"])
    first, second = runs
    update = first["layer.0.q"]
    mix = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    turned = Adapter.from_factors({"layer.0.q": (mix @ update.A, update.B @ torch.linalg.inv(mix))}, name="turned")
    one, two = leading_overlaps(first, second).frame, leading_overlaps(turned, second).frame
    np.testing.assert_allclose(one.value, two.value, atol=1e-10)
    last = one.query("factor == 'left' and i == 3 and j == 3").value.item()
    angles = subspace_angles(update.B.numpy(), second["layer.0.q"].B.numpy())
    assert last == pytest.approx((np.cos(angles) ** 2).mean())
    assert (leading_overlaps(first, first).frame.query("i == j").value > 1 - 1e-9).all()
    with pytest.raises(AdapterError, match="share no module"):
        leading_overlaps(first, Adapter.from_factors({"other": (mix, mix)}))


def test_singular_values_near_rounding_make_the_first_step_unknown() -> None:
    """Three directions above 61 that a float32 tolerance cuts in two: .60 with half of them, .45 with all."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    for weak, known in ((1e-5, False), (1e-3, True), (0.0, True)):
        S = torch.cat([torch.ones(3), weak * torch.linspace(1.4, 0.1, 61)]).double()
        frame = first_step_overlap({"q": (left * S @ right).float()}, rank=8).frame
        assert frame.predicted.notna().all() == known, weak
        if weak == 0.0:
            assert frame.predicted.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
