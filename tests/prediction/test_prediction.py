"""Input moments against numpy, and the prediction against regression on real activations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.errors import AdapterError
from asym_analysis.prediction import (
    advise,
    input_covariances,
    measured_capture,
    output_sensitivities,
    predict_asymmetry,
)
from asym_analysis.prediction.input_moments import InputMoment


class Tagger(nn.Module):
    """Two named layers, called with a mask as a language model is."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(values)))


def tagger_batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "values": torch.randn(3, 7, 6, generator=generator),
            "attention_mask": (torch.rand(3, 7, generator=generator) < 0.7).long(),
        }
        for _ in range(4)
    ]


@pytest.mark.parametrize("max_bytes", [1 << 20, 300])
def test_streamed_moments_are_those_of_all_unpadded_inputs(max_bytes: int) -> None:
    model, batches = Tagger(), tagger_batches()
    model.train()
    moments = input_covariances(model, batches, ["first", "second"], max_bytes=max_bytes)
    assert model.training
    kept = torch.cat([batch["values"][batch["attention_mask"].bool()] for batch in batches]).double()
    hidden = torch.tanh(kept @ model.first.weight.double().T + model.first.bias.double()).detach()
    for name, inputs in (("first", kept), ("second", hidden)):
        assert moments[name].inputs == len(inputs)
        assert torch.allclose(moments[name].second_moment, inputs.T @ inputs / len(inputs), atol=1e-6)
        assert torch.allclose(moments[name].covariance, torch.cov(inputs.T, correction=0), atol=1e-6)


def test_modules_are_found_under_any_prefix_and_absent_ones_are_refused() -> None:
    model, batches = Tagger(), tagger_batches()
    assert input_covariances(model, batches, ["encoder.first"])["encoder.first"].inputs
    with pytest.raises(AdapterError, match="no module third"):
        input_covariances(model, batches, ["third"])
    with pytest.raises(ValueError, match="as a list"):
        input_covariances(model, iter(batches), ["first", "second"], max_bytes=300)


def problem(power: float, seed: int, d_in: int = 40, d_out: int = 24, rank: int = 4) -> tuple[Adapter, InputMoment]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d_in, d_in, generator=generator, dtype=torch.float64)).Q
    variances = torch.arange(1, d_in + 1, dtype=torch.float64) ** -power
    A = torch.randn(rank, d_in, generator=generator)
    B = torch.randn(d_out, rank, generator=generator)
    adapter = Adapter.from_factors({"layer.0.query": (A, B)}, scaling=2.0)
    return adapter, InputMoment((basis * variances) @ basis.T, torch.zeros(d_in).double(), 1000)


def isotropic(width: int) -> InputMoment:
    return InputMoment(torch.eye(width).double(), torch.zeros(width).double(), 900)


@given(power=st.floats(0.3, 1.5), seed=st.integers(0, 50), rank=st.integers(2, 12))
def test_the_prediction_is_the_mean_over_random_projections(power: float, seed: int, rank: int) -> None:
    adapter, moment = problem(power, seed)
    row = predict_asymmetry(adapter, {"layer.0.query": moment}, rank=rank).frame.iloc[0]
    delta = adapter["layer.0.query"].delta().double().numpy()
    root = np.linalg.cholesky(moment.second_moment.numpy())
    signal = (delta @ root) ** 2
    rng = np.random.default_rng(seed)
    kept = []
    for _ in range(60):
        # P projects onto the range of root^T Q^T; the gain is |delta root P|^2.
        projector = np.linalg.qr(root.T @ rng.standard_normal((40, rank)))[0]
        kept.append(((delta @ root @ projector) ** 2).sum() / signal.sum())
    assert row["signal"] == pytest.approx(signal.sum(), rel=1e-6)
    standard_error = np.std(kept, ddof=1) / np.sqrt(60)
    assert abs(row["random_A"] - np.mean(kept)) < 5 * standard_error + 0.03 * np.mean(kept)
    assert row["random_B"] == pytest.approx(rank / 24)
    assert row["asymmetry_index"] == pytest.approx(row["random_A"] * 24 / rank)
    assert row["best_A"] == pytest.approx(1.0 if rank >= 4 else row["best_A"])
    assert row["random_A"] <= row["best_A"] + 1e-9
    assert row["principal_A"] <= row["best_A"] + 1e-9


