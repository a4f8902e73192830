"""Attacks through the evaluation and the samples (docs/attacks.md), with the outcome of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis import certify, language_model_bound
from asym_analysis.adapters import Adapter, TensorSource
from asym_analysis.bounds import find_duplicates
from asym_analysis.bounds.evaluation import neighbours_alike
from asym_analysis.bounds.losses import checked_losses
from asym_analysis.errors import AdapterError

N, D = 300, 12
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, D, generator=GENERATOR)
W = torch.randn(3, D, generator=GENERATOR)
Y = (X @ W.T).argmax(1)
OPTIONS: dict[str, Any] = {"levels": (3,), "relative_noise": (0.3,), "draws": 5}


def trained() -> Adapter:
    start = torch.eye(3, D)
    U, S, V = torch.linalg.svd(W, full_matrices=False)
    initial = Adapter.from_factors({"head": (V, torch.zeros(3, 3))}, name="start")
    assert start.shape == V.shape
    return Adapter.from_factors({"head": (V, U * S)}, name="run", initial=initial)


def right(adapter: Adapter) -> np.ndarray:
    return ((X @ adapter["head"].delta().T).argmax(1) != Y).numpy()


def some_right(adapter: Adapter, samples: np.ndarray) -> np.ndarray:
    return right(adapter)[samples]


def kinds(**given: Any) -> set[str]:
    evaluate = given.pop("evaluate", right)
    return set(certify(trained(), evaluate, N, **OPTIONS, **given).frame["kind"])


def test_an_honest_evaluation_is_certified() -> None:
    assert kinds() == {"certificate"}
    assert kinds(evaluate_some=some_right) == {"certificate"}


def test_the_trained_models_losses_in_place_of_the_candidates() -> None:
    own = right(trained())
    report = certify(trained(), lambda adapter: own, N, **OPTIONS)
    assert set(report.frame["kind"]) == {"diagnostic"}
    assert report.best() is None
    assert report.frame["assumptions"].str.contains("may not evaluate the adapter that it gets").all()


def test_an_adapter_of_two_entries_is_not_said_to_be_ignored() -> None:
    """Of any two random entries the first is the larger in half of the draws, which is all that its losses show."""
    A, B = torch.ones(1, 1), torch.tensor([[0.2], [0.9]])
    start = Adapter.from_factors({"head": (A, torch.zeros(2, 1))}, name="start")
    tiny = Adapter.from_factors({"head": (A, B)}, name="tiny", initial=start)
    x = X[:, :1].abs()

    def honest(adapter: Adapter) -> np.ndarray:
        return ((x @ adapter["head"].delta().T).argmax(1) != 1).numpy()

    for seed in range(12):
        assert set(certify(tiny, honest, N, seed=seed, **OPTIONS).frame["kind"]) == {"certificate"}, seed
        ignoring = certify(tiny, lambda adapter: honest(tiny), N, seed=seed, **OPTIONS)
        assert set(ignoring.frame["kind"]) == {"diagnostic"}, seed


def test_losses_remembered_under_the_adapters_name() -> None:
    remembered: dict[str, np.ndarray] = {}

    def cached(adapter: Adapter) -> np.ndarray:
        return remembered.setdefault(adapter.name, right(adapter))

    assert kinds(evaluate=cached) == {"diagnostic"}


def test_remembered_blocks_are_seen_beside_an_honest_evaluate() -> None:
    remembered: dict[int, bool] = {}

    def cached(adapter: Adapter, samples: np.ndarray) -> np.ndarray:
        found = right(adapter)
        return np.array([remembered.setdefault(int(i), bool(found[i])) for i in samples])

    assert kinds(evaluate_some=cached) == {"diagnostic"}


def test_dropout_in_training_mode() -> None:
    def dropped(adapter: Adapter) -> np.ndarray:
        kept = torch.nn.functional.dropout(X, 0.5, training=True)
        return ((kept @ adapter["head"].delta().T).argmax(1) != Y).numpy()

    with pytest.raises(ValueError, match="put the model in evaluation mode"):
        kinds(evaluate=dropped)


def test_candidates_that_stay_in_the_model() -> None:
    weight = torch.zeros(3, D)

    def added(adapter: Adapter) -> np.ndarray:
        weight.add_(adapter["head"].delta())
        return ((X @ weight.T).argmax(1) != Y).numpy()

    with pytest.raises(ValueError, match="take each candidate out"):
        kinds(evaluate=added)


def test_a_base_model_that_changes_between_calls() -> None:
    calls = []

    def drifting(adapter: Adapter) -> np.ndarray:
        calls.append(adapter)
        drift = W.flip(0) * (len(calls) > 8)
        return ((X @ (adapter["head"].delta() - drift).T).argmax(1) != Y).numpy()

    with pytest.raises(ValueError, match="at the end of the work"):
        kinds(evaluate=drifting)


def test_samples_of_a_batch_that_influence_each_other() -> None:
    def normalized(adapter: Adapter, samples: np.ndarray) -> np.ndarray:
        scores = X[samples] @ adapter["head"].delta().T
        return (scores - scores.roll(1, 0)).argmax(1).ne(Y[samples]).numpy()  # of the sample and the one before it

    with pytest.raises(ValueError, match="whatever stands beside it"):
        kinds(evaluate_some=normalized, evaluate=lambda adapter: normalized(adapter, np.arange(N)))


def test_a_function_that_ignores_which_samples_it_is_asked_for() -> None:
    def first(adapter: Adapter, samples: np.ndarray) -> np.ndarray:
        return right(adapter)[: len(samples)]

    noisy = torch.Generator().manual_seed(1)
    flipped = torch.rand(N, generator=noisy) < 0.3
    with pytest.raises(ValueError, match="asked for in another order"):
        certify(
            trained(), lambda adapter: right(adapter) ^ flipped.numpy(), N,
            evaluate_some=lambda adapter, samples: first(adapter, samples) ^ flipped.numpy()[: len(samples)], **OPTIONS,
        )  # fmt: skip


def test_losses_divided_by_the_largest_of_the_sample() -> None:
    def divided(adapter: Adapter) -> np.ndarray:
        scores = torch.nn.functional.cross_entropy(X @ adapter["head"].delta().T, Y, reduction="none")
        return (scores / scores.max()).numpy()

    report = certify(trained(), divided, N, **OPTIONS)
    assert set(report.frame["kind"]) == {"diagnostic"}
    assert report.frame["assumptions"].str.contains("divided by the largest").all()

    def clipped(adapter: Adapter) -> np.ndarray:
        scores = torch.nn.functional.cross_entropy(X @ adapter["head"].delta().T, Y, reduction="none")
        return (scores / 5).clamp(0, 1).numpy()

    assert kinds(evaluate=clipped) == {"certificate"}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (np.where(np.arange(N) == 7, np.nan, 0.0), "outside"),
        (np.where(np.arange(N) == 7, 1.001, 0.0), "outside"),
        (np.where(np.arange(N) == 7, -0.001, 0.0), "outside"),
        (np.zeros((N, 1)), "one for each of 300"),
        (np.zeros(2 * N), "one for each of 300"),
        (0.0, "one for each of 300"),
        (None, "evaluate gave"),
        (["wrong"] * N, "evaluate gave"),
        (np.zeros(N, dtype=complex), "evaluate gave"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_answers_that_are_no_losses(losses: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify(trained(), lambda adapter: losses, N, **OPTIONS)


def test_a_million_float32_losses_are_summed_in_double() -> None:
    """Summed one by one in float32 they are off by 1 percent."""
    n = 1_000_000
    given = np.full(n, 0.1, np.float32)
    assert abs(float(np.cumsum(given, dtype=np.float32)[-1]) / n - 0.1) > 1e-4
    assert checked_losses(given, n).mean() == pytest.approx(float(np.float32(0.1)), abs=1e-12)
    assert checked_losses(torch.full((n,), 0.1), n).mean() == pytest.approx(float(np.float32(0.1)), abs=1e-12)


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(D, 3, bias=False)
        torch.nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor, **others: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(x)}


def test_labels_among_the_inputs() -> None:
    batch = {"x": X, "target": Y.clone(), "labels": Y}
    with pytest.raises(AdapterError, match="'target' repeats the labels"):
        certify(trained(), model=Linear(), data=[batch], **OPTIONS)
    other = {"x": X, "length": torch.full((N,), D), "labels": Y}
    assert set(certify(trained(), model=Linear(), data=[other], **OPTIONS).frame["kind"]) == {"certificate"}


def test_batch_statistics_in_evaluation_mode() -> None:
    """A normalization without running statistics uses the batch's own, even in evaluation mode."""

    class Normalized(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3, track_running_stats=False, affine=False)

        def forward(self, x: torch.Tensor, **others: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.norm(self.head(x))}

    rows = torch.cat([X[label == Y] for label in range(3)])
    labels = torch.cat([Y[label == Y] for label in range(3)])
    with pytest.raises(ValueError, match=r"evaluation mode|whatever stands beside"):
        certify(trained(), model=Normalized(), data=[{"x": rows, "labels": labels}], **OPTIONS)


