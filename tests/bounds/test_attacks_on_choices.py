"""Attacks through posteriors, priors, records and choices (docs/attacks.md), with the outcome of each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis import certify, compute_bound, load_adapter
from asym_analysis.adapters import Adapter
from asym_analysis.bounds import risk
from asym_analysis.bounds.admissibility import doubts
from asym_analysis.bounds.identity import fingerprint
from asym_analysis.bounds.posterior import divergence, fitted_posterior, gaussian_posterior
from asym_analysis.bounds.posterior_check import check_posterior
from asym_analysis.bounds.trained import tuned_of

N, D = 200, 10
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 2, N)
OPTIONS: dict[str, Any] = {"levels": (3,), "relative_noise": (0.3,), "draws": 5}


def losses(adapter: Adapter) -> np.ndarray:
    return (np.argmax(X @ adapter["q"].delta().numpy().T, axis=1) != Y).astype(float)


def run(*, seed: int = 0, initial: Adapter | None = None, metadata: dict[str, Any] | None = None) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(2, D, generator=generator), torch.randn(2, 2, generator=generator)
    start = Adapter.from_factors({"q": (A, torch.zeros(2, 2))}, name="start") if initial is None else initial
    return Adapter.from_factors({"q": (A, B)}, name="run", initial=start, metadata=metadata)


KEY = ("q", "B")


def test_a_posterior_narrowed_after_it_was_made() -> None:
    made = gaussian_posterior(run(), "B", relative_noise=1.0)
    narrowed = replace(made, stds={KEY: 1e-4})
    with pytest.raises(ValueError, match="changed after it was made"):
        certify(run(), losses, N, posterior=narrowed, **OPTIONS)
    # The same narrow posterior, made as such, is honest: its KL is charged.
    honest = fitted_posterior(run(), {KEY: 1e-4}, "B")
    assert honest.kl > made.kl + 20


@pytest.mark.parametrize("changed", [{"kl": 0.0}, {"price": -50.0}, {"kl": math.nan}, {"prior_stds": {KEY: 2.0**-6}}])
def test_a_posterior_whose_numbers_were_rewritten(changed: dict[str, Any]) -> None:
    made = gaussian_posterior(run(), "B", relative_noise=1.0)
    with pytest.raises(ValueError, match="changed after it was made"):
        certify(run(), losses, N, posterior=replace(made, **changed), **OPTIONS)


def test_prior_scales_between_grid_points() -> None:
    made = gaussian_posterior(run(), "B", relative_noise=1.0)
    with pytest.raises(ValueError, match="only scales of the grid have a price"):
        certify(run(), losses, N, posterior=replace(made, prior_stds={KEY: 1.234}), **OPTIONS)


def test_a_posterior_of_another_alpha() -> None:
    made = gaussian_posterior(run(), "B")
    louder = Adapter.from_factors({"q": (run()["q"].A, run()["q"].B)}, name="run", initial=run().initial, scaling=2.0)
    with pytest.raises(ValueError, match="another scaling"):
        certify(louder, losses, N, posterior=made, **OPTIONS)


@pytest.mark.parametrize("scales", ["group", "tensor"])
def test_the_divergence_that_is_checked_is_the_one_that_is_charged(scales: str) -> None:
    two = Adapter.from_factors({m: (torch.randn(2, 5), torch.randn(4, 2)) for m in ("a", "b")})
    for tuned in ("B", "both"):
        stds = {key: 0.1 + torch.rand(value.shape) for key, value in gaussian_posterior(two, tuned).centre.items()}
        made = fitted_posterior(two, stds, tuned, scales=scales)
        kl, price = divergence(made)
        assert kl <= made.kl + 1e-9
        if scales == "group":
            assert (kl, price) == pytest.approx((made.kl, made.price))
        check_posterior(made, two, tuned, head=False, prior=None)


def test_a_posterior_made_on_other_samples_is_a_right_value() -> None:
    """A posterior may come from anywhere; only the prior may not have seen the samples."""
    other = run(seed=9)
    elsewhere = fitted_posterior(run().replaced(modules={"q": other.source("q")}), {KEY: 0.5}, "B")
    with pytest.raises(ValueError, match="frozen A"):
        certify(run(), losses, N, posterior=elsewhere, **OPTIONS)
    same_start = run().replaced(modules={"q": Adapter.from_factors({"q": (run()["q"].A, other["q"].B)}).source("q")})
    honest = fitted_posterior(same_start, {KEY: 0.5}, "B")
    report = certify(run(), losses, N, posterior=honest, methods=("gaussian",), draws=5)
    row = report.best()
    assert row is not None
    assert row.nats == pytest.approx(honest.kl)
    assert row.risk == pytest.approx(risk.kl_inverse_risk(row.empirical_risk, honest.kl, N, 1 - 0.9 * 0.05))


def test_infinite_divergence_is_a_risk_of_one() -> None:
    tight = fitted_posterior(run(), {KEY: 1e-200}, "B")
    assert math.isinf(tight.kl)
    frame = certify(run(), losses, N, posterior=tight, methods=("gaussian", "one draw"), draws=3).frame.set_index(
        "rung"
    )
    assert (frame.loc["gaussian", "risk"] == 1.0).all()
    assert frame.loc["gaussian", "vacuous"].all()
    assert (frame.loc["one draw", "risk"] > 0.99).all()  # at the draw: four times ln(s/1e-200)


def test_the_checkpoint_as_its_own_prior() -> None:
    report = certify(run(), losses, N, prior=run(), **OPTIONS)
    assert set(report.frame["kind"]) == {"diagnostic"}
    assert report.frame["assumptions"].str.contains("the prior is the checkpoint itself").all()
    apart = certify(run(), losses, N, prior=run(), samples=X, prior_samples=X + 10, **OPTIONS)
    assert set(apart.frame["kind"]) == {"certificate"}  # that the prior's samples were others was measured


def test_a_prior_merged_with_the_run_is_named_in_every_row() -> None:
    """That a parent of the prior saw the samples cannot be seen in its values: the row says what it rests on."""
    half = Adapter.from_factors({"q": (run()["q"].A, run()["q"].B / 2)}, name="merged")
    report = certify(run(), losses, N, prior=half, **OPTIONS)
    assert report.frame["assumptions"].str.contains("prior merged trained on none of the 200 samples").all()
    assert report.settings["prior"] == "merged"


def test_an_initialization_recorded_after_training_began() -> None:
    trained = run()
    late = Adapter.from_factors({"q": (trained["q"].A, 0.99 * trained["q"].B)}, name="start")
    for initial in (late, trained.without_initial()):
        found = doubts(run(initial=initial), "B")
        assert len(found) == 1
        assert "recorded after training had moved it" in found[0]
        assert set(compute_bound(run(initial=initial), N).frame["kind"]) == {"diagnostic"}
    assert doubts(trained, "B") == ()
    assert doubts(run(initial=late, metadata={"init_lora_weights": False}), "B") == ()
    assert doubts(run(initial=late, metadata={"init_lora_weights": "pissa", "base_changed": "PiSSA"}), "B") == ()


def test_a_config_that_forgets_a_trained_factor() -> None:
    """The config says that B alone was trained, and the recorded initialization shows that A moved."""
    trained = run()
    source = replace(trained.source("q"), trained=frozenset({"B"}))
    moved = Adapter.from_factors({"q": (trained["q"].A + 1, torch.zeros(2, 2))}, name="start")
    honest = Adapter({"q": source}, name="run", initial=trained.initial)
    assert tuned_of(honest).tuned == "B"
    lying = Adapter({"q": source}, name="run", initial=moved)
    assert tuned_of(lying)[::2] == ("both", True)
    with pytest.raises(ValueError, match="A left its recorded initialization"):
        certify(lying, losses, N, tuned="B", **OPTIONS)


def test_a_frozen_factor_that_was_only_rounded_is_not_trained() -> None:
    A, B = torch.randn(2, 8), torch.randn(4, 2).bfloat16()
    start = Adapter.from_factors({"q": (A, torch.zeros(4, 2))})
    pair = {"q.lora_A.weight": A.bfloat16(), "q.lora_B.weight": B}
    stored = load_adapter(pair, config={"r": 2, "lora_alpha": 2}).replaced(initial=start)
    assert tuned_of(stored).tuned == "B"
    precise = load_adapter({**pair, "q.lora_A.weight": A.bfloat16().float()}, config={"r": 2, "lora_alpha": 2})
    assert tuned_of(precise.replaced(initial=start)).tuned == "both"


def test_an_adapter_cast_to_eight_bits_after_training() -> None:
    """Rounding is a function of what was trained: the cast adapter has at most eight bits an entry."""
    A, B = torch.randn(2, 16), torch.randn(8, 2)
    frames = [
        compute_bound(
            load_adapter({"q.lora_A.weight": A.to(d), "q.lora_B.weight": B.to(d)}, config={"r": 2, "lora_alpha": 2}),
            1000, rungs=("parameter count",),
        ).frame.set_index("tuned")
        for d in (torch.float32, torch.float8_e4m3fn)
    ]  # fmt: skip
    assert [frame.loc["both", "bits"] for frame in frames] == [32 * 48, 8 * 48]
    assert {frame.loc["both", "kind"] for frame in frames} == {"certificate"}


def test_a_certificate_names_the_values_it_was_made_for() -> None:
    """Another alpha, or one changed entry, is another adapter."""
    own = run()
    report = certify(own, losses, N, **OPTIONS)
    louder = Adapter.from_factors({"q": (own["q"].A, own["q"].B)}, initial=own.initial, scaling=2.0)
    nudged = Adapter.from_factors({"q": (own["q"].A, own["q"].B + 1e-6)}, initial=own.initial)
    assert report.settings["fingerprint"] == fingerprint(own.copy())
    assert len({fingerprint(one) for one in (own, louder, nudged)}) == 3


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1.5, math.nan, math.inf, 1 - 1e-17])
def test_delta_of_zero_or_one(confidence: float) -> None:
    for call in (certify, lambda a, e, n, **k: compute_bound(a, n, **k)):
        with pytest.raises(ValueError, match="confidence is"):
            call(run(), losses, N, confidence=confidence)


@pytest.mark.parametrize(
    "given",
    [
        {"levels": (1,)}, {"levels": (2.5,)}, {"methods": ()}, {"tried": 1.5}, {"draws": 0}, {"relative_noise": (0.0,)},
        {"relative_noise": (math.nan,)}, {"methods": "code"}, {"n_samples": N},
    ],
)  # fmt: skip
@pytest.mark.usefixtures("without_shape_checks")
def test_arguments_outside_their_range(given: dict[str, Any]) -> None:
    if "n_samples" in given:
        given |= {"model": torch.nn.Linear(1, 1), "data": []}
        with pytest.raises(ValueError, match="not parts of both"):
            certify(run(), **given)
        return
    with pytest.raises(ValueError, match=next(iter(given))):
        certify(run(), losses, N, **given)


def test_one_method_by_its_name() -> None:
    assert set(certify(run(), losses, N, methods="coded", levels=(3,)).frame["rung"]) == {"coded"}


def coin_risks(priors: int, n: int, *, tried: int, repeats: int) -> float:
    """Share of repeats in which the lowest hold-out row of many useless priors lies below the true risk of one half."""
    generator = np.random.default_rng(0)
    start = Adapter.from_factors({"q": (torch.ones(1, 2), torch.zeros(1, 1))})
    own = Adapter.from_factors({"q": (torch.ones(1, 2), torch.ones(1, 1))}, initial=start)
    assert certify(own, lambda a: np.full(n, 0.3), n, prior=start, tried=tried, **OPTIONS).settings["tried"] == tried
    low = 0
    for _ in range(repeats):
        best = generator.binomial(n, 0.5, priors).min() / n
        low += risk.chernoff_risk(best, math.log(tried), n, 1 - 0.05 / 4) < 0.5
    return low / repeats


def test_tried_that_was_forgotten_is_what_breaks_a_certificate() -> None:
    """Five thousand priors, the best reported: uncharged it is false nearly always, charged almost never."""
    assert coin_risks(5000, 60, tried=1, repeats=200) > 0.9
    assert coin_risks(5000, 60, tried=5000, repeats=200) <= 0.05
    frame = certify(run(), losses, N, **OPTIONS).frame
    assert frame["assumptions"].str.contains("nothing else tried on these samples").all()
    assert certify(run(), losses, N, tried=7, **OPTIONS).frame["assumptions"].str.contains("7 tried on them").all()


def test_the_best_of_many_seeds_is_charged_in_the_sampling_too() -> None:
    """With `tried`, each call's sampled mean holds with a share of the confidence: a call with fewer draws than that
    share needs certifies nothing."""
    options: dict[str, Any] = {"methods": ("gaussian",), "relative_noise": (0.3,), "draws": 40}
    one, many = (certify(run(), losses, N, tried=tried, **options).best() for tried in (1, 1000))
    assert one is not None
    assert many is not None
    assert many.nats == pytest.approx(one.nats + math.log(1000))
    values = 40
    floor = [math.log(tried / (0.1 * 0.05)) / values for tried in (1, 1000)]
    assert many.empirical_risk - one.empirical_risk > 0.1 * (floor[1] - floor[0])


def test_methods_of_one_call_share_delta() -> None:
    """Three calls with one method each hold with 1 - 3 delta together; one call with three holds with 1 - delta."""
    together = certify(run(), losses, N, **OPTIONS).frame
    alone = certify(run(), losses, N, **{**OPTIONS, "methods": ("coded",)}).frame
    rows = [f[(f["rung"] == "coded") & (f["form"] == "kl-inverse")]["risk"].min() for f in (together, alone)]
    own = together[(together["rung"] == "coded") & (together["form"] == "kl-inverse")].iloc[0]
    assert rows[0] >= rows[1]
    assert own["risk"] == pytest.approx(
        min(1.0, risk.kl_inverse_risk(own["empirical_risk"], own["nats"], N, 1 - 0.05 / 3))
    )