def test_isotropic_square_inputs_have_no_asymmetry() -> None:
    adapter, _ = problem(1.0, 0, d_in=24)
    row = predict_asymmetry(adapter, {"layer.0.query": isotropic(24)}).frame.iloc[0]
    assert row["asymmetry_index"] == pytest.approx(1.0)


def test_best_a_is_the_reduced_rank_optimum() -> None:
    adapter, moment = problem(0.7, 3)
    row = predict_asymmetry(adapter, {"layer.0.query": moment}, rank=2).frame.iloc[0]
    root = np.linalg.cholesky(moment.second_moment.numpy())
    values = np.linalg.svd(adapter["layer.0.query"].delta().double().numpy() @ root, compute_uv=False) ** 2
    assert row["best_A"] == pytest.approx(values[:2].sum() / values.sum(), rel=1e-6)


def test_a_large_mean_makes_a_look_worth_little_unless_it_is_taken_out() -> None:
    adapter, moment = problem(0.0, 0, d_in=24)
    mean = 30 * adapter["layer.0.query"].A[0].double()
    shifted = {"layer.0.query": InputMoment(moment.second_moment + torch.outer(mean, mean), mean, 1000)}
    row = predict_asymmetry(adapter, shifted).frame.iloc[0]
    assert row["asymmetry_index"] > 4
    centred = predict_asymmetry(adapter, shifted, centred=True)
    assert centred.frame["asymmetry_index"].iloc[0] == pytest.approx(1.0, rel=1e-6)
    assert centred.settings["centred"]


def test_the_whole_is_the_signal_weighted_mean_of_its_modules() -> None:
    adapter, moment = problem(1.0, 0)
    small, large = (adapter["layer.0.query"].A, adapter["layer.0.query"].B), adapter["layer.0.query"].B * 3
    both = Adapter.from_factors({"layer.0.query": small, "layer.1.query": (small[0].flip(1), large)})
    prediction = predict_asymmetry(both, dict.fromkeys(both, moment))
    overall, frame = prediction.overall(), prediction.frame
    kept = (frame["random_A"] * frame["signal"]).sum() / frame["signal"].sum()
    assert overall["random_A"] == pytest.approx(kept)
    assert overall["asymmetry_index"] == pytest.approx(kept / overall["random_B"])


class LosingTagger(Tagger):
    """A tagger with a loss, as transformers' models give one."""

    def forward(self, values: torch.Tensor, attention_mask: torch.Tensor) -> Any:  # type: ignore[override]
        errors = super().forward(values, attention_mask).square().sum(-1) * attention_mask
        return SimpleNamespace(loss=errors.sum() / attention_mask.sum())


def test_streamed_sensitivities_are_the_gradients_of_unpadded_outputs() -> None:
    model, batches = LosingTagger(), tagger_batches()
    found = output_sensitivities(model, batches, ["first", "second"])
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    weight = model.second.weight.double()
    for name in ("first", "second"):
        rows = []
        for batch in batches:
            # The loss is |y|^2 at each position, so the gradient in y is 2 y, and in the layer below W^T 2 y.
            kept = batch["values"][batch["attention_mask"].bool()].double()
            hidden = kept @ model.first.weight.double().T + model.first.bias.double()
            output = torch.tanh(hidden) @ weight.T + model.second.bias.double()
            back = 2 * output if name == "second" else (2 * output @ weight) * (1 - torch.tanh(hidden) ** 2)
            rows.append(back)
        gradients = torch.cat(rows)
        assert torch.allclose(found[name], gradients.T @ gradients / len(gradients), rtol=1e-4)
    with pytest.raises(AdapterError, match="gave no loss"):
        output_sensitivities(Tagger(), batches, ["first"])
    with pytest.raises(AdapterError, match="no module third"):
        output_sensitivities(model, batches, ["third"])