def test_copies_in_the_data_are_said() -> None:
    batch = {"x": X[:150].repeat(2, 1), "labels": Y[:150].repeat(2)}
    report = certify(trained(), model=Linear(), data=[batch], **OPTIONS)
    assert report.settings["repeated_within"] == 1.0
    assert report.frame["assumptions"].str.contains("100% of the samples repeat another").all()
    assert certify(trained(), model=Linear(), data=[{"x": X, "labels": Y}], **OPTIONS).settings["repeated_within"] == 0


def test_a_tied_weight_is_changed_twice() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    texts = [torch.randint(0, 30, (9,), generator=torch.Generator().manual_seed(k)) for k in range(20)]
    for module, kind in (("lm_head", "diagnostic"), ("model.layers.0.mlp.up_proj", "certificate")):
        d_out, d_in = model.get_submodule(module).weight.shape
        run = Adapter.from_factors({module: (torch.randn(1, d_in), torch.randn(d_out, 1))})
        frame = language_model_bound(run, model, texts, tuned="B", smoothing=(0.1,), levels=(2,)).frame
        assert set(frame.loc[frame["predictor"] == "coded adapter", "kind"]) == {kind}


def test_tokens_or_sentences_of_one_source_counted_as_samples() -> None:
    """Thirty sources with ten samples each stand one after the other: their losses are alike."""
    labels = np.repeat(np.random.default_rng(3).integers(0, 3, 30), 10)

    def evaluate(adapter: Adapter) -> np.ndarray:
        return (right(adapter) | (labels == 0)).astype(float)

    report = certify(trained(), evaluate, N, **OPTIONS)
    assert set(report.frame["kind"]) == {"diagnostic"}
    assert report.frame["assumptions"].str.contains("neighbouring samples have like losses").all()
    grouped = certify(trained(), evaluate, N, groups=np.arange(N) // 10, **OPTIONS)
    assert set(grouped.frame["kind"]) == {"certificate"}
    assert grouped.settings["units"] == 30


def test_independent_losses_are_not_taken_for_ordered() -> None:
    draw = np.random.default_rng(0)
    rates = draw.uniform(0.001, 0.999, 3000)
    found = [neighbours_alike((draw.random(500) < rate).astype(float)) for rate in rates]
    assert sum(one is not None for one in found) == 0


def test_documents_that_repeat_are_no_certificate_for_tokens_either() -> None:
    """Forty random texts, fifty times each, learned by heart: a new token of their law costs log2 of the vocabulary."""

    class Remembers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Linear(400, 400, bias=False)
            torch.nn.init.zeros_(self.table.weight)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.table(torch.nn.functional.one_hot(input_ids, 400).float())}

    order = torch.randperm(400, generator=torch.Generator().manual_seed(5)).reshape(40, 10)
    follows = torch.zeros(400, 400)
    follows[order[:, 1:].ravel(), order[:, :-1].ravel()] = 30.0
    run = Adapter.from_factors({"table": (torch.eye(400), follows)})
    frame = language_model_bound(
        run, Remembers(), list(order) * 100, tuned="B", smoothing=(0.05,), levels=(2,), max_length=10
    ).frame
    coded = frame[(frame["level"] == "token") & (frame["predictor"] == "coded adapter")]
    assert (coded["bits"] < np.log2(400)).any()  # what would be certified, were the copies new
    assert set(frame["kind"]) == {"diagnostic"}


