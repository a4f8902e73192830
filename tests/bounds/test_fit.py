"""Posteriors trained for the bound: a closed form, a toy transformer over two layers, priors, an unchanged model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asym_analysis import Adapter, certify, fit_posterior
from asym_analysis.bounds import gaussian_posterior
from asym_analysis.bounds.energies import scale_on_grid, scale_price
from asym_analysis.errors import AdapterError

transformers = pytest.importorskip("transformers")


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = torch.nn.Linear(4, 3, bias=False)
        torch.nn.init.zeros_(self.q.weight)

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=self.q(x))


def test_a_linear_model_with_squared_loss_has_a_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    n, std, weight = 64, 0.25, 8.0
    x = torch.randn(n, 4, generator=generator)
    A = torch.randn(2, 4, generator=generator)
    target = x @ torch.randn(4, 3, generator=generator) / 2
    # Squared error against targets that the labels name: only the batch's own rows may be compared.
    adapter = Adapter.from_factors({"q": (A, torch.zeros(3, 2))})

    def squared(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits - target[labels]).square().sum(1).mean()

    posterior = fit_posterior(
        adapter, Linear(), [{"x": x, "labels": torch.arange(n)}], tuned="B", prior_std=std, weights=(weight, weight),
        epochs=350, rate=0.1, batch_size=n, objective=squared, select=False, scales="tensor",
    )  # fmt: skip
    low = (x @ A.mT).double()
    hessian = low.mT @ low / n
    regular = weight / (2 * n * std**2) * torch.eye(2, dtype=torch.float64)
    means = torch.linalg.solve(hessian + regular, low.mT @ target.double() / n).mT
    stds = (1 / (1 / std**2 + 2 * n / weight * hessian.diagonal())).sqrt().expand(3, 2)
    torch.testing.assert_close(posterior.centre["q", "B"].double(), means, atol=0.04, rtol=0.04)
    torch.testing.assert_close(torch.as_tensor(posterior.stds["q", "B"]).double(), stds, atol=0.0, rtol=0.12)


def classifier() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=20, num_labels=2
    )
    return transformers.BertForSequenceClassification(config).eval()


def batches(n: int = 256) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, 20, (n, 6), generator=generator)
    labels = (tokens[:, 1] > 9).long()
    return [{"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}]


def trained(tuned: str = "B") -> Adapter:
    """Trained a little in both layers, with the initialization recorded."""
    generator = torch.Generator().manual_seed(3)
    names = [f"bert.encoder.layer.{i}.attention.self.value" for i in (0, 1)]
    starts = {name: (torch.randn(2, 32, generator=generator) / 4, torch.zeros(32, 2)) for name in names}
    start = Adapter.from_factors(starts, name="start")
    moved = {name: (A, B + 0.3 * torch.randn(B.shape, generator=generator)) for name, (A, B) in starts.items()}
    if tuned == "both":
        moved = {name: (A + 0.1 * torch.randn(A.shape, generator=generator), B) for name, (A, B) in moved.items()}
    return Adapter.from_factors(moved, name="run", initial=start)


@pytest.mark.parametrize("tuned", ["B", "both"])
def test_a_trained_posterior_is_certified_better(tuned: str) -> None:
    adapter, model = trained(tuned), classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fit_posterior(adapter, model, batches(), epochs=8, weights=(1.0,))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (found.tuned, found.prior) == (tuned, "initialization")
    assert len({owner for owner, _ in found.centre}) == 2
    plain = gaussian_posterior(adapter, found.tuned, relative_noise=0.5)

    def risk(posterior: Any) -> float:
        report = certify(adapter, model=model, data=batches(), methods=("gaussian",), posterior=posterior, draws=40)
        return float(report.frame.loc[report.frame["form"] == "kl-inverse", "risk"].iloc[0])

    assert risk(found) < risk(plain) - 0.05


def test_noise_begins_at_the_priors_and_stays_where_data_say_nothing() -> None:
    adapter = trained()
    noise = [{**batch, "labels": torch.arange(16) % 2} for batch in batches(16)]
    found = fit_posterior(
        adapter, classifier(), noise, prior_std=0.125, weights=(400.0, 400.0), epochs=60, batch_size=16, rate=3.0,
        select=False, objective=lambda logits, labels: 0.0 * logits.sum(),
    )  # fmt: skip
    assert scale_on_grid(0.125) == 0.125
    for key, std in found.stds.items():
        np.testing.assert_allclose(np.asarray(std), 0.125, rtol=1e-3)
        assert found.centre[key].abs().max() < 0.05
    assert found.kl < found.price + 0.5


def test_a_prior_from_other_data_is_carried() -> None:
    adapter, prior = trained(), Adapter.from_factors({m: (trained()[m].A, trained()[m].B) for m in trained()}, name="p")
    found = fit_posterior(adapter, classifier(), batches(64), prior=prior, weights=(1.0,), epochs=1)
    assert (found.prior, found.prior_name) == ("data", "p")
    report = certify(adapter, model=classifier(), data=batches(64), posterior=found, prior=prior, draws=4)
    assert set(report.frame["rung"]) == {"coded", "gaussian", "one draw", "hold-out"}


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="weights"):
        fit_posterior(trained(), classifier(), batches(8), weights=(0.0,))
    with pytest.raises(ValueError, match="at least one"):
        fit_posterior(trained(), classifier(), batches(8), weights=())
    with pytest.raises(ValueError, match="records otherwise"):
        fit_posterior(trained("both"), classifier(), batches(8), tuned="B")


def test_steps_leave_alone_what_the_data_say_nothing_of() -> None:
    """Ten entries matter among 4,000: the KL of the others stays far below one unit an entry."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 4, generator=generator)
    labels = (x[:, 0] > 0).long()

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = torch.nn.Linear(4, 1000, bias=False)
            torch.nn.init.zeros_(self.q.weight)

        def forward(self, x: Tensor) -> Any:
            return SimpleNamespace(logits=self.q(x)[:, :2])

    adapter = Adapter.from_factors({"q": (torch.eye(4), torch.zeros(1000, 4))})
    found = fit_posterior(
        adapter, Wide(), [{"x": x, "labels": labels}], tuned="B", prior_std=0.25, weights=(1.0,), epochs=20,
        batch_size=32, select=False,
    )  # fmt: skip
    away = (found.centre["q", "B"] / 0.25).square()
    assert away[2:].sum() < 0.02 * away[:2].sum()
    logits = x @ found.centre["q", "B"][:2].mT
    assert (logits.argmax(1) == labels).float().mean() > 0.9


