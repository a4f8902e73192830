"""Attacks through models, labels, documents, groups and messages (docs/attacks.md), with the outcome of each."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis import certify, compute_bound, fit_posterior, language_model_bound
from asym_analysis.adapters import Adapter
from asym_analysis.bounds import BoundReport, estimate_mutual_information, find_duplicates
from asym_analysis.bounds.posterior import fitted_posterior, gaussian_posterior
from asym_analysis.bounds.subspace import Subspace, encode_subspace
from asym_analysis.errors import AdapterError

N, D = 200, 10
X = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 2, (N,), generator=torch.Generator().manual_seed(1))
A, B = torch.randn(2, D, generator=torch.Generator().manual_seed(2)), torch.tensor([[1.0, -0.5], [-0.7, 0.8]])
START = Adapter.from_factors({"q": (A, torch.zeros(2, 2))}, name="start")
RUN = Adapter.from_factors({"q": (A, B)}, name="run", initial=START)
OPTIONS: dict[str, Any] = {"levels": (3,), "relative_noise": (0.3,), "draws": 5}
KEY = ("q", "B")


def losses(adapter: Adapter) -> np.ndarray:
    return ((X @ adapter["q"].delta().T).argmax(1) != Y).numpy()


def certified(adapter: Adapter = RUN, evaluate: Callable[[Adapter], Any] = losses, **given: Any) -> BoundReport:
    return certify(adapter, evaluate, given.pop("n_samples", N), **{**OPTIONS, **given})


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = torch.nn.Linear(D, 2, bias=False)
        torch.nn.init.zeros_(self.q.weight)

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.q(x))


def by_model(x: torch.Tensor = X, labels: torch.Tensor = Y, **given: Any) -> BoundReport:
    model = given.pop("model", None) or Classifier()
    return certify(RUN, model=model, data=[{"x": x, "labels": labels}], **{**OPTIONS, **given})


# Labels and models


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.full((N,), -100), "leave samples without a label out"),
        (Y + 5, "the model has 2 classes"),
        (Y + 0.5, "not whole"),
        (torch.full((N,), math.nan), "not whole"),
        (torch.nn.functional.one_hot(Y, 2), "one class a sample"),
    ],
)
@pytest.mark.parametrize("loss", ["zero-one", "bounded cross-entropy"])
def test_labels_that_name_no_class(labels: torch.Tensor, said: str, loss: str) -> None:
    with pytest.raises(AdapterError, match=said):
        by_model(labels=labels, loss=loss)
    with pytest.raises(AdapterError, match=said):
        fit_posterior(RUN, Classifier(), [{"x": X, "labels": labels}], tuned="B", epochs=1)


@pytest.mark.parametrize("loss", ["zero-one", "bounded cross-entropy"])
def test_labels_of_another_dtype_mean_the_same(loss: str) -> None:
    expected = by_model(loss=loss).frame["risk"]
    for dtype in (torch.bool, torch.float32, torch.uint8):
        assert by_model(labels=Y.to(dtype), loss=loss).frame["risk"].equals(expected)


def test_no_answer_is_a_wrong_answer() -> None:
    """NaN logits count as errors: 40 of 200 samples cannot be certified away."""
    x = X.clone()
    x[:40] = math.nan
    right = (X @ (B @ A).T).argmax(1)
    for loss in ("zero-one", "bounded cross-entropy"):
        frame = by_model(x=x, labels=right, loss=loss, methods="coded").frame
        assert (frame["empirical_risk"] >= 0.2).all()


def test_the_trained_peft_model_as_base_model() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(Classifier(), peft.LoraConfig(target_modules=["q"], r=2))
    for given in (model, model.base_model.model):
        with pytest.raises(AdapterError, match="holds an adapter of PEFT already"):
            by_model(model=given)


def test_a_base_model_with_the_update_merged_is_named_as_an_assumption() -> None:
    merged = Classifier()
    with torch.no_grad():
        merged.q.weight.add_(B @ A)
    assert by_model(model=merged).frame["assumptions"].str.contains("base model, code and modules fixed before").all()


# Groups and copies


def test_groups_that_keep_copies_apart() -> None:
    copies = np.tile(np.arange(10), 20)
    texts = [f"review number {i} says that this film of {i * 7} minutes is a good one" for i in copies]
    apart = certified(groups=np.arange(N), samples=texts)
    assert set(apart.frame["kind"]) == {"diagnostic"}
    assert apart.frame["assumptions"].str.contains("is in another group: join such groups").all()
    assert set(certified(groups=copies, samples=texts).frame["kind"]) == {"certificate"}


def test_groups_do_not_silence_what_the_model_saw_of_copies() -> None:
    x = X[torch.arange(N) % 10]
    for groups, said in ((None, "repeat another"), (np.arange(N), "repeat one of another group")):
        assert by_model(x=x, groups=groups).frame["assumptions"].str.contains(f"100% of the samples {said}").all()
    assert not by_model(x=x, groups=np.arange(N) % 10).frame["assumptions"].str.contains("repeat").any()


def test_ids_that_two_sources_share_make_fewer_groups() -> None:
    """Documents 0 to 49 of two collections under the same numbers: fewer units, so that the bound is looser."""
    same = certified(groups=np.tile(np.arange(100), 2))
    own = certified(groups=np.arange(N))
    assert same.settings["units"] == 100
    assert same.frame["risk"].min() > own.frame["risk"].min()


@pytest.mark.parametrize(
    ("samples", "share"),
    [
        (["A  good FILM\n", "a good film", "another one"], 2 / 3),
        ([torch.arange(9), torch.arange(9), torch.arange(4)], 2 / 3),
        (np.full((4, 2), math.nan), 1.0),
        (np.array([[math.inf, 1.0], [-math.inf, 1.0], [math.inf, 1.0]]), 2 / 3),
        ([], 0.0),
    ],
)
def test_copies_are_seen_whatever_holds_them(samples: Any, share: float) -> None:
    assert find_duplicates(samples).within == pytest.approx(share)


@pytest.mark.parametrize(
    ("samples", "others", "said"),
    [([{"a": 1}, {"a": 1}], None, "neither texts nor numbers"), (["a", "b"], np.zeros((2, 3)), "in one form")],
)
def test_samples_that_cannot_be_compared(samples: Any, others: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_duplicates(samples, others)


# Numbers


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("tried", [0, -1, 1.5, True, "3", None, math.nan, math.inf, 10**400])
def test_numbers_tried_that_are_no_count(tried: Any) -> None:
    with pytest.raises(ValueError, match="tried is"):
        certified(tried=tried)


def test_masked_losses() -> None:
    with pytest.raises(ValueError, match="some are masked"):
        certified(evaluate=lambda adapter: np.ma.array(losses(adapter), mask=losses(adapter)))


@pytest.mark.parametrize("noise", [1e-300, 1e300])
def test_noise_whose_square_is_no_number(noise: float) -> None:
    for call in (lambda: certified(relative_noise=(noise,)), lambda: compute_bound(RUN, N, relative_noise=noise)):
        with pytest.raises(ValueError, match="relative_noise is"):
            call()


def test_labels_shuffled_at_every_call() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="called again"):
        certified(evaluate=lambda adapter: random.permutation(losses(adapter)))


# Posteriors, priors and records


def test_a_posterior_that_was_saved_and_read_again() -> None:
    made = gaussian_posterior(RUN, "B", relative_noise=1.0)
    again = pickle.loads(pickle.dumps(made))
    one, two = (certified(posterior=posterior, methods="gaussian").frame["risk"] for posterior in (made, again))
    assert one.equals(two)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf, 1e-320, 1e300])
def test_a_posterior_without_variance_or_with_all_of_it(std: float) -> None:
    made = gaussian_posterior(RUN, "B", relative_noise=1.0)
    with pytest.raises(ValueError, match=r"is not positive|changed after it was made"):
        certified(posterior=replace(made, stds={KEY: std}))


def test_almost_no_variance_is_paid_for() -> None:
    narrow = fitted_posterior(RUN, {KEY: 1e-160}, "B")
    assert narrow.kl > 4 * 350  # ln(1e160) an entry
    assert certified(posterior=narrow, methods="gaussian").frame["risk"].min() == 1.0


@pytest.mark.parametrize("what", ["initial", "prior"])
def test_a_centre_of_another_rank(what: str) -> None:
    other = Adapter.from_factors({"q": (torch.randn(3, D), torch.zeros(2, 3))}, name="other")
    adapter = Adapter.from_factors({"q": (A, B)}, name="run", initial=other if what == "initial" else START)
    with pytest.raises(ValueError, match=r"\(other\) holds q of shape 2 x 10 and rank 3"):
        certified(adapter, prior=other if what == "prior" else None)


def test_the_recorded_start_of_another_run() -> None:
    other = Adapter.from_factors({"q": (A.flip(1), torch.zeros(2, 2))}, name="another start")
    mixed = Adapter.from_factors({"q": (A, B)}, name="run", initial=other)
    with pytest.raises(ValueError, match="records otherwise"):
        certified(mixed, tuned="B")
    assert set(certified(mixed).frame["tuned"]) == {"both"}  # everything is charged, from where the prior says


def test_modules_of_which_half_were_recorded() -> None:
    half = Adapter.from_factors({"q": (A, B), "k": (A + 1, B)}, name="half", initial=START)
    assert set(certified(half).frame["tuned"]) == {"both"}


# Messages


def test_a_message_that_was_rewritten() -> None:
    code = encode_subspace(Subspace(RUN, 3, tuned="B"), torch.ones(3), levels=2)
    honest = certified(subspace=[code]).frame
    for changed in (replace(code, bits=1), replace(code, parts={}), replace(code, levels=5)):
        frame = certified(subspace=[changed]).frame
        assert frame["nats"].equals(honest["nats"])  # all that is charged is read from the message
    flipped = bytes([code.message[0] ^ 255]) + code.message[1:]
    for message, said in ((flipped, "names no factors"), (code.message[:3], "ends before it is complete")):
        with pytest.raises(ValueError, match=said):
            certified(subspace=[replace(code, message=message)])
    with pytest.raises(ValueError, match="decodes to another"):
        certified(subspace=[replace(code, seed=9)])


# Language models


class Bigrams(torch.nn.Module):
    """Logits of the token itself, or of the one after it: the answer."""

    def __init__(self, *, ahead: bool = False) -> None:
        super().__init__()
        self.table = torch.nn.Linear(16, 16, bias=False)
        self.ahead = ahead
        torch.nn.init.zeros_(self.table.weight)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        seen = torch.nn.functional.one_hot(input_ids, 16).float()
        return SimpleNamespace(logits=self.table(seen) + 8 * self.ahead * seen.roll(-1, 1))


DOCUMENTS = list(torch.randint(0, 16, (30, 20), generator=torch.Generator().manual_seed(3)))
TABLE = Adapter.from_factors({"table": (torch.ones(1, 16), torch.full((16, 1), 0.1))})


def bits(model: torch.nn.Module, documents: Any = DOCUMENTS, **given: Any) -> Any:
    return language_model_bound(TABLE, model, documents, tuned="B", smoothing=(0.01,), levels=(2,), **given)


def test_a_model_that_reads_the_answer() -> None:
    """Sixteen tokens at random cost four bits; a model that sees the next one would be certified below one."""
    assert bits(Bigrams()).frame["bits"].min() > 4
    with pytest.raises(ValueError, match="it is not causal"):
        bits(Bigrams(ahead=True))


def test_a_model_without_an_answer() -> None:
    broken = Bigrams()
    broken.register_forward_hook(lambda module, given, output: SimpleNamespace(logits=output.logits * math.nan))
    with pytest.raises(ValueError, match="hold NaN"):
        bits(broken)


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([torch.tensor([1, -100, 2])], "no token ids"),
        ([torch.rand(5)], "no token ids"),
        ([torch.tensor([1])], "needs two"),
    ],
)
def test_documents_that_hold_no_tokens(documents: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bits(Bigrams(), documents)


def test_windows_that_overlap_are_no_documents() -> None:
    text = torch.randint(0, 16, (200,), generator=torch.Generator().manual_seed(4))
    assert set(bits(Bigrams(), [text[i : i + 40] for i in range(60)]).frame["kind"]) == {"diagnostic"}


# Information


@pytest.mark.parametrize("method", ["ksg", "gaussian", "plug-in"])
@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.array(list("abcd") * 25), "real numbers"),
        (np.array(list("1234") * 25), "real numbers"),
        (np.arange(100) + 1j, "real numbers"),
        (np.array([None] * 100), "real numbers"),
        (np.zeros((100, 0)), "no column"),
        (np.ma.array(np.arange(100), mask=np.arange(100) < 3), "masked"),
        (np.arange(3), "at least 4"),
        ([], "at least 4"),
    ],
)
def test_columns_that_hold_no_numbers(method: str, x: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        estimate_mutual_information(x, np.arange(len(x)), method)


def test_a_constant_column_tells_nothing() -> None:
    for method in ("ksg", "gaussian", "plug-in"):
        found = estimate_mutual_information(np.zeros(100), np.arange(100) % 3, method)
        assert (found.nats, found.standard_error) == (0.0, 0.0)


def test_no_more_neighbours_than_samples() -> None:
    with pytest.raises(ValueError, match="take at least 6"):
        estimate_mutual_information(np.arange(4.0), np.arange(4.0) ** 2, neighbours=4)


def test_discrete_columns_as_floats() -> None:
    """Halves are as discrete as whole numbers, and a tensor with gradients is as good as an array."""
    values = np.random.default_rng(0).integers(0, 3, (2, 400))
    by_count = estimate_mutual_information(*values, "plug-in").nats
    half = torch.tensor(values[0] / 2, requires_grad=True)
    assert estimate_mutual_information(half, values[1] / 2).nats == pytest.approx(by_count, abs=1e-12)


def test_invisible_characters_do_not_hide_a_copy() -> None:
    sentence = "a very good film with a plot that moves along"
    assert find_duplicates([sentence, sentence.replace("good", "go\u200bod")]).groups.tolist() == [0, 0]