@pytest.mark.parametrize(
    "copy",
    ["A  Good\tfilm, with a plot!", "a good film — with a plot", "\uff41 good film with a plot",
     "a good\u200b film with a plot"],
)  # fmt: skip
def test_copies_that_differ_in_writing_only(copy: str) -> None:
    found = find_duplicates(["a good film with a plot", copy, "nothing like it at all, my friend", "", "!!", "??"])
    assert found.groups.tolist()[:3] == [0, 0, 1]


def test_halves_that_overlap_in_another_order() -> None:
    order = np.random.default_rng(0).permutation(N)[:60]
    report = certify(trained(), right, N, prior=trained(), samples=X.numpy(), prior_samples=X.numpy()[order], **OPTIONS)
    assert report.settings["repeated_across"] == pytest.approx(0.2)
    assert set(report.frame["kind"]) == {"diagnostic"}


def test_one_giant_group_counts_once() -> None:
    groups = np.where(np.arange(N) < 290, 0, np.arange(N))
    report = certify(trained(), lambda a: right(a) | (np.arange(N) >= 290), N, groups=groups, **OPTIONS)
    assert report.settings["units"] == 11
    own = report.frame[report.frame["rung"] == "coded"].iloc[0]
    assert own["empirical_risk"] >= 10 / 11  # ten wrong samples of their own and one source of 290
    with pytest.raises(ValueError, match="group"):
        certify(trained(), right, N, groups=[None] * N, **OPTIONS)


def test_few_samples_do_not_take_many_draws() -> None:
    calls = []

    def counted(adapter: Adapter) -> np.ndarray:
        calls.append(1)
        return right(adapter)[:4]

    report = certify(trained(), counted, 4, methods=("gaussian",), relative_noise=(1.0,))
    assert len(calls) < 1000  # of 20,000 at most
    assert "more draws would lower the certified risk by at most" in report.frame["note"].iloc[0]


def test_the_head_is_probed_under_the_adapters_own_name() -> None:
    head = torch.eye(3)
    run = trained()
    extras = {"score": TensorSource((3, 3), "float32", lambda: head)}
    run = Adapter({"head": run.source("head")}, name="run", extras=extras, initial=run.initial)
    remembered: dict[str, torch.Tensor] = {}

    def cached_head(adapter: Adapter) -> np.ndarray:
        weight = remembered.setdefault(adapter.name, adapter.extras["score"].read())
        return ((X @ adapter["head"].delta().T @ weight).argmax(1) != Y).numpy()

    with pytest.raises(ValueError, match="same losses when the trained head"):
        certify(run, cached_head, N, **OPTIONS)
