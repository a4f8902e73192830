"""Attacks on certificates: labels are noise, the true risk is one half, and no certificate below it may be issued."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis import certify, compute_bound, load_adapter
from asym_analysis.adapters import Adapter, Coverage, TensorSource
from asym_analysis.bounds import find_duplicates
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.posterior import fitted_posterior, gaussian_posterior

N, D = 200, 400
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 2, N)
OPTIONS: dict[str, Any] = {"levels": (2, 3), "relative_noise": (0.1,), "draws": 20}


def memorized(*, scheme: str | None = None, tuned: str = "both") -> Adapter:
    """An adapter that fits noise labels: rows of A learn them, from a recorded initialization."""
    A0 = torch.randn(2, D, generator=torch.Generator().manual_seed(0)) / D**0.5
    weights = torch.from_numpy(np.linalg.lstsq(X, 2.0 * Y - 1, rcond=None)[0].astype(np.float32))
    A = torch.stack([weights, A0[1]])
    B = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    initial = Adapter.from_factors({"q": (A0, torch.zeros(2, 2))}, name="start")
    metadata = {"init_lora_weights": scheme} if scheme else None
    return Adapter.from_factors({"q": (A, B)}, name="run", initial=initial, metadata=metadata)


def losses(adapter: Adapter) -> np.ndarray:
    return (np.argmax(X @ adapter["q"].delta().numpy().T, axis=1) != Y).astype(float)


def test_the_attacked_adapter_fits_noise() -> None:
    assert losses(memorized()).mean() == 0


def certified(report: Any) -> float:
    best = report.best()
    return 1.0 if best is None else best.risk


def test_tuned_that_contradicts_the_recorded_initialization_is_refused() -> None:
    with pytest.raises(ValueError, match="tuned='B' says that A was not trained"):
        certify(memorized(), losses, N, tuned="B", **OPTIONS)
    with pytest.raises(ValueError, match="says that A was not trained"):
        compute_bound(memorized(), N, tuned="B")


@pytest.mark.parametrize("scheme", ["lora_ga", "eva", "corda"])
def test_initializations_from_data_give_no_certificate(scheme: str) -> None:
    run = memorized(scheme=scheme)
    frozen = run.replaced(initial=Adapter.from_factors({"q": (run["q"].A, torch.zeros(2, 2))}))
    for adapter in (run, frozen):
        report = certify(adapter, losses, N, **OPTIONS)
        assert set(report.frame["kind"]) == {"diagnostic"}
        assert report.frame["assumptions"].str.contains("computed from training data").all()


def test_a_posterior_made_for_other_factors_or_another_prior_is_refused() -> None:
    run = memorized()
    for posterior in (
        gaussian_posterior(run, "B"),
        fitted_posterior(run, {("q", "B"): 0.1}, "B"),
    ):
        with pytest.raises(ValueError, match="made for tuned='B'"):
            certify(run, losses, N, tuned="both", posterior=posterior, **OPTIONS)
    with pytest.raises(ValueError, match="pass the same adapter as prior="):
        certify(run, losses, N, posterior=gaussian_posterior(run, "both", prior=memorized()), **OPTIONS)
    with pytest.raises(ValueError, match="made without it"):
        certify(run, losses, N, prior=memorized(), posterior=gaussian_posterior(run, "both"), **OPTIONS)


def with_head(run: Adapter, head: torch.Tensor) -> Adapter:
    extras = {"head": TensorSource(tuple(head.shape), "float32", lambda: head)}
    return Adapter({"q": run.source("q")}, name="run", extras=extras, initial=run.initial)


def test_an_evaluation_that_ignores_the_trained_head_is_refused() -> None:
    run = with_head(memorized(), torch.eye(2))
    with pytest.raises(ValueError, match=r"must use adapter\.extras"):
        certify(run, losses, N, **OPTIONS)

    def uses_head(adapter: Adapter) -> np.ndarray:
        scores = X @ adapter["q"].delta().numpy().T @ adapter.extras["head"].read().numpy()
        return (np.argmax(scores, axis=1) != Y).astype(float)

    assert certified(certify(run, uses_head, N, **OPTIONS)) > 0.5
    some = certify(run, uses_head, N, evaluate_some=lambda a, i: uses_head(a)[i], **OPTIONS)
    assert certified(some) > 0.5
    with pytest.raises(ValueError, match="zeroed"):
        certify(run, losses, N, evaluate_some=lambda a, i: losses(a)[i], **OPTIONS)


def test_a_posterior_that_leaves_the_head_out_is_refused() -> None:
    run = with_head(memorized(), torch.eye(2))
    posterior = gaussian_posterior(run, "both", include_head=False)
    with pytest.raises(ValueError, match="leaves the trained head out"):
        certify(run, losses, N, posterior=posterior, **OPTIONS)


@pytest.mark.parametrize("name", ["base_model.model.q.lora_{}.default.weight", "q.lora_{}"])
def test_a_state_dict_of_a_whole_model_gives_no_certificate(name: str) -> None:
    run = memorized()["q"]
    prefix = "base_model.model." if "default" in name else ""
    own = f"{prefix}q.base_layer.weight" if prefix else "q.weight"
    state = {
        name.format("A"): run.A, name.format("B"): run.B, own: torch.zeros(2, D),
        f"{prefix}classifier.weight": torch.eye(2),
    }  # fmt: skip
    adapter = load_adapter(state, config={"r": 2, "lora_alpha": 2})
    assert adapter.coverage.others_unknown
    report = certify(adapter, losses, N, tuned="both", **OPTIONS)
    assert set(report.frame["kind"]) == {"diagnostic"}
    assert set(compute_bound(adapter, N).frame["kind"]) == {"diagnostic"}


def test_refused_tensors_give_no_certificate() -> None:
    run = memorized()
    adapter = Adapter({"q": run.source("q")}, name="run", coverage=Coverage(refused={"v.lora_A": "A without its B"}))
    assert set(certify(adapter, losses, N, **OPTIONS).frame["kind"]) == {"diagnostic"}


def test_copies_of_samples_count_once() -> None:
    """20 distinct samples, each 20 times: groups= makes n = 20, and texts show the copies."""
    labels = np.repeat(np.arange(20), 20)
    x, y = X[labels], Y[labels]

    def evaluate(adapter: Adapter) -> np.ndarray:
        return (np.argmax(x @ adapter["q"].delta().numpy().T, axis=1) != y).astype(float)

    run = Adapter.from_factors({"q": (memorized()["q"].A[:1], torch.tensor([[-1.0], [1.0]]))}, name="run")
    grouped = certify(run, evaluate, 400, groups=labels, **OPTIONS)
    assert certified(grouped) > 0.5
    assert grouped.settings["units"] == 20
    for samples in ([f"text number {i} of many words to tell apart" for i in labels], x):
        seen = certify(run, evaluate, 400, samples=samples, **OPTIONS)
        assert set(seen.frame["kind"]) == {"diagnostic"}
        assert seen.frame["assumptions"].str.contains("repeat another").all()


def test_copies_across_the_priors_half_are_measured() -> None:
    report = certify(memorized(), losses, N, prior=memorized(), samples=X, prior_samples=X[:50], **OPTIONS)
    assert set(report.frame["kind"]) == {"diagnostic"}
    assert report.settings["repeated_across"] == pytest.approx(0.25)


def test_near_copies_of_texts_are_found() -> None:
    words = [f"word{i}" for i in range(60)]
    near = [*words[:40], "changed", *words[41:]]
    other = [f"other{i}" for i in range(60)]
    found = find_duplicates([" ".join(words), " ".join(near), " ".join(other)])
    assert found.groups.tolist() == [0, 0, 1]
    assert found.within == pytest.approx(2 / 3)


@pytest.mark.parametrize("bits", [0, 1e-3, 0.5])
def test_bits_below_one_are_refused(bits: float) -> None:
    with pytest.raises(ValueError, match="bits is"):
        compute_bound(memorized(), N, bits=bits)


def test_bits_below_the_dtype_speak_of_another_adapter() -> None:
    report = compute_bound(memorized(), N, bits=1, rungs=("parameter count",))
    assert set(report.frame["kind"]) == {"diagnostic"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: compute_bound(a, float("nan")), "n_samples is nan"),
        (lambda a: compute_bound(a, 10.5), "n_samples is 10.5"),
        (lambda a: compute_bound(a, 10, relative_noise=-1.0), "relative_noise is -1.0"),
        (lambda a: certify(a, losses, 0), "n_samples is 0"),
        (lambda a: certify(a, losses, N, relative_noise=()), "at least one value"),
        (lambda a: certify(a, losses, N, methods=("code",)), "did you mean 'coded'"),
        (lambda a: certify(a, losses, N, tried=0), "tried is 0"),
        (lambda a: certify(a, losses, N, groups=[0, 1]), "one label for each"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_arguments_are_checked_at_the_border(call: Callable[[Adapter], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(memorized())


def test_each_factor_is_charged_in_its_own_dtype() -> None:
    """A frozen A in bfloat16 beside a trained B in float32: B costs 32 bits an entry."""
    A, B = torch.randn(2, 8).bfloat16(), torch.randn(4, 2)
    adapter = load_adapter({"q.lora_A.weight": A, "q.lora_B.weight": B}, config={"r": 2, "lora_alpha": 2})
    frame = compute_bound(adapter, 100, rungs=("parameter count",)).frame.set_index("tuned")
    assert frame.loc["B", "bits"] == 32 * 8
    assert frame.loc["A", "bits"] == 16 * 16


def test_a_zero_update_is_certified_by_default() -> None:
    zero = Adapter.from_factors({"q": (torch.ones(1, 8), torch.zeros(2, 1))})
    x = np.random.default_rng(0).standard_normal((4000, 8)).astype(np.float32)

    def evaluate(adapter: Adapter) -> np.ndarray:
        return np.clip(np.abs(x @ adapter["q"].delta().numpy().T).mean(1) / 1000, 0, 1)

    report = certify(zero, evaluate, 4000, tuned="B", draws=10)
    assert certified(report) < 0.02


def test_losses_in_bfloat16_with_gradients_are_read() -> None:
    given = torch.zeros(N, dtype=torch.bfloat16, requires_grad=True)
    assert certify(memorized(), lambda adapter: given, N, **OPTIONS).frame["empirical_risk"].min() == 0


def test_streams_of_one_seed_are_different() -> None:
    """An initialization drawn with manual_seed(s) shares no number with the draws of certify(seed=s)."""
    for seed in range(3):
        start = torch.randn(100, generator=torch.Generator().manual_seed(seed))
        for labels in (("draws", 0), ("one draw", 0), ("pilot", 0)):
            drawn = torch.randn(100, generator=generator_for(seed, *labels))
            assert not torch.isin(drawn, start).any()


def test_callbacks_get_copies() -> None:
    run = memorized()
    before = run["q"].A.clone()

    def spoil(adapter: Adapter) -> np.ndarray:
        adapter["q"].A.zero_()
        return np.zeros(N)

    certify(run, spoil, N, **OPTIONS)
    assert torch.equal(run["q"].A, before)


def test_best_never_mixes_predictors_or_statements() -> None:
    """Noise that destroys the adapter has a small gap: no certificate of the adapter itself."""
    report = compute_bound(memorized(), 1_000_000, relative_noise=1e6)
    best = report.best()
    assert best is not None
    assert best.predictor == "adapter"
    assert report.best(predictor="Gibbs posterior").predictor == "Gibbs posterior"


def test_margin_of_the_gibbs_posterior_is_small_by_default() -> None:
    x = torch.randn(5000, 8, generator=torch.Generator().manual_seed(0))
    A = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    run = Adapter.from_factors({"q": (A, torch.tensor([[-1.0], [1.0]]))}, name="run")
    right = (x @ A[0] > 0).long()

    def some(adapter: Adapter, samples: np.ndarray) -> np.ndarray:
        return ((x[samples] @ adapter["q"].delta().T).argmax(1) != right[samples]).double().numpy()

    row = certify(
        run, lambda a: some(a, np.arange(5000)), 5000, tuned="B", methods="gaussian", relative_noise=(0.3,),
        evaluate_some=some,
    ).frame.iloc[0]  # fmt: skip
    assert "more draws" not in row["note"]
    mean = float(row["note"].split("draws ")[1].split(",")[0])
    assert row["empirical_risk"] - mean <= 0.0051


def test_the_margin_is_small_where_losses_vary_in_few_samples() -> None:
    """Blocks of five samples took all 20,000 draws here, and left a margin of .006."""
    x = torch.randn(5000, 16, generator=torch.Generator().manual_seed(0))
    W = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    labels = (x @ W.T + torch.randn(5000, 4, generator=torch.Generator().manual_seed(2))).argmax(1)
    U, S, V = torch.linalg.svd(W, full_matrices=False)
    run = Adapter.from_factors({"q": (V, U * S)}, name="run")

    def some(adapter: Adapter, samples: np.ndarray) -> np.ndarray:
        return ((x[samples] @ adapter["q"].delta().T).argmax(1) != labels[samples]).double().numpy()

    row = certify(
        run, lambda a: some(a, np.arange(5000)), 5000, tuned="both", methods="gaussian", relative_noise=(0.5,),
        evaluate_some=some,
    ).frame.iloc[0]  # fmt: skip
    count, mean = row["note"].split("over ")[1].split(" draws ")
    assert int(count) < 5000
    assert row["empirical_risk"] - float(mean.split(",")[0]) <= 0.0051


def test_a_posterior_around_another_frozen_factor_is_refused() -> None:
    """A chosen by the data under tuned="B": the certificate would be for an adapter that nobody charged."""
    run = memorized()
    start = Adapter.from_factors({"q": (run["q"].A + 1.0, torch.zeros_like(run["q"].B))}, name="start")
    honest = Adapter.from_factors({"q": (start["q"].A, run["q"].B)}, name=run.name, initial=start)
    other = Adapter.from_factors({"q": (run["q"].A, run["q"].B)}, name=run.name)
    with pytest.raises(ValueError, match="frozen A of q"):
        certify(honest, losses, N, tuned="B", posterior=gaussian_posterior(other, "B"), **OPTIONS)


def test_a_posterior_whose_prior_only_shares_the_name_is_refused() -> None:
    run = memorized()
    innocent = Adapter.from_factors({"q": (run["q"].A, torch.zeros_like(run["q"].B))}, name="prior")
    near = Adapter.from_factors({"q": (run["q"].A, run["q"].B)}, name="prior")
    with pytest.raises(ValueError, match="centred elsewhere"):
        certify(
            run, losses, N, tuned="both", prior=innocent, posterior=gaussian_posterior(run, "both", prior=near),
            **OPTIONS,
        )  # fmt: skip


def test_a_posterior_centred_on_a_fabricated_initialization_is_refused() -> None:
    """The initialization of the posterior's own copy is the trained adapter itself: KL 0, were it believed."""
    run = memorized()
    copy = run.replaced(initial=Adapter.from_factors({"q": (run["q"].A, run["q"].B)}, name="start"))
    posterior = gaussian_posterior(copy, "both", relative_noise=0.01)
    with pytest.raises(ValueError, match="centred elsewhere"):
        certify(run, losses, N, tuned="both", posterior=posterior, **OPTIONS)
