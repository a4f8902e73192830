"""The subspace rung: an isometry, a message that decodes exactly, training with its quantizer, certificates."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis import certify
from asym_analysis.adapters import Adapter, TensorSource
from asym_analysis.bounds import Subspace, decode_subspace, encode_subspace, fit_subspace, risk
from asym_analysis.bounds.quantization import k_means_levels, nearest_level
from asym_analysis.bounds.repeated import gaussian_classes

D, CLASSES, RANK, N = 40, 4, 8, 1500
draw = gaussian_classes(D, CLASSES, separation=4.0)


def start(*, head: bool = False, seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(RANK, D, generator=generator) / D**0.5
    extras = {"bias": TensorSource((CLASSES,), "float32", lambda: torch.zeros(CLASSES))} if head else None
    initial = Adapter.from_factors({"score": (A, torch.zeros(CLASSES, RANK))}, name="initial")
    if extras:
        initial = Adapter({"score": initial.source("score")}, name="initial", extras=extras)
    own = Adapter.from_factors({"score": (A, torch.zeros(CLASSES, RANK))}, name="run")
    return Adapter({"score": own.source("score")}, name="run", extras=extras or {}, initial=initial)


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = torch.nn.Linear(D, CLASSES, bias=False)
        torch.nn.init.zeros_(self.score.weight)

    def forward(self, x: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.score(x))


def batch(n: int, seed: int) -> dict[str, torch.Tensor]:
    x, y = draw(n, seed)
    return {"x": torch.from_numpy(x), "labels": torch.from_numpy(y)}


@pytest.mark.parametrize("tuned", ["B", "A", "both"])
def test_the_projection_is_an_isometry(tuned: Any) -> None:
    space = Subspace(start(head=True), 13, tuned=tuned, seed=5)
    columns = []
    for coordinate in torch.eye(13):
        moved = space.tensors(coordinate)
        columns.append(torch.cat([(moved[key] - space.origin[key]).reshape(-1) for key in moved]))
    P = torch.stack(columns, 1)
    torch.testing.assert_close(P.T @ P, torch.eye(13))
    assert len(P) == space.size
    assert ((P != 0).sum(1) == 1).all()
    c = torch.randn(13)
    torch.testing.assert_close(space.coordinates(space.adapter(c)), c)


@pytest.mark.parametrize("levels", [2, 3, 7])
@pytest.mark.parametrize("dimension", [1, 10, 300])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e20])
def test_the_message_decodes_exactly(levels: int, dimension: int, size: float) -> None:
    space = Subspace(start(head=True), dimension, tuned="both", seed=2)
    values = size * torch.randn(dimension, generator=torch.Generator().manual_seed(levels))
    code = encode_subspace(space, values, levels=levels)
    assert sum(code.parts.values()) == code.bits
    assert len(code.message) == -(-code.bits // 8)
    receiver = start(head=True)  # its trained values are never read
    other = {
        "score": Adapter.from_factors({"score": (torch.randn(RANK, D), torch.randn(CLASSES, RANK))}).source("score")
    }
    receiver = receiver.replaced(modules=other)
    for message in (code.message, code.message + bytes(range(16))):
        again = decode_subspace(message, receiver, seed=2)
        assert torch.equal(again["score"].A, code.adapter["score"].A)
        assert torch.equal(again["score"].B, code.adapter["score"].B)
        assert torch.equal(again.extras["bias"].read(), code.adapter.extras["bias"].read())
    with pytest.raises(ValueError, match="ends before"):
        decode_subspace(code.message[:3], receiver, seed=2)


def test_what_is_decoded_is_the_nearest_level_of_each_coordinate() -> None:
    space = Subspace(start(), 50, tuned="both")
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    code = encode_subspace(space, values, codebook=[0.5, -0.25, 1.0])
    book = np.array([-0.25, 0.5, 1.0], dtype=np.float32)
    expected = book[np.abs(values.numpy()[:, None] - book).argmin(1)]
    np.testing.assert_allclose(space.coordinates(code.adapter).numpy(), expected, rtol=1e-5)


def test_the_length_is_the_entropy_and_what_the_receiver_needs() -> None:
    space = Subspace(start(), 300, tuned="both")
    values = torch.randn(300, generator=torch.Generator().manual_seed(0))
    code = encode_subspace(space, values, levels=4)
    symbols = nearest_level(values.numpy(), k_means_levels(values.numpy(), 4))
    share = np.bincount(symbols) / 300
    entropy = -300 * float((share * np.log2(share)).sum())
    assert entropy <= code.parts["symbols"] <= entropy + 32 + 32 + 10
    assert code.parts["counts"] == 3 * 9
    assert code.parts["levels"] == 8 + 4 * 16


@pytest.mark.parametrize("given", [{"dimension": 0}, {"dimension": 10_000}])
def test_a_subspace_has_between_one_and_all_dimensions(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="dimension is"):
        Subspace(start(), tuned="B", **given)


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, torch.Tensor], Any]:
    data = batch(N, 1)
    return data, fit_subspace(
        start(), Classifier(), [data], tuned="both", dimension=30, levels=3, epochs=8, quantized_epochs=4, rate=0.1,
        batch_size=100,
    )  # fmt: skip


def test_training_in_the_subspace_learns_and_is_cheaper_than_a_code_of_all_entries(trained: Any) -> None:
    data, code = trained
    model = Classifier()
    report = certify(
        code.adapter, model=model, data=[data], tuned="both", methods="coded", levels=(3,), subspace=[code]
    )
    frame = report.frame[report.frame["form"] == "kl-inverse"].set_index("rung")
    own, whole = frame.loc["subspace"], frame.loc[["coded"]].iloc[0]
    assert own["kind"] == "certificate"
    assert own["predictor"] == "coded adapter"
    assert own["nats"] == pytest.approx(code.nats)
    assert own["parameters"] == 30
    assert own["nats"] < whole["nats"] / 2
    assert own["risk"] == pytest.approx(risk.kl_inverse_risk(own["empirical_risk"], code.nats, N, 1 - 0.05 / 2))
    fresh = batch(20_000, 2)
    scores = fresh["x"] @ code.adapter["score"].delta().T
    true = float((scores.argmax(1) != fresh["labels"]).float().mean())
    assert true < own["risk"] < 0.6
    assert own["empirical_risk"] < 0.35  # of .75 by guessing
    assert all((p == 0).all() for p in model.parameters())


def test_what_was_tried_is_paid_for(trained: Any) -> None:
    data, code = trained
    options: dict[str, Any] = {
        "model": Classifier(),
        "data": [data],
        "tuned": "both",
        "methods": "coded",
        "levels": (3,),
    }
    free, paid = (
        certify(code.adapter, subspace=[code], tried=tried, **options).frame.set_index("rung").loc["subspace", "nats"]
        for tried in (1, 5)
    )
    assert (paid - free).to_numpy() == pytest.approx(math.log(5))
    other = encode_subspace(Subspace(start(), 30, tuned="both", seed=1), torch.ones(30))
    with pytest.raises(ValueError, match="tried=2"):
        certify(code.adapter, subspace=[code, other], **options)
    assert certify(code.adapter, subspace=[code, other], tried=2, **options).best() is not None


def test_messages_that_say_something_else_are_refused(trained: Any) -> None:
    data, code = trained
    options: dict[str, Any] = {"model": Classifier(), "data": [data], "methods": "coded", "levels": (3,)}
    short = encode_subspace(Subspace(start(), 2, tuned="both"), torch.zeros(2))
    with pytest.raises(ValueError, match="decodes to another score"):
        certify(code.adapter, tuned="both", subspace=[replace(code, message=short.message)], **options)
    with pytest.raises(ValueError, match="decodes to another score"):  # another A_0 than the receiver's
        certify(start(seed=3), tuned="both", subspace=[code], **options)
    lying = replace(code, bits=1)
    frame = certify(code.adapter, tuned="both", subspace=[lying], **options).frame
    nats = frame.loc[frame["rung"] == "subspace", "nats"].to_numpy()
    assert nats == pytest.approx(code.nats)  # read from the message


def test_the_best_of_many_messages_on_noise_is_charged() -> None:
    """Labels are noise: the message of least training loss is certified below one half without its length only."""
    charged = uncharged = 0
    for repeat in range(8):
        generator = torch.Generator().manual_seed(repeat)
        x, y = torch.randn(40, D, generator=generator), torch.randint(0, 2, (40,), generator=generator)
        space = Subspace(start(), 12, tuned="B", seed=repeat)
        codes = [encode_subspace(space, torch.randn(12, generator=generator), levels=2) for _ in range(100)]
        errors = [float(((x @ c.adapter["score"].delta().T)[:, :2].argmax(1) != y).float().mean()) for c in codes]
        best = int(np.argmin(errors))
        uncharged += risk.chernoff_risk(errors[best], 0.0, 40, 0.5) < 0.5
        charged += risk.chernoff_risk(errors[best], codes[best].nats, 40, 0.5) < 0.5
    assert uncharged == 8
    assert charged == 0
