"""Mistakes of careful people, and broken files (docs/attacks.md): what an evaluation forgets, scales or repeats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis import certify, fit_posterior, language_model_bound, load_adapter
from asym_analysis.adapters import Adapter, TensorSource
from asym_analysis.bounds import BoundReport
from asym_analysis.bounds.evaluation import repeated_after
from asym_analysis.bounds.posterior import GaussianPosterior, divergence, gaussian_posterior
from asym_analysis.errors import AdapterError

N, D = 200, 400
X = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 2, (N,), generator=torch.Generator().manual_seed(1))
B = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
OPTIONS: dict[str, Any] = {"levels": (2, 3), "relative_noise": (0.1,), "draws": 10}


def noise(seed: int) -> torch.Tensor:
    return torch.randn(2, D, generator=torch.Generator().manual_seed(seed)) / D**0.5


def start(*modules: str) -> Adapter:
    return Adapter.from_factors({m: (noise(i), torch.zeros(2, 2)) for i, m in enumerate(modules)}, name="start")


def run(*, scaling: float = 1.0) -> Adapter:
    """Labels are noise, and nothing of them was learned: half of the answers are wrong."""
    return Adapter.from_factors({"q": (noise(7), B)}, name="run", initial=start("q"), scaling=scaling)


def memorized() -> Adapter:
    """All labels, which are noise, are known by heart."""
    A = noise(7)
    A[0] = torch.linalg.lstsq(X, 2.0 * Y[:, None] - 1).solution[:, 0]
    return Adapter.from_factors({"q": (A, B)}, name="run", initial=start("q"))


def pair() -> Adapter:
    return Adapter.from_factors({"q": (noise(7), B), "v": (noise(8), 5 * B)}, name="pair", initial=start("q", "v"))


def logits(adapter: Adapter) -> torch.Tensor:
    return X @ sum(adapter[module].delta() for module in adapter).T


def wrong(adapter: Adapter) -> np.ndarray:
    return (logits(adapter).argmax(1) != Y).numpy().astype(float)


def surprise(adapter: Adapter) -> np.ndarray:
    return torch.nn.functional.cross_entropy(logits(adapter), Y, reduction="none").numpy()


def report(evaluate: Callable[[Adapter], Any], adapter: Adapter | None = None, n: int = N, **given: Any) -> BoundReport:
    return certify(adapter or run(), evaluate, n, **{**OPTIONS, **given})


def is_diagnostic(found: BoundReport, said: str) -> bool:
    return set(found.frame["kind"]) == {"diagnostic"} and bool(found.frame["assumptions"].str.contains(said).all())


def test_honest_ones_are_certified() -> None:
    for adapter in (run(), memorized(), pair()):
        assert set(report(wrong, adapter).frame["kind"]) == {"certificate"}


# Losses that the sample itself scales, repeats or orders


@pytest.mark.parametrize(
    "scaled",
    [
        lambda loss: loss / loss.sum(),
        lambda loss: torch.softmax(torch.from_numpy(loss) / 10, 0).numpy(),
        lambda loss: loss / np.linalg.norm(loss),
        lambda loss: np.minimum(loss / np.quantile(loss, 0.95), 1.0),
        lambda loss: (loss - loss.min()) / np.ptp(loss),
        lambda loss: loss.argsort().argsort() / len(loss),
    ],
    ids=["sum", "softmax", "norm", "quantile", "range", "ranks"],
)
def test_losses_that_the_sample_scales(scaled: Callable[[np.ndarray], np.ndarray]) -> None:
    """Divided by their sum, losses have a mean of 1/n whatever the predictor does."""
    assert is_diagnostic(report(lambda adapter: scaled(surprise(adapter))), "no range fixed before the data")


def test_losses_of_a_range_fixed_beforehand_are_certified() -> None:
    found = report(lambda adapter: np.minimum(surprise(adapter) / 5, 1.0))
    assert set(found.frame["kind"]) == {"certificate"}


@pytest.mark.parametrize("times", [2, 20])
def test_the_whole_data_set_several_times(times: int) -> None:
    """A loader that repeats its data: n grows, and the samples do not."""
    found = report(lambda adapter: np.tile(wrong(adapter), times), n=times * N)
    assert is_diagnostic(found, f"losses repeat after {N} samples")


def test_an_augmented_copy_of_everything_at_the_end() -> None:
    batch = {"x": torch.cat([X, 1.0001 * X]), "labels": torch.cat([Y, Y])}
    found = certify(run(), model=Classifier(), data=[batch], **OPTIONS)
    assert is_diagnostic(found, f"losses repeat after {N} samples")


def test_independent_losses_do_not_repeat() -> None:
    generator = np.random.default_rng(0)
    for rate in (0.002, 0.05, 0.5):
        for _ in range(50):
            assert repeated_after((generator.random(4000) < rate).astype(float)) is None
    assert all(repeated_after(generator.random(999)) is None for _ in range(50))


def test_a_running_mean_in_place_of_losses() -> None:
    found = report(lambda adapter: np.cumsum(wrong(adapter)) / np.arange(1, N + 1))
    assert is_diagnostic(found, "neighbouring samples have like losses")


def test_losses_that_come_sorted() -> None:
    assert is_diagnostic(report(lambda adapter: np.sort(wrong(adapter))), "neighbouring samples have like losses")


def test_the_mean_of_all_as_the_loss_of_each_is_a_right_value() -> None:
    given, mean = report(wrong), report(lambda adapter: np.full(N, wrong(adapter).mean()))
    assert mean.best().risk == pytest.approx(given.best().risk)


def test_one_array_that_every_call_fills_anew_is_a_right_value() -> None:
    held = np.zeros(N)

    def filled(adapter: Adapter) -> np.ndarray:
        held[:] = wrong(adapter)
        return held

    assert report(filled).frame.equals(report(wrong).frame)


def test_a_loader_that_shuffles_anew_in_every_pass() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="other losses for the same adapter"):
        report(lambda adapter: wrong(adapter)[generator.permutation(N)])


# Parts of the adapter that an evaluation forgets


def test_a_module_that_is_forgotten() -> None:
    found = report(lambda adapter: ((X @ adapter["q"].delta().T).argmax(1) != Y).numpy(), pair())
    assert is_diagnostic(found, "when v is changed alone")


def test_a_scaling_that_is_forgotten() -> None:
    """B A in place of alpha/r B A is another predictor than the one that is deployed."""
    found = report(lambda adapter: ((X @ (adapter["q"].B @ adapter["q"].A).T).argmax(1) != Y).numpy(), run(scaling=4.0))
    assert is_diagnostic(found, r"the scaling \(alpha\) is changed alone")
    assert set(report(wrong, run(scaling=4.0)).frame["kind"]) == {"certificate"}


def source(tensor: torch.Tensor) -> TensorSource:
    return TensorSource(tuple(tensor.shape), "float32", tensor.clone)


def test_a_bias_that_is_forgotten() -> None:
    headed = run().replaced(
        extras={"head.weight": source(torch.eye(2)), "head.bias": source(torch.tensor([5.0, -5.0]))}
    )

    def without(adapter: Adapter) -> np.ndarray:
        return ((logits(adapter) @ adapter.extras["head.weight"].read().T).argmax(1) != Y).numpy()

    def honest(adapter: Adapter) -> np.ndarray:
        weight, bias = (adapter.extras[f"head.{name}"].read() for name in ("weight", "bias"))
        return ((logits(adapter) @ weight.T + bias).argmax(1) != Y).numpy()

    assert is_diagnostic(report(without, headed), "when head.bias is changed alone")
    assert set(report(honest, headed).frame["kind"]) == {"certificate"}


def test_a_magnitude_that_is_forgotten() -> None:
    """Of DoRA: the update B A alone is not what the magnitude makes of it."""
    state = {"q.lora_A.weight": noise(7), "q.lora_B.weight": B, "q.lora_magnitude_vector": torch.tensor([2.0, 0.5])}
    dora = load_adapter(state, config={"r": 2, "lora_alpha": 2, "use_dora": True})
    weight = noise(9)

    def honest(adapter: Adapter) -> np.ndarray:
        moved = weight + adapter["q"].delta()
        scaled = adapter["q"].magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True)
        return ((X @ scaled.T).argmax(1) != Y).numpy()

    def without(adapter: Adapter) -> np.ndarray:
        return ((X @ (weight + adapter["q"].delta()).T).argmax(1) != Y).numpy()

    assert is_diagnostic(report(without, dora), "every magnitude is changed alone")
    assert set(report(honest, dora).frame["kind"]) == {"certificate"}


def test_a_factor_that_meets_a_zero_is_not_said_to_be_forgotten() -> None:
    quiet = Adapter.from_factors({"q": (noise(7), B), "v": (torch.zeros(2, D), B)}, name="run")
    found = report(wrong, quiet, tuned="B")
    assert set(found.frame["kind"]) == {"certificate"}


# Posteriors that lack something


def rewritten(posterior: GaussianPosterior, **given: Any) -> GaussianPosterior:
    """Changed, with its KL computed anew from what is left."""
    changed = replace(posterior, **given)
    kl, price = divergence(changed)
    return replace(changed, kl=kl, price=price)


def test_a_posterior_of_nothing_around_an_adapter_that_knows_all_labels() -> None:
    """Each draw is then the adapter itself, at no nats: certified below .04 for a true risk of .5."""
    nothing = rewritten(gaussian_posterior(memorized(), "both", relative_noise=0.1), centre={})
    assert nothing.kl == 0
    with pytest.raises(ValueError, match="has no A of q, which is charged"):
        report(wrong, memorized(), tuned="both", posterior=nothing, methods=("one draw",))


def test_a_posterior_that_lacks_one_module() -> None:
    whole = gaussian_posterior(pair(), "both", relative_noise=0.1)
    kept = {key: value for key, value in whole.centre.items() if key[0] != "v"}
    with pytest.raises(ValueError, match="has no A of v, which is charged"):
        report(wrong, pair(), tuned="both", posterior=rewritten(whole, centre=kept), methods=("gaussian",))


def test_a_posterior_without_deviations_or_with_a_smaller_centre() -> None:
    whole = gaussian_posterior(run(), "both", relative_noise=0.1)
    for changed in (
        replace(whole, stds={("q", "B"): 0.1}),
        replace(whole, stds={**whole.stds, ("q", "A"): torch.ones(2)}),
        replace(whole, prior_stds={("q", "B"): 0.5}),
        replace(whole, centre={**whole.centre, ("q", "A"): whole.centre["q", "A"][:1]}),
    ):
        with pytest.raises(ValueError, match="the posterior has no"):
            report(wrong, tuned="both", posterior=changed, methods=("gaussian",))


def test_a_posterior_in_another_order_of_modules_is_a_right_value() -> None:
    whole = gaussian_posterior(pair(), "both", relative_noise=0.1)
    turned = replace(whole, centre=dict(reversed(whole.centre.items())))
    one, other = (
        report(wrong, pair(), tuned="both", posterior=p, methods=("gaussian",)).frame for p in (whole, turned)
    )
    assert one["nats"].tolist() == pytest.approx(other["nats"].tolist())
    assert set(other["kind"]) == {"certificate"}


def test_a_posterior_with_another_head_that_nobody_pays_for() -> None:
    headed = run().replaced(extras={"head.weight": source(torch.eye(2))})
    other = run().replaced(extras={"head.weight": source(-torch.eye(2))})
    posterior = gaussian_posterior(other, "both", include_head=False)
    with pytest.raises(ValueError, match=r"another head.weight, which this certificate does not charge"):
        report(wrong, headed, tuned="both", include_head=False, posterior=posterior, methods=("gaussian",))


# Groups and models


def test_group_labels_that_differ_in_spaces() -> None:
    """Twenty documents, written in ten ways: 200 groups in place of 20."""
    labels = [f"doc{i % 20}" + " " * (i // 20) for i in range(N)]
    with pytest.raises(ValueError, match="with and without spaces"):
        report(wrong, groups=labels)


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = torch.nn.Linear(D, 2, bias=False)
        torch.nn.init.zeros_(self.q.weight)

    def forward(self, x: torch.Tensor) -> Any:
        return self.made(self.q(x), x)

    def made(self, logits: torch.Tensor, x: torch.Tensor) -> Any:
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda logits, x: (logits,), "without logits"),
        (lambda logits, x: SimpleNamespace(logits=logits[:, None].repeat(1, 3, 1)), r"have shape \(samples, classes\)"),
        (lambda logits, x: SimpleNamespace(logits=logits.mean(0, keepdim=True)), r"have shape \(samples, classes\)"),
        (lambda logits, x: SimpleNamespace(logits=logits[:, :1]), "the model has 1 classes"),
    ],
    ids=["a tuple", "a token tagger", "one answer for a batch", "one logit"],
)
def test_models_that_give_something_else(made: Callable[..., Any], said: str) -> None:
    model = Classifier()
    model.made = made
    with pytest.raises(AdapterError, match=said):
        certify(run(), model=model, data=[{"x": X, "labels": Y}], **OPTIONS)


def test_dropout_that_evaluation_mode_does_not_turn_off() -> None:
    model = Classifier()
    model.made = lambda logits, x: SimpleNamespace(logits=model.q(torch.nn.functional.dropout(x, 0.5)))
    with pytest.raises(ValueError, match="put the model in evaluation mode"):
        certify(run(), model=model, data=[{"x": X, "labels": Y}], **OPTIONS)


def test_batches_that_were_used_up() -> None:
    """A generator of batches gives nothing the second time."""
    batches = ({"x": X[i : i + 50], "labels": Y[i : i + 50]} for i in range(0, N, 50))
    fit_posterior(run(), Classifier(), batches, tuned="both", epochs=1)
    with pytest.raises(AdapterError, match="data holds no sample"):
        certify(run(), model=Classifier(), data=batches, **OPTIONS)


class Drawn:
    """Samples that make their own batches, and what may be wrong with them."""

    def __init__(self, count: int = N, *, short: bool = False, turned: bool = False) -> None:
        self.labels, self.lengths, self.short, self.turned = Y, np.zeros(count, dtype=int), short, turned

    def inputs(self, samples: np.ndarray) -> dict[str, torch.Tensor]:
        order = np.flip(np.sort(samples)).copy() if self.turned else samples
        return {"x": X[torch.from_numpy(order[: len(order) - self.short])]}


def test_samples_that_make_their_own_batches() -> None:
    def certified(data: Drawn) -> BoundReport:
        return certify(run(), model=Classifier(), data=data, **OPTIONS)

    rows = certify(run(), model=Classifier(), data=[{"x": X, "labels": Y}], **OPTIONS)
    assert certified(Drawn()).frame.equals(rows.frame)
    with pytest.raises(AdapterError, match="one of each for each sample"):
        certified(Drawn(N + 1))
    with pytest.raises(AdapterError, match=r"have shape \(samples, classes\)"):
        certified(Drawn(short=True))
    with pytest.raises(ValueError, match="in another order or number"):
        certified(Drawn(turned=True))


# Language models


def test_a_language_model_that_remembers_what_it_read() -> None:
    """Every document is random: after the base model has read them, a memory would make them free for the adapter."""

    class Memory(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Linear(16, 16, bias=False)
            self.seen: set[tuple[int, ...]] = set()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
            codes = torch.nn.functional.one_hot(input_ids, 16).float()
            logits = self.table(codes)
            for row, tokens in enumerate(map(tuple, input_ids.tolist())):
                known = 8 * codes[row].roll(-1, 0) * (tokens in self.seen)
                logits = logits.index_add(0, torch.tensor([row]), known[None])
                self.seen.add(tokens)
            return SimpleNamespace(logits=logits)

    table = Adapter.from_factors({"table": (torch.ones(1, 16), torch.full((16, 1), 0.1))})
    documents = list(torch.randint(0, 16, (30, 20), generator=torch.Generator().manual_seed(3)))
    with pytest.raises(ValueError, match="remembers what it read"):
        language_model_bound(table, Memory(), documents, tuned="B", smoothing=(0.01,), levels=(2,))