@given(power=st.floats(0.3, 1.2), seed=st.integers(0, 20))
def test_a_frozen_b_is_judged_by_what_the_loss_feels(power: float, seed: int) -> None:
    adapter, moment = problem(power, seed)
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((24, 24)) * np.arange(1, 25) ** -1.0
    felt = {"layer.0.query": torch.from_numpy(half @ half.T)}
    row = predict_asymmetry(adapter, {"layer.0.query": moment}, felt).frame.iloc[0]
    signal = np.linalg.cholesky(felt["layer.0.query"].numpy()).T @ adapter["layer.0.query"].delta().double().numpy()
    signal = signal @ np.linalg.cholesky(moment.second_moment.numpy())
    root = np.linalg.cholesky(felt["layer.0.query"].numpy()).T
    kept = []
    for _ in range(60):
        # The best A for a frozen U minimizes |G^(1/2) (delta - U A) S^(1/2)|: it keeps the range of G^(1/2) U.
        basis = np.linalg.qr(root @ rng.standard_normal((24, 4)))[0]
        kept.append(((basis.T @ signal) ** 2).sum() / (signal**2).sum())
    assert row["signal"] == pytest.approx((signal**2).sum(), rel=1e-6)
    assert abs(row["random_B"] - np.mean(kept)) < 5 * np.std(kept, ddof=1) / np.sqrt(60) + 0.03 * np.mean(kept)


@given(seed=st.integers(0, 20))
def test_transposing_the_problem_turns_the_index_over(seed: int) -> None:
    adapter, moment = problem(0.8, seed)
    _, output = problem(0.4, seed + 1, d_in=24)
    update = adapter["layer.0.query"]
    turned = Adapter.from_factors({"layer.0.query": (update.B.T, update.A.T)}, scaling=2.0)
    row = predict_asymmetry(adapter, {"layer.0.query": moment}, {"layer.0.query": output.second_moment}).frame.iloc[0]
    back = predict_asymmetry(turned, {"layer.0.query": output}, {"layer.0.query": moment.second_moment}).frame.iloc[0]
    assert row["random_A"] == pytest.approx(back["random_B"], rel=1e-6)
    assert row["asymmetry_index"] == pytest.approx(1 / back["asymmetry_index"], rel=1e-6)


def test_an_update_of_zero_has_no_fractions() -> None:
    adapter = Adapter.from_factors({"layer.0.query": (torch.ones(2, 5), torch.zeros(4, 2))})
    row = predict_asymmetry(adapter, {"layer.0.query": isotropic(5)}).frame.iloc[0]
    assert row["signal"] == 0
    assert np.isnan(row["random_A"])


def test_missing_and_misfitting_covariances_are_refused() -> None:
    adapter, _ = problem(1.0, 0)
    with pytest.raises(AdapterError, match=r"no input covariance for 1 modules, layer\.0\.query"):
        predict_asymmetry(adapter, {})
    with pytest.raises(AdapterError, match="width 3, A has 40"):
        predict_asymmetry(adapter, {"layer.0.query": isotropic(3)})


def test_advice_adds_up() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = {
        f"layer.{i}.query": (torch.randn(2, 10, generator=generator), 10.0**i * torch.randn(6, 2, generator=generator))
        for i in range(3)
    }
    adapter = Adapter.from_factors(factors)
    prediction = predict_asymmetry(adapter, dict.fromkeys(factors, isotropic(10)))
    result = advise(prediction, tolerance=0.05)
    # The update of layer 2 outweighs the others by a factor of 100: only theirs may be lost.
    assert list(result.frame["module"]) == list(factors)
    assert list(result.frame["freeze_A"]) == [True, True, False]
    assert list(result.frame["saved_parameters"]) == [20, 40, 60]
    assert result.frame["bound_factor"].iloc[-1] == pytest.approx(np.sqrt(6 / 16))
    assert result.frame["predicted_cost"].iloc[-1] == pytest.approx(0.8)  # 1 - r/d for isotropic inputs
    assert int(result.summary()["freeze_A"].iloc[0]) == 2
    assert not advise(prediction, tolerance=0.0).frame["freeze_A"].any()