def test_a_nearer_posterior_is_taken_where_training_went_too_far() -> None:
    """Labels are noise: every nat is wasted, and the training is told that nats are almost free."""
    generator = torch.Generator().manual_seed(0)
    data = [{"x": torch.randn(64, 4, generator=generator), "labels": torch.randint(0, 3, (64,), generator=generator)}]
    adapter = Adapter.from_factors({"q": (torch.eye(4), torch.zeros(3, 4))})
    settings: dict[str, Any] = {"prior_std": 0.125, "weights": (0.001,), "epochs": 20, "batch_size": 16, "rate": 3.0}
    far = fit_posterior(adapter, Linear(), data, tuned="B", select=False, **settings)
    taken = fit_posterior(adapter, Linear(), data, tuned="B", **settings)
    assert far.kl > 10
    assert taken.kl < far.kl / 1.5


@pytest.mark.parametrize("given", [None, {"A": 0.01}])
def test_a_posterior_for_both_can_begin_at_the_one_for_b(given: dict[str, float] | None) -> None:
    """Its price over B's is that of one scale, and A's noise costs nothing: A is at its prior."""
    adapter, model, data = trained(), classifier(), batches(128)
    only = fit_posterior(adapter, model, data, tuned="B", weights=(1.0,), epochs=2)
    both = fit_posterior(
        trained("both"), model, data, tuned="both", begin=only, prior_std=given, weights=(1.0,), epochs=0.01
    )
    prices = sum({scale: scale_price(scale) for key, scale in both.prior_stds.items() if key[1] == "A"}.values())
    # One step at most was taken, or none.
    assert both.tuned == "both"
    assert both.kl <= only.kl + prices + 1.0
    assert {key for key, _ in both.centre} == {key for key, _ in only.centre}


def test_prior_scales_by_factor() -> None:
    found = fit_posterior(
        trained("both"), classifier(), batches(16), prior_std={"A": 2**-6, "B": 2**-3}, weights=(1000.0,), epochs=1,
        select=False, objective=lambda logits, labels: 0.0 * logits.sum(), rate=1e-6,
    )  # fmt: skip
    for (_, factor), std in found.stds.items():
        np.testing.assert_allclose(np.asarray(std), 2**-6 if factor == "A" else 2**-3, rtol=1e-3)
    with pytest.raises(ValueError, match="prior_std"):
        fit_posterior(trained(), classifier(), batches(16), prior_std={"C": 0.1})


class Held:
    """The batch of `batches` as samples that make their own batches."""

    def __init__(self) -> None:
        (batch,) = batches()
        self.tokens, self.labels = batch["input_ids"], batch["labels"]
        self.lengths = np.full(len(self.labels), 6)

    def inputs(self, samples: np.ndarray) -> dict[str, Tensor]:
        tokens = self.tokens[torch.from_numpy(samples)]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def test_samples_that_make_their_own_batches_give_the_same_posterior() -> None:
    one, other = (fit_posterior(trained(), classifier(), data, tuned="B", epochs=1) for data in (batches(), Held()))
    assert one.kl == other.kl
    assert all(torch.equal(one.centre[key], other.centre[key]) for key in one.centre)


def test_samples_whose_input_is_the_label_are_refused() -> None:
    class Told(Held):
        def inputs(self, samples: np.ndarray) -> dict[str, Tensor]:
            return {**super().inputs(samples), "answer": self.labels[torch.from_numpy(samples)][:, None]}

    with pytest.raises(AdapterError, match="'answer' repeats the labels"):
        fit_posterior(trained(), classifier(), Told(), tuned="B")