def test_real_activations_keep_what_is_predicted(shared_models: Path, shared_datasets: Path) -> None:
    """Goal of the prediction: median relative error over modules at most 5% against regression on the activations."""
    transformers = pytest.importorskip("transformers")
    folder = shared_models / "stories260K"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    text = next((shared_datasets / "tinystories_excerpt").glob("*.txt")).read_text()
    ids = tokenizer(text)["input_ids"][:4096]
    batches = [{"input_ids": torch.tensor([ids[i : i + 256]])} for i in range(0, len(ids) - 255, 256)]
    names = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(5) for p in "qv"]
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: inputs[name].append(x[0][0]))
        for name in names
    ]
    moments = input_covariances(model, batches, names)
    for handle in handles:
        handle.remove()
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name in names:
        # An update as training makes it: B from random A by one step on a random output signal of the inputs.
        weight = model.get_submodule(name).weight
        A = torch.randn(8, weight.shape[1], generator=generator) / 8
        factors[name] = (A, torch.randn(weight.shape[0], 8, generator=generator))
    adapter = Adapter.from_factors(factors)
    frame = predict_asymmetry(adapter, moments).frame.set_index("module")
    errors = []
    for name in names:
        kept = measured_capture(adapter[name], torch.cat(inputs[name]), 8, draws=60, seed=1)
        errors.append(abs(frame.loc[name, "random_A"] / kept.mean() - 1))
    assert np.median(errors) < 0.05, json.dumps(dict(zip(names, errors, strict=True)))


def test_an_embedding_is_fed_token_frequencies() -> None:
    """Token ids are no vectors: the second moment of one-hot inputs is the diagonal of the frequencies."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 8))
    ids = [torch.randint(0, 50, (3, length), generator=generator) for length in (7, 9)]
    found = input_covariances(model, [{"input": each} for each in ids], ["0", "1"])
    tokens = torch.cat([each.reshape(-1) for each in ids])
    onehot = torch.nn.functional.one_hot(tokens, 50).double()
    assert found["0"].inputs == len(tokens) == 48
    assert torch.allclose(found["0"].second_moment, onehot.T @ onehot / 48)
    assert torch.allclose(found["0"].covariance, torch.cov(onehot.T, correction=0))
    factors = (torch.randn(2, 50, generator=generator), torch.randn(16, 2, generator=generator))
    adapter = Adapter.from_factors({"0": factors})
    for centred in (False, True):
        moment = found["0"].covariance if centred else found["0"].second_moment
        dense = InputMoment(moment, torch.zeros(50).double(), 48)
        expected = predict_asymmetry(adapter, {"0": dense}).frame.iloc[0]
        row = predict_asymmetry(adapter, found, centred=centred).frame.iloc[0]
        for column in ("signal", "random_A", "best_A"):  # principal directions of equal frequency are not unique
            assert row[column] == pytest.approx(expected[column], rel=1e-6), (column, centred)


def test_padding_is_left_out_of_token_counts() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 4)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.embed(input_ids)

    batch = {"input_ids": torch.tensor([[5, 6, 0], [5, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    found = input_covariances(Named(), [batch], ["embed"])["embed"]
    assert found.inputs == 3
    assert found.mean[[0, 5, 6]].tolist() == pytest.approx([0, 2 / 3, 1 / 3])


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, (3, 2), stride=2, padding=1), nn.Conv1d(3, 4, 3, dilation=2)])
def test_a_convolution_is_fed_patches(layer: nn.Module) -> None:
    """The update B·A of a convolution on its patches is the convolution with the kernel B·A."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 9, 8) if isinstance(layer, nn.Conv2d) else torch.randn(2, 3, 9)
    found = input_covariances(nn.Sequential(layer), [{"input": images}], ["0"])["0"]
    with torch.no_grad():
        layer.bias.zero_()  # type: ignore[union-attr, operator]
        outputs = layer(images).movedim(1, -1).flatten(0, -2).double()
    kernel = layer.weight.detach().flatten(1).double()  # type: ignore[union-attr, operator]
    assert found.inputs == len(outputs)
    assert torch.allclose(kernel @ found.second_moment @ kernel.T, outputs.T @ outputs / len(outputs), atol=1e-5)


def test_attention_over_one_input_is_fed_its_queries() -> None:
    torch.manual_seed(0)

    class Self(nn.Module):
        def __init__(self, cross: bool) -> None:
            super().__init__()
            self.attention, self.cross = nn.MultiheadAttention(6, 2), cross

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.attention(values, values + 1 if self.cross else values, values, need_weights=False)[0]

    values = torch.randn(5, 2, 6)
    found = input_covariances(Self(False), [{"values": values}], ["attention"])["attention"]
    rows = values.reshape(-1, 6).double()
    assert torch.allclose(found.second_moment, rows.T @ rows / len(rows), atol=1e-6)
    with pytest.raises(AdapterError, match="module attention attends to other inputs"):
        input_covariances(Self(True), [{"values": values}], ["attention"])


def test_layers_whose_update_is_not_one_matrix_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(AdapterError, match="module 0 is a convolution in 2 groups"):
        input_covariances(model, [{"input": torch.randn(1, 4, 5, 5)}], ["0"])


def test_results_come_back_from_files(tmp_path: Path) -> None:
    model, batches = LosingTagger(), tagger_batches()
    covariances = input_covariances(model, batches, ["first", "second"])
    felt = output_sensitivities(model, batches, ["first", "second"])
    factors = {"first": (torch.randn(2, 6), torch.randn(5, 2)), "second": (torch.randn(2, 5), torch.randn(4, 2))}
    prediction = predict_asymmetry(Adapter.from_factors(factors), covariances, felt)
    for result in (covariances, felt, prediction, advise(prediction)):
        result.to_json(tmp_path / "result.json")
        back = type(result).from_json(tmp_path / "result.json")
        pd.testing.assert_frame_equal(back.frame, result.frame)
        assert back.settings == dict(result.settings)
        assert result == result
        assert result != back, "results are compared by identity"
        assert len({result, back}) == 2
    back = type(covariances).from_json(_saved(covariances, tmp_path))
    assert torch.equal(back["second"].second_moment, covariances["second"].second_moment)
    assert covariances.frame["participation"].between(1, 6).all()


def _saved(result: Any, folder: Path) -> Path:
    result.to_json(folder / "saved.json")
    return folder / "saved.json"


def test_prediction_needs_no_transformers() -> None:
    code = (
        "import sys, asym_analysis.prediction as p; [getattr(p, name) for name in p.__all__]; "
        "print([m for m in ('transformers', 'peft', 'datasets', 'accelerate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_advised_from_fewer_inputs_than_they_are_wide() -> None:
    factors = {f"layer.{i}.query": (torch.ones(1, 10), torch.ones(6, 1)) for i in range(2)}
    few = InputMoment(torch.eye(10).double(), torch.zeros(10).double(), 9)
    prediction = predict_asymmetry(
        Adapter.from_factors(factors), {"layer.0.query": few, "layer.1.query": isotropic(10)}
    )
    frame = advise(prediction, tolerance=1.0).frame.set_index("module")
    assert frame["enough_inputs"].to_dict() == {"layer.0.query": False, "layer.1.query": True}
    assert frame["freeze_A"].to_dict() == {"layer.0.query": False, "layer.1.query": True}
    assert frame.index.tolist() == ["layer.1.query", "layer.0.query"], "what cannot be told comes last"


def test_an_adapter_is_given_by_its_path() -> None:
    from asym_analysis.samples import _FOLDER

    covariances = {
        module: InputMoment(torch.eye(384).double(), torch.zeros(384).double(), 1000)
        for module in ("bert.encoder.layer.0.attention.self.query",)
    }
    with pytest.raises(AdapterError, match="no input covariance for 11 modules"):
        predict_asymmetry(_FOLDER / "mrpc-0", covariances)
